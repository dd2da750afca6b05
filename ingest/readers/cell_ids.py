"""Join a table about cells to the cells of a matrix, by id and never by position.

Instruments write the two files in orders of their own, and the ids in types of their own: bytes,
integers, strings. Here an id is text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.readers.delimited import Delimited, typed

# "1.6063884e+18": a spreadsheet or R took an id for a number and cut its digits.
ROUNDED = r"^\d+(?:\.\d+)?[eE]\+?\d+$"

# A Python string takes 50 bytes and more.
TEXTS = 8 * 2**20


def id_texts(values: Any) -> pd.Index[str]:
    """Cell ids of any type as text: b"aaaaaaab-1", 7, 7.0 and " 7" become "aaaaaaab-1" and "7".

    Args:
        values: (n,) bytes, integers, floats or strings.
    """
    array = np.asarray(values)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind in "iu":
        digits: list[str] = array.astype(str).tolist()
        return pd.Index(digits, dtype=object)
    if array.dtype.kind == "O":
        decoded = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in array]
        array = np.array(decoded, dtype=object)
    text = pd.Series(array, dtype=object).astype(str).str.strip()
    text = text.str.replace(r"^(\d+)\.0+$", r"\1", regex=True)
    return pd.Index(text.tolist(), dtype=object)


def refuse_repeated(ids: pd.Index[str], path: Path) -> None:
    """Refuse ids that stand twice.

    Raises:
        InputError: which one it is.
    """
    if ids.is_unique:
        return
    twice = str(ids[ids.duplicated()][0])
    hint = "; the ids were rounded, export the table again with ids as text"
    rounded = bool(pd.Series(ids[:1000]).str.match(ROUNDED).any())
    raise InputError(
        f"{path}: cell {twice} stands twice; one row a cell was expected{hint if rounded else ''}"
    )


def rows_of(cells: pd.Index[str], ids: pd.Index[str], *, path: Path, of: Path) -> NDArray[np.intp]:
    """Where each cell of a matrix stands in a table.

    Args:
        cells: (n_obs,) ids of the matrix.
        ids: (rows,) ids of the table, in its order.
        path: the table.
        of: the matrix.

    Returns:
        (n_obs,) rows of the table.

    Raises:
        InputError: an id stands twice, or a cell is not in the table.
    """
    refuse_repeated(ids, path)
    rows = ids.get_indexer(cells)
    if (rows < 0).any():
        lost = cells[rows < 0]
        like = f"; its ids look like {ids[0]}" if len(ids) else ""
        raise InputError(
            f"{path}: {len(lost)} of {len(cells)} cells of {of.name} are not in it, such as "
            f"{lost[0]}{like}; the two files have to be of one export"
        )
    return np.asarray(rows, dtype=np.intp)


def read_frame(table: Delimited, at: Sequence[int], *, n_rows: int) -> pd.DataFrame:
    """Some columns of a text table, with numbers where all of a column are.

    The file is read several times where all its texts together would take too much memory.

    Args:
        table: sniffed.
        at: the columns.
        n_rows: of the table.

    Raises:
        InputError: the file is no table.
    """
    columns: list[pd.Series[float]] = []
    n_at_once = max(1, TEXTS // max(n_rows, 1))
    while len(columns) < len(at):
        columns += map(typed, table.read_columns(at[len(columns) : len(columns) + n_at_once]))
    frame = pd.DataFrame(dict(enumerate(columns)), index=pd.RangeIndex(n_rows))
    return frame.set_axis(pd.Index([table.columns[i] for i in at], dtype=object), axis=1)
