"""Tiny runs as Cell Ranger, Space Ranger and STARsolo write them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellplm.corpus.reader import Corpus

# Ensembl id and symbol of human genes; two share a symbol, one has none.
GENES = (
    ("ENSG00000198851", "CD3E"),
    ("ENSG00000156738", "MS4A1"),
    ("ENSG00000090382", "LYZ"),
    ("ENSG00000105374", "NKG7"),
    ("ENSG00000163736", "PPBP"),
    ("ENSG00000115523", "GNLY"),
    ("ENSG00000153563", "CD8A"),
    ("ENSG00000179639", "FCER1A"),
)
PX_UM = 0.7268
"""Micrometres a pixel of the images that `write_spatial` pretends."""

Order = Literal["cells", "genes", "none"]


def barcodes(n: int, *, suffix: str = "-1") -> list[str]:
    """Barcodes of 16 bases."""
    bases = np.array(list("ACGT"))
    digits = (np.arange(n)[:, None] // 4 ** np.arange(16)[None, ::-1]) % 4
    return ["".join(row) + suffix for row in bases[digits]]


def mtx_text(
    counts: NDArray[Any],
    *,
    order: Order = "cells",
    transposed: bool = False,
    field: str = "integer",
    comment: str = "%metadata_json: {}\n",
    end: str = "\n",
) -> str:
    """Counts (cells x genes) as MatrixMarket text, genes x cells unless `transposed`."""
    cell, gene = np.nonzero(counts)
    if order == "genes":
        by = np.lexsort((cell, gene))
    elif order == "none":
        by = np.random.default_rng(5).permutation(cell.size)
    else:
        by = np.lexsort((-gene, cell))  # within a cell from the last gene, as Cell Ranger 3 did
    cell, gene = cell[by], gene[by]
    rows, columns = (cell, gene) if transposed else (gene, cell)
    shape = counts.shape if transposed else counts.shape[::-1]
    lines = [f"%%MatrixMarket matrix coordinate {field} general{end}{comment}"]
    lines.append(f"{shape[0]} {shape[1]} {cell.size}{end}")
    values = counts[cell, gene].tolist()
    lines += [f"{r + 1} {c + 1} {v}{end}" for r, c, v in zip(rows, columns, values, strict=True)]
    return "".join(lines)


def write(path: Path, data: str | bytes) -> Path:
    """A file, gzipped where its name says so."""
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    return path


def features_text(n: int, *, columns: int = 3, types: Sequence[str] = ()) -> str:
    """Features as features.tsv (3 columns) or genes.tsv (2, or 1 of symbols)."""
    out = []
    for i in range(n):
        id_, symbol = feature(i)
        kind = types[i] if types else "Gene Expression"
        out.append("\t".join({1: (symbol,), 2: (id_, symbol)}.get(columns, (id_, symbol, kind))))
    return "".join(f"{line}\n" for line in out)


def feature(i: int) -> tuple[str, str]:
    """Id and symbol of feature i."""
    return GENES[i] if i < len(GENES) else (f"ENSG99{i:09d}", f"made{i}")


def write_mtx(
    folder: Path,
    counts: NDArray[Any],
    *,
    version: int = 3,
    gz: bool = True,
    prefix: str = "",
    names: Sequence[str] | None = None,
    types: Sequence[str] = (),
    **how: Any,
) -> Path:
    """A MatrixMarket folder of Cell Ranger 2 (genes.tsv) or 3 (features.tsv) with `counts`."""
    end = ".gz" if gz else ""
    n_cells, n_genes = counts.shape
    of_features = "features" if version >= 3 else "genes"
    columns = 3 if version >= 3 else 2
    write(folder / f"{prefix}matrix.mtx{end}", mtx_text(counts, **how))
    write(
        folder / f"{prefix}barcodes.tsv{end}",
        "".join(f"{name}\n" for name in (names or barcodes(n_cells))),
    )
    write(
        folder / f"{prefix}{of_features}.tsv{end}",
        features_text(n_genes, columns=columns, types=types),
    )
    return folder


def write_h5(
    path: Path,
    counts: NDArray[Any],
    *,
    names: Sequence[str] | None = None,
    types: Sequence[str] = (),
    attrs: dict[str, str] | None = None,
) -> Path:
    """An HDF5 matrix of Cell Ranger 3 and later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n_cells, n_genes = counts.shape
    with h5py.File(path, "w") as file:
        file.attrs.update({"filetype": "matrix", "version": 2, **(attrs or {})})
        group = file.create_group("matrix")
        _csc(group, counts)
        _strings(group, "barcodes", names or barcodes(n_cells))
        inner = group.create_group("features")
        _strings(inner, "id", [feature(i)[0] for i in range(n_genes)])
        _strings(inner, "name", [feature(i)[1] for i in range(n_genes)])
        _strings(inner, "feature_type", types or ["Gene Expression"] * n_genes)
        _strings(inner, "genome", ["GRCh38"] * n_genes)
        _strings(inner, "_all_tag_keys", ["genome"])
    return path


def write_h5_v2(path: Path, genomes: dict[str, NDArray[Any]]) -> Path:
    """An HDF5 matrix of Cell Ranger 1 and 2: a group for each genome."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for genome, counts in genomes.items():
            group = file.create_group(genome)
            _csc(group, counts)
            _strings(group, "barcodes", barcodes(counts.shape[0]))
            _strings(group, "genes", [feature(i)[0] for i in range(counts.shape[1])])
            _strings(group, "gene_names", [feature(i)[1] for i in range(counts.shape[1])])
    return path


def write_spatial(
    folder: Path,
    names: Sequence[str],
    *,
    version: int = 2,
    in_tissue: Sequence[int] | None = None,
    prefix: str = "",
    gz: bool = False,
    scales: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """The spatial part of a run of Space Ranger 1 (no header), 2, or of Visium HD (version 4).

    Spots lie on the hexagonal lattice of a slide, bins on a square one of 8 µm.
    """
    n = len(names)
    row, column = np.arange(n) // 4, 2 * (np.arange(n) % 4)
    if version < 4:
        column = column + row % 2
        step_um = np.array([50.0, 87.0])
    else:
        column, step_um = column // 2, np.array([8.0, 8.0])
    xy = np.c_[column, row] * step_um / PX_UM + [300.0, 100.0]
    table = pd.DataFrame(
        {
            "barcode": names,
            "in_tissue": np.ones(n, dtype=int) if in_tissue is None else in_tissue,
            "array_row": row,
            "array_col": column,
            "pxl_row_in_fullres": xy[:, 1],
            "pxl_col_in_fullres": xy[:, 0],
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    if version == 4:
        table.to_parquet(folder / "tissue_positions.parquet")
    else:
        name = "tissue_positions_list.csv" if version == 1 else "tissue_positions.csv"
        text = table.to_csv(index=False, header=version > 1)
        write(folder / f"{prefix}{name}{'.gz' if gz else ''}", text)
    said: dict[str, Any] = {"spot_diameter_fullres": 65 / PX_UM, "tissue_hires_scalef": 0.15}
    if version == 4:
        said |= {"microns_per_pixel": PX_UM, "bin_size_um": 8.0}
    text = json.dumps(said if scales is None else scales)
    write(folder / f"{prefix}scalefactors_json.json{'.gz' if gz else ''}", text)
    return table


def out_of(corpus: Path) -> tuple[pd.DataFrame, list[str], NDArray[np.float64]]:
    """Cells, source names of features, and counts of the one part of a corpus, source order."""
    adata = Corpus.open(corpus).parts[0].to_anndata()
    order = np.argsort(adata.var["source_column"].to_numpy())
    names = adata.var["source_name"].iloc[order].tolist()
    return adata.obs, names, np.asarray(adata.X.toarray()[:, order], dtype=np.float64)


def _csc(group: h5py.Group, counts: NDArray[Any]) -> None:
    matrix = sp.csc_matrix(counts.T)
    for name in ("data", "indices", "indptr"):
        values = getattr(matrix, name)
        group.create_dataset(name, data=values, chunks=(7,), maxshape=(None,), compression="gzip")
    group["shape"] = np.array(matrix.shape, dtype=np.int32)


def _strings(group: h5py.Group, name: str, values: Sequence[str]) -> None:
    group[name] = np.array([value.encode() for value in values], dtype="S")
