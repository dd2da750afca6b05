"""Logging and progress, without a say in how either looks.

Libraries log through `logging.getLogger(__name__)` and report progress through a
callback; only the command line sets handlers and draws.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a piece of work is.

    Attributes:
        what: the work, in a few words ("ingest baron: sort").
        done: units finished.
        total: units in all; 0 where it is not known.
        note: figures worth showing ("loss 0.31, 840 cells/s").
    """

    what: str
    done: int
    total: int
    note: str = ""


OnProgress = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """The callback of those who do not watch."""


def set_level(verbosity: int) -> None:
    """Send the package's log to stderr: -1 errors, 0 warnings and progress, 1 info, 2 debug."""
    levels = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}
    logger = logging.getLogger("cellplm")
    logger.setLevel(levels.get(verbosity, logging.DEBUG))
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
