"""Where the tasks of an ingest run: here, in processes of this machine, or on a Dask cluster.

All three are a `concurrent.futures.Executor`, so what runs on them does not know which it is.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from cellplm.errors import ConfigError

MAX_WORKERS = 8
WORTH_BYTES = 256 * 2**20
"""Sources of less than this are read sooner than processes start."""

CONNECT_S = 10
RETRIES = 3
"""Of a task on the cluster whose worker died."""


def workers_for(asked: int | None, n_bytes: int) -> int:
    """How many processes to use.

    Args:
        asked: by the user; None: as many as cores, up to 8, where there is enough to do.
        n_bytes: of all sources together.
    """
    if asked is not None:
        return asked
    return min(MAX_WORKERS, os.cpu_count() or 1) if n_bytes > WORTH_BYTES else 1


@contextmanager
def pool(workers: int, scheduler: str | None) -> Iterator[Executor]:
    """An executor for as long as the block runs; what has not begun when it ends is dropped.

    Args:
        workers: processes; 1: this one.
        scheduler: address of a Dask scheduler, whose workers are used instead.

    Raises:
        ConfigError: no scheduler answers there.
    """
    if scheduler is not None:
        with _cluster(scheduler) as executor:
            yield executor
        return
    # Not forked: threads of the libraries that we hold would be missing in the children.
    spawned = multiprocessing.get_context("spawn")
    executor = Here() if workers == 1 else ProcessPoolExecutor(workers, mp_context=spawned)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class Here(Executor):
    """Runs a task when it is handed in."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The outcome of calling `fn`; Ctrl-C goes through."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    from distributed import Client

    try:
        client = Client(  # type: ignore[no-untyped-call]
            address, timeout=CONNECT_S, set_as_default=False
        )
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(
            f"--scheduler {address}: no Dask scheduler answers there ({error}); start one with "
            "`dask scheduler`, and workers that see the same files with `dask worker ADDRESS`."
        ) from None
    with client:
        executor: Executor = client.get_executor(  # type: ignore[no-untyped-call]
            retries=RETRIES, pure=False
        )
        with executor:
            yield executor
