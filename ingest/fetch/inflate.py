"""A compressed file as a stream of its contents: gzip, bzip2, xz, or none of them.

What it is, is told by the first bytes, not by the name: browsers and servers take the gzip off
a ".tar.gz" and leave the name. Several streams one after the other (bgzip, pigz, parallel xz)
are one. The checksum at the end of each is compared, and a stream that does not reach its end is
an error, so a cut file never passes for a short one. At most `CHUNK` bytes are made at a time,
however much a few bytes could become, and an xz dictionary may take 256 MiB (xz -9 has 64).
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from cellplm.errors import InputError

CHUNK = 1 << 20
_XZ_MEMORY = 256 << 20


class Inflated:
    """Reads on through the contents of a file, compressed or not."""

    def __init__(self, file: BinaryIO, shown: str, spend: Callable[[int], None]) -> None:
        """Start at the beginning of `file`.

        Args:
            file: positioned at its start; stays the caller's to close.
            shown: what the user calls it, for messages.
            spend: called with each number of bytes that came out, before they are handed on.
        """
        self._chunks = _inflate(file, shown)
        self._spend = spend
        self._chunk, self._at = b"", 0

    def read(self, n: int) -> bytes:
        """At least one and at most `n` bytes; none at the end.

        Raises:
            InputError: the file is damaged, cut or goes on after its end.
        """
        if self._at == len(self._chunk):
            self._chunk, self._at = next(self._chunks, b""), 0
            self._spend(len(self._chunk))
        taken = self._chunk[self._at : self._at + n]
        self._at += len(taken)
        return taken

    def read_whole(self, n: int) -> bytes:
        """Exactly `n` bytes, or fewer where it ends; `n` is taken into memory."""
        taken = self.read(n)
        while len(taken) < n:
            more = self.read(n - len(taken))
            if not more:
                break
            taken += more
        return taken


class _Decompressor(Protocol):
    """What bz2 and lzma have, and `_Gunzip` lends to zlib."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _Gunzip:
    """One member of a gzip file; zlib checks its CRC-32 and its length."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _unxz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


_KINDS: dict[bytes, tuple[str, Callable[[], _Decompressor]]] = {
    b"\x1f\x8b": ("gzip", _Gunzip),
    b"BZh": ("bzip2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": ("xz", _unxz),
}


def _inflate(file: BinaryIO, shown: str) -> Iterator[bytes]:
    packed = file.read(CHUNK)
    kind = next((kind for magic, kind in _KINDS.items() if packed.startswith(magic)), None)
    if kind is None:
        while packed:
            yield packed
            packed = file.read(CHUNK)
        return
    name, make = kind
    while packed:
        stream = make()
        while not stream.eof:
            if stream.needs_input and not packed:
                raise InputError(
                    f"{shown}: the {name} stream ends in the middle: the file was cut off; "
                    "get it again"
                )
            try:
                out = stream.decompress(packed, CHUNK)
            except (OSError, zlib.error, lzma.LZMAError) as error:
                raise InputError(
                    f"{shown}: the {name} stream is damaged before byte {file.tell():,} of the "
                    f"file ({error}); get it again"
                ) from None
            if out:
                yield out
            packed = file.read(CHUNK) if stream.needs_input and not stream.eof else b""
        packed = _after(file, stream.unused_data)
        if packed and not any(packed.startswith(magic) for magic in _KINDS):
            raise InputError(
                f"{shown}: something that is not {name} follows its {name} stream; get it again"
            )


def _after(file: BinaryIO, unused: bytes) -> bytes:
    """What follows the end of a stream but for padding with zeros; none at the end of the file."""
    rest = unused.lstrip(b"\0")
    while not rest:
        more = file.read(CHUNK)
        if not more:
            return b""
        rest = more.lstrip(b"\0")
    return rest if len(rest) >= 6 else rest + file.read(6)
