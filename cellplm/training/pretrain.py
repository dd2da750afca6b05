"""Pre-train a model on a corpus, in one process, on the CPU or one GPU.

A run is resumed exactly: the next packs, their masks, noise and dropout follow from the
checkpoint, and so do the losses (to the bit on the same CPU with the same threads).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.reader import Corpus
from cellplm.corpus.stream import TissueStream
from cellplm.errors import CheckpointError, ConfigError
from cellplm.logs import OnProgress, Progress, ignore
from cellplm.model.cellplm import CellPLM
from cellplm.model.device import device_of
from cellplm.model.vocabulary import Vocabulary
from cellplm.training.checkpoint import TrainerState, read_state, restore, save_checkpoint
from cellplm.training.config import RunConfig, TrainConfig, write_run_config
from cellplm.training.interrupt import listen
from cellplm.training.metrics import Clock, MetricsFile, memory_mb
from cellplm.training.optim import Optimizer
from cellplm.training.trainer import StepResult, train_step

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainResult:
    """How a run ended.

    Attributes:
        run: its folder.
        checkpoint: the last one.
        step: steps made since the run began.
        cells: cells trained on since then, each time counted.
        loss: of the last step; None if there was nothing left to do.
        interrupted: a signal ended it; `resume` goes on.
    """

    run: Path
    checkpoint: Path
    step: int
    cells: int
    loss: float | None
    interrupted: bool


def pretrain(
    corpus: Corpus,
    config: RunConfig,
    out: Path | str,
    *,
    resume: bool = False,
    on_progress: OnProgress = ignore,
) -> PretrainResult:
    """Train, writing config.toml, metrics.jsonl and checkpoints/ into `out`.

    Args:
        corpus: a resumed run stays on the snapshot that it was started on.
        config: of the run; a resumed one may change `train`, and nothing else.
        out: the run folder: new or empty, unless resumed.
        resume: go on from the latest checkpoint, or from the start if there is none yet.
        on_progress: called after every step.

    Raises:
        ConfigError: the config leaves nothing to train on, or asks for a GPU that is not there.
        CheckpointError: `out` holds a run and `resume` is off, or its checkpoint is of another
            corpus or model.
        CellplmError: the loss is no longer finite.
    """
    out = Path(out)
    device = device_of(config.train.device)
    state = _claim(out, resume)
    if state is not None:
        corpus = _snapshot_of(state, corpus)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    stream = TissueStream(
        corpus, config.data, seed=config.train.seed, genes=corpus.genes.vocabulary >= 0
    )
    n_steps = config.train.n_steps(stream.n_steps)
    vocabulary = Vocabulary(corpus.genes.vocabulary_ids())
    model = CellPLM(config.model, vocabulary, stream.labels, corpus.genes).to(device).train()
    optimizer = Optimizer(model, config.train, n_steps)
    if state is not None:
        _load_stream(stream, state, out)
        optimizer.load_tensors(restore(out, model))
    else:
        state = TrainerState(step=0, cells=0, stream=stream.state_dict())
    write_run_config(config, out / "config.toml")
    log.info(
        "%s parameters without the batch table of %s labels; %s steps; %s.",
        f"{model.n_parameters():,}",
        f"{len(stream.labels):,}",
        f"{n_steps:,}",
        device,
    )
    run = _Run(
        out=out,
        config=config.train,
        stream=stream,
        model=model,
        optimizer=optimizer,
        n_steps=n_steps,
        on_progress=on_progress,
    )
    return run.train(state)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """The loop, and what a checkpoint and a line of metrics are made of."""

    out: Path
    config: TrainConfig
    stream: TissueStream
    model: CellPLM
    optimizer: Optimizer
    n_steps: int
    on_progress: OnProgress

    def train(self, state: TrainerState) -> PretrainResult:
        """Make steps until the run's end or a signal, and leave a checkpoint of the last one."""
        result: StepResult | None = None
        saved_at = state.step
        metrics = MetricsFile(self.out / "metrics.jsonl", state.step)
        clock = Clock()
        with closing(metrics), listen() as interrupt, closing(self._packs(clock)) as steps:
            while not self._is_over(state.step) and not interrupt.requested:
                epoch, packs = next(steps)
                result = train_step(
                    self.model, self.optimizer, packs, state.step, self.stream.corpus.genes
                )
                state = replace(
                    state,
                    step=state.step + 1,
                    cells=state.cells + result.n_cells,
                    stream=self.stream.state_dict(),
                )
                clock.cells += result.n_cells
                if state.step % self.config.log_every == 0 or self._is_over(state.step):
                    metrics.write(self._record(state, epoch, result, clock))
                    clock.restart()
                if state.step % self.config.checkpoint_every == 0:
                    self._save(state)
                    saved_at = state.step
                self._report(state, result)
            interrupted = interrupt.requested and not self._is_over(state.step)
            if saved_at != state.step or state.step == 0:
                self._save(state)
        if interrupted:
            log.warning("stopped after step %d; go on with --resume --out %s", state.step, self.out)
        return PretrainResult(
            run=self.out,
            checkpoint=self.out / "checkpoints" / f"step-{state.step}",
            step=state.step,
            cells=state.cells,
            loss=None if result is None else result.loss,
            interrupted=interrupted,
        )

    def _packs(self, clock: Clock) -> Generator[tuple[int, list[TissueBatch]]]:
        """Steps of epoch after epoch, with the time that was spent waiting for them."""
        while True:
            epoch = self.stream.epoch
            with closing(self.stream.steps()) as steps:
                while True:
                    began = time.perf_counter()
                    packs = next(steps, None)
                    clock.waited_s += time.perf_counter() - began
                    if packs is None:
                        break
                    yield epoch, packs

    def _is_over(self, step: int) -> bool:
        max_steps, last_epoch = self.config.max_steps, self.config.last_epoch
        return (max_steps is not None and step >= max_steps) or (
            last_epoch is not None and self.stream.epoch >= last_epoch
        )

    def _save(self, state: TrainerState) -> None:
        save_checkpoint(
            self.out, self.model, self.optimizer.tensors(), state, keep=self.config.keep
        )

    def _record(
        self, state: TrainerState, epoch: int, result: StepResult, clock: Clock
    ) -> dict[str, float]:
        terms = asdict(result)
        del terms["n_cells"]
        seconds = clock.seconds()
        return {
            "step": state.step,
            "epoch": epoch,
            **terms,
            "cells": state.cells,
            "cells_per_s": clock.cells / seconds,
            "data_wait_fraction": clock.waited_s / seconds,
            "memory": memory_mb(self.model.device),
        }

    def _report(self, state: TrainerState, result: StepResult) -> None:
        note = f"loss {result.loss:.4f}, {state.cells:,} cells"
        # Epochs differ by a step or two, so the total is an estimate until the end.
        total = max(self.n_steps, state.step)
        self.on_progress(Progress(what="pretrain", done=state.step, total=total, note=note))


def _claim(out: Path, resume: bool) -> TrainerState | None:
    """Make the run folder, or read where the run in it stands."""
    is_run = (out / "config.toml").exists()
    if resume:
        if not is_run:
            raise CheckpointError(f"{out}: no run to resume (no config.toml in it).")
        return read_state(out)
    if is_run:
        raise CheckpointError(f"{out}: holds a run. Pass --resume to go on, or another --out.")
    out.mkdir(parents=True, exist_ok=True)
    return None


def _snapshot_of(state: TrainerState, corpus: Corpus) -> Corpus:
    number = state.stream.get("snapshot")
    if not isinstance(number, int) or number == corpus.snapshot.snapshot:
        return corpus
    log.info("the run stays on snapshot %d of %s", number, corpus.path)
    return Corpus.open(corpus.path, snapshot=number)


def _load_stream(stream: TissueStream, state: TrainerState, out: Path) -> None:
    try:
        stream.load_state_dict(state.stream)
    except ConfigError as error:
        raise CheckpointError(f"{out}: cannot be resumed here. {error}") from None
