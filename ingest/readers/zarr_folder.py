"""Open Zarr folders that somebody handed to us, of version 2 or 3.

A folder can hold links to elsewhere, and its metadata can declare terabytes, or codecs that run
code. Zarr reads a chunk that is not there as fill values, and writers leave out chunks of
nothing but zeros, so a lost chunk cannot be told from an empty one in general. Where it can be,
it is: names of cells are not all "", and the arrays of a sparse matrix hold no long runs of
zeros. A dense matrix is taken as it is, unless all of it is gone.

Consolidated metadata are not used: they may be older than the arrays.
"""

from __future__ import annotations

import json
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from cellplm.errors import InputError
from cellplm.ingest.readers.container import is_array, item_at
from cellplm.ingest.readers.hdf5 import MAX_CHUNK_BYTES

METADATA = ("zarr.json", ".zgroup", ".zarray")
ALL_METADATA = (*METADATA, ".zattrs", ".zmetadata")
# No values, but code.
CODE = ("pickle",)

# Values of a chunk from which a row of them is read chunk by chunk, see `for_one_pass`.
LARGE_CHUNK = 2**19


@contextmanager
def opened(folder: Path) -> Iterator[zarr.Group]:
    """A Zarr group whose faults, also those met while reading, become an InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old data types are welcome and need no advice
            store = LocalStore(folder, read_only=True)
            group = zarr.open_group(store, mode="r", use_consolidated=False)
        yield group
    except InputError:
        raise
    # Damaged folders made zarr raise whatever Python has, found by flipping bytes.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{folder}: not a readable Zarr folder, or damaged ({reason})") from error


def attributes(folder: Path) -> dict[str, Any]:
    """The attributes of a group, read without opening it; empty where there are none."""
    for name, key in (("zarr.json", "attributes"), (".zattrs", None)):
        try:
            found = json.loads((folder / name).read_bytes())
            found = found if key is None else found[key]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def has(folder: Path, name: str) -> bool:
    """Whether a group or array of this name is in a group."""
    return any((folder / name / mark).is_file() for mark in METADATA)


def n_bytes(folder: Path) -> int:
    """What a folder takes on disk, once it is known to hold files and folders only.

    Raises:
        InputError: there is a link, or something else, in it.
    """
    total = 0
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            about = path.lstat()
            if stat.S_ISREG(about.st_mode):
                total += about.st_size
            elif not stat.S_ISDIR(about.st_mode):
                kind = "a link" if stat.S_ISLNK(about.st_mode) else "no file"
                raise InputError(
                    f"{path}: {kind}; a Zarr folder is read only if all of it is in the folder "
                    f"itself. A copy by cp -rL is"
                )
    return total


def refuse_unwritten(item: Any, folder: Path) -> None:
    """Refuse arrays that cannot be read safely or have surely lost chunks.

    Args:
        item: a sparse matrix, a table, or an array.
        folder: of the store.

    Raises:
        InputError: which array it is.
    """
    for array in _arrays(item):
        _refuse_codecs(array, folder)
    if is_array(item):
        # Tables of anndata before 0.7 are arrays of records: these have names in them.
        if item.dtype.names is not None:
            _refuse_missing(item, folder)
        elif not _any_chunk(item, folder):
            raise InputError(f"{folder}: {item.path} has no chunk of its values; copy all of it")
        return
    names = [str(item.attrs["_index"])] if "_index" in item.attrs else []
    if "indptr" in item and item["data"].size:
        # With a single gene, every index is 0.
        single = 1 in item.attrs.get("shape", ())
        names = ["data", "indptr"] if single else ["data", "indices", "indptr"]
    for name in names:
        array = item_at(item, name)
        if array is not None and is_array(array):
            _refuse_missing(array, folder)


def for_one_pass(group: zarr.Group, key: str) -> Any:
    """An array that is read once from its start to its end, in pieces.

    Chunks so large that several pieces meet in one are unpacked once and kept till read.
    """
    array = item_at(group, key)
    assert array is not None
    large = len(array.shape) == 1 and array.chunks[0] >= LARGE_CHUNK
    return _Ahead(array) if large else array


class _Ahead:
    """A row of values that remembers the chunk in which the last piece ended."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array
        self._start = 0
        self._kept = np.zeros(0, dtype=array.dtype)
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype

    def __getitem__(self, at: slice) -> NDArray[Any]:
        low, high, _ = at.indices(self.shape[0])
        chunk = self._array.chunks[0]
        stop = self._start + self._kept.size
        if not self._start <= low <= stop:
            self._start = stop = low - low % chunk
            self._kept = self._kept[:0]
        if high > stop:
            fresh = np.asarray(self._array[stop : -(-high // chunk) * chunk])
            self._kept = np.concatenate([self._kept[low - self._start :], fresh])
            self._start = low
        return self._kept[low - self._start : high - self._start].copy()


def _arrays(item: Any) -> Iterator[Any]:
    if is_array(item):
        yield item
    else:
        for name in item.keys():
            yield from _arrays(item[name])


def _refuse_codecs(array: Any, folder: Path) -> None:
    about = array.metadata.to_dict()
    codecs = [about.get("compressor"), *(about.get("filters") or ()), *about.get("codecs", ())]
    for codec in codecs:
        name = str(codec.get("id", codec.get("name", ""))) if isinstance(codec, dict) else ""
        if name.removeprefix("numcodecs.") in CODE:
            raise InputError(
                f"{folder}: {array.path} is packed by {name}, which runs code; not read"
            )
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise InputError(
            f"{folder}: {array.path} has chunks of {chunk_bytes / 2**30:.1f} GiB, at most "
            f"{MAX_CHUNK_BYTES >> 20} MiB are read; write it again in smaller ones"
        )


def _refuse_missing(array: Any, folder: Path) -> None:
    if len(array.shape) != 1:
        raise InputError(f"{folder}: {array.path} has {len(array.shape)} dimensions, not 1")
    stored = (array.shards or array.chunks)[0]
    n_chunks = -(-array.shape[0] // stored)
    # A declared number may be endless; the first chunk that lacks ends the walk.
    for number in range(n_chunks):
        key = array.metadata.encode_chunk_key((number,))
        if not (folder / array.path / key).is_file():
            raise InputError(
                f"{folder}: {array.path} has no chunk {key} of {n_chunks}; it was lost, and would "
                f"be read as zeros. Copy the folder again, whole"
            )


def _any_chunk(array: Any, folder: Path) -> bool:
    if 0 in array.shape:
        return True
    for _, _, files in os.walk(folder / array.path):
        if any(name not in ALL_METADATA for name in files):
            return True
    return False
