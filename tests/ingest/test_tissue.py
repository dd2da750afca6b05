from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.source import Modality, Source
from cellplm.ingest.tissue import MAX_CELLS, MIN_CELLS, TILE_UM, assign, hilbert, order_within
from tests.ingest.make import make_source


def source_of(
    obs: Mapping[str, Sequence[str | None]],
    n: int,
    *,
    modality: Modality = "scrna",
    coords_um: NDArray[np.float32] | None = None,
) -> Source:
    frame = pd.DataFrame(obs, index=[f"c{i}" for i in range(n)])
    return make_source(np.zeros((n, 1)), obs=frame, modality=modality, coords_um=coords_um)


def positions(n: int, width_um: float, height_um: float, *, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).random((n, 2)) * (width_um, height_um)).astype(np.float32)


def test_the_first_known_column_that_divides_the_cells_makes_samples() -> None:
    obs = {"batch": ["x", "y"] * 20, "sample_id": ["one"] * 40, "donor": ["b"] * 30 + ["a"] * 10}
    got = assign(source_of(obs, 40), tissue_key=None)
    assert got.rule == "obs['donor']"
    assert got.tissue.tolist() == [0] * 30 + [1] * 10
    assert got.sample.tolist() == obs["donor"]
    assert set(got.fov) == {""}


def test_a_column_of_cell_names_is_no_sample() -> None:
    got = assign(source_of({"sample": [f"c{i}" for i in range(40)]}, 40), tissue_key=None)
    assert got.rule == "one sample: no sample column"
    assert set(got.sample) == {"tiny"}


def test_a_column_with_one_value_names_the_sample() -> None:
    got = assign(source_of({"sample": ["s7"] * 20}, 20), tissue_key=None)
    assert "one value" in got.rule
    assert set(got.sample) == {"s7"}


def test_an_asked_column_is_taken_and_an_unknown_one_is_told() -> None:
    source = source_of({"kind": ["a", "b", "a"], "size": ["1", "2", "3"]}, 3)
    assert assign(source, tissue_key="kind").tissue.tolist() == [0, 1, 0]
    with pytest.raises(InputError, match="'missing'.*kind, size"):
        assign(source, tissue_key="missing")


def test_missing_sample_values_are_a_sample_of_their_own() -> None:
    obs = {"sample": ["a"] * 20 + [None] * 20}
    assert assign(source_of(obs, 40), tissue_key=None).tissue.tolist() == [0] * 20 + [1] * 20


def test_fields_of_view_are_tissues_within_their_sample() -> None:
    obs = {"fov": ["1", "2"] * 20, "slide": ["x"] * 20 + ["y"] * 20}
    source = source_of(obs, 40, modality="srt", coords_um=positions(40, 10, 10))
    got = assign(source, tissue_key=None)
    assert got.tissue.max() == 3
    assert got.fov.tolist() == obs["fov"]
    assert got.sample.tolist() == obs["slide"]


@settings(deadline=None)
@given(st.integers(1, 4000), st.floats(10, 4000), st.floats(10, 4000), st.integers(0, 5))
def test_tiles_hold_all_cells_and_few_are_thin(
    n: int, width_um: float, height_um: float, seed: int
) -> None:
    source = source_of(
        {}, n, modality="srt", coords_um=positions(n, width_um, height_um, seed=seed)
    )
    got = assign(source, tissue_key=None)
    sizes = np.bincount(got.tissue)
    assert sizes.sum() == n
    assert sizes.min() >= min(n, MIN_CELLS)
    assert got.tissue[0] == 0
    assert "tiles of 512" in got.rule


def test_a_tile_is_512_um_where_cells_are_dense() -> None:
    n = 4000
    source = source_of({}, n, modality="srt", coords_um=positions(n, 4 * TILE_UM, TILE_UM))
    assert assign(source, tissue_key=None).tissue.max() + 1 == 4


def test_a_crowded_tissue_is_split() -> None:
    n = 2 * MAX_CELLS + 1
    source = source_of({}, n, modality="srt", coords_um=positions(n, 100, 50))
    got = assign(source, tissue_key=None)
    assert np.bincount(got.tissue).max() <= MAX_CELLS
    assert got.tissue.max() + 1 == 3
    assert len(set(got.fov)) == 1


def test_a_cell_without_position_is_in_no_tile() -> None:
    coords = positions(60, 100, 100)
    coords[3] = np.nan
    got = assign(source_of({}, 60, modality="srt", coords_um=coords), tissue_key=None)
    assert got.tissue[3] == -1
    assert (np.delete(got.tissue, 3) == 0).all()


@settings(deadline=None)
@given(st.integers(0, 300), st.booleans(), st.integers(0, 9))
def test_the_order_is_a_permutation_sorted_by_tissue_with_the_rest_last(
    n: int, spatial: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tissue = rng.integers(-1, 4, size=n).astype(np.int32)
    coords = positions(n, 300, 100, seed=seed) if spatial else None
    order = order_within(tissue, coords, seed)
    assert sorted(order.tolist()) == list(range(n))
    codes = tissue[order]
    inside = codes[codes >= 0]
    assert (np.diff(inside) >= 0).all()
    assert (codes[inside.size :] == -1).all()
    np.testing.assert_array_equal(order, order_within(tissue, coords, seed))


def test_dissociated_cells_are_shuffled_by_the_seed() -> None:
    tissue = np.zeros(100, dtype=np.int32)
    first, second = order_within(tissue, None, 1), order_within(tissue, None, 2)
    assert first.tolist() != second.tolist()
    assert first.tolist() != list(range(100))


def test_neighbours_on_the_hilbert_curve_are_neighbours_in_the_plane() -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(64), np.arange(64)))
    distance = hilbert(x, y)
    assert sorted(distance.tolist()) == list(range(64 * 64))
    walk = np.argsort(distance)
    steps = np.abs(np.diff(x[walk])) + np.abs(np.diff(y[walk]))
    assert (steps == 1).all()


def test_the_hilbert_curve_reaches_its_last_corner() -> None:
    top = np.array([0, 2**16 - 1])
    assert hilbert(top, np.zeros(2, dtype=np.int64)).tolist() == [0, 2**32 - 1]
