"""Read Xenium output bundles of 10x.

A bundle is a folder; the files of several may share one, each with a prefix of its own (as GEO
has them). Known and read, the first of each line that is there:

- `cell_feature_matrix.h5`, `cell_feature_matrix.zarr.zip` (or the folder out of it),
  `cell_feature_matrix/` with matrix.mtx.gz, features.tsv.gz and barcodes.tsv.gz: counts (required);
- `cells.parquet`, `cells.csv.gz`, `cells.csv`: cell_id, x_centroid and y_centroid in µm, ...
  (required);
- `experiment.xenium`: JSON, of which the name of the region is taken where that of the folder
  says nothing.

The cells are joined by id, never by position; ids are bytes, numbers (1 to N in the first
bundles) or text ("aaaaficg-1"). Features that are no genes (control probes; negative control,
blank, unassigned and deprecated code words; genomic controls) stay, told apart by
`feature_types`. Boundaries, transcripts and images are not read; the tables of `analysis/`, whose
principal components look like cells, belong to the bundle.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.coords import coords_um
from cellplm.ingest.readers import tenx_mtx, xenium_h5, xenium_zarr
from cellplm.ingest.readers.cell_ids import id_texts, refuse_repeated
from cellplm.ingest.readers.xenium_cells import read_cells
from cellplm.ingest.source import Block, Found, Modality, ReadOptions, Source

FORMAT = "xenium"

NAME = re.compile(
    r"^(?P<prefix>(?:.*[-_. ])?)"
    r"(?P<role>cell_feature_matrix\.(?:h5|zarr|zarr\.zip)|cells\.(?:parquet|csv|csv\.gz)|experiment\.xenium)$",
    re.I,
)
MATRICES = ("cell_feature_matrix.h5", "cell_feature_matrix.zarr.zip", "cell_feature_matrix.zarr")
CELLS = ("cells.parquet", "cells.csv.gz", "cells.csv")
EXPERIMENT = "experiment.xenium"
MTX_FOLDER = "cell_feature_matrix"
MTX = ("matrix.mtx.gz", "matrix.mtx")
MTX_FILES = re.compile(r"^(matrix\.mtx|features\.tsv|barcodes\.tsv)(\.gz)?$")
ANALYSIS = "analysis"
NOT_READ = re.compile(
    r"(?:cell_boundaries|nucleus_boundaries|transcripts)\..*|(?:cells|analysis)\.zarr\.zip"
    r"|gene_panel\.json|protein_panel\.json|metrics_summary\.csv|analysis_summary\.html|.*\.ome\.tif"
)
POSITIONS = ("x_centroid", "y_centroid")
MAX_EXPERIMENT_BYTES = 2**20
# Folders whose names say nothing of what is in them.
PLAIN_FOLDERS = re.compile(r"(outs?|outputs?|output_bundle|xenium|data|raw|bundle|)", re.I)


def find(files: Sequence[Path]) -> list[Found]:
    """One data set for every bundle, with all of its files that are or look like matrices."""
    by_prefix: dict[str, dict[str, Path]] = {}
    for path in files:
        if match := NAME.match(path.name):
            by_prefix.setdefault(match["prefix"], {})[match["role"].lower()] = path
    found = []
    for prefix, roles in by_prefix.items():
        folder = next(iter(roles.values())).parent
        mtx = [] if prefix else _mtx_files(folder / MTX_FOLDER)
        matrices = [[roles[name]] for name in MATRICES if name in roles] + ([mtx] if mtx else [])
        if not matrices:
            continue
        tables = [roles[name] for name in CELLS if name in roles]
        read = [*matrices[0], *tables[:1], *([roles[EXPERIMENT]] if EXPERIMENT in roles else [])]
        twins = [path for matrix in matrices[1:] for path in matrix]
        found.append(
            Found(
                format=FORMAT,
                path=read[0],
                files=tuple(read),
                # Tables of transcripts are taken by nobody for a data set, and are not here.
                beside=(*twins, *tables[1:], *([] if prefix else _analysis(folder))),
                name=prefix.rstrip("-_. ") or _name(folder, roles.get(EXPERIMENT)),
            )
        )
    return found


def refusal(path: Path) -> str | None:
    """Why a file named as of a Xenium bundle is no data set."""
    name = path.name.lower()
    if name == EXPERIMENT:
        return (
            f"{path}: a Xenium bundle without its counts; cell_feature_matrix.h5, .zarr.zip or "
            f"the folder cell_feature_matrix was expected beside it"
        )
    if NOT_READ.fullmatch(name) and (path.parent / EXPERIMENT).is_file():
        return f"{path}: of a Xenium bundle, and not read; its counts and cells are in other files"
    return None


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read the names of cells and features and the table of cells, and join them.

    With the modality "scrna", the table of cells may be missing.

    Raises:
        MissingFileError: there is no table of cells beside the matrix.
        InputError: a file is damaged, a cell stands twice or is not in the table, or the table
            has no positions.
    """
    matrix = _matrix(found.path)
    refuse_repeated(matrix.cells, found.path)
    modality: Modality = options.modality or "srt"
    roles = {match["role"].lower(): p for p in found.files if (match := NAME.match(p.name))}
    table = next((roles[name] for name in CELLS if name in roles), None)
    notes = []
    if table is not None:
        cells, obs, n_more = read_cells(table, matrix.cells, numbers=matrix.numbers, of=found.path)
        if n_more:
            notes.append(f"{table.name}: {n_more} cells that have no counts were left out")
    elif modality == "scrna":
        obs = pd.DataFrame(index=matrix.cells)
    else:
        raise MissingFileError(
            f"{found.path}: no {', '.join(CELLS[:2])} or {CELLS[2]} beside it; a Xenium bundle has "
            f"one, with the positions of the cells. To read the counts alone, pass "
            f"--modality scrna"
        )
    if modality == "srt" and options.coords is None and not set(POSITIONS) <= set(obs.columns):
        raise InputError(
            f"{table}: no columns {' and '.join(POSITIONS)}; it has "
            f"{', '.join(map(str, obs.columns))}"
        )
    return Source(
        name=found.name,
        format=FORMAT,
        files=found.files,
        obs=obs,
        var=matrix.var,
        counts_from=matrix.place,
        looked_in=(f"{matrix.place}: the counts of the bundle",),
        modality=modality,
        platform="Xenium",
        coords_um=coords_um(obs, options, path=table) if modality == "srt" else None,
        blocks=matrix.blocks,
        warnings=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Matrix:
    """The counts of a bundle, whichever file they are in.

    Attributes:
        cells: (n_obs,) ids.
        numbers: the same as bare numbers, where the file has numbers.
        var: index the names; columns feature_id and feature_types.
        place: what it is called.
        blocks: see `Source`.
    """

    cells: pd.Index[str]
    numbers: pd.Index[str] | None = None
    var: pd.DataFrame
    place: str
    blocks: Callable[[], Iterator[Block]]


def _mtx_files(folder: Path) -> list[Path]:
    """The files of a matrix in a folder, the matrix first; nothing if it is not there."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if MTX_FILES.match(path.name))
    matrix = next((path for path in files if path.name in MTX), None)
    return [] if matrix is None else [matrix, *(path for path in files if path != matrix)]


def _analysis(folder: Path) -> list[Path]:
    return sorted(
        Path(root) / name
        for root, _, names in os.walk(folder / ANALYSIS)
        for name in names
        if name.lower().endswith((".csv", ".csv.gz"))
    )


def _name(folder: Path, experiment: Path | None) -> str:
    """The folder's name, or the region's where that one says nothing."""
    name = folder.absolute().name
    if experiment is None or not PLAIN_FOLDERS.fullmatch(name):
        return name
    try:
        with experiment.open("rb") as file:
            about = json.loads(file.read(MAX_EXPERIMENT_BYTES))
    except (OSError, ValueError, RecursionError):
        return name  # nothing else is taken from it
    words = (
        [about.get(key) for key in ("run_name", "region_name")] if isinstance(about, dict) else []
    )
    said = " ".join(word.strip() for word in words if isinstance(word, str))
    return re.sub(r"[^\w.-]+", "_", said).strip("_") or name


def _matrix(path: Path) -> _Matrix:
    if path.name.lower().endswith((".zarr", ".zarr.zip")):
        zarr = xenium_zarr.open_matrix(path)
        return _Matrix(
            cells=zarr.cells,
            numbers=zarr.numbers,
            var=zarr.var,
            place="cell_feature_matrix.zarr",
            blocks=lambda: xenium_zarr.matrix_blocks(zarr),
        )
    if path.name in MTX:
        names = (_beside(path, "barcodes"), _beside(path, "features"))
        stored = tenx_mtx.open_triple(
            tenx_mtx.Triple(matrix=path, cells=names[0], features=names[1])
        )
    else:
        stored = xenium_h5.open_matrix(path)
    return _Matrix(
        cells=id_texts(stored.barcodes), var=stored.var, place=stored.place, blocks=stored.blocks
    )


def _beside(matrix: Path, name: str) -> Path:
    """The file of names of a matrix in a folder."""
    path = next((p for p in _mtx_files(matrix.parent) if p.name.startswith(f"{name}.tsv")), None)
    if path is None:
        raise MissingFileError(
            f"{matrix}: no {name}.tsv.gz beside it; the folder of a matrix has one"
        )
    return path
