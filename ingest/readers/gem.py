"""Read the gene expression matrices (.gem, .gem.gz) of BGI's Stereo-seq.

One row a gene and place on the chip, after comments (`#FileFormat=GEMv0.1` ...):

    geneID [geneName]  x  y  MIDCounts [ExonCount] [CellID]

x and y count DNBs (spots of the chip), which are 0.5 µm apart. Only files that say which cell a
place belongs to (`CellID`, `cell`, `label`, of a segmentation) hold cells; the usual bin 1 files do
not, and are refused. Cell 0 is what lies outside of cells. The position of a cell is the mean of
those of its rows.

The file is streamed twice: for the cells and genes, and for the counts. SAW writes one gene after
the other; then the counts of one gene are in memory at a time, else all pairs of cell and gene.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.coords import coords_um
from cellplm.ingest.readers.delimited import Delimited
from cellplm.ingest.readers.table_layout import plain
from cellplm.ingest.source import Block, Found, Modality, ReadOptions, Source

FORMAT = "gem"

SUFFIX = re.compile(r"\.gem(\.gz)?$", re.I)
UM_PER_DNB = 0.5

_GENE = ("geneid", "gene", "genes")
_NAME = ("genename", "genesymbol")
_COUNT = ("midcounts", "midcount", "umicounts", "umicount", "umi", "counts", "count")
_CELL = ("cellid", "cell", "label", "cells", "celllabel")

# Pairs are merged when they are this many.
_MERGE_PAIRS = 8 * 2**20


def find(files: Sequence[Path]) -> list[Found]:
    """Every file that ends in .gem or .gem.gz."""
    return [
        Found(format=FORMAT, path=path, files=(path,), name=SUFFIX.sub("", path.name))
        for path in files
        if path.is_file() and SUFFIX.search(path.name)
    ]


def refusal(path: Path) -> str | None:
    """None: `open_source` says what is wrong with a file of this name."""
    return None


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read which cells and genes there are.

    Raises:
        InputError: the file has no column of cells, lacks another one, or is damaged.
    """
    table = Delimited.sniff(found.path)
    scanned = _scan(table, _columns(table))
    names = scanned.cells.astype(str).astype(object)
    obs = pd.DataFrame(scanned.mean_dnb, columns=["x", "y"], index=names)
    var = pd.DataFrame(index=pd.Index(scanned.genes, dtype=object))
    if scanned.gene_names is not None:
        var = pd.DataFrame(
            {"feature_id": scanned.genes}, index=pd.Index(scanned.gene_names, dtype=object)
        )
    modality: Modality = options.modality or "srt"
    um = None
    if modality == "srt":
        um = coords_um(obs, options, path=found.path, also=(("x", "y", UM_PER_DNB),))
    notes = ["the position of a cell is the mean of those of its rows"]
    if options.um_per_unit is None:
        notes.append(f"x and y count DNBs: taken as {UM_PER_DNB} µm apart")
    if scanned.n_outside:
        notes.append(
            f"{scanned.n_outside} of {scanned.n_rows} rows with cell 0 (outside of cells) were "
            f"dropped"
        )
    return Source(
        name=found.name,
        format=FORMAT,
        files=found.files,
        obs=obs,
        var=var,
        counts_from=table.columns[scanned.at.count],
        looked_in=(f"{table.columns[scanned.at.count]}: one row a gene and place",),
        modality=modality,
        platform="Stereo-seq",
        coords_um=um,
        blocks=lambda: _blocks(table, scanned),
        warnings=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    """Where things stand."""

    gene: int
    name: int | None
    x: int
    y: int
    count: int
    cell: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Scanned:
    """What one pass tells of C cells and V genes.

    Attributes:
        at: the columns.
        cells: (C,) int64 ids, ascending.
        mean_dnb: (C, 2) float64.
        genes: (V,) in the order of the file.
        gene_names: (V,) of the first row of each; None without such a column.
        grouped: whether the rows of each gene are in one piece.
        n_rows: all of them.
        n_outside: of cell 0.
    """

    at: _Columns
    cells: NDArray[np.int64]
    mean_dnb: NDArray[np.float64]
    genes: list[str]
    gene_names: list[str] | None
    grouped: bool
    n_rows: int
    n_outside: int


def _columns(table: Delimited) -> _Columns:
    names = [plain(name) for name in table.columns]

    def first(wanted: Sequence[str]) -> int | None:
        return next((names.index(name) for name in wanted if name in names), None)

    gene, count, cell = first(_GENE), first(_COUNT), first(_CELL)
    x, y = first(("x",)), first(("y",))
    if gene is None or count is None or x is None or y is None:
        raise InputError(
            f"{table.path}: no gem file: the columns geneID, x, y and MIDCounts were expected; it "
            f"has {', '.join(table.columns[:8])}"
        )
    if cell is None:
        raise InputError(
            f"{table.path}: its rows are places of the chip (bins), not cells: there is no column "
            f"CellID, cell or label. Segment the cells first (SAW's cellbin.gem, Stereopy, Spateo) "
            f"and give that file, or its h5ad"
        )
    return _Columns(gene=gene, name=first(_NAME), x=x, y=y, count=count, cell=cell)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Batch:
    """Some rows.

    Attributes:
        gene: (n,) names.
        name: (n,) symbols, or nothing.
        xy: (n, 2) float64.
        count: (n,) int64.
        cell: (n,) int64.
    """

    gene: NDArray[np.object_]
    name: NDArray[np.object_]
    xy: NDArray[np.float64]
    count: NDArray[np.int64]
    cell: NDArray[np.int64]


def _batches(table: Delimited, at: _Columns) -> Iterator[_Batch]:
    texts = sorted(i for i in (at.gene, at.name) if i is not None)
    numbers = sorted((at.x, at.y, at.count, at.cell))
    n_before = 0
    for strings, values in table.records(texts, numbers):
        column = {i: values[:, k] for k, i in enumerate(numbers)}
        text = {i: np.array(strings[k], dtype=object) for k, i in enumerate(texts)}
        yield _Batch(
            gene=text[at.gene],
            name=text[at.gene if at.name is None else at.name],
            xy=np.stack([column[at.x], column[at.y]], axis=1),
            # Sums of counts below 2**32 do not overflow.
            count=_whole(table, at.count, column[at.count], n_before, below=2**32),
            cell=_whole(table, at.cell, column[at.cell], n_before, below=2**53),
        )
        n_before += len(values)


def _whole(
    table: Delimited, at: int, values: NDArray[np.float64], n_before: int, *, below: int
) -> NDArray[np.int64]:
    good = (values >= 0) & (values < below) & (values == np.floor(values))
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"{table.path}: {table.columns[at]} is {values[row]:.15g} in row {n_before + row + 1}; "
            f"a whole number from 0 was expected"
        )
    return values.astype(np.int64)


def _scan(table: Delimited, at: _Columns) -> _Scanned:
    code_of: dict[str, str] = {}
    sums = pd.DataFrame({"n": [], "x": [], "y": []}, dtype=np.float64)
    last, grouped, n_rows, n_outside = "", True, 0, 0
    for batch in _batches(table, at):
        n_rows += batch.gene.size
        starts = np.flatnonzero(np.append(True, batch.gene[1:] != batch.gene[:-1]))
        for gene, name in zip(batch.gene[starts], batch.name[starts], strict=True):
            grouped &= gene == last or gene not in code_of
            code_of.setdefault(gene, name)
            last = gene
        inside = batch.cell != 0
        n_outside += int(inside.size - np.count_nonzero(inside))
        rows = pd.DataFrame(batch.xy[inside], columns=["x", "y"]).assign(n=1.0)
        new = rows.groupby(batch.cell[inside]).sum()
        sums = new if sums.empty else sums.add(new, fill_value=0)
    if sums.empty:
        raise InputError(f"{table.path}: every row has the cell 0, which is outside of cells")
    cells = sums.index.to_numpy(dtype=np.int64)
    return _Scanned(
        at=at,
        cells=cells,
        mean_dnb=(sums[["x", "y"]].to_numpy() / sums[["n"]].to_numpy()),
        genes=list(code_of),
        gene_names=None if at.name is None else list(code_of.values()),
        grouped=bool(grouped),
        n_rows=n_rows,
        n_outside=n_outside,
    )


_Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def _blocks(table: Delimited, scanned: _Scanned) -> Iterator[Block]:
    """Counts gene by gene."""
    genes = pd.Index(scanned.genes, dtype=object)
    n_cells = scanned.cells.size
    held: list[_Pairs] = []
    n_held, merge_at, done = 0, _MERGE_PAIRS, 0
    for batch in _batches(table, scanned.at):
        gene = genes.get_indexer(pd.Index(batch.gene, dtype=object))
        inside = batch.cell != 0
        place = np.minimum(np.searchsorted(scanned.cells, batch.cell), n_cells - 1)
        if (gene < 0).any() or (scanned.cells[place] != batch.cell)[inside].any():
            raise InputError(f"{table.path}: changed while it was read; start again")
        held.append((gene[inside] * n_cells + place[inside], batch.count[inside]))
        n_held += int(np.count_nonzero(inside))
        if scanned.grouped or n_held > merge_at:
            held = [_summed(held)]
            # The last gene of a batch may go on in the next.
            ready = int(gene[-1]) if scanned.grouped else 0
            if ready > done:
                yield _cut(held[0], done, ready, n_cells)
                rest = held[0][0] >= ready * n_cells
                held, done = [(held[0][0][rest], held[0][1][rest])], ready
            n_held = held[0][0].size
            merge_at = max(_MERGE_PAIRS, 2 * n_held)
    pairs = _summed(held)
    # Genes of some million pairs at a time.
    ends = np.searchsorted(pairs[0], np.arange(done, len(genes) + 1) * n_cells)
    while done < len(genes):
        first = len(ends) - 1 - (len(genes) - done)
        last = int(np.searchsorted(ends, ends[first] + _MERGE_PAIRS // 2, side="right")) - 1
        stop = done + max(1, last - first)
        yield _cut(pairs, done, stop, n_cells)
        done = stop


def _summed(held: list[_Pairs]) -> _Pairs:
    """Distinct keys, ascending, and the sums of their counts."""
    keys = np.concatenate([part[0] for part in held])
    counts = np.concatenate([part[1] for part in held])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    if not starts.size:
        return keys, counts
    return keys[starts], np.add.reduceat(counts, starts)


def _cut(pairs: _Pairs, start: int, stop: int, n_cells: int) -> Block:
    """The block of some genes."""
    keys, counts = pairs
    bounds = np.searchsorted(keys, np.arange(start, stop + 1) * n_cells).astype(np.int64)
    here = slice(bounds[0], bounds[-1])
    return Block(
        axis="var",
        start=start,
        indptr=bounds - bounds[0],
        indices=(keys[here] % n_cells).astype(np.int32),
        data=counts[here],
    )
