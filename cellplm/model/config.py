"""ModelConfig: every choice that shapes the model or its loss, and the presets.

What is here is written into each checkpoint, so a model can be rebuilt from its folder
alone. How it is trained (learning rate, steps) is `cellplm.training.config`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cellplm.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The model and its objective.

    Attributes:
        width: D, the width of a token; a multiple of 4 and of `n_heads`.
        n_heads: attention heads.
        n_layers: encoder blocks.
        n_latent: Z, the width of the latent space.
        n_components: components of the Gaussian-mixture prior.
        n_decoder_layers: feed-forward layers before the bottleneck.
        n_bottleneck: width of the rows of the output table.
        dropout: rate everywhere in the encoder and the decoder.
        n_features: random features of a performer head; None for floor(d ln d) at width d.
        attention: "performer" (linear in the cells of a window) or "softmax".
        latent: "mixture" (sampled, with a KL term) or "none" (the mean, no KL term).
        likelihood: "gaussian": squared error on the transformed values.
        transform: "log1p_cp10k": counts / library size * 1e4, then log1p.
        position: "fov" (a FOV's longer side is 100 units) or "um" (10 micrometres are one).
        mask_cells: share of a pack's cells that are masked and carry the loss.
        mask_genes: share of the measured genes hidden in each of these.
        recon_on: "masked" entries carry the squared error, or "all" measured ones.
        beta: weight of the KL term after its warm-up.
        beta_warmup_steps: steps over which the weight rises from 0.
        free_bits: nats a cell below which the KL term is softly left alone; 0 for none.
        label_dropout: share of windows whose batch label is replaced by the default vector.
        seed: what the parameters and the performer's projections are drawn from.
    """

    width: int = 256
    n_heads: int = 4
    n_layers: int = 4
    n_latent: int = 128
    n_components: int = 16
    n_decoder_layers: int = 2
    n_bottleneck: int = 128
    dropout: float = 0.1
    n_features: int | None = None
    attention: Literal["performer", "softmax"] = "performer"
    latent: Literal["mixture", "none"] = "mixture"
    likelihood: Literal["gaussian"] = "gaussian"
    transform: Literal["log1p_cp10k"] = "log1p_cp10k"
    position: Literal["fov", "um"] = "fov"
    mask_cells: float = 0.75
    mask_genes: float = 0.25
    recon_on: Literal["masked", "all"] = "masked"
    beta: float = 1.0
    beta_warmup_steps: int = 1000
    free_bits: float = 0.0
    label_dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what `build` cannot: ranges, and values that must agree."""
        sizes = ("width", "n_heads", "n_latent", "n_components", "n_decoder_layers", "n_bottleneck")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} = {getattr(self, name)}: expected at least 1.")
        for name in ("n_layers", "beta", "beta_warmup_steps", "free_bits", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"model.{name} = {getattr(self, name)}: expected at least 0.")
        if self.width % self.n_heads or self.width % 4:
            raise ConfigError(
                f"model.width = {self.width}: expected a multiple of 4 (a sine and a cosine for "
                f"each of two axes) and of model.n_heads = {self.n_heads}."
            )
        for name in ("dropout", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name} = {getattr(self, name)}: expected 0 <= rate < 1.")
        for name, most in (("mask_cells", 1.0), ("mask_genes", 0.999)):
            if not 0 < getattr(self, name) <= most:
                raise ConfigError(
                    f"model.{name} = {getattr(self, name)}: expected 0 < rate <= {most}."
                )
        if self.n_features is not None and self.n_features < 1:
            raise ConfigError(f"model.n_features = {self.n_features}: expected at least 1.")

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.n_heads

    @property
    def head_features(self) -> int:
        """Random features of one performer head: 266 at the default width of 64."""
        if self.n_features is not None:
            return self.n_features
        return max(1, int(self.head_width * math.log(self.head_width)))

    def beta_at(self, step: int) -> float:
        """Weight of the KL term in the step after `step` steps were done."""
        if self.beta_warmup_steps == 0:
            return self.beta
        return self.beta * min(1.0, step / self.beta_warmup_steps)


# Named after their parameters with the default vocabulary, without the batch table; but the
# 85M is the authors' name: they counted 13 M of batch rows and a frozen 10 M position grid.
PRESETS: dict[str, ModelConfig] = {
    "2M": ModelConfig(width=64, n_heads=1, n_latent=32, n_bottleneck=32),
    "5M": ModelConfig(width=128, n_heads=2, n_latent=64),
    "10M": ModelConfig(width=256, n_heads=4, n_latent=128),
    "40M": ModelConfig(width=768, n_heads=12, n_latent=384),
    "85M": ModelConfig(width=1024, n_heads=16, n_latent=512),
}
