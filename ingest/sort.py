"""Sort the counts of a data set into the order of its part, out of core.

While the counts are in memory (ingest/stash.py), the rows of each shard are taken from where
they lie. From files, a shard is made of those that hold rows of it; shards are independent
tasks, and no two of them write the same object.

Memory is bounded by the stash, a shard and a piece, whatever the source's size, order or
orientation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellplm.corpus.writer import PartWriter
from cellplm.ingest import kernels
from cellplm.ingest.stash import Piece, Stash

SORT_CHUNKS = 4
"""Chunks that are sorted before they are compressed."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout:
    """Where rows go.

    Attributes:
        row_of: (N,) int64 destination of each source row.
        indptr: (N + 1,) int64 of the part.
    """

    row_of: NDArray[np.int64]
    indptr: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Write it for other processes."""
        np.savez(path, row_of=self.row_of, indptr=self.indptr)

    @classmethod
    def load(cls, path: Path) -> Layout:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(row_of=arrays["row_of"], indptr=arrays["indptr"])


def lay_out(row_nnz: NDArray[np.int64], row_order: NDArray[np.int64]) -> Layout:
    """The destinations that an order of rows means.

    Args:
        row_nnz: (N,) stored counts of the source's rows.
        row_order: (N,) source rows in the part's order.
    """
    row_of = np.empty(row_order.size, dtype=np.int64)
    row_of[row_order] = np.arange(row_order.size)
    indptr = np.concatenate([[0], np.cumsum(row_nnz[row_order])]).astype(np.int64)
    return Layout(row_of=row_of, indptr=indptr)


def shards_of(rows: NDArray[np.uint32], layout: Layout, writer: PartWriter) -> NDArray[np.int64]:
    """The shards that hold entries of these source rows (which all have some), ascending."""
    target = layout.row_of[rows]
    first = layout.indptr[target] // writer.shard_values
    # A row is never longer than a shard, so it lies in two of them at most.
    last = (layout.indptr[target + 1] - 1) // writer.shard_values
    return np.unique(np.concatenate([first, last]))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """Rows that lie somewhere in two arrays, in the part's order.

    Attributes:
        first: row of the part that the first one is.
        starts: (n,) int64 first entry of each.
        lengths: (n,) int64.
        columns: of the part, any order within a row.
        counts: beside them.
    """

    first: int
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    columns: NDArray[np.unsignedinteger]
    counts: NDArray[np.unsignedinteger]


def rows_in_memory(stash: Stash, layout: Layout) -> Rows:
    """All rows of a part whose stash is in memory.

    Rows that came whole are taken from where they are; those that came in parts (of a source
    with features along its blocks) are put together first.
    """
    held = stash.in_memory()
    if held.rows.size > np.count_nonzero(np.diff(layout.indptr)):
        return _put_together([held], 0, layout.row_of.size, layout, stash.counts.dtype)
    starts = np.zeros(layout.row_of.size, dtype=np.int64)
    starts[layout.row_of[held.rows]] = np.cumsum(held.lengths, dtype=np.int64) - held.lengths
    return Rows(
        first=0,
        starts=starts,
        lengths=np.diff(layout.indptr),
        columns=stash.columns,
        counts=stash.counts,
    )


def rows_of_shard(number: int, pieces: Iterable[Piece], layout: Layout, writer: PartWriter) -> Rows:
    """The rows that one shard holds entries of.

    Args:
        number: of the shard.
        pieces: all that hold rows of it; they may hold others too.
        layout: of the part.
        writer: of the part.
    """
    start = number * writer.shard_values
    stop = min(writer.nnz, start + writer.shard_values)
    low = int(np.searchsorted(layout.indptr, start, side="right")) - 1
    high = int(np.searchsorted(layout.indptr, stop, side="left"))
    return _put_together(pieces, low, high, layout, writer.data_dtype)


def write_shard(number: int, rows: Rows, layout: Layout, writer: PartWriter) -> None:
    """Sort the rows of one shard by column, and write it.

    Args:
        number: of the shard.
        rows: at least those it holds entries of.
        layout: of the part.
        writer: of the part.
    """
    writer.write_shard(number, _sorted(number, rows, layout, writer))


def _sorted(
    number: int, rows: Rows, layout: Layout, writer: PartWriter
) -> Iterator[tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]]:
    """Counts and columns of a shard, a few chunks at a time: they stay in the CPU's caches."""
    start = number * writer.shard_values
    stop = min(writer.nnz, start + writer.shard_values)
    step = SORT_CHUNKS * writer.chunk_values
    for begin in range(start, stop, step):
        end = min(stop, begin + step)
        # Whole rows; of those that lie across an end, a part is sorted once more.
        low = int(np.searchsorted(layout.indptr, begin, side="right")) - 1
        high = int(np.searchsorted(layout.indptr, end, side="left"))
        here = slice(low - rows.first, high - rows.first)
        before = int(layout.indptr[low])
        n_values = int(layout.indptr[high]) - before
        columns = np.empty(n_values, dtype=writer.indices_dtype)
        counts = np.empty(n_values, dtype=writer.data_dtype)
        kernels.sort_rows(
            rows.starts[here], rows.lengths[here], rows.columns, rows.counts, writer.n_vars,
            columns, counts,
        )  # fmt: skip
        cut = slice(begin - before, end - before)
        yield counts[cut], columns[cut]


def _put_together(
    pieces: Iterable[Piece], low: int, high: int, layout: Layout, count_dtype: np.dtype[Any]
) -> Rows:
    """Rows [low, high) of the part, from pieces that hold parts of them."""
    indptr = layout.indptr[low : high + 1] - layout.indptr[low]
    columns: NDArray[np.unsignedinteger] = np.zeros(0, dtype=np.uint16)
    counts = np.empty(indptr[-1], dtype=count_dtype)
    fill = indptr[:-1].copy()
    for piece in pieces:
        if not columns.size:
            columns = np.empty(indptr[-1], dtype=piece.columns.dtype)
        kernels.place(
            piece.rows, piece.lengths, piece.columns, piece.counts,
            layout.row_of, low, fill, columns, counts,
        )  # fmt: skip
    if not np.array_equal(fill, indptr[1:]):
        raise RuntimeError(f"rows {low} to {high} of a part lack entries that were counted")
    return Rows(
        first=low, starts=indptr[:-1], lengths=np.diff(indptr), columns=columns, counts=counts
    )
