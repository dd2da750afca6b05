"""`cellplm demo`: the whole way on the real data that ships with the package."""

from __future__ import annotations

import json
import shutil
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer

from cellplm.cli.console import Quiet, Verbose, emit, watch
from cellplm.cli.finetune import results_table
from cellplm.errors import ConfigError
from cellplm.logs import OnProgress

PRETRAIN_ON = (
    "Baron_H1_Data.csv.gz",
    "sc_celseq2.count.csv.gz",
    "Lung12_exprMat_file.csv.gz",
)
DENOISE = "sc_dropseq.count.csv.gz"
MARKER = "cellplm-demo.json"

PRETRAIN_STEPS = 450
FINETUNE_STEPS = 120
SEED = 0


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for all of it.")] = Path("demo-out"),
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Ingest, pre-train, fine-tune and score on real data, in a few minutes on two cores.

    Two dissociated data sets and a CosMx slide become a corpus; a small model learns from it;
    a third data set, which it has not seen, is denoised zero-shot, fine-tuned, and fine-tuned
    without pre-training.

    Example: cellplm demo --out demo-out
    """
    began = time.monotonic()
    _claim(out)
    with (
        as_file(files("cellplm") / "data" / "demo") as data,
        watch(verbose=verbose, quiet=quiet) as on_progress,
    ):
        documents = _run(data, out, on_progress)
    (out / "results.json").write_text(json.dumps(documents, indent=1))
    emit(results_table(documents))
    emit(
        f"{documents['fine-tuned']['n_test']:,} hidden non-zeros of {DENOISE}, RMSE and MAE on "
        f"log1p(counts per 10,000); {time.monotonic() - began:.0f} s in all"
    )
    emit(f"corpus      {out / 'corpus.zarr'}  (cellplm info {out / 'corpus.zarr'})")
    emit(f"run         {out / 'run'}  (metrics.jsonl, checkpoints)")
    emit(f"results     {out / 'results.json'}")
    emit(f"predictions {out / 'fine-tuned' / 'predictions.h5ad'}  (layer 'predicted')")


def _run(data: Path, out: Path, on_progress: OnProgress) -> dict[str, Any]:
    from cellplm.corpus.plan import PlanConfig
    from cellplm.corpus.reader import Corpus
    from cellplm.ingest.convert import ingest_files
    from cellplm.model.config import PRESETS
    from cellplm.tasks.denoise import DenoiseConfig
    from cellplm.training.config import RunConfig, TrainConfig
    from cellplm.training.denoise import finetune_denoise
    from cellplm.training.finetune import FinetuneConfig
    from cellplm.training.pretrain import pretrain

    ingest_files(
        [data / name for name in PRETRAIN_ON], out / "corpus.zarr", on_progress=on_progress
    )
    config = RunConfig(
        train=TrainConfig(lr=2e-3, warmup_steps=20, max_steps=PRETRAIN_STEPS, seed=SEED),
        data=PlanConfig(window=500, global_batch_packs=1),
        model=PRESETS["2M"],
    )
    corpus = Corpus.open(out / "corpus.zarr")
    pretrain(corpus, config, out / "run", on_progress=on_progress)
    documents = {}
    for name, checkpoint in (("fine-tuned", out / "run"), ("from scratch", None)):
        documents[name] = finetune_denoise(
            data / DENOISE,
            out / name.replace(" ", "-"),
            checkpoint=checkpoint,
            scratch=None if checkpoint else config.model,
            task=DenoiseConfig(scheme="hide"),
            budget=FinetuneConfig(max_steps=FINETUNE_STEPS, eval_every=10),
            seeds=[SEED],
            on_progress=on_progress,
        )
    return documents


def _claim(out: Path) -> None:
    """A fresh folder; an earlier demo in it is replaced, anything else is left alone."""
    if out.exists() and not (out / MARKER).exists():
        raise ConfigError(f"{out}: exists and is not an earlier demo; give another --out.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).write_text(json.dumps({"made_by": "cellplm demo"}))
