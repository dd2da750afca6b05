"""TrainConfig and RunConfig: how a model is trained, and all of a run as one TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from cellplm.config import build, read_toml, to_dict
from cellplm.corpus.plan import PlanConfig
from cellplm.errors import ConfigError
from cellplm.model.config import PRESETS, ModelConfig
from cellplm.model.device import DeviceName


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The optimiser, how long, and what is written on the way.

    Attributes:
        lr: learning rate at the end of the warm-up.
        lr_floor: share of it that the cosine ends at.
        weight_decay: of AdamW; the batch table has none.
        warmup_steps: steps over which the rate rises linearly.
        max_steps: stop after this many steps; None for no such limit.
        epochs: stop after this many epochs; None for no limit, or for 1 if there is no other.
        clip: the norm that gradients (batch table apart) are cut to.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_every: steps between checkpoints; one is always written at the end.
        keep: how many of the latest checkpoints stay.
        seed: of the order of the data, masks, noise and dropout.
        device: "auto" takes a GPU if there is one.
        threads: of torch on the CPU; 0 leaves them as they are.
    """

    lr: float = 2e-4
    lr_floor: float = 0.1
    weight_decay: float = 1e-8
    warmup_steps: int = 100
    max_steps: int | None = None
    epochs: int | None = None
    clip: float = 2.0
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 3
    seed: int = 0
    device: DeviceName = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        """Check what a type cannot."""
        for name in ("max_steps", "epochs", "log_every", "checkpoint_every", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"train.{name} = {value}: expected at least 1.")
        for name in ("weight_decay", "warmup_steps", "seed", "threads"):
            if getattr(self, name) < 0:
                raise ConfigError(f"train.{name} = {getattr(self, name)}: expected at least 0.")
        for name in ("lr", "clip"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"train.{name} = {getattr(self, name)}: expected more than 0.")
        if not 0 <= self.lr_floor <= 1:
            raise ConfigError(f"train.lr_floor = {self.lr_floor}: expected 0 <= share <= 1.")

    @property
    def last_epoch(self) -> int | None:
        """How many epochs to train; None if only `max_steps` ends the run."""
        if self.epochs is None and self.max_steps is None:
            return 1
        return self.epochs

    def n_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run, for the schedule: epochs differ by a step or two."""
        limits = [n for n in (self.max_steps,) if n is not None]
        if self.last_epoch is not None:
            limits.append(self.last_epoch * steps_per_epoch)
        return min(limits)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that a run is made of, besides the corpus."""

    train: TrainConfig = field(default_factory=TrainConfig)
    data: PlanConfig = field(default_factory=PlanConfig)
    model: ModelConfig = field(default_factory=lambda: PRESETS["10M"])


def read_run_config(path: Path) -> RunConfig:
    """A run's configuration from TOML; what is not said has its default.

    Raises:
        ConfigError: not there, not TOML, an unknown key or a wrong value.
    """
    return build(RunConfig, read_toml(path))


def write_run_config(config: RunConfig, path: Path) -> None:
    """Write a run's configuration, every key resolved."""
    path.write_text(tomli_w.dumps(to_dict(config)), encoding="utf-8")
