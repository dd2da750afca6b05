import pytest
import torch
from torch import Tensor

from cellplm.model import csr
from cellplm.model.loss import LossTerms, squared_error
from tests.model.test_csr import from_dense, sparse_array


def arguments() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden, weight, bias = (
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((9, 3), (6, 3), (6,))
    )
    counted = torch.rand(9, 6, generator=generator) < 0.4
    return hidden, weight, bias, sparse_array(9, 6), counted


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(csr.CHUNK_ENTRIES, "cpu", 13)


@pytest.mark.parametrize("everything", [False, True])
def test_the_sum_runs_over_the_entries_that_count_zeros_included(everything: bool) -> None:
    hidden, weight, bias, x, counted = arguments()
    expected = 0.0
    for i in range(9):
        for j in range(6):
            if everything or counted[i, j]:
                expected += (hidden[i] @ weight[j] + bias[j] - x[i, j]).item() ** 2
    found = squared_error(hidden, weight, bias, from_dense(x), None if everything else counted)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("everything", [False, True])
def test_its_gradients_are_those_of_finite_differences(everything: bool) -> None:
    hidden, weight, bias, x, counted = arguments()
    mask, matrix = None if everything else counted, from_dense(x)
    assert torch.autograd.gradcheck(
        lambda h, w, b: 3 * squared_error(h, w, b, matrix, mask), (hidden, weight, bias)
    )


def test_without_gradients_the_sum_is_the_same() -> None:
    hidden, weight, bias, x, counted = arguments()
    with_gradients = squared_error(hidden, weight, bias, from_dense(x), counted)
    with torch.no_grad():
        assert squared_error(hidden, weight, bias, from_dense(x), counted) == with_gradients


def test_no_cells_give_no_error() -> None:
    hidden, weight, bias, x, counted = arguments()
    total = squared_error(hidden[:0], weight, bias, from_dense(x[:0]), counted[:0])
    total.backward()  # type: ignore[no-untyped-call]
    assert total.item() == 0
    assert weight.grad is not None
    assert (weight.grad == 0).all()


def test_shares_of_packs_add_up_to_the_loss_of_the_step() -> None:
    a, b = (
        LossTerms(
            squared_error=torch.tensor(s), n_entries=n, kl_per_gene=torch.tensor(k), n_cells=c
        )
        for s, n, k, c in ((6.0, 3, 1.0, 2), (4.0, 7, 3.0, 6))
    )
    total = sum(t.share(n_entries=10, n_cells=8, beta=0.5) for t in (a, b))
    assert float(total) == pytest.approx((6 + 4) / 10 + 0.5 * (1 + 3) / 8)
