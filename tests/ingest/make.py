"""Tiny files as instruments and people write them, and sources without files."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellplm.ingest.scan import Columns, scan
from cellplm.ingest.source import Block, Modality, Source
from cellplm.ingest.stash import Stash

GENES = ("CD3E", "MS4A1", "LYZ", "NKG7", "PPBP", "GNLY", "CD8A", "FCER1A")


def make_counts(n_obs: int, n_vars: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Thin counts, (n_obs, n_vars)."""
    return np.random.default_rng(seed).poisson(0.7, size=(n_obs, n_vars))


def make_source(
    counts: NDArray[Any],
    *,
    obs: pd.DataFrame | None = None,
    var_names: Sequence[str] | None = None,
    modality: Modality = "scrna",
    coords_um: NDArray[np.float32] | None = None,
    looked_in: tuple[str, ...] = (),
) -> Source:
    """A source of one block along obs that holds all of `counts`, zeros included."""
    n_obs, n_vars = counts.shape
    names = [f"cell{i}" for i in range(n_obs)]
    return Source(
        name="tiny",
        format="made",
        files=(Path("tiny.file"),),
        obs=pd.DataFrame(index=names) if obs is None else obs,
        var=pd.DataFrame(index=list(var_names or [f"g{i}" for i in range(n_vars)])),
        counts_from="X",
        looked_in=looked_in,
        modality=modality,
        coords_um=coords_um,
        blocks=lambda: iter([block_of(counts)]),
    )


def block_of(counts: NDArray[Any], *, start: int = 0) -> Block:
    """Every entry of `counts`, explicit zeros too, as rows."""
    n_obs, n_vars = counts.shape
    return Block(
        axis="obs",
        start=start,
        indptr=np.arange(n_obs + 1, dtype=np.int64) * n_vars,
        indices=np.tile(np.arange(n_vars, dtype=np.int32), n_obs),
        data=counts.ravel(),
    )


def dense(blocks: Iterator[Block], shape: tuple[int, int]) -> NDArray[np.float64]:
    """The matrix that blocks describe; fails unless they follow each other on one axis."""
    out = np.zeros(shape)
    at, axes = 0, set()
    for block in blocks:
        assert block.start == at
        axes.add(block.axis)
        segment = np.repeat(np.arange(block.n), np.diff(block.indptr)) + block.start
        rows, columns = (
            (segment, block.indices) if block.axis == "obs" else (block.indices, segment)
        )
        np.add.at(out, (rows, columns), block.data)
        at += block.n
    assert len(axes) <= 1
    assert not axes or at == shape[0 if axes == {"obs"} else 1]
    return out


def write_h5ad(path: Path, counts: NDArray[Any], *, layout: str = "csr", **parts: Any) -> Path:
    """An h5ad file with `counts` in X, laid out as "csr", "csc" or "dense"."""
    n_obs, n_vars = counts.shape
    kinds: dict[str, Any] = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}
    adata = ad.AnnData(
        X=kinds[layout](counts.astype(np.float32)),
        obs=parts.pop("obs", pd.DataFrame(index=[f"cell{i}" for i in range(n_obs)])),
        var=pd.DataFrame(index=[GENES[i] if i < len(GENES) else f"x{i}" for i in range(n_vars)]),
        **parts,
    )
    adata.write_h5ad(path)
    return path


def write_text(path: Path, text: str) -> Path:
    """Text, gzipped where the name says so."""
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_cosmx(folder: Path, *, prefix: str = "S1", gz: bool = False) -> NDArray[np.int64]:
    """A CosMx export of 2 FOVs with 3 cells each and a row for cell 0, and its counts.

    The metadata stand in another order than the counts, as the vendor's may.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = make_counts(6, len(GENES), seed=1)
    keys = [(fov, cell) for fov in (7, 9) for cell in (1, 2, 3)]
    end = ".csv.gz" if gz else ".csv"
    rows = [f"7,0,{','.join(['5'] * len(GENES))}"]
    rows += [f"{f},{c},{','.join(map(str, n))}" for (f, c), n in zip(keys, counts, strict=True)]
    header = ",".join(f'"{name}"' for name in ("fov", "cell_ID", *GENES))
    write_text(folder / f"{prefix}_exprMat_file{end}", "\n".join([header, *rows]) + "\n")
    meta = [f"{f},{c},{100 * f + c},{-10 * c},{f * c}" for f, c in reversed(keys)]
    header = "fov,cell_ID,CenterX_global_px,CenterY_global_px,Area"
    write_text(folder / f"{prefix}_metadata_file{end}", "\n".join([header, *meta]) + "\n")
    write_text(
        folder / f"{prefix}_fov_positions_file{end}", "fov,x_global_px,y_global_px\n7,0,0\n9,5,5\n"
    )
    return counts


class CountCheck:
    """The scan of the blocks of one pass, one at a time.

    Attributes:
        n_rounded: values that were near a whole number and not one.
        max_value: the largest count so far.
    """

    def __init__(self, source: Source) -> None:
        """Start with no block seen."""
        self._source = source
        self.n_rounded = 0
        self.max_value = 0

    def add(self, block: Block) -> Block:
        """The block as the scan keeps it: uint32 counts, without zeros."""
        n_obs, n_vars = self._source.n_obs, self._source.n_vars
        columns = Columns(
            target=np.arange(n_vars, dtype=np.uint32),
            gene_hash=np.zeros(n_vars, dtype=np.uint64),
            is_gene=np.ones(n_vars, dtype=bool),
        )
        stash = Stash(
            Path("unused"),
            n_vars=n_vars,
            budget=max(1, block.data.size),
            position_of=lambda: np.arange(n_obs),
        )
        source = replace(self._source, blocks=lambda: iter([block]))
        scanned = scan(source, columns, stash, lambda _: None)
        self.n_rounded += scanned.n_rounded
        self.max_value = max(self.max_value, scanned.max_count)
        held = stash.in_memory()
        whole: Any = sp.coo_matrix(
            (
                held.counts.astype(np.uint32),
                (np.repeat(held.rows, held.lengths), held.columns.astype(np.int32)),
            ),
            shape=(n_obs, n_vars),
        )
        here = slice(block.start, block.start + block.n)
        part = whole.tocsr()[here] if block.axis == "obs" else whole.tocsc()[:, here]
        return Block(
            axis=block.axis,
            start=block.start,
            indptr=part.indptr.astype(np.int64),
            indices=part.indices.astype(np.int32),
            data=part.data,
        )


_COUNT = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))


def cell_sums(
    indptr: NDArray[np.int64],
    columns: NDArray[np.integer],
    counts: NDArray[np.uint32],
    genes: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """What these entries add to the content of their cells, the slow and plain way.

    Args:
        indptr: (n + 1,) CSR row starts.
        columns: (nnz,) into `genes`.
        counts: (nnz,) all > 0.
        genes: from `gene_hashes`.

    Returns:
        (n,) uint64; add those of all blocks that hold entries of a cell.
    """
    pair = genes[columns]
    is_gene = pair != 0
    pair += counts.astype(np.uint64) * _COUNT
    for factor in _MIX:
        pair ^= pair >> np.uint64(33)
        pair *= factor
    pair ^= pair >> np.uint64(33)
    pair *= is_gene
    # Sums of ranges as differences of a running sum: exact, since uint64 wraps around.
    running = np.zeros(pair.size + 1, dtype=np.uint64)
    np.cumsum(pair, out=running[1:])
    return running[indptr[1:]] - running[indptr[:-1]]
