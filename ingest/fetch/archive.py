"""Unpack archives that others made, or refuse them and leave nothing behind.

Known by their suffix: .zip; .tar, alone or as .tar.gz, .tgz, .tar.bz2, .tbz2, .tbz, .tar.xz,
.txz; and .gz of one .h5ad, .h5 or .loom file (readers stream other .gz files as they are). The four
.zarr.zip files of a Xenium bundle are no archives here, because the Xenium reader opens them;
every other .zarr.zip is, and becomes a folder named .zarr.

An archive becomes a folder of its name without the suffix. A single top folder of that same
name (for .zarr: of any name) is not repeated. In a .zarr.zip the later of two entries of one name
counts, as in Zarr's own store, which can only append.

An archive is hostile until it is unpacked. Refused, with all of it: names that leave the
folder or stand twice (see names.py), links, devices, sparse files, encryption, more entries or
bytes than `Limits` allows (see limits.py), and damage of any kind (see unzip.py, untar.py,
inflate.py). It is unpacked under a temporary name and renamed when it is whole.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cellplm.errors import InputError
from cellplm.ingest.fetch.inflate import CHUNK, Inflated
from cellplm.ingest.fetch.limits import Budget
from cellplm.ingest.fetch.names import Names, told_name
from cellplm.ingest.fetch.untar import read_tar
from cellplm.ingest.fetch.unzip import read_directory, read_entry
from cellplm.logs import OnProgress, Progress, ignore

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
_SINGLE_GZ = (".h5ad.gz", ".h5.gz", ".loom.gz")
_GZIP_OR_HDF5 = (b"\x1f\x8b", b"\x89HDF")
"""A browser that takes the gzip off leaves the suffix."""
_XENIUM = (
    "analysis.zarr.zip",
    "cell_feature_matrix.zarr.zip",
    "cells.zarr.zip",
    "transcripts.zarr.zip",
)
_TICK = 8 << 20
"""Bytes of an archive between two reports of progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """An archive on the disk.

    Attributes:
        local: the folder, or the one file, that came out.
        shown: what the user calls it: "mm10.zip", or "mm10.zip/mm10" where the top folder was
            not repeated.
    """

    local: Path
    shown: str


def is_archive(name: str) -> bool:
    """Whether a file of this name is one to unpack."""
    name = name.lower()
    return not name.startswith(".") and name not in _XENIUM and stem(name) != name


def stem(name: str) -> str:
    """The name of what comes out: that of the archive without its suffix."""
    lower = name.lower()
    if lower.endswith(_SINGLE_GZ):
        return name[: -len(".gz")]
    suffixes = sorted((".zip", *_TARS), key=len, reverse=True)
    return next((name[: -len(end)] for end in suffixes if lower.endswith(end)), name)


def unpack(
    archive: Path,
    into: Path,
    budget: Budget,
    *,
    shown: str,
    replace: bool = False,
    on_progress: OnProgress = ignore,
) -> Unpacked:
    """Unpack one archive into a folder of its own below `into`.

    Args:
        archive: the file; `is_archive` is true of its name.
        into: a folder that exists.
        budget: what it may take; shared with the archives inside it.
        shown: what the user calls it.
        replace: remove the archive once it is unpacked.
        on_progress: told how many bytes of the archive are done.

    Raises:
        InputError: naming the archive, the entry and the fault; nothing of it is left.
    """
    temporary = Path(tempfile.mkdtemp(prefix=".unpack-", dir=into))
    name = stem(archive.name)
    try:
        tree = _Tree(temporary / name, shown, budget, in_zarr=_is_zarr(name))
        try:
            with archive.open("rb") as file:
                tree.watch(file, archive.stat().st_size, on_progress)
                _fill(tree, file, archive.name)
        except OSError as error:
            raise InputError(f"{shown}: cannot be read: {error.strerror or error}") from None
        if not tree.n_files:
            raise InputError(f"{shown}: holds no file; get it again")
        top, below = _top(temporary / name)
        if replace:
            archive.unlink()
        local = _free_place(into, name, archive.name)
        top.rename(local)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Unpacked(local=local, shown=f"{shown}/{below}" if below else shown)


def _is_zarr(name: str) -> bool:
    return name.lower().endswith(".zarr")


class _Tree:
    """What came out so far, below one folder (or as one file, where that is all)."""

    def __init__(self, root: Path, shown: str, budget: Budget, *, in_zarr: bool) -> None:
        self.root = root
        self.shown = shown
        self.budget = budget
        self.n_files = 0
        self._names = Names(shown, in_zarr=in_zarr)
        self._made: set[Path] = set()
        self._tick: Callable[[], None] = lambda: None

    def watch(self, file: BinaryIO, n_bytes: int, on_progress: OnProgress) -> None:
        """Tell how far the reading of `file` is, after every few MiB."""
        told = 0

        def tick() -> None:
            nonlocal told
            done = file.tell()
            if done - told >= _TICK:
                told = done
                on_progress(Progress(what=f"unpack {self.shown}", done=done, total=n_bytes))

        self._tick = tick

    def add(self, name: str, kind: str, chunks: Iterable[bytes]) -> None:
        """Write one entry; a folder, or what macOS adds, has no chunks that are read."""
        path = self._names.take(name, folder=kind == "folder")
        if path is None:
            return
        if kind == "folder":
            self._make(self.root / path)
        elif kind == "file":
            self._make((self.root / path).parent)
            self.write(self.root / path, chunks)
        else:
            raise InputError(
                f"{self.shown}: {told_name(name)} is {kind}, so nothing of it is taken; only plain "
                "files and folders are unpacked: pack it again without it"
            )

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Write a file that must be new."""
        with self._writing(path):
            out = path.open("xb")
        with out:
            for chunk in chunks:
                with self._writing(path):
                    out.write(chunk)
                self._tick()
        self.n_files += 1

    def _make(self, folder: Path) -> None:
        if folder not in self._made:
            with self._writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            self._made.add(folder)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            name = told_name(str(path.relative_to(self.root.parent)))
            twice = "; this disk does not tell upper from lower case" * isinstance(
                error, FileExistsError
            )
            raise InputError(
                f"{self.shown}: {name} cannot be written below {self.root.parents[1]}: "
                f"{error.strerror or error}{twice}; make room there"
            ) from None


def _fill(tree: _Tree, file: BinaryIO, name: str) -> None:
    budget, shown = tree.budget, tree.shown
    lower = name.lower()
    n_bytes = file.seek(0, 2)
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    if n_bytes == 0:
        raise InputError(f"{shown}: is empty; get it again")
    if lower.endswith(".zip"):
        entries = read_directory(file, shown, lambda: budget.enter(shown))
        if _is_zarr(stem(name)):
            entries = list({entry.name: entry for entry in entries}.values())
        budget.expect(shown, sum(entry.size for entry in entries))
        for entry in sorted(entries, key=lambda entry: entry.start):
            tree.add(entry.name, entry.kind, _spending(read_entry(file, entry, shown), tree))
        return
    budget.expect(shown, n_bytes)
    stream = Inflated(file, shown, lambda n: budget.spend(shown, n))
    if lower.endswith(_SINGLE_GZ):
        if not head.startswith(_GZIP_OR_HDF5):
            raise InputError(f"{shown}: is no gzip file; get it again, or give it its right suffix")
        budget.enter(shown)
        tree.write(tree.root, iter(lambda: stream.read(CHUNK), b""))
        return
    for member in read_tar(stream, shown):
        budget.enter(shown)
        budget.expect(shown, member.size)
        tree.add(member.name, member.kind, member.chunks)


def _spending(chunks: Iterable[bytes], tree: _Tree) -> Iterator[bytes]:
    for chunk in chunks:
        tree.budget.spend(tree.shown, len(chunk))
        yield chunk


def _top(root: Path) -> tuple[Path, str]:
    """What becomes the folder of the archive, and the name of the top folder that it is not."""
    entries = list(root.iterdir()) if root.is_dir() else []
    if len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink():
        (only,) = entries
        if only.name == root.name or _is_zarr(root.name):
            return only, only.name
    return root, ""


def _free_place(into: Path, name: str, archive: str) -> Path:
    """`into/name`, or where that is taken a folder of the archive's whole name before it.

    What stands at `into/name` may be an older copy or something else; both are looked at.
    """
    place = into / name
    if not place.exists():
        return place
    folder = into / archive
    if folder.exists():
        folder = Path(tempfile.mkdtemp(prefix=f"{archive}-", dir=into))
    folder.mkdir(exist_ok=True)
    return folder / name
