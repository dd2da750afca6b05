"""Which columns of obs and var are ours, and what the source's are called beside them.

In a part each column is a folder, so names have to differ in more than upper and lower case
(zarr's consolidated metadata mix up "Sample" and "sample", and many disks do), and some cannot be
folders at all. Such columns of the source, and those that have one of our names, get another name
in the part; its provenance keeps which, and what leaves the corpus has the first name again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

import pandas as pd

OBS_COLUMNS = ("source_row", "source_name", "tissue", "sample", "fov", "kept", "cell_hash")
"""source_name only where cell names repeat: there the index of obs has numbers after them."""
VAR_COLUMNS = ("gene_id", "symbol", "source_name", "kind", "match", "source_column")

OURS_OUTSIDE = "cellplm_"
"""Before our names in a table that leaves the corpus."""

_MARK = "source_"
_LONGEST_BYTES = 200
_RESERVED = ("", ".", "..", "_index", "zarr.json")


def stored_names(columns: Iterable[object], ours: tuple[str, ...]) -> list[str]:
    """What the columns of a source are called in a part, in their order.

    A name that is taken gets "source_" before it, as often as is needed.

    Args:
        columns: names in the source, not necessarily unique or strings.
        ours: `OBS_COLUMNS` or `VAR_COLUMNS`.
    """
    taken = {_folded(name) for name in ours}
    out = []
    for column in columns:
        name = _as_folder(str(column))
        while _folded(name) in taken:
            name = _MARK + name
        taken.add(_folded(name))
        out.append(name)
    return out


def renamed(columns: Iterable[object], ours: tuple[str, ...]) -> dict[str, str]:
    """The name in the source by that in the part, where they differ: for the provenance."""
    names = [str(column) for column in columns]
    pairs = zip(stored_names(names, ours), names, strict=True)
    return {stored: name for stored, name in pairs if stored != name}


def as_in_source(
    table: pd.DataFrame,
    ours: tuple[str, ...],
    names: Mapping[str, str] | None = None,
    *,
    with_ours: bool = False,
) -> pd.DataFrame:
    """The table as the source had it: its names, which may repeat, and its columns.

    Args:
        table: obs or var of a part, in any order of rows; not changed.
        ours: `OBS_COLUMNS` or `VAR_COLUMNS`.
        names: from `renamed`; None: of a part that does not say, where only a column with one of
            our names was renamed.
        with_ours: keep ours too, as cellplm_<name>, after the source's.
    """
    if names is None:
        names = {_MARK + name: name for name in ours}
    theirs = [name for name in table.columns if name not in ours]
    out = table[theirs].copy()
    out.columns = pd.Index([names.get(name, name) for name in theirs], dtype=object)
    if "source_name" in table.columns:
        out.index = pd.Index(table["source_name"].to_numpy().astype(object), name=None)
    if with_ours:
        for name in (each for each in ours if each in table.columns and each != "source_name"):
            outside = OURS_OUTSIDE + name
            while outside in out.columns:  # of a file that came out of a corpus before
                outside = OURS_OUTSIDE + outside
            out[outside] = table[name].array
    return out


def _as_folder(name: str) -> str:
    name = re.sub(r"[/\\\x00-\x1f]", "_", name)
    name = name.encode(errors="replace")[:_LONGEST_BYTES].decode(errors="ignore")
    return _MARK + name if name in _RESERVED or name.startswith("__") else name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
