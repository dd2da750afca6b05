from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellplm.ingest.readers.slices import MAX_REUSED, Slices

VALUES = np.random.default_rng(0).integers(0, 1000, 5000).astype(np.int32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[h5py.File]:
    path: Path = tmp_path_factory.mktemp("slices") / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=VALUES, chunks=(77,))
        file.create_dataset("big", data=VALUES.astype(">i8"))
    with h5py.File(path) as file:
        yield file


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    cuts=st.lists(st.integers(0, 5000), min_size=2, max_size=30).map(sorted),
    held=st.lists(st.booleans(), min_size=30, max_size=30),
    key=st.sampled_from(["x", "big"]),
)
def test_what_is_held_is_never_written_over(
    file: h5py.File, cuts: list[int], held: list[bool], key: str
) -> None:
    slices = Slices(file[key])
    kept = []
    for low, high, keep in zip(cuts[:-1], cuts[1:], held, strict=False):
        piece = slices[low:high]
        np.testing.assert_array_equal(piece, VALUES[low:high])
        if keep:  # a view of a view holds the memory as well
            kept.append((low, high, piece[: high - low].view("u1")[:].view(piece.dtype)))
        del piece
    for low, high, view in kept:
        np.testing.assert_array_equal(view, VALUES[low:high])


def test_memory_that_nobody_holds_is_used_again(file: h5py.File) -> None:
    slices = Slices(file["x"])
    places = set()
    for low in range(0, 4000, 500):
        piece = slices[low : low + 500 - low // 100]
        places.add(piece.__array_interface__["data"][0])
        del piece
    assert len(places) == 1


def test_a_receiver_that_keeps_all_slices_has_all(file: h5py.File) -> None:
    slices = Slices(file["x"])
    kept = [slices[low : low + 100] for low in range(0, 5000, 100)]
    np.testing.assert_array_equal(np.concatenate(kept), VALUES)
    assert len(kept) > MAX_REUSED


def test_values_come_in_the_byte_order_of_this_machine(file: h5py.File) -> None:
    slices = Slices(file["big"])
    assert slices.dtype == np.int64
    assert slices[:].dtype.isnative
    np.testing.assert_array_equal(slices[:], VALUES)
    assert slices[4990:9999].tolist() == VALUES[4990:].tolist()
    assert slices[7:7].size == 0
