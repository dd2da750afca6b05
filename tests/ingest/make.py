"""Tiny files as instruments and people write them, and sources without files."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellplm.ingest.source import Block, Modality, Source

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
