"""On the real data that ships with the package, the loss falls and embeddings tell cells apart."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import anndata as ad
import numpy as np

from cellplm.corpus.plan import PlanConfig
from cellplm.corpus.reader import Corpus
from cellplm.ingest.convert import ingest_files
from cellplm.model.config import PRESETS
from cellplm.tasks.embed import embed_file
from cellplm.training.config import RunConfig, TrainConfig
from cellplm.training.pretrain import pretrain


def test_the_loss_falls_and_cell_lines_come_apart(tmp_path: Path) -> None:
    demo = Path(str(files("cellplm") / "data" / "demo"))
    celseq2 = demo / "sc_celseq2.count.csv.gz"
    ingest_files([celseq2, demo / "Lung12_exprMat_file.csv.gz"], tmp_path / "corpus.zarr")
    config = RunConfig(
        train=TrainConfig(lr=2e-3, warmup_steps=5, max_steps=30, log_every=1, threads=1),
        # Every step holds every pack, so that losses of different steps compare.
        data=PlanConfig(window=150, global_batch_packs=8),
        model=PRESETS["2M"],
    )
    pretrain(Corpus.open(tmp_path / "corpus.zarr"), config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    loss = [json.loads(line)["loss"] for line in lines]
    assert np.mean(loss[-5:]) < 0.67 * np.mean(loss[:3])
    embed_file(celseq2, tmp_path / "run", tmp_path / "out.h5ad")
    adata = ad.read_h5ad(tmp_path / "out.h5ad")
    z = np.asarray(adata.obsm["X_cellplm"])
    line = adata.obs["cell_line"].to_numpy()
    distance = ((z[:, None] - z[None]) ** 2).sum(-1) + np.diag(np.full(len(z), np.inf))
    nearest = line[distance.argmin(axis=1)]
    # Guessing gives about a third.
    assert (nearest == line).mean() > 0.6
