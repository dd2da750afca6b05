"""Embed cells: a sparse linear layer over the genes seen, then one dense layer.

E_i = sum over visible non-zeros j of x_ij h_j, with h_j a row of the (K, D) table. Only the
rows of the pack's G genes are gathered, so a small panel is cheap and a gene that was not
measured has a gradient of exactly zero.

C cells, G measured genes, K genes of the vocabulary, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cellplm.model.config import ModelConfig
from cellplm.model.csr import Csr

# From the paper's released code: a sum over some 1,500 genes then has a spread near 1.
_TABLE_STD = 0.005


class GeneEmbedder(nn.Module):
    """x (C, G) -> (C, D)."""

    def __init__(self, config: ModelConfig, n_vocabulary: int) -> None:
        """Draw the table from the global generator (see `draws.seeded`)."""
        super().__init__()
        self.table = nn.Parameter(torch.empty(n_vocabulary, config.width))
        nn.init.normal_(self.table, std=_TABLE_STD)
        self.mix = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.LayerNorm(config.width),
        )

    def forward(self, x_CG: Csr, gene_rows_G: Tensor) -> Tensor:
        """Embed each cell.

        Args:
            x_CG: visible values; hidden entries are zero or absent.
            gene_rows_G: (G,) int64, the table row of each column.
        """
        sums_CD = sparse_linear(x_CG, self.table.index_select(0, gene_rows_G))
        out_CD: Tensor = self.mix(sums_CD)
        return out_CD


def sparse_linear(x_CG: Csr, weight_GD: Tensor) -> Tensor:
    """The product x @ weight without a dense (C, G) array, differentiable in the weight only.

    Computed in the weight's dtype whatever autocast says: it is a small part of a step.
    """
    out_CD: Tensor = _SparseLinear.apply(weight_GD, x_CG)  # type: ignore[no-untyped-call]
    return out_CD


class _SparseLinear(torch.autograd.Function):
    """Chunks of rows are densified for a GEMM, once forward and once again backward."""

    @staticmethod
    def forward(ctx: Any, weight_GD: Tensor, x_CG: Csr) -> Tensor:
        ctx.x_CG = x_CG
        out_CD = weight_GD.new_empty((x_CG.n_rows, weight_GD.shape[1]))
        with torch.autocast(weight_GD.device.type, enabled=False):
            for start, stop in x_CG.chunks():
                torch.mm(x_CG.dense(start, stop), weight_GD, out=out_CD[start:stop])
        return out_CD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad_CD,) = grads
        x_CG: Csr = ctx.x_CG
        grad_GD = grad_CD.new_zeros((x_CG.n_columns, grad_CD.shape[1]))
        with torch.autocast(grad_CD.device.type, enabled=False):
            for start, stop in x_CG.chunks():
                grad_GD.addmm_(x_CG.dense(start, stop).T, grad_CD[start:stop])
        return grad_GD, None
