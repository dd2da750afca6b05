"""Scores of a denoiser, summed batch by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

CP10K = 1e4
SHARE_FLOOR = 0.01
"""Part of the probability spread evenly over the panel, so that no share is 0."""


def log1p_cp10k(count: Tensor, library_size: Tensor) -> Tensor:
    """log(1 + 10,000 count / library size), elementwise."""
    return torch.log1p(CP10K * count / library_size)


def shares(log_expression: Tensor) -> Tensor:
    """The share of each gene in a cell's molecules that a prediction means.

    Args:
        log_expression: (C, G) predicted log1p-CP10k.

    Returns:
        (C, G), rows sum to 1; 1 % is spread evenly, so that no gene is impossible.
    """
    rate = torch.expm1(log_expression.clamp(min=0.0))
    total = rate.sum(dim=1, keepdim=True)
    even = 1.0 / rate.shape[1]
    share = torch.where(total > 0, rate / total.clamp(min=1e-12), even)
    return (1.0 - SHARE_FLOOR) * share + SHARE_FLOOR * even


@dataclass(slots=True)
class HiddenError:
    """RMSE and MAE over hidden entries on log1p-CP10k; the truth scaled by the whole library."""

    n: int = 0
    square: float = 0.0
    absolute: float = 0.0

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Add entries: (E,) predicted, clipped at 0 here, and (E,) true log1p-CP10k."""
        error = (predicted.clamp(min=0.0) - truth).double()
        self.n += error.numel()
        self.square += float(error.square().sum())
        self.absolute += float(error.abs().sum())

    def result(self) -> dict[str, float]:
        """{"rmse", "mae"}."""
        return {
            "rmse": math.sqrt(self.square / self.n) if self.n else math.nan,
            "mae": self.absolute / self.n if self.n else math.nan,
        }


@dataclass(slots=True)
class MoleculeLoss:
    """Mean negative log (nats) of the predicted shares of molecules set aside: a proper score."""

    n: float = 0.0
    total: float = field(default=0.0)

    def add(self, share: Tensor, molecules: Tensor) -> None:
        """Add entries: (E,) predicted share of the gene, and (E,) molecules set aside."""
        self.n += float(molecules.double().sum())
        self.total -= float((molecules.double() * share.double().log()).sum())

    def result(self) -> dict[str, float]:
        """{"molecule_nll"}."""
        return {"molecule_nll": self.total / self.n if self.n else math.nan}
