"""Make blocks of dense values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellplm.ingest.source import Axis, Block

BLOCK_VALUES = 4 * 2**20
"""Values that a reader gives a block, about: its memory does not depend on the size of a file."""


def compress(values: NDArray[Any], *, axis: Axis, start: int) -> Block:
    """The values other than 0 of whole rows (axis "obs") or whole columns (axis "var").

    Args:
        values: (n, other), segments along the first dimension; NaN is kept.
        axis: what the first dimension runs along.
        start: the source row (or column) of `values[0]`.
    """
    segment, other = np.nonzero(values)
    indptr = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(np.bincount(segment, minlength=len(values)), out=indptr[1:])
    return Block(
        axis=axis,
        start=start,
        indptr=indptr,
        indices=other.astype(np.int32),
        data=values[segment, other],
    )
