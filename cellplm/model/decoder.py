"""The batch-aware decoder: a latent vector and a batch's vector -> expression.

The rows of batch labels have sparse gradients and their own optimiser; there may be
millions. An unknown batch has a learned default vector, which label dropout keeps in use.

C cells, S windows, Z latent, D width, B bottleneck, K genes of the vocabulary, G genes asked for.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from cellplm.model.config import ModelConfig


class BatchTable(nn.Module):
    """Label of a window -> its vector (Z,)."""

    def __init__(self, n_labels: int, config: ModelConfig) -> None:
        """Draw the rows from the global generator; the default vector is zero at first."""
        super().__init__()
        self.dropout = config.label_dropout
        self.rows = nn.Embedding(n_labels, config.n_latent, sparse=True)
        nn.init.normal_(self.rows.weight, std=0.02)
        self.default = nn.Parameter(torch.zeros(config.n_latent))

    def forward(self, label_S: Tensor, generator: torch.Generator) -> Tensor:
        """Look up vectors, (S, Z).

        Args:
            label_S: (S,) int64, -1 for an unknown batch.
            generator: on the CPU; says which labels are dropped in training.
        """
        if self.training:
            kept_S = torch.rand(label_S.shape, generator=generator) >= self.dropout
            label_S = torch.where(kept_S.to(label_S.device), label_S, -1)
        # Only known labels are looked up: a row that is looked up, even for nothing, is one
        # that the sparse optimiser moves.
        known = (label_S >= 0).nonzero().squeeze(1)
        out_SZ = self.default.expand(label_S.numel(), -1)
        return out_SZ.index_copy(0, known, self.rows(label_S[known]))


class Decoder(nn.Module):
    """z (C, Z) -> hidden (C, B), and the output layer over the rows of genes."""

    def __init__(self, config: ModelConfig, n_vocabulary: int, n_labels: int) -> None:
        """Draw the layers from the global generator; gene biases start at zero."""
        super().__init__()
        self.batches = BatchTable(n_labels, config)
        widths = [config.n_latent] + [config.width] * config.n_decoder_layers
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Linear(before, after),
                    nn.GELU(),
                    nn.Dropout(config.dropout),
                    nn.LayerNorm(after),
                )
                for before, after in itertools.pairwise(widths)
            ),
            nn.Linear(config.width, config.n_bottleneck),
        )
        self.output_table = nn.Parameter(torch.empty(n_vocabulary, config.n_bottleneck))
        bound = 1 / math.sqrt(config.n_bottleneck)
        nn.init.uniform_(self.output_table, -bound, bound)
        self.output_bias = nn.Parameter(torch.zeros(n_vocabulary))

    def forward(
        self, z_CZ: Tensor, label_S: Tensor, segment_C: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Decode up to the bottleneck.

        Args:
            z_CZ: latent vectors.
            label_S: (S,) batch label of each window, -1 unknown.
            segment_C: (C,) window of each cell.
            generator: for label dropout.

        Returns:
            (C, B); `output` makes expression of it.
        """
        batch_SZ = self.batches(label_S, generator)
        hidden_CB: Tensor = self.layers(z_CZ + batch_SZ.index_select(0, segment_C))
        return hidden_CB

    def output_rows(self, gene_rows_G: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (G, B) and biases (G,) of the genes: expression = hidden @ weights.T + biases."""
        return (
            self.output_table.index_select(0, gene_rows_G),
            self.output_bias.index_select(0, gene_rows_G),
        )
