"""Set counts aside to score a denoiser with, the same ones however the cells are batched.

What is hidden is a function of (seed, row, column, count) alone, through a hash: windows
differ from epoch to epoch and the hidden entries must not, and nothing needs to be stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from cellplm.corpus.batch import TissueBatch

Scheme = Literal["hide", "thin"]

MIN_POSITIVES = 5
"""Cells with this many non-zeros or fewer keep them all."""
COUNT_SCALE = 20.0
"""An entry is hidden with a probability proportional to exp(-count / 20)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entries:
    """E counts set aside from a batch.

    Attributes:
        cell: (E,) int64 row in the batch.
        column: (E,) int64 column of the part.
        count: (E,) float32 what was set aside: the whole count (hide) or some molecules (thin).
        library_size: (E,) float32 of the cell before anything was set aside; for validation
            without what is set aside for test, which no choice may depend on.
    """

    cell: torch.Tensor
    column: torch.Tensor
    count: torch.Tensor
    library_size: torch.Tensor

    def __len__(self) -> int:
        """How many."""
        return self.count.numel()


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldOut:
    """A batch without what was set aside, and what that was.

    Attributes:
        visible: the batch that a model may see; its library sizes are of what is left.
        test: to score with, once.
        valid: to choose with (epochs, options); disjoint from `test`.
    """

    visible: TissueBatch
    test: Entries
    valid: Entries


def hold_out(batch: TissueBatch, scheme: Scheme, fraction: float, seed: int) -> HoldOut:
    """Set counts of a narrow batch aside, for test and as many again for validation.

    "hide": of each cell with more than 5 non-zeros, floor(fraction x n) whole entries each for
    test and validation, drawn without replacement with p ~ exp(-count / 20). "thin": each
    molecule is set aside with probability `fraction` for test and as much for validation.

    Args:
        batch: from the stream, not yet widened.
        scheme: what is set aside.
        fraction: of non-zeros, or of molecules; below 0.5.
        seed: the same seed sets the same counts aside.

    Source: the denoising protocol of scGNN and of the CellPLM preprint; thinning as in Neufeld
    et al. (2022), "Inference after latent variable estimation for single-cell RNA sequencing".
    """
    indptr = batch.indptr.numpy()
    cell = np.repeat(np.arange(indptr.size - 1), np.diff(indptr))
    column = batch.indices.numpy().astype(np.int64)
    count = batch.counts.numpy().astype(np.int64)
    is_gene = batch.gene_ids.numpy()[column] >= 0
    uniform = _uniform(seed, batch.row.numpy()[cell], column)
    if scheme == "hide":
        test, valid = _hide(indptr, count, is_gene, uniform, fraction)
    else:
        test, valid = _thin(count, is_gene, uniform, fraction)
    library = batch.library_size.numpy()
    # Only genes are set aside, so this is the library without them.
    of_test = np.bincount(cell, weights=test, minlength=indptr.size - 1)
    untested = (library - of_test).astype(np.float32)

    def entries(part: NDArray[np.int64], library: NDArray[np.float32]) -> Entries:
        taken = np.flatnonzero(part)
        return Entries(
            cell=torch.from_numpy(cell[taken]),
            column=torch.from_numpy(column[taken]),
            count=torch.from_numpy(part[taken].astype(np.float32)),
            library_size=torch.from_numpy(library[cell[taken]]),
        )

    left = count - test - valid
    return HoldOut(
        visible=_visible(batch, cell, left),
        test=entries(test, library),
        valid=entries(valid, untested),
    )


def _hide(
    indptr: NDArray[np.int64],
    count: NDArray[np.int64],
    is_gene: NDArray[np.bool_],
    uniform: NDArray[np.float64],
    fraction: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # The k smallest of -log(u) / w are k draws without replacement with weights w.
    race = np.where(is_gene, np.log(-np.log(uniform)) + count / COUNT_SCALE, np.inf)
    before = np.concatenate([[0], np.cumsum(is_gene)])
    n_positive = before[indptr[1:]] - before[indptr[:-1]]
    test, valid = np.zeros_like(count), np.zeros_like(count)
    # Cell by cell: a partition of each is five times faster than one sort of all.
    for start, stop, n in zip(indptr[:-1], indptr[1:], n_positive, strict=True):
        k = int(fraction * n)
        if n <= MIN_POSITIVES or k == 0:
            continue
        first = start + np.argpartition(race[start:stop], 2 * k - 1)[: 2 * k]
        first = first[np.argsort(race[first])]
        test[first[:k]] = count[first[:k]]
        valid[first[k:]] = count[first[k:]]
    return test, valid


def _thin(
    count: NDArray[np.int64],
    is_gene: NDArray[np.bool_],
    uniform: NDArray[np.float64],
    fraction: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    both = _binomial(uniform, np.where(is_gene, count, 0), 2 * fraction)
    # A second uniform from the low bits of the first splits them evenly.
    again = np.modf(uniform * 2.0**26)[0]
    test = _binomial(again, both, 0.5)
    return test, both - test


def _binomial(uniform: NDArray[np.float64], n: NDArray[np.int64], p: float) -> NDArray[np.int64]:
    """Binomial(n, p) draws by inversion; most counts are 1, which needs no special function."""
    out: NDArray[np.int64] = ((n == 1) & (uniform > 1 - p)).astype(np.int64)
    several = np.flatnonzero(n > 1)
    out[several] = np.asarray(stats.binom.ppf(uniform[several], n[several], p), dtype=np.int64)
    return out


def _visible(batch: TissueBatch, cell: NDArray[np.int64], left: NDArray[np.int64]) -> TissueBatch:
    keep = left > 0
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cell[keep], minlength=batch.n_cells))])
    indices = batch.indices.numpy()[keep]
    is_gene = batch.gene_ids.numpy()[indices] >= 0
    library = np.bincount(cell[keep][is_gene], weights=left[keep][is_gene], minlength=batch.n_cells)
    return replace(
        batch,
        indptr=torch.from_numpy(indptr.astype(np.int64)),
        indices=torch.from_numpy(indices),
        counts=torch.from_numpy(left[keep].astype(batch.counts.numpy().dtype)),
        library_size=torch.from_numpy(library.astype(np.float32)),
    )


def _uniform(seed: int, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float64]:
    """(E,) in (0, 1), a hash of each entry's place: SplitMix64 (Steele et al. 2014)."""
    start = np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
    state = start + (row.astype(np.uint64) << np.uint64(32) | column.astype(np.uint64))
    for _ in range(2):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return ((state >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
