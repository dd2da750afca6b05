"""Read 10x MatrixMarket folders: a matrix, the names of its cells and those of its features.

Three files, each gzipped or not (told by content, whatever the name says):

- `matrix.mtx`: see mtx.py; genes x cells, or cells x genes where only that fits the names;
- `barcodes.tsv`: a name a cell in the first column;
- `features.tsv` (Cell Ranger 3 and later, STARsolo): id, name, type, and of multiome the place in
  the genome; or `genes.tsv` (1 and 2): id and name, or one of them.

Known are the folders of Cell Ranger (`filtered_gene_bc_matrices/hg19/`, a data set for each
genome; `filtered_feature_bc_matrix/`), Space Ranger (positions: visium.py) and STARsolo
(`Solo.out/Gene/filtered/`; of several matrices `matrix.mtx`, as the others are estimates), and
triples of one folder told apart by a prefix before ".", "-" or "_", as in GEO and from kallisto
bustools: `A_matrix.mtx.gz`, `A.mtx` or `A.counts.mtx` with `A_barcodes.tsv.gz` and `A_genes.tsv`,
or one `genes.tsv` for all.

A raw matrix is left where the filtered one of its run is beside it. Where an HDF5 file holds
the same, the reader of that one (tenx_h5.py) has claimed both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from cellplm.errors import InputError
from cellplm.ingest.readers import mtx, tenx, visium
from cellplm.ingest.readers.mtx_entries import Header, read_header
from cellplm.ingest.readers.tenx_matrix import Matrix, features, source_of
from cellplm.ingest.readers.tenx_names import Names, read_names
from cellplm.ingest.source import Axis, Found, ReadOptions, Source

FORMAT = "10x_mtx"

MATRIX = re.compile(r"(?P<stem>.+)\.mtx(?:\.gz)?", re.I)
NAMES = re.compile(
    r"(?:(?P<prefix>.+)[-_. ])?(?P<role>barcodes?|features?|genes?)\.(?:tsv|txt|csv)(?:\.gz)?", re.I
)
# What may stand between a prefix and ".mtx".
WORDS = re.compile(
    r"(?:(?:matrix|counts?|umis?|sparse|expr(?:ession)?|dge|raw|filtered|genes?)(?:[-_. ]|$))*",
    re.I,
)
# Folders of STARsolo whose features are no genes, or whose matrix is split in three.
NO_COUNTS = ("SJ", "Velocyto")
# Its reader knows what belongs to it.
XENIUM = "cell_feature_matrix"
COLUMNS = ("feature_id", "name", "feature_types", "chromosome", "start", "end")


@dataclass(frozen=True, kw_only=True, slots=True)
class Triple:
    """The files of one matrix.

    Attributes:
        matrix: .mtx.
        cells: names of one of its axes.
        features: names of the other.
        prefix: of their names.
        also: the same files again, compressed.
    """

    matrix: Path
    cells: Path
    features: Path
    prefix: str = ""
    also: tuple[Path, ...] = ()


def find(files: Sequence[Path]) -> list[Found]:
    """One data set for each matrix with its names."""
    triples = _triples(files)
    return [_found(triple, files) for triple in triples if _left(triple, triples) is None]


def refusal(path: Path) -> str | None:
    """Why a matrix, or a file with the names of one, is no data set."""
    is_matrix = MATRIX.fullmatch(path.name)
    if not is_matrix and not re.fullmatch(r".*(barcodes|features|genes)\.tsv(\.gz)?", path.name):
        return None
    if (beside := tenx.filtered_beside(path.parent)) is not None:
        pooled = tenx.pooled(path.parent) is not None
        return (
            f"{path}: of a raw matrix, while {beside} has the cells of the run; to take the raw "
            f"one, {'move it elsewhere' if pooled else f'name its folder, {path.parent}'}"
        )
    triples = _triples(tenx.visible_files(path.parent))
    for triple in triples:
        if path in (triple.matrix, triple.cells, triple.features, *triple.also):
            return _left(triple, triples)
    if not is_matrix:
        return f"{path}: names of a 10x matrix, but there is no .mtx file that goes with them"
    try:
        read_header(path)
    except InputError as error:
        return str(error)
    return (
        f"{path}: a matrix without names; barcodes.tsv and features.tsv (or genes.tsv) were "
        f"expected beside it, with a prefix if it has one, and one matrix for them"
    )


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read the names, the header of the matrix, and positions where there are some.

    Raises:
        InputError: a file cannot be read, or the numbers of names are not those of the matrix.
    """
    matrix, cells, of_features = found.files[:3]
    opened_ = open_triple(Triple(matrix=matrix, cells=cells, features=of_features))
    return source_of(opened_, found, options)


def open_triple(triple: Triple) -> Matrix:
    """Read the names and the header of a matrix.

    Raises:
        InputError: as `open_source`.
    """
    header = read_header(triple.matrix)
    cells, of_features = read_names(triple.cells, header), read_names(triple.features, header)
    rows, cells, of_features = _layout(header, triple, cells, of_features)
    layout = "genes x cells" if rows == "var" else "cells x genes"
    return Matrix(
        barcodes=pd.Index(cells.first(), dtype=object),
        var=_var(of_features),
        place=f"{triple.matrix.name} ({layout})",
        blocks=lambda: mtx.blocks(header, rows=rows),
    )


def _triples(files: Sequence[Path]) -> list[Triple]:
    """Matrices with their names, in the order of the matrices."""
    matrices: dict[str, list[Path]] = {}
    cells: dict[str, list[Path]] = {}
    of_features: dict[str, list[Path]] = {}
    for path in sorted(files, key=lambda p: (p.suffix.lower() == ".gz", p.name)):
        if match := MATRIX.fullmatch(path.name):
            matrices.setdefault(match["stem"], []).append(path)
        elif match := NAMES.fullmatch(path.name):
            side = cells if match["role"].lower().startswith("barcode") else of_features
            side.setdefault(match["prefix"] or "", []).append(path)
    triples = []
    for prefix in sorted(cells, key=len, reverse=True):
        shared = of_features.get("") or (
            next(iter(of_features.values())) if len(of_features) == 1 else None
        )
        names = of_features.get(prefix) or shared
        stem = _stem(prefix, list(matrices), alone=len(cells) == 1)
        if stem is None or names is None:
            continue
        matrix, *more = matrices.pop(stem)
        own = names is of_features.get(prefix)
        triples.append(
            Triple(
                matrix=matrix,
                cells=cells[prefix][0],
                features=names[0],
                prefix=prefix,
                also=(*more, *cells[prefix][1:], *(names[1:] if own else ())),
            )
        )
    return sorted(triples, key=lambda triple: triple.matrix)


def _stem(prefix: str, stems: list[str], *, alone: bool) -> str | None:
    """The matrix that goes with a prefix; None where none does, or several do equally well."""
    if alone and len(stems) == 1:
        return stems[0]
    fits: dict[int, list[str]] = {}
    for stem in stems:
        rest = stem.removeprefix(prefix)
        if prefix and (rest == stem or (rest and rest[0] not in tenx.SEPARATORS)):
            continue
        rest = rest.lstrip(tenx.SEPARATORS)
        if WORDS.fullmatch(rest):
            fits.setdefault(0 if rest.lower() == "matrix" else 1 if not rest else 2, []).append(
                stem
            )
    best = fits[min(fits)] if fits else []
    return best[0] if len(best) == 1 else None


def _left(triple: Triple, triples: Sequence[Triple]) -> str | None:
    """Why a whole matrix is left where it is; None for one that is taken."""
    path = triple.matrix
    if path.parent.name == XENIUM:
        return f"{path}: the counts of a Xenium run, without the cells.parquet that goes with them"
    if path.parent.parent.name in NO_COUNTS:
        return f"{path}: of STARsolo's {path.parent.parent.name}, not the counts of genes"
    if (samples := tenx.pooled(path.parent)) is not None:
        return f"{path}: the raw matrix of all samples, while {samples} has their cells"
    filtered = re.sub(r"(^|[-_. ])raw([-_. ]|$)", r"\1filtered\2", triple.prefix)
    if filtered != triple.prefix and filtered in [other.prefix for other in triples]:
        return (
            f"{path}: a raw matrix beside the filtered one; to take it, move its files into a "
            f"folder of their own"
        )
    return None


def _found(triple: Triple, files: Sequence[Path]) -> Found:
    folder = triple.matrix.parent
    run = tenx.run_of(folder)
    genomes: list[Path] = []
    if run is not None and run.genome is not None:
        genomes = tenx.mtx_folders(replace(run, genome=None), run.kind)
    name = tenx.data_set_name(
        folder, triple.prefix, tags=(folder.name,) if len(genomes) > 1 else ()
    )
    spatial, pictures = visium.beside(folder, triple.prefix, files)
    if not spatial and run is not None:
        spatial, pictures = visium.beside(run.folder, "", ())
    return Found(
        format=FORMAT,
        path=triple.matrix,
        files=(triple.matrix, triple.cells, triple.features, *spatial),
        beside=(*triple.also, *tenx.raw_names(folder), *pictures),
        name=name,
    )


def _layout(
    header: Header, triple: Triple, cells: Names, of_features: Names
) -> tuple[Axis, Names, Names]:
    """What the rows of the matrix are, and the names of cells and features without header lines."""
    shape = header.n_rows, header.n_columns
    axes: tuple[Axis, Axis] = ("var", "obs")
    for features_ in of_features.readings():
        for cells_ in cells.readings():
            sizes = len(features_.lines), len(cells_.lines)
            for axis in axes:
                if shape == (sizes if axis == "var" else sizes[::-1]):
                    return axis, cells_, features_
    raise InputError(
        f"{triple.matrix}: {shape[0]} x {shape[1]}, but {triple.features.name} has "
        f"{len(of_features.lines)} features and {triple.cells.name} {len(cells.lines)} cells; the "
        f"three files have to be of one run, and whole"
    )


def _var(names: Names) -> pd.DataFrame:
    rows = [names.fields(line, len(COLUMNS)) for line in names.lines]
    width = max(map(len, rows), default=1)
    columns = {
        name: [row[i] if i < len(row) else "" for row in rows]
        for i, name in enumerate(COLUMNS[:width])
    }
    ids = columns.pop("feature_id")
    symbols = columns.pop("name", None)
    var = features(ids, None) if symbols is None else features(symbols, ids)
    return var.assign(**columns)
