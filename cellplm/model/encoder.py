"""The transformer encoder: pre-norm blocks of attention and feed-forward."""

from __future__ import annotations

from torch import Tensor, nn

from cellplm.model.attention import Attention
from cellplm.model.config import ModelConfig
from cellplm.model.segments import Blocks


class Encoder(nn.Module):
    """(C, D) -> (C, D)."""

    def __init__(self, config: ModelConfig) -> None:
        """Draw the layers from the global generator."""
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x_CD: Tensor, blocks: Blocks) -> Tensor:
        """Run all blocks, and the norm that pre-norm blocks leave to the end."""
        for block in self.blocks:
            x_CD = block(x_CD, blocks)
        out_CD: Tensor = self.norm(x_CD)
        return out_CD


class Block(nn.Module):
    """Attention, then a feed-forward layer of width 2D, each added to its input."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Draw the layers from the global generator."""
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(config, layer)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * width, width),
            nn.Dropout(config.dropout),
        )

    def forward(self, x_CD: Tensor, blocks: Blocks) -> Tensor:
        """One block."""
        x_CD = x_CD + self.dropout(self.attention(self.norm(x_CD), blocks))
        out_CD: Tensor = x_CD + self.feed_forward(x_CD)
        return out_CD
