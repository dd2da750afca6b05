"""Ingest h5ad files: cells per CPU-second and peak memory.

    python benchmarks/ingest.py [--cells 1000000 ...] [--layout csr|csc] [--order grouped]
    python benchmarks/ingest.py --data DIR [--tissue-key tissue_id]

Files are made here, block by block (so that making them needs no memory either), of simulated
cells over the default vocabulary; interleaved donors are the worst order for a sort. `--data`
takes a folder of files that are there. Each case is one run of the command line in a process
of its own, its children counted; the CPU seconds of hashing the sources are measured apart,
with the same code, and given apart. Prints one JSON line a case.
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
from typing import Any

import anndata as ad
import h5py
import numba as nb
import numpy as np
import pandas as pd

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.writer import hash_file

BLOCK_CELLS = 20_000
BLOCK_GENES = 200
N_DONORS = 50
DEPTH = 2650
CHUNK_VALUES = 32_768
"""About what anndata gives an array of this size."""


def shares(n_genes: int, seed: int) -> np.ndarray:
    """Expected share of each gene: Zipf-like."""
    weight = 1.0 / (np.random.default_rng(seed).permutation(n_genes) + 60.0) ** 1.05
    out: np.ndarray = weight / weight.sum()
    return out


@nb.njit(cache=True)
def draw(depth, cumulative, guide, counts, columns, values, indptr, seed):  # type: ignore[no-untyped-def]
    """Multinomial counts of some cells, as CSR; returns the entries."""
    np.random.seed(seed)
    to = 0
    for cell in range(depth.size):
        for _ in range(depth[cell]):
            u = np.random.random()
            gene = guide[int(u * guide.size)]
            while cumulative[gene] < u:
                gene += 1
            counts[gene] += 1
        for gene in range(counts.size):
            if counts[gene]:
                columns[to], values[to] = gene, counts[gene]
                counts[gene] = 0
                to += 1
        indptr[cell + 1] = to
    return to


def make_h5ad(path: Path, n_cells: int, layout: str, order: str, seed: int = 0) -> int:
    """Write float32 counts, int32 indices, uncompressed, as anndata does; returns the entries."""
    genes = list(GeneIndex.bundled().vocabulary_ids())
    at = np.arange(n_cells)
    donor = at % N_DONORS if order == "interleaved" else at * N_DONORS // n_cells
    obs = pd.DataFrame(
        {"donor_id": pd.Categorical([f"d{i}" for i in donor])},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        ad.io.write_elem(file, "obs", obs)
        ad.io.write_elem(file, "var", pd.DataFrame(index=genes))
        x = file.create_group("X")
        x.attrs.update({"encoding-type": f"{layout}_matrix", "encoding-version": "0.1.0"})
        x.attrs["shape"] = np.array([n_cells, len(genes)])
        for name, dtype in (("data", "f4"), ("indices", "i4")):
            x.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(CHUNK_VALUES,))
        fill = _rows if layout == "csr" else _columns
        indptr = fill(x, n_cells, shares(len(genes), seed), seed)
        x.create_dataset("indptr", data=indptr)
        return int(indptr[-1])


def _rows(x: h5py.Group, n_cells: int, share: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(share)
    cumulative[-1] = 1.0
    guide = np.searchsorted(cumulative, np.arange(share.size * 4) / (share.size * 4))
    counts = np.zeros(share.size, dtype=np.int32)
    indptr = np.zeros(n_cells + 1, dtype=np.int64)
    for start in range(0, n_cells, BLOCK_CELLS):
        n = min(BLOCK_CELLS, n_cells - start)
        depth = np.clip(DEPTH * np.exp(rng.normal(-0.1, 0.45, n)), 300, 40_000).astype(np.int64)
        columns = np.empty(depth.sum(), dtype=np.int32)
        values = np.empty(depth.sum(), dtype=np.float32)
        part = np.zeros(n + 1, dtype=np.int64)
        n_values = draw(depth, cumulative, guide, counts, columns, values, part, seed + start)
        _append(x, values[:n_values], columns[:n_values])
        indptr[start + 1 : start + n + 1] = indptr[start] + part[1:]
    return indptr


def _columns(x: h5py.Group, n_cells: int, share: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    indptr = np.zeros(share.size + 1, dtype=np.int64)
    for start in range(0, share.size, BLOCK_GENES):
        drawn = [
            np.unique(
                rng.integers(0, n_cells, rng.poisson(n_cells * DEPTH * s)), return_counts=True
            )
            for s in share[start : start + BLOCK_GENES]
        ]
        for number, (cells, counts) in enumerate(drawn):
            indptr[start + number + 1] = indptr[start + number] + cells.size
            _append(x, counts.astype(np.float32), cells.astype(np.int32))
    return indptr


def _append(x: h5py.Group, values: np.ndarray, indices: np.ndarray) -> None:
    for name, new in (("data", values), ("indices", indices)):
        dataset = x[name]
        before = dataset.shape[0]
        dataset.resize((before + new.size,))
        dataset[before:] = new


def measure(sources: list[Path], out: Path, workers: int, extra: list[str]) -> dict[str, Any]:
    """One ingest: its seconds and memory, and what it says of itself."""
    began = time.process_time()
    for path in sources:
        hash_file(path)
    hash_cpu_s = time.process_time() - began
    command = [sys.executable, "-m", "cellplm", "ingest", *map(str, sources), "--out", str(out)]
    command += ["--workers", str(workers), "--json", *extra]
    before = os.times()
    wall = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        peak_mb = 0.0
        while child.poll() is None:
            peak_mb = max(peak_mb, _largest_rss_mb(child.pid))
            time.sleep(0.05)
        wall_s = time.perf_counter() - wall
        after = os.times()
        if child.returncode:
            raise SystemExit(f"ingest failed with status {child.returncode}")
        output.seek(0)
        ingested = json.load(output)["ingested"]
    cpu_s = after.children_user + after.children_system
    cpu_s -= before.children_user + before.children_system
    n_cells, nnz = (sum(each[key] for each in ingested) for key in ("n_obs", "nnz"))
    n_bytes = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    return {
        "value": round(n_cells / (cpu_s - hash_cpu_s)),
        "unit": "cells/CPU-s without hashing the sources",
        "cells": n_cells,
        "nnz_per_cell": round(nnz / n_cells),
        "cpu_s": round(cpu_s, 1),
        "hash_cpu_s": round(hash_cpu_s, 1),
        "wall_s": round(wall_s, 1),
        "peak_rss_mb": round(peak_mb),
        "source_gb": round(sum(p.stat().st_size for p in sources) / 1e9, 2),
        "bytes_per_nnz": round(n_bytes / nnz, 3),
        "workers": workers,
        "cores": os.cpu_count(),
    }


def _largest_rss_mb(pid: int) -> float:
    """Peak resident memory of the largest of a process and its children, in MB."""
    import psutil

    try:
        process = psutil.Process(pid)
        peaks = [_peak_kb(p.pid) for p in (process, *process.children(recursive=True))]
    except psutil.Error:
        return 0.0
    return max(peaks) / 1024


def _peak_kb(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def main() -> None:
    """Make, ingest, report, remove."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--layout", choices=["csr", "csc"], default="csr")
    parser.add_argument("--order", choices=["interleaved", "grouped"], default="interleaved")
    parser.add_argument("--data", type=Path, default=None, help="a folder of h5ad files")
    parser.add_argument("--tissue-key", default=None)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, default=None, help="where to work (a temporary folder)")
    options = parser.parse_args()
    extra = ["--tissue-key", options.tissue_key] if options.tissue_key else []
    for n_cells in options.cells if options.data is None else [0]:
        folder = Path(tempfile.mkdtemp(prefix="ingest-bench-", dir=options.out))
        try:
            if options.data is not None:
                sources = sorted(options.data.glob("*.h5ad"))
                case = f"{len(sources)} h5ad files of {options.data.name}"
            else:
                sources = [folder / "made.h5ad"]
                case = f"h5ad {options.layout}, {n_cells:,} cells, {options.order} donors"
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as maker:
                    made = (sources[0], n_cells, options.layout, options.order)
                    maker.submit(make_h5ad, *made).result()
            for workers in options.workers:
                out = folder / "corpus.zarr"
                result = measure(sources, out, workers, extra)
                line = {"benchmark": "ingest", "case": case, **result}
                print(json.dumps(line), flush=True)
                shutil.rmtree(out)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
