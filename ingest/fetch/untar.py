"""The entries of a tar archive, read strictly from one pass over a stream.

The standard library's reader is not strict enough for data: it takes a damaged header, or the
end of a cut file between two entries, for the end of the archive and says nothing, so files are
missing without a word; and it reads extended headers of any size into memory. Here an archive
ends with its end mark and nothing but zeros after it, every header's checksum counts, and what
is not a plain file or folder is handed on by its name, to be refused.

Known: POSIX ustar and pax, GNU (long names, base-256 sizes), and the old Unix format before them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cellplm.errors import InputError
from cellplm.ingest.fetch.inflate import CHUNK, Inflated
from cellplm.ingest.fetch.names import told_name

_Records = dict[str, bytes]

_BLOCK = 512
_MAX_EXTENDED = 1 << 20
"""Bytes of one extended header (names, times, attributes) that are taken into memory."""
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file",
    b"M": "a part of a file of several volumes",
    b"D": "a folder of an incremental backup",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TarEntry:
    """One entry.

    Attributes:
        name: as it stands there.
        kind: "file", "folder", or what else it is, in words ("a symbolic link").
        size: bytes; 0 for a folder.
        chunks: the contents, to be read before the next entry; what is not read is passed over.
    """

    name: str
    kind: str
    size: int
    chunks: Iterator[bytes]


def read_tar(stream: Inflated, shown: str) -> Iterator[TarEntry]:
    """The entries in their order.

    Raises:
        InputError: the archive is damaged or cut.
    """
    extended: dict[bytes, _Records] = {}
    last = ""
    while (header := stream.read_whole(_BLOCK)) != bytes(_BLOCK) or extended:
        told = _check(header, shown, last)
        size = _size(header[124:136])
        if size is None:
            raise InputError(f"{shown}: {told} has no size that can be read; get it again")
        flag = header[156:157]
        if flag in b"xgLK":
            if flag in extended:
                raise InputError(f"{shown}: two extended headers meet at {told}; get it again")
            records = _extended(stream, flag, size, shown, told)
            if flag != b"g":
                extended[flag] = records
            continue
        entry = _entry(stream, header, extended, size, shown)
        extended = {}
        last = told_name(entry.name)
        yield entry
        for _ in entry.chunks:
            pass
        _skip(stream, -entry.size % _BLOCK, shown, last)
    while rest := stream.read(CHUNK):
        if rest.count(0) != len(rest):
            raise InputError(
                f"{shown}: goes on after the mark of its end, after {last}; if these are two "
                "archives in one file, split them"
            )


def _check(header: bytes, shown: str, last: str) -> str:
    """The name in a header, to tell, once the header is known to be one."""
    if len(header) == _BLOCK and _sums_up(header):
        return told_name(_decoded(header[:100].split(b"\0")[0]))
    if not last:
        raise InputError(f"{shown}: is no tar archive; get it again, or give it its right suffix")
    if len(header) == _BLOCK:
        raise InputError(f"{shown}: the header after {last} is damaged; get it again")
    raise InputError(
        f"{shown}: ends after {last} without the mark of its end: it was cut off; get it again"
    )


def _entry(
    stream: Inflated, header: bytes, extended: dict[bytes, _Records], size: int, shown: str
) -> TarEntry:
    pax, flag = extended.get(b"x", {}), header[156:157]
    raw = pax.get("path") or extended.get(b"L", {}).get("path") or _plain_name(header)
    name = _decoded(raw)
    told = told_name(name)
    if "size" in pax:
        digits = pax["size"]
        if not digits.isdigit() or len(digits) > 19:
            raise InputError(f"{shown}: {told} has no size that can be read; get it again")
        size = int(digits)
    kind = _KINDS.get(flag, f"an entry of the unknown kind {flag!r}")
    if any("sparse" in key for key in pax):
        kind = _KINDS[b"S"]
    elif flag in (b"5", b"V") or (flag in b"07\0" and raw.endswith(b"/")):
        kind = "a folder with contents" if size else "folder"
    elif flag in b"07\0":
        kind = "file"
    if flag == b"V":
        name = "."  # The label of the volume; no folder of its own.
    chunks = _contents(stream, size, shown, told)
    return TarEntry(name=name, kind=kind, size=size, chunks=chunks)


def _contents(stream: Inflated, size: int, shown: str, told: str) -> Iterator[bytes]:
    left = size
    while left:
        chunk = stream.read(min(left, CHUNK))
        if not chunk:
            raise InputError(
                f"{shown}: ends {size - left:,} bytes into {told}, which has {size:,}: it was cut "
                "off; get it again"
            )
        left -= len(chunk)
        yield chunk


def _skip(stream: Inflated, n: int, shown: str, told: str) -> None:
    for _ in _contents(stream, n, shown, f"the padding after {told}"):
        pass


def _extended(stream: Inflated, flag: bytes, size: int, shown: str, told: str) -> _Records:
    """What an extended header says about the entry after it, as far as it is wanted."""
    if size > _MAX_EXTENDED:
        raise InputError(
            f"{shown}: {told} is an extended header of {size:,} bytes, more than "
            f"{_MAX_EXTENDED:,}; get it again"
        )
    raw = b"".join(_contents(stream, size, shown, told))
    _skip(stream, -size % _BLOCK, shown, told)
    if flag in b"LK":
        return {"path": raw.split(b"\0")[0]}
    records: _Records = {}
    start = 0
    while start < len(raw):
        length = raw[start : start + 20].partition(b" ")[0]
        end = start + int(length) if length.isdigit() else 0
        key, equals, value = raw[start + len(length) + 1 : max(end - 1, 0)].partition(b"=")
        if not equals or raw[end - 1 : end] != b"\n":
            raise InputError(f"{shown}: the extended header {told} is damaged; get it again")
        if key in (b"path", b"size") or b"sparse" in key:
            records[key.decode(errors="replace")] = value
        start = end
    # A global header is about every entry after it: comments may be, names and sizes may not.
    if flag == b"g" and records:
        raise InputError(
            f"{shown}: {told} gives one name or size to all entries; pack it again with "
            "another program"
        )
    return records


def _plain_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0")[0]
    # GNU's own format has "ustar  " there and keeps other things in the place of the prefix.
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _sums_up(header: bytes) -> bool:
    """Whether the checksum is right; some old programs summed signed bytes."""
    told = _size(header[148:156])
    blanked = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(blanked)
    return told in (unsigned, unsigned - 256 * sum(byte > 127 for byte in blanked))


def _size(field: bytes) -> int | None:
    """Octal digits, or GNU's base 256; None for neither, and for what is negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if any(byte not in b"01234567" for byte in digits):
        return None
    return int(digits or b"0", 8)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
