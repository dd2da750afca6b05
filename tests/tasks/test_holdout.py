"""What is set aside is set aside, and is the same however the cells are batched."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cellplm.corpus.batch import TissueBatch
from cellplm.tasks.holdout import Entries, Scheme, hold_out


def batch_of(counts: np.ndarray, rows: np.ndarray | None = None) -> TissueBatch:
    """A narrow batch; the last column is no gene."""
    matrix = sp.csr_matrix(counts)
    gene_ids = np.arange(counts.shape[1], dtype=np.int32)
    gene_ids[-1] = -1
    rows = np.arange(len(counts)) if rows is None else rows
    return TissueBatch(
        indptr=torch.from_numpy(matrix.indptr.astype(np.int64)),
        indices=torch.from_numpy(matrix.indices.astype(np.uint16)),
        counts=torch.from_numpy(matrix.data.astype(np.uint16)),
        gene_ids=torch.from_numpy(gene_ids),
        library_size=torch.from_numpy(counts[:, :-1].sum(1).astype(np.float32)),
        segments=torch.tensor([0, len(counts)]),
        batch_label=torch.tensor([0]),
        tissue=torch.tensor([0]),
        coords_um=None,
        extent_um=None,
        row=torch.from_numpy(rows),
        part="p",
        modality="scrna",
        key=(0, 0, 0),
    )


def dense(batch: TissueBatch) -> np.ndarray:
    parts = (batch.counts.numpy(), batch.indices.numpy().astype(np.int32), batch.indptr.numpy())
    return sp.csr_matrix(parts, shape=(batch.n_cells, batch.gene_ids.numel())).toarray()


def put(entries: Entries, shape: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(shape)
    out[entries.cell.numpy(), entries.column.numpy()] = entries.count.numpy()
    return out


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(1.5, (300, 81)).astype(np.int64)


@pytest.mark.parametrize("scheme", ["hide", "thin"])
def test_visible_and_set_aside_add_up_to_the_counts(counts: np.ndarray, scheme: Scheme) -> None:
    out = hold_out(batch_of(counts), scheme, 0.1, seed=3)
    visible = dense(out.visible)
    test, valid = put(out.test, counts.shape), put(out.valid, counts.shape)
    assert np.array_equal(visible + test + valid, counts)
    assert not test[:, -1].any()
    assert np.array_equal(out.visible.library_size.numpy(), visible[:, :-1].sum(1))
    assert np.array_equal(out.test.library_size.numpy(), counts[:, :-1].sum(1)[out.test.cell])


def test_hide_takes_a_tenth_of_a_cells_non_zeros_whole(counts: np.ndarray) -> None:
    out = hold_out(batch_of(counts), "hide", 0.1, seed=3)
    test, valid = put(out.test, counts.shape), put(out.valid, counts.shape)
    assert not (test.astype(bool) & valid.astype(bool)).any()
    expected = np.floor(0.1 * (counts[:, :-1] > 0).sum(1))
    assert np.array_equal((test > 0).sum(1), expected)
    assert np.array_equal((valid > 0).sum(1), expected)
    assert np.array_equal(test[test > 0], counts[test > 0])


def test_hide_leaves_cells_with_few_positives_alone() -> None:
    counts = np.zeros((2, 41), dtype=np.int64)
    counts[0, :5] = 1
    counts[1, :20] = 1
    out = hold_out(batch_of(counts), "hide", 0.2, seed=0)
    assert (out.test.cell == 1).all()
    assert len(out.test) == 4


def test_hide_prefers_low_counts_as_the_protocol_says() -> None:
    counts = np.ones((2000, 21), dtype=np.int64)
    counts[:, :10] = 41
    out = hold_out(batch_of(counts), "hide", 0.05, seed=0)
    low = (out.test.count == 1).float().mean().item()
    # One entry a cell, weights exp(-41/20) against exp(-1/20), ten columns each.
    assert low == pytest.approx(1 / (1 + np.exp(-2)), abs=0.03)


def test_thin_takes_a_tenth_of_the_molecules(counts: np.ndarray) -> None:
    out = hold_out(batch_of(counts), "thin", 0.1, seed=3)
    n = counts[:, :-1].sum()
    for entries in (out.test, out.valid):
        assert entries.count.sum().item() == pytest.approx(0.1 * n, rel=0.05)
    test, valid = put(out.test, counts.shape), put(out.valid, counts.shape)
    # Molecules are set aside independently of each other: no correlation beyond the count's.
    large = counts >= 3
    binomial = 0.09 * counts[large].mean()
    assert np.var(test[large] - 0.1 * counts[large]) == pytest.approx(binomial, rel=0.1)
    assert abs(np.corrcoef(test[large], valid[large])[0, 1]) < 0.12


@pytest.mark.parametrize("scheme", ["hide", "thin"])
def test_what_is_set_aside_does_not_depend_on_the_batch(counts: np.ndarray, scheme: Scheme) -> None:
    whole = put(hold_out(batch_of(counts), scheme, 0.1, seed=3).test, counts.shape)
    rows = np.random.default_rng(1).permutation(300)[:50]
    some = put(hold_out(batch_of(counts[rows], rows), scheme, 0.1, seed=3).test, (50, 81))
    assert np.array_equal(some, whole[rows])
    other = put(hold_out(batch_of(counts), scheme, 0.1, seed=4).test, counts.shape)
    assert not np.array_equal(other, whole)
