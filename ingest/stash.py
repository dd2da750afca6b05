"""The checked counts of a source, narrow, between the pass that reads it and the sort.

A source is read once: text and compressed HDF5 cost more to read than everything after. What
the pass keeps stays in memory, behind one another in two long arrays, up to a budget. Whenever
that is used up, the rows go to files, compressed: one for each stretch of the part, as far as
its order is known before the counts are (only cells with too few counts will move, to the end).
So a shard is later made of one or two of the files, however the rows are mixed in the source.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from cellplm.corpus import schema
from cellplm.ingest import kernels

FORGET_VALUES = 4 * 2**20
"""Values in memory where nothing is kept."""
MAX_FILES = 4096

_HEADER = struct.Struct("<4Q2B")
"""Compressed bytes of the four arrays, and the item sizes of columns and counts."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """Some rows of a source, in no particular order; several pieces may hold parts of one row.

    Attributes:
        rows: (n,) uint32 source rows.
        lengths: (n,) uint32 entries of each.
        columns: (nnz,) uint16 or uint32 columns of the part, any order within a row.
        counts: (nnz,) uint8, uint16 or uint32, all > 0.
    """

    rows: NDArray[np.uint32]
    lengths: NDArray[np.uint32]
    columns: NDArray[np.unsignedinteger]
    counts: NDArray[np.unsignedinteger]


class Stash:
    """Rows of a source in the order in which they were added, in memory or in files.

    Attributes:
        columns: of all rows in memory, behind one another.
        counts: likewise, uint16 until a count needs more.
        n_values: how far the two are filled.
        n_all: values added so far, also those on the disk.
        paths: the files, once there are some; then nothing stays in memory.
        done: how much of the source was read, from 0 to 1; the reader's to set.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        n_vars: int,
        budget: int,
        position_of: Callable[[], NDArray[np.int64]],
    ) -> None:
        """Start empty.

        Args:
            folder: made when the budget is used up; None: rows are forgotten at once.
            n_vars: columns of the part.
            budget: values in memory.
            position_of: gives the (N,) position in the part of each source row, as far as it is
                known; called when the budget is used up.
        """
        self.folder = folder
        self.n_values = 0
        self.n_all = 0
        self.done = 0.0
        self._held: list[tuple[NDArray[np.uint32], NDArray[np.uint32]]] = []
        self._position_of = position_of
        self._bucket_of: NDArray[np.int64] | None = None
        self._paths: dict[int, Path] = {}
        self.columns: NDArray[np.unsignedinteger]
        self.counts: NDArray[np.unsignedinteger]
        capacity = min(budget, FORGET_VALUES) if folder is None else budget
        self.columns, self.counts = _borrow(capacity, np.uint16 if n_vars <= 2**16 else np.uint32)

    @property
    def paths(self) -> list[Path]:
        """The files, in the part's order."""
        return [self._paths[bucket] for bucket in sorted(self._paths)]

    def close(self) -> None:
        """Let the next stash of this process have the memory; nothing may use it any more."""
        _RETURNED[:] = [(self.columns, self.counts)]

    def settle(self) -> None:
        """After the last row: if there are files, all goes there, and the memory back."""
        if self._paths:
            self.to_disk()
            self.columns, self.counts = self.columns[:0].copy(), self.counts[:0].copy()

    def room(
        self, n_values: int
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]:
        """Where columns and counts of the next rows go, at most `n_values` of them."""
        if self.n_values + n_values > self.columns.size:
            if self.n_values:
                self.to_disk()
            if n_values > self.columns.size:
                self.columns = np.empty(n_values, dtype=self.columns.dtype)
                self.counts = np.empty(n_values, dtype=self.counts.dtype)
        here = slice(self.n_values, self.n_values + n_values)
        return self.columns[here], self.counts[here]

    def widen(self) -> None:
        """Make counts of 65,536 and more fit."""
        self.counts = self.counts.astype(np.uint32)

    def add(self, rows: NDArray[np.uint32], lengths: NDArray[np.uint32]) -> None:
        """Keep what was written to the last `room`: these rows, of these lengths."""
        if self.folder is not None:
            self._held.append((rows, lengths))
            n_values = int(lengths.sum(dtype=np.int64))
            self.n_values += n_values
            self.n_all += n_values

    def in_memory(self) -> Piece:
        """The rows that are not on the disk."""
        n = self.n_values
        return Piece(
            rows=np.concatenate([rows for rows, _ in self._held] or [np.zeros(0, np.uint32)]),
            lengths=np.concatenate([most for _, most in self._held] or [np.zeros(0, np.uint32)]),
            columns=self.columns[:n],
            counts=self.counts[:n],
        )

    def to_disk(self) -> None:
        """Append the rows in memory to the files that they belong to."""
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        held = self.in_memory()
        starts = np.cumsum(held.lengths, dtype=np.int64) - held.lengths
        bucket = self._buckets()[held.rows]
        order = np.argsort(bucket, kind="stable")
        for mine in np.split(order, np.flatnonzero(np.diff(bucket[order])) + 1):
            if not mine.size:
                continue
            lengths = held.lengths[mine]
            columns = np.empty(int(lengths.sum(dtype=np.int64)), dtype=self.columns.dtype)
            counts = np.empty(columns.size, dtype=self.counts.dtype)
            kernels.gather(mine, starts, held.lengths, held.columns, held.counts, columns, counts)
            number = int(bucket[mine[0]])
            path = self._paths.setdefault(number, self.folder / f"{number:06d}.pieces")
            piece = Piece(rows=held.rows[mine], lengths=lengths, columns=columns, counts=counts)
            with path.open("ab") as file:
                write_piece(file, piece)
        self._held, self.n_values = [], 0

    def _buckets(self) -> NDArray[np.int64]:
        """(N,) the file of each row: of about a shard, if the rest is like the first."""
        if self._bucket_of is None:
            expected = self.n_all / max(self.done, 1e-9)
            n_buckets = max(1, min(MAX_FILES, round(expected / schema.SHARD_VALUES)))
            position = self._position_of()
            self._bucket_of = position * n_buckets // max(position.size, 1)
        return self._bucket_of


def write_piece(file: Any, piece: Piece) -> None:
    """Append one piece to an open binary file."""
    largest = int(piece.counts.max(initial=0))
    counts = piece.counts.astype(np.min_scalar_type(largest), copy=False)
    arrays = (piece.rows, piece.lengths, piece.columns, counts)
    packed = [blosc.compress(np.ascontiguousarray(array), b"lz4", 1) for array in arrays]
    file.write(_HEADER.pack(*map(len, packed), piece.columns.itemsize, counts.itemsize))
    for each in packed:
        file.write(each)


def read_pieces(path: Path) -> Iterator[Piece]:
    """The pieces of a file."""
    with path.open("rb") as file:
        while header := file.read(_HEADER.size):
            *sizes, column_width, count_width = _HEADER.unpack(header)
            rows, lengths, columns, counts = (blosc.decompress(file.read(size)) for size in sizes)
            yield Piece(
                rows=np.frombuffer(rows, dtype=np.uint32),
                lengths=np.frombuffer(lengths, dtype=np.uint32),
                columns=np.frombuffer(columns, dtype=f"u{column_width}"),
                counts=np.frombuffer(counts, dtype=f"u{count_width}"),
            )


def read_rows(path: Path) -> Iterator[NDArray[np.uint32]]:
    """The rows alone of each piece of a file."""
    with path.open("rb") as file:
        while header := file.read(_HEADER.size):
            *sizes, _, _ = _HEADER.unpack(header)
            yield np.frombuffer(blosc.decompress(file.read(sizes[0])), dtype=np.uint32)
            file.seek(sum(sizes[1:]), 1)


_RETURNED: list[tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]] = []
"""Memory of a closed stash: the first touch of fresh pages costs as much as filling them."""


def _borrow(
    capacity: int, column_dtype: type[np.unsignedinteger]
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]:
    while _RETURNED:
        columns, counts = _RETURNED.pop()
        fits = columns.dtype == column_dtype and counts.dtype == np.uint16
        if fits and columns.size == counts.size == capacity:
            return columns, counts
    # Memory that is never written costs nothing.
    return np.empty(capacity, dtype=column_dtype), np.empty(capacity, dtype=np.uint16)
