"""AnnData and SpatialData on disk, in the layouts that their versions wrote."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr
from anndata.io import write_elem
from numpy.typing import NDArray

from cellplm.corpus.reader import Corpus
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.options import IngestOptions
from tests.ingest.make import GENES

Layout = Literal["csr", "csc", "dense"]
ZarrFormat = Literal[2, 3]

KINDS: dict[str, Any] = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}


def names(counts: NDArray[Any]) -> tuple[list[str], list[str]]:
    """Cell names and gene names for a matrix."""
    n_obs, n_vars = counts.shape
    genes = [GENES[i] if i < len(GENES) else f"x{i}" for i in range(n_vars)]
    return [f"cell{i}" for i in range(n_obs)], genes


def make_anndata(counts: NDArray[Any], *, layout: Layout = "csr", **parts: Any) -> ad.AnnData:
    """`counts` in X as float32."""
    cells, genes = names(counts)
    parts.setdefault("obs", pd.DataFrame(index=cells))
    parts.setdefault("var", pd.DataFrame(index=genes))
    return ad.AnnData(X=KINDS[layout](counts.astype(np.float32)), **parts)


def assert_round_trip(
    path: Path, counts: NDArray[Any], cells: list[str], genes: list[str]
) -> ad.AnnData:
    """Ingest one source, and find every count and name again, in the order of the source.

    Returns:
        What came out, its features in the order of the source.
    """
    ingest_files([path], path.parent / "corpus.zarr", IngestOptions())
    (part,) = Corpus.open(path.parent / "corpus.zarr").parts
    back = part.to_anndata()
    assert back.obs_names.tolist() == cells
    # A part keeps its columns in the order of the gene index.
    back = back[:, np.argsort(back.var["source_column"].to_numpy())].copy()
    assert back.var["source_name"].tolist() == genes
    np.testing.assert_array_equal(sp.csr_matrix(back.X).toarray(), counts)
    return back


def write_zarr(
    path: Path, adata: ad.AnnData, *, zarr_format: ZarrFormat = 3, consolidated: bool = True
) -> Path:
    """What `adata.write_zarr` writes."""
    with ad.settings.override(zarr_write_format=zarr_format), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(path)
        if not consolidated:
            unconsolidate(path)
    return path


def unconsolidate(path: Path) -> None:
    """Take consolidated metadata away, as stores have them that were written piece by piece."""
    (path / ".zmetadata").unlink(missing_ok=True)
    for file in path.glob("zarr.json"):
        about = json.loads(file.read_text())
        about.pop("consolidated_metadata", None)
        file.write_text(json.dumps(about))


def write_matrix(group: Any, key: str, counts: NDArray[Any], layout: Layout, **kwargs: Any) -> None:
    """A matrix with chunks and shards of its own, by `dataset_kwargs` of anndata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_elem(group, key, KINDS[layout](counts), dataset_kwargs=kwargs)


def write_spatialdata(
    path: Path, tables: Mapping[str, ad.AnnData], *, zarr_format: ZarrFormat = 3
) -> Path:
    """A SpatialData folder of tables beside empty images and shapes."""
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    root.attrs["spatialdata_attrs"] = {
        "version": "0.2" if zarr_format == 3 else "0.1",
        "spatialdata_software_version": "0.5.0",
    }
    for element in ("images", "shapes"):
        root.create_group(element)
    root.create_array("images/he", shape=(3, 4, 4), dtype="u1")[:] = 7
    group = root.create_group("tables")
    with ad.settings.override(zarr_write_format=zarr_format), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, adata in tables.items():
            write_elem(group, name, adata)
            group[name].attrs["spatialdata-encoding-type"] = "ngff:regions_table"
    return path


def write_h5ad_0_5(path: Path, counts: NDArray[Any], *, raw: NDArray[Any] | None = None) -> Path:
    """A file as anndata 0.5 wrote it: tables of records, categories in uns, raw.X and raw.var."""
    with h5py.File(path, "w") as file:
        for key, values in _records(counts).items():
            file.create_dataset(key, data=values, compression="gzip")
        file["uns/type_categories"] = np.array([b"B", b"T"])
        matrix = sp.csr_matrix(counts if raw is None else raw).astype(np.float32)
        group = file.create_group("X" if raw is None else "raw.X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", matrix.shape
        for part in ("data", "indices", "indptr"):
            group.create_dataset(part, data=getattr(matrix, part), compression="gzip")
        if raw is not None:
            file["X"] = np.log1p(counts)
            file["raw.var"] = _records(raw)["var"]
    return path


def write_zarr_0_6(path: Path, counts: NDArray[Any]) -> Path:
    """A folder as anndata 0.6 wrote it: Zarr version 2, tables of records, dense X."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(path, mode="w", zarr_format=2)
        root.create_array("X", data=counts.astype(np.float32), chunks=(2, counts.shape[1]))
        root.create_array("uns/type_categories", data=np.array([b"B", b"T"]))
    for key, values in _records(counts).items():
        (path / key).mkdir()
        about = {
            "zarr_format": 2, "shape": values.shape, "chunks": values.shape, "order": "C",
            "dtype": [[name, kind, *map(list, shape)] for name, kind, *shape in values.dtype.descr],
            "compressor": None, "filters": None, "fill_value": None,
        }  # fmt: skip
        (path / key / ".zarray").write_text(json.dumps(about))
        (path / key / "0").write_bytes(values.tobytes())
    return path


def _records(counts: NDArray[Any]) -> dict[str, NDArray[Any]]:
    cells, genes = names(counts)
    obs = [(name, i % 2, i / 4) for i, name in enumerate(cells)]
    obsm = np.zeros(len(cells), dtype=[("X_pca", "<f4", (3,)), ("spatial", "<f8", (2,))])
    obsm["spatial"] = np.arange(2 * len(cells)).reshape(-1, 2) * 10.0
    return {
        "obs": np.array(obs, dtype=[("index", "S8"), ("type", "i1"), ("score", "<f4")]),
        "var": np.array([(name,) for name in genes], dtype=[("index", "S12")]),
        "obsm": obsm,
    }
