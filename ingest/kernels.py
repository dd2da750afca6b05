# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg"
"""The inner loops of an ingest, compiled: check counts, sum cells, place and sort rows.

Plain arithmetic on arrays that the callers have sized; nothing here knows files or names.
All release the GIL. Legend: a *block* is a compressed matrix of whole rows (or columns) of the
source; a *piece* is some rows of a part: their source row, length, columns and counts.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

FAULT_NONE, FAULT_VALUE, FAULT_INDEX, FAULT_REPEAT, FAULT_WIDE = 0, 1, 2, 3, 4
"""What is wrong at a place: no count; an index out of range; a second value of one entry; a
count that the array for it cannot hold."""

TOLERANCE = 1e-6
LARGEST = 2**32 - 1

# Odd constants of the content hash (ingest/content.py): Knuth's golden ratio, and the
# finaliser of MurmurHash3.
HASH_COUNT = np.uint64(0x9E3779B97F4A7C15)
HASH_MIX_A, HASH_MIX_B = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
_WORD, _BIT = np.int64(6), np.int64(63)
_FULL = 4
"""Rows of more than a fourth as many entries as the bitmap has words are read along all words."""
_ONE, _NONE = np.uint64(1), np.uint64(0)

_jit: Any = nb.njit(nogil=True, cache=True)


@_jit
def mix(value):
    """The finaliser of MurmurHash3 (Appleby, public domain) of a uint64."""
    value ^= value >> _SHIFT
    value *= HASH_MIX_A
    value ^= value >> _SHIFT
    value *= HASH_MIX_B
    return value ^ (value >> _SHIFT)


@_jit
def hash_pair(gene, count):
    """What a (gene hash, count) pair adds to the hash of its cell, uint64."""
    return mix(gene + np.uint64(count) * HASH_COUNT)


@_jit
def whole(value):
    """(count, whether it had to be rounded); a count of -1 for what is no count."""
    count = np.int64(value)
    if count == value and 0 <= count <= LARGEST:
        return count, False
    nearest = np.rint(value)
    # A comparison with NaN is false, and infinity fails the bound.
    if abs(value - nearest) <= TOLERANCE and value >= -TOLERANCE and nearest <= LARGEST:
        return np.int64(nearest), True
    return np.int64(-1), False


@_jit
def take_rows(
    indptr, indices, data, column_of, gene_hash, is_gene, limit, seen,
    columns, counts, lengths, totals, library, content,
):  # fmt: skip
    """Check the rows of a block, sum them, and keep what is not 0, in the part's columns.

    Args:
        indptr: (n + 1,) int64 from 0.
        indices: (nnz,) int32 source columns, any order.
        data: (nnz,) int32, int64, float32 or float64.
        column_of: (V,) uint32 column in the part.
        gene_hash: (V,) uint64, 0 where the column has no gene id.
        is_gene: (V,) bool, which columns count for the library size.
        limit: the largest count that `counts` can hold.
        seen: (V,) int64 scratch, all -1.
        columns: (nnz,) out, unsigned: columns of the part, in the source's order.
        counts: (nnz,) out, unsigned.
        lengths: (n,) out, uint32 entries kept per row.
        totals: (n,) out, int64 sums over all columns.
        library: (n,) out, int64 sums over the genes.
        content: (n,) out, uint64 sums of `hash_pair`.

    Returns:
        (entries kept, values rounded, largest count, fault, place of the fault in `data`).
    """
    n_vars = column_of.size
    kept, n_rounded, largest = 0, 0, np.int64(0)
    for row in range(indptr.size - 1):
        begin = kept
        total, genes, hashed = np.int64(0), np.int64(0), _NONE
        previous, ascending = -1, True
        for at in range(indptr[row], indptr[row + 1]):
            column = indices[at]
            if column < 0 or column >= n_vars:
                return kept, n_rounded, largest, FAULT_INDEX, at
            ascending = ascending and column > previous
            previous = column
            count, rounded = whole(data[at])
            if count < 0:
                return kept, n_rounded, largest, FAULT_VALUE, at
            if count > limit:
                return kept, n_rounded, largest, FAULT_WIDE, at
            if rounded:
                n_rounded += 1
            if count == 0:
                continue
            total += count
            genes += count * is_gene[column]
            gene = gene_hash[column]
            if gene != _NONE:
                hashed += hash_pair(gene, count)
            largest = max(largest, count)
            columns[kept] = column_of[column]
            counts[kept] = count
            kept += 1
        if not ascending:
            for at in range(indptr[row], indptr[row + 1]):
                if seen[indices[at]] == row:
                    return kept, n_rounded, largest, FAULT_REPEAT, at
                seen[indices[at]] = row
        lengths[row] = kept - begin
        totals[row], library[row], content[row] = total, genes, hashed
    return kept, n_rounded, largest, FAULT_NONE, -1


@_jit
def take_columns(
    indptr, indices, data, gene_hash, is_gene, seen,
    counts, lengths, totals, library, content,
):  # fmt: skip
    """Check the columns of a block and add them to the sums of its rows.

    Args:
        indptr: (n + 1,) int64 from 0.
        indices: (nnz,) int32 source rows, any order within a column.
        data: (nnz,) int32, int64, float32 or float64.
        gene_hash: (n,) uint64, as in `take_rows` but of the columns of the block alone.
        is_gene: (n,) bool.
        seen: (N,) int64 scratch, all -1.
        counts: (nnz,) out, uint32, zeros included.
        lengths: (N,) out, int64, zeroed: entries of the block per row.
        totals: (N,) int64, added to.
        library: (N,) int64, added to.
        content: (N,) uint64, added to.

    Returns:
        (entries kept, values rounded, largest count, fault, place of the fault in `data`).
    """
    n_obs = seen.size
    kept, n_rounded, largest = 0, 0, np.int64(0)
    for column in range(indptr.size - 1):
        previous, ascending = -1, True
        for at in range(indptr[column], indptr[column + 1]):
            row = indices[at]
            if row < 0 or row >= n_obs:
                return kept, n_rounded, largest, FAULT_INDEX, at
            ascending = ascending and row > previous
            previous = row
            count, rounded = whole(data[at])
            if count < 0:
                return kept, n_rounded, largest, FAULT_VALUE, at
            if rounded:
                n_rounded += 1
            counts[at] = count
            if count == 0:
                continue
            totals[row] += count
            if is_gene[column]:
                library[row] += count
            if gene_hash[column] != _NONE:
                content[row] += hash_pair(gene_hash[column], count)
            largest = max(largest, count)
            lengths[row] += 1
            kept += 1
        if not ascending:
            for at in range(indptr[column], indptr[column + 1]):
                if seen[indices[at]] == column:
                    return kept, n_rounded, largest, FAULT_REPEAT, at
                seen[indices[at]] = column
    return kept, n_rounded, largest, FAULT_NONE, -1


@_jit
def turn(indptr, indices, counts, column_of, fill, columns, turned):
    """Columns of a block as rows: the second half of `take_columns`.

    Args:
        indptr: (n + 1,) int64.
        indices: (nnz,) int32 source rows.
        counts: (nnz,) uint32; zeros are left out.
        column_of: (n,) uint32 columns of the part.
        fill: (N,) int64, where the next entry of a row goes; advanced.
        columns: out, by row.
        turned: out, counts by row, wide enough.
    """
    for column in range(indptr.size - 1):
        for at in range(indptr[column], indptr[column + 1]):
            if counts[at] != 0:
                to = fill[indices[at]]
                columns[to] = column_of[column]
                turned[to] = counts[at]
                fill[indices[at]] = to + 1


@_jit
def gather(picked, starts, lengths, columns, counts, out_columns, out_counts):
    """Copy some rows of a piece behind one another.

    Args:
        picked: (k,) int64 positions of rows in the piece.
        starts: (n,) int64 first entry of each row of the piece.
        lengths: (n,) uint32.
        columns: of the piece.
        counts: of the piece.
        out_columns: as long as the picked rows together.
        out_counts: likewise.
    """
    to = 0
    for row in picked:
        for at in range(starts[row], starts[row] + lengths[row]):
            out_columns[to] = columns[at]
            out_counts[to] = counts[at]
            to += 1


@_jit
def place(rows, lengths, columns, counts, row_of, low, fill, out_columns, out_counts):
    """Copy those rows of a piece that belong to a range of the part to where they belong.

    Args:
        rows: (n,) uint32 source rows.
        lengths: (n,) uint32.
        columns: of the piece.
        counts: of the piece.
        row_of: (N,) int64 destination of each source row.
        low: the first destination of the range.
        fill: (range,) int64, where the next entry of a row goes; advanced.
        out_columns: of the range.
        out_counts: of the range.
    """
    at = 0
    for i in range(rows.size):
        length = lengths[i]
        target = row_of[rows[i]] - low
        if 0 <= target < fill.size:
            to = fill[target]
            for k in range(length):
                out_columns[to + k] = columns[at + k]
                out_counts[to + k] = counts[at + k]
            fill[target] = to + length
        at += length


@_jit
def sort_rows(starts, lengths, columns, counts, n_vars, out_columns, out_counts):
    """Copy rows behind one another, each sorted by column.

    The counts of a row are scattered over all columns and gathered again along a bitmap, for
    short rows along a second level above it: linear in the entries, whatever their order.

    Args:
        starts: (n,) int64 first entry of each row.
        lengths: (n,) int64.
        columns: unsigned, no column twice in a row.
        counts: unsigned.
        n_vars: columns.
        out_columns: as long as the rows together.
        out_counts: likewise.
    """
    n_words = (n_vars >> _WORD) + 1
    words = np.zeros(n_words, dtype=np.uint64)
    above = np.zeros((n_words >> _WORD) + 1, dtype=np.uint64)
    held = np.empty(n_vars, dtype=counts.dtype)
    to = 0
    for row in range(starts.size):
        start, stop = starts[row], starts[row] + lengths[row]
        for at in range(start, stop):
            column = np.int64(columns[at])
            held[column] = counts[at]
            words[column >> _WORD] |= _ONE << np.uint64(column & _BIT)
        if lengths[row] * _FULL > n_words:
            for word in range(n_words):
                inner = words[word]
                words[word] = _NONE
                while inner != _NONE:
                    column = (np.int64(word) << _WORD) + np.int64(trailing_zeros(inner))
                    inner &= inner - _ONE
                    out_columns[to] = column
                    out_counts[to] = held[column]
                    to += 1
            continue
        for at in range(start, stop):
            outer_word = np.int64(columns[at]) >> _WORD
            above[outer_word >> _WORD] |= _ONE << np.uint64(outer_word & _BIT)
        for i in range(above.size):
            outer = above[i]
            above[i] = _NONE
            while outer != _NONE:
                outer_word = (np.int64(i) << _WORD) + np.int64(trailing_zeros(outer))
                outer &= outer - _ONE
                inner = words[outer_word]
                words[outer_word] = _NONE
                while inner != _NONE:
                    column = (outer_word << _WORD) + np.int64(trailing_zeros(inner))
                    inner &= inner - _ONE
                    out_columns[to] = column
                    out_counts[to] = held[column]
                    to += 1
