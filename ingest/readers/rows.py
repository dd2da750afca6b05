"""The rows of a delimited file, a block at a time, and what is wrong with one of them.

Bytes are read into one buffer that is used again and again; what the parser leaves (a row that
is cut at its end) goes to the front of it. A row longer than the buffer makes it grow.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.readers import fields, textfile

if TYPE_CHECKING:
    from cellplm.ingest.readers.delimited import Delimited

BUFFER_BYTES = 8 * 2**20

MISSING = ("", "NA", "N/A", "#N/A", "n/a", "na", "NaN", "nan", "NAN", "NULL", "null", "None")

_SPACES = re.compile(r'("(?:[^"]|"")*")| +')
_LINE_END = re.compile(rb"\r\n?|\n")
_COMMA = re.compile(r"[+-]?\d*(,\d+)+(\.\d+)?", re.A)


def parsed(table: Delimited, roles: NDArray[np.uint8]) -> Iterator[Rows]:
    """All rows of a table, some at a time.

    Args:
        table: what is read.
        roles: of its fields, see `fields.parse`.

    Raises:
        InputError: a row is too short or long, or the file is damaged.
    """
    room = BUFFER_BYTES
    rows = Rows(table, roles, room)
    line, held, final = table.body_line, b"", False
    with textfile.opened(table.path) as file:
        file.seek(file.tell() + table.body_at)
        while not final:
            final = rows.fill(file, line, held)
            fault = rows.parse(final=final)
            if rows.n:
                yield rows
            if fault:
                raise InputError(fault)
            line, held = rows.next_line, rows.held
            if len(held) >= room:
                if room > textfile.MAX_LINE:
                    raise InputError(
                        f"{table.path}: line {line} has more than {textfile.MAX_LINE >> 20} MiB; a "
                        f"quote that does not close may be the reason"
                    )
                room *= 2
                rows = Rows(table, roles, room)


def rows_of(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The fields of lines that are not empty, as `fields.parse` divides them too.

    Raises:
        csv.Error: a field has more than 128 KiB.
    """
    if delimiter == " ":
        lines = (_SPACES.sub(lambda m: m[1] or " ", line.strip(" ")) for line in lines)
        lines = (re.sub(r" (?=[\r\n]*$)", "", line) for line in lines)
    return (row for row in csv.reader(lines, delimiter=delimiter) if any(map(str.strip, row)))


def hint(field: str) -> str:
    """What to do about a field that should be a number, as the end of a sentence."""
    plain = field.strip()
    if plain in MISSING:
        return "; every count has to be there: write zeros as 0, leave out what was not measured"
    if _COMMA.fullmatch(plain):
        return "; write numbers with a decimal point, and thousands without a comma"
    return ""


class Rows:
    """Some whole rows of a table, parsed. Valid until the next ones are asked for.

    Attributes:
        n: rows.
    """

    def __init__(self, table: Delimited, roles: NDArray[np.uint8], room: int) -> None:
        """Make a buffer.

        Args:
            table: where the rows come from.
            roles: of its fields, see `fields.parse`.
            room: bytes.
        """
        self.n = 0
        self._table = table
        self._roles = roles
        self._room = room
        self._bytes = bytearray(room + 1 + len(fields.SENTINEL))
        self._data = np.frombuffer(self._bytes, dtype=np.uint8)
        self._size = self._used = 0
        self._line, self._n_lines = table.body_line, 0
        self._n_values = self._n_late = 0
        # Memory that is never written costs nothing; these are as large as the worst case.
        n_texts = room + 2 if (roles == fields.TEXT).any() else 1
        n_numbers = room // 2 + 2 if (roles == fields.NUMBER).any() else 1
        self._columns = np.empty(n_numbers, dtype=np.int32)
        self._values = np.empty(n_numbers, dtype=np.float64)
        self._late = np.empty((n_numbers, 3), dtype=np.int32)
        self._texts = np.empty((n_texts, 2), dtype=np.int32)
        self._ends = np.empty(room // 2 + 2, dtype=np.int32)
        self._starts = np.empty(room // 2 + 2, dtype=np.int32)

    def fill(self, file: gzip.GzipFile | io.BufferedReader, line: int, held: bytes) -> bool:
        """Read on, behind what is held; whether the file ends here."""
        self._line = line
        size = len(held)
        self._bytes[:size] = held
        view = memoryview(self._bytes)
        while size < self._room and (n := file.readinto(view[size : self._room])):
            size += n
        final = size < self._room
        if final and size and self._bytes[size - 1] not in b"\r\n":
            self._bytes[size] = 10
            size += 1
        self._bytes[size : size + len(fields.SENTINEL)] = fields.SENTINEL
        self._size = size
        return final

    def parse(self, *, final: bool) -> str | None:
        """Parse what is there; what is wrong with the row behind `n`, in one sentence."""
        self.n, self._used, self._n_lines, self._n_values, self._n_late, fault, field = (
            fields.parse(
                self._data, self._size, final, ord(self._table.delimiter), self._roles,
                self._columns, self._values, self._ends, self._starts, self._texts, self._late,
            )
        )  # fmt: skip
        if fault:
            return self._told(fault, field)
        if final and self._used < self._size:
            return f"{self._where(self._used)}: a quote opens and does not close"
        return None

    @property
    def held(self) -> bytes:
        """What was not used."""
        return bytes(self._bytes[self._used : self._size])

    @property
    def next_line(self) -> int:
        """The line behind the used ones."""
        return self._line + self._n_lines

    def texts(self) -> list[str]:
        """The texts, row by row.

        Raises:
            InputError: one is not UTF-8.
        """
        n_texts = self.n * int(np.count_nonzero(self._roles == fields.TEXT))
        spans = self._texts[:n_texts]
        buffer = self._bytes
        out: list[str] = []
        try:
            # Two flat lists: a million small ones would keep the garbage collector busy.
            for start, stop in zip(spans[:, 0].tolist(), spans[:, 1].tolist(), strict=True):
                if stop >= 0:
                    out.append(buffer[start:stop].decode())
                else:
                    out.append(buffer[start:~stop].decode().replace('""', '"'))
        except UnicodeDecodeError as error:
            line = self._line_of(int(spans[len(out), 0]))
            byte = error.object[error.start]
            raise InputError(textfile.not_utf8(self._table.path, byte, line)) from error
        return out

    def numbers(self) -> NDArray[np.float64]:
        """The values other than 0, row by row; NaN for those of `left_over`."""
        return self._values[: self._n_values].copy()

    def layout(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(n + 1,) where the values of each row begin, and which number of its row each is."""
        indptr = np.zeros(self.n + 1, dtype=np.int64)
        indptr[1:] = self._ends[: self.n]
        return indptr, self._columns[: self._n_values].copy()

    def left_over(self) -> Iterator[tuple[int, str]]:
        """Which values have to be parsed from a text, and the text."""
        for i, start, stop in self._late[: self._n_late].tolist():
            text = self._bytes[start:stop].decode(errors="replace").strip()
            yield i, text[1:-1] if text[:1] == '"' == text[-1:] else text

    def no_number(self, value: int, column: int, text: str) -> str:
        """The sentence about a field that should be a number.

        Args:
            value: which of the values.
            column: of the table.
            text: the field.
        """
        row = int(np.searchsorted(self._ends[: self.n], value, side="right"))
        return self._no_number(int(self._starts[row]), column, text)

    def _told(self, fault: int, field: int) -> str:
        columns = self._table.columns
        if fault == fields.FAULT_EMPTY:
            return self._no_number(self._used, field, "")
        if fault == fields.FAULT_QUOTE:
            name = columns[min(field, len(columns) - 1)]
            return f"{self._where(self._used)}, column {name!r}: text after a closing quote"
        row = self._row(self._used)
        n_fields = len(row) - (self._table.trailing and row[-1] == "")
        return f"{self._where(self._used)} has {n_fields} fields, {len(columns)} were expected"

    def _no_number(self, start: int, column: int, text: str) -> str:
        return (
            f"{self._table.path}: row {self._row(start)[0]!r} (line {self._line_of(start)}), "
            f"column {self._table.columns[column]!r}: {text!r} is not a number{hint(text)}"
        )

    def _where(self, start: int) -> str:
        row = self._row(start)
        return f"{self._table.path}: line {self._line_of(start)} (row {row[0]!r})"

    def _line_of(self, start: int) -> int:
        return self._line + len(_LINE_END.findall(self._bytes, 0, start))

    def _row(self, start: int) -> list[str]:
        text = self._bytes[start : self._size].decode(errors="replace")
        lines = io.StringIO(text, newline="")
        try:
            return next(rows_of(lines, self._table.delimiter), [""])
        except csv.Error:
            return [text[:40]]
