"""The checked counts of a source, narrow, between the pass that reads it and the sort.

A source is read once: text and compressed HDF5 cost more to read than everything after. What
the pass keeps are pieces (some rows, in the part's columns, in small types). They stay in
memory, behind one another in two long arrays, up to a budget; beyond it all of them go to a
folder, compressed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

FLUSH_VALUES = 16 * 2**20
"""Values that go to the disk at a time, once the budget was used up."""

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
    """Pieces in the order in which they were added.

    Attributes:
        columns: of all pieces in memory, behind one another.
        counts: likewise, uint16 until a count needs more.
        n_values: how far the two are filled.
        paths: files of pieces, once the budget was used up; then nothing stays in memory.
    """

    def __init__(self, folder: Path | None, *, n_vars: int, budget: int) -> None:
        """Start empty.

        Args:
            folder: made when the budget is used up; None: pieces are forgotten at once.
            n_vars: columns of the part.
            budget: values in memory.
        """
        self.folder = folder
        self.paths: list[Path] = []
        self.n_values = 0
        self._held: list[tuple[NDArray[np.uint32], NDArray[np.uint32], int]] = []
        capacity = FLUSH_VALUES if folder is None else budget
        self.columns: NDArray[np.unsignedinteger]
        self.counts: NDArray[np.unsignedinteger]
        self.columns, self.counts = _borrow(capacity, np.uint16 if n_vars <= 2**16 else np.uint32)

    def close(self) -> None:
        """Let the next stash of this process have the memory; nothing may use it any more."""
        _RETURNED[:] = [(self.columns, self.counts)]

    def room(
        self, n_values: int
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]:
        """Where columns and counts of the next piece go, at most `n_values` of them."""
        if self.n_values + n_values > self.columns.size:
            if self.n_values and self.folder is not None:
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
        if self.folder is None or not rows.size:
            return
        self._held.append((rows, lengths, self.n_values))
        self.n_values += int(lengths.sum(dtype=np.int64))
        if self.paths and self.n_values >= FLUSH_VALUES:
            self.to_disk()

    def in_memory(self) -> Iterator[Piece]:
        """The pieces that are not on the disk."""
        for rows, lengths, start in self._held:
            here = slice(start, start + int(lengths.sum(dtype=np.int64)))
            yield Piece(
                rows=rows, lengths=lengths, columns=self.columns[here], counts=self.counts[here]
            )

    def to_disk(self) -> None:
        """Write what is in memory, and give most of the memory back."""
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        for piece in self.in_memory():
            path = self.folder / f"{len(self.paths):06d}.piece"
            with path.open("wb") as file:
                write_piece(file, piece)
            self.paths.append(path)
        self._held, self.n_values = [], 0
        if self.columns.size > 2 * FLUSH_VALUES:
            self.columns = np.empty(2 * FLUSH_VALUES, dtype=self.columns.dtype)
            self.counts = np.empty(2 * FLUSH_VALUES, dtype=self.counts.dtype)


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
