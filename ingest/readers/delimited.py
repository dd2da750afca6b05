"""Stream delimited text (csv, tsv, txt, gzipped or not) as numeric blocks.

What tables and instrument exports have in common: a delimiter to be found, quoted names,
R's headers that are one field short, and faults that have to be named by row and column.
pyarrow parses; when it gives up, a slow second reading finds the place.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from cellplm.errors import InputError

DELIMITERS = ",\t; "
SNIFF_LINES = 20
# A file without line ends must not fill the memory: 20 million cells fit in this header.
MAX_LINE = 256 * 2**20
BLOCK_BYTES = 8 * 2**20
# A line of zeros may be followed by one of long floats: "0.0," and "32.0000000000001,".
LINE_GROWTH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Delimited:
    """A text table whose first line names the columns.

    Attributes:
        path: the file.
        delimiter: one character.
        columns: a name a field, "" for an unnamed one (the row names of a short header).
        head: the fields of the first rows.
        longest_line: bytes of the longest line seen so far.
    """

    path: Path
    delimiter: str
    columns: tuple[str, ...]
    head: tuple[tuple[str, ...], ...]
    longest_line: int

    @classmethod
    def sniff(cls, path: Path) -> Delimited:
        """Find the delimiter and the header from the first lines.

        Raises:
            InputError: the file is empty, not text, or no table.
        """
        with _text(path) as file:
            first = iter(lambda: file.readline(MAX_LINE), "")
            lines = [line for line in islice(first, SNIFF_LINES) if line.strip()]
        if any(len(line) == MAX_LINE for line in lines):
            raise InputError(f"{path}: a line of more than {MAX_LINE >> 20} MiB; is it a table?")
        if not lines:
            raise InputError(f"{path}: empty file; a table with a header line was expected")
        if len(lines) == 1:
            raise InputError(f"{path}: a single line; a header and at least one row were expected")
        rows, delimiter = _split(lines)
        if not delimiter:
            raise InputError(f"{path}: no table: lines do not divide at comma, tab, ; or space")
        header, body = rows[0], rows[1:]
        width = len(body[0])
        if len(header) == width - 1:
            header = ["", *header]
        if len(header) != width:
            raise InputError(
                f"{path}: the header has {len(header)} fields, the first row {width}; equal "
                f"numbers were expected, or a header that is one short"
            )
        return cls(
            path=path,
            delimiter=delimiter,
            columns=tuple(name.strip() for name in header),
            head=tuple(tuple(row) for row in body if len(row) == width),
            longest_line=max(len(line.encode()) for line in lines),
        )

    @property
    def label_at(self) -> int | None:
        """Where the row names are, if the first column has no name of its own."""
        return 0 if self.columns[0] == "" else None

    def read_columns(self, at: Sequence[int]) -> list[list[str]]:
        """Some columns as strings, whole; this reads the file from end to end.

        Raises:
            InputError: a row is too short or long, or the file is cut.
        """
        out: list[list[str]] = [[] for _ in at]
        for batch in self._batches(at, pa.string()):
            for i, column in enumerate(batch.columns):
                out[i] += column.to_pylist()
        return out

    def matrices(self, at: Sequence[int]) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Some columns as numbers: (first row, (rows, len(at)) float64) a block.

        Raises:
            InputError: a field is no number (its row and column are named), a row is too
                short or long, or the file is cut.
        """
        start = 0
        for batch in self._batches(at, pa.float64()):
            values = np.empty((batch.num_rows, len(at)), dtype=np.float64)
            for i, column in enumerate(batch.columns):
                values[:, i] = column.to_numpy(zero_copy_only=False)
            yield start, values
            start += len(values)

    def _batches(self, at: Sequence[int], kind: pa.DataType) -> Iterator[pa.RecordBatch]:
        names = [str(i) for i in range(len(self.columns))]
        wanted = [names[i] for i in at]
        block = max(BLOCK_BYTES, LINE_GROWTH * self.longest_line)
        try:
            with pa.input_stream(str(self.path), compression=_compression(self.path)) as stream:
                yield from pa.csv.open_csv(
                    stream,
                    read_options=pa.csv.ReadOptions(
                        use_threads=False, block_size=block, column_names=names, skip_rows=1
                    ),
                    parse_options=pa.csv.ParseOptions(delimiter=self.delimiter),
                    convert_options=pa.csv.ConvertOptions(
                        include_columns=wanted,
                        column_types=dict.fromkeys(wanted, kind),
                        null_values=[],
                        strings_can_be_null=False,
                    ),
                )
        except (pa.ArrowException, OSError) as error:
            reason = str(error).split("\n", 1)[0]
            raise InputError(self._fault(at, kind) or f"{self.path}: {reason}") from error

    def _fault(self, at: Sequence[int], kind: pa.DataType) -> str | None:
        """The first row of a wrong length or field that is no number, in one sentence."""
        try:
            with _text(self.path) as file:
                rows = csv.reader(file, delimiter=self.delimiter)
                next(rows)
                for row in rows:
                    if not row:
                        continue
                    if len(row) != len(self.columns):
                        return (
                            f"{self.path}: line {rows.line_num} (row {row[0]!r}) has {len(row)} "
                            f"fields, {len(self.columns)} were expected"
                        )
                    for i in at if kind == pa.float64() else ():
                        if not is_number(row[i]):
                            return (
                                f"{self.path}: row {row[0]!r} (line {rows.line_num}), column "
                                f"{self.columns[i]!r}: {row[i]!r} is not a number"
                            )
        except InputError as error:
            return str(error)
        return None


def read_small(path: Path) -> pd.DataFrame:
    """A table of mixed columns in memory; unnamed or surplus first fields become the index.

    Raises:
        InputError: the file is no table.
    """
    table = Delimited.sniff(path)
    try:
        frame = pd.read_csv(
            path,
            sep=table.delimiter,
            header=None,
            skiprows=1,
            names=list(range(len(table.columns))),
            index_col=False,
            compression=_compression(path),
            encoding="utf-8-sig",
            low_memory=False,
        )
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise InputError(table._fault([], pa.string()) or f"{path}: {error}") from error
    frame.columns = pd.Index(table.columns, dtype=object)
    if table.label_at is not None:
        labels = frame.iloc[:, 0].astype(str)
        frame = frame.iloc[:, 1:].set_axis(pd.Index(labels, dtype=object, name=None), axis=0)
    return frame


def is_number(field: str) -> bool:
    """Whether a field is a number (nan and inf are)."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def _compression(path: Path) -> Literal["gzip"] | None:
    with path.open("rb") as file:
        return "gzip" if file.read(2) == b"\x1f\x8b" else None


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Lines of a text file, plain or gzipped; its faults become an InputError."""
    try:
        raw = gzip.open(path, "rb") if _compression(path) else path.open("rb")
        with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text (byte 0x{error.object[error.start]:02x}); save it as UTF-8"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip stream is damaged or cut short ({error})") from error
    except csv.Error as error:
        raise InputError(f"{path}: no table ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _split(lines: list[str]) -> tuple[list[list[str]], str]:
    """The rows at the delimiter under which they are equally and most divided; "" for none."""
    best: tuple[list[list[str]], str] = ([], "")
    best_fit = (False, 1)
    for delimiter in DELIMITERS:
        try:
            rows = list(csv.reader(lines, delimiter=delimiter))
        except csv.Error:  # a field of more than 128 KiB: another delimiter divides it
            continue
        if len(rows) < 2:
            continue
        width = len(rows[1])
        # One ragged row may be the fault that reading has to name; most rows have to agree.
        agree = 2 * sum(len(row) == width for row in rows[1:]) >= len(rows) - 1
        fit = (len(rows[0]) in (width, width - 1), width)
        if width > 1 and agree and fit > best_fit:
            best, best_fit = (rows, delimiter), fit
    return best
