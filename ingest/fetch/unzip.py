"""The entries of a zip archive, read strictly.

The standard library's reader takes the whole directory into memory before anything can be
counted, cuts names at a NUL byte, and (before Python 3.11.8) lets entries share their bytes, of
which bombs are made. Here the directory is read entry by entry up to a number of them, the
bytes of each entry belong to it alone, and an entry has the size and the CRC-32 that it
declares, or is refused; no more than that is ever unpacked.

Known: stored and deflated entries, zip64, data in front of the archive, and directories with more
than 65,535 entries that macOS writes without zip64 (their number is modulo 65,536).
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from cellplm.errors import InputError
from cellplm.ingest.fetch.inflate import CHUNK
from cellplm.ingest.fetch.names import told_name

_END = struct.Struct("<4s4H2LH")
_END64_AT = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 0xFFFF
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipEntry:
    """One entry of the directory.

    Attributes:
        name: as it stands there.
        raw_name: its bytes, which the entry itself has to repeat.
        kind: "file", "folder", or what else it is, in words ("a symbolic link").
        start: byte of the file where the entry begins.
        end: byte of the file where the next entry, or the directory, begins.
        packed_bytes: how long its contents are in the file.
        size: how long they are unpacked.
        crc: CRC-32 of them.
        deflated: whether they are deflated, not stored.
    """

    name: str
    raw_name: bytes
    kind: str
    start: int
    end: int
    packed_bytes: int
    size: int
    crc: int
    deflated: bool


def read_directory(file: BinaryIO, shown: str, enter: Callable[[], None]) -> list[ZipEntry]:
    """The entries in the order of the directory; names may stand twice.

    Args:
        file: the archive.
        shown: what the user calls it.
        enter: called before each entry is taken into memory; raises where it is one too many.

    Raises:
        InputError: it is no zip archive, or is damaged, cut, encrypted, or `enter` raises.
    """
    where = _find_directory(file, shown)
    file.seek(where.start)
    entries: list[ZipEntry] = []
    at = where.start
    while at < where.end:
        enter()
        fixed = file.read(_CENTRAL.size)
        if len(fixed) < _CENTRAL.size or fixed[:4] != b"PK\1\2":
            raise _damaged(shown, f"entry {len(entries) + 1:,} of its directory is no entry")
        lengths = _CENTRAL.unpack(fixed)[12:15]
        names = file.read(sum(lengths))
        at += len(fixed) + sum(lengths)
        raw_name, extra = names[: lengths[0]], names[lengths[0] : lengths[0] + lengths[1]]
        entries.append(_entry(fixed, raw_name, extra, where.shift, shown))
    n = len(entries) if where.is_64 else len(entries) & 0xFFFF
    if at != where.end or n != where.n_declared:
        raise _damaged(shown, f"its directory has {n:,} entries, not {where.n_declared:,}")
    return _bounded(entries, where.start, shown)


def read_entry(file: BinaryIO, entry: ZipEntry, shown: str) -> Iterator[bytes]:
    """The contents of one file.

    Raises:
        InputError: they are damaged, or not what the directory says.
    """
    told = told_name(entry.name)
    file.seek(entry.start)
    fixed = file.read(_LOCAL.size)
    n_name, n_extra = _LOCAL.unpack(fixed)[-2:] if len(fixed) == _LOCAL.size else (0, 0)
    begin = entry.start + _LOCAL.size + n_name + n_extra
    if fixed[:4] != b"PK\3\4" or file.read(n_name) != entry.raw_name:
        raise _damaged(shown, f"the directory tells of {told}, but something else is there")
    if begin + entry.packed_bytes > entry.end:
        raise _damaged(shown, f"{told} overlaps the entry after it")
    file.seek(begin)
    size = crc = 0
    for chunk in _unpacked(file, entry, shown, told):
        size += len(chunk)
        if size > entry.size:
            break
        crc = zlib.crc32(chunk, crc)
        yield chunk
    if size != entry.size:
        what = "more than" if size > entry.size else f"{size:,}, not"
        raise _damaged(shown, f"{told} unpacks to {what} the {entry.size:,} bytes it declares")
    if crc != entry.crc:
        raise _damaged(shown, f"{told} has another checksum (CRC-32) than it should")


def _unpacked(file: BinaryIO, entry: ZipEntry, shown: str, told: str) -> Iterator[bytes]:
    left = entry.packed_bytes
    inflate = zlib.decompressobj(wbits=-15)
    while left:
        packed = file.read(min(left, CHUNK))
        if not packed:
            raise _damaged(shown, f"the file ends within {told}")
        left -= len(packed)
        if not entry.deflated:
            yield packed
        while entry.deflated and packed and not inflate.eof:
            try:
                chunk = inflate.decompress(packed, CHUNK)
            except zlib.error as error:
                raise _damaged(shown, f"{told} cannot be unpacked ({error})") from None
            packed = inflate.unconsumed_tail
            if chunk:
                yield chunk
        if inflate.eof:
            break
    if entry.deflated and not inflate.eof:
        raise _damaged(shown, f"{told} ends before its end")
    if inflate.unused_data or left:
        raise _damaged(shown, f"{told} goes on after its end")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Directory:
    """Where the directory is: bytes of the file; `shift` is how much stands before the archive."""

    start: int
    end: int
    n_declared: int
    shift: int
    is_64: bool


def _find_directory(file: BinaryIO, shown: str) -> _Directory:
    n_file = file.seek(0, 2)
    n_tail = min(n_file, _END.size + _MAX_COMMENT)
    file.seek(n_file - n_tail)
    tail = file.read(n_tail)
    at = tail.rfind(b"PK\5\6")
    while at >= 0 and not _is_end(tail[at:]):
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        file.seek(0)
        if file.read(2) != b"PK":
            raise InputError(
                f"{shown}: is no zip archive; get it again, or give it its right suffix"
            )
        raise _damaged(shown, "the record at its end is missing")
    end = n_file - n_tail + at
    disks, n_declared, n_bytes, offset = _fields(_END.unpack_from(tail, at)[1:7])
    file.seek(max(end - _END64_AT.size, 0))
    locator = file.read(_END64_AT.size)
    is_64 = len(locator) == _END64_AT.size and locator[:4] == b"PK\6\7"
    if is_64:
        # Data in front of the archive moves the record away from where it is said to be; it
        # then stands right before its locator.
        for end64 in (_END64_AT.unpack(locator)[2], end - _END64_AT.size - _END64.size):
            if not 0 <= end64 < end:
                continue
            file.seek(end64)
            record = file.read(_END64.size)
            if len(record) == _END64.size and record[:4] == b"PK\6\6":
                break
        else:
            raise _damaged(shown, "its zip64 record is missing")
        end = end64
        disks, n_declared, n_bytes, offset = _fields(_END64.unpack(record)[4:])
    if disks:
        raise InputError(f"{shown}: is one part of a split archive; join the parts first")
    start = end - n_bytes
    if start < 0 or offset > start:
        raise _damaged(shown, "its directory is not where it should be")
    return _Directory(
        start=start, end=end, n_declared=n_declared, shift=start - offset, is_64=is_64
    )


def _is_end(tail: bytes) -> bool:
    return len(tail) >= _END.size and _END.size + _END.unpack_from(tail)[7] == len(tail)


def _fields(values: tuple[int, ...]) -> tuple[bool, int, int, int]:
    disk, directory_disk, n_here, n_all, n_bytes, offset = values
    return bool(disk or directory_disk or n_here != n_all), n_all, n_bytes, offset


def _entry(fixed: bytes, raw_name: bytes, extra: bytes, shift: int, shown: str) -> ZipEntry:
    values = _CENTRAL.unpack(fixed)
    flags, method = values[5:7]
    crc, packed_bytes, size = values[9:12]
    attributes, start = values[17:19]
    name = _decoded(raw_name)
    told = told_name(name)
    size, packed_bytes, start = _wide([size, packed_bytes, start], extra, shown, told)
    if flags & _ENCRYPTED or method == 99:
        raise InputError(f"{shown}: {told} is encrypted; unpack it yourself and give the folder")
    kind = _kind(name, attributes >> 16, size)
    if kind == "file" and method not in (0, 8):
        raise InputError(
            f"{shown}: {told} is packed with {_METHODS.get(method, f'method {method}')}; only "
            "stored and deflated entries are read: unpack it yourself and give the folder"
        )
    if method == 0 and packed_bytes != size:
        raise _damaged(shown, f"{told} is stored, but has {packed_bytes:,} bytes for {size:,}")
    return ZipEntry(
        name=name,
        raw_name=raw_name,
        kind=kind,
        start=start + shift,
        end=0,
        packed_bytes=packed_bytes,
        size=size,
        crc=crc,
        deflated=method == 8,
    )


def _wide(values: list[int], extra: bytes, shown: str, told: str) -> list[int]:
    """Sizes and start, with those that need 64 bits taken from the extra field."""
    if all(value != 0xFFFFFFFF for value in values):
        return values
    while len(extra) >= 4:
        tag, n = struct.unpack_from("<HH", extra)
        wide, extra = extra[4 : 4 + n], extra[4 + n :]
        if tag != 1:
            continue
        out = []
        for value in values:
            if value == 0xFFFFFFFF:
                if len(wide) < 8:
                    raise _damaged(shown, f"{told} lacks one of its 64-bit sizes")
                value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
            out.append(value)
        return out
    return values


def _kind(name: str, mode: int, size: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    other = kinds.get(stat.S_IFMT(mode))
    if other:
        return other
    if name.endswith("/"):
        return "a folder with contents" if size else "folder"
    return "file"


def _bounded(entries: list[ZipEntry], directory: int, shown: str) -> list[ZipEntry]:
    """The entries with their ends, once no two of them share a byte."""
    order = sorted(range(len(entries)), key=lambda i: entries[i].start)
    starts = [entries[i].start for i in order]
    ends = dict(zip(order, [*starts[1:], directory], strict=False))
    for i, entry in enumerate(entries):
        if entry.start + _LOCAL.size + len(entry.raw_name) + entry.packed_bytes > ends[i]:
            raise _damaged(shown, f"{told_name(entry.name)} overlaps the entry after it")
    return [replace(entry, end=ends[i]) for i, entry in enumerate(entries)]


def _decoded(raw: bytes) -> str:
    # The flag for UTF-8 is not looked at: macOS writes UTF-8 and does not set it.
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _damaged(shown: str, fault: str) -> InputError:
    return InputError(f"{shown}: the archive is damaged or was cut off: {fault}; get it again")
