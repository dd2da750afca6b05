"""Where a cell is: a 2-D sinusoid of its place in the FOV, or one learned vector.

u is scaled so that a FOV spans 100 units (or 10 micrometres are one unit). With u in
[0, 1] only 34 of 256 dimensions would vary, and the encoding would be as good as constant.

C cells, S windows, D width: D/4 sines and D/4 cosines an axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cellplm.model.config import ModelConfig
from cellplm.model.inputs import ModelInput

_FOV_UNITS = 100.0
_UM_PER_UNIT = 10.0


class PositionEncoder(nn.Module):
    """A pack's positions -> (C, D) for SRT, (D,) for scRNA."""

    def __init__(self, config: ModelConfig) -> None:
        """Draw the vector of scRNA cells from the global generator."""
        super().__init__()
        self.unit = config.position
        self.width = config.width
        self.nowhere = nn.Parameter(torch.empty(config.width))
        nn.init.normal_(self.nowhere, std=0.02)

    def forward(self, inputs: ModelInput) -> Tensor:
        """Encode where the cells are."""
        if inputs.coords_um_C2 is None or inputs.extent_um_S is None:
            return self.nowhere
        if self.unit == "um":
            return sinusoid(inputs.coords_um_C2 / _UM_PER_UNIT, self.width)
        # A FOV without extent holds its cells in one point: all are at its origin.
        extent_S = inputs.extent_um_S
        scale_S = torch.where(extent_S > 0, _FOV_UNITS / extent_S, 0.0)
        return sinusoid(inputs.coords_um_C2 * scale_S[inputs.segment_C, None], self.width)


def sinusoid(u_C2: Tensor, width: int) -> Tensor:
    """Sines then cosines of the first axis, then of the second.

    Args:
        u_C2: (C, 2) floating, continuous positions.
        width: D, a multiple of 4.

    Returns:
        (C, D), the dtype of `u_C2`; every row has norm sqrt(D / 2).

    Source: MODEL.md 2: half of D an axis, frequencies 10000^(-2i / (D/2)), i < D/4.
    """
    i = torch.arange(width // 4, device=u_C2.device, dtype=u_C2.dtype)
    frequency = 10000 ** (-2 * i / (width / 2))
    angle = u_C2[:, :, None] * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=-1).flatten(1)
