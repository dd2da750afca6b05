"""Read the table of cells of a Xenium bundle: `cells.parquet`, `cells.csv.gz` or `cells.csv`.

Its `cell_id` is text ("aaaaaaab-1"), bytes in the Parquet files of some releases, or a number
from 1 in the first ones. Of a Parquet file only the rows of the wanted cells are kept, so that
what it declares takes no memory.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cellplm.errors import InputError
from cellplm.ingest.readers.cell_ids import id_texts, read_frame, refuse_repeated, rows_of
from cellplm.ingest.readers.delimited import Delimited

ID = "cell_id"
BATCH_ROWS = 2**16


def read_cells(
    path: Path, cells: pd.Index[str], *, numbers: pd.Index[str] | None, of: Path
) -> tuple[pd.Index[str], pd.DataFrame, int]:
    """The rows of the cells of a matrix, in its order.

    Args:
        path: the table.
        cells: (n_obs,) ids in the matrix.
        numbers: the same as bare numbers, for a table that has these; None if not known.
        of: the matrix, for messages.

    Returns:
        The ids as the table has them, obs without them, and how many rows were left out.

    Raises:
        InputError: the table is damaged, has no ids, repeats one, or lacks a cell.
    """
    by_parquet = path.name.lower().endswith(".parquet")
    frame, ids, n_rows = (_parquet if by_parquet else _text)(path, cells, numbers)
    plain = numbers is not None and len(ids) > 0 and ids.str.isdigit().all()
    wanted = numbers if plain and numbers is not None else cells
    rows = rows_of(wanted, ids, path=path, of=of)
    obs = frame.drop(columns=[ID] if ID in frame.columns else []).iloc[rows]
    return wanted, obs.set_axis(wanted, axis=0), n_rows - len(wanted)


def _text(
    path: Path, cells: pd.Index[str], numbers: pd.Index[str] | None
) -> tuple[pd.DataFrame, pd.Index[str], int]:
    table = Delimited.sniff(path)
    if ID not in table.columns:
        raise InputError(_no_ids(path, list(table.columns)))
    at = table.columns.index(ID)
    (texts,) = table.read_columns([at])
    ids = id_texts(texts)
    rest = [i for i, name in enumerate(table.columns) if i != at and name]
    return read_frame(table, rest, n_rows=len(ids)), ids, len(ids)


def _parquet(
    path: Path, cells: pd.Index[str], numbers: pd.Index[str] | None
) -> tuple[pd.DataFrame, pd.Index[str], int]:
    wanted = cells if numbers is None else cells.union(numbers, sort=False)
    kept, n_kept, n_rows, first = [], 0, 0, None
    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            if ID not in names:
                raise InputError(_no_ids(path, names))
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                frame = batch.to_pandas()
                frame[ID] = id_texts(frame[ID]).to_numpy()
                n_rows += len(frame)
                first = frame if first is None else first
                frame = frame[frame[ID].isin(wanted)]
                kept.append(frame)
                n_kept += len(frame)
                if n_kept > len(wanted):
                    refuse_repeated(pd.Index(pd.concat(kept)[ID]), path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise InputError(f"{path}: not a readable Parquet file, or cut short ({reason})") from error
    if first is None:
        raise InputError(f"{path}: a table without rows; one a cell was expected")
    # None of the cells: let the message show what the ids of the table look like.
    frame = pd.concat(kept, ignore_index=True) if n_kept else first
    return frame, pd.Index(frame[ID].tolist(), dtype=object), n_rows


def _no_ids(path: Path, names: list[str]) -> str:
    told = ", ".join(names)[:300]
    return f"{path}: no column {ID!r}; a table of Xenium cells has one. It has: {told}"
