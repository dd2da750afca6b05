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
from cellplm.ingest.readers import cosmx, h5ad, table
from cellplm.ingest.source import Found, Reader

SOURCES: dict[str, Reader] = {
    cosmx.FORMAT: cosmx,
    h5ad.FORMAT: h5ad,
    table.FORMAT: table,
}


def find(paths: Sequence[Path]) -> tuple[list[Found], list[Path]]:
    """Look for data sets in files and, recursively, in folders.

    Hidden files and Zarr groups are passed over. A file that is named directly brings the
    files with it that make one data set together with it.

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
        if path.is_dir():
            for files in _folders(path):
                seen, rest = _claim(files)
                found |= {one.path.resolve(): one for one in seen}
                unclaimed += rest
        elif path.is_file():
            beside, _ = _claim(_files(path.parent, os.listdir(path.parent), also=path))
            mine = [one for one in beside if path in one.files]
            if not mine:
                raise InputError(why_not(path))
            found |= {one.path.resolve(): one for one in mine}
        else:
            raise MissingFileError(f"{path}: no such file or folder")
    claimed = {file for one in found.values() for file in one.files}
    return _with_unique_names(list(found.values())), [p for p in unclaimed if p not in claimed]


def why_not(path: Path) -> str:
    """Why a file is no data set, in one line; for the files that `find` says belong to none.

    A damaged table is among them: nobody can tell what a file is that cannot be read.
    """
    return table.refusal(path) or (
        f"{path}: no data set that can be read; known formats are {', '.join(SOURCES)}"
    )


def _folders(root: Path) -> list[list[Path]]:
    """The visible files of every folder from `root` down, sorted."""
    folders = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(d for d in below if not d.startswith(".") and not d.endswith(".zarr"))
        folders.append(_files(Path(folder), names))
    return folders


def _files(folder: Path, names: Sequence[str], also: Path | None = None) -> list[Path]:
    visible = {folder / name for name in names if not name.startswith(".")}
    if also is not None:
        visible.add(also)
    return sorted(path for path in visible if path.is_file())


def _claim(files: list[Path]) -> tuple[list[Found], list[Path]]:
    found: list[Found] = []
    for reader in SOURCES.values():
        seen = reader.find(files)
        claimed = {file for one in seen for file in one.files}
        files = [file for file in files if file not in claimed]
        found += seen
    return found, files


def _with_unique_names(found: list[Found]) -> list[Found]:
    """Data sets of one name get the folder before it, and a number where that is not enough."""
    often = Counter(one.name for one in found)
    names = [f"{o.path.parent.name}-{o.name}" if often[o.name] > 1 else o.name for o in found]
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
