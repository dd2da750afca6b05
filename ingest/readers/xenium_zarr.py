"""Read the matrix of a Xenium bundle from `cell_feature_matrix.zarr.zip`, or the folder out of it.

A group `cell_features`, features x cells, compressed by feature: `indptr`, `indices` (cells),
`data` and `cell_id`; as attributes `feature_keys` (names), `feature_ids`, `feature_types`,
`number_features` and `number_cells`. Types are those of the HDF5 file in other words
("gene", "negative_control_probe", "unassigned_codeword"), and one more: "aggregate_gene", the
sum of all genes, which is no feature and is left out.

`cell_id` has two columns, a number and the suffix of the data set: the number in eight
hexadecimal digits, written a to p, and the suffix make the id of the other files: 1437536272 and
1 are "ffkpbaba-1". The first bundles counted their cells from 1 and have one column.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, ZipStore

from cellplm.errors import InputError
from cellplm.ingest.blocks import BLOCK_VALUES
from cellplm.ingest.readers import zarr_folder
from cellplm.ingest.readers.hdf5 import MAX_CHUNK_BYTES
from cellplm.ingest.readers.kept import kept
from cellplm.ingest.readers.sparse import Sparse, blocks, checked_indptr
from cellplm.ingest.source import Block

GROUP = "cell_features"
ARRAYS = ("indptr", "indices", "data", "cell_id")
# 10x packs chunks by Blosc, whose header tells the size; others could grow without end.
CODECS = ("", "bytes", "blosc")
BLOSC_HEADER = 16
# A chunk that does not shrink, and what its container adds.
CHUNK_EXTRA_BYTES = 64 * 2**10
MAX_METADATA_BYTES = 64 * 2**20
AGGREGATE = "aggregate"
TYPES = {"gene": "Gene Expression", "protein": "Protein Expression"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZarrMatrix:
    """The names of a matrix.

    Attributes:
        path: the file or folder.
        cells: (n_obs,) ids as in the other files of the bundle.
        numbers: (n_obs,) the same as bare numbers, which is what the first bundles wrote.
        var: index the names; columns feature_id and feature_types.
        keep: (features,) bool, those that are no aggregates.
    """

    path: Path
    cells: pd.Index[str]
    numbers: pd.Index[str]
    var: pd.DataFrame
    keep: NDArray[np.bool_]


def open_matrix(path: Path) -> ZarrMatrix:
    """Read the names and check that the arrays are there and fit together.

    Raises:
        InputError: they do not, or the file is no such Zarr.
    """
    with _opened(path) as group:
        attrs = dict(group.attrs)
        names = {}
        for name in ("feature_keys", "feature_ids", "feature_types"):
            values = attrs.get(name)
            if not isinstance(values, list):
                raise InputError(f"{path}: {GROUP} has no attribute {name!r}, a list of features")
            names[name] = [str(value) for value in values]
        lengths = {name: len(values) for name, values in names.items()}
        lengths["number_features"] = attrs.get("number_features", lengths["feature_keys"])
        if len(set(lengths.values())) != 1:
            told = ", ".join(f"{n} of {name}" for name, n in lengths.items())
            raise InputError(f"{path}: the attributes of {GROUP} do not fit together: {told}")
        ids = np.asarray(group["cell_id"][:])
        n_cells = attrs.get("number_cells", ids.shape[0])
        if ids.ndim not in (1, 2) or ids.shape[0] != n_cells or ids.dtype.kind not in "iu":
            raise InputError(
                f"{path}: {GROUP}/cell_id is {' x '.join(map(str, ids.shape))} of {ids.dtype}; "
                f"integers of {n_cells} cells were expected"
            )
        checked_indptr(_sparse(group, path, len(names["feature_keys"]), int(n_cells)))
    columns = ids.reshape(len(ids), -1).astype(np.int64)
    numbers = _index(columns[:, 0].astype(str))
    keep = np.array([not kind.startswith(AGGREGATE) for kind in names["feature_types"]], dtype=bool)
    types = [feature_type(kind) for kind in names["feature_types"]]
    var = pd.DataFrame(
        {"feature_id": names["feature_ids"], "feature_types": types},
        index=pd.Index(names["feature_keys"], dtype=object),
    )
    return ZarrMatrix(
        path=path,
        cells=cell_ids(columns) if columns.shape[1] > 1 else numbers,
        numbers=numbers,
        var=var[keep],
        keep=keep,
    )


def matrix_blocks(matrix: ZarrMatrix) -> Iterator[Block]:
    """One pass over the counts, feature by feature, without the aggregates."""
    with _opened(matrix.path) as group:
        yield from kept(
            blocks(_sparse(group, matrix.path, matrix.keep.size, len(matrix.cells))), matrix.keep
        )


def cell_ids(columns: NDArray[np.int64]) -> pd.Index[str]:
    """Ids of the form "aaaaaaab-1" of (cells, 2) numbers and suffixes."""
    digits = columns[:, :1] >> np.arange(28, -4, -4) & 15
    letters = (digits + ord("a")).astype(np.uint8).view("S8").ravel().astype(str)
    return _index(np.char.add(np.char.add(letters, "-"), columns[:, 1].astype(str)))


def feature_type(kind: str) -> str:
    """A type in the words of the HDF5 file: "negative_control_probe", "Negative Control Probe"."""
    return TYPES.get(kind) or kind.replace("_", " ").title()


def _index(texts: NDArray[np.str_]) -> pd.Index[str]:
    values: list[str] = texts.tolist()
    return pd.Index(values, dtype=object)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entries:
    """What lies in a .zip or a folder.

    Attributes:
        path: of the .zip or folder.
        n_bytes: by the name within it, unpacked, as it is told before anything is unpacked.
        archive: the .zip, if it is one.
    """

    path: Path
    n_bytes: dict[str, int]
    archive: zipfile.ZipFile | None = None

    def head(self, name: str) -> bytes:
        """The first bytes of an entry."""
        file = self.archive.open(name) if self.archive else (self.path / name).open("rb")
        with file:
            return file.read(BLOSC_HEADER)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The group `cell_features`; whatever goes wrong in reading becomes an InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the format of the instrument needs no advice
            if path.is_dir():
                zarr_folder.n_bytes(path)  # refuses links
                files = (file for file in path.rglob("*") if file.is_file())
                sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
                entries = _Entries(path=path, n_bytes=sizes)
                yield _checked(LocalStore(path), _place(entries), entries)
                return
            with zipfile.ZipFile(path) as archive:
                sizes = {info.filename: info.file_size for info in archive.infolist()}
                entries = _Entries(path=path, n_bytes=sizes, archive=archive)
                where = _place(entries)  # before the store: one that was never read cannot close
                with ZipStore(path, mode="r") as zipped:
                    yield _checked(zipped, where, entries)
    except InputError:
        raise
    # Damaged files make zarr raise whatever Python has.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a readable Zarr, or damaged ({reason})") from error


def _place(entries: _Entries) -> str:
    """Where the group is: at the top, or in a folder of the .zip."""
    path = entries.path
    marks = (name.rpartition("/") for name in entries.n_bytes)
    folders = {folder for folder, _, name in marks if name in (".zgroup", "zarr.json")}
    where = min((f for f in folders if f.rpartition("/")[2] == GROUP), key=len, default=None)
    if where is None:
        raise InputError(f"{path}: no group {GROUP!r}; a cell_feature_matrix of Xenium has one")
    for name, n_bytes in entries.n_bytes.items():
        if name.rpartition("/")[2] in zarr_folder.ALL_METADATA:
            _refuse_large(name, n_bytes, MAX_METADATA_BYTES, path)
    return where


def _checked(store: LocalStore | ZipStore, where: str, entries: _Entries) -> Any:
    """The group, once its arrays can be read without harm."""
    group = zarr.open_group(store, path=where, mode="r", use_consolidated=False)
    for name in ARRAYS:
        if name not in group or not isinstance(group[name], zarr.Array):
            raise InputError(f"{entries.path}: {GROUP} has no array {name!r}")
        _check_chunks(group[name], entries)
    return group


def _check_chunks(array: Any, entries: _Entries) -> None:
    """Refuse an array whose chunks are not all there, or would unpack to more than they should."""
    path = entries.path
    about = array.metadata.to_dict()
    found = [about.get("compressor"), *(about.get("filters") or ()), *about.get("codecs", ())]
    codecs = [str(c.get("id", c.get("name"))) if isinstance(c, dict) else "" for c in found]
    if unknown := [codec for codec in codecs if codec not in CODECS]:
        raise InputError(f"{path}: {array.path} is packed by {unknown[0]}; Blosc was expected")
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise InputError(
            f"{path}: {array.path} has chunks of {chunk_bytes / 2**30:.1f} GiB, at most "
            f"{MAX_CHUNK_BYTES >> 20} MiB are read"
        )
    grid = [-(-n // chunk) for n, chunk in zip(array.shape, array.chunks, strict=True)]
    # One by one: what is declared may be more than could ever be listed.
    for i in range(math.prod(grid)):
        at = tuple(int(n) for n in np.unravel_index(i, grid))
        key = f"{array.path}/{array.metadata.encode_chunk_key(at)}"
        if key not in entries.n_bytes:
            shape = " x ".join(map(str, array.shape))
            raise InputError(
                f"{path}: {array.path} declares {shape} values in {math.prod(grid)} chunks, of "
                f"which {key} is not there; copy the bundle again"
            )
        _refuse_large(key, entries.n_bytes[key], chunk_bytes + CHUNK_EXTRA_BYTES, path)
        if "blosc" in codecs:
            unpacked = int.from_bytes(entries.head(key)[4:8], "little")
            _refuse_large(key, unpacked, chunk_bytes, path)


def _refuse_large(name: str, n_bytes: int, limit: int, path: Path) -> None:
    if n_bytes > limit:
        raise InputError(
            f"{path}: {name} unpacks to {n_bytes} bytes, at most {limit} were expected"
        )


def _sparse(group: Any, path: Path, n_features: int, n_cells: int) -> Sparse:
    return Sparse(
        where=f"{path}: {GROUP}",
        axis="var",
        n_major=n_features,
        n_minor=n_cells,
        indptr=group["indptr"],
        indices=group["indices"],
        data=group["data"],
        block_values=BLOCK_VALUES,
    )
