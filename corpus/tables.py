"""obs, var and provenance of a part, as they are stored and as the source had them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cellplm.corpus.columns import OBS_COLUMNS, VAR_COLUMNS, as_in_source
from cellplm.corpus.reader import Part
from cellplm.errors import CorruptCorpusError

Axis = Literal["obs", "var"]


def stored_table(part: Part, axis: Axis) -> pd.DataFrame:
    """The whole obs or var as it is stored, in the order of the part.

    Raises:
        CorruptCorpusError: it is missing or damaged.
    """
    with _read(part.path / axis):
        frame = ad.io.read_elem(_group(part)[axis])
    expected = part.entry.n_obs if axis == "obs" else part.entry.n_vars
    if not isinstance(frame, pd.DataFrame) or len(frame) != expected:
        raise CorruptCorpusError(f"{part.path / axis}: no table of {expected:,} rows.")
    return frame


def source_table(part: Part, axis: Axis, *, with_ours: bool = False) -> pd.DataFrame:
    """The obs or var of the source: its rows in their order, its names and its columns.

    Args:
        part: of a corpus.
        axis: which.
        with_ours: keep our columns too, as cellplm_<name>.

    Raises:
        CorruptCorpusError: it is missing or damaged.
    """
    ours = OBS_COLUMNS if axis == "obs" else VAR_COLUMNS
    stored = stored_table(part, axis)
    order = stored["source_row" if axis == "obs" else "source_column"]
    names = provenance(part).get("renamed_columns", {}).get(axis)
    rows = stored.iloc[np.argsort(order.to_numpy())]
    return as_in_source(rows, ours, names, with_ours=with_ours)


def column(part: Part, axis: Axis, name: str) -> NDArray[Any] | None:
    """One column of obs or var (or "_index") without the rest; None where there is none.

    Raises:
        CorruptCorpusError: it is damaged.
    """
    with _read(part.path / axis / name):
        table = _group(part)[axis]
        if not isinstance(table, zarr.Group) or name not in table:
            return None
        return np.asarray(ad.io.read_elem(table[name]))


def provenance_text(part: Part) -> str:
    """Where a part came from: the JSON of uns/cellplm (docs/format.md).

    Raises:
        CorruptCorpusError: it is missing or damaged.
    """
    with _read(part.path / "uns"):
        return str(ad.io.read_elem(_group(part)["uns/cellplm"]))


def provenance(part: Part) -> dict[str, Any]:
    """`provenance_text`, parsed.

    Raises:
        CorruptCorpusError: it is missing or damaged.
    """
    with _read(part.path / "uns"):
        values: dict[str, Any] = json.loads(provenance_text(part))
    return values


def _group(part: Part) -> zarr.Group:
    # zarr 3.1 mixes up names in consolidated metadata that differ only in case.
    return zarr.open_group(part.path, mode="r", use_consolidated=False)


@contextmanager
def _read(path: Path) -> Iterator[None]:
    try:
        yield
    except CorruptCorpusError:
        raise
    except Exception as error:  # zarr, its codecs and anndata raise many kinds
        fault = " ".join(str(error).split())
        raise CorruptCorpusError(f"{path}: cannot be read: {fault}") from None
