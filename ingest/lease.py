"""The mark that an ingest leaves in a corpus while it writes, and what it clears away.

A lease names the parts being written and has a heartbeat, so that whoever deletes what no
snapshot names spares them; a lease without one belongs to a process that died.
"""

from __future__ import annotations

import datetime
import json
import math
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
        self.spill = root / schema.SPILL / self.write_id
        self.parts: list[str] = []
        self._beaten = -math.inf
        # Shards are written by several threads, and each beats.
        self._lock = threading.Lock()

    def __enter__(self) -> Lease:
        """Clear what dead processes left, and make the mark."""
        self._sweep()
        self.beat()
        self.spill.mkdir(parents=True)
        return self

    def beat(self, part_id: str | None = None) -> None:
        """Say that we live, and which parts are ours; at most once in BEAT_S without news."""
        with self._lock:
            if part_id is not None:
                self.parts.append(part_id)
            elif time.monotonic() - self._beaten < BEAT_S:
                return
            self._beaten = time.monotonic()
            self._write()

    def _write(self) -> None:
        values = {
            "write_id": self.write_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "parts": self.parts,
            "heartbeat": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(values))
        temporary.replace(self.path)

    def __exit__(self, *_: object) -> None:
        """Take the mark away, and a corpus that was made for nothing."""
        shutil.rmtree(self.spill, ignore_errors=True)
        self.path.unlink(missing_ok=True)
        # Nothing came in, and nobody else is at work in it: it never was.
        alone = not any((self.root / schema.LEASES).iterdir())
        if self.created and alone and not manifest.latest(self.root).parts:
            shutil.rmtree(self.root)

    def _sweep(self) -> None:
        """Delete what killed runs were sorting."""
        folder = self.root / schema.SPILL
        for stale in folder.iterdir() if folder.exists() else ():
            lease = self.root / schema.LEASES / f"{stale.name}.json"
            if not lease.exists() or time.time() - lease.stat().st_mtime > LEASE_S:
                shutil.rmtree(stale, ignore_errors=True)
                lease.unlink(missing_ok=True)
