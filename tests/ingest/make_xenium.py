"""Xenium output bundles, as the instrument's onboard analysis writes them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, ZipStore

from tests.ingest.make import make_counts, write_text

# Id, name and type; in the Zarr "Negative Control Probe" is "negative_control_probe".
FEATURES = (
    ("ENSG00000121270", "ABCC11", "Gene Expression"),
    ("ENSG00000107796", "ACTA2", "Gene Expression"),
    ("NegControlProbe_00042", "NegControlProbe_00042", "Negative Control Probe"),
    ("ENSG00000163017", "ACTG2", "Gene Expression"),
    ("NegControlCodeword_0500", "NegControlCodeword_0500", "Negative Control Codeword"),
    ("UnassignedCodeword_0001", "UnassignedCodeword_0001", "Unassigned Codeword"),
    ("DeprecatedCodeword_0318", "DeprecatedCodeword_0318", "Deprecated Codeword"),
    ("BLANK_0180", "BLANK_0180", "Blank Codeword"),
    ("Intergenic_Region_10", "Intergenic_Region_10", "Genomic Control"),
    ("ENSG00000168615", "ADAM9", "Gene Expression"),
)
CONTROL = tuple(kind != "Gene Expression" for _, _, kind in FEATURES)
# Known from 10x's own documentation of the ids: aaaaaaab-1, ffkpbaba-1, ffkpbabb-2.
NUMBERS = ((1, 1), (1437536272, 1), (1437536273, 2), (4294967295, 1), (16, 1), (255, 1))
IDS = ("aaaaaaab-1", "ffkpbaba-1", "ffkpbabb-2", "pppppppp-1", "aaaaaaba-1", "aaaaaapp-1")
N_CELLS = len(IDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What is in a bundle.

    Attributes:
        matrix: of "h5", "mtx", "zarr.zip" and "zarr".
        cells: of "parquet", "csv.gz" and "csv".
        ids: how cells.parquet writes them: "string", "binary", or "int", 1 to N in every file,
            as the first bundles did.
        experiment: whether there is an experiment.xenium.
        prefix: of the files.
    """

    matrix: tuple[str, ...] = ("h5",)
    cells: tuple[str, ...] = ("parquet", "csv.gz")
    ids: str = "string"
    experiment: bool = True
    prefix: str = ""

    @property
    def names(self) -> list[str]:
        """Cell ids in the order of the matrix."""
        return [str(i + 1) for i in range(N_CELLS)] if self.ids == "int" else list(IDS)


def cells_table(bundle: Bundle) -> pd.DataFrame:
    """The cells in the order of the matrix."""
    i = np.arange(N_CELLS)
    ids: list[Any] = list(i + 1) if bundle.ids == "int" else bundle.names
    return pd.DataFrame(
        {
            "cell_id": ids,
            "x_centroid": 847.25 + 40 * i,
            "y_centroid": 326.5 - 9 * i,
            "transcript_counts": 20 + i,
            "cell_area": 58.375 + i,
            "segmentation_method": ["Nucleus expansion", "Interior stain"] * (N_CELLS // 2),
        }
    )


def write_bundle(folder: Path, bundle: Bundle | None = None) -> NDArray[np.int64]:
    """Write a bundle; the cells stand in another order than in the matrix.

    Returns:
        (cells, features) counts.
    """
    bundle = bundle or Bundle()
    folder.mkdir(parents=True, exist_ok=True)
    counts = make_counts(N_CELLS, len(FEATURES), seed=6)
    for kind in bundle.matrix:
        path = folder / f"{bundle.prefix}cell_feature_matrix.{kind}"
        if kind == "h5":
            write_h5(path, counts, bundle.names)
        elif kind == "mtx":
            write_mtx(folder / "cell_feature_matrix", counts, bundle.names)
        else:
            write_zarr(path, counts, np.array(NUMBERS) if bundle.ids != "int" else _plain_numbers())
    shuffled = cells_table(bundle).iloc[np.random.default_rng(1).permutation(N_CELLS)]
    for kind in bundle.cells:
        path = folder / f"{bundle.prefix}cells.{kind}"
        if kind == "parquet":
            table = shuffled
            if bundle.ids == "binary":
                table = table.assign(cell_id=[str(name).encode() for name in table["cell_id"]])
            table.to_parquet(path, index=False)
        else:
            write_text(path, shuffled.to_csv(index=False))
    if bundle.experiment:
        about = {"run_name": "Run 7", "region_name": "Region 2", "num_cells": N_CELLS}
        (folder / f"{bundle.prefix}experiment.xenium").write_text(json.dumps(about, indent=4))
    return counts


def write_h5(path: Path, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    """Cell Ranger's HDF5 of version 3: features x cells, compressed by cell."""
    matrix = sp.csr_matrix(counts)
    with h5py.File(path, "w") as file:
        file.attrs["chemistry_description"] = "Xenium"
        file.attrs["filetype"] = "matrix"
        group = file.create_group("matrix")
        pack = {"chunks": True, "compression": "gzip"}
        group.create_dataset("barcodes", data=np.array(names, dtype="S"), **pack)
        group.create_dataset("data", data=matrix.data.astype(np.int32), **pack)
        group.create_dataset("indices", data=matrix.indices.astype(np.int64), **pack)
        group.create_dataset("indptr", data=matrix.indptr.astype(np.int64), **pack)
        group.create_dataset("shape", data=np.array(counts.shape[::-1], dtype=np.int32))
        features = group.create_group("features")
        features.create_dataset("_all_tag_keys", data=np.array(["genome"], dtype="S"))
        columns = zip(("id", "name", "feature_type"), zip(*FEATURES, strict=True), strict=True)
        for name, values in columns:
            features.create_dataset(name, data=np.array(values, dtype="S"), **pack)
        genome = ["GRCh38"] * len(FEATURES)
        features.create_dataset("genome", data=np.array(genome, dtype="S"), **pack)


def write_mtx(folder: Path, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    """The three files of an mtx folder of version 3."""
    folder.mkdir(exist_ok=True)
    rows = [f"{c + 1} {r + 1} {counts[r, c]}" for r, c in np.argwhere(counts)]
    head = '%%MatrixMarket matrix coordinate integer general\n%metadata_json: {"format_version": 2}'
    size = f"{counts.shape[1]} {counts.shape[0]} {len(rows)}"
    write_text(folder / "matrix.mtx.gz", "\n".join([head, size, *rows]) + "\n")
    features = ["\t".join(feature) for feature in FEATURES]
    write_text(folder / "features.tsv.gz", "\n".join(features) + "\n")
    write_text(folder / "barcodes.tsv.gz", "\n".join(names) + "\n")


def write_zarr(
    path: Path,
    counts: NDArray[np.int64],
    cell_id: NDArray[np.int64],
    *,
    attrs: dict[str, Any] | None = None,
    compressor: Any = None,
    leave_out: str = "",
) -> None:
    """10x's own Zarr of version 2, a .zip or a folder, with the sum of all genes as a last row.

    Args:
        path: to write.
        counts: (cells, features).
        cell_id: (cells,) or (cells, 2).
        attrs: to write instead of the right ones.
        compressor: of the chunks; None: Blosc, as 10x does.
        leave_out: an array.
    """
    genes = [not control for control in CONTROL]
    with_sum = np.column_stack([counts, counts[:, genes].sum(axis=1)])
    matrix = sp.csr_matrix(with_sum.T)
    zipped = path.suffix == ".zip"
    store: Any = ZipStore(path, mode="w") if zipped else LocalStore(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(store, mode="w", zarr_format=2)
        group = root.create_group("cell_features")
        ids, names, types = (list(column) for column in zip(*FEATURES, strict=True))
        kinds = [
            "gene" if kind == "Gene Expression" else kind.lower().replace(" ", "_")
            for kind in types
        ]
        group.attrs.update(
            {
                "major_version": 3,
                "minor_version": 0,
                "number_cells": len(counts),
                "number_features": len(FEATURES) + 1,
                "feature_keys": [*names, "total_transcripts"],
                "feature_ids": [*ids, "total_transcripts"],
                "feature_types": [*kinds, "aggregate_gene"],
                **(attrs or {}),
            }
        )
        arrays = {
            "indptr": matrix.indptr.astype(np.uint32),
            "indices": matrix.indices.astype(np.uint32),
            "data": matrix.data.astype(np.uint32),
            "cell_id": cell_id.astype(np.uint32),
        }
        for name, values in arrays.items():
            if name != leave_out:
                array = group.create_array(
                    name,
                    shape=values.shape,
                    dtype=values.dtype,
                    chunks=(7, *values.shape[1:]),
                    compressors=compressor or numcodecs.Blosc(cname="lz4"),
                )
                array[:] = values
    store.close()


def _plain_numbers() -> NDArray[np.int64]:
    return np.arange(1, N_CELLS + 1)
