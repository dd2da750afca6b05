"""Find the data sets among files and folders.

`SOURCES` is the list of formats, and its order is their precedence: a reader sees only the
files of a folder that no earlier one claimed. So the formats of instruments stand before
h5ad, and the text tables, which claim by content, last.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.readers import (
    anndata_zarr,
    cosmx,
    gem,
    h5ad,
    loom,
    merscope,
    spatialdata,
    table,
    tenx_h5,
    tenx_mtx,
    xenium,
)
from cellplm.ingest.source import Found, Reader

SOURCES: dict[str, Reader] = {
    xenium.FORMAT: xenium,
    merscope.FORMAT: merscope,
    cosmx.FORMAT: cosmx,
    tenx_h5.FORMAT: tenx_h5,
    tenx_mtx.FORMAT: tenx_mtx,
    loom.FORMAT: loom,
    spatialdata.FORMAT: spatialdata,
    anndata_zarr.FORMAT: anndata_zarr,
    h5ad.FORMAT: h5ad,
    gem.FORMAT: gem,
    table.FORMAT: table,
}


def find(paths: Sequence[Path]) -> tuple[list[Found], list[Path]]:
    """Look for data sets in files and, recursively, in folders.

    Hidden files are passed over; a Zarr folder counts as one file. Folders come before what is
    below them, so that a reader may claim files of folders below. A file that is named
    directly brings the files with it that make one data set together with it.

    Returns:
        The data sets with unique names, in the order of `paths`, and the files below the
        folders that belong to none.

    Raises:
        MissingFileError: a path does not exist.
        InputError: a file named directly is no data set and belongs to none.
    """
    found: dict[Path, Found] = {}
    unclaimed: list[Path] = []
    for path in paths:
        if path.is_dir() and not is_zarr(path):
            taken: set[Path] = set()
            for entries in _folders(path):
                seen, rest = _claim([entry for entry in entries if entry not in taken])
                taken |= {entry for one in seen for entry in _entries_of(one)}
                found |= {one.path.resolve(): one for one in seen}
                unclaimed += rest
        elif path.exists():
            beside, _ = _claim(_entries(path.parent, os.listdir(path.parent), also=path))
            # Beside a better one it may be left out, but not where it is asked for.
            mine = [one for one in beside if path in _entries_of(one)] or _claim([path])[0]
            if not mine:
                raise InputError(why_not(path))
            found |= {one.path.resolve(): one for one in mine}
        else:
            raise MissingFileError(f"{path}: no such file or folder")
    claimed = {entry for one in found.values() for entry in _entries_of(one)}
    return _with_unique_names(list(found.values())), [p for p in unclaimed if p not in claimed]


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr hierarchy, of version 2 or 3."""
    marks = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
    named = path.suffix.lower() == ".zarr"
    return path.is_dir() and (named or any((path / mark).is_file() for mark in marks))


def why_not(path: Path) -> str:
    """Why a file is no data set, in one line; for the files that `find` says belong to none.

    A damaged table is among them: nobody can tell what a file is that cannot be read.
    """
    told = (reader.refusal(path) for reader in SOURCES.values())
    return next((reason for reason in told if reason), None) or (
        f"{path}: no data set that can be read; known formats are {', '.join(SOURCES)}"
    )


def _folders(root: Path) -> list[list[Path]]:
    """The visible entries of every folder from `root` down, sorted."""
    folders = []
    for folder, below, names in os.walk(root):
        zarrs = [name for name in below if is_zarr(Path(folder) / name)]
        below[:] = sorted(name for name in below if name[0] != "." and name not in zarrs)
        folders.append(_entries(Path(folder), [*names, *zarrs]))
    return folders


def _entries(folder: Path, names: Sequence[str], also: Path | None = None) -> list[Path]:
    visible = {folder / name for name in names if not name.startswith(".")}
    if also is not None:
        visible.add(also)
    return sorted(path for path in visible if path.is_file() or is_zarr(path))


def _claim(files: list[Path]) -> tuple[list[Found], list[Path]]:
    found: list[Found] = []
    for reader in SOURCES.values():
        seen = reader.find(files)
        claimed = {entry for one in seen for entry in _entries_of(one)}
        files = [file for file in files if file not in claimed]
        found += seen
    return found, files


def _entries_of(one: Found) -> set[Path]:
    """The files of a data set, and the Zarr folders that they lie in."""
    files = (*one.files, *one.beside)
    return {entry for file in files for entry in (file, *file.parents)}


def _with_unique_names(found: list[Found]) -> list[Found]:
    """Data sets of one name get the folder before it, and a number where that is not enough."""
    often = Counter(one.name for one in found)
    names = [_with_folder(one) if often[one.name] > 1 else one.name for one in found]
    taken: set[str] = set()
    out = []
    for one, name in zip(found, names, strict=True):
        unique, n = name, 1
        while unique in taken:
            n += 1
            unique = f"{name}-{n}"
        taken.add(unique)
        out.append(replace(one, name=unique))
    return out


def _with_folder(one: Found) -> str:
    folder = one.path.parent.name
    return one.name if folder == one.name else f"{folder}-{one.name}"
