"""What a spatial model is told of positions, it uses: MODEL.md 2."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cellplm.corpus.batch import TissueBatch
from cellplm.model.cellplm import CellPLM
from cellplm.model.config import ModelConfig
from cellplm.training.config import TrainConfig
from cellplm.training.optim import Optimizer
from cellplm.training.trainer import train_step
from tests.model.make import make_batch, vocabulary

N_GENES = 24
N_CELLS = 150
EXTENT_UM = 500.0
MASKED = 0.9
"""Of a masked cell's genes: two or three are left to tell it by."""

MODEL = ModelConfig(
    width=32,
    n_heads=1,
    n_layers=1,
    n_latent=16,
    n_components=3,
    n_bottleneck=16,
    dropout=0.0,
    label_dropout=0.0,
    mask_genes=MASKED,
    beta_warmup_steps=0,
    beta=0.1,
)
N_STEPS = 150


def tissue_of(seed: int, *, follows_position: bool) -> TissueBatch:
    """A FOV whose genes rise or fall along x or y; or the same genes in random places."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 1, (N_CELLS, 2))
    along = np.concatenate([xy, 1 - xy], axis=1)
    rate = 4.0 * along[:, np.arange(N_GENES) % 4] ** 2
    if not follows_position:
        xy = rng.uniform(0, 1, (N_CELLS, 2))
    coords = (EXTENT_UM * xy).astype(np.float32)
    return make_batch([rng.poisson(rate)], coords=[coords], extent_um=EXTENT_UM, key=(0, seed, 0))


def trained(*, follows_position: bool) -> CellPLM:
    torch.set_num_threads(1)
    config = TrainConfig(lr=3e-3, warmup_steps=20)
    model = CellPLM(MODEL, vocabulary(), ("a",)).train()
    optimizer = Optimizer(model, config, N_STEPS)
    for step in range(N_STEPS):
        tissue = tissue_of(1000 + step % 100, follows_position=follows_position)
        tissue = replace(tissue, key=(0, step, 0))
        train_step(model, optimizer, [tissue], step, model.index)
    return model.eval()


@torch.no_grad()
def masked_loss(model: CellPLM, tissues: list[TissueBatch]) -> float:
    square, n = 0.0, 0
    for tissue in tissues:
        inputs = model.prepare(tissue)
        mask = model.draw_mask(inputs)
        terms = model.loss(inputs, mask, model(inputs, mask))
        square, n = square + terms.squared_error.item(), n + terms.n_entries
    return square / n


def shuffled(tissue: TissueBatch) -> TissueBatch:
    assert tissue.coords_um is not None
    order: NDArray[np.int64] = np.random.default_rng(tissue.key[1]).permutation(tissue.n_cells)
    return replace(tissue, coords_um=tissue.coords_um[torch.from_numpy(order)])


@pytest.mark.parametrize("follows_position", [True, False])
def test_shuffling_coordinates_after_training_raises_the_loss_where_they_matter(
    follows_position: bool,
) -> None:
    model = trained(follows_position=follows_position)
    held_out = [tissue_of(seed, follows_position=follows_position) for seed in range(12)]
    true = masked_loss(model, held_out)
    lost = masked_loss(model, [shuffled(tissue) for tissue in held_out])
    if follows_position:
        assert lost > 1.5 * true
    else:
        assert lost == pytest.approx(true, rel=0.03)
