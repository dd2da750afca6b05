"""`cellplm finetune TASK`: fit a model to a task and a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cellplm.cli.console import DeviceOption, Json, Quiet, Verbose, emit, emit_json, watch
from cellplm.errors import ConfigError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def finetune() -> None:
    """Fit a model to a task and a data set.

    Example: cellplm finetune denoise --checkpoint runs/first --data mine.h5ad --out out/
    """


@app.command("denoise")
def denoise(
    data: Annotated[Path, typer.Option(help="A file or folder with one data set.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for model, results, predictions.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="A run or checkpoint folder to start from.")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from a new model instead.")
    ] = False,
    preset: Annotated[str, typer.Option(help="Size of a model from scratch.")] = "10M",
    hide: Annotated[
        float | None,
        typer.Option(help="Hide this share of a cell's non-zeros, and score them."),
    ] = None,
    thin: Annotated[
        float | None,
        typer.Option(help="Set this share of molecules aside, and score them."),
    ] = None,
    max_steps: Annotated[int, typer.Option(min=0, help="Steps of fine-tuning.")] = 200,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 5e-4,
    window: Annotated[int, typer.Option(min=1, help="Most cells seen together.")] = 2000,
    context: Annotated[
        str | None, typer.Option(help="obs column whose cells are seen together.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is set aside, order and masks.")] = 0,
    repeats: Annotated[
        int, typer.Option(min=1, help="Repeat with the next seeds: mean and sd.")
    ] = 1,
    device: DeviceOption = "auto",
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Predict the expression behind the counts of a file, and score it on counts set aside.

    Writes model/, results.json and predictions.h5ad (layer "predicted", on the scale of
    counts). With --hide, the paper's score; with --thin, a proper one; with neither, no score.

    Example: cellplm finetune denoise --checkpoint runs/first --data mine.h5ad --hide 0.1 --out out
    """
    from cellplm.model.config import PRESETS
    from cellplm.tasks.denoise import DenoiseConfig
    from cellplm.training.denoise import finetune_denoise
    from cellplm.training.finetune import FinetuneConfig

    if (checkpoint is None) != from_scratch:
        raise typer.BadParameter("give either --checkpoint or --from-scratch")
    if hide is not None and thin is not None:
        raise typer.BadParameter("give --hide or --thin, not both: each has its own objective")
    if preset not in PRESETS:
        raise ConfigError(f"--preset {preset}: unknown. Known: {', '.join(PRESETS)}.")
    fraction = hide if hide is not None else thin
    if fraction is not None and not 0 < fraction < 0.5:
        raise typer.BadParameter(f"{fraction}: the share set aside must be above 0 and below 0.5")
    scheme: Any = "hide" if hide is not None else "thin" if thin is not None else None
    with watch(verbose=verbose, quiet=quiet) as on_progress:
        document = finetune_denoise(
            data,
            out,
            checkpoint=checkpoint,
            scratch=PRESETS[preset] if from_scratch else None,
            task=DenoiseConfig(scheme=scheme, fraction=fraction or 0.1, window=window),
            budget=FinetuneConfig(max_steps=max_steps, lr=lr),
            seeds=range(seed, seed + repeats),
            context=context,
            device=device,
            on_progress=on_progress,
        )
    if json:
        emit_json(document)
    elif not quiet:
        if scheme is not None:
            emit(results_table({"fine-tuned": document}))
        emit(f"model, results.json and predictions.h5ad are in {out}")


def results_table(documents: dict[str, dict[str, Any]]) -> Table:
    """Scores of fine-tuned models beside zero-shot and baselines, one row a method.

    Args:
        documents: results.json by the name of the fine-tuned row.
    """
    first = next(iter(documents.values()))
    names = list(first["metrics"])
    table = Table(title="denoising, lower is better", title_justify="left")
    table.add_column("method")
    for name in names:
        table.add_column(name, justify="right")
    for baseline, scores in first["baselines"].items():
        table.add_row(baseline, *(f"{scores[name]:.4f}" for name in names))
    for row, document in documents.items():
        if document["zero_shot"]:
            scores = document["zero_shot"]
            table.add_row("zero-shot", *(f"{scores[name]:.4f}" for name in names))
        spread = [document["metrics"][name] for name in names]
        several = len(document["seeds"]) > 1
        cells = [f"{s['mean']:.4f}" + (f" ± {s['sd']:.4f}" if several else "") for s in spread]
        table.add_row(row, *cells)
    return table
