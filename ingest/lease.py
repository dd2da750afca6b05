"""The mark that an ingest leaves in a corpus while it writes, and what it clears away.

A lease has a heartbeat and names the parts being written, so that whoever deletes what no
snapshot names spares them. A lease of a process that died is cleared by the next ingest, with
the parts it had begun.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import socket
import threading
import time
import uuid
from pathlib import Path

from cellplm.corpus import manifest, schema
from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.corpus.writer import abandon
from cellplm.errors import CorpusError
from cellplm.ingest.bring import attempts

BEAT_S = 60
LEASE_S = 3600
"""A lease without a heartbeat for this long belongs to a process that died."""


class Lease:
    """The corpus, created if need be, and our mark in it that parts are being written."""

    def __init__(self, root: Path, genes: GeneIndex) -> None:
        """Open or create the corpus; the mark is made on entering."""
        self.write_id = uuid.uuid4().hex
        self.root = root
        self.created = not root.exists()
        if self.created:
            Corpus.create(root, genes, writer=self.write_id)
        self.path = root / schema.LEASES / f"{self.write_id}.json"
        self.workplace = root / schema.SPILL / self.write_id
        self._done = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Lease:
        """Clear what dead processes left, and make the mark."""
        sweep(self.root)
        self._write()
        self.workplace.mkdir(parents=True)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take away the mark, parts that were not committed, and a corpus made for nothing."""
        self._done.set()
        self._heart.join()
        _clear(self.root, self.workplace)
        self.path.unlink(missing_ok=True)
        # Nothing came in, and nobody else is at work in it: it never was.
        alone = not any((self.root / schema.LEASES).iterdir())
        if self.created and alone and not manifest.latest(self.root).parts:
            shutil.rmtree(self.root)

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            # A full disk must not end the heart: the next beat may find room.
            with contextlib.suppress(OSError):
                self._write()

    def _write(self) -> None:
        values = {
            "write_id": self.write_id,
            "host": _machine(),
            "pid": os.getpid(),
            "parts": attempts(self.workplace),
            "heartbeat": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(values))
        temporary.replace(self.path)


def sweep(root: Path) -> None:
    """Delete what killed ingests left: their temporary files, and parts no snapshot names."""
    folder = root / schema.SPILL
    for workplace in folder.iterdir() if folder.exists() else ():
        lease = root / schema.LEASES / f"{workplace.name}.json"
        if _is_dead(lease):
            _clear(root, workplace)
            lease.unlink(missing_ok=True)


def _is_dead(lease: Path) -> bool:
    try:
        held = json.loads(lease.read_text())
        silent_s = time.time() - lease.stat().st_mtime
    except FileNotFoundError:
        return True
    except ValueError:  # another program's file
        return False
    here = held.get("host") == _machine() and isinstance(held.get("pid"), int)
    return silent_s > LEASE_S or (here and not _runs(held["pid"]))


def _machine() -> str:
    """Where a process id means the same process: containers may share a host's name."""
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{name} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    return name


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _clear(root: Path, workplace: Path) -> None:
    begun = set(attempts(workplace))
    if begun:
        try:
            begun -= manifest.parts_ever(root)
        except CorpusError:  # a snapshot cannot be read: better to keep too much
            begun = set()
    for part_id in begun:
        abandon(root, part_id)
    shutil.rmtree(workplace, ignore_errors=True)
