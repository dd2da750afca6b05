"""Fit a model to a task: one loop, the best step by the task's own validation counts.

Whether the model was pre-trained makes no difference here: for equal model configs, the same
data, masks, steps and choices, so that a comparison of the two is fair.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch

from cellplm.corpus.batch import TissueBatch
from cellplm.errors import CellplmError, ConfigError
from cellplm.logs import OnProgress, Progress, ignore
from cellplm.model.cellplm import CellPLM
from cellplm.tasks.denoise import Denoise
from cellplm.training.config import TrainConfig
from cellplm.training.optim import Optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """The budget, the same for a pre-trained model and one from scratch.

    Attributes:
        max_steps: steps of the optimiser, one pack each.
        eval_every: steps between looks at the validation counts.
        lr: learning rate after the warm-up.
        warmup_steps: of the learning rate.
        weight_decay: of AdamW.
    """

    max_steps: int = 200
    eval_every: int = 20
    lr: float = 5e-4
    warmup_steps: int = 20
    weight_decay: float = 1e-6

    def __post_init__(self) -> None:
        """Check what a type cannot."""
        if self.max_steps < 0 or self.eval_every < 1:
            raise ConfigError(
                f"max_steps {self.max_steps}, eval_every {self.eval_every}: must not be negative."
            )


def fit(
    model: CellPLM,
    task: Denoise,
    config: FinetuneConfig,
    *,
    what: str = "fine-tune",
    on_progress: OnProgress = ignore,
) -> int:
    """Train a model on a task, in place.

    Args:
        model: any; left in eval mode with the parameters of the best step.
        task: gives batches, masks and validation scores.
        config: the budget.
        what: name of the work, for progress.
        on_progress: called now and then.

    Returns:
        The best step; the last one where nothing was set aside to choose by.

    Raises:
        CellplmError: the loss is not finite.
    """
    train = TrainConfig(
        lr=config.lr, warmup_steps=config.warmup_steps, weight_decay=config.weight_decay
    )
    optimizer = Optimizer(model, train, config.max_steps)
    best_step, best_score = config.max_steps, math.inf
    best_state: dict[str, Any] | None = None
    batches = task.training_batches()
    if config.max_steps:
        task.calibrate(model)
    for step in range(config.max_steps + 1):
        due = step % config.eval_every == 0 or step == config.max_steps
        if task.chosen_by is not None and due:
            score = task.score(task.model_predict(model), "valid")[task.chosen_by]
            if score < best_score:
                best_step, best_score = step, score
                best_state = copy.deepcopy(model.state_dict())
        if step == config.max_steps:
            break
        loss = _step(model, optimizer, task, next(batches), step)
        note = f"loss {loss:.4f}" + (f", best {best_score:.4f}" if best_score < math.inf else "")
        on_progress(Progress(what=what, done=step + 1, total=config.max_steps, note=note))
    if best_state is not None:
        model.load_state_dict(best_state)
    model.eval()
    return best_step


def _step(
    model: CellPLM, optimizer: Optimizer, task: Denoise, batch: TissueBatch, step: int
) -> float:
    model.train()
    inputs = model.prepare(batch, task.corpus.genes)
    mask = task.mask(model, inputs)
    with torch.autocast(
        model.device.type, dtype=torch.bfloat16, enabled=model.device.type == "cuda"
    ):
        terms = model.loss(inputs, mask, model(inputs, mask))
    loss = terms.share(n_entries=terms.n_entries, n_cells=terms.n_cells, beta=model.config.beta)
    value = loss.item()
    if not math.isfinite(value):
        raise CellplmError(f"fine-tuning: the loss is {value} at step {step}; lower --lr.")
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step(step)
    return value
