"""Stream MatrixMarket files (.mtx, gzipped or not) as blocks of counts, in bounded memory.

Read are coordinate files of integers or reals, general, counted from 1. A file in the order of
one of its indices (10x: by cell; others: by gene) is passed on as it comes, in blocks along
that index. One in no order is sorted by cell through a temporary file, of 16 bytes an entry,
where TMPDIR says; it is parsed twice for that. Which of these a file is, is told by its first
4 Mi entries: an order that breaks only behind them is refused.

Entries that repeat each other end in one block, where whoever checks the counts refuses them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.blocks import BLOCK_VALUES
from cellplm.ingest.readers.mtx_entries import Entries, Header, Parser
from cellplm.ingest.readers.mtx_text import group
from cellplm.ingest.source import Axis, Block


def blocks(header: Header, *, rows: Axis) -> Iterator[Block]:
    """One pass over the entries of a file; a block's arrays are the receiver's own.

    Args:
        header: of it.
        rows: what its first index counts: "var" for genes x cells, as 10x writes them.

    Raises:
        InputError: see `Parser.more`; or the order breaks late, or there is no room to sort.
    """
    with Parser.of(header) as parser:
        head = parser.more(BLOCK_VALUES)
        # The values of one gene over all cells are in both orders: look on until only one is left.
        while len(axes := _orders(head, rows)) > 1 and not parser.at_end:
            _refuse_long(header, head.n, header.n_rows + header.n_columns, "its beginning")
            head = parser.more(2 * head.n, head)
        if axes:
            yield from _in_order(header, parser, head, axes[0], rows)
            return
        all_read = parser.at_end
    if all_read:
        yield _sorted(head.index("obs", rows), head.index("var", rows), head.values,
                      start=0, stop=_n(header, "obs", rows))  # fmt: skip
    else:
        del head
        yield from _unordered(header, rows)


def _n(header: Header, axis: Axis, rows: Axis) -> int:
    return header.n_rows if axis == rows else header.n_columns


def _orders(head: Entries, rows: Axis) -> list[Axis]:
    """The axes in whose order the entries are, cells before features."""
    axes: tuple[Axis, Axis] = ("obs", "var")
    indices = {axis: head.index(axis, rows) for axis in axes}
    return [axis for axis in axes if np.all(indices[axis][1:] >= indices[axis][:-1])]


def _refuse_long(header: Header, n: int, n_places: int, where: str) -> None:
    """Entries that must end before long are repeated, and would fill the memory, if they do not."""
    if n > n_places:
        raise InputError(
            f"{header.path}: {where} has at least {n} entries, but at most {n_places} are "
            f"possible; sum or drop the repeated ones"
        )


def _in_order(
    header: Header, parser: Parser, entries: Entries, axis: Axis, rows: Axis
) -> Iterator[Block]:
    """Pass on entries in the order of `axis`, cut between segments."""
    other: Axis = "var" if axis == "obs" else "obs"
    n_major, n_minor = _n(header, axis, rows), _n(header, other, rows)
    word = "cell" if axis == "obs" else "feature"
    start, n_before = 0, 0
    while True:
        major = entries.index(axis, rows)
        falls = np.flatnonzero(major[1:] < major[:-1])
        if falls.size:
            at = int(falls[0])
            raise InputError(
                f"{header.path}: in the order of its {word}s up to entry {n_before + at + 1} "
                f"({word} {major[at] + 1}), but {word} {major[at + 1] + 1} follows; write it "
                f"again in one order"
            )
        end = parser.at_end
        cut = entries.n if end else int(np.searchsorted(major, major[-1]))
        stop = n_major if end else int(major[-1])
        if stop > start or end:
            indptr = _indptr(major[:cut], start, stop)
            minor, values = entries.index(other, rows)[:cut], entries.values[:cut]
            yield Block(axis=axis, start=start, indptr=indptr, indices=minor, data=values)
            start = stop
        if end:
            return
        rest = entries.part(cut, entries.n)
        _refuse_long(header, rest.n, n_minor, f"{word} {start + 1}")
        n_before += cut
        entries = parser.more(max(BLOCK_VALUES, 2 * rest.n), rest)


def _unordered(header: Header, rows: Axis) -> Iterator[Block]:
    """Sort by cell: count, deal to one stretch of a file for each block, read them back."""
    n_cells = _n(header, "obs", rows)
    ends = np.zeros(n_cells + 1, dtype=np.int64)
    for entries in _passed(header):
        ends[1:] += np.bincount(entries.index("obs", rows), minlength=n_cells)
    largest = int(ends.argmax())
    n_features = _n(header, "var", rows)
    _refuse_long(header, int(ends[largest]), n_features, f"cell {largest}")
    np.cumsum(ends, out=ends)
    starts = _stretches(ends)
    value = "<i8" if header.field == "integer" else "<f8"
    record = np.dtype([("cell", "<i4"), ("feature", "<i4"), ("value", value)])
    _check_room(header, record)
    with tempfile.TemporaryFile() as file:
        at = ends[starts]
        for entries in _passed(header):
            try:
                _deal(file, _records(entries, rows, record), starts, at)
            except OSError as error:
                raise InputError(
                    f"{header.path}: its entries are in no order, and there is no room to sort "
                    f"them in {tempfile.gettempdir()} ({error.strerror}); let TMPDIR name a "
                    f"larger disk"
                ) from error
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), n_cells], strict=True):
            file.seek(int(ends[start]) * record.itemsize)
            n_bytes = int(ends[stop] - ends[start]) * record.itemsize
            part = np.frombuffer(file.read(n_bytes), dtype=record)
            yield _sorted(part["cell"], part["feature"], part["value"], start=start, stop=stop)


def _passed(header: Header) -> Iterator[Entries]:
    with Parser.of(header) as parser:
        while not parser.at_end:
            yield parser.more(BLOCK_VALUES)


def _stretches(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """First cell of each block: as many cells as have `BLOCK_VALUES` entries, or one."""
    starts, stop, n_cells = [], 0, ends.size - 1
    while stop < n_cells:
        starts.append(stop)
        full = int(np.searchsorted(ends, ends[stop] + BLOCK_VALUES, side="right")) - 1
        stop = max(full, stop + 1)
    return np.array(starts, dtype=np.int64)


def _check_room(header: Header, record: np.dtype[Any]) -> None:
    folder = tempfile.gettempdir()
    needed = header.nnz * record.itemsize
    if needed > shutil.disk_usage(folder).free:
        raise InputError(
            f"{header.path}: its entries are in no order, and sorting them takes "
            f"{needed / 1e9:.1f} GB in {folder}, which has less; let TMPDIR name a larger disk"
        )


def _records(entries: Entries, rows: Axis, record: np.dtype[Any]) -> NDArray[Any]:
    records = np.empty(entries.n, dtype=record)
    records["cell"], records["feature"] = entries.index("obs", rows), entries.index("var", rows)
    records["value"] = entries.values
    return records


def _deal(
    file: BinaryIO, records: NDArray[Any], starts: NDArray[np.int64], at: NDArray[np.int64]
) -> None:
    """Append entries to the stretch of their cell; `at` is where each goes on, advanced."""
    stretch = (np.searchsorted(starts, records["cell"], side="right") - 1).astype(np.int32)
    indptr = _indptr(stretch, 0, starts.size)
    dealt = records[group(stretch, indptr[:-1].copy())]
    for number in np.flatnonzero(np.diff(indptr)).tolist():
        file.seek(int(at[number]) * records.itemsize)
        file.write(dealt[indptr[number] : indptr[number + 1]].tobytes())
    at += np.diff(indptr)


def _sorted(
    cells: NDArray[np.int32],
    features: NDArray[np.int32],
    values: NDArray[Any],
    *,
    start: int,
    stop: int,
) -> Block:
    """All entries of some cells, in any order, as a block."""
    indptr = _indptr(cells, start, stop)
    order = group(np.asarray(cells - np.int32(start)), indptr[:-1].copy())
    return Block(
        axis="obs", start=start, indptr=indptr, indices=features[order], data=values[order]
    )


def _indptr(index: NDArray[np.int32], start: int, stop: int) -> NDArray[np.int64]:
    """Where each of `start`...`stop` begins among entries that are grouped by it."""
    indptr = np.zeros(stop - start + 1, dtype=np.int64)
    np.cumsum(np.bincount(index - start, minlength=stop - start), out=indptr[1:])
    return indptr
