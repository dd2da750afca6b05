"""Ctrl-C and SIGTERM, heard between steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupt:
    """Attributes: requested, whether somebody has asked to stop."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.requested = False


@contextmanager
def listen() -> Iterator[Interrupt]:
    """Note SIGINT and SIGTERM while the block runs; a second one acts as it always does.

    Outside the main thread signals cannot be had, and nothing is ever requested.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in signals}

    def note(number: int, _: FrameType | None) -> None:
        interrupt.requested = True
        signal.signal(number, before[number])

    for number in signals:
        signal.signal(number, note)
    try:
        yield interrupt
    finally:
        for number in signals:
            signal.signal(number, before[number])
