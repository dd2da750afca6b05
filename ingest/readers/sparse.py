"""Read a compressed sparse matrix, whose three arrays lie in a file, in blocks.

The arrays may be HDF5 data sets or Zarr arrays: all that is asked of them is a shape, a dtype and
slicing. A block holds whole segments (cells of a CSR matrix of cells x genes, genes of a CSC
one), so its size is the one asked for or one segment, whichever is more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.source import Axis, Block


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sparse:
    """A matrix as indptr, indices and data.

    Attributes:
        where: the file and the place in it, for messages.
        axis: what indptr runs along; "obs" for CSR where rows are cells.
        n_major: segments, one less than indptr has entries.
        n_minor: what indices count.
        indptr: (n_major + 1,) integers.
        indices: (nnz,) integers.
        data: (nnz,) numbers.
        block_values: about as many values make a block.
    """

    where: str
    axis: Axis
    n_major: int
    n_minor: int
    indptr: Any
    indices: Any
    data: Any
    block_values: int


def checked_indptr(matrix: Sparse) -> NDArray[np.int64]:
    """(n_major + 1,) int64, once it is known to fit shape, data and indices.

    Raises:
        InputError: the three arrays do not fit together.
    """
    where = matrix.where
    for name, array in (("indptr", matrix.indptr), ("indices", matrix.indices)):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(f"{where}/{name} is {_what(array)}; integers in a row were expected")
    if matrix.data.ndim != 1:
        raise InputError(f"{where}/data is {_what(matrix.data)}; numbers in a row were expected")
    n_data, n_indices = matrix.data.shape[0], matrix.indices.shape[0]
    if n_data != n_indices:
        raise InputError(f"{where} has {n_data} values but {n_indices} indices")
    if matrix.indptr.shape[0] != matrix.n_major + 1:
        raise InputError(
            f"{where}/indptr has {matrix.indptr.shape[0]} entries, {matrix.n_major + 1} were "
            f"expected"
        )
    indptr = np.asarray(matrix.indptr[:]).astype(np.int64)
    lengths = np.diff(indptr)
    if indptr[0] != 0 or indptr[-1] != n_data or (lengths < 0).any():
        raise InputError(f"{where}/indptr does not rise from 0 to {n_data}, the number of values")
    # A longer segment repeats itself somewhere, and could be longer than memory.
    if lengths.size and lengths.max() > matrix.n_minor:
        major, minor = _words(matrix.axis)
        raise InputError(
            f"{where} has {lengths.max()} values in {major} {int(lengths.argmax())}, but there "
            f"are only {matrix.n_minor} {minor}s"
        )
    return indptr


def blocks(matrix: Sparse) -> Iterator[Block]:
    """One pass over the matrix; a block's arrays are the receiver's own.

    Raises:
        InputError: see `checked_indptr`; or an index is out of range.
    """
    indptr = checked_indptr(matrix)
    start = 0
    while start < matrix.n_major:
        stop = int(np.searchsorted(indptr, indptr[start] + matrix.block_values, side="right")) - 1
        stop = min(max(stop, start + 1), matrix.n_major)
        low, high = int(indptr[start]), int(indptr[stop])
        yield Block(
            axis=matrix.axis,
            start=start,
            indptr=indptr[start : stop + 1] - low,
            indices=_checked_indices(matrix, low, high),
            data=native(matrix.data[low:high]),
        )
        start = stop


def native(values: NDArray[Any]) -> NDArray[Any]:
    """The same values in the byte order of this machine, without a copy where they are."""
    return np.asarray(values, dtype=values.dtype.newbyteorder("="))


def _checked_indices(matrix: Sparse, low: int, high: int) -> NDArray[np.int32]:
    indices = native(matrix.indices[low:high])
    if indices.size:
        # A negative number is a huge one without its sign: one look finds both faults.
        bits = indices.view(f"u{indices.itemsize}")
        if bits.max() >= matrix.n_minor:
            bad = indices[int(np.argmax(bits >= matrix.n_minor))]
            raise InputError(
                f"{matrix.where}/indices holds {bad}, but there are {matrix.n_minor} "
                f"{_words(matrix.axis)[1]}s"
            )
    return indices.astype(np.int32, copy=False)


def _words(axis: Axis) -> tuple[str, str]:
    return ("cell", "feature") if axis == "obs" else ("feature", "cell")


def _what(array: Any) -> str:
    return f"{array.ndim}-dimensional of type {array.dtype}"
