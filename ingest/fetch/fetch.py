"""Make local what an ingest is given: addresses are downloaded, archives unpacked.

Readers see files and folders of this machine only. An archive is looked in as if it stood
unpacked beside itself, also one that lies in a given folder, at any depth. Such a folder is not
written to: a copy of its structure is made, in which its files are symbolic links and its
archives are folders. Without an archive below it, a folder is used as it is.

An archive in an archive is unpacked too; one inside that is refused. Files of one remote folder
come to lie in one local folder, so that those which belong together are found together. What
the user reads, in messages and in the record of sources, are the names that the user gave:
`display` puts them back.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.fetch.address import is_remote, parse_address, public
from cellplm.ingest.fetch.archive import is_archive, unpack
from cellplm.ingest.fetch.limits import Budget, Limits
from cellplm.ingest.fetch.remote import download
from cellplm.ingest.find import is_zarr
from cellplm.logs import OnProgress, ignore

__all__ = ["Fetched", "Limits", "OnError", "display", "fetch", "is_remote"]

_LEVELS = 2
"""Archives inside each other that are unpacked."""

OnError = Callable[[str, InputError], None]
"""Told what could not be had (as the user calls it) and why, where the rest is to go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """One of the given paths, on this machine.

    Attributes:
        local: the file or folder to look in.
        shown: what the user calls it ("mm10.zip", "s3://bucket/a.h5ad").
        inside: what came out of archives below `local`, and the folder around it, for `display`.
    """

    local: Path
    shown: str
    inside: tuple[Fetched, ...] = ()


def fetch(
    paths: Sequence[str | Path],
    folder: Path,
    *,
    on_progress: OnProgress = ignore,
    limits: Limits | None = None,
    on_error: OnError | None = None,
) -> list[Fetched]:
    """Bring what the paths name to this machine, unpacked.

    Args:
        paths: files, folders and addresses (as `str`: a `Path` of an address loses its "//").
        folder: for what is downloaded and unpacked; made if it is not there, and the caller's to
            remove when nothing is read from it any more.
        on_progress: told how far downloads and archives are.
        limits: what each address and each archive may take.
        on_error: called for each address or archive that is refused, and the rest goes on;
            without it the first refusal is raised.

    Returns:
        One for each path that could be had, in their order.

    Raises:
        MissingFileError: a path or an address is not there.
        InputError: an address or an archive is refused, with one line that names it.
    """
    work = _Work(folder.resolve(), limits or Limits(), on_progress, on_error)
    known: dict[str, Fetched] = {}
    for path in paths:
        text = str(path)
        if text not in known:
            with work.refusing(public(text) if is_remote(text) else text):
                known[text] = work.bring(text)
    return [known[str(path)] for path in paths if str(path) in known]


def display(text: str, fetched: Sequence[Fetched]) -> str:
    """A message or path with the names that the user gave instead of temporary ones."""
    shown: dict[str, str] = {}
    for one in fetched:
        for each in (*one.inside, one):
            if each.local != Path(each.shown):
                shown.setdefault(str(each.local), each.shown)
    if not shown:
        return text
    longest = "|".join(re.escape(local) for local in sorted(shown, key=len, reverse=True))
    whole = rf"(?<![\w./-])(?:{longest})(?![\w-]|\.\w)"
    return re.sub(whole, lambda found: shown[found[0]], text)


class _Work:
    """The folder that things are brought to, and how."""

    def __init__(
        self, folder: Path, limits: Limits, on_progress: OnProgress, on_error: OnError | None
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._on_progress = on_progress
        self._on_error = on_error
        self._places: dict[str, Path] = {}

    @contextmanager
    def refusing(self, shown: str) -> Iterator[None]:
        """Hand a refusal to whoever wants to go on, or let it pass."""
        try:
            yield
        except InputError as error:
            if self._on_error is None:
                raise
            self._on_error(shown, error)

    def bring(self, text: str) -> Fetched:
        """One given path or address."""
        if not is_remote(text):
            return self._from_disk(Path(text), text)
        address = parse_address(text)
        if address.scheme == "file":
            return self._from_disk(Path(address.key), address.shown)
        place = self._place(address.parent, address.parent)
        local = download(address, place, limits=self._limits, on_progress=self._on_progress)
        around = Fetched(local=place, shown=address.parent)
        try:
            if local.is_dir():
                inside = self._open_below(local, address.shown, level=1, budget=None)
                return Fetched(local=local, shown=address.shown, inside=(*inside, around))
            if not is_archive(local.name):
                return Fetched(local=local, shown=address.shown, inside=(around,))
            opened = self._open(local, place, address.shown, level=1, replace=True)
        except BaseException:
            _remove(local)
            raise
        return Fetched(local=opened[0].local, shown=address.shown, inside=(*opened, around))

    def _from_disk(self, path: Path, shown: str) -> Fetched:
        if path.is_dir():
            return self._folder_from_disk(path, shown)
        if not path.exists():
            raise MissingFileError(f"{shown}: no such file or folder")
        if not is_archive(path.name):
            return Fetched(local=path, shown=shown)
        parent = path.resolve().parent
        place = self._place(str(parent), parent.name)
        opened = self._open(path, place, shown, level=1, replace=False)
        around = Fetched(local=place, shown=os.path.dirname(shown) or ".")
        return Fetched(local=opened[0].local, shown=shown, inside=(*opened, around))

    def _folder_from_disk(self, path: Path, shown: str) -> Fetched:
        archives = self._archives(path)
        if not archives:
            return Fetched(local=path, shown=shown)
        real = path.resolve()
        place = self._place(f"{real}/", real.parent.name)
        root = place / (real.name or "root")
        inside: list[Fetched] = []
        try:
            self._mirror(real, root)
            for archive in archives:
                within = archive.relative_to(path)
                told = f"{shown.rstrip('/')}/{within}"
                with self.refusing(told):
                    into = (root / within).parent
                    inside += self._open(archive, into, told, level=1, replace=False)
        except BaseException:
            _remove(root)
            raise
        return Fetched(local=root, shown=shown.rstrip("/") or "/", inside=tuple(inside))

    def _open(
        self,
        archive: Path,
        into: Path,
        shown: str,
        *,
        level: int,
        replace: bool,
        budget: Budget | None = None,
    ) -> list[Fetched]:
        """What comes out of one archive, and then of those inside it."""
        if level > _LEVELS:
            raise InputError(
                f"{shown}: an archive in an archive in an archive is not unpacked; "
                "unpack the outer one yourself and give the folder"
            )
        if budget is None:
            packed_bytes = archive.stat().st_size
            budget = Budget(self._limits, packed_bytes=packed_bytes, folder=self._folder)
        unpacked = unpack(
            archive, into, budget, shown=shown, replace=replace, on_progress=self._on_progress
        )
        try:
            inside = self._open_below(
                unpacked.local, unpacked.shown, level=level + 1, budget=budget
            )
        except BaseException:
            _remove(unpacked.local)
            raise
        return [Fetched(local=unpacked.local, shown=unpacked.shown), *inside]

    def _open_below(
        self, root: Path, shown: str, *, level: int, budget: Budget | None
    ) -> list[Fetched]:
        """Unpack, in place, the archives below a folder that is ours."""
        inside: list[Fetched] = []
        for archive in self._archives(root):
            told = f"{shown}/{archive.relative_to(root)}"
            with self.refusing(told):
                inside += self._open(
                    archive, archive.parent, told, level=level, replace=True, budget=budget
                )
        return inside

    def _archives(self, root: Path) -> list[Path]:
        return [
            Path(folder) / name
            for folder, _, names in self._walk(root)
            for name in sorted(names)
            if is_archive(name) and os.path.isfile(os.path.join(folder, name))
        ]

    def _mirror(self, real: Path, root: Path) -> None:
        """Copy the structure of a folder, with links to all of it but its archives."""
        for folder, zarrs, names in self._walk(real):
            local = root / Path(folder).relative_to(real)
            local.mkdir(parents=True)
            for name in (*zarrs, *names):
                if name in zarrs or not is_archive(name):
                    (local / name).symlink_to(os.path.join(folder, name))

    def _walk(self, root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        """Each visible folder that is no Zarr hierarchy, the Zarr folders in it, and its files."""
        if not root.is_dir() or is_zarr(root):
            return
        for folder, below, names in os.walk(root):
            here = Path(os.path.abspath(folder))
            zarrs = [name for name in below if is_zarr(here / name)]
            below[:] = sorted(
                name
                for name in below
                if name[0] != "." and name not in zarrs and here / name != self._folder
            )
            yield folder, zarrs, [name for name in names if name[0] != "."]

    def _place(self, key: str, name: str) -> Path:
        """The local folder for what comes out of one folder; its name goes into those of data."""
        if key not in self._places:
            plain = re.sub(r"[^\w.-]+", "_", name.rpartition("/")[2]).strip(".") or "files"
            n = len(self._places)
            while (numbered := self._folder / f"{n:04d}").exists():
                n += 1
            (numbered / plain).mkdir(parents=True)
            self._places[key] = numbered / plain
        return self._places[key]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
