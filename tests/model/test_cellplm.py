import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellplm.corpus.batch import TissueBatch
from cellplm.model.cellplm import CellPLM
from cellplm.model.mask import Mask
from tests.model.make import (
    N_VOCABULARY,
    SMALL,
    gene_numbers,
    make_batch,
    make_coords,
    make_counts,
    make_model,
)

CONFIGS = [
    dataclasses.replace(SMALL, attention=attention, latent=latent)
    for attention in ("performer", "softmax")
    for latent in ("mixture", "none")
]


def step(model: CellPLM, batch: TissueBatch, mask: Mask | None = None) -> tuple[Tensor, Tensor]:
    """Loss of a one-pack step with its gradients in the model, and the embeddings."""
    model.zero_grad()
    inputs = model.prepare(batch)
    mask = mask or model.draw_mask(inputs)
    output = model(inputs, mask)
    terms = model.loss(inputs, mask, output)
    loss = terms.share(n_entries=terms.n_entries, n_cells=terms.n_cells, beta=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), output.mean_CZ.detach()


def mask_of(hidden: Tensor) -> Mask:
    cells = hidden.any(1).nonzero().squeeze(1)
    return Mask(cells_M=cells, hidden_MG=hidden[cells])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.attention}-{c.latent}")
def test_cells_of_a_window_may_come_in_any_order(config: object) -> None:
    model = make_model(config, double=True).eval()  # type: ignore[arg-type]
    counts, coords = make_counts(9, 12), make_coords(9)
    order = np.random.default_rng(1).permutation(9)
    straight = model.embed(make_batch([counts], coords=[coords]))
    shuffled = model.embed(make_batch([counts[order]], coords=[coords[order]]))
    torch.testing.assert_close(shuffled, straight[order])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.attention}-{c.latent}")
def test_other_windows_of_the_pack_change_nothing(config: object) -> None:
    model = make_model(config).eval()  # type: ignore[arg-type]
    sizes = (6, 8, 30)
    windows = [make_counts(n, 12, seed=n) * (1 + 5 * (n == 30)) for n in sizes]
    coords = [make_coords(n, seed=n) for n in sizes]

    def embed(order: list[int]) -> dict[int, Tensor]:
        batch = make_batch([windows[w] for w in order], coords=[coords[w] for w in order])
        split = model.embed(batch).tensor_split(np.cumsum([sizes[w] for w in order])[:-1].tolist())
        return dict(zip(order, split, strict=True))

    together, otherwise = embed([0, 1, 2]), embed([2, 0, 1])
    for window in range(3):
        alone = embed([window])[window]
        torch.testing.assert_close(together[window], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(otherwise[window], alone, atol=1e-5, rtol=0)


def test_a_gene_that_was_not_measured_has_no_say_and_no_gradient() -> None:
    model = make_model(double=True)
    measured = [3, 7, 8, 20, 21]
    batch = make_batch([make_counts(10, 5)], gene_ids=gene_numbers(measured))
    loss, z = step(model, batch)
    others = torch.tensor([row for row in range(N_VOCABULARY) if row not in measured])
    for table in (model.embedder.table, model.decoder.output_table, model.decoder.output_bias):
        assert table.grad is not None
        assert (table.grad[others] == 0).all()
        assert (table.grad[torch.tensor(measured)] != 0).any()
        with torch.no_grad():
            table[others] += 100.0
    again = step(model, batch)
    assert torch.equal(again[0], loss)
    assert torch.equal(again[1], z)


def test_measured_and_zero_is_not_the_same_as_not_measured() -> None:
    model = make_model(double=True)
    counts = make_counts(10, 5)
    counts[:, 4] = 0
    wide = make_batch([counts], gene_ids=gene_numbers([3, 7, 8, 20, 21]))
    narrow = make_batch([counts[:, :4]], gene_ids=gene_numbers([3, 7, 8, 20]))
    hidden = torch.rand(10, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    _, z_wide = step(model, wide, mask_of(hidden))
    assert model.decoder.output_bias.grad is not None
    assert model.decoder.output_bias.grad[21] != 0
    _, z_narrow = step(model, narrow, mask_of(hidden[:, :4]))
    assert model.decoder.output_bias.grad[21] == 0
    torch.testing.assert_close(z_wide, z_narrow)  # A zero adds nothing to what a cell looks like.


def test_hidden_values_are_not_seen_and_library_sizes_are() -> None:
    model = make_model(double=True).eval()
    counts = make_counts(6, 8) + 1
    hidden = torch.zeros(6, 8, dtype=torch.bool)
    hidden[2, 3] = hidden[2, 5] = True
    other = counts.copy()
    other[2, 3], other[2, 5] = counts[2, 3] + 4, counts[2, 5] + 4
    batch = make_batch([counts])

    def embed(values: NDArray[np.int64]) -> Tensor:
        changed = dataclasses.replace(make_batch([values]), library_size=batch.library_size)
        mean: Tensor = model(model.prepare(changed), mask_of(hidden)).mean_CZ
        return mean

    assert torch.equal(embed(counts), embed(other))
    rich = dataclasses.replace(batch, library_size=2 * batch.library_size)
    seen = model(model.prepare(rich), mask_of(hidden)).mean_CZ
    assert not torch.allclose(seen, embed(counts))


def test_intact_cells_carry_no_loss() -> None:
    model = make_model(dataclasses.replace(SMALL, latent="none"), double=True)
    inputs = model.prepare(make_batch([make_counts(8, 6)]))
    mask = model.draw_mask(inputs)
    output = model(inputs, mask)
    assert mask.cells_M.numel() == 6
    terms = model.loss(inputs, mask, output)
    (grad,) = torch.autograd.grad(terms.squared_error, output.hidden_CB)
    intact = torch.ones(8, dtype=torch.bool).index_fill(0, mask.cells_M, False)
    assert (grad[intact] == 0).all()
    assert (grad[mask.cells_M] != 0).any()


@pytest.mark.parametrize("recon_on", ["masked", "all"])
def test_the_loss_is_that_of_the_dense_equations(recon_on: str) -> None:
    config = dataclasses.replace(SMALL, recon_on=recon_on, free_bits=0.0)  # type: ignore[arg-type]
    model = make_model(config, double=True)
    inputs = model.prepare(make_batch([make_counts(5, 6), make_counts(4, 6, seed=1)]))
    mask = model.draw_mask(inputs)
    output = model(inputs, mask)
    hidden = torch.zeros(9, 6, dtype=torch.bool)
    hidden[mask.cells_M] = mask.hidden_MG
    if recon_on == "all":
        hidden[:] = True
    rows = inputs.gene_rows_G
    predicted = output.hidden_CB @ model.decoder.output_table[rows].T
    predicted = predicted + model.decoder.output_bias[rows]
    error = (predicted - inputs.x_CG.dense(0, 9))[hidden].square().mean()
    assert output.kl_C is not None
    expected = error + 0.5 * output.kl_C.sum() / (9 * 6)
    terms = model.loss(inputs, mask, output)
    found = terms.share(n_entries=terms.n_entries, n_cells=terms.n_cells, beta=0.5)
    torch.testing.assert_close(found, expected)


def test_embeddings_depend_on_no_seed_and_no_dropout() -> None:
    model = make_model(dataclasses.replace(SMALL, dropout=0.5, label_dropout=0.5))
    batch = make_batch([make_counts(9, 12)])
    first = model.train().embed(batch)
    torch.rand(3)
    assert torch.equal(model.embed(dataclasses.replace(batch, key=(4, 5, 6))), first)
    assert model.training


def test_a_training_pass_depends_on_its_key_alone() -> None:
    model = make_model(dataclasses.replace(SMALL, dropout=0.5, label_dropout=0.5))
    batch = make_batch([make_counts(9, 12)])
    state = torch.get_rng_state()
    first = model(model.prepare(batch)).hidden_CB
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(model(model.prepare(batch)).hidden_CB, first)
    other = model.prepare(dataclasses.replace(batch, key=(0, 0, 1)))
    assert not torch.equal(model(other).hidden_CB, first)


def test_two_models_of_one_seed_are_equal() -> None:
    torch.rand(3)
    first, second = make_model().state_dict(), make_model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = make_model(dataclasses.replace(SMALL, seed=1)).state_dict()
    assert not torch.equal(first["embedder.table"], other["embedder.table"])


def test_predictions_cover_genes_that_were_not_measured() -> None:
    model = make_model(double=True)
    inputs = model.prepare(make_batch([make_counts(7, 4)], gene_ids=gene_numbers([3, 7, 8, 20])))
    own = model.predict(inputs)
    every = model.predict(inputs, torch.arange(N_VOCABULARY))
    assert every.shape == (7, N_VOCABULARY)
    torch.testing.assert_close(every[:, [3, 7, 8, 20]], own)
    hidden = model.eval()(inputs).hidden_CB
    expected = hidden @ model.decoder.output_table[9] + model.decoder.output_bias[9]
    torch.testing.assert_close(every[:, 9], expected)


def test_a_batch_label_shifts_the_prediction_and_not_the_embedding() -> None:
    model = make_model(double=True).eval()
    counts = make_counts(5, 6)
    first, second = (make_batch([counts], labels=[label]) for label in (0, 1))
    assert torch.equal(model.embed(first), model.embed(second))
    predicted = model.predict(model.prepare(first))
    assert not torch.allclose(predicted, model.predict(model.prepare(second)))


def test_bfloat16_autocast_stays_near_float32() -> None:
    model = make_model()
    batch = make_batch([make_counts(30, 20)])
    loss, _ = step(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = step(model, batch)
    assert rough.item() == pytest.approx(loss.item(), rel=0.02)
