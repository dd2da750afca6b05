"""Loom files as loompy, SCopeLoomR and others write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from tests.ingest.make_anndata import names

Spec = Literal[1, 2, 3]


def write_loom(
    path: Path,
    counts: NDArray[Any],
    *,
    spec: Spec = 3,
    chunks: tuple[int, int] | None = (64, 64),
    dtype: str = "f4",
    rows: Mapping[str, Any] | None = None,
    columns: Mapping[str, Any] | None = None,
    layers: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """A file with `counts` (cells x genes) as its matrix.

    Args:
        path: of the file.
        counts: (cells, genes).
        spec: 1 and 2 keep names as ASCII of fixed length, with entities; 3 as UTF-8 of any.
            1 has no graphs and no version.
        chunks: of the matrix as it is stored, genes x cells; None for one piece.
        dtype: of the matrix.
        rows: row attributes; the default is Gene.
        columns: column attributes; the default is CellID.
        layers: (cells, genes) each.
    """
    cells, genes = names(counts)
    with h5py.File(path, "w") as file:
        if spec == 3:
            file["attrs/LOOM_SPEC_VERSION"] = "3.0.0"
        elif spec == 2:
            file.attrs["LOOM_SPEC_VERSION"] = np.bytes_(b"2.0.1")
        for name in ("layers", "row_graphs", "col_graphs") if spec > 1 else ("layers",):
            file.create_group(name)
        _write_matrix(file, "matrix", counts, chunks, dtype)
        for name, values in (layers or {}).items():
            _write_matrix(file, f"layers/{name}", values, chunks, dtype)
        both: dict[str, Mapping[str, Any]] = {
            "row_attrs": {"Gene": genes} if rows is None else rows,
            "col_attrs": {"CellID": cells} if columns is None else columns,
        }
        for group, attributes in both.items():
            file.create_group(group)
            for name, values in attributes.items():
                _write_attribute(file, f"{group}/{name}", values, spec)
    return path


def _write_matrix(
    file: h5py.File, key: str, counts: NDArray[Any], chunks: tuple[int, int] | None, dtype: str
) -> None:
    stored = counts.T.astype(dtype)
    if chunks is None:
        file[key] = stored
        return
    fit = tuple(min(chunk, n) for chunk, n in zip(chunks, stored.shape, strict=True))
    file.create_dataset(
        key, data=stored, chunks=fit, maxshape=(stored.shape[0], None), compression="gzip",
        shuffle=False,
    )  # fmt: skip


def _write_attribute(file: h5py.File, key: str, values: Any, spec: Spec) -> None:
    array = np.asarray(values)
    if array.dtype.kind in "UO":
        if spec == 3:
            file.create_dataset(key, data=array.astype(object), dtype=h5py.string_dtype())
            return
        array = np.array([str(v).encode("ascii", "xmlcharrefreplace") for v in array])
    file.create_dataset(key, data=array)
