"""Run the command line here, as `python -m cellplm` does, and look at what it wrote."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cellplm.cli.main import main

TINY = (
    "model.width=16", "model.n_heads=2", "model.n_layers=1", "model.n_latent=6",
    "model.n_components=3", "model.n_bottleneck=5", "data.window=30", "train.threads=1",
    "train.log_every=1",
)  # fmt: skip
"""Assignments that make a model small; two arguments each."""

PROGRESS = re.compile(r"(check|read|sort|write|embed|pretrain|fine-tune) ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Stdout as JSON; fails if there is anything else on it."""
        return json.loads(self.out)

    def assert_error(self, *words: object, code: int = 1) -> None:
        """One line on stderr, after any progress, that has these words; nothing on stdout."""
        assert self.code == code, self.err
        assert self.out == ""
        lines = [line for line in self.err.splitlines() if not PROGRESS.match(line)]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert self.err.endswith(f"{lines[0]}\n")
        for word in words:
            assert str(word) in lines[0], lines[0]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """Run `cellplm ARGUMENTS` in this process."""
    capsys.readouterr()
    code = _run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return Ran(code=code, out=captured.out, err=captured.err)


def tiny(*more: str) -> list[str]:
    """--set for a small model."""
    return [word for assignment in (*TINY, *more) for word in ("--set", assignment)]


def make_run(corpus: Path, out: Path, *arguments: str) -> Path:
    """A run of a few steps, by the command."""
    words = ["pretrain", str(corpus), "--out", str(out), "--gpus", "0", "--max-steps", "3", "-q"]
    assert _run([*words, *tiny(), *arguments]) == 0
    return out


def _run(arguments: list[str]) -> int:
    try:
        with _as_a_process(["cellplm", *arguments]):
            main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@contextmanager
def _as_a_process(argv: list[str]) -> Iterator[None]:
    """The arguments, and no log handler that writes to what stderr was before or after."""
    logger, before = logging.getLogger("cellplm"), sys.argv
    level = logger.level
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = before
        logger.handlers.clear()
        logger.setLevel(level)
