"""Does pre-training help? Denoise a data set with and without it, same fine-tuning budget.

    python benchmarks/denoise.py SHARED_DATA [--data sc-kang-ifnb-1k] [--seeds 0 1 2] [--out DIR]

Ingests the human sets of SHARED_DATA that share no cells with the data set (no Kang set),
pre-trains on them (or takes --run), and fine-tunes on each file of the data set: from the
checkpoint, and the same architecture from scratch, on the same hidden counts, batches and
masks. Both scores: hidden non-zeros (RMSE, MAE) and set-aside molecules. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cellplm.corpus.plan import PlanConfig
from cellplm.corpus.reader import Corpus
from cellplm.ingest.convert import ingest_files
from cellplm.logs import Progress
from cellplm.model.config import PRESETS
from cellplm.model.pretrained import load_model
from cellplm.tasks.data import opened
from cellplm.tasks.denoise import DenoiseConfig
from cellplm.tasks.holdout import Scheme
from cellplm.training.config import RunConfig, TrainConfig
from cellplm.training.denoise import denoise
from cellplm.training.finetune import FinetuneConfig
from cellplm.training.pretrain import pretrain

PRETRAIN_ON = (
    "sc-baron-h1/Baron_H1_Data.csv.gz",
    "sc-mixology-3cl/sc_celseq2.count.csv.gz",
    "sc-mixology-3cl/sc_dropseq.count.csv.gz",
    "sc-pbmc1k-3chem/1k_PBMC_v2_raw.converted.h5ad",
    "sc-pbmc1k-3chem/1k_PBMC_v3_filt.converted.h5ad",
    "sc-pbmc-cite-h5ad/pbmc_5k_protein_v3.h5ad",
    "sc-pbmc-cite-h5ad/pbmc_10k_protein_v3.h5ad",
    "sc-celltypist-sample/sample_cell_by_gene.csv.gz",
    "srt-cosmx-lung5/Lung5_Rep3_exprMat_file.csv.gz",
)


def make_run(shared: Path, folder: Path, preset: str, steps: int, lr: float) -> Path:
    """Ingest and pre-train; returns the run folder."""
    ingest_files([shared / name for name in PRETRAIN_ON], folder / "corpus.zarr")
    config = RunConfig(
        train=TrainConfig(lr=lr, max_steps=steps, warmup_steps=50),
        data=PlanConfig(window=500, global_batch_packs=2),
        model=PRESETS[preset],
    )
    began = time.monotonic()
    pretrain(Corpus.open(folder / "corpus.zarr"), config, folder / "run", on_progress=show)
    emit(case=f"pretrain {preset}, {steps} steps", value=time.monotonic() - began, unit="s")
    return folder / "run"


def show(progress: Progress) -> None:
    """A line on stderr now and then."""
    if progress.done % 50 == 0 and progress.done:
        text = f"{progress.what} {progress.done}/{progress.total} {progress.note}\n"
        sys.stderr.write(text)


def emit(**values: Any) -> None:
    """One JSON line."""
    print(json.dumps({"benchmark": "denoise", **values}), flush=True)


def compare(
    data: Path, run: Path, scheme: Scheme, seeds: list[int], budget: FinetuneConfig
) -> None:
    """Fine-tune from the run and from scratch, and print every score."""
    scratch = load_model(run, drop_labels=True).config
    with opened(data) as corpus:
        for start, checkpoint in (("pre-trained", run), ("from scratch", None)):
            document = denoise(
                corpus,
                checkpoint,
                task=DenoiseConfig(scheme=scheme, window=500),
                scratch=scratch,
                budget=budget,
                seeds=seeds,
                on_progress=show,
            ).document
            case = {"case": f"{data.name}, {scheme}", "seeds": seeds, "steps": budget.max_steps}
            for metric, spread in document["metrics"].items():
                rounded = {k: spread[k] for k in ("mean", "sd", "values")}
                emit(**case, method=start, metric=metric, best=document["best_steps"], **rounded)
            if checkpoint is not None:
                for metric, value in document["zero_shot"].items():
                    emit(**case, method="zero-shot", metric=metric, mean=value)
                for name, scores in document["baselines"].items():
                    for metric, value in scores.items():
                        emit(**case, method=name, metric=metric, mean=value)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--data", default="sc-kang-ifnb-1k")
    parser.add_argument("--preset", default="5M")
    parser.add_argument("--pretrain-steps", type=int, default=1000)
    parser.add_argument("--pretrain-lr", type=float, default=1e-3)
    parser.add_argument("--finetune-steps", type=int, default=100)
    parser.add_argument("--finetune-lr", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--schemes", nargs="+", default=["hide", "thin"])
    parser.add_argument("--run", type=Path, default=None, help="a run instead of pre-training")
    parser.add_argument("--out", type=Path, default=None, help="where to keep corpus and run")
    options = parser.parse_args()
    budget = FinetuneConfig(max_steps=options.finetune_steps, lr=options.finetune_lr)
    with tempfile.TemporaryDirectory(prefix="denoise-bench-") as temporary:
        folder = options.out or Path(temporary)
        run = options.run or make_run(
            options.shared, folder, options.preset, options.pretrain_steps, options.pretrain_lr
        )
        for data in sorted((options.shared / options.data).glob("*.h5ad")):
            for scheme in options.schemes:
                compare(data, run, scheme, options.seeds, budget)


if __name__ == "__main__":
    main()
