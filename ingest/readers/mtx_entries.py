"""Read the header of a MatrixMarket file, and its entries one stretch after the other.

Compressed or not is told by content. The entries are counted: a file that ends before or goes
on after what its header says is refused, and so is a line that is no entry, with its number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.fetch.inflate import CHUNK, Inflated
from cellplm.ingest.readers import mtx_text
from cellplm.ingest.source import Axis

BANNER = "%%MatrixMarket"
KIND = (("matrix",), ("coordinate",), ("integer", "real"), ("general",))
MAX_HEADER = 2**20
MAX_LINE = 2**16
INDEX_MAX = 2**31 - 1
# Deflate makes at most 1,032 bytes of one.
MAX_RATIO = 1032
INEXACT_AT_ONCE = 2**14

Field = Literal["integer", "real"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The first lines of a MatrixMarket file.

    Attributes:
        path: the file.
        field: what its values are.
        n_rows: first number of the size line.
        n_columns: second number.
        nnz: third number, the entries.
        n_bytes: of the header, uncompressed.
    """

    path: Path
    field: Field
    n_rows: int
    n_columns: int
    nnz: int
    n_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Entries:
    """Entries as they stand in the file, k of them.

    Attributes:
        rows: (k,) int32 from 0.
        columns: (k,) int32 from 0.
        values: (k,) int64 or float64.
    """

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    values: NDArray[Any]

    @property
    def n(self) -> int:
        """How many."""
        return self.values.size

    def part(self, start: int, stop: int) -> Entries:
        """Views of some of them."""
        rows, columns, values = (each[start:stop] for each in _arrays(self))
        return Entries(rows=rows, columns=columns, values=values)

    def index(self, axis: Axis, rows: Axis) -> NDArray[np.int32]:
        """The index that counts `axis`, where `rows` is what the first one counts."""
        return self.rows if axis == rows else self.columns


def read_header(path: Path) -> Header:
    """Read the banner, pass over comments, read the size.

    Raises:
        InputError: it is no MatrixMarket file of whole or real numbers, in general coordinates,
            or its size is impossible or does not fit into the file.
    """
    with opened(path) as text:
        lines = _lines(text.read_whole(MAX_HEADER))
    banner, n_bytes = next(lines, ("", 0))
    words = banner.lower().split()
    if not words or words[0] != BANNER.lower():
        raise InputError(
            f"{path}: no MatrixMarket file: it starts with {banner[:40]!r}, {BANNER!r} was expected"
        )
    field = _field(words[1:], path)
    for line, end in lines:
        n_bytes = end
        if line.strip() and not line.startswith("%"):
            break
    else:
        raise InputError(f"{path}: cut off: no line with the size of the matrix")
    numbers = [int(w) if w.isascii() and w.isdigit() else -1 for w in line.split()]
    if len(numbers) != 3 or min(numbers) < 0:
        raise InputError(
            f"{path}: the size of the matrix is {line.strip()[:60]!r}; numbers of rows, columns "
            f"and entries were expected"
        )
    n_rows, n_columns, nnz = numbers
    header = Header(
        path=path, field=field, n_rows=n_rows, n_columns=n_columns, nnz=nnz, n_bytes=n_bytes
    )
    _check_size(header)
    return header


@contextmanager
def opened(path: Path) -> Iterator[Inflated]:
    """The contents of a file, uncompressed.

    Raises:
        InputError: it cannot be opened; or, while reading, it is cut or damaged.
    """
    try:
        with path.open("rb") as file:
            yield Inflated(file, str(path), lambda _: None)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


class Parser:
    """Reads on through the entries of a file and counts them."""

    def __init__(self, header: Header, text: Inflated) -> None:
        """Start behind the header; see `of`."""
        self._header = header
        self._text = text
        self._all_read = False
        self._cut = b""
        """The beginning of a line whose end is not read yet."""
        self._lines = np.zeros(0, dtype=np.uint8)
        """Whole lines that are not parsed yet."""
        self._at = header.n_bytes
        """Where they begin."""
        self._n = 0
        text.read_whole(header.n_bytes)

    @classmethod
    @contextmanager
    def of(cls, header: Header) -> Iterator[Parser]:
        """A parser at the first entry of a file."""
        with opened(header.path) as text:
            yield cls(header, text)

    @property
    def at_end(self) -> bool:
        """Whether all that there is was handed out."""
        return self._all_read and not self._lines.size

    def more(self, size: int, before: Entries | None = None) -> Entries:
        """`before` and the entries that follow it, `size` in all or fewer at the end.

        Raises:
            InputError: a line is no entry, an index is out of range, the file is cut or
                damaged, or there are more or fewer entries than its header says.
        """
        header = self._header
        first = before.n if before else 0
        # One more than there should be, to notice it.
        size = min(size, first + header.nnz - self._n + 1)
        out = Entries(
            rows=np.empty(size, dtype=np.int32),
            columns=np.empty(size, dtype=np.int32),
            values=np.empty(size, dtype=np.int64 if header.field == "integer" else np.float64),
        )
        if before:
            for new, old in zip(_arrays(out), _arrays(before), strict=True):
                new[:first] = old
        n = first
        while n < size and self._fill():
            n = self._parse(out, n)
        self._n += n - first
        if self._n > header.nnz:
            raise InputError(
                f"{header.path}: more entries than the {header.nnz} that its header says; it was "
                f"changed, or is two files in one"
            )
        if self.at_end and self._n < header.nnz:
            raise InputError(
                f"{header.path}: cut off: {self._n} entries, but its header says {header.nnz}; "
                f"get it again"
            )
        return out.part(0, n)

    def _fill(self) -> bool:
        """Whether there are lines to parse, once more were read where there were none."""
        while not self._lines.size and not self._all_read:
            new = self._text.read(CHUNK)
            self._all_read = not new
            text = self._cut + (new or b"\n")
            end = text.rfind(b"\n") + 1
            self._cut = text[end:]
            if len(self._cut) > MAX_LINE:
                raise InputError(
                    f"{self._header.path}: a line of more than {MAX_LINE} bytes; row, column and "
                    f"value were expected"
                )
            self._lines = np.frombuffer(text, dtype=np.uint8, count=end)
        return bool(self._lines.size)

    def _parse(self, out: Entries, n: int) -> int:
        """Parse on into `out` from its entry `n`; how many it has then."""
        header, text = self._header, self._lines
        shape = header.n_rows, header.n_columns
        if header.field == "integer":
            at, n, fault = mtx_text.parse_integers(text, 0, *_arrays(out), n, *shape)
        else:
            inexact = np.empty((INEXACT_AT_ONCE, 3), dtype=np.int64)
            at, n, fault, left = mtx_text.parse_reals(text, 0, *_arrays(out), n, *shape, inexact)
            if left:
                values, bad = _floats(*mtx_text.gather(text, inexact[:left]))
                out.values[inexact[:left, 0]] = values
                if bad is not None:
                    before = text[: inexact[bad, 1]].tobytes()
                    at, fault = before.rfind(b"\n") + 1, mtx_text.FAULT_LINE
        self._at += at
        self._lines = text[at:]
        if fault:
            self._refuse(fault)
        return int(n)

    def _refuse(self, fault: int) -> NoReturn:
        header = self._header
        line = self._lines[:MAX_LINE].tobytes().split(b"\n", 1)[0]
        number = _line_number(header.path, self._at)
        shown = line.decode(errors="replace").strip()[:60]
        where = f"{header.path}: line {number} is {shown!r}"
        if fault == mtx_text.FAULT_LINE:
            raise InputError(f"{where}; a row, a column and one {header.field} were expected")
        index, name, bound = 0, "row", header.n_rows
        if fault == mtx_text.FAULT_COLUMN:
            index, name, bound = 1, "column", header.n_columns
        raise InputError(
            f"{where}: its {name} is {int(line.split()[index])}; {name}s count from 1 to {bound}"
        )


def _arrays(entries: Entries) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return entries.rows, entries.columns, entries.values


def _lines(data: bytes) -> Iterator[tuple[str, int]]:
    """Lines, each with the place behind it."""
    at = 0
    while at < len(data):
        end = data.find(b"\n", at) + 1 or len(data)
        yield data[at:end].decode(errors="replace").removeprefix("\ufeff").rstrip("\r\n"), end
        at = end


def _field(words: list[str], path: Path) -> Field:
    told = " ".join(words)[:60]
    for word, known in zip(words, KIND, strict=False):
        if word not in known:
            raise InputError(
                f"{path}: of the kind {told!r}; {word[:20]!r} is not read, only "
                f"{' or '.join(known)} is; write it as 'matrix coordinate integer general'"
            )
    if len(words) != len(KIND):
        raise InputError(f"{path}: of the kind {told!r}; 'matrix coordinate integer general' was "
                         f"expected")  # fmt: skip
    return "integer" if words[2] == "integer" else "real"


def _check_size(header: Header) -> None:
    """Refuse sizes that no file of this length has."""
    path = header.path
    told = f"{path}: declares {header.n_rows} x {header.n_columns} with {header.nnz} entries"
    if max(header.n_rows, header.n_columns) > INDEX_MAX:
        raise InputError(f"{told}; at most {INDEX_MAX} rows and columns are read")
    if header.nnz > header.n_rows * header.n_columns:
        raise InputError(f"{told}, more than it has places")
    with path.open("rb") as file:
        magic = file.read(2)
    n_bytes = path.stat().st_size
    most = n_bytes - header.n_bytes + 1
    if magic == b"\x1f\x8b":
        most = n_bytes * MAX_RATIO
    if header.nnz * mtx_text.SHORTEST_LINE > most and magic in (b"\x1f\x8b", b"%%"):
        raise InputError(f"{told}, but is cut off: so many do not fit into {n_bytes} bytes")


def _floats(
    offsets: NDArray[np.int32], tokens: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], int | None]:
    """What Python's float() reads in each token, and which is the first that is no number."""
    n = offsets.size - 1
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(tokens)]
    try:
        strings = pa.BinaryArray.from_buffers(pa.binary(), n, buffers).cast(pa.string())
        return strings.cast(pa.float64()).to_numpy(), None
    except pa.ArrowInvalid:  # Python knows more spellings, such as a leading plus
        values = np.zeros(n)
        for i, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
            token = tokens[start:stop].tobytes()
            try:
                values[i] = float(token.replace(b"_", b"?"))  # no grouping of digits
            except ValueError:
                return values, i
        return values, None


def _line_number(path: Path, offset: int) -> int:
    """The line that the byte at `offset` of the uncompressed file is in, from 1."""
    number = 1
    with opened(path) as text:
        while offset and (chunk := text.read(min(CHUNK, offset))):
            number += chunk.count(b"\n")
            offset -= len(chunk)
    return number
