"""Denoising from a file to a folder: fine-tune, score over seeds, predict."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.errors import ConfigError, InputError
from cellplm.logs import OnProgress, ignore
from cellplm.model.cellplm import CellPLM
from cellplm.model.config import ModelConfig
from cellplm.model.device import DeviceName, device_of
from cellplm.model.pretrained import find_checkpoint, load_model, save_model
from cellplm.model.vocabulary import Vocabulary
from cellplm.tasks.data import opened
from cellplm.tasks.denoise import Denoise, DenoiseConfig
from cellplm.training.finetune import FinetuneConfig, fit


def finetune_denoise(
    data: Path | str,
    out: Path | str,
    *,
    checkpoint: Path | str | None = None,
    scratch: ModelConfig | None = None,
    task: DenoiseConfig | None = None,
    budget: FinetuneConfig | None = None,
    seeds: Sequence[int] = (0,),
    context: str | None = None,
    device: DeviceName = "auto",
    on_progress: OnProgress = ignore,
) -> dict[str, Any]:
    """Fine-tune a model to denoise a file, and write model/, results.json and predictions.h5ad.

    Args:
        data: a file or folder with one data set.
        out: a folder; made if need be.
        checkpoint: a run or checkpoint folder; None for a model from scratch.
        scratch: the model to make where there is no checkpoint.
        task: what is set aside to score with; nothing by default.
        budget: of each fine-tuning.
        seeds: see `denoise`; the model and the predictions are of the first.
        context: obs column whose cells are seen together; found if None.
        device: "auto" takes a GPU if there is one.
        on_progress: called now and then.

    Returns:
        What results.json holds; see docs/cli.md.

    Raises:
        InputError: the file is refused.
        CheckpointError: not a checkpoint.
        ConfigError: `out` is no folder.
    """
    data, out = Path(data), Path(out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: exists and is no folder; give another path.")
    if checkpoint is not None:
        find_checkpoint(Path(checkpoint))
    with opened(data, context=context, on_progress=on_progress) as corpus:
        result = denoise(
            corpus,
            checkpoint,
            task=task or DenoiseConfig(),
            scratch=scratch,
            budget=budget,
            seeds=seeds,
            device=device,
            on_progress=on_progress,
        )
        (out / "model").mkdir(parents=True, exist_ok=True)
        save_model(result.model, out / "model")
        result.task.write_predictions(result.model, data, out / "predictions.h5ad")
    document = {**result.document, "data": str(data)}
    (out / "results.json").write_text(json.dumps(document, indent=1))
    return document


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
    checkpoint: Path | str | None,
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
        InputError: nothing can be set aside.
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
            n_set_aside = n_set_aside or _set_aside(each)
            for name, predict in each.baselines().items():
                baselines.setdefault(name, []).append(each.score(predict, "test"))
            if checkpoint is not None:
                zero_shot.append(each.score(each.model_predict(model), "test"))
        what = f"fine-tune (seed {seed})"
        best_steps.append(fit(model, each, budget, what=what, on_progress=on_progress))
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


def _set_aside(task: Denoise) -> dict[str, int]:
    n = task.n_set_aside()
    if not (n["test"] and n["valid"]):
        raise InputError(
            f"{task.part.entry.sources[0].path}: nothing could be set aside to score with "
            f"({task.config.scheme} {task.config.fraction:g} of {task.part.entry.n_kept:,} cells); "
            "give a larger share, or none."
        )
    return n


def _start(checkpoint: Path | str | None, scratch: ModelConfig | None, seed: int) -> CellPLM:
    if checkpoint is not None:
        return load_model(Path(checkpoint), drop_labels=True)
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
