"""Count the transcripts of a CosMx `*tx_file` by cell and target.

The file is streamed twice: once for its cells and targets, once for the counts. The vendor writes
one FOV after the other, in no order within it; then the pairs of a cell and a target of one FOV
are in memory at a time (24 bytes a distinct pair, about 100 while they are merged), else those of
the whole slide. Transcripts with cell_ID 0 lie outside of cells: they are counted and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.blocks import BLOCK_VALUES
from cellplm.ingest.readers.cosmx_tables import plain
from cellplm.ingest.readers.delimited import Delimited
from cellplm.ingest.source import Block

BATCH_BYTES = 16 * 2**20
# Pairs are merged when they are this many, or twice as many as were left the last time.
MERGE_PAIRS = 8 * 2**20
NUMBER_BITS = 31

WANTED = {"fov": ("fov",), "cell_ID": ("cellid",), "target": ("target", "targetname", "gene")}
POSITIONS = (("xglobalpx", "yglobalpx"), ("xlocalpx", "ylocalpx"))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Transcripts:
    """A table of transcripts, and what it tells of cells and targets.

    Attributes:
        table: the file.
        at: its columns FOV, cell, target, x and y.
        fov: (n_obs,) int64; FOVs stand as in the file where each is in one piece.
        number: (n_obs,) int64 of the cell in its FOV, from 1, ascending.
        targets: (n_vars,) sorted.
        mean_px: (n_obs, 2) float64 mean position of the cell's transcripts.
        n_transcripts: in cells.
        n_outside: in none.
        grouped: whether each FOV is in one piece.
    """

    table: Delimited
    at: tuple[int, ...]
    fov: NDArray[np.int64]
    number: NDArray[np.int64]
    targets: pd.Index[str]
    mean_px: NDArray[np.float64]
    n_transcripts: int
    n_outside: int
    grouped: bool

    @property
    def position_columns(self) -> tuple[str, str]:
        """The names of the columns x and y."""
        x, y = (self.table.columns[i] for i in self.at[3:])
        return x, y


def scan(path: Path) -> Transcripts:
    """Read the table from end to end for its cells and targets.

    Raises:
        InputError: a column is missing, a row is damaged, or no transcript lies in a cell.
    """
    table = Delimited.sniff(path)
    at = _columns(table)
    cells, targets, order = _Sums(), set[str](), list[int]()
    n_outside = 0
    for batch in _batches(table, at):
        inside = batch.number != 0
        n_outside += int(inside.size - np.count_nonzero(inside))
        targets.update(batch.names)
        starts = np.flatnonzero(np.diff(batch.fov, prepend=-1))
        order += [fov for fov in batch.fov[starts].tolist() if order[-1:] != [fov]]
        key, of = np.unique(batch.key[inside], return_inverse=True)
        parts = [np.bincount(of, weights, key.size) for weights in (None, *batch.xy[:, inside])]
        cells.add(key, np.zeros_like(key), np.stack(parts).astype(np.float64))
    key, _, sums = cells.total()
    if not key.size:
        raise InputError(f"{path}: no transcript lies in a cell: cell_ID is 0 in every row")
    fov, number = key >> NUMBER_BITS, key & ((1 << NUMBER_BITS) - 1)
    grouped = len(order) == len(set(order))
    if grouped:
        by_file = np.argsort(pd.Index(order).get_indexer(pd.Index(fov)), kind="stable")
        fov, number, sums = fov[by_file], number[by_file], sums[:, by_file]
    return Transcripts(
        table=table,
        at=at,
        fov=fov,
        number=number,
        targets=pd.Index(sorted(targets), dtype=object),
        mean_px=(sums[1:] / sums[0]).T,
        n_transcripts=int(sums[0].sum()),
        n_outside=n_outside,
        grouped=grouped,
    )


def blocks(source: Transcripts) -> Iterator[Block]:
    """One pass over the counts, cell by cell.

    Raises:
        InputError: the file is not the one that was scanned any more.
    """
    key = source.fov << NUMBER_BITS | source.number
    sorter = np.argsort(key)
    pairs = _Sums()
    done = 0
    for batch in _batches(source.table, source.at):
        inside = batch.number != 0
        code = source.targets.get_indexer(pd.Index(batch.names, dtype=object))
        wanted = batch.key[inside]
        place = np.minimum(np.searchsorted(key, wanted, sorter=sorter), key.size - 1)
        row = sorter[place]
        if (code < 0).any() or (key[row] != wanted).any():
            raise InputError(f"{source.table.path}: changed while it was read; start again")
        n_targets = len(source.targets)
        pair, n = np.unique(row * n_targets + code[batch.target[inside]], return_counts=True)
        pairs.add(pair // n_targets, pair % n_targets, n[None])
        if source.grouped and batch.fov.size:
            # The rows before those of the last FOV of the batch are complete.
            ahead = np.flatnonzero(source.fov == batch.fov[-1])
            if ahead.size and ahead[0] > done:
                yield from _cut(pairs.take_below(int(ahead[0])), done, int(ahead[0]))
                done = int(ahead[0])
    yield from _cut(pairs.take_below(key.size), done, key.size)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Batch:
    """Some transcripts.

    Attributes:
        fov: (n,) int64.
        number: (n,) int64 of the cell, 0 for none.
        target: (n,) numbers into `names`.
        names: distinct targets.
        xy: (2, n) float64.
    """

    fov: NDArray[np.int64]
    number: NDArray[np.int64]
    target: NDArray[np.int64]
    names: list[str]
    xy: NDArray[np.float64]

    @property
    def key(self) -> NDArray[np.int64]:
        """One number a cell, ascending by FOV."""
        return self.fov << NUMBER_BITS | self.number


_Triples = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]


class _Sums:
    """Sums of numbers by (key, code), gathered in parts and merged now and then."""

    def __init__(self) -> None:
        self._parts: list[_Triples] = []
        self._held = 0
        self._merge_at = MERGE_PAIRS

    def add(self, key: NDArray[np.int64], code: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Take in distinct pairs, (n,) each, and their (k, n) values."""
        self._parts.append((key, code, values))
        self._held += key.size
        if self._held > self._merge_at:
            self._hold(self.total())
            self._merge_at = max(MERGE_PAIRS, 2 * self._held)

    def total(self) -> _Triples:
        """Distinct keys and codes, ascending, and the (k, n) sums."""
        if not self._parts:
            none = np.zeros(0, dtype=np.int64)
            return none, none, np.zeros((1, 0), dtype=np.int64)
        key, code = (np.concatenate([part[i] for part in self._parts]) for i in (0, 1))
        values = np.concatenate([part[2] for part in self._parts], axis=1)
        if not key.size:
            return key, code, values
        sort = np.lexsort((code, key))
        key, code, values = key[sort], code[sort], values[:, sort]
        new = np.ones(key.size, dtype=bool)
        new[1:] = (np.diff(key) != 0) | (np.diff(code) != 0)
        starts = np.flatnonzero(new)
        return key[starts], code[starts], np.add.reduceat(values, starts, axis=1)

    def take_below(self, key: int) -> _Triples:
        """The sums of lower keys, which are held no longer."""
        keys, code, values = self.total()
        n = int(np.searchsorted(keys, key))
        self._hold((keys[n:], code[n:], values[:, n:]))
        return keys[:n], code[:n], values[:, :n]

    def _hold(self, triples: _Triples) -> None:
        self._parts, self._held = [triples], triples[0].size


def _cut(triples: _Triples, start: int, stop: int) -> Iterator[Block]:
    """Blocks of whole rows, from `start` to `stop`."""
    row, code, values = triples
    indptr = np.searchsorted(row, np.arange(start, stop + 1)).astype(np.int64)
    first = 0
    while first < stop - start:
        last = int(np.searchsorted(indptr, indptr[first] + BLOCK_VALUES, side="right")) - 1
        last = min(max(last, first + 1), stop - start)
        low, high = indptr[first], indptr[last]
        yield Block(
            axis="obs",
            start=start + first,
            indptr=indptr[first : last + 1] - low,
            indices=code[low:high].astype(np.int32),
            data=values[0, low:high],
        )
        first = last


def _columns(table: Delimited) -> tuple[int, ...]:
    """Where FOV, cell, target, x and y are."""
    names = [plain(name) for name in table.columns]
    at = []
    for wanted, spellings in WANTED.items():
        found = [names.index(name) for name in spellings if name in names]
        if not found:
            raise InputError(
                f"{table.path}: no column {wanted!r}; a CosMx table of transcripts has fov, "
                f"cell_ID, target and positions. It has: {', '.join(table.columns)}"
            )
        at.append(found[0])
    for x, y in POSITIONS:
        if x in names and y in names:
            return *at, names.index(x), names.index(y)
    raise InputError(
        f"{table.path}: no columns x_global_px and y_global_px, nor x_local_px and y_local_px; it "
        f"has: {', '.join(table.columns)}"
    )


def _batches(table: Delimited, at: tuple[int, ...]) -> Iterator[_Batch]:
    first_row = 1
    for batch in _records(table, at):
        fov, number = (
            _whole(batch.column(i), table.columns[at[i]], table.path, first_row) for i in (0, 1)
        )
        encoded = batch.column(2).dictionary_encode()
        names = encoded.dictionary.to_pylist()
        target = encoded.indices.to_numpy(zero_copy_only=False)
        if "" in names:
            row = first_row + int(np.argmax(target == names.index("")))
            raise InputError(f"{table.path}: {table.columns[at[2]]} is empty in data row {row}")
        xy = np.stack([batch.column(i).to_numpy(zero_copy_only=False) for i in (3, 4)])
        first_row += batch.num_rows
        yield _Batch(fov=fov, number=number, target=target, names=names, xy=xy)


def _records(table: Delimited, at: tuple[int, ...]) -> Iterator[pa.RecordBatch]:
    """The wanted columns, numbers but for the third, which is the target."""
    names = [str(i) for i in range(len(table.columns) + table.trailing)]
    wanted = [names[i] for i in at]
    skip = table.body_line - 1
    kinds = [pa.float64(), pa.float64(), pa.string(), pa.float64(), pa.float64()]
    try:
        with (
            table.path.open("rb") as file,
            pa.input_stream(str(table.path), compression=_compression(file.read(2))) as stream,
        ):
            yield from pa.csv.open_csv(
                stream,
                read_options=pa.csv.ReadOptions(
                    use_threads=False, block_size=BATCH_BYTES, column_names=names, skip_rows=skip
                ),
                parse_options=pa.csv.ParseOptions(delimiter=table.delimiter),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict(zip(wanted, kinds, strict=True)),
                    null_values=[],
                    strings_can_be_null=False,
                ),
            )
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{table.path}: {_fault(str(error), table)}") from error


def _compression(magic: bytes) -> str | None:
    return "gzip" if magic == b"\x1f\x8b" else None


def _fault(message: str, table: Delimited) -> str:
    """What pyarrow says, with the column's name."""
    line = message.split("\n", 1)[0][:200]
    found = re.search(r"CSV column #(\d+):(?: Row #(\d+):)?.*invalid value '(.*)'", line)
    if found is None:
        return line
    where = f" in line {found[2]}" if found[2] else ""
    return f"{table.columns[int(found[1])]} is {found[3]!r}{where}; a number was expected"


def _whole(column: pa.Array, name: str, path: Path, first_row: int) -> NDArray[np.int64]:
    values = column.to_numpy(zero_copy_only=False)
    good = (values >= 0) & (values < 2**NUMBER_BITS) & (np.floor(values) == values)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"{path}: {name} is {values[row]:.15g} in data row {first_row + row}; a whole number "
            f"from 0 was expected"
        )
    return np.asarray(values, dtype=np.int64)
