"""Files that nobody should get into a corpus, each with the words that its refusal has to say.

`CASES` maps a short name to a function that writes into a folder and returns (what to ingest,
words of the message). The name of the faulty file is always one of the words.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from tests.ingest.make import GENES, make_counts, write_cosmx, write_h5ad, write_text
from tests.ingest.make_anndata import write_zarr

Case = Callable[[Path], tuple[Path, tuple[str, ...]]]
CASES: dict[str, Case] = {}

N_OBS, N_VARS = 12, len(GENES)


def case(make: Case) -> Case:
    """Add a case under the name of its function."""
    CASES[make.__name__] = make
    return make


def counts() -> np.ndarray[Any, np.dtype[np.int64]]:
    """Small counts, none of the cells empty."""
    return make_counts(N_OBS, N_VARS) + 1


def adata(values: Any = None) -> ad.AnnData:
    """The same as AnnData."""
    x = counts() if values is None else values
    return ad.AnnData(
        X=sp.csr_matrix(x.astype(np.float32)),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(x.shape[0])]),
        var=pd.DataFrame(index=list(GENES[: x.shape[1]])),
    )


def h5ad(folder: Path, change: Callable[[h5py.File], None]) -> Path:
    """A good h5ad, then changed by hand."""
    path = write_h5ad(folder / "a.h5ad", counts())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replaced(file: h5py.File, key: str, values: Any) -> None:
    """A dataset anew, with its attributes."""
    attributes = dict(file[key].attrs)
    del file[key]
    file[key] = values
    file[key].attrs.update(attributes)


def table(folder: Path, text: str, name: str = "m.csv") -> Path:
    """A text file."""
    return write_text(folder / name, text)


HEADER = ",".join(["cell", *GENES])


def rows(**changed: str) -> str:
    """A good cells x genes table, with some lines put in the place of others."""
    lines = [HEADER]
    for i, row in enumerate(counts()):
        lines.append(changed.get(f"row{i}", ",".join([f"c{i}", *map(str, row)])))
    return "\n".join(lines) + "\n"


# --- h5ad -----------------------------------------------------------------------------------


@case
def h5ad_empty_file(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "a.h5ad"
    path.touch()
    return path, ("a.h5ad", "HDF5")


@case
def h5ad_cut_short(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = write_h5ad(folder / "a.h5ad", counts())
    path.write_bytes(path.read_bytes()[:-3000])
    return path, ("a.h5ad", "cut short")


@case
def h5ad_is_text(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, rows(), "a.h5ad"), ("a.h5ad", "HDF5")


@case
def h5ad_without_obs(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        del file["obs"]

    return h5ad(folder, change), ("a.h5ad", "obs")


@case
def h5ad_without_counts(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        del file["X"]

    return h5ad(folder, change), ("a.h5ad", "Looked in")


@case
def h5ad_obs_too_short(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        replaced(file, "obs/_index", np.array([f"c{i}" for i in range(N_OBS - 2)], dtype="S4"))

    return h5ad(folder, change), ("a.h5ad", "10")


@case
def h5ad_negative(folder: Path) -> tuple[Path, tuple[str, ...]]:
    x = counts()
    x[3, 2] = -4
    return write_h5ad(folder / "a.h5ad", x), ("a.h5ad", "negative")


@case
def h5ad_nan(folder: Path) -> tuple[Path, tuple[str, ...]]:
    x = counts().astype(np.float32)
    x[3, 2] = np.nan
    return write_h5ad(folder / "a.h5ad", x), ("a.h5ad", "not a number")


@case
def h5ad_log_normalised(folder: Path) -> tuple[Path, tuple[str, ...]]:
    x = counts() / counts().sum(1, keepdims=True) * 1e4
    return write_h5ad(folder / "a.h5ad", np.log1p(x)), ("a.h5ad", "log-normalised")


@case
def h5ad_tpm(folder: Path) -> tuple[Path, tuple[str, ...]]:
    x = counts() / counts().sum(1, keepdims=True) * 1e6
    return write_h5ad(folder / "a.h5ad", x), ("a.h5ad", "normalised")


@case
def h5ad_scaled(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return write_h5ad(folder / "a.h5ad", counts() - counts().mean()), ("a.h5ad", "negative")


@case
def h5ad_indptr_falls(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        indptr = file["X/indptr"][:]
        indptr[4] = indptr[5] + 3
        file["X/indptr"][:] = indptr

    return h5ad(folder, change), ("a.h5ad", "indptr")


@case
def h5ad_index_out_of_range(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        file["X/indices"][5] = 4000

    return h5ad(folder, change), ("a.h5ad", "4000")


@case
def h5ad_index_negative(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        file["X/indices"][5] = -1

    return h5ad(folder, change), ("a.h5ad", "-1")


@case
def h5ad_entry_twice(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        file["X/indices"][1] = file["X/indices"][0]

    return h5ad(folder, change), ("a.h5ad", "two values")


@case
def h5ad_fewer_values_than_indices(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        replaced(file, "X/data", file["X/data"][:-3])

    return h5ad(folder, change), ("a.h5ad", "indices")


@case
def h5ad_external_link(folder: Path) -> tuple[Path, tuple[str, ...]]:
    write_h5ad(folder / "other.h5ad", counts())

    def change(file: h5py.File) -> None:
        del file["X"]
        file["X"] = h5py.ExternalLink("other.h5ad", "/X")

    return h5ad(folder, change), ("a.h5ad", "link")


@case
def h5ad_external_data(folder: Path) -> tuple[Path, tuple[str, ...]]:
    (folder / "raw.bin").write_bytes(counts().astype(np.float32).tobytes())

    def change(file: h5py.File) -> None:
        del file["X"]
        size = N_OBS * N_VARS * 4
        file.create_dataset("X", (N_OBS, N_VARS), "f4", external=[("raw.bin", 0, size)])

    return h5ad(folder, change), ("a.h5ad", "other files")


@case
def h5ad_virtual_data(folder: Path) -> tuple[Path, tuple[str, ...]]:
    write_h5ad(folder / "other.h5ad", counts(), layout="dense")

    def change(file: h5py.File) -> None:
        del file["X"]
        layout = h5py.VirtualLayout((N_OBS, N_VARS), "f4")
        layout[:] = h5py.VirtualSource("other.h5ad", "X", (N_OBS, N_VARS))
        file.create_virtual_dataset("X", layout)

    return h5ad(folder, change), ("a.h5ad", "other files")


@case
def h5ad_terabytes_of_nothing(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        del file["X"]
        file.create_dataset("X", (2**40, N_VARS), "f8", chunks=(2**16, N_VARS))

    return h5ad(folder, change), ("a.h5ad",)


@case
def h5ad_no_gene_known(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        names = np.array([f"peak{i}" for i in range(N_VARS)], dtype="S8")
        replaced(file, "var/_index", names.astype(h5py.string_dtype()))

    return h5ad(folder, change), ("a.h5ad", "peak0")


@case
def h5ad_no_cells(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return write_h5ad(folder / "a.h5ad", np.zeros((0, N_VARS))), ("a.h5ad", "no values")


@case
def h5ad_all_zeros(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return write_h5ad(folder / "a.h5ad", np.zeros((5, N_VARS))), ("a.h5ad",)


# --- tables ---------------------------------------------------------------------------------


@case
def table_empty(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, ""), ("m.csv", "empty")


@case
def table_one_line(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, HEADER + "\n"), ("m.csv", "single line")


@case
def table_row_too_short(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, rows(row7="c7,1,2")), ("m.csv", "c7", "fields")


@case
def table_row_too_long(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, rows(row7="c7" + ",1" * 20)), ("m.csv", "c7", "fields")


@case
def table_word_among_counts(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, rows(row9="c9,1,2,x,4,5,6,7,8")), ("m.csv", "c9", "'x'")


@case
def table_missing_value(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, rows(row9="c9,1,2,NA,4,5,6,7,8")), ("m.csv", "c9")


@case
def table_empty_field(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, rows(row9="c9,1,2,,4,5,6,7,8")), ("m.csv", "c9")


@case
def table_negative(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, rows(row9="c9,1,2,-3,4,5,6,7,8")), ("m.csv", "c9", "-3")


@case
def table_infinite(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, rows(row9="c9,1,2,inf,4,5,6,7,8")), ("m.csv", "c9")


@case
def table_halves(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, rows(row9="c9,1,2,2.5,4,5,6,7,8")), ("m.csv", "c9", "2.5")


@case
def table_huge_count(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, rows(row9="c9,1,2,5000000000,4,5,6,7,8")), ("m.csv", "c9")


@case
def table_utf_16(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "m.csv"
    path.write_bytes(rows().encode("utf-16"))
    return path, ("m.csv", "UTF-8")


@case
def table_latin_1(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "m.csv"
    path.write_bytes(rows(row3="cellul\xe9,1,2,3,4,5,6,7,8").encode("latin-1"))
    return path, ("m.csv", "UTF-8")


@case
def table_gzip_that_is_none(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "m.csv.gz"
    path.write_bytes(b"\x1f\x8b" + b"no gzip at all" * 20)
    return path, ("m.csv.gz", "gzip")


@case
def table_gzip_cut(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "m.csv.gz"
    path.write_bytes(gzip.compress(rows().encode())[:-12])
    return path, ("m.csv.gz", "gzip")


@case
def table_genes_unknown(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, "cell,aa,bb\nc0,1,2\nc1,3,4\n"), ("m.csv", "genes")


@case
def table_without_delimiter(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return table(folder, "CD3E\n1\n2\n"), ("m.csv",)


@case
def table_is_a_picture(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "m.csv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8)
    return path, ("m.csv",)


@case
def table_is_r_data(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "seurat.rds"
    path.write_bytes(gzip.compress(b"X\n\x00\x00\x00\x03"))
    return path, ("seurat.rds", "export")


# --- MatrixMarket folders -------------------------------------------------------------------


def mtx(folder: Path) -> Path:
    """A good 10x v3 folder."""
    out = folder / "tenx"
    out.mkdir()
    body = io.BytesIO()
    scipy.io.mmwrite(body, sp.coo_matrix(counts().T), field="integer")
    (out / "matrix.mtx.gz").write_bytes(gzip.compress(body.getvalue()))
    features = "".join(f"{g}\t{g}\tGene Expression\n" for g in GENES)
    (out / "features.tsv.gz").write_bytes(gzip.compress(features.encode()))
    barcodes = "".join(f"c{i}\n" for i in range(N_OBS))
    (out / "barcodes.tsv.gz").write_bytes(gzip.compress(barcodes.encode()))
    return out


def with_entries(folder: Path, change: Callable[[list[str]], list[str]]) -> Path:
    """A 10x folder whose matrix has other lines."""
    out = mtx(folder)
    path = out / "matrix.mtx.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress(("\n".join(change(lines)) + "\n").encode()))
    return out


@case
def mtx_cut(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return with_entries(folder, lambda lines: lines[:-4]), ("matrix.mtx.gz",)


@case
def mtx_too_many_entries(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return with_entries(folder, lambda lines: [*lines, lines[-1]]), ("matrix.mtx.gz",)


@case
def mtx_entry_twice(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return with_entries(folder, lambda lines: [*lines[:-1], lines[-2]]), (
        "matrix.mtx.gz",
        "two values",
    )


@case
def mtx_row_zero(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return with_entries(folder, lambda lines: [*lines[:-1], "0 1 3"]), ("matrix.mtx.gz",)


@case
def mtx_column_out_of_range(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return with_entries(folder, lambda lines: [*lines[:-1], "1 400 3"]), ("matrix.mtx.gz", "400")


@case
def mtx_word(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return with_entries(folder, lambda lines: [*lines[:-1], "1 one 3"]), ("matrix.mtx.gz",)


@case
def mtx_negative(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(lines: list[str]) -> list[str]:
        return [*lines[:-1], lines[-1].rsplit(" ", 1)[0] + " -2"]

    return with_entries(folder, change), ("matrix.mtx.gz", "-2")


@case
def mtx_symmetric(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(lines: list[str]) -> list[str]:
        return [lines[0].replace("general", "symmetric"), *lines[1:]]

    return with_entries(folder, change), ("matrix.mtx.gz", "symmetric")


@case
def mtx_terabytes(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(lines: list[str]) -> list[str]:
        at = next(i for i, line in enumerate(lines) if not line.startswith("%"))
        return [*lines[:at], f"{N_VARS} {N_OBS} 900000000000000", *lines[at + 1 :]]

    return with_entries(folder, change), ("matrix.mtx.gz",)


@case
def mtx_fewer_barcodes(folder: Path) -> tuple[Path, tuple[str, ...]]:
    out = mtx(folder)
    (out / "barcodes.tsv.gz").write_bytes(gzip.compress(b"c0\nc1\n"))
    return out, ("barcodes.tsv.gz", "2")


@case
def mtx_no_features(folder: Path) -> tuple[Path, tuple[str, ...]]:
    out = mtx(folder)
    (out / "features.tsv.gz").unlink()
    return out / "matrix.mtx.gz", ("matrix.mtx.gz", "features")


@case
def mtx_gzip_cut(folder: Path) -> tuple[Path, tuple[str, ...]]:
    out = mtx(folder)
    path = out / "matrix.mtx.gz"
    path.write_bytes(path.read_bytes()[:-20])
    return out, ("matrix.mtx.gz",)


# --- 10x h5, loom, zarr ---------------------------------------------------------------------


def tenx_h5(folder: Path, change: Callable[[h5py.File], None]) -> Path:
    """A Cell Ranger 3 file, changed."""
    path = folder / "filtered_feature_bc_matrix.h5"
    matrix = sp.csc_matrix(counts().T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"] = matrix.data.astype("i4"), matrix.indices.astype("i8")
        group["indptr"], group["shape"] = matrix.indptr.astype("i8"), np.array(matrix.shape, "i4")
        group["barcodes"] = np.array([f"c{i}" for i in range(N_OBS)], dtype="S4")
        features = group.create_group("features")
        for key in ("id", "name"):
            features[key] = np.array(GENES, dtype="S8")
        features["feature_type"] = np.array(["Gene Expression"] * N_VARS, dtype="S20")
        features["genome"] = np.array(["GRCh38"] * N_VARS, dtype="S8")
        change(file)
    return path


@case
def tenx_h5_fewer_barcodes(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        replaced(file, "matrix/barcodes", file["matrix/barcodes"][:3])

    return tenx_h5(folder, change), ("filtered_feature_bc_matrix.h5",)


@case
def tenx_h5_shape_of_terabytes(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        replaced(file, "matrix/shape", np.array([2**40, 2**40]))

    return tenx_h5(folder, change), ("filtered_feature_bc_matrix.h5",)


@case
def tenx_h5_index_out_of_range(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        file["matrix/indices"][2] = 99

    return tenx_h5(folder, change), ("filtered_feature_bc_matrix.h5", "99")


@case
def tenx_h5_without_features(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        del file["matrix/features/name"], file["matrix/features/id"]

    return tenx_h5(folder, change), ("filtered_feature_bc_matrix.h5",)


def loom(folder: Path, change: Callable[[h5py.File], None]) -> Path:
    """A loom file, changed."""
    path = folder / "a.loom"
    with h5py.File(path, "w") as file:
        file["matrix"] = counts().T.astype(np.float32)
        file["row_attrs/Gene"] = np.array(GENES, dtype="S8")
        file["col_attrs/CellID"] = np.array([f"c{i}" for i in range(N_OBS)], dtype="S4")
        file.create_group("layers")
        change(file)
    return path


@case
def loom_without_matrix(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        del file["matrix"]

    return loom(folder, change), ("a.loom", "matrix")


@case
def loom_attribute_too_short(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        replaced(file, "row_attrs/Gene", np.array(GENES[:3], dtype="S8"))

    return loom(folder, change), ("a.loom",)


@case
def loom_fractions(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        file["matrix"][0, 0] = 0.25

    return loom(folder, change), ("a.loom", "0.25")


@case
def loom_link(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(file: h5py.File) -> None:
        file["layers/elsewhere"] = h5py.SoftLink("/matrix")

    return loom(folder, change), ("a.loom", "link")


@case
def zarr_of_something_else(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "a.zarr"
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    return path, ("a.zarr",)


@case
def zarr_lost_chunk(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "a.zarr"
    write_zarr(path, adata())
    chunks = [p for p in (path / "X" / "data").rglob("*") if p.is_file() and p.name[0] not in ".z"]
    chunks[0].unlink()
    return path, ("a.zarr",)


@case
def zarr_damaged_metadata(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "a.zarr"
    write_zarr(path, adata())
    for name in (".zattrs", ".zgroup", "zarr.json", ".zmetadata"):
        if (path / name).exists():
            (path / name).write_text("{")
    return path, ("a.zarr",)


# --- instruments ----------------------------------------------------------------------------


def cosmx(folder: Path, role: str, change: Callable[[str], str]) -> Path:
    """A CosMx export with one file changed."""
    write_cosmx(folder / "slide")
    path = folder / "slide" / f"S1_{role}_file.csv"
    path.write_text(change(path.read_text()))
    return folder / "slide"


@case
def cosmx_without_metadata(folder: Path) -> tuple[Path, tuple[str, ...]]:
    write_cosmx(folder / "slide")
    (folder / "slide" / "S1_metadata_file.csv").unlink()
    return folder / "slide", ("S1_exprMat_file.csv", "metadata")


@case
def cosmx_cell_twice(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(text: str) -> str:
        return text + text.splitlines()[-1] + "\n"

    return cosmx(folder, "exprMat", change), ("S1_exprMat_file.csv", "twice")


@case
def cosmx_cell_without_metadata(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(text: str) -> str:
        return "\n".join(text.splitlines()[:-1]) + "\n"

    return cosmx(folder, "metadata", change), ("S1_metadata_file.csv", "cell 1 of FOV 7")


@case
def cosmx_swapped_columns(folder: Path) -> tuple[Path, tuple[str, ...]]:
    def change(text: str) -> str:
        return text.replace('"fov","cell_ID"', '"gene","cell"')

    return cosmx(folder, "exprMat", change), ("S1_exprMat_file.csv", "fov")


@case
def merscope_without_metadata(folder: Path) -> tuple[Path, tuple[str, ...]]:
    text = rows().replace("cell,", ",", 1)
    return table(folder, text, "cell_by_gene.csv"), ("cell_by_gene.csv", "cell_metadata")


@case
def merscope_other_cells(folder: Path) -> tuple[Path, tuple[str, ...]]:
    table(folder, ",fov,volume,center_x,center_y\nz1,0,1,2,3\nz2,0,1,2,3\n", "cell_metadata.csv")
    text = rows().replace("cell,", ",", 1)
    return table(folder, text, "cell_by_gene.csv"), ("cell_metadata.csv",)


@case
def xenium_without_cells(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = tenx_h5(folder, lambda file: None)
    path.rename(folder / "cell_feature_matrix.h5")
    (folder / "experiment.xenium").write_text("{}")
    return folder, ("cell_feature_matrix.h5", "cells")


# --- archives -------------------------------------------------------------------------------


def zipped(folder: Path, **entries: bytes) -> Path:
    """A zip file with these entries; __ stands for a slash."""
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("__", "/"), data)
    return path


@case
def zip_that_is_none(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "a.zip"
    path.write_bytes(b"PK\x03\x04 and nothing else")
    return path, ("a.zip",)


@case
def zip_out_of_itself(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../out.csv", rows())
    return path, ("a.zip", "out.csv")


@case
def zip_bomb(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("m.csv", "w", force_zip64=True) as entry:
            for _ in range(1200):
                entry.write(bytes(2**20))
    return path, ("a.zip", "times its size")


@case
def zip_with_a_wrong_crc(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("m.csv", rows())
    raw = path.read_bytes()
    at = raw.index(b"c3,")
    path.write_bytes(raw[:at] + b"c9," + raw[at + 3 :])
    return path, ("a.zip", "m.csv")


@case
def zip_without_a_data_set(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return zipped(folder, readme__md=b"hello"), ("a.zip",)


@case
def tar_with_a_link_out(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("m.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path, ("a.tar.gz", "m.csv")


@case
def tar_cut(folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = folder / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        data = rows().encode() * 50
        entry = tarfile.TarInfo("m.csv")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    path.write_bytes(path.read_bytes()[:200])
    return path, ("a.tar.gz",)


@case
def no_such_file(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return folder / "absent.h5ad", ("absent.h5ad", "no such")
