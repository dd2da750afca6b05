"""Fine-tune a model on a task: one loop, the best step by the task's own validation counts.

Whether the model was pre-trained makes no difference here: the same data, steps and
choices, so that a comparison of the two is fair.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.errors import CellplmError, ConfigError
from cellplm.logs import OnProgress, Progress, ignore
from cellplm.model.cellplm import CellPLM
from cellplm.model.config import ModelConfig
from cellplm.model.device import DeviceName, device_of
from cellplm.model.pretrained import load_model
from cellplm.model.vocabulary import Vocabulary
from cellplm.tasks.denoise import Denoise, DenoiseConfig
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


def finetune(
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


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseResult:
    """`results.json` of a denoising run, and its last model.

    Attributes:
        document: see docs/cli.md.
        model: fine-tuned with the first seed.
        task: the one it was fine-tuned on.
    """

    document: dict[str, Any]
    model: CellPLM
    task: Denoise


def denoise(
    corpus: Corpus,
    checkpoint: Path | None,
    *,
    task: DenoiseConfig,
    scratch: ModelConfig | None = None,
    budget: FinetuneConfig | None = None,
    seeds: Sequence[int] = (0,),
    device: DeviceName = "auto",
    on_progress: OnProgress = ignore,
) -> DenoiseResult:
    """Fine-tune and score denoising, once for each seed.

    Args:
        corpus: of one part; see tasks/data.py.
        checkpoint: a run or checkpoint folder; None for a model from scratch.
        task: what is set aside; its seed is replaced by each of `seeds`.
        scratch: the model to make where there is no checkpoint.
        budget: of each fine-tuning.
        seeds: each draws other counts to set aside, and another order and other masks.
        device: "auto" takes a GPU if there is one.
        on_progress: called now and then.

    Raises:
        CheckpointError: not a checkpoint.
    """
    began = time.monotonic()
    budget = budget or FinetuneConfig()
    first: tuple[CellPLM, Denoise] | None = None
    tuned: list[dict[str, float]] = []
    zero_shot: list[dict[str, float]] = []
    baselines: dict[str, list[dict[str, float]]] = {}
    best_steps: list[int] = []
    n_set_aside: dict[str, int] = {}
    for seed in seeds:
        model = _start(checkpoint, scratch, seed).to(device_of(device))
        each = Denoise(corpus, model.vocabulary, replace(task, seed=seed))
        if task.scheme is not None:
            n_set_aside = n_set_aside or each.n_set_aside()
            for name, of_non_zeros in (("gene mean", False), ("gene mean of non-zeros", True)):
                predict = each.gene_mean(of_non_zeros=of_non_zeros)
                baselines.setdefault(name, []).append(each.score(predict, "test"))
            if checkpoint is not None:
                zero_shot.append(each.score(each.model_predict(model), "test"))
        what = f"fine-tune (seed {seed})"
        best_steps.append(finetune(model, each, budget, what=what, on_progress=on_progress))
        tuned.append(each.score(each.model_predict(model), "test"))
        first = first or (model, each)
    if first is None:
        raise ConfigError("no seed was given.")
    document = {
        "task": "denoise",
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "scheme": task.scheme,
        "seeds": list(seeds),
        "n_train": corpus.parts[0].entry.n_kept,
        "n_valid": n_set_aside.get("valid", 0),
        "n_test": n_set_aside.get("test", 0),
        "metrics": _spread(tuned),
        "baselines": {name: _means(scores) for name, scores in baselines.items()},
        "zero_shot": _means(zero_shot),
        "best_steps": best_steps,
        "seconds": round(time.monotonic() - began, 1),
    }
    return DenoiseResult(document=document, model=first[0], task=first[1])


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


def _start(checkpoint: Path | None, scratch: ModelConfig | None, seed: int) -> CellPLM:
    if checkpoint is not None:
        return load_model(checkpoint, drop_labels=True)
    if scratch is None:
        raise ConfigError("give a checkpoint, or the configuration of a model from scratch.")
    vocabulary = Vocabulary(GeneIndex.bundled().vocabulary_ids())
    return CellPLM(replace(scratch, seed=seed), vocabulary)


def _spread(scores: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    out = {}
    for name in scores[0]:
        values = [score[name] for score in scores]
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        out[name] = {"mean": statistics.fmean(values), "sd": sd, "values": values}
    return out


def _means(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    if not scores:
        return {}
    return {name: statistics.fmean(score[name] for score in scores) for name in scores[0]}
