"""Read AnnData's h5ad files.

Layouts: those of anndata 0.5 (obs and var as arrays of records, "raw.X"), 0.7 (groups, categories
in `__categories`) and since 0.8 (every item says its encoding). Counts are looked for in
`layers['counts']` (and other spellings), `raw.X` and `X`; see anndata_counts.py. Positions,
their unit, and what makes rows spots: see anndata_positions.py. A file that ends in .h5 or
.hdf5 and has obs and var is one too. MuData (.h5mu) is refused with what to do.

An HDF5 file can point outside itself and declare what it does not hold: see hdf5.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from cellplm.errors import InputError
from cellplm.ingest.readers import hdf5
from cellplm.ingest.readers.anndata_parts import open_anndata, refuse_no_anndata
from cellplm.ingest.source import Found, ReadOptions, Source

FORMAT = "h5ad"

SUFFIXES = (".h5ad",)
# 4 MiB of indices and of data: what the next step does with them, it does in the cache.
ROW_VALUES = 2**20
# Of these names, only files with obs and var are AnnData.
OTHER_SUFFIXES = (".h5", ".hdf5", ".he5", ".h5mu")


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """An HDF5 file as a container of an AnnData."""

    path: Path

    @property
    def n_bytes(self) -> int:
        return self.path.stat().st_size

    @contextmanager
    def opened(self) -> Iterator[h5py.File]:
        with hdf5.opened(self.path) as file:
            yield file

    @property
    def row_values(self) -> int:
        return ROW_VALUES

    def refuse_unwritten(self, item: Any) -> None:
        hdf5.refuse_unwritten(item, self.path)

    def for_one_pass(self, root: Any, key: str) -> Any:
        return hdf5.for_one_pass(root, key)


def find(files: Sequence[Path]) -> list[Found]:
    """Every file that ends in .h5ad, and every HDF5 file with obs and var."""
    return [
        Found(format=FORMAT, path=path, files=(path,), name=path.name[: -len(path.suffix)])
        for path in files
        if path.suffix.lower() in SUFFIXES
        or (path.suffix.lower() in OTHER_SUFFIXES and _is_anndata(path))
    ]


def refusal(path: Path) -> str | None:
    """Why a file that HDF5 wrote, whatever its name, holds no AnnData.

    None for other files, and for HDF5 files that may be of another format.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(8) != b"\x89HDF\r\n\x1a\n":
            return None
    try:
        with hdf5.opened(path) as root:
            if "obs" in root or path.suffix.lower() == ".h5mu":
                refuse_no_anndata(root, path)
                return f"{path}: an AnnData; name it .h5ad to have it read"
    except InputError as error:
        return str(error)
    return None


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read obs and var, choose where the counts are.

    Raises:
        InputError: the file cannot be read, or its parts do not fit together.
        CountsError: no place holds raw counts.
    """
    with hdf5.opened(found.path) as file:
        hdf5.refuse_ways_out(file, found.path)
    return open_anndata(_File(path=found.path), found, options, format=FORMAT)


def _is_anndata(path: Path) -> bool:
    try:
        with hdf5.opened(path) as file:
            return "obs" in file and "var" in file and "mod" not in file
    except InputError:
        return False  # `refusal` says why, when somebody asks for this very file
