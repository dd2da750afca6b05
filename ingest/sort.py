"""Sort the counts of a data set into the order of its part, out of core.

While the counts are in memory (ingest/stash.py), the rows of each shard are taken from where
they lie. From pieces on disk, a shard is made of those that hold rows of it; shards are
independent tasks, and no two of them write the same object. Where pieces hold rows of many
shards each (donors that take turns in the file), reading them for every shard would be slow,
so `split` first deals their rows to one file a shard.

Memory is bounded by the stash, a shard and a piece, whatever the source's size, order or
orientation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellplm.corpus.writer import PartWriter
from cellplm.ingest import kernels
from cellplm.ingest.stash import Piece, Stash, read_pieces, write_piece

READS_A_PIECE = 4
"""Pieces are split when shards would have to read each more often than this."""

SORT_CHUNKS = 4
"""Chunks that are sorted before they are compressed."""

SPLIT_VALUES = 16 * 2**20
"""Values that are dealt at a time: more make longer runs in the files of the shards."""


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
    first, last = _shard_range(rows, layout, writer)
    return np.unique(np.concatenate([first, last]))


def split(
    paths: Sequence[Path], layout: Layout, writer: PartWriter, folder: Path, mark: str
) -> dict[int, Path]:
    """Deal the rows of some pieces to one file a shard (two, where a row lies across two).

    Args:
        paths: files of pieces.
        layout: of the part.
        writer: knows the shards.
        folder: the files are made there, as <shard>-<mark>.piece.
        mark: tells the files of one call from those of others.

    Returns:
        The file of each shard that got rows.
    """
    made: dict[int, BinaryIO] = {}
    try:
        for group in _groups(paths):
            for shard, piece in _dealt(group, layout, writer):
                if shard not in made:
                    made[shard] = (folder / f"{shard:06d}-{mark}.piece").open("wb")
                write_piece(made[shard], piece)
    finally:
        for file in made.values():
            file.close()
    return {shard: Path(file.name) for shard, file in made.items()}


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
    pieces = list(stash.in_memory())
    if sum(piece.rows.size for piece in pieces) > np.count_nonzero(np.diff(layout.indptr)):
        return _put_together(pieces, 0, layout.row_of.size, layout, stash.counts.dtype)
    starts = np.zeros(layout.row_of.size, dtype=np.int64)
    before = 0
    for piece in pieces:
        ends = before + np.cumsum(piece.lengths, dtype=np.int64)
        starts[layout.row_of[piece.rows]] = ends - piece.lengths
        before += piece.counts.size
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


def _shard_range(
    rows: NDArray[np.uint32], layout: Layout, writer: PartWriter
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    target = layout.row_of[rows]
    first = layout.indptr[target] // writer.shard_values
    last = (layout.indptr[target + 1] - 1) // writer.shard_values
    return first, last


def _groups(paths: Sequence[Path]) -> Iterator[list[Piece]]:
    """Pieces of about SPLIT_VALUES values together."""
    group: list[Piece] = []
    for path in paths:
        for piece in read_pieces(path):
            group.append(piece)
            if sum(each.counts.size for each in group) >= SPLIT_VALUES:
                yield group
                group = []
    if group:
        yield group


def _dealt(group: list[Piece], layout: Layout, writer: PartWriter) -> Iterator[tuple[int, Piece]]:
    """What each shard gets of some pieces."""
    rows = np.concatenate([piece.rows for piece in group])
    lengths = np.concatenate([piece.lengths for piece in group])
    columns = np.concatenate([piece.columns for piece in group])
    counts = np.concatenate([piece.counts for piece in group])
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    first, last = _shard_range(rows, layout, writer)
    for shard in np.unique(np.concatenate([first, last])):
        # A row is never longer than a shard, so it lies in two of them at most.
        mine = np.flatnonzero((first == shard) | (last == shard))
        n_values = int(lengths[mine].sum(dtype=np.int64))
        out_columns = np.empty(n_values, dtype=columns.dtype)
        out_counts = np.empty(n_values, dtype=counts.dtype)
        kernels.gather(mine, starts, lengths, columns, counts, out_columns, out_counts)
        piece = Piece(
            rows=rows[mine], lengths=lengths[mine], columns=out_columns, counts=out_counts
        )
        yield int(shard), piece
