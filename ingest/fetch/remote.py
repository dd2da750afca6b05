"""Download what an address names: a file, or a prefix of a bucket as the folder that it is.

An object store is asked for a file first, then for what is below that name; a prefix comes
whole and with its structure (a Zarr store, a 10x folder). A web server cannot list a folder, so
https:// names one file. Credentials, endpoint and region come from the environment, as obstore
takes them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,
AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, and AWS_SKIP_SIGNATURE=true for what is public;
GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT, GOOGLE_SKIP_SIGNATURE=true. Profiles in
~/.aws are not read.

The bytes stream to a temporary name, which becomes the real one once their number is the one
that was announced; a connection that breaks is taken up again where the server can do that.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import GCSStore, HTTPStore, S3Store

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.fetch.address import Address, file_name
from cellplm.ingest.fetch.limits import Limits, check_room, told_bytes
from cellplm.ingest.fetch.names import Names, told_name
from cellplm.ingest.fetch.pieces import read_pieces
from cellplm.ingest.fetch.unreachable import unreachable
from cellplm.logs import OnProgress, Progress, ignore

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, ClientConfig, RetryConfig

_N_STREAMS = 8
_CHUNK = 8 << 20
_CONNECT_S = 10
_LONGEST = timedelta(days=2)
"""For one file; obstore's own 30 s would cut off every large one."""
_BACKOFF: BackoffConfig = {
    "init_backoff": timedelta(milliseconds=200),
    "max_backoff": timedelta(seconds=10),
    "base": 2,
}


def download(
    address: Address,
    into: Path,
    *,
    limits: Limits | None = None,
    on_progress: OnProgress = ignore,
) -> Path:
    """Bring a file or a folder to the disk.

    Args:
        address: not of the file:// scheme.
        into: a folder that exists; what comes goes below it under its own name.
        limits: what it may take.
        on_progress: told the bytes so far.

    Returns:
        The file or folder.

    Raises:
        MissingFileError: there is nothing of that name.
        InputError: it cannot be had, in one line with what to do; nothing is left behind.
    """
    temporary = Path(tempfile.mkdtemp(prefix=".download-", dir=into))
    transfer = _Transfer(address, temporary, limits or Limits(), on_progress)
    try:
        name = _from_web(transfer) if address.scheme.startswith("http") else _from_bucket(transfer)
        place = into / name
        if place.exists():
            place = Path(tempfile.mkdtemp(dir=into)) / name
        (temporary / name).rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place


class _Transfer:
    """What one address has brought so far."""

    def __init__(
        self, address: Address, folder: Path, limits: Limits, on_progress: OnProgress
    ) -> None:
        self.address = address
        self.folder = folder
        self.limits = limits
        self._on_progress = on_progress
        self._n_bytes = 0
        self._n_announced = 0
        self._stopped = False
        self._lock = threading.Lock()

    def announce(self, n_bytes: int) -> None:
        """Refuse what is too much before it comes.

        Raises:
            InputError: it passes a limit or does not fit on the disk.
        """
        shown, most = self.address.shown, self.limits.max_bytes
        if n_bytes > most:
            raise InputError(
                f"{shown}: has {told_bytes(n_bytes)}, more than {told_bytes(most)}; download it "
                "yourself and give the folder"
            )
        check_room(self.folder, n_bytes, self.limits, shown)
        self._n_announced = n_bytes

    def save(self, chunks: Iterable[bytes], name: str | Path, n_announced: int | None) -> None:
        """Write one file; called by several threads at once.

        Raises:
            InputError: other than `n_announced` bytes came, or they cannot be written.
        """
        n = unlooked = 0
        with self._writing(name):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            out = path.open("xb")
        with out:
            for chunk in chunks:
                with self._writing(name):
                    out.write(chunk)
                n += len(chunk)
                unlooked += len(chunk)
                if n_announced is None and unlooked > 8 * _CHUNK:
                    self.announce(n)
                    unlooked = 0
                with self._lock:
                    self._n_bytes += len(chunk)
                if self._stopped:
                    return
        if n_announced not in (None, n):
            raise InputError(
                f"{self.address.shown}: {n:,} bytes of {told_name(str(name))} came, but "
                f"{n_announced:,} were announced; try again"
            )

    def run(self, jobs: Iterable[Callable[[], None]]) -> None:
        """Do the jobs in a few threads, never many at once in the queue, and tell how far it is."""
        waiting: set[Future[None]] = set()
        with ThreadPoolExecutor(_N_STREAMS) as pool:
            try:
                for job in jobs:
                    waiting.add(pool.submit(job))
                    while len(waiting) >= 4 * _N_STREAMS:
                        waiting = self._settle(waiting)
                while waiting:
                    waiting = self._settle(waiting)
            except BaseException:
                self._stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _settle(self, waiting: set[Future[None]]) -> set[Future[None]]:
        done, rest = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
        for each in done:
            each.result()
        what = f"download {self.address.shown}"
        self._on_progress(Progress(what=what, done=self._n_bytes, total=self._n_announced))
        return rest

    @contextmanager
    def _writing(self, name: str | Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            twice = "; this disk does not tell upper from lower case"
            raise InputError(
                f"{self.address.shown}: {told_name(str(name))} cannot be written below "
                f"{self.folder.parent}: {error.strerror or error}"
                f"{twice * isinstance(error, FileExistsError)}; make room there"
            ) from None

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Errors of obstore in our words."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise unreachable(str(error), self.address, self.limits) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Object:
    key: str
    n_bytes: int


def _from_bucket(transfer: _Transfer) -> str:
    """Bring one object, or all below a prefix; the name of the file or folder."""
    address = transfer.address
    kind = S3Store if address.scheme == "s3" else GCSStore
    with transfer.asking():
        store = kind(
            address.place,
            config=_settings(address, transfer.limits),
            retry_config=_retries(transfer.limits),
        )
    root = address.key.rpartition("/")[2] or address.place
    found = [] if address.is_folder else _exactly(store, transfer)
    objects = found or _below(store, transfer)
    transfer.announce(sum(each.n_bytes for each in objects))
    names = Names(address.shown)

    def jobs() -> Iterator[Callable[[], None]]:
        for each in objects:
            inside = each.key[len(address.key) :].strip("/")
            path = names.take(root if found else f"{root}/{inside}", folder=False)
            if path is not None:
                yield _Fetch(transfer=transfer, store=store, wanted=each, path=Path(path))

    transfer.run(jobs())
    if not (transfer.folder / root).exists():
        raise MissingFileError(f"{address.shown}: holds no file; check the address")
    return root


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fetch:
    """The job of bringing one object."""

    transfer: _Transfer
    store: Any
    wanted: _Object
    path: Path

    def __call__(self) -> None:
        # What stands for a folder is an object of no bytes that cannot be got: its name is told
        # without the "/" at its end. So what has no bytes is not asked for.
        chunks: Iterable[bytes] = ()
        if self.wanted.n_bytes:
            with self.transfer.asking():
                result = obstore.get(self.store, self.wanted.key)
            chunks = _chunks(result, self.transfer)
        self.transfer.save(chunks, self.path, self.wanted.n_bytes)


def _exactly(store: Any, transfer: _Transfer) -> list[_Object]:
    """The object of just this key, if there is one."""
    key = transfer.address.key
    try:
        with transfer.asking():
            return [_Object(key=key, n_bytes=obstore.head(store, key)["size"])]
    except MissingFileError:
        return []


def _below(store: Any, transfer: _Transfer) -> list[_Object]:
    """The objects below the prefix, without those that stand for folders that hold something."""
    address, most = transfer.address, transfer.limits.max_entries
    found: list[_Object] = []
    with transfer.asking():
        for listed in obstore.list(store, address.key or None, chunk_size=1000):
            found += [_Object(key=each["path"], n_bytes=each["size"]) for each in listed]
            if len(found) > most:
                raise InputError(
                    f"{address.shown}: more than {most:,} files; download it yourself and give "
                    "the folder"
                )
    if not found:
        raise MissingFileError(
            f"{address.shown}: no file and no folder of that name; check the address"
        )
    folders = {each.key.rpartition("/")[0] for each in found}
    return [each for each in found if each.n_bytes or each.key not in folders]


def _from_web(transfer: _Transfer) -> str:
    """Bring one file; its name."""
    address, limits = transfer.address, transfer.limits
    if address.is_folder:
        raise InputError(
            f"{address.shown}: is a folder, which a web server cannot list; give the address of "
            "a file or an archive"
        )
    options: ClientConfig = {**_times(limits), "allow_http": address.scheme == "http"}
    try:
        store = HTTPStore(address.url, client_options=options, retry_config=_retries(limits))
        result = obstore.get(store, "")
    except (BaseError, OSError, ValueError) as error:
        if "Content-Length Header missing" not in str(error):
            raise unreachable(str(error), address, limits) from None
        with read_pieces(address, limits) as (headers, pieces):
            return _save_one(transfer, headers, pieces, None)
    transfer.announce(result.meta["size"])
    headers = {key.lower(): value for key, value in result.attributes.items()}
    return _save_one(transfer, headers, _chunks(result, transfer), result.meta["size"])


def _save_one(
    transfer: _Transfer, headers: dict[str, str], chunks: Iterable[bytes], n_bytes: int | None
) -> str:
    name = file_name(transfer.address, headers.get("content-disposition"))
    _check_kind(headers, name, transfer.address)
    transfer.run([lambda: transfer.save(chunks, name, n_bytes)])
    return name


def _check_kind(headers: dict[str, str], name: str, address: Address) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise InputError(
            f"{address.shown}: is a web page, no data file; give the address of the file itself, "
            "which the page's download button leads to"
        )
    packed = headers.get("content-encoding", "identity").lower()
    if packed != "identity" and not name.lower().endswith((".gz", ".tgz")):
        raise InputError(
            f"{address.shown}: the server sends {name} packed ({packed}); download it yourself"
        )


def _chunks(result: Any, transfer: _Transfer) -> Iterator[bytes]:
    stream = result.stream(min_chunk_size=_CHUNK)
    while True:
        with transfer.asking():
            chunk = next(stream, None)
        if chunk is None:
            return
        yield chunk


def _settings(address: Address, limits: Limits) -> Any:
    """Times to wait, but for those that the environment sets (AWS_TIMEOUT, GOOGLE_TIMEOUT)."""
    prefix = {"s3": "AWS_", "gs": "GOOGLE_"}[address.scheme]
    given = {name.upper() for name in os.environ}
    times = _times(limits).items()
    return {name: value for name, value in times if prefix + name.upper() not in given}


def _times(limits: Limits) -> ClientConfig:
    return {
        "timeout": f"{_LONGEST.days} days",
        "read_timeout": f"{limits.silence_s * 1000:.0f} ms",
        "connect_timeout": f"{_CONNECT_S} s",
    }


def _retries(limits: Limits) -> RetryConfig:
    return {"max_retries": limits.n_retries, "backoff": _BACKOFF, "retry_timeout": _LONGEST}
