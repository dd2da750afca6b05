"""Look at a few values of a matrix to tell where the counts may be.

A sample proves nothing: the whole matrix is checked when it is read. It only spares reading
all of a layer that is normalised.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cellplm.ingest.blocks import BLOCK_VALUES
from cellplm.ingest.counts import fault_of
from cellplm.ingest.readers.dense import plan_slabs, read_slabs

SAMPLE_VALUES = 100_000
SAMPLE_RUNS = 16


def fault_of_sample(values: Any) -> str | None:
    """Why values, in a sample spread evenly over them, are not raw counts; None if they may be.

    Args:
        values: HDF5 data set or Zarr array of one or two dimensions.
    """
    if values.dtype.kind not in "iufb":
        return f"values of type {values.dtype}"
    if 0 in values.shape:
        return "no values"
    sample = [np.asarray(values[place]).ravel() for place in _places(values)]
    seen = np.concatenate(sample)
    if seen.dtype == np.float16:  # too narrow for the bounds of counts
        seen = seen.astype(np.float32)
    if fault := fault_of(seen):
        return fault
    # Thin matrices: nothing but zeros in a sample says nothing, so look at all of it.
    return None if seen.any() or _any(values) else "no values but zero"


def _places(values: Any) -> list[tuple[slice, ...]]:
    """Boxes that touch few chunks: one is unpacked whole for any part of it."""
    run = SAMPLE_VALUES // SAMPLE_RUNS
    if values.ndim == 1 or values.chunks is None:
        lines = max(1, run // max(int(np.prod(values.shape[1:])), 1))
        starts = sorted({values.shape[0] * i // SAMPLE_RUNS for i in range(SAMPLE_RUNS)})
        return [(slice(start, start + lines),) for start in starts]
    # In equal steps one might meet the same column of chunks every time.
    rng = np.random.default_rng(0)
    tall, wide = values.chunks
    wide = min(wide, run)
    tall = min(tall, max(1, run // wide))
    places = set()
    for _ in range(SAMPLE_RUNS):
        box = []
        for n, chunk, length in zip(values.shape, values.chunks, (tall, wide), strict=True):
            first = int(rng.integers(-(-n // chunk))) * chunk
            last = max(first, min(first + chunk, n) - length)
            box.append(int(rng.integers(first, last + 1)))
        places.add((box[0], box[1]))
    return [(slice(y, y + tall), slice(x, x + wide)) for y, x in sorted(places)]


def _any(values: Any) -> bool:
    if values.ndim == 1:
        n = values.shape[0]
        return any(values[i : i + BLOCK_VALUES].any() for i in range(0, n, BLOCK_VALUES))
    slabs = plan_slabs(values.shape, values.chunks, values.dtype.itemsize)
    return any(slab.any() for _, slab in read_slabs(values, slabs))
