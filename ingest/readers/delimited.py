"""Read delimited text (csv, tsv, txt, gzipped or not): names, texts and numbers of its columns.

What tables and instrument exports have in common: a delimiter to be found, comments before
the header, quoted names, R's headers that are one field short, delimiters at the ends of lines,
and faults that have to be named by row and column. The rows go through ingest/readers/rows.py,
so names and numbers come from one parser, and memory is bounded by a block or the longest line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.readers import fields, textfile
from cellplm.ingest.readers.rows import MISSING, Rows, parsed, rows_of
from cellplm.ingest.source import Axis, Block

DELIMITERS = ",\t; "
SNIFF_LINES = 20
SNIFF_BYTES = 8 * 2**20
# Names of so many columns take half a GB; data of more cells are not in text tables.
MAX_FIELDS = 8 * 10**6

_NUMBER = re.compile(
    r"\s*[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)\s*", re.I | re.A
)
# Of what pyarrow casts. Numbers that begin with 0 and very long ones are names.
_WHOLE = r"^[+-]?(?:0|[1-9][0-9]{0,17})$"
_FLOAT = (
    r"^[+-]?(?:(?:0|[1-9][0-9]{0,14})(?:\.[0-9]*)?|(?:[1-9][0-9]*)?\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
)
_TRUE, _FALSE = ("True", "TRUE", "true"), ("False", "FALSE", "false")
_EXACT_DIGITS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Delimited:
    """A text table whose first line (after comments) names the columns.

    Attributes:
        path: the file.
        delimiter: one character. Several spaces count as one.
        columns: a name a field, "" for an unnamed one (the row names of a short header).
        head: the fields of the first rows.
        header: the fields of the first line, as they are.
        trailing: whether every row ends in a delimiter.
        header_at: byte where the header begins.
        body_at: byte where the rows begin.
        body_line: the line where they begin, from 1.
    """

    path: Path
    delimiter: str
    columns: tuple[str, ...]
    head: tuple[tuple[str, ...], ...]
    header: tuple[str, ...]
    trailing: bool
    header_at: int
    body_at: int
    body_line: int

    @classmethod
    def sniff(cls, path: Path, *, min_fields: int = 2, delimiters: str = DELIMITERS) -> Delimited:
        """Find the delimiter and the header from the first lines.

        Args:
            path: the file.
            min_fields: with 1, a list with one field a line is a table too.
            delimiters: of these, the one that divides the lines most.

        Raises:
            InputError: the file is empty, not text, or no table.
        """
        lines = textfile.first_lines(path, SNIFF_LINES, SNIFF_BYTES)
        n_before = next((i for i, line in enumerate(lines) if not _is_passed(line)), len(lines))
        written = [line for line in lines[n_before:] if line.strip()]
        if not written:
            raise InputError(f"{path}: empty file; a table with a header line was expected")
        if len(written) == 1:
            raise InputError(f"{path}: a single line; a header and at least one row were expected")
        if any(max(map(line.count, DELIMITERS)) > MAX_FIELDS for line in written):
            raise InputError(f"{path}: a line of more than {MAX_FIELDS:,} fields; is it a table?")
        rows, delimiter = _split(written, delimiters)
        if not delimiter and min_fields == 1:
            rows, delimiter = list(rows_of(written, "\t")), "\t"
        if not delimiter:
            raise InputError(f"{path}: no table: lines do not divide at comma, tab, ; or space")
        if commented := _commented_header(lines[:n_before], rows, delimiter):
            n_before, rows = n_before - 1, [commented, *rows]
        header, body, trailing = _without_trailing(rows[0], rows[1:])
        width = len(body[0])
        names = ["", *header] if len(header) == width - 1 else header
        if len(names) != width:
            raise InputError(
                f"{path}: the header has {len(header)} fields, the first row {width}; equal "
                f"numbers were expected, or a header that is one short"
            )
        n_header = _lines_of_first_row(lines[n_before:], delimiter)
        header_at = _n_bytes(lines[:n_before])
        return cls(
            path=path,
            delimiter=delimiter,
            columns=tuple(name.strip() for name in names),
            head=tuple(tuple(row) for row in body if len(row) == width),
            header=tuple(header),
            trailing=trailing,
            header_at=header_at,
            body_at=header_at + _n_bytes(lines[n_before : n_before + n_header]),
            body_line=n_before + n_header + 1,
        )

    @property
    def label_at(self) -> int | None:
        """Where the row names are, if the first column has no name of its own."""
        return 0 if self.columns[0] == "" else None

    def without_header(self) -> Delimited:
        """The same table, if its first line is a row; the columns are "0", "1", and so on."""
        return replace(
            self,
            columns=tuple(str(i) for i in range(len(self.columns))),
            head=(self.header, *self.head),
            body_at=self.header_at,
            body_line=self.body_line - 1,
        )

    def read_columns(self, at: Sequence[int]) -> list[list[str]]:
        """Some columns as strings, whole; this reads the file from end to end.

        Raises:
            InputError: a row is too short or long, or the file is damaged or not UTF-8.
        """
        wanted = sorted(set(at))
        out: dict[int, list[str]] = {i: [] for i in wanted}
        for rows in self._rows(texts=wanted):
            texts = rows.texts()
            for k, i in enumerate(wanted):
                out[i] += texts[k :: len(wanted)]
        return [out[i] for i in at]

    def blocks(self, at: Sequence[int], *, axis: Axis) -> Iterator[Block]:
        """Some columns as numbers, without the zeros, some MiB of text at a time.

        Args:
            at: ascending.
            axis: what the rows of the file run along.

        Raises:
            InputError: a field is no number (its row and column are named), a row is too
                short or long, or the file is damaged.
        """
        start = 0
        for rows in self._rows(numbers=at):
            indptr, indices = rows.layout()
            data = _numbers(rows, indices, at)
            yield Block(axis=axis, start=start, indptr=indptr, indices=indices, data=data)
            start += rows.n

    def matrices(self, at: Sequence[int]) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Some columns as numbers: (first row, (rows, len(at)) float64) a block.

        Raises:
            InputError: see `blocks`, which takes less time and memory.
        """
        start = 0
        for _, values in self.records((), at):
            yield start, values
            start += len(values)

    def records(
        self, texts: Sequence[int], numbers: Sequence[int]
    ) -> Iterator[tuple[list[list[str]], NDArray[np.float64]]]:
        """Some columns as strings and others as numbers, some MiB of text at a time.

        Args:
            texts: columns, ascending.
            numbers: columns, ascending.

        Returns:
            Each of the columns of texts, and (rows, len(numbers)) numbers.

        Raises:
            InputError: see `blocks`.
        """
        for rows in self._rows(texts=texts, numbers=numbers):
            strings = rows.texts()
            indptr, indices = rows.layout()
            values = np.zeros((rows.n, len(numbers)), dtype=np.float64)
            row = np.repeat(np.arange(rows.n), np.diff(indptr))
            values[row, indices] = _numbers(rows, indices, numbers)
            yield [strings[k :: len(texts)] for k in range(len(texts))], values

    def _rows(self, *, texts: Sequence[int] = (), numbers: Sequence[int] = ()) -> Iterator[Rows]:
        roles = np.full(len(self.columns) + self.trailing, fields.SKIP, dtype=np.uint8)
        roles[list(texts)] = fields.TEXT
        roles[list(numbers)] = fields.NUMBER
        if self.trailing:
            roles[-1] = fields.EMPTY
        return parsed(self, roles)


def read_small(path: Path) -> pd.DataFrame:
    """A table of mixed columns in memory; an unnamed first column becomes the index.

    Raises:
        InputError: the file is no table.
    """
    table = Delimited.sniff(path)
    texts = table.read_columns(range(len(table.columns)))
    first = 0 if table.label_at is None else 1
    frame = pd.DataFrame(dict(enumerate(map(typed, texts[first:]))))
    frame.columns = pd.Index(table.columns[first:], dtype=object)
    return frame.set_axis(pd.Index(texts[0], dtype=object), axis=0) if first else frame


def typed(texts: Sequence[str]) -> pd.Series[float]:
    """Texts as whole numbers, floats, booleans or (all else) texts; missing ones are NaN.

    Numbers that begin with a zero or have more digits than a float holds are names and stay
    as they are.
    """
    plain = pc.utf8_trim_whitespace(pa.array(texts, type=pa.string()))
    missing = pc.is_in(plain, value_set=pa.array(MISSING))
    told = pc.replace_substring_regex(plain.filter(pc.invert(missing)), r"^\+", "")
    absent = missing.to_numpy(zero_copy_only=False)
    longest = pc.max(pc.utf8_length(told)).as_py() or 0
    if _all_match(told, _WHOLE) and (not absent.any() or longest <= _EXACT_DIGITS):
        kind = pa.int64()
    elif _all_match(told, _FLOAT):
        kind = pa.float64()
    elif not absent.any() and pc.all(pc.is_in(told, value_set=pa.array(_TRUE + _FALSE))).as_py():
        return pd.Series(pc.is_in(told, value_set=pa.array(_TRUE)).to_numpy(zero_copy_only=False))
    else:
        values = np.array(texts, dtype=object)
        values[absent] = np.nan
        return pd.Series(values, dtype=object)
    numbers = told.cast(kind).to_numpy()
    if not absent.any():
        return pd.Series(numbers)
    spread = np.full(absent.size, np.nan)
    spread[~absent] = numbers
    return pd.Series(spread)


def is_number(field: str) -> bool:
    """Whether a field is a number (nan and inf are; 1_000, which Python takes, is none)."""
    return (field.isascii() and field.isdigit()) or _NUMBER.fullmatch(field) is not None


def _numbers(rows: Rows, indices: NDArray[np.int32], at: Sequence[int]) -> NDArray[np.float64]:
    """The numbers of some rows other than 0, those that the parser left to `float` included."""
    values = rows.numbers()
    for i, text in rows.left_over():
        if not is_number(text):
            raise InputError(rows.no_number(i, at[indices[i]], text))
        values[i] = float(text)
    return values


def _is_passed(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def _n_bytes(lines: Sequence[str]) -> int:
    return sum(len(line.encode()) for line in lines)


def _all_match(texts: pa.StringArray, pattern: str) -> bool:
    return len(texts) == 0 or bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _split(lines: list[str], delimiters: str) -> tuple[list[list[str]], str]:
    """The rows at the delimiter under which they are equally and most divided; "" for none."""
    best: tuple[list[list[str]], str] = ([], "")
    best_fit = (False, 1)
    for delimiter in delimiters:
        if delimiter not in lines[1]:
            continue
        try:
            rows = list(rows_of(lines, delimiter))
        except csv.Error:  # a field of more than 128 KiB: another delimiter divides it
            continue
        if len(rows) < 2:
            continue
        header, body, _ = _without_trailing(rows[0], rows[1:])
        width = len(body[0])
        # One ragged row may be the fault that reading has to name; most rows have to agree.
        agree = 2 * sum(len(row) == width for row in body) >= len(body)
        fit = (len(header) in (width - 1, width), width)
        if width > 1 and agree and fit > best_fit:
            best, best_fit = (rows, delimiter), fit
    return best


def _commented_header(
    before: Sequence[str], rows: list[list[str]], delimiter: str
) -> list[str] | None:
    """The header, if it stands behind the mark of a comment: "#gene,cell1,cell2"."""
    if not before or not before[-1].startswith("#"):
        return None
    names = next(rows_of([before[-1].removeprefix("#")], delimiter), [])
    first_is_row = len(rows[0]) > 1 and all(map(is_number, rows[0][1:]))
    return names if first_is_row and len(names) == len(rows[0]) else None


def _without_trailing(
    header: list[str], body: list[list[str]]
) -> tuple[list[str], list[list[str]], bool]:
    """The rows without the empty field after a delimiter at their end, and whether they had one."""
    width = len(body[0])
    if width > 2 and all(row[-1].strip() == "" for row in body if len(row) == width):
        short = [row[:-1] if len(row) == width else row for row in body]
        if len(header) == width and header[-1].strip() == "":
            return header[:-1], short, True
        if len(header) == width - 1 and header[-1].strip() == "":  # R's, with delimiters behind
            return header[:-1], short, True
        if len(header) in (width - 1, width - 2):
            return header, short, True
    if len(header) == width + 1 and header[-1].strip() == "":
        return header[:-1], body, False
    return header, body, False


def _lines_of_first_row(lines: Sequence[str], delimiter: str) -> int:
    """How many lines the first row takes, with empty ones before it and those in its quotes."""
    reader = csv.reader(lines, delimiter=delimiter)
    next(row for row in reader if any(map(str.strip, row)))
    return reader.line_num
