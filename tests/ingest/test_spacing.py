from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellplm.ingest import spacing
from cellplm.ingest.spacing import lattice_pitch, nearest_distances, unit_doubt


def square(n: int, pitch: float) -> np.ndarray:
    return np.stack(np.divmod(np.arange(n * n), n), axis=1) * pitch


@settings(deadline=None, max_examples=30)
@given(
    pitch=st.floats(1e-3, 1e4),
    angle=st.floats(0, 7),
    hexagonal=st.booleans(),
    kept=st.floats(0.6, 1),
    seed=st.integers(0, 9),
)
def test_the_pitch_of_a_lattice_is_found_in_any_unit_and_turn(
    pitch: float, angle: float, hexagonal: bool, kept: float, seed: int
) -> None:
    xy = square(20, 1.0)
    if hexagonal:
        xy = np.stack([xy[:, 1] + xy[:, 0] % 2 / 2, xy[:, 0] * 3**0.5 / 2], axis=1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xy = xy[np.random.default_rng(seed).random(len(xy)) < kept] @ turn * pitch
    assert lattice_pitch(xy) == pytest.approx(pitch, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(100, 2000), seed=st.integers(0, 99), apart=st.floats(0, 1))
def test_cells_are_on_no_lattice_even_if_they_keep_a_distance(
    n: int, seed: int, apart: float
) -> None:
    rng = np.random.default_rng(seed)
    side = int(np.ceil(n**0.5))
    xy = square(side, 10.0)[:n] + rng.uniform(-4, 4, (n, 2)) * max(apart, 0.3)
    assert lattice_pitch(xy) is None


def test_few_positions_and_equal_ones_make_no_lattice() -> None:
    assert lattice_pitch(square(9, 1.0)) is None
    assert lattice_pitch(square(9, 1.0), at_least=7) == 1
    assert lattice_pitch(np.zeros((200, 2))) is None
    assert lattice_pitch(np.full((200, 2), np.nan)) is None


def test_distances_are_those_of_all_pairs() -> None:
    xy = np.random.default_rng(0).uniform(0, 9, (60, 2))
    between = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(between, np.inf)
    np.testing.assert_allclose(np.sort(nearest_distances(xy)), np.sort(between.min(axis=1)))
    holes = np.concatenate([xy, [[np.nan, 1], [np.inf, 2]]])
    np.testing.assert_allclose(nearest_distances(holes), nearest_distances(xy))


def test_a_band_of_many_positions_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    xy = np.random.default_rng(0).uniform(0, 100, (4000, 2))
    whole = np.median(nearest_distances(xy))
    monkeypatch.setattr(spacing, "MAX_POSITIONS", 1000)
    band = nearest_distances(xy)
    assert band.size == 1000
    assert np.median(band) == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize(("um", "doubted"), [(1e-3, True), (1, False), (20, False), (900, True)])
def test_a_unit_is_doubted_where_cells_are_too_near_or_far(um: float, doubted: bool) -> None:
    xy = np.random.default_rng(0).uniform(0, 30, (400, 2)) * um * 2
    assert (unit_doubt(xy) is not None) == doubted
    assert unit_doubt(xy[:50]) is None
