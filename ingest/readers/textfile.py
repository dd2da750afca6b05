"""Text files, gzipped or not, whatever their name says: as bytes from end to end, or as lines.

Only UTF-8 is read: a table in another encoding would give names that look right and are not. What
is no text at all is told by its first bytes.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellplm.errors import InputError

# A file without line ends must not fill the memory.
MAX_LINE = 256 * 2**20
BOM = b"\xef\xbb\xbf"

_MAGIC = (
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
    (b"PK\x03\x04", "a zip archive or Excel file; give it the name .zip, or export it as csv"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file; export it as csv"),
    (b"BZh", "compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ", "compressed with xz; unpack it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it, or compress it with gzip"),
    (b"\x89HDF", "an HDF5 file; name it .h5ad, .h5 or .loom, whichever it is"),
    (b"PAR1", "a Parquet file; export it as csv"),
    (b"%PDF", "a PDF"),
)
# What servers send in place of a file.
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


@contextmanager
def opened(path: Path) -> Iterator[gzip.GzipFile | io.BufferedReader]:
    """The bytes of a file, unpacked if they are gzipped, without a byte order mark.

    Raises:
        InputError: (also from within) the file cannot be read, is cut or damaged, or is no text.
    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            with gzip.open(plain, "rb") if packed else plain as file:
                start = file.read(16)
                _refuse_other(start, path)
                file.seek(len(BOM) if start.startswith(BOM) else 0)
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip stream is damaged or cut short ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def first_lines(path: Path, n_lines: int, n_bytes: int) -> list[str]:
    """Some lines with their ends (of any kind).

    Args:
        path: the file.
        n_lines: at most so many,
        n_bytes: and after three of them, none that begins behind so many bytes.

    Raises:
        InputError: see `opened`; or a line is too long, or not UTF-8.
    """
    lines: list[str] = []
    n_read = 0
    # Bytes that are no UTF-8 come out as lone surrogates, so a fault can be told with its line.
    with (
        opened(path) as file,
        io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="") as text,
    ):
        while len(lines) < n_lines and (len(lines) < 3 or n_read < n_bytes):
            line = text.readline(MAX_LINE)
            if not line:
                break
            if len(line) == MAX_LINE:
                limit = f"{MAX_LINE >> 20} MiB"
                raise InputError(f"{path}: a line of more than {limit}; is it a table?")
            if "\0" in line:
                raise InputError(
                    f"{path}: line {len(lines) + 1} has NUL bytes: it is no text, or it is UTF-16; "
                    f"save it as UTF-8"
                )
            try:
                line.encode()
            except UnicodeEncodeError as error:
                byte = ord(line[error.start]) - 0xDC00
                raise InputError(not_utf8(path, byte, len(lines) + 1)) from error
            lines.append(line)
            n_read += len(line)
    return lines


def not_utf8(path: Path, byte: int, line: int) -> str:
    """The message about bytes that are no UTF-8."""
    return f"{path}: not UTF-8 text (byte 0x{byte:02x} in line {line}); save it as UTF-8"


def _refuse_other(start: bytes, path: Path) -> None:
    for magic, what in _MAGIC:
        if start.startswith(magic):
            raise InputError(f"{path}: no text file but {what}")
    if start.lower().lstrip().startswith(_PAGES):
        raise InputError(
            f"{path}: a web page or XML and no table; was it downloaded without permission?"
        )
