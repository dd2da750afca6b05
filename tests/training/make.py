"""Builds tiny corpora and runs: one slide with two FOVs, and one scRNA data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellplm.corpus import index as part_index
from cellplm.corpus import manifest, schema
from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.index import PartIndex
from cellplm.corpus.manifest import PartEntry
from cellplm.corpus.plan import PlanConfig
from cellplm.corpus.reader import Corpus
from cellplm.corpus.writer import PartWriter, write_object
from cellplm.model.config import ModelConfig
from cellplm.training.config import RunConfig, TrainConfig

MODEL = ModelConfig(
    width=16,
    n_heads=2,
    n_layers=1,
    n_latent=6,
    n_components=3,
    n_bottleneck=5,
    dropout=0.2,
    beta_warmup_steps=4,
)
DATA = PlanConfig(window=30, pack_cells=40, global_batch_packs=2)


def make_config(model: ModelConfig = MODEL, **train: Any) -> RunConfig:
    values = {
        "max_steps": 8,
        "warmup_steps": 2,
        "log_every": 1,
        "checkpoint_every": 3,
        "lr": 0.01,
        "device": "cpu",
        "threads": 1,
    }
    return RunConfig(train=TrainConfig(**{**values, **train}), data=DATA, model=model)


def make_corpus(path: Path) -> Corpus:
    Corpus.create(path, GeneIndex.bundled(), writer="test")
    add_part(path, "blood", [50, 20], n_genes=40, seed=1)
    add_part(path, "slide", [40, 25], n_genes=25, seed=2, is_srt=True)
    return Corpus.open(path)


def add_part(
    root: Path, name: str, tissues: list[int], *, n_genes: int, seed: int, is_srt: bool = False
) -> None:
    """One part: counts that differ between two kinds of cells; the last column is no gene."""
    rng = np.random.default_rng(seed)
    n_obs, n_vars = sum(tissues), n_genes + 1
    rates = rng.gamma(0.5, 2.0, size=(2, n_vars))[rng.integers(0, 2, n_obs)]
    counts = rng.poisson(rates)
    rows, columns = counts.nonzero()
    indptr = np.searchsorted(rows, np.arange(n_obs + 1)).astype(np.int64)
    data = counts[rows, columns]
    bounds = np.cumsum([0, *tissues])
    vocabulary = GeneIndex.bundled().vocabulary_ids()
    numbers = GeneIndex.bundled().numbers_of(vocabulary[seed : seed + n_genes])
    coords = rng.uniform(0, 100, size=(n_obs, 2)).astype(np.float32) if is_srt else None
    origin = np.full((len(tissues), 2), np.nan, dtype=np.float32)
    extent = origin.copy()
    if coords is not None:
        origin[:], extent[:] = 0, 100
    part_id = f"{name}-1"
    writer = PartWriter(
        root, part_id, n_obs=n_obs, n_vars=n_vars, nnz=data.size, max_count=int(data.max())
    )
    values = data.astype(writer.data_dtype), columns.astype(writer.indices_dtype)
    writer.write_shard(0, [values])
    writer.write_tables(
        indptr=indptr,
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n_obs)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(n_vars)]),
        coords_um=coords,
        provenance={},
    )
    index = PartIndex(
        tissue_start=bounds[:-1],
        tissue_stop=bounds[1:],
        tissue_nnz=np.diff(indptr[bounds]),
        tissue_sample=np.array(
            ["s"] * len(tissues) if is_srt else [f"s{i}" for i, _ in enumerate(tissues)]
        ),
        tissue_fov=np.array([f"f{i}" if is_srt else "" for i, _ in enumerate(tissues)]),
        tissue_origin_um=origin,
        tissue_extent_um=extent,
        nnz_prefix=part_index.nnz_prefix(indptr),
        gene_number=np.append(numbers, np.int32(-1)),
        library_size=counts[:, :-1].sum(1).astype(np.uint32),
    )
    index_ref = write_object(root, f"{schema.INDEX}/{part_id}.npz", part_index.to_bytes(index))
    entry = PartEntry(
        id=part_id,
        path=f"{schema.PARTS}/{part_id}",
        name=name,
        modality="srt" if is_srt else "scrna",
        platform="",
        species="human",
        n_obs=n_obs,
        n_kept=n_obs,
        n_vars=n_vars,
        n_genes=n_genes,
        nnz=data.size,
        n_tissues=len(tissues),
        content=name,
        sources=(),
        index=index_ref,
        objects=writer.finish(),
    )
    manifest.commit(
        root,
        lambda parent: dataclasses.replace(parent, parts=(*parent.parts, entry)),
        operation="ingest",
        writer="test",
    )


def read_metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> dict[int, tuple[float, ...]]:
    """What must not depend on where a run was broken, by step."""
    names = ("loss", "reconstruction", "kl", "beta", "lr", "grad_norm", "cells", "epoch")
    return {line["step"]: tuple(line[name] for name in names) for line in read_metrics(run)}
