"""Read obs and var of an AnnData, as any version since 0.5 writes them.

Since 0.7 a table is a group of columns. Before, it was one array of records, with its
categories in uns. Tables are read whole, so what one declares is held against what the container
takes on disk first.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata.io import read_elem
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.readers.container import Container, group_at, is_array, item_at

# A table may unpack to this much, or to so many times what is on disk: columns of one value
# shrink a thousandfold, names of cells hardly threefold.
FREE_BYTES = 256 * 2**20
MAX_GROWTH = 200


def table(root: Any, key: str, container: Container) -> pd.DataFrame:
    """A table of obs, var or obsm, its index and column names as strings.

    Raises:
        InputError: it is not there, damaged, or no table.
    """
    item = item_at(root, key)
    path = container.path
    if item is None:
        raise InputError(f"{path}: no {key!r} in it")
    refuse_growth(item, key, path, container.n_bytes)
    container.refuse_unwritten(item)
    try:
        if is_array(item):
            frame = _records(item[:], group_at(root, "uns"))
        else:
            with warnings.catch_warnings():
                # Files of older anndata versions are welcome and need no advice.
                warnings.simplefilter("ignore")
                frame = read_elem(item)
    except Exception as error:  # anndata raises many kinds for a table that is not its own
        reason = str(error).split("\n", 1)[0]
        raise InputError(f"{path}: {key} is not a readable table ({reason})") from error
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{path}: {key} holds a {type(frame).__name__}, not a table")
    frame.index = frame.index.astype(str)
    frame.columns = frame.columns.astype(str)
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"{path}: {key} has two columns {twice!r}")
    return frame


def refuse_growth(item: Any, key: str, path: Path, n_bytes: int) -> None:
    """Refuse what would take far more memory than it takes on disk.

    Args:
        item: group or array that is going to be read whole.
        key: its name, for the message.
        path: the file.
        n_bytes: what the file takes on disk.

    Raises:
        InputError: it does.
    """
    declared, may = _declared_bytes(item), max(FREE_BYTES, MAX_GROWTH * n_bytes)
    if declared > may:
        raise InputError(
            f"{path}: {key} declares {declared / 2**30:.3g} GiB, but the file takes only "
            f"{n_bytes / 2**20:.3g} MiB; more than {MAX_GROWTH} times that is not read"
        )


def _declared_bytes(item: Any) -> int:
    if is_array(item):
        n_values = 0 if item.shape is None else int(np.prod(item.shape, dtype=object))
        return n_values * int(item.dtype.itemsize)
    return sum(_declared_bytes(item[name]) for name in item.keys())


def _records(records: NDArray[Any], uns: Any | None) -> pd.DataFrame:
    """A table of anndata before 0.7: one record a row, categories in uns."""
    columns: dict[str, Any] = {}
    for name in records.dtype.names or ():
        values: Any = records[name]
        if values.ndim != 1:
            continue
        if values.dtype.kind in "SO":
            values = np.array(_decoded(values), dtype=object)
        categories = None if uns is None else item_at(uns, f"{name}_categories")
        if categories is not None and values.dtype.kind in "iu":
            values = pd.Categorical.from_codes(values, pd.Index(_decoded(categories[:])))
        columns[name] = values
    frame = pd.DataFrame(columns)
    name = next((n for n in ("index", "_index") if n in frame.columns), frame.columns[0])
    return frame.set_index(name).rename_axis(None)


def _decoded(values: NDArray[Any]) -> list[Any]:
    return [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
