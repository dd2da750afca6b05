"""An epoch holds every cell once, whatever is asked of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellplm.config import build
from cellplm.corpus import index as part_index
from cellplm.corpus.index import PartIndex
from cellplm.corpus.manifest import GenesRef, ObjectRef, PartEntry, Snapshot
from cellplm.corpus.plan import (
    Plan,
    PlanConfig,
    Tissues,
    deal,
    digest,
    plan_epoch,
    plan_in_order,
    tissues,
)
from cellplm.errors import ConfigError


@dataclass
class Made:
    table: Tissues
    indices: list[PartIndex]
    sizes: list[list[int]]

    def cells(self, plan: Plan) -> list[tuple[int, int]]:
        """(part, row) of every cell of a plan, in order."""
        part = self.table.part[plan.window_tissue]
        return [
            (int(p), row)
            for p, a, b in zip(part, plan.window_start, plan.window_stop, strict=True)
            for row in range(a, b)
        ]

    def all_cells(self) -> list[tuple[int, int]]:
        return [(p, row) for p, sizes in enumerate(self.sizes) for row in range(sum(sizes))]


def make(sizes: list[list[int]], config: PlanConfig, *, nnz: int = 3) -> Made:
    """Parts of tissues of these sizes, `nnz` stored counts a cell; every second part is SRT."""
    indices, entries = [], []
    for number, each in enumerate(sizes):
        stop = np.cumsum(each).astype(np.int64)
        indptr = np.arange(sum(each) + 1, dtype=np.int64) * nnz
        srt = number % 2 == 1
        indices.append(
            PartIndex(
                tissue_start=stop - each,
                tissue_stop=stop,
                tissue_nnz=np.array(each, dtype=np.int64) * nnz,
                tissue_sample=np.array(
                    ["s"] * len(each) if srt else [f"s{i}" for i in range(len(each))]
                ),
                tissue_fov=np.array([str(i) if srt else "" for i in range(len(each))]),
                tissue_origin_um=np.zeros((len(each), 2), dtype=np.float32),
                tissue_extent_um=np.ones((len(each), 2), dtype=np.float32),
                nnz_prefix=part_index.nnz_prefix(indptr),
                gene_number=np.arange(10, dtype=np.int32),
                library_size=np.full(sum(each), 5, dtype=np.uint32),
            )
        )
        entries.append(
            PartEntry(
                id=f"p{number}", path=f"parts/p{number}", name=f"part{number}",
                modality="srt" if srt else "scrna", platform="x", species="human",
                n_obs=sum(each), n_kept=sum(each), n_vars=10, n_genes=10, nnz=sum(each) * nnz,
                n_tissues=len(each), content=f"{number:032x}", sources=(),
                index=ObjectRef(path="i", sha256=""), objects=ObjectRef(path="o", sha256=""),
            )
        )  # fmt: skip
    snapshot = Snapshot(
        snapshot=1, parent=None, created="", writer="", operation="ingest",
        genes=GenesRef(path="g", n=10, sha256=""), parts=tuple(entries),
    )  # fmt: skip
    return Made(table=tissues(snapshot, indices, config), indices=indices, sizes=sizes)


part_sizes = st.lists(
    st.lists(st.integers(1, 3000), min_size=1, max_size=6), min_size=1, max_size=4
)


@given(
    sizes=part_sizes, window=st.integers(1, 900), seed=st.integers(0, 5), epoch=st.integers(0, 3)
)
def test_every_cell_is_seen_exactly_once_in_windows_of_bounded_size(
    sizes: list[list[int]], window: int, seed: int, epoch: int
) -> None:
    config = PlanConfig(window=window, global_batch_packs=3)
    made = make(sizes, config)
    plan = plan_epoch(made.table, made.indices, config, seed=seed, epoch=epoch)
    assert sorted(made.cells(plan)) == made.all_cells()
    size = plan.window_stop - plan.window_start
    assert size.min() >= 1
    assert size.max() <= window
    packs = [p for step in range(plan.n_steps) for p in plan.packs_of_step(step)]
    assert packs == list(range(plan.n_packs))
    assert plan.n_cells == len(made.all_cells())


@given(sizes=part_sizes, window=st.integers(2, 900))
def test_a_tissue_is_cut_into_pieces_of_about_half_a_window_or_more(
    sizes: list[list[int]], window: int
) -> None:
    config = PlanConfig(window=window)
    made = make(sizes, config)
    plan = plan_epoch(made.table, made.indices, config, seed=1, epoch=0)
    tissue_size = (made.table.stop - made.table.start)[plan.window_tissue]
    cut = tissue_size > window
    size = plan.window_stop - plan.window_start
    assert (size[cut] >= window // 2).all()
    assert (size[~cut] == tissue_size[~cut]).all()


@given(sizes=part_sizes, pack_nnz=st.integers(50, 5000))
def test_a_pack_stays_in_one_part_and_under_its_budgets(
    sizes: list[list[int]], pack_nnz: int
) -> None:
    config = PlanConfig(window=500, pack_cells=1200, pack_nnz=pack_nnz)
    made = make(sizes, config)
    plan = plan_epoch(made.table, made.indices, config, seed=1, epoch=0)
    for pack in range(plan.n_packs):
        windows = plan.windows_of_pack(pack)
        size = (plan.window_stop - plan.window_start)[windows.start : windows.stop]
        part = made.table.part[plan.window_tissue[windows.start : windows.stop]]
        assert np.unique(part).size == 1
        assert size.sum() <= 1200
        assert len(windows) == 1 or size.sum() * 3 <= pack_nnz + 1


def test_two_epochs_differ_and_equal_seeds_agree() -> None:
    config = PlanConfig(window=100)
    made = make([[1000, 500], [700]], config)
    first, again, second, other = (
        made.cells(plan_epoch(made.table, made.indices, config, seed=s, epoch=e))
        for s, e in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert first == again
    assert first != second
    assert first != other


def test_windows_differ_between_epochs_not_only_their_order() -> None:
    config = PlanConfig(window=100)
    made = make([[1000]], config)
    cuts = {
        tuple(sorted(plan_epoch(made.table, made.indices, config, seed=0, epoch=e).window_start))
        for e in range(10)
    }
    assert len(cuts) > 5


def test_in_order_depends_on_nothing_but_the_data() -> None:
    config = PlanConfig(window=300, global_batch_packs=1)
    made = make([[1000, 20], [250, 260]], config)
    plan = plan_in_order(made.table, made.indices, config)
    assert made.cells(plan) == made.all_cells()


def test_appending_a_data_set_moves_no_tissue_between_train_and_validation() -> None:
    config = PlanConfig(valid_fraction=0.3)
    before, after = make([[10] * 40], config), make([[10] * 40, [10] * 40], config)
    assert (before.table.held_out == after.table.held_out[:40]).all()
    train = plan_epoch(after.table, after.indices, config, seed=0, epoch=0, split="train")
    valid = plan_epoch(after.table, after.indices, config, seed=0, epoch=0, split="valid")
    seen = sorted(after.cells(train) + after.cells(valid))
    assert seen == after.all_cells()
    assert 0.1 < valid.n_cells / len(seen) < 0.5


def test_the_modality_filter_takes_only_its_parts() -> None:
    config = PlanConfig(modality="srt")
    made = make([[100], [50]], config)
    plan = plan_epoch(made.table, made.indices, config, seed=0, epoch=0)
    assert set(made.cells(plan)) == {(1, row) for row in range(50)}


def test_labels_are_fovs_or_slides_of_a_named_part() -> None:
    by_tissue = make([[5, 5], [5, 5]], PlanConfig())
    assert by_tissue.table.labels == ("part0/s0", "part0/s1", "part1/s/0", "part1/s/1")
    by_sample = make([[5, 5], [5, 5]], PlanConfig(batch_label="sample"))
    assert by_sample.table.labels == ("part0/s0", "part0/s1", "part1/s")


@given(
    cost=st.lists(st.floats(0.1, 10), min_size=1, max_size=40),
    n_ranks=st.integers(1, 9),
)
def test_dealing_gives_each_pack_to_one_rank_and_loads_them_evenly(
    cost: list[float], n_ranks: int
) -> None:
    rank = deal(np.array(cost), n_ranks)
    assert ((rank >= 0) & (rank < n_ranks)).all()
    load = np.bincount(rank, weights=cost, minlength=n_ranks)
    # Graham's bound for dealing to the least laden.
    assert load.max() <= sum(cost) / n_ranks + max(cost)


def test_sixteen_packs_a_rank_are_within_two_per_cent() -> None:
    rng = np.random.default_rng(0)
    cost = rng.lognormal(0, 0.6, 8 * 16)
    load = np.bincount(deal(cost, 8), weights=cost)
    assert load.max() / load.mean() - 1 < 0.02


@pytest.mark.parametrize(
    "values",
    [{"window": 0}, {"pack_cells": 10}, {"valid_fraction": 1.0}, {"global_batch_packs": 0}],
)
def test_a_config_that_cannot_be_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        build(PlanConfig, values)


def test_the_digest_notices_any_change_of_the_config() -> None:
    assert digest(PlanConfig(), "train") == digest(PlanConfig(), "train")
    assert digest(PlanConfig(), "train") != digest(PlanConfig(window=10), "train")
    assert digest(PlanConfig(), "train") != digest(PlanConfig(), "valid")
