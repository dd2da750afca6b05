"""The latent space: q(z | x) = N(mean, diag sd^2), and a Gaussian-mixture prior.

The KL term is the exact bound, E_q[log q(z|x) - log sum_l pi_l N(z; mu_l, sd_l^2)], estimated
with one reparametrised sample a cell; responsibilities follow by Bayes' rule, so no network
for them is needed. A single cell's estimate may be negative.

C cells, D width, Z latent, L components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from cellplm.model.config import ModelConfig

_LOG_2PI = math.log(2 * math.pi)
# Keeps log sd finite; far below any spread that a unit-scale prior can reward.
_LEAST_SD = 1e-3
# Norm of the components' means at the start. In units of their spread: far enough apart to
# differ, near enough that each is the likeliest for some z (at norm sqrt(Z) one takes all).
_START_RADIUS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Latent:
    """Attributes: mean_CZ, z_CZ (a sample, or the mean) and kl_C (None where none is drawn)."""

    mean_CZ: Tensor
    z_CZ: Tensor
    kl_C: Tensor | None


class MixtureLatent(nn.Module):
    """(C, D) -> z, with a learned mixture as its prior."""

    def __init__(self, config: ModelConfig) -> None:
        """Draw heads and components from the global generator."""
        super().__init__()
        self.mean = nn.Linear(config.width, config.n_latent)
        self.spread = nn.Linear(config.width, config.n_latent)
        shape = (config.n_components, config.n_latent)
        self.prior_logits_L = nn.Parameter(torch.zeros(config.n_components))
        self.prior_mean_LZ = nn.Parameter(_START_RADIUS * normalize(torch.randn(shape), dim=1))
        self.prior_log_sd_LZ = nn.Parameter(torch.zeros(shape))

    def forward(self, h_CD: Tensor, generator: torch.Generator) -> Latent:
        """Sample z in training; give the mean otherwise.

        Args:
            h_CD: the encoder's output.
            generator: on the CPU, so that every device gets the same noise. Not used in eval mode.
        """
        mean_CZ: Tensor = self.mean(h_CD)
        if not self.training:
            return Latent(mean_CZ=mean_CZ, z_CZ=mean_CZ, kl_C=None)
        spread_CZ: Tensor = self.spread(h_CD)
        with torch.autocast(h_CD.device.type, enabled=False):
            dtype = self.prior_mean_LZ.dtype
            mean_CZ, spread_CZ = mean_CZ.to(dtype), spread_CZ.to(dtype)
            sd_CZ = softplus(spread_CZ) + _LEAST_SD
            noise_CZ = torch.randn(mean_CZ.shape, generator=generator, dtype=dtype)
            noise_CZ = noise_CZ.to(mean_CZ.device)
            z_CZ = mean_CZ + sd_CZ * noise_CZ
            log_q_C = -(0.5 * (noise_CZ.square() + _LOG_2PI) + sd_CZ.log()).sum(1)
            kl_C = log_q_C - self.log_joint(z_CZ).logsumexp(1)
        return Latent(mean_CZ=mean_CZ, z_CZ=z_CZ, kl_C=kl_C)

    def log_joint(self, z_CZ: Tensor) -> Tensor:
        """The logarithm of pi_l N(z; mu_l, diag sd_l^2), (C, L)."""
        standard_CLZ = (z_CZ[:, None] - self.prior_mean_LZ) * torch.exp(-self.prior_log_sd_LZ)
        scale_L = self.prior_log_sd_LZ.sum(1) + 0.5 * _LOG_2PI * z_CZ.shape[1]
        return self.prior_logits_L.log_softmax(0) - 0.5 * standard_CLZ.square().sum(2) - scale_L

    def responsibilities(self, z_CZ: Tensor) -> Tensor:
        """p(l | z), (C, L)."""
        return self.log_joint(z_CZ).softmax(1)


class PlainLatent(nn.Module):
    """(C, D) -> z without noise or prior (the ablation `latent = "none"`)."""

    def __init__(self, config: ModelConfig) -> None:
        """Draw the head from the global generator."""
        super().__init__()
        self.mean = nn.Linear(config.width, config.n_latent)

    def forward(self, h_CD: Tensor, generator: torch.Generator) -> Latent:
        """The mean; `generator` is there for the other kind."""
        mean_CZ: Tensor = self.mean(h_CD)
        return Latent(mean_CZ=mean_CZ, z_CZ=mean_CZ, kl_C=None)


LATENTS: dict[str, type[MixtureLatent] | type[PlainLatent]] = {
    "mixture": MixtureLatent,
    "none": PlainLatent,
}


def soft_floor(kl_C: Tensor, free_bits: float) -> Tensor:
    """The KL term, flattened out below `free_bits` nats a cell.

    f(kl) = w softplus((kl - free_bits) / w) + free_bits with w = free_bits / 2. Its slope is a
    sigmoid: near 1 above the floor, 0.12 at kl = 0, and nowhere 0, so the term is never lost
    for good (a hard floor above the term's reach would have no gradient at all).
    """
    if free_bits == 0:
        return kl_C
    width = free_bits / 2
    return free_bits + width * softplus((kl_C - free_bits) / width)
