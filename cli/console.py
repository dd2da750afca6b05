"""What a person sees: progress, results, errors. Results go to stdout, the rest to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars

from cellplm.logs import OnProgress, Progress, set_level

PLAIN_EVERY_S = 5.0

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more (-vv: all).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")]

DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto: a GPU if there is one.")
]

stdout = Console(soft_wrap=True, highlight=False)
stderr = Console(stderr=True, soft_wrap=True, highlight=False)


def emit_json(document: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def emit(text: Any) -> None:
    """A line or a rich table on stdout."""
    stdout.print(text)


@contextmanager
def watch(*, verbose: int = 0, quiet: bool = False) -> Iterator[OnProgress]:
    """Set the log level, and show progress while the block runs.

    Bars on a terminal; elsewhere a plain line every few seconds and when a piece of work ends.
    """
    set_level(-1 if quiet else verbose)
    try:
        if quiet:
            yield lambda _: None
        elif stderr.is_terminal:
            with _bars() as bars:
                yield _Drawn(bars)
        else:
            yield _Plain()
    except KeyboardInterrupt:
        # typer makes exit code 130 of it, and says nothing.
        sys.stderr.write("stopped; nothing is half-written. Run the same command again.\n")
        raise


class _Plain:
    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        ended = 0 < progress.total <= progress.done
        if not ended and now - self._last.get(progress.what, 0.0) < PLAIN_EVERY_S:
            return
        self._last[progress.what] = now
        of = f"/{progress.total:,}" if progress.total else ""
        done = f" {progress.done:,}{of}" if progress.done or progress.total else ""
        note = f" ({progress.note})" if progress.note else ""
        sys.stderr.write(f"{progress.what}{done}{note}\n")
        sys.stderr.flush()


class _Drawn:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.what not in self._tasks:
            # One line at a time: what came before is over when something new begins.
            for task in self._tasks.values():
                self._bars.update(task, visible=False)
            self._tasks[progress.what] = self._bars.add_task(progress.what, note="")
        self._bars.update(
            self._tasks[progress.what],
            completed=progress.done,
            total=progress.total or None,
            note=progress.note,
        )


def _bars() -> Bars:
    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=stderr,
        transient=True,
    )
