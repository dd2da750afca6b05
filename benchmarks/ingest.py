"""Ingest a large h5ad made here: cells per CPU-second and peak memory.

    python benchmarks/ingest.py [--cells 1000000] [--nnz 1000] [--out DIR] [--keep]

The file is written block by block (so that making it needs no memory either), with
interleaved donors, the worst order for a sort; it is ingested by the command line in a
process of its own, and removed. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from cellplm.corpus.genes import GeneIndex

BLOCK_CELLS = 20_000
N_DONORS = 50


def make_h5ad(path: Path, n_cells: int, nnz_per_cell: int, seed: int = 0) -> int:
    """Write CSR float32 counts of `n_cells` cells over the default vocabulary.

    Returns:
        Stored counts.
    """
    genes = list(GeneIndex.bundled().vocabulary_ids())
    rng = np.random.default_rng(seed)
    weight = 1.0 / (rng.permutation(len(genes)) + 60.0) ** 1.05
    cumulative = np.cumsum(weight / weight.sum())
    obs = pd.DataFrame(
        {"donor_id": pd.Categorical([f"d{i % N_DONORS}" for i in range(n_cells)])},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    total = 0
    indptr = np.zeros(n_cells + 1, dtype=np.int64)
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        ad.io.write_elem(file, "obs", obs)
        ad.io.write_elem(file, "var", pd.DataFrame(index=genes))
        x = file.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        x.attrs["shape"] = np.array([n_cells, len(genes)])
        data = x.create_dataset("data", (0,), "f4", maxshape=(None,), chunks=(1 << 20,))
        indices = x.create_dataset("indices", (0,), "i4", maxshape=(None,), chunks=(1 << 20,))
        for start in range(0, n_cells, BLOCK_CELLS):
            n = min(BLOCK_CELLS, n_cells - start)
            drawn = np.searchsorted(cumulative, rng.random(n * int(nnz_per_cell * 1.7)))
            cell = np.repeat(np.arange(n), int(nnz_per_cell * 1.7))
            key, count = np.unique(cell * len(genes) + drawn, return_counts=True)
            for dataset, values in ((data, count), (indices, key % len(genes))):
                dataset.resize((total + key.size,))
                dataset[total:] = values
            per_cell = np.bincount(key // len(genes), minlength=n)
            indptr[start + 1 : start + n + 1] = total + np.cumsum(per_cell)
            total += key.size
        x.create_dataset("indptr", data=indptr)
    return total


def main() -> None:
    """Make, ingest, report, remove."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--nnz", type=int, default=1000, help="about how many a cell")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="where to work (a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave file and corpus there")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ingest-bench-", dir=options.out))
    try:
        source = folder / "made.h5ad"
        # In a process of its own: a child counts the memory of the parent it was forked from.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as maker:
            nnz = maker.submit(make_h5ad, source, options.cells, options.nnz).result()
        out = folder / "corpus.zarr"
        command = [sys.executable, "-m", "cellplm", "ingest", str(source), "--out", str(out)]
        command += ["--workers", str(options.workers), "--json"]
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - began
        if status:
            raise SystemExit(f"ingest failed with status {status}")
        cpu_s = used.ru_utime + used.ru_stime
        n_bytes = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
        result = {
            "benchmark": "ingest",
            "case": f"h5ad CSR, {options.cells:,} cells, {N_DONORS} interleaved donors",
            "value": round(options.cells / cpu_s),
            "unit": "cells/CPU-s",
            "cpu_s": round(cpu_s, 1),
            "wall_s": round(wall_s, 1),
            "peak_rss_mb": round(used.ru_maxrss / 1024),
            "nnz": nnz,
            "source_gb": round(source.stat().st_size / 1e9, 2),
            "bytes_per_nnz": round(n_bytes / nnz, 3),
            "workers": options.workers,
            "cores": os.cpu_count(),
        }
        print(json.dumps(result), flush=True)
    finally:
        if not options.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
