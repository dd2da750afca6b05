"""Read a dense matrix that lies in a file in blocks, along the axis that fits its chunks.

A compressed chunk is unpacked whole for any part of it, so a matrix of whole columns a chunk
that is read row by row is unpacked as often as it has blocks of rows. Slabs of whole chunks are
read instead, along the other axis where they would not fit into memory, and cut into blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellplm.ingest.blocks import BLOCK_VALUES, compress
from cellplm.ingest.readers.sparse import native
from cellplm.ingest.source import Axis, Block

SLAB_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Slabs:
    """How a matrix is read: `step` lines along dimension `dim` at a time."""

    dim: int
    step: int
    rereads: int
    """How often a chunk is unpacked."""


def blocks(array: Any, *, rows: Axis, first: int = 0) -> Iterator[Block]:
    """One pass over a two-dimensional HDF5 data set or Zarr array.

    Args:
        array: the matrix as it is stored.
        rows: what its first dimension runs along: "obs" for cells x genes.
        first: the dimension whose blocks are preferred where both cost the same.
    """
    slabs = plan_slabs(array.shape, array.chunks, array.dtype.itemsize, first=first)
    columns: Axis = "var" if rows == "obs" else "obs"
    axis = rows if slabs.dim == 0 else columns
    across = array.shape[1 - slabs.dim]
    n_lines = max(1, BLOCK_VALUES // max(across, 1))
    for start, slab in read_slabs(array, slabs):
        for low in range(0, len(slab), n_lines):
            yield compress(slab[low : low + n_lines], axis=axis, start=start + low)


def plan_slabs(
    shape: tuple[int, int], chunks: tuple[int, int] | None, itemsize: int, *, first: int = 0
) -> Slabs:
    """The slabs that unpack chunks least often.

    Args:
        shape: of the matrix.
        chunks: of the matrix; None where it lies in one piece.
        itemsize: bytes a value.
        first: the dimension to prefer among equals.
    """
    if chunks is None:  # rows lie one after the other; columns would be picked out
        return Slabs(dim=0, step=max(1, BLOCK_VALUES // max(shape[1], 1)), rereads=1)
    plans = []
    for dim in (first, 1 - first):
        across, deep = max(shape[1 - dim], 1), min(chunks[dim], max(shape[dim], 1))
        step = max(1, BLOCK_VALUES // across)
        if step >= deep:
            step -= step % deep
        elif deep * across * itemsize <= SLAB_BYTES:
            step = deep
        plans.append(Slabs(dim=dim, step=step, rereads=-(-deep // step)))
    return min(plans, key=lambda plan: plan.rereads)


def read_slabs(array: Any, slabs: Slabs) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first line, (lines, other) values) from one end to the other, lines in rows."""
    for start in range(0, array.shape[slabs.dim], slabs.step):
        stop = start + slabs.step
        values = array[start:stop] if slabs.dim == 0 else array[:, start:stop].T
        yield start, np.ascontiguousarray(native(values))
