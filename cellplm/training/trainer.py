"""One global step: forward and backward pack by pack, then one move of the optimiser.

The loss of a step is one ratio over all its packs, so the totals (masked entries, cells)
must be known before the first backward. Masks depend on keys alone: they are drawn once to
count, and again when their pack's turn comes, so that only one pack is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.genes import GeneIndex
from cellplm.errors import CellplmError
from cellplm.model.cellplm import CellPLM
from cellplm.model.inputs import describe
from cellplm.model.mask import draw_mask
from cellplm.training.optim import Optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What one step was.

    Attributes:
        loss: reconstruction + beta * KL term, as in `cellplm.model.loss`.
        reconstruction: mean squared error over the entries that carry loss.
        kl: mean KL estimate in nats a cell.
        beta: weight of the KL term.
        n_cells: cells in the step.
        lr: learning rate.
        grad_norm: before clipping, without the batch table.
    """

    loss: float
    reconstruction: float
    kl: float
    beta: float
    n_cells: int
    lr: float
    grad_norm: float


def train_step(
    model: CellPLM,
    optimizer: Optimizer,
    packs: Sequence[TissueBatch],
    step: int,
    index: GeneIndex,
) -> StepResult:
    """Train on the packs of one global step.

    Args:
        model: in training mode; its forward pass is in bfloat16 on a GPU.
        optimizer: of this model.
        packs: at least one.
        step: how many steps were made before.
        index: the gene index of the packs.

    Raises:
        CellplmError: the loss or the gradient is not finite; names the pack.
    """
    device = model.device
    beta = model.config.beta_at(step)
    n_entries = sum(_count_entries(model, pack, index) for pack in packs)
    n_cells = sum(pack.n_cells for pack in packs)
    loss = reconstruction = kl = 0.0
    for pack in packs:
        inputs = model.prepare(pack, index)
        mask = model.draw_mask(inputs)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            output = model(inputs, mask)
            terms = model.loss(inputs, mask, output)
        share = terms.share(n_entries=n_entries, n_cells=n_cells, beta=beta)
        value = share.item()
        if not math.isfinite(value):
            raise CellplmError(
                f"step {step + 1}: the loss is {value} on {inputs.name}. Lower train.lr and resume."
            )
        share.backward()  # type: ignore[no-untyped-call]
        loss += value
        reconstruction += terms.squared_error.item() / max(1, n_entries)
        kl += terms.kl_per_gene.item() * inputs.n_genes / n_cells
    lr, grad_norm = optimizer.step(step)
    if not math.isfinite(grad_norm):
        raise CellplmError(
            f"step {step + 1}: the gradient's norm is {grad_norm} ({describe(packs[0])} and "
            f"{len(packs) - 1} more). Lower train.lr and resume."
        )
    return StepResult(
        loss=loss,
        reconstruction=reconstruction,
        kl=kl,
        beta=beta,
        n_cells=n_cells,
        lr=lr,
        grad_norm=grad_norm,
    )


def _count_entries(model: CellPLM, pack: TissueBatch, index: GeneIndex) -> int:
    """|A| of a pack, without preparing it."""
    n_genes = int((model.vocabulary.rows_of(pack.gene_ids, index) >= 0).sum())
    if model.config.recon_on == "all":
        return pack.n_cells * n_genes
    return draw_mask(pack.n_cells, n_genes, model.config, pack.key, model.device).n_hidden()
