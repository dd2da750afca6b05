"""Slice a long row of numbers of an HDF5 file, into memory that is used again.

Fresh memory is not free: the system has to find and clear each page of it, which takes as long
as copying the values (1.9 instead of 2.9 ns CPU a value and its index). A slice is the
receiver's own for as long as they, or any view of it, hold it; only when nobody does any more may
a later one come in its place.
"""

from __future__ import annotations

import sys
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

# A receiver that keeps all slices gets fresh memory for each, and this many are remembered.
MAX_REUSED = 4


class Slices:
    """A one-dimensional data set of numbers that gives slices in the byte order of this machine.

    Attributes:
        shape: of the data set.
        ndim: 1.
        dtype: of the slices.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        """Take a data set that stays open."""
        self._dataset = dataset
        self._memory: list[NDArray[Any]] = []
        self.shape = dataset.shape
        self.ndim = dataset.ndim
        self.dtype = dataset.dtype.newbyteorder("=")

    def __getitem__(self, at: slice) -> NDArray[Any]:
        """(stop - start,) values; the receiver's own, see above."""
        start, stop, _ = at.indices(self.shape[0])
        values = self._room(max(stop - start, 0))
        if values.size:
            self._dataset.read_direct(values, np.s_[start:stop])
        return values

    def _room(self, n: int) -> NDArray[Any]:
        for memory in self._memory:
            if memory.size >= n and sys.getrefcount(memory) == _UNSEEN:
                return memory[:n]
        # Slices differ a little in size; what is not touched costs nothing.
        memory = np.empty(1 << max(n - 1, 0).bit_length(), dtype=self.dtype)
        self._memory = [*self._memory[1 - MAX_REUSED :], memory]
        return memory[:n]


def _references_of_unseen() -> int:
    """What `sys.getrefcount` says in `Slices._room` of memory that nobody looks at."""
    for memory in [np.empty(1)]:
        return sys.getrefcount(memory)
    raise AssertionError


_UNSEEN = _references_of_unseen()
