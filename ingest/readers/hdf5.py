"""Open HDF5 files that somebody handed to us.

A file can point outside itself (links, external and virtual data sets), declare terabytes that
it does not hold, and leave chunks unwritten, which HDF5 then reads as zeros. A reader opens
its file with `opened`, calls `refuse_ways_out` once on the root and `refuse_unwritten` on
everything that it is going to read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.readers.slices import Slices

# Deeper than anybody nests; a group that holds itself would never end.
MAX_DEPTH = 32
# HDF5 unpacks a chunk whole for any part of it.
MAX_CHUNK_BYTES = 512 * 2**20


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file whose faults, also those met while reading, become an InputError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file") from error
    # What h5py raises for damaged files, found by flipping bytes.
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable HDF5 file, or cut short ({reason})") from error


def refuse_ways_out(group: h5py.Group, path: Path) -> None:
    """Refuse a file with links, or with data sets that lie in other files, anywhere below.

    Raises:
        InputError: which one it is.
    """
    _walk(group, path, seen=set(), depth=0)


def refuse_unwritten(item: h5py.Group | h5py.Dataset, path: Path) -> None:
    """Refuse data sets that declare more than was ever written, in `item` or anywhere below.

    Raises:
        InputError: which one it is.
    """
    if isinstance(item, h5py.Group):
        for name in item:
            refuse_unwritten(item[name], path)
        return
    if item.shape is None or item.size == 0:
        return
    told = f"{path}: {item.name} declares {' x '.join(map(str, item.shape)) or 1} values"
    if item.chunks is None:
        if item.id.get_create_plist().get_layout() == h5py.h5d.COMPACT:
            return
        n_bytes = item.size * item.id.get_type().get_size()
        if item.id.get_storage_size() < n_bytes or path.stat().st_size < n_bytes:
            raise InputError(f"{told}, but they were never written, or the file is cut short")
        return
    chunk_bytes = math.prod(item.chunks) * item.id.get_type().get_size()
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise InputError(
            f"{path}: {item.name} has chunks of {chunk_bytes / 2**30:.1f} GiB, at most "
            f"{MAX_CHUNK_BYTES >> 20} MiB are read; write it again in smaller ones"
        )
    expected = math.prod(-(-n // c) for n, c in zip(item.shape, item.chunks, strict=True))
    n_chunks = item.id.get_num_chunks()
    if n_chunks != expected:
        raise InputError(
            f"{told}, but only {n_chunks} of {expected} chunks were ever written; write the "
            f"file again, whole"
        )


def for_one_pass(group: h5py.Group, key: str) -> h5py.Dataset | Slices:
    """A data set that is read once from its start to its end, piece by piece (see slices.py).

    HDF5 would copy every chunk through its cache, which helps nobody who comes by once: without
    it, unfiltered values are read in half the time (1.6 instead of 2.9 ns CPU a value and
    its index). Of a compressed one the last chunk is kept, since two pieces meet in it.
    """
    dataset = group[key]
    keep = 0
    if dataset.chunks is not None and dataset.id.get_create_plist().get_nfilters():
        keep = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    del dataset  # the cache belongs to the first who opens it
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(521, keep, 1.0)
    dataset = h5py.Dataset(h5py.h5d.open(group.id, key.encode(), access))
    return Slices(dataset) if dataset.ndim == 1 and dataset.dtype.kind in "iufb" else dataset


def _walk(group: h5py.Group, path: Path, *, seen: set[int], depth: int) -> None:
    for name in group:
        if isinstance(name, bytes):  # what h5py makes of a name that is not UTF-8
            raise InputError(f"{path}: {group.name}: the name {name!r} is not UTF-8")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise InputError(
                f"{path}: {group.name.rstrip('/')}/{name} is a link; such files are not read"
            )
        item = group[name]
        # One object may have many names: each is walked once, or a small file takes for ever.
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        if isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise InputError(
                    f"{path}: {item.name} keeps its data in other files; such files are not read"
                )
        elif not isinstance(item, h5py.Group) or depth == MAX_DEPTH:
            raise InputError(f"{path}: {item.name} is nothing that such a file has there")
        else:
            _walk(item, path, seen=seen, depth=depth + 1)
