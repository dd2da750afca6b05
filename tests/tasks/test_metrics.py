"""Scores equal what a hand computes, and the proper one is proper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cellplm.tasks.metrics import SHARE_FLOOR, HiddenError, MoleculeLoss, log1p_cp10k, shares


def test_log1p_cp10k_is_the_logarithm_of_counts_per_ten_thousand_and_one() -> None:
    got = log1p_cp10k(torch.tensor([0.0, 1.0, 5.0]), torch.tensor([10.0, 10.0, 20.0]))
    assert got.tolist() == pytest.approx([0.0, math.log(1001), math.log(2501)])


def test_shares_undo_the_logarithm_and_spread_one_per_cent() -> None:
    log_expression = torch.log1p(torch.tensor([[1000.0, 3000.0, 0.0, 0.0]]))
    got = shares(log_expression)[0].tolist()
    assert got == pytest.approx([0.2475 + 0.0025, 0.7425 + 0.0025, 0.0025, 0.0025], rel=1e-5)


def test_shares_do_not_depend_on_the_scale_and_take_negatives_for_zero() -> None:
    rate = torch.tensor([[2.0, 6.0, 0.0]])
    a = shares(torch.log1p(rate))
    b = shares(torch.where(rate > 0, torch.log1p(10 * rate), torch.tensor(-3.0)))
    assert torch.allclose(a, b, atol=1e-6)


def test_shares_sum_to_one_and_are_even_where_nothing_is_predicted() -> None:
    got = shares(torch.tensor([[-1.0, 0.0, -2.0, 0.0], [9.0, 0.1, 2.0, 0.0]]))
    assert got.sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert got[0].tolist() == pytest.approx([0.25] * 4)
    assert (got > 0).all()


def test_hidden_error_is_taken_over_all_entries_of_all_batches() -> None:
    error = HiddenError()
    error.add(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
    error.add(torch.tensor([-5.0]), torch.tensor([3.0]))
    # Errors 1, 2 and, clipped at 0, 3.
    assert error.result() == pytest.approx({"rmse": math.sqrt(14 / 3), "mae": 2.0})


def test_molecule_loss_is_the_mean_over_molecules_not_entries() -> None:
    loss = MoleculeLoss()
    loss.add(torch.tensor([0.5]), torch.tensor([3.0]))
    loss.add(torch.tensor([0.25, 0.1]), torch.tensor([1.0, 0.0]))
    expected = (3 * math.log(2) + math.log(4)) / 4
    assert loss.result()["molecule_nll"] == pytest.approx(expected)


def test_scores_of_nothing_are_not_a_number() -> None:
    assert all(math.isnan(value) for value in HiddenError().result().values())
    assert math.isnan(MoleculeLoss().result()["molecule_nll"])


def test_no_other_shares_score_better_in_expectation_than_the_true_ones() -> None:
    rng = np.random.default_rng(0)
    true = torch.from_numpy(rng.dirichlet(np.full(12, 0.7)))

    def expected_loss(share: torch.Tensor) -> float:
        loss = MoleculeLoss()
        # Expected molecules stand for the average over draws: the score is linear in them.
        loss.add(share, 1000 * true)
        return loss.result()["molecule_nll"]

    entropy = -float((true * true.log()).sum())
    assert expected_loss(true) == pytest.approx(entropy)
    for _ in range(200):
        other = torch.from_numpy(rng.dirichlet(np.full(12, 0.7))).clamp(min=1e-9)
        assert expected_loss(0.9 * true + 0.1 * other) > expected_loss(true)
        assert expected_loss(other) > expected_loss(true)


def test_the_true_expression_beats_exaggeration_and_flattening_under_the_floor() -> None:
    rng = np.random.default_rng(1)
    true = torch.from_numpy(rng.dirichlet(np.full(30, 1.0)))[None]

    def loss_of(share: torch.Tensor) -> float:
        loss = MoleculeLoss()
        loss.add(shares(torch.log1p(1e4 * share))[0], 1000 * true[0])
        return loss.result()["molecule_nll"]

    for power in (0.5, 0.8, 1.3, 2.0):
        bent = true**power
        assert loss_of(bent / bent.sum()) > loss_of(true)
    # What the floor costs the truth is bounded by -log(1 - floor).
    entropy = -float((true * true.log()).sum())
    assert 0 <= loss_of(true) - entropy < -math.log(1 - SHARE_FLOOR)
