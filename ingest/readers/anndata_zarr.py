"""Read AnnData in Zarr folders, of Zarr version 2 and 3.

Layouts: those of anndata since 0.6 (obs and var as arrays of records), 0.7 (groups, categories in
`__categories`) and since 0.8 (every group says its encoding); chunked or sharded; with or without
consolidated metadata. Where the counts and the positions are looked for is the same as in
h5ad files: see anndata_counts.py and anndata_positions.py. What can be known about lost
chunks: see zarr_folder.py. A Zarr in a .zip is an archive, and is not read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from cellplm.ingest.readers import zarr_folder
from cellplm.ingest.readers.anndata_parts import open_anndata
from cellplm.ingest.source import Found, ReadOptions, Source

FORMAT = "anndata-zarr"

# A read of Zarr costs a millisecond, and chunks at its ends are unpacked twice.
ROW_VALUES = 4 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """A Zarr folder as a container of an AnnData."""

    path: Path
    n_bytes: int

    @property
    def row_values(self) -> int:
        """See `Container`."""
        return ROW_VALUES

    @contextmanager
    def opened(self) -> Iterator[zarr.Group]:
        """See `Container`."""
        with zarr_folder.opened(self.path) as group:
            yield group

    def refuse_unwritten(self, item: Any) -> None:
        """See `Container`."""
        zarr_folder.refuse_unwritten(item, self.path)

    def for_one_pass(self, root: Any, key: str) -> Any:
        """See `Container`."""
        return zarr_folder.for_one_pass(root, key)


def find(files: Sequence[Path]) -> list[Found]:
    """Every folder that is a Zarr group with obs and var."""
    return [
        Found(format=FORMAT, path=path, files=(path,), name=zarr_name(path))
        for path in files
        if path.is_dir() and zarr_folder.has(path, "obs") and zarr_folder.has(path, "var")
    ]


def refusal(path: Path) -> str | None:
    """Why a Zarr folder is no data set; None for everything that is no folder."""
    if not path.is_dir():
        return None
    about = zarr_folder.attributes(path).get("cellplm")
    if isinstance(about, dict) and about.get("format") == "corpus":
        return f"{path}: a cellplm corpus, not a source; to add to it, give it as the output"
    if not zarr_folder.has(path, ""):
        return f"{path}: named as Zarr, but it has neither zarr.json nor .zgroup; copy all of it"
    names = sorted(each.name for each in path.iterdir() if zarr_folder.has(path, each.name))
    return (
        f"{path}: a Zarr without obs and var; an AnnData or SpatialData was expected. It has: "
        f"{', '.join(names[:10]) or 'nothing'}"
    )


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read obs and var, choose where the counts are.

    Raises:
        InputError: the folder cannot be read, holds links, or its parts do not fit together.
        CountsError: no place holds raw counts.
    """
    folder = Folder(path=found.path, n_bytes=zarr_folder.n_bytes(found.path))
    return open_anndata(folder, found, options, format=FORMAT)


def zarr_name(path: Path) -> str:
    """The name of a folder without .zarr."""
    return path.stem if path.suffix.lower() == ".zarr" else path.name
