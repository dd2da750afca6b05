"""metrics.jsonl: one JSON object a logged step, cut back when a run resumes; and its clock."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class MetricsFile:
    """Appends lines; each is on its way to the disk when `write` returns.

    Args:
        path: the file, made if it is not there.
        step: lines of later steps, and a torn last line, are cut off: that work is lost and will
            be done again.
    """

    def __init__(self, path: Path, step: int) -> None:
        """Open for appending."""
        kept = b"".join(line for line in _lines(path) if _step_of(line) <= step)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(kept)
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one object."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Clock:
    """Cells, and seconds spent in all and in waiting for data, since the last logged step."""

    def __init__(self) -> None:
        """Begin to count."""
        self.restart()

    def restart(self) -> None:
        """Begin to count anew."""
        self.began = time.perf_counter()
        self.waited_s = 0.0
        self.cells = 0

    def seconds(self) -> float:
        """Since the last restart; never 0."""
        return max(time.perf_counter() - self.began, 1e-9)


def memory_mb(device: torch.device) -> float:
    """Most memory held so far: allocated on the GPU, or resident on the CPU (Linux: kB)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _step_of(line: bytes) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
