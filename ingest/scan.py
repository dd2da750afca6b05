"""One pass over the counts of a source: check each of them, sum the cells, keep the rest.

This is the only time that a source is read. Along the way every count is proved to be one
(ingest/counts.py says what is told where it is not), what planning needs is summed per row,
and the counts go to a `Stash`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellplm.errors import CountsError
from cellplm.ingest import counts as messages
from cellplm.ingest import kernels
from cellplm.ingest.content import Hash
from cellplm.ingest.source import Block, Source
from cellplm.ingest.stash import Stash

OnRows = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Columns:
    """What a scan has to know of the V columns of a source.

    Attributes:
        target: (V,) uint32 column of the part.
        gene_hash: (V,) uint64 for the content hash; 0 where the column has no gene id.
        is_gene: (V,) bool, which columns count for the library size.
    """

    target: NDArray[np.uint32]
    gene_hash: Hash
    is_gene: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scan:
    """What one pass over the counts says of each row, in source order.

    Attributes:
        row_nnz: (N,) int64 stored counts > 0.
        row_total: (N,) int64 sum over all columns.
        library_size: (N,) int64 sum over the columns that are genes.
        content: (N,) uint64, see ingest/content.py.
        max_count: the largest count.
        n_rounded: values that were within 1e-6 of a whole number and were rounded.
    """

    row_nnz: NDArray[np.int64]
    row_total: NDArray[np.int64]
    library_size: NDArray[np.int64]
    content: Hash
    max_count: int
    n_rounded: int


def scan(source: Source, columns: Columns, stash: Stash, on_rows: OnRows) -> Scan:
    """Check every count, sum per row, and keep the counts.

    Args:
        source: read once.
        columns: of the source.
        stash: gets the counts.
        on_rows: called with the rows (or columns) read so far.

    Raises:
        CountsError: not raw counts.
        InputError: one (row, column) stands twice, or an index is out of range.
    """
    n_obs = source.n_obs
    sums = Scan(
        row_nnz=np.zeros(n_obs, dtype=np.int64),
        row_total=np.zeros(n_obs, dtype=np.int64),
        library_size=np.zeros(n_obs, dtype=np.int64),
        content=np.zeros(n_obs, dtype=np.uint64),
        max_count=0,
        n_rounded=0,
    )
    take = _Taker(source=source, columns=columns, sums=sums, stash=stash)
    max_count = n_rounded = 0
    for block in source.blocks():
        rounded, largest = take.rows(block) if block.axis == "obs" else take.columns_of(block)
        max_count, n_rounded = max(max_count, largest), n_rounded + rounded
        n_all = n_obs if block.axis == "obs" else source.n_vars
        stash.done = (block.start + block.n) / n_all
        on_rows(block.start + block.n)
    stash.settle()
    return replace(sums, max_count=max_count, n_rounded=n_rounded)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Taker:
    """Takes the blocks of a pass into the sums and the stash."""

    source: Source
    columns: Columns
    sums: Scan
    stash: Stash

    def rows(self, block: Block) -> tuple[int, int]:
        """Take a block of rows; (values rounded, largest count)."""
        data = _numbers(self.source, block)
        rows = slice(block.start, block.start + block.n)
        lengths = np.zeros(block.n, dtype=np.uint32)
        while True:
            out_columns, out_counts = self.stash.room(data.size)
            _, rounded, largest, fault, at = kernels.take_rows(
                block.indptr, block.indices, data,
                self.columns.target, self.columns.gene_hash, self.columns.is_gene,
                np.iinfo(out_counts.dtype).max, np.full(self.source.n_vars, -1, dtype=np.int64),
                out_columns, out_counts, lengths, self.sums.row_total[rows],
                self.sums.library_size[rows], self.sums.content[rows],
            )  # fmt: skip
            if fault != kernels.FAULT_WIDE:
                break
            self.stash.widen()
        if fault:
            messages.refuse(self.source, block, at, fault)
        self.sums.row_nnz[rows] = lengths
        filled = np.flatnonzero(lengths)
        self.stash.add((filled + block.start).astype(np.uint32), lengths[filled])
        return rounded, largest

    def columns_of(self, block: Block) -> tuple[int, int]:
        """Take a block of columns; (values rounded, largest count)."""
        data = _numbers(self.source, block)
        here = slice(block.start, block.start + block.n)
        target = self.columns.target[here]
        counts = np.empty(data.size, dtype=np.uint32)
        lengths = np.zeros(self.source.n_obs, dtype=np.int64)
        kept, rounded, largest, fault, at = kernels.take_columns(
            block.indptr, block.indices, data,
            self.columns.gene_hash[here], self.columns.is_gene[here],
            np.full(self.source.n_obs, -1, dtype=np.int64),
            counts, lengths, self.sums.row_total, self.sums.library_size, self.sums.content,
        )  # fmt: skip
        if fault:
            messages.refuse(self.source, block, at, fault)
        if largest > np.iinfo(self.stash.counts.dtype).max:
            self.stash.widen()
        self.sums.row_nnz[:] += lengths
        out_columns, out_counts = self.stash.room(kept)
        fill = np.cumsum(lengths) - lengths
        kernels.turn(block.indptr, block.indices, counts, target, fill, out_columns, out_counts)
        filled = np.flatnonzero(lengths)
        self.stash.add(filled.astype(np.uint32), lengths[filled].astype(np.uint32))
        return rounded, largest


def _numbers(source: Source, block: Block) -> NDArray[Any]:
    """The values in one of the four types that the kernels are compiled for."""
    data = block.data
    kind, width = data.dtype.kind, data.dtype.itemsize
    if kind == "f":
        return data.astype(np.float32 if width <= 4 else np.float64, copy=False)
    if kind == "u" and width == 8 and data.size and data.max() > np.iinfo(np.int64).max:
        return data.astype(np.float64)  # too large for a count, and told so
    if kind in "iub":
        narrow = width < 4 or (kind == "i" and width == 4)
        return data.astype(np.int32 if narrow else np.int64, copy=False)
    raise CountsError(
        f"{source.files[0]}: {source.counts_from}: values are of type {data.dtype}, not numbers"
    )
