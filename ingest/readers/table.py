"""Read count matrices from text tables: csv, tsv or txt, gzipped or not.

A table has names in its first column and its first line, numbers everywhere else, and genes
along one of its axes; which one is found by looking the names up. R's headers may be
one field short. Columns of positions (x_centroid, y_centroid) and other measurements that
stand between the names and the genes of a cells x genes table go to obs.

A second file in the folder belongs to the matrix when its name is the same but for the word
that says what it holds: `X.count.csv.gz` and `X.metadata.csv.gz`, `H1_Data.csv` and
`H1_Labels.csv`. It is joined by cell name, or by position where it only counts its rows
from 1 and has as many of them as there are cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cellplm.errors import InputError
from cellplm.ingest.blocks import compress
from cellplm.ingest.coords import COLUMNS as COORD_COLUMNS
from cellplm.ingest.coords import coords_um
from cellplm.ingest.harmonise import known_fraction
from cellplm.ingest.readers.delimited import Delimited, is_number, read_small
from cellplm.ingest.source import Axis, Block, Found, Modality, ReadOptions, Source

FORMAT = "table"

SUFFIX = re.compile(r"(\.(csv|tsv|tab|txt|matrix))+(\.gz)?$", re.I)
MATRIX_WORDS = (
    "counts", "count", "data", "expression_matrix", "expression", "expr", "matrix", "dge", "umi",
    "raw_counts", "cell_by_gene",
)  # fmt: skip
CELL_WORDS = (
    "cell_metadata", "metadata", "meta_data", "meta", "annotations", "annotation", "labels",
    "label", "cell_types", "cell_type", "celltypes", "clusters", "coords", "locs", "spatial_locs",
    "numi",
)  # fmt: skip

# Fewer known names than this on an axis, and it is not the genes.
MIN_KNOWN = 0.2
LOOKED_UP = 2000
# Columns of a cells x genes table that are measurements of the cell.
CELL_COLUMNS = {name for x, y, _ in COORD_COLUMNS for name in (x, y)} | {
    "area", "cell_area", "nucleus_area", "volume", "total_counts", "n_counts", "n_genes",
}  # fmt: skip

Orientation = Literal["cells x genes", "genes x cells"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """How a matrix lies in its file."""

    table: Delimited
    orientation: Orientation
    at: tuple[int, ...]
    """The fields that are part of the matrix."""
    aside: tuple[int, ...]
    """The fields that are measurements of the cells."""


def find(files: Sequence[Path]) -> list[Found]:
    """Claim every numeric table with genes on an axis, and what belongs to its cells."""
    texts = [path for path in files if SUFFIX.search(path.name)]
    found = []
    for path in texts:
        stem, _ = _words(path, MATRIX_WORDS)
        if _words(path, CELL_WORDS)[1]:
            continue
        try:
            _layout(path)
        except InputError:
            continue  # `refusal` says why, when somebody asks for this very file
        beside = [p for p in texts if p != path and _words(p, CELL_WORDS) == (stem, "cells")]
        own = stem if beside else SUFFIX.sub("", path.name)
        name = own if stem else path.parent.name
        found.append(Found(format=FORMAT, path=path, files=(path, *sorted(beside)), name=name))
    return found


def refusal(path: Path) -> str | None:
    """Why a text file is no count matrix, in one line; None for other files and for matrices."""
    if not SUFFIX.search(path.name):
        return None
    try:
        _layout(path)
    except InputError as error:
        return str(error)
    if _words(path, CELL_WORDS)[1]:
        return f"{path}: named as a table about cells; name the folder or the count matrix instead"
    return None


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read the names of both axes and the tables beside the matrix.

    Raises:
        InputError: the file is no count matrix, cut, or has a row of another length.
    """
    layout = _layout(found.path)
    table = layout.table
    rows = table.read_columns([0, *layout.aside])
    across = pd.Index([table.columns[i] for i in layout.at], dtype=object)
    down = pd.Index(rows[0], dtype=object)
    if layout.orientation == "cells x genes":
        obs, var = pd.DataFrame(index=down), pd.DataFrame(index=across)
        for i, values in zip(layout.aside, rows[1:], strict=True):
            obs[table.columns[i]] = pd.to_numeric(pd.Series(values, index=down), errors="coerce")
    else:
        obs, var = pd.DataFrame(index=across), pd.DataFrame(index=down)
    notes: list[str] = []
    for path in found.files[1:]:
        obs, note = _join(obs, path)
        notes.append(note)
    positions_um = coords_um(obs)
    modality: Modality = options.modality or ("srt" if positions_um is not None else "scrna")
    return Source(
        name=found.name,
        format=FORMAT,
        files=found.files,
        obs=obs,
        var=var,
        counts_from=f"table ({layout.orientation})",
        looked_in=(f"table ({layout.orientation}): the only matrix in the file",),
        modality=modality,
        coords_um=positions_um if modality == "srt" else None,
        blocks=lambda: _blocks(layout),
        warnings=tuple(notes),
    )


def _words(path: Path, words: tuple[str, ...]) -> tuple[str, str]:
    """The name without suffix and role word, and "cells" or "matrix" if it ended in one."""
    stem = SUFFIX.sub("", path.name)
    for word in sorted(words, key=len, reverse=True):
        match = re.fullmatch(rf"(?:(.*?)[-_. ])?{word}", stem, re.I)
        if match:
            return match[1] or "", "cells" if words is CELL_WORDS else "matrix"
    return stem, ""


def _layout(path: Path) -> _Layout:
    table = Delimited.sniff(path)
    names = table.columns[1:]
    labels = [row[0] for row in table.head]
    if all(is_number(name) for name in names):
        raise InputError(f"{path}: the first line holds numbers; a line of names was expected")
    aside = tuple(i for i, name in enumerate(table.columns) if i and name in CELL_COLUMNS)
    at = tuple(i for i in range(1, len(table.columns)) if i not in set(aside))
    for i in at:
        bad = next((row for row in table.head if not is_number(row[i])), None)
        if bad is not None:
            raise InputError(
                f"{path}: no matrix of counts: row {bad[0]!r}, column {table.columns[i]!r} holds "
                f"{bad[i]!r}; numbers were expected everywhere but in the first column"
            )
    across = [table.columns[i] for i in at]
    in_columns = known_fraction(across[:: 1 + len(across) // LOOKED_UP])
    in_rows = known_fraction(labels)
    if max(in_columns, in_rows) < MIN_KNOWN:
        raise InputError(
            f"{path}: no matrix of counts: genes are on neither axis; the columns start with "
            f"{', '.join(across[:3])} and the rows with {', '.join(labels[:3])}"
        )
    orientation: Orientation = "cells x genes" if in_columns >= in_rows else "genes x cells"
    return _Layout(table=table, orientation=orientation, at=at, aside=aside)


def _join(obs: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, str]:
    """`obs` with the columns of a table about the cells, and a sentence on how they came in."""
    extra = read_small(path)
    if isinstance(extra.index, pd.RangeIndex) and extra.shape[1] > 1:
        n_named = [int(obs.index.isin(extra[c].astype(str)).sum()) for c in extra.columns]
        extra = extra.set_index(extra.columns[int(np.argmax(n_named))])
    extra.index = extra.index.astype(str)
    counted = extra.index.equals(pd.Index([str(i) for i in range(1, len(extra) + 1)], dtype=object))
    # R writes a bare vector as a column "x": the file's name says more.
    role = SUFFIX.sub("", path.name).replace("-", "_").split("_")[-1].lower().removesuffix("s")
    extra.columns = pd.Index([role if str(c) == "x" else str(c) for c in extra.columns])
    extra = extra.loc[:, ~(extra.columns.duplicated() | extra.columns.isin(obs.columns))]
    n_known = int(obs.index.isin(extra.index).sum())
    if extra.index.is_unique and 2 * n_known > len(obs):
        joined = extra.reindex(obs.index)
        how = f"by cell name ({n_known} of {len(obs)} cells)"
    elif counted and len(extra) == len(obs):
        joined = extra.set_axis(obs.index, axis=0)
        how = "by position: it has a row a cell and no cell names"
    else:
        return obs, (
            f"{path.name} was left out: it names {n_known} of {len(obs)} cells and has "
            f"{len(extra)} rows"
        )
    note = f"{path.name} joined {how}"
    return pd.concat([obs, joined], axis=1), note


def _blocks(layout: _Layout) -> Iterator[Block]:
    axis: Axis = "obs" if layout.orientation == "cells x genes" else "var"
    for start, values in layout.table.matrices(layout.at):
        yield compress(values, axis=axis, start=start)
