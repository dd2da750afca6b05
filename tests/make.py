"""Small data sets on disk, and corpora made of them by the real ingest."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.options import IngestOptions


def vocabulary_genes(n: int, *, start: int = 0) -> list[str]:
    """Ensembl ids of the default vocabulary."""
    return list(GeneIndex.bundled().vocabulary_ids()[start : start + n])


def make_adata(
    *,
    samples: tuple[int, ...] = (60, 40),
    n_genes: int = 50,
    seed: int = 0,
    spatial: bool = False,
    mean: float = 1.0,
) -> ad.AnnData:
    """Poisson counts with three cell types over real gene ids, cells of all samples mixed."""
    rng = np.random.default_rng(seed)
    n = sum(samples)
    profile = rng.gamma(0.5, 2.0, (3, n_genes)) * mean
    kind = rng.integers(0, 3, n)
    counts = rng.poisson(profile[kind])
    counts[:, 0] += 5
    sample = rng.permutation(np.repeat([f"s{i}" for i in range(len(samples))], samples))
    obs = pd.DataFrame(
        {"sample": pd.Categorical(sample), "cell_type": pd.Categorical([f"t{k}" for k in kind])},
        index=[f"cell{i}" for i in range(n)],
    )
    adata = ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=vocabulary_genes(n_genes)),
    )
    if spatial:
        adata.obsm["spatial"] = rng.uniform(0, 400, (n, 2))
    return adata


def write_h5ad(path: Path, adata: ad.AnnData) -> Path:
    """Write it, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(path)
    return path


def make_corpus(folder: Path, *adatas: ad.AnnData, options: IngestOptions | None = None) -> Corpus:
    """A corpus of these data sets (default: one dissociated, one spatial)."""
    if not adatas:
        adatas = (make_adata(), make_adata(samples=(80,), n_genes=30, seed=1, spatial=True))
    paths = [write_h5ad(folder / "raw" / f"set{i}.h5ad", a) for i, a in enumerate(adatas)]
    ingest_files(paths, folder / "corpus.zarr", options)
    return Corpus.open(folder / "corpus.zarr")
