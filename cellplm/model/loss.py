"""The loss, as sums: the trainer divides them by the counts of the whole global step.

L = sum_A (H - X)^2 / |A| + beta * sum_cells KL / (n_cells * G), where A holds the measured
entries that were masked. |A| and n_cells run over all packs of a step, so a pack only
gives sums and counts, and its share of the loss does not depend on how cells were packed.

The squared error's gradients are formed in the forward pass, chunk by chunk of rows: no
(C, G) array of floats outlives a chunk.

M cells that carry loss, G genes, B bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cellplm.model.csr import Csr


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerms:
    """What one pack adds to the loss of a step.

    Attributes:
        squared_error: scalar, sum of (H - X)^2 over the entries that count.
        n_entries: |A|, how many these are.
        kl_per_gene: scalar, sum over cells of KL / G.
        n_cells: C.
    """

    squared_error: Tensor
    n_entries: int
    kl_per_gene: Tensor
    n_cells: int

    def share(self, *, n_entries: int, n_cells: int, beta: float) -> Tensor:
        """This pack's part of the loss of a step with the given totals."""
        reconstruction = self.squared_error / max(1, n_entries)
        return reconstruction + beta * self.kl_per_gene / max(1, n_cells)


def squared_error(
    hidden_MB: Tensor, weight_GB: Tensor, bias_G: Tensor, x_MG: Csr, counted_MG: Tensor | None
) -> Tensor:
    """Sum of (hidden @ weight.T + bias - x)^2 over the entries that count.

    Args:
        hidden_MB: the decoder's output for the cells that carry loss.
        weight_GB: output rows of the genes.
        bias_G: output biases.
        x_MG: the true values of these cells; an absent entry is a measured zero.
        counted_MG: bool; None for all.

    Returns:
        A scalar in the dtype of the weight, whatever autocast says.
    """
    total: Tensor = _SquaredError.apply(  # type: ignore[no-untyped-call]
        hidden_MB.to(weight_GB.dtype), weight_GB, bias_G, x_MG, counted_MG
    )
    return total


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MB: Tensor,
        weight_GB: Tensor,
        bias_G: Tensor,
        x_MG: Csr,
        counted_MG: Tensor | None,
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        grad_MB = torch.empty_like(hidden_MB)
        grad_GB = torch.zeros_like(weight_GB)
        grad_G = torch.zeros_like(bias_G)
        total = hidden_MB.new_zeros(())
        with torch.autocast(hidden_MB.device.type, enabled=False):
            for start, stop in x_MG.chunks():
                error = torch.addmm(bias_G, hidden_MB[start:stop], weight_GB.T)
                places, values = x_MG.flat(start, stop)
                flat = error.view(-1)
                flat.scatter_add_(0, places, -values)
                if counted_MG is not None:
                    error.mul_(counted_MG[start:stop])
                total += torch.dot(flat, flat)
                if wanted:
                    torch.mm(error, weight_GB, out=grad_MB[start:stop])
                    grad_GB.addmm_(error.T, hidden_MB[start:stop])
                    grad_G += error.sum(0)
        if wanted:
            ctx.save_for_backward(grad_MB, grad_GB, grad_G)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        twice = 2 * grads[0]
        grad_MB, grad_GB, grad_G = ctx.saved_tensors
        return twice * grad_MB, twice * grad_GB, twice * grad_G, None, None
