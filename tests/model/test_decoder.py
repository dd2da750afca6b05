import dataclasses

import pytest
import torch

from cellplm.model.decoder import BatchTable, Decoder
from tests.model.make import N_VOCABULARY, SMALL


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_an_unknown_batch_takes_the_default_vector() -> None:
    table = BatchTable(3, SMALL)
    torch.nn.init.normal_(table.default)
    out = table(torch.tensor([2, -1, 0]), generator())
    expected = torch.stack((table.rows.weight[2], table.default, table.rows.weight[0]))
    assert torch.equal(out, expected)


def test_only_rows_in_use_have_a_gradient() -> None:
    table = BatchTable(5, SMALL)
    table(torch.tensor([3, -1, 3]), generator()).sum().backward()
    grad = table.rows.weight.grad
    assert grad is not None
    assert grad.is_sparse
    assert grad.coalesce().indices().flatten().tolist() == [3]
    assert table.default.grad is not None
    assert (table.default.grad == 1).all()


def test_a_model_without_labels_knows_only_the_default() -> None:
    table = BatchTable(0, SMALL)
    out = table(torch.tensor([-1, -1]), generator())
    assert torch.equal(out, table.default.expand(2, -1))


def test_labels_are_dropped_in_training_at_their_rate_and_never_in_eval_mode() -> None:
    table = BatchTable(1, dataclasses.replace(SMALL, label_dropout=0.3))
    torch.nn.init.ones_(table.rows.weight)
    labels = torch.zeros(4000, dtype=torch.int64)
    kept = table(labels, generator())[:, 0]
    assert float(kept.mean().detach()) == pytest.approx(0.7, abs=0.04)
    assert (table.eval()(labels, generator()) == 1).all()


def test_the_decoder_is_its_equations() -> None:
    decoder = Decoder(SMALL, N_VOCABULARY, 2).double()
    z = torch.randn(3, SMALL.n_latent, dtype=torch.float64)
    found = decoder(z, torch.tensor([1, -1]), torch.tensor([0, 0, 1]), generator())
    batches = torch.stack((decoder.batches.rows.weight[1],) * 2 + (decoder.batches.default,))
    h = z + batches
    *layers, bottleneck = decoder.layers
    for layer in layers:
        assert isinstance(layer, torch.nn.Sequential)
        h = layer[3](torch.nn.functional.gelu(layer[0](h)))
    torch.testing.assert_close(found, bottleneck(h))


def test_output_rows_are_those_of_the_genes() -> None:
    decoder = Decoder(SMALL, N_VOCABULARY, 2)
    rows = torch.tensor([5, 39, 0])
    weight, bias = decoder.output_rows(rows)
    assert torch.equal(weight, decoder.output_table[rows])
    assert torch.equal(bias, decoder.output_bias[rows])
