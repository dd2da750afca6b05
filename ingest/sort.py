"""Sort a data set into tissue order out of core, in three phases.

1. `scan` reads the blocks once: checks the counts, and sums what planning needs per row.
   From that follow each row's destination and the part's indptr (`Layout`).
2. `spill` reads the blocks again, in the source's order, and appends each row to the file of
   the shard it belongs to (both, where it lies across two), compressed.
3. `assemble` makes one whole shard from its spill file; shards are independent tasks, and
   no two of them write the same object.

Memory is bounded by a block in 1 and 2 and by a shard in 3, whatever the source's size, order
or orientation; the spill takes about as much space as the part.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse as sp
from numcodecs import blosc
from numpy.typing import NDArray

from cellplm.corpus.writer import PartWriter
from cellplm.ingest.content import Hash, cell_sums
from cellplm.ingest.counts import CountCheck
from cellplm.ingest.source import Block, Source

OnRows = Callable[[int], None]

_HEADER = struct.Struct("<4Q")
"""Compressed bytes of the four arrays of a piece."""


@dataclass(frozen=True, kw_only=True, slots=True)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where rows and columns go.

    Attributes:
        row_of: (N,) int64 destination of each source row.
        column_of: (V,) int64 destination of each source column.
        indptr: (N + 1,) int64 of the part.
    """

    row_of: NDArray[np.int64]
    column_of: NDArray[np.int64]
    indptr: NDArray[np.int64]


def scan(source: Source, genes: Hash, is_gene: NDArray[np.bool_], on_rows: OnRows) -> Scan:
    """Phase 1: check every count, and sum per row.

    Args:
        source: read once.
        genes: (V,) hash per column for the content, 0 where it has no gene id.
        is_gene: (V,) which columns count for the library size.
        on_rows: called with the rows (or columns) read so far.

    Raises:
        CountsError: not raw counts.
    """
    check = CountCheck(source)
    n_obs = source.n_obs
    row_nnz = np.zeros(n_obs, dtype=np.int64)
    row_total = np.zeros(n_obs, dtype=np.int64)
    library_size = np.zeros(n_obs, dtype=np.int64)
    content = np.zeros(n_obs, dtype=np.uint64)
    for block in source.blocks():
        rows, counts = _to_rows(check.add(block), source)
        indptr = counts.indptr.astype(np.int64)
        row_nnz[rows] += np.diff(indptr)
        row_total[rows] += _sums(indptr, counts.data)
        library_size[rows] += _sums(indptr, counts.data * is_gene[counts.indices])
        content[rows] += cell_sums(indptr, counts.indices, counts.data, genes)
        on_rows(block.start + block.n)
    return Scan(
        row_nnz=row_nnz,
        row_total=row_total,
        library_size=library_size,
        content=content,
        max_count=check.max_value,
        n_rounded=check.n_rounded,
    )


def lay_out(scanned: Scan, row_order: NDArray[np.int64], column_order: NDArray[np.int64]) -> Layout:
    """The destinations that an order of rows and columns means.

    Args:
        scanned: of the source.
        row_order: (N,) source rows in the part's order.
        column_order: (V,) source columns in the part's order.
    """
    return Layout(
        row_of=_inverse(row_order),
        column_of=_inverse(column_order),
        indptr=np.concatenate([[0], np.cumsum(scanned.row_nnz[row_order])]).astype(np.int64),
    )


def spill(
    source: Source, layout: Layout, writer: PartWriter, folder: Path, on_rows: OnRows
) -> list[Path]:
    """Phase 2: append every row to the file of its shard.

    Args:
        source: read once more.
        layout: where rows and columns go.
        writer: knows the shards and the dtypes.
        folder: empty; the files are made there.
        on_rows: called with the rows (or columns) read so far.

    Returns:
        One file per shard; absent where nothing belongs to it.
    """
    paths = [folder / f"{number:06d}.spill" for number in range(writer.n_shards)]
    check = CountCheck(source)
    files: dict[int, BinaryIO] = {}
    try:
        for block in source.blocks():
            rows, counts = _to_rows(check.add(block), source)
            filled = np.flatnonzero(np.diff(counts.indptr))
            moved = counts[filled] if filled.size < counts.shape[0] else counts
            target = layout.row_of[rows[filled]]
            first = layout.indptr[target] // writer.shard_values
            last = (layout.indptr[target + 1] - 1) // writer.shard_values
            for shard in np.unique(np.concatenate([first, last])):
                mine = np.flatnonzero((first == shard) | (last == shard))
                piece = moved if mine.size == moved.shape[0] else moved[mine]
                if shard not in files:
                    files[shard] = paths[shard].open("wb")
                _append(
                    files[shard],
                    target[mine].astype(np.uint32),
                    np.diff(piece.indptr).astype(np.uint32),
                    layout.column_of[piece.indices].astype(writer.indices_dtype),
                    piece.data.astype(writer.data_dtype),
                )
            on_rows(block.start + block.n)
    finally:
        for file in files.values():
            file.close()
    return paths


def assemble(number: int, path: Path, layout: Layout, writer: PartWriter) -> None:
    """Phase 3: one whole shard, from its spill file, which is then deleted."""
    start = number * writer.shard_values
    stop = min(writer.nnz, start + writer.shard_values)
    # Rows that this shard holds at least a piece of; they are assembled whole, then cut.
    low = int(np.searchsorted(layout.indptr, start, side="right")) - 1
    high = int(np.searchsorted(layout.indptr, stop, side="left"))
    indptr = layout.indptr[low : high + 1] - layout.indptr[low]
    columns = np.empty(indptr[-1], dtype=np.int32)
    counts = np.empty(indptr[-1], dtype=writer.data_dtype)
    fill = indptr[:-1].copy()
    for rows, lengths, piece_columns, piece_counts in _pieces(path, writer):
        local = rows.astype(np.int64) - low
        at = np.repeat(fill[local] - _starts(lengths), lengths) + np.arange(piece_counts.size)
        columns[at] = piece_columns
        counts[at] = piece_counts
        fill[local] += lengths
    if not np.array_equal(fill, indptr[1:]):
        raise RuntimeError(f"{path}: the second pass over the source differed from the first")
    # int32 is enough for a shard, and what scipy sorts fastest.
    matrix = sp.csr_matrix(
        (counts, columns, indptr.astype(np.int32)),
        shape=(indptr.size - 1, layout.column_of.size),
        copy=False,
    )
    matrix.sort_indices()
    cut = slice(start - int(layout.indptr[low]), stop - int(layout.indptr[low]))
    writer.write_shard(number, matrix.data[cut], matrix.indices[cut].astype(writer.indices_dtype))
    path.unlink()


def _to_rows(block: Block, source: Source) -> tuple[NDArray[np.int64], Any]:
    """A block as CSR over all columns, and the source rows that it holds."""
    parts = (block.data, block.indices, block.indptr)
    if block.axis == "obs":
        rows = np.arange(block.start, block.start + block.n)
        return rows, sp.csr_matrix(parts, shape=(block.n, source.n_vars), copy=False)
    across = sp.csc_matrix(parts, shape=(source.n_obs, block.n), copy=False).tocsr()
    across.indices += block.start
    across = sp.csr_matrix(
        (across.data, across.indices, across.indptr), shape=(source.n_obs, source.n_vars)
    )
    return np.arange(source.n_obs), across


def _sums(indptr: NDArray[np.int64], values: NDArray[Any]) -> NDArray[np.int64]:
    running = np.zeros(values.size + 1, dtype=np.int64)
    np.cumsum(values, out=running[1:])
    return running[indptr[1:]] - running[indptr[:-1]]


def _inverse(order: NDArray[np.int64]) -> NDArray[np.int64]:
    inverse = np.empty(order.size, dtype=np.int64)
    inverse[order] = np.arange(order.size)
    return inverse


def _starts(lengths: NDArray[np.uint32]) -> NDArray[np.int64]:
    return np.cumsum(lengths, dtype=np.int64) - lengths


def _append(file: BinaryIO, *arrays: NDArray[Any]) -> None:
    """One piece: rows, their lengths, columns, counts."""
    packed = [blosc.compress(np.ascontiguousarray(array), b"lz4", 1) for array in arrays]
    file.write(_HEADER.pack(*map(len, packed)))
    for each in packed:
        file.write(each)


def _pieces(path: Path, writer: PartWriter) -> Iterator[tuple[NDArray[Any], ...]]:
    dtypes = (np.dtype(np.uint32), np.dtype(np.uint32), writer.indices_dtype, writer.data_dtype)
    with path.open("rb") as file:
        while header := file.read(_HEADER.size):
            sizes = _HEADER.unpack(header)
            yield tuple(
                np.frombuffer(blosc.decompress(file.read(size)), dtype=dtype)
                for size, dtype in zip(sizes, dtypes, strict=True)
            )
