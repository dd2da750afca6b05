"""Self-attention of cells within their window.

`performer` uses performer-pytorch's projection and kernel, not its attention: that one's
`mask=` leaves padded keys in the denominator (24-43 % error on real tokens). Its key kernel
subtracts the maximum over all keys it is given and adds an epsilon after, so it is given one
window at a time (as a batch): what else is in the pack then changes nothing.

C cells, D width, H heads, E width of a head, F random features, N windows of a block, T
places of a window (see `segments`).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cellplm.errors import ConfigError
from cellplm.model.config import ModelConfig
from cellplm.model.draws import seed_of, seeded
from cellplm.model.segments import Blocks

with warnings.catch_warnings():
    # It imports distutils and torch.cuda.amp; true of 1.1.4, the last release.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    from performer_pytorch.performer_pytorch import (
        gaussian_orthogonal_random_matrix,
        softmax_kernel,
    )


class Attention(nn.Module):
    """(C, D) -> (C, D); rows that belong to no window yield zeros before the last layer."""

    projection_FE: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Draw the layers from the global generator, the projection from (seed, layer)."""
        super().__init__()
        self.n_heads = config.n_heads
        self.kind = config.attention
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        if self.kind == "performer":
            projection = draw_projection(
                config.head_features, config.head_width, seed_of((config.seed, 0, layer), "favor")
            )
            self.register_buffer("projection_FE", projection)

    def forward(self, x_CD: Tensor, blocks: Blocks) -> Tensor:
        """Let cells attend to the cells of their window.

        Raises:
            ConfigError: float16 with the performer, whose exponentials overflow there.
        """
        mixed_CD = self.mix(self.qkv(x_CD), blocks)
        out_CD: Tensor = self.out(mixed_CD)
        return out_CD

    def mix(self, qkv_C3D: Tensor, blocks: Blocks) -> Tensor:
        """Attention proper, between the two linear layers: (C, 3D) -> (C, D)."""
        width = qkv_C3D.shape[1] // 3
        flat = []
        for rows_NT, real_NT in zip(blocks.rows, blocks.real, strict=True):
            block = qkv_C3D.index_select(0, rows_NT.flatten())
            block = block.view(*rows_NT.shape, 3, self.n_heads, width // self.n_heads)
            q, k, v = block.permute(2, 0, 3, 1, 4)
            if self.kind == "performer":
                y_NHTE = performer_attention(q, k, v, self.projection_FE, real_NT)
            else:
                seen = None if real_NT is None else real_NT[:, None, None, :]
                y_NHTE = scaled_dot_product_attention(q, k, v, attn_mask=seen)
            flat.append(y_NHTE.transpose(1, 2).reshape(-1, width))
        flat.append(qkv_C3D.new_zeros(1, width))
        return torch.cat(flat).index_select(0, blocks.order)


def performer_attention(
    q_NHTE: Tensor, k_NHTE: Tensor, v_NHTE: Tensor, projection_FE: Tensor, real_NT: Tensor | None
) -> Tensor:
    """FAVOR+ attention, not causal, over each of N windows by itself.

    Args:
        q_NHTE: queries.
        k_NHTE: keys; a padded one repeats a real one of its window.
        v_NHTE: values.
        projection_FE: random features, float32 or the dtype of a float64 model.
        real_NT: false for padding; None if there is none.

    Returns:
        (N, H, T, E) in the dtype of `v_NHTE`. Computed in float32 at least: bfloat16 has too
        few digits for the sums of exponentials.

    Raises:
        ConfigError: float16.

    Source: Choromanski et al. (2021), with the epsilon of performer-pytorch.
    """
    if v_NHTE.dtype == torch.float16:
        raise ConfigError(
            "model.attention = performer: float16 gives values that are not finite; train in "
            "bfloat16 or float32."
        )
    dtype = projection_FE.dtype
    with torch.autocast(v_NHTE.device.type, enabled=False):
        q, k, v = q_NHTE.to(dtype), k_NHTE.to(dtype), v_NHTE.to(dtype)
        phi_q = softmax_kernel(q, projection_matrix=projection_FE, is_query=True)
        phi_k = softmax_kernel(k, projection_matrix=projection_FE, is_query=False)
        if real_NT is not None:
            phi_k = phi_k * real_NT[:, None, :, None]
        sums_NHFE = phi_k.transpose(-1, -2) @ v
        weight_NHT1 = phi_q @ phi_k.sum(-2).unsqueeze(-1)
        out: Tensor = (phi_q @ sums_NHFE) / weight_NHT1
    return out.to(v_NHTE.dtype)


def draw_projection(n_features: int, width: int, seed: int) -> Tensor:
    """Orthogonal random features (F, E), float32, from a seed."""
    with seeded(seed):
        projection: Tensor = gaussian_orthogonal_random_matrix(n_features, width)
    return projection
