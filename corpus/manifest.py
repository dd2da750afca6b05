"""Snapshots: numbered, immutable, created once; and the optimistic commit of the next.

A local commit writes a temporary file, syncs it and hard-links it to its number: the link
fails if somebody was first, and then the change is tried again on what they committed.
(O_EXCL and write is not enough: a kill in between leaves a torn highest manifest.)
"""

from __future__ import annotations

import datetime
import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cellplm.corpus import schema
from cellplm.errors import ConflictError, CorruptCorpusError, NotACorpusError


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectRef:
    """A file of the corpus by relative path and sha256."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A raw file that a part was read from."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PartEntry:
    """What a snapshot says of one part; fields as in docs/format.md."""

    id: str
    path: str
    name: str
    modality: schema.Modality
    platform: str
    species: str
    n_obs: int
    n_kept: int
    n_vars: int
    n_genes: int
    nnz: int
    n_tissues: int
    content: str
    sources: tuple[SourceFile, ...]
    index: ObjectRef
    objects: ObjectRef


@dataclass(frozen=True, kw_only=True, slots=True)
class GenesRef:
    """The gene index that column numbers of this snapshot refer to."""

    path: str
    n: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One state of the corpus."""

    snapshot: int
    parent: int | None
    created: str
    writer: str
    operation: str
    genes: GenesRef
    parts: tuple[PartEntry, ...]


Change = Callable[[Snapshot], Snapshot]


def write_first(root: Path, genes: GenesRef, writer: str) -> Snapshot:
    """Snapshot 1 of a new corpus: no parts yet."""
    first = Snapshot(
        snapshot=1,
        parent=None,
        created=_now(),
        writer=writer,
        operation="create",
        genes=genes,
        parts=(),
    )
    (root / schema.MANIFEST).mkdir()
    if not _publish(root, first):
        raise ConflictError(f"{root}: a corpus was created there at the same time.")
    return first


def latest(root: Path) -> Snapshot:
    """The newest snapshot: from the hint, then one more until there is none.

    Raises:
        NotACorpusError: there is no snapshot.
        CorruptCorpusError: it cannot be read.
    """
    try:
        number = int((root / schema.LATEST).read_text())
    except (OSError, ValueError):
        number = 1
    # The hint is only that: it may be stale, and after a restored backup even too high.
    while number > 1 and not _file(root, number).exists():
        number -= 1
    while _file(root, number + 1).exists():
        number += 1
    return load(root, number)


def load(root: Path, number: int) -> Snapshot:
    """One snapshot.

    Raises:
        NotACorpusError: there is no snapshot of this number.
        CorruptCorpusError: it cannot be read or names a path outside the corpus.
    """
    path = _file(root, number)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise NotACorpusError(f"{root}: there is no snapshot {number} ({path.name}).") from None
    return parse(raw, name=str(path))


def parts_ever(root: Path) -> set[str]:
    """Ids of the parts that any snapshot names.

    Raises:
        CorruptCorpusError: a snapshot cannot be read.
    """
    paths = sorted((root / schema.MANIFEST).glob("[0-9]*.json"))
    return {part.id for path in paths for part in load(root, int(path.stem)).parts}


def commit(root: Path, change: Change, *, operation: str, writer: str) -> Snapshot:
    """Commit `change` on top of the newest snapshot, whoever made that.

    Args:
        root: the corpus.
        change: from the newest snapshot to one with other parts; called again after
            another writer was first. It raises ConflictError where both want the same.
        operation: "ingest", "remove", …
        writer: the write id.

    Returns:
        The snapshot as committed.
    """
    while True:
        parent = latest(root)
        child = replace(
            change(parent),
            snapshot=parent.snapshot + 1,
            parent=parent.snapshot,
            created=_now(),
            writer=writer,
            operation=operation,
        )
        if _publish(root, child):
            return child


def parse(raw: bytes, *, name: str) -> Snapshot:
    """A snapshot from its JSON.

    Raises:
        CorruptCorpusError: not a snapshot, or a path in it leaves the corpus.
    """
    try:
        values = json.loads(raw)
        parts = tuple(_part(part) for part in values["parts"])
        snapshot = Snapshot(
            snapshot=int(values["snapshot"]),
            parent=values["parent"],
            created=values["created"],
            writer=values["writer"],
            operation=values["operation"],
            genes=GenesRef(**values["genes"]),
            parts=parts,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptCorpusError(f"{name}: not a snapshot ({error!r}).") from None
    for path in _paths(snapshot):
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != path or path == ".":
            raise CorruptCorpusError(f"{name}: names {path!r}, which leaves the corpus.")
    return snapshot


def sync_write(path: Path, raw: bytes) -> None:
    """Write a file and have it on the disk before returning."""
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Have a folder's entries on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(root: Path, snapshot: Snapshot) -> bool:
    folder = root / schema.MANIFEST
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        sync_write(temporary, json.dumps(asdict(snapshot), indent=1).encode())
        try:
            os.link(temporary, _file(root, snapshot.snapshot))
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    _write_hint(folder, snapshot.snapshot)
    return True


def _write_hint(folder: Path, number: int) -> None:
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    temporary.write_text(str(number))
    temporary.replace(folder / "latest")


def _file(root: Path, number: int) -> Path:
    return root / schema.MANIFEST / f"{number:012d}.json"


def _part(values: Mapping[str, Any]) -> PartEntry:
    return PartEntry(
        **{
            **values,
            "sources": tuple(SourceFile(**source) for source in values["sources"]),
            "index": ObjectRef(**values["index"]),
            "objects": ObjectRef(**values["objects"]),
        }
    )


def _paths(snapshot: Snapshot) -> list[str]:
    paths = [snapshot.genes.path]
    for part in snapshot.parts:
        paths += [part.path, part.index.path, part.objects.path]
    return paths


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
