"""Read the tables of SpatialData, each a data set of its own.

Layout: a Zarr folder with `tables/<name>` (`table/table` before 0.1), each an AnnData, beside
`images`, `labels`, `points` and `shapes`, which are not read. Positions are those of the
table, `obsm['spatial']` for all readers of spatialdata-io; where a table has none, none are
made of its shapes. See anndata_counts.py and anndata_positions.py for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cellplm.errors import InputError
from cellplm.ingest.readers import zarr_folder
from cellplm.ingest.readers.anndata_parts import open_anndata
from cellplm.ingest.readers.anndata_zarr import Folder, zarr_name
from cellplm.ingest.source import Found, ReadOptions, Source

FORMAT = "spatialdata"

TABLES = ("tables", "table")
ELEMENTS = ("images", "labels", "points", "shapes")


def find(files: Sequence[Path]) -> list[Found]:
    """A data set for every table of a folder; the only one is named after the folder."""
    found = []
    for path in files:
        tables = _tables(path)
        for table in tables:
            name = zarr_name(path)
            if len(tables) > 1:
                name = f"{name}-{table.name}"
            # Images take most of a folder and are not read: the table alone is what is hashed.
            found.append(Found(format=FORMAT, path=table, files=(table,), name=name))
    return found


def refusal(path: Path) -> str | None:
    """Why a SpatialData is no data set; None for everything else."""
    if not path.is_dir() or not _is_spatialdata(path) or _tables(path):
        return None
    return (
        f"{path}: a SpatialData without tables, so without counts; aggregate its points first "
        f"(spatialdata.aggregate)"
    )


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read obs and var of the table, choose where the counts are.

    Raises:
        InputError: the table cannot be read, holds links, or its parts do not fit together.
        CountsError: no place holds raw counts.
    """
    for path in (found.path.parent, found.path):
        if path.is_symlink():
            raise InputError(f"{path}: a link; a SpatialData is read only if all of it is in it")
    folder = Folder(path=found.path, n_bytes=zarr_folder.n_bytes(found.path))
    return open_anndata(folder, found, options, format=FORMAT)


def _is_spatialdata(path: Path) -> bool:
    if "spatialdata_attrs" in zarr_folder.attributes(path):
        return True
    return any(zarr_folder.has(path, name) for name in (*TABLES, *ELEMENTS))


def _tables(path: Path) -> list[Path]:
    if not path.is_dir() or not _is_spatialdata(path) or zarr_folder.has(path, "obs"):
        return []
    return sorted(
        table
        for name in TABLES
        if (path / name).is_dir()
        for table in (path / name).iterdir()
        if zarr_folder.has(table, "obs") and zarr_folder.has(table, "var")
    )
