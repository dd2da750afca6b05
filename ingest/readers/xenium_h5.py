"""Read the HDF5 matrix of a Xenium bundle, also one that R wrote again.

The instrument writes the layout of Cell Ranger 3, which tenx_h5.py reads. R has no integers of 64
bits, so in what it writes `shape`, `indptr` and `indices` may be floats (as in the sample of
Bioconductor's SpatialExperimentIO); such a file is read here, if they are whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.blocks import BLOCK_VALUES
from cellplm.ingest.readers import sparse, tenx_h5
from cellplm.ingest.readers.cell_ids import id_texts
from cellplm.ingest.readers.hdf5 import opened, refuse_unwritten, refuse_ways_out
from cellplm.ingest.readers.sparse import Sparse
from cellplm.ingest.readers.tenx_matrix import Matrix, features
from cellplm.ingest.source import Block

GROUP = tenx_h5.MODERN
LARGEST_EXACT = 2**53


def open_matrix(path: Path) -> Matrix:
    """Read the names of both axes and check that all arrays are there.

    Raises:
        InputError: the file cannot be read, or its parts do not fit together.
    """
    with opened(path) as file:
        if not _has_floats(file):
            return tenx_h5.open_group(path, GROUP)
        refuse_ways_out(file, path)
        refuse_unwritten(file[GROUP], path)
        barcodes = _texts(file, "barcodes", path)
        names, ids, types = (
            _texts(file, f"features/{name}", path) for name in ("name", "id", "feature_type")
        )
        if len({len(names), len(ids), len(types)}) != 1:
            raise InputError(
                f"{path}: /{GROUP}/features has {len(names)} names, {len(ids)} ids and "
                f"{len(types)} types"
            )
        matrix = _sparse(file, path)
        if (matrix.n_minor, matrix.n_major) != (len(names), len(barcodes)):
            raise InputError(
                f"{path}: /{GROUP} is {matrix.n_minor} x {matrix.n_major}, but has {len(names)} "
                f"features and {len(barcodes)} barcodes"
            )
        sparse.checked_indptr(matrix)
    return Matrix(
        barcodes=barcodes,
        var=features(list(names), list(ids)).assign(feature_types=list(types)),
        place=f"/{GROUP} (features x barcodes)",
        blocks=lambda: _blocks(path),
    )


class _Whole:
    """Whole numbers that are stored as floats."""

    dtype = np.dtype(np.int64)

    def __init__(self, item: h5py.Dataset, path: Path) -> None:
        self._item = item
        self._path = path
        self.shape, self.ndim = item.shape, item.ndim

    def __getitem__(self, at: slice) -> NDArray[np.int64]:
        values = np.asarray(self._item[at])
        good = (values >= 0) & (values < LARGEST_EXACT) & (np.floor(values) == values)
        if not good.all():
            bad = values[int(np.argmin(good))]
            raise InputError(
                f"{self._path}: {self._item.name} holds {bad:.6g}; whole numbers were expected"
            )
        return values.astype(np.int64)


def _has_floats(file: h5py.File) -> bool:
    """Whether R wrote it; a link is looked at, never followed."""
    if not isinstance(file.get(GROUP, getlink=True), h5py.HardLink):
        return False
    group = file[GROUP]
    if not isinstance(group, h5py.Group):
        return False
    if not isinstance(group.get("indptr", getlink=True), h5py.HardLink):
        return False
    item = group["indptr"]
    return isinstance(item, h5py.Dataset) and item.dtype.kind == "f"


def _array(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    item = file[GROUP].get(name)
    if not isinstance(item, h5py.Dataset) or item.ndim != 1:
        raise InputError(f"{path}: no /{GROUP}/{name} of one dimension; a matrix of 10x has it")
    return item


def _texts(file: h5py.File, name: str, path: Path) -> pd.Index[str]:
    return id_texts(_array(file, name, path)[:])


def _numbers(file: h5py.File, name: str, path: Path) -> Any:
    item = _array(file, name, path)
    return _Whole(item, path) if item.dtype.kind == "f" else item


def _sparse(file: h5py.File, path: Path) -> Sparse:
    shape = _numbers(file, "shape", path)[:]
    if shape.shape != (2,):
        raise InputError(f"{path}: /{GROUP}/shape is no pair of numbers")
    return Sparse(
        where=f"{path}: /{GROUP}",
        axis="obs",
        n_major=int(shape[1]),
        n_minor=int(shape[0]),
        indptr=_numbers(file, "indptr", path),
        indices=_numbers(file, "indices", path),
        data=_array(file, "data", path),
        block_values=BLOCK_VALUES,
    )


def _blocks(path: Path) -> Iterator[Block]:
    with opened(path) as file:
        yield from sparse.blocks(_sparse(file, path))
