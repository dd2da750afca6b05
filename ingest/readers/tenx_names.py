"""Read the files that name the rows and the columns of a 10x MatrixMarket file.

A line a name, in the order of the matrix; R users' files have quotes, and a header line that
nothing but the size of the matrix tells from a name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cellplm.errors import InputError
from cellplm.ingest.fetch.inflate import CHUNK
from cellplm.ingest.readers.mtx_entries import Header, opened

HEADERS = {
    "", "x", "v1", "barcode", "barcodes", "cell", "cells", "cell_id", "cell_barcode", "gene",
    "genes", "gene_id", "gene_ids", "gene_name", "gene_symbol", "symbol", "feature", "features",
    "feature_id", "feature_name", "id", "name", "index",
}  # fmt: skip
MAX_NAMES_BYTES = 2**31
EMPTY_LINES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The lines of a file with names.

    Attributes:
        path: the file.
        lines: without empty ones at the end.
        delimiter: of the fields of a line.
        plain: whether a line is a name and nothing else.
    """

    path: Path
    lines: list[str]
    delimiter: str
    plain: bool

    def readings(self) -> list[Names]:
        """These names, and those without the first where it may be a header."""
        if self.lines and self.fields(self.lines[0], 1)[0].lower() in HEADERS:
            return [self, replace(self, lines=self.lines[1:])]
        return [self]

    def fields(self, line: str, at_most: int) -> list[str]:
        """The first fields of a line, without the quotes that R writes."""
        return [field.strip(' "') for field in line.split(self.delimiter, at_most)[:at_most]]

    def first(self) -> list[str]:
        """The first field of each line."""
        return self.lines if self.plain else [self.fields(line, 1)[0] for line in self.lines]


def read_names(path: Path, header: Header) -> Names:
    """Read the names in a file.

    Args:
        path: text, compressed or not; a .csv divides at commas, others at tabs.
        header: of the matrix, for how many there may be.

    Raises:
        InputError: it cannot be read, is no text, has an empty line, or far too many.
    """
    most = max(header.n_rows, header.n_columns) + 1
    data, n_lines = bytearray(), 0
    with opened(path) as text:
        while chunk := text.read(CHUNK):
            data += chunk
            n_lines += chunk.count(b"\n")
            if len(data) > MAX_NAMES_BYTES or n_lines > most + EMPTY_LINES:
                raise InputError(
                    f"{path}: more names than {header.path.name} has rows or columns "
                    f"({header.n_rows} x {header.n_columns}); they have to be of one run"
                )
    try:
        whole = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8"
        ) from error
    lines = whole.replace("\r\n", "\n").rstrip("\r\n").split("\n")
    if "" in lines and lines != [""]:
        raise InputError(f"{path}: line {lines.index('') + 1} is empty; a name was expected")
    delimiter = "," if path.name.lower().removesuffix(".gz").endswith(".csv") else "\t"
    plain = not any(mark in whole for mark in (delimiter, '"', " "))
    return Names(path=path, lines=lines if whole else [], delimiter=delimiter, plain=plain)
