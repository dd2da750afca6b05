"""Join a text table that lies beside a matrix to its cells, or to its genes.

It is joined by name where it has names, in whichever column they are. Only a table without names
that has as many rows as there are cells is joined by position: bare numbers or labels, or such as
R numbers from 1. A table that fits in neither way is left out, and it is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.readers.delimited import DELIMITERS, Delimited, is_number, typed
from cellplm.ingest.readers.rows import MISSING
from cellplm.ingest.readers.table_layout import counter_from
from cellplm.ingest.readers.table_names import Named, named

# What R calls the column of a vector.
_BARE = ("x", "V1", "V2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """What became of a table beside the matrix.

    Attributes:
        frame: the cells (or genes) with its columns.
        columns: the new ones.
        note: a sentence for the report.
    """

    frame: pd.DataFrame
    columns: tuple[str, ...]
    note: str


def join(frame: pd.DataFrame, path: Path, *, what: str, by_position: bool = True) -> Joined:
    """Join one table.

    Args:
        frame: cells or genes; the index is their names.
        path: the table.
        what: "cells" or "genes", for the note.
        by_position: whether that may be.

    Raises:
        InputError: the file is damaged, or no table.
    """
    about = named(path)
    columns, texts = _read(path, frame.index, about)
    n_rows = len(texts[0])
    key, n_known = _key(texts, frame.index)
    if key is not None:
        place, how = _places(texts[key], frame.index, what, n_known)
    elif by_position and n_rows == len(frame) and _is_nameless(texts, frame.index):
        place = np.arange(n_rows)
        how = f"by position: it has a row for each of the {what} and no names"
    else:
        note = (
            f"{path.name} was left out: it names {n_known} of {len(frame)} {what} and has "
            f"{n_rows} rows"
        )
        return Joined(frame=frame, columns=(), note=note)
    counter = counter_from(texts[0]) is not None and columns[0] in ("", "X", "0", "Unnamed: 0")
    kept = [i for i in range(len(columns)) if i != key and not (i == 0 and counter)]
    new: dict[str, NDArray[Any]] = {}
    for i in kept:
        # -1, for no row, is not in the index of the texts and gives NaN.
        values = typed(texts[i]).reindex(place).to_numpy()
        # R writes a bare vector as a column "x": the file's name says more.
        alone = len(kept) == 1 and columns[i] in (*_BARE, f"{about.word}_{i}")
        name = about.word if alone else columns[i]
        if (free := _free_name(name or f"column_{i + 1}", about, values, frame, new)) is not None:
            new[free] = values
    if new:
        # One frame at once: duplicated names of cells forbid an aligned join.
        frame = pd.concat([frame, pd.DataFrame(new, index=frame.index)], axis=1)
    note = f"{path.name} joined {how}"
    return Joined(
        frame=frame, columns=tuple(new), note=note if new else f"{note}, and says nothing new"
    )


def spell_out(obs: pd.DataFrame, path: Path) -> Joined:
    """Add what the values of a column of obs mean, from a table of two columns.

    Args:
        obs: cells.
        path: the table: a column with the name of one of obs, and the meanings.

    Raises:
        InputError: the file is damaged, or no table.
    """
    table = Delimited.sniff(path)
    texts = table.read_columns(range(len(table.columns)))
    lower = {str(column).lower(): column for column in reversed(obs.columns)}
    column = lower.get(table.columns[0].lower())
    keys = _stripped(texts[0])
    if column is None or len(texts) != 2 or len(set(keys)) < len(keys):
        note = (
            f"{path.name} was left out: no column {table.columns[0]!r} about the cells, or "
            f"it does not say in two columns what each of its values means"
        )
        return Joined(frame=obs, columns=(), note=note)
    values = obs[column]
    written = values.astype(str).str.replace(r"\.0$", "", regex=True)
    name = named(path).word.removesuffix("_dict").removesuffix("_dictionary").removesuffix("_name")
    if name in obs.columns:
        name = f"{name}_{table.columns[1]}"
    meaning = written.map(dict(zip(keys, texts[1], strict=True)))
    note = f"{path.name}: {name} is what obs[{column!r}] means"
    return Joined(frame=obs.assign(**{name: meaning}), columns=(name,), note=note)


def _read(path: Path, names: pd.Index[str], about: Named) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the columns as texts."""
    try:
        table = Delimited.sniff(path)
    except InputError:
        return _columns(_as_list(path), names, about)
    if table.delimiter != " " or about.role == "positions":
        return _columns(table, names, about)
    # Labels of several words, one a line, look as if spaces divided them.
    with suppress(InputError):
        columns, texts = _columns(table, names, about)
        if _key(texts, names)[0] is not None:
            return columns, texts
    return _columns(_as_list(path), names, about)


def _as_list(path: Path) -> Delimited:
    """A table that may have one field a line, with spaces in it."""
    return Delimited.sniff(path, min_fields=1, delimiters=DELIMITERS.replace(" ", ""))


def _columns(
    table: Delimited, names: pd.Index[str], about: Named
) -> tuple[list[str], list[list[str]]]:
    header = [name.strip() for name in table.header]
    texts = table.read_columns(range(len(table.columns)))
    headless = len(header) == len(table.columns) and (
        names.isin(header).any()
        or all(map(is_number, header))
        or (len(header) == 1 and len(texts[0]) + 1 == len(names))
    )
    if headless:
        texts = table.without_header().read_columns(range(len(table.columns)))
        return _invented(texts, about), texts
    columns = list(table.columns)
    # The single cell portal has a second line that says what the columns are.
    if columns[0].upper() == "NAME" and texts[0][:1] == ["TYPE"]:
        texts = [column[1:] for column in texts]
    return columns, texts


def _invented(texts: Sequence[Sequence[str]], about: Named) -> list[str]:
    """Names for columns without a header: x, y and z for positions."""
    numbers = [i for i, column in enumerate(texts) if all(map(is_number, column))]
    columns = [f"{about.word}_{i}" for i in range(len(texts))]
    if about.role == "positions" and len(numbers) in (2, 3):
        for i, name in zip(numbers, "xyz", strict=False):
            columns[i] = name
    return columns


def _stripped(texts: Sequence[str]) -> list[str]:
    return [text.strip() for text in texts]


def _key(texts: Sequence[Sequence[str]], names: pd.Index[str]) -> tuple[int | None, int]:
    """The column that names most of the cells, each once, and how many it names."""
    in_order = (i for i, column in enumerate(texts) if _stripped(column) == list(names))
    if (same := next(in_order, None)) is not None:
        return same, len(names)
    best, most = None, 0
    counted = counter_from(list(names))
    for i, column in enumerate(texts):
        values = _stripped(column)
        distinct = pd.Index(values)
        n_known = int(names.isin(distinct).sum())
        # Two numberings, one from 0 and one from 1, name nothing.
        other = counter_from(values)
        if counted is not None and other is not None and other != counted:
            continue
        if n_known > most:
            most = n_known
            best = i if 2 * n_known > len(names) and distinct.is_unique else None
    return best, most


def _places(
    key: Sequence[str], names: pd.Index[str], what: str, n_known: int
) -> tuple[NDArray[np.intp], str]:
    """The row of each cell, -1 for none, and how it was found."""
    keys = _stripped(key)
    if keys == list(names):
        return np.arange(len(keys)), f"by name (the same {len(names)} {what} in the same order)"
    place = pd.Index(keys).get_indexer(names)
    how = f"by name ({n_known} of {len(names)} {what})"
    twice = names.duplicated(keep=False) & (place >= 0)
    if twice.any():
        place = np.where(twice, -1, place)
        how += f", but not to {int(twice.sum())} {what} whose names stand more than once"
    return place, how


def _is_nameless(texts: Sequence[Sequence[str]], names: pd.Index[str]) -> bool:
    """Whether no column holds names, of these cells or of others."""
    if counter_from(texts[0]) is not None:
        return True
    for column in texts:
        given = [text for text in column if text.strip() not in MISSING]
        if given and not any(map(is_number, given)):
            if len(set(given)) == len(given) or names.isin(_stripped(given)).any():
                return False
    return True


def _free_name(
    name: str,
    about: Named,
    values: NDArray[Any],
    frame: pd.DataFrame,
    new: dict[str, NDArray[Any]],
) -> str | None:
    """A name that no column has yet; None for a column that is there already, value by value."""
    if name in frame.columns and (frame[name].astype(str) == values.astype(str)).all():
        return None
    free, n = name, 0
    while free in frame.columns or free in new:
        n += 1
        free = f"{name}_{about.word or 'more'}" if n == 1 else f"{name}_{about.word or 'more'}_{n}"
    return free
