import pytest
import torch

from cellplm.model import csr
from cellplm.model.embed import GeneEmbedder, sparse_linear
from tests.model.make import N_VOCABULARY, SMALL
from tests.model.test_csr import from_dense, sparse_array


def test_the_product_is_that_of_dense_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(csr.CHUNK_ENTRIES, "cpu", 20)
    dense, weight = sparse_array(11, 7), torch.randn(7, 4, dtype=torch.float64)
    torch.testing.assert_close(sparse_linear(from_dense(dense), weight), dense @ weight)


def test_the_gradient_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(csr.CHUNK_ENTRIES, "cpu", 20)
    matrix = from_dense(sparse_array(11, 7))
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: sparse_linear(matrix, w), weight)


def test_a_cell_is_the_sum_of_its_genes_then_one_layer() -> None:
    embedder = GeneEmbedder(SMALL, N_VOCABULARY).double()
    dense, genes = sparse_array(5, 3), torch.tensor([4, 0, 30])
    linear, norm = embedder.mix[0], embedder.mix[3]
    assert isinstance(linear, torch.nn.Linear)
    assert isinstance(norm, torch.nn.LayerNorm)
    for i in range(5):
        total = torch.zeros(SMALL.width, dtype=torch.float64)
        for j in range(3):
            total = total + dense[i, j] * embedder.table[genes[j]]
        expected = norm((linear.weight @ total + linear.bias).clamp(min=0))
        torch.testing.assert_close(embedder(from_dense(dense), genes)[i], expected)


def test_the_table_starts_with_the_stated_spread() -> None:
    table = GeneEmbedder(SMALL, 5000).table
    assert table.std().item() == pytest.approx(0.005, rel=0.02)
