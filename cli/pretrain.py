"""`cellplm pretrain`: train a model on a corpus."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cellplm.cli.console import DeviceOption, Json, Quiet, Verbose, emit, emit_json, watch
from cellplm.errors import ConfigError


def pretrain(
    corpus: Annotated[Path, typer.Argument(help="A corpus.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder.")] = Path("runs/pretrain"),
    preset: Annotated[
        str, typer.Option(help="Size of the model: 2M, 5M, 10M, 40M or 85M.")
    ] = "10M",
    gpus: Annotated[
        int | None, typer.Option("--gpus", help="1: as --device cuda; 0: as --device cpu.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with train, data and model.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as train.lr=3e-4.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many steps.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Stop after this many epochs.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, masks, noise and dropout.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run in --out.")] = False,
    device: DeviceOption = "auto",
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Train a CellPLM model on a corpus, in one process, on the CPU or one GPU.

    Example: cellplm pretrain corpus.zarr --preset 5M --max-steps 1000 --out runs/first
    """
    from cellplm.corpus.reader import Corpus
    from cellplm.training.pretrain import pretrain as run

    resolved = _resolve(preset, config, assign or [], resume=resume, out=out)
    train: dict[str, Any] = {
        key: value
        for key, value in (("max_steps", max_steps), ("epochs", epochs), ("seed", seed))
        if value is not None
    }
    if gpus is not None:
        if device not in ("auto", _device(gpus)):
            raise ConfigError(f"--gpus {gpus} and --device {device} contradict each other.")
        device = _device(gpus)
    if device != "auto":
        train["device"] = device
    resolved = replace(resolved, train=replace(resolved.train, **train))
    with watch(verbose=verbose, quiet=quiet) as on_progress:
        result = run(Corpus.open(corpus), resolved, out, resume=resume, on_progress=on_progress)
    if json:
        emit_json(
            {
                "run": str(result.run),
                "checkpoint": str(result.checkpoint),
                "step": result.step,
                "cells": result.cells,
                "loss": result.loss,
                "interrupted": result.interrupted,
            }
        )
    elif not quiet:
        loss = "" if result.loss is None else f", loss {result.loss:.4f}"
        emit(f"{result.step:,} steps, {result.cells:,} cells{loss}: {result.checkpoint}")
        if result.interrupted:
            emit(f"Stopped early. Go on: cellplm pretrain {corpus} --out {out} --resume")
        else:
            emit(f"Next: cellplm finetune denoise --checkpoint {out} --data FILE --out OUT")
    if result.interrupted:
        raise typer.Exit(130)


def _resolve(
    preset: str, config: Path | None, assign: list[str], *, resume: bool, out: Path
) -> Any:
    """Defaults, then the preset (or the resumed run), then the file, then --set."""
    from cellplm.config import build, merge, override, read_toml, to_dict
    from cellplm.model.config import PRESETS
    from cellplm.training.config import RunConfig

    if preset not in PRESETS:
        raise ConfigError(f"--preset {preset}: unknown. Known: {', '.join(PRESETS)}.")
    values = to_dict(RunConfig(model=PRESETS[preset]))
    if resume and (out / "config.toml").exists():
        values = read_toml(out / "config.toml")
    if config is not None:
        values = merge(values, read_toml(config))
    return build(RunConfig, override(values, assign))


def _device(gpus: int) -> Literal["cpu", "cuda"]:
    if gpus > 1:
        raise ConfigError(
            f"--gpus {gpus}: this version trains in one process. Pass --gpus 1, or --device cpu to "
            "train on the CPU."
        )
    return "cuda" if gpus == 1 else "cpu"
