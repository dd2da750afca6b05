import dataclasses

import pytest
import torch

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.genes import GeneIndex
from cellplm.errors import CellplmError
from cellplm.model.cellplm import CellPLM
from cellplm.training.config import TrainConfig
from cellplm.training.optim import Optimizer
from cellplm.training.trainer import StepResult, train_step
from tests.model.make import SMALL, make_batch, make_counts, make_model

CONFIG = dataclasses.replace(SMALL, beta_warmup_steps=0, dropout=0.1)


def packs() -> list[TissueBatch]:
    """Three packs of different sizes."""
    return [
        make_batch([make_counts(n, g, seed=n)], labels=[n % 2], key=(0, 0, n))
        for n, g in ((9, 12), (4, 6), (14, 8))
    ]


def one_step(model: CellPLM, batches: list[TissueBatch]) -> StepResult:
    optimizer = Optimizer(model, TrainConfig(lr=0.01, warmup_steps=0), 10)
    return train_step(model, optimizer, batches, 0, GeneIndex.bundled())


def test_the_loss_of_a_step_is_one_ratio_over_all_its_packs() -> None:
    model = make_model(CONFIG)
    squares = kl = entries = 0.0
    kl_per_gene = 0.0
    for pack in packs():
        inputs = model.prepare(pack)
        mask = model.draw_mask(inputs)
        terms = model.loss(inputs, mask, model(inputs, mask))
        squares += terms.squared_error.item()
        entries += terms.n_entries
        kl_per_gene += terms.kl_per_gene.item()
        kl += terms.kl_per_gene.item() * inputs.n_genes
    result = one_step(model, packs())
    assert result.n_cells == 27
    assert result.reconstruction == pytest.approx(squares / entries)
    assert result.kl == pytest.approx(kl / 27)
    assert result.loss == pytest.approx(squares / entries + kl_per_gene / 27)


def test_the_order_of_packs_in_a_step_does_not_matter() -> None:
    first, second = make_model(CONFIG), make_model(CONFIG)
    one_step(first, packs())
    one_step(second, packs()[::-1])
    state = second.state_dict()
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=2e-4, rtol=0)


def test_steps_lower_the_loss() -> None:
    model = make_model(dataclasses.replace(CONFIG, dropout=0.0))
    optimizer = Optimizer(model, TrainConfig(lr=0.01, warmup_steps=0), 60)
    results = [train_step(model, optimizer, packs(), s, GeneIndex.bundled()) for s in range(60)]
    assert results[-1].reconstruction < 0.5 * results[0].reconstruction


def test_a_loss_that_is_not_finite_names_its_pack() -> None:
    model = make_model(CONFIG)
    batches = packs()
    batches[1] = dataclasses.replace(
        batches[1], library_size=torch.full_like(batches[1].library_size, torch.nan)
    )
    with torch.no_grad():
        model.decoder.output_bias[:1] = torch.nan
    with pytest.raises(CellplmError, match="step 1: the loss is nan on pack 9 of epoch 0"):
        one_step(model, batches)
