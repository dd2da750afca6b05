"""Read count matrices from text tables: csv, tsv or txt, gzipped or not.

A table has names in its first column and its first line and numbers everywhere else; genes are
along one of its axes, and which one is found by looking the names up (ingest/readers/
table_layout.py). R's headers may be one field short; comments (`#`) may stand before the header, as
in featureCounts' tables. Columns about the cells that stand beside the genes go to obs, those
about the genes (`gene_name`, `Chr`, `Length`) to var.

Files beside it belong to it by their names (table_names.py): labels and metadata, positions,
tables about genes. They are joined by name, or by position if they have no names
(table_beside.py). Where positions are found: see table_positions.py.

Known to be read: tables of GEO series, Giotto (`expression_matrix.txt`, `spatial_locs.txt`,
`cell_metadata.txt`), RCTD / spacexr (`counts.csv`, `coords.csv`, `nUMI.csv`, `cell_types.csv`,
`MappedDGEForR.csv`, `BeadLocationsForR.csv`, `dge.csv`, `meta_data.csv`, `cell_type_dict.csv`),
Spatial Transcriptomics (spots named "10x13"), PASTE (`slice1.csv`, `slice1_coor.csv`), seqFISH
(`*_CellxGene.csv`, `*_CellCoordinates.csv`), STARmap PLUS of the single cell portal
(`*raw_expression_pd.csv`, `*_spatial.csv` with a second line of types), inferCNV, featureCounts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from cellplm.errors import InputError
from cellplm.ingest.readers import cell_marks
from cellplm.ingest.readers.delimited import Delimited, typed
from cellplm.ingest.readers.table_beside import join, spell_out
from cellplm.ingest.readers.table_layout import Layout, lay_out
from cellplm.ingest.readers.table_names import SUFFIX, Named, named
from cellplm.ingest.readers.table_positions import array_places, positions
from cellplm.ingest.source import Axis, Block, Found, Modality, ReadOptions, Source
from cellplm.ingest.tissue import SAMPLE_COLUMNS

FORMAT = "table"

# What other programs write, and cannot be read without them.
_FOREIGN = {
    (".xlsx", ".xls", ".xlsm", ".ods"): "an Excel file; export it as csv",
    (".rds", ".rdata", ".rda", ".robj", ".h5seurat", ".qs"): (
        "an R file; export it from R as csv, mtx or h5ad"
    ),
    (".mat",): "a MATLAB file; export it as csv, mtx or h5ad",
    (".pkl", ".pickle", ".npy", ".npz"): "a Python file; export it as csv, mtx or h5ad",
}  # fmt: skip

# Cells that several samples were put together of: sample, barcode, and the number that
# cellranger aggr gives to each library.
_BARCODE = re.compile(r"(?:(?P<sample>.+)[-_.:#])?[ACGTN]{12,}(?:-(?P<library>\d+))?")
_CELLS_A_SAMPLE = 10


def find(files: Sequence[Path]) -> list[Found]:
    """Claim every numeric table with genes on an axis, and what lies beside it."""
    texts = {path: named(path) for path in files if SUFFIX.search(path.name)}
    matrices = [path for path, about in texts.items() if _why_no_matrix(path, about) is None]
    rest = {path: about for path, about in texts.items() if path not in matrices}
    found = []
    for path in matrices:
        about = texts[path]
        beside = [p for p, other in rest.items() if _belongs(other, about)]
        own = about.name if any(rest[p].stem == about.stem for p in beside) else _stem(path)
        name = own if about.stem else path.absolute().parent.name
        found.append(Found(format=FORMAT, path=path, files=(path, *sorted(beside)), name=name))
    return found


def refusal(path: Path) -> str | None:
    """Why a file is no count matrix, in one line; None for matrices and for other formats."""
    for suffixes, what in _FOREIGN.items():
        if path.name.lower().removesuffix(".gz").endswith(suffixes):
            return f"{path}: {what}"
    if not SUFFIX.search(path.name):
        return None
    return _why_no_matrix(path, named(path))


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read the names of both axes and the tables beside the matrix.

    Raises:
        InputError: the file is no count matrix, cut, or has a row of another length.
    """
    layout = lay_out(Delimited.sniff(found.path))
    obs, var = _axes(layout)
    notes: list[str] = []
    if layout.label_at is None:
        notes.append("cells have no names: they are numbered from 0")
    own = [str(column) for column in obs.columns]
    places = array_places(obs.index)
    if places is not None:
        obs = obs.assign(**{str(column): places[column] for column in places})
    obs, var, beside, said = _with_beside(obs, var, found)
    notes += said
    if (sample := _samples(obs)) is not None:
        obs = obs.assign(sample=sample)
        notes.append("samples are told by what stands beside the barcodes in the names of cells")
    where = positions(
        obs,
        plain=[*own, *beside],
        only=beside,
        platform=cell_marks.platform(obs),
        path=found.path,
        options=options,
    )
    modality: Modality = options.modality or ("srt" if where.coords_um is not None else "scrna")
    return Source(
        name=found.name,
        format=FORMAT,
        files=found.files,
        obs=obs,
        var=var,
        counts_from=f"table ({layout.orientation})",
        looked_in=(f"table ({layout.orientation}): the only matrix in the file",),
        modality=modality,
        platform=where.platform,
        coords_um=where.coords_um if modality == "srt" else None,
        spots=where.spots,
        unfit=cell_marks.unfit(obs),
        blocks=lambda: _blocks(layout, len(obs) if _by_cell(layout) else len(var)),
        warnings=(*notes, *(where.notes if modality == "srt" or where.spots else ())),
    )


def _why_no_matrix(path: Path, about: Named) -> str | None:
    try:
        layout = lay_out(Delimited.sniff(path))
    except InputError as error:
        return str(error)
    # Wells of a plate (A1, B2) are aliases of genes, so rows alone do not tell.
    if about.role not in ("", "matrix") and layout.orientation == "genes x cells":
        return (
            f"{path}: named as a table about cells or genes ({about.word}); name the folder or the "
            f"count matrix instead"
        )
    return None


def _stem(path: Path) -> str:
    return SUFFIX.sub("", path.name)


def _belongs(other: Named, matrix: Named) -> bool:
    """Whether a table belongs to a matrix: one of no name of its own belongs to all of them."""
    if other.role in ("", "matrix"):
        return False
    return other.stem in (matrix.stem, ())


def _by_cell(layout: Layout) -> bool:
    return layout.orientation == "cells x genes"


def _axes(layout: Layout) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both axes, as far as the matrix tells."""
    table = layout.table
    at = [*layout.aside, 0 if layout.label_at is None else layout.label_at]
    *aside, labels = table.read_columns(at)
    if layout.label_at is None:
        labels = [str(i) for i in range(len(labels))]
    about = {}
    for i, texts in zip(layout.aside, aside, strict=True):
        name = table.columns[i] or f"column_{i + 1}"
        while name in about:
            name += "_"
        about[name] = typed(texts).to_numpy()
    down = pd.DataFrame(about, index=pd.Index([label.strip() for label in labels], dtype=object))
    across = pd.DataFrame(index=pd.Index([table.columns[i] for i in layout.at], dtype=object))
    return (down, across) if _by_cell(layout) else (across, down)


def _with_beside(
    obs: pd.DataFrame, var: pd.DataFrame, found: Found
) -> tuple[pd.DataFrame, pd.DataFrame, list[str], list[str]]:
    """Both axes with the tables beside the matrix; columns of positions; and what was done."""
    own = named(found.path).stem
    order = ("positions", "cells", "meanings", "genes")
    positions_of: list[str] = []
    notes = []
    for path in sorted(found.files[1:], key=lambda p: (order.index(named(p).role), p.name)):
        about = named(path)
        mine = about.stem == own
        try:
            if about.role == "meanings":
                joined = spell_out(obs, path)
            elif about.role == "genes":
                joined = join(var, path, what="genes", by_position=mine)
            else:
                joined = join(obs, path, what="cells", by_position=mine)
        except InputError as error:
            if mine:
                raise
            # It need not belong to this matrix.
            notes.append(f"{path.name} was left out: {error}")
            continue
        if about.role == "genes":
            var = joined.frame
        else:
            obs = joined.frame
        positions_of += joined.columns if about.role == "positions" else ()
        notes.append(joined.note)
    return obs, var, positions_of, notes


def _samples(obs: pd.DataFrame) -> pd.Series[str] | None:
    """The sample of each cell where its name is a barcode and tells it, and no column does."""
    lower = {str(column).lower() for column in obs.columns}
    if lower & set(SAMPLE_COLUMNS) or len(obs) < 2 * _CELLS_A_SAMPLE:
        return None
    if _BARCODE.fullmatch(str(obs.index[0])) is None:
        return None
    parts = pd.Series(obs.index, index=obs.index).str.extract(f"^{_BARCODE.pattern}$")
    for part in ("sample", "library"):
        n_samples = parts[part].nunique()
        if parts[part].notna().all() and 2 <= n_samples <= len(obs) / _CELLS_A_SAMPLE:
            sample: pd.Series[str] = parts[part]
            return sample if part == "sample" else "library_" + sample
    return None


def _blocks(layout: Layout, n_rows: int) -> Iterator[Block]:
    axis: Axis = "obs" if _by_cell(layout) else "var"
    n_read = 0
    for block in layout.table.blocks(layout.at, axis=axis):
        n_read += block.n
        if n_read > n_rows:
            break
        yield block
    if n_read != n_rows:
        raise InputError(f"{layout.table.path}: changed while it was read; start again")
