from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellplm.ingest.readers import dense
from cellplm.ingest.readers.dense import plan_slabs
from tests.ingest.make import dense as matrix_of
from tests.ingest.make import make_counts


class Counting:
    """A matrix in chunks that counts how often each is touched, as HDF5 without a cache would."""

    def __init__(self, values: np.ndarray, chunks: tuple[int, int]) -> None:
        self.values, self.chunks = values, chunks
        self.shape, self.dtype = values.shape, values.dtype
        self.touched = np.zeros([-(-n // c) for n, c in zip(values.shape, chunks, strict=True)])
        self.largest = 0

    def __getitem__(self, at: Any) -> np.ndarray:
        rows, columns = at if isinstance(at, tuple) else (at, slice(None))
        spans = [
            (s.indices(n)[0] // c, -(-s.indices(n)[1] // c))
            for s, n, c in zip((rows, columns), self.shape, self.chunks, strict=True)
        ]
        self.touched[slice(*spans[0]), slice(*spans[1])] += 1
        out = self.values[rows, columns]
        self.largest = max(self.largest, out.size)
        return out


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    chunks=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    first=st.integers(0, 1),
    size=st.integers(1, 400),
    slab=st.integers(0, 4000),
)
def test_the_plan_keeps_its_word_and_the_memory(
    shape: tuple[int, int], chunks: tuple[int, int], first: int, size: int, slab: int
) -> None:
    values = make_counts(*shape)
    array = Counting(values, chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "BLOCK_VALUES", size)
        patch.setattr(dense, "SLAB_BYTES", slab)
        plan = plan_slabs(shape, chunks, 8, first=first)
        blocks = list(dense.blocks(array, rows="obs", first=first))
    np.testing.assert_array_equal(matrix_of(iter(blocks), shape), values)
    assert array.touched.max() <= plan.rereads + 1
    assert array.touched.min() >= 1
    line = shape[1 - plan.dim]
    assert array.largest <= max(size, slab / 8, line)
    assert all(block.n <= max(1, size // line) for block in blocks)


def test_whole_columns_in_a_chunk_are_read_as_columns() -> None:
    plan = plan_slabs((10**6, 30_000), (10**6, 1), 4)
    assert (plan.dim, plan.rereads) == (1, 1)


def test_the_preferred_axis_is_kept_where_it_costs_no_more() -> None:
    for first in (0, 1):
        plan = plan_slabs((30_000, 10**6), (64, 64), 4, first=first)
        assert (plan.dim, plan.rereads) == (first, 1)


def test_chunks_that_fit_no_slab_are_read_along_the_cheaper_axis() -> None:
    plan = plan_slabs((10**6, 10**6), (10_000, 5_000), 4)
    assert plan.dim == 1
    assert plan.rereads > 1
