"""Builds TissueBatches and small models out of arrays that a test can show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.genes import GeneIndex
from cellplm.model.cellplm import CellPLM
from cellplm.model.config import ModelConfig
from cellplm.model.vocabulary import Vocabulary

N_VOCABULARY = 40

SMALL = ModelConfig(
    width=16,
    n_heads=2,
    n_layers=2,
    n_latent=6,
    n_components=3,
    n_bottleneck=5,
    dropout=0.0,
    label_dropout=0.0,
)


def vocabulary() -> Vocabulary:
    return Vocabulary(GeneIndex.bundled().vocabulary_ids()[:N_VOCABULARY])


def gene_numbers(rows: Sequence[int]) -> NDArray[np.int32]:
    """Gene-index numbers of rows of the small vocabulary."""
    ids = [GeneIndex.bundled().vocabulary_ids()[row] for row in rows]
    return GeneIndex.bundled().numbers_of(ids)


def make_model(
    config: ModelConfig = SMALL, *, labels: tuple[str, ...] = ("a", "b"), double: bool = False
) -> CellPLM:
    model = CellPLM(config, vocabulary(), labels)
    return model.double() if double else model


def make_counts(n_cells: int, n_genes: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).poisson(0.7, size=(n_cells, n_genes))


def make_coords(n_cells: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 500, size=(n_cells, 2)).astype(np.float32)


def make_batch(
    windows: Sequence[NDArray[np.int64]],
    *,
    gene_ids: NDArray[np.int32] | None = None,
    labels: Sequence[int] | None = None,
    coords: Sequence[NDArray[np.float32]] | None = None,
    extent_um: float = 500.0,
    key: tuple[int, int, int] = (0, 0, 0),
) -> TissueBatch:
    """A pack of windows of dense counts, all with the same columns."""
    counts = np.concatenate(windows)
    n_windows = len(windows)
    if gene_ids is None:
        gene_ids = gene_numbers(range(counts.shape[1]))
    rows, columns = counts.nonzero()
    is_gene = gene_ids >= 0
    return TissueBatch(
        indptr=torch.from_numpy(np.searchsorted(rows, np.arange(len(counts) + 1))),
        indices=torch.from_numpy(columns.astype(np.uint16)),
        counts=torch.from_numpy(counts[rows, columns].astype(np.uint8)),
        gene_ids=torch.from_numpy(gene_ids),
        library_size=torch.from_numpy(counts[:, is_gene].sum(1).astype(np.float32)),
        segments=torch.from_numpy(np.cumsum([0, *map(len, windows)])),
        batch_label=torch.tensor(labels or [0] * n_windows),
        tissue=torch.arange(n_windows),
        coords_um=None if coords is None else torch.from_numpy(np.concatenate(coords)),
        extent_um=None if coords is None else torch.full((n_windows,), extent_um),
        row=torch.arange(len(counts)),
        part="made",
        modality="scrna" if coords is None else "srt",
        key=key,
    )


def expected_values(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """log1p of counts per 10,000, written as it is defined."""
    size = counts.sum(1, keepdims=True).clip(1)
    values: NDArray[np.float64] = np.log1p(counts / size * 1e4)
    return values
