"""How much unpacking and downloading may take: bytes, entries, ratio and disk.

A small archive can unpack to terabytes. Nothing that an archive says about its own sizes is
believed: what counts is what came out so far, the headers and padding that are thrown away
included. One budget covers an archive and the archives inside it, so nesting buys nothing.

The ratio of 500 lies between data and bombs. Measured with deflate at its best: 10x mtx 4, tables
of counts up to 20 (of weights that are all alike: 69), HDF5 up to 14; the worst that is still data,
a dense float64 matrix, 125 where 3 % of it are counts, 287 with 1 %, 414 with 0.5 %. Bombs lie
close to the 1,032 that deflate can do, and above it with bzip2, xz or archives in archives. Up to
1 GiB, which any disk bears, the ratio is not looked at.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from cellplm.errors import InputError

_STRIDE = 64 << 20
"""Bytes between two looks at the free space of the disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one archive (with those inside it) or one address may take.

    Attributes:
        max_bytes: unpacked or downloaded, in all. The largest public atlases are 0.3 TB.
        max_entries: files and folders.
        max_ratio: unpacked bytes a packed byte, once `free_bytes` are unpacked.
        free_bytes: unpacked bytes up to which the ratio is not looked at.
        reserve_bytes: what stays free on the disk.
        silence_s: how long a server may send nothing.
        n_retries: how often a server that fails is asked again, after 0.2 s and then longer.
    """

    max_bytes: int = 2 << 40
    max_entries: int = 1_000_000
    max_ratio: int = 500
    free_bytes: int = 1 << 30
    reserve_bytes: int = 256 << 20
    silence_s: float = 60
    n_retries: int = 6


class Budget:
    """What one archive has taken so far, together with those inside it."""

    def __init__(self, limits: Limits, *, packed_bytes: int, folder: Path) -> None:
        """Start at nothing.

        Args:
            limits: what must not be passed.
            packed_bytes: size of the outermost archive.
            folder: where it is unpacked to; its disk is watched.
        """
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._folder = folder
        self._n_entries = 0
        self._n_bytes = 0
        self._looked_at = 0

    def expect(self, shown: str, n_bytes: int) -> None:
        """Refuse early what is announced to be too much; an announcement buys nothing.

        Raises:
            InputError: `n_bytes` more pass a limit.
        """
        self._check(shown, self._n_bytes + n_bytes)
        check_room(self._folder, n_bytes, self._limits, shown)

    def enter(self, shown: str) -> None:
        """Count one entry.

        Raises:
            InputError: it is one too many.
        """
        self._n_entries += 1
        if self._n_entries > self._limits.max_entries:
            raise InputError(
                f"{shown}: more than {self._limits.max_entries:,} files and folders; "
                "unpack it yourself and give the folder"
            )

    def spend(self, shown: str, n_bytes: int) -> None:
        """Count bytes that came out of the archive.

        Raises:
            InputError: they pass a limit, or the disk is as good as full.
        """
        self._n_bytes += n_bytes
        self._check(shown, self._n_bytes)
        if self._n_bytes - self._looked_at >= _STRIDE:
            self._looked_at = self._n_bytes
            check_room(self._folder, 0, self._limits, shown)

    def _check(self, shown: str, n_bytes: int) -> None:
        limits = self._limits
        if n_bytes > limits.max_bytes:
            raise InputError(
                f"{shown}: unpacks to more than {told_bytes(limits.max_bytes)}; "
                "unpack it yourself and give the folder"
            )
        if n_bytes > limits.free_bytes and n_bytes > limits.max_ratio * self._packed_bytes:
            raise InputError(
                f"{shown}: unpacks to more than {limits.max_ratio} times its size "
                f"({told_bytes(self._packed_bytes)} packed, {told_bytes(n_bytes)} unpacked so "
                "far), as no data set does; if you trust it, unpack it yourself and give the folder"
            )


def check_room(folder: Path, n_bytes: int, limits: Limits, shown: str) -> None:
    """See whether `n_bytes` more fit on the disk of `folder`.

    Raises:
        InputError: they do not.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes + limits.reserve_bytes > free:
        raise InputError(
            f"{shown}: needs {told_bytes(n_bytes)} in {folder}, where {told_bytes(free)} are free "
            f"and {told_bytes(limits.reserve_bytes)} are to stay free; make room there"
        )


def told_bytes(n_bytes: int) -> str:
    """A size to read: "512 B", "1.5 GiB"."""
    size, unit = float(n_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"
