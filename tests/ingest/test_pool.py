"""The same corpus comes out wherever the tasks run, and whoever dies on the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellplm.corpus import schema
from cellplm.corpus.reader import Corpus
from cellplm.errors import ConfigError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.options import IngestOptions
from tests.make import make_adata, write_h5ad

N_SETS = 4


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four data sets, large enough to be caught at work."""
    folder = tmp_path_factory.mktemp("raw")
    for seed in range(N_SETS):
        write_h5ad(folder / f"set{seed}.h5ad", make_adata(samples=(1800, 1200), seed=seed))
    return folder


def objects_of_x(root: Path) -> dict[str, list[str]]:
    """The hashes of the objects of every part's X, which do not depend on ids and times."""
    out = {}
    for part in Corpus.open(root).parts:
        out[part.entry.name] = sorted(
            f"{each['path'].split('/X/')[1]} {each['sha256']}"
            for each in part.objects
            if "/X/" in each["path"]
        )
        out[part.entry.name].append(part.entry.content)
    return out


def assert_nothing_is_left(root: Path) -> None:
    named = {part.entry.id for part in Corpus.open(root).parts}
    assert {path.name for path in (root / schema.PARTS).iterdir()} == named
    assert {path.name.split(".npz")[0] for path in (root / schema.INDEX).glob("*.npz")} == named
    assert not list((root / schema.LEASES).iterdir())
    assert not list((root / schema.SPILL).iterdir())


@pytest.fixture(scope="module")
def unbroken(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What a run in one process makes of them."""
    out = tmp_path_factory.mktemp("out") / "c.zarr"
    ingest_files([raw], out, IngestOptions(workers=1))
    return objects_of_x(out)


@pytest.mark.parametrize("stash_values", [2**20, 10_000])
def test_processes_make_the_same_corpus(
    raw: Path, tmp_path: Path, unbroken: dict[str, list[str]], stash_values: int
) -> None:
    out = tmp_path / "c.zarr"
    report = ingest_files([raw], out, IngestOptions(workers=2, stash_values=stash_values))
    assert [each.name for each in report.ingested] == [f"set{i}" for i in range(N_SETS)]
    assert objects_of_x(out) == unbroken
    assert_nothing_is_left(out)


def test_large_data_sets_in_small_shards_make_the_same_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = make_adata(samples=(1200, 800))
    path = write_h5ad(tmp_path / "a.h5ad", adata)
    monkeypatch.setattr(schema, "CHUNK_VALUES", 128)
    monkeypatch.setattr(schema, "SHARD_VALUES", 1024)
    monkeypatch.setattr("cellplm.ingest.readers.h5ad.ROW_VALUES", 1024)
    seen = []
    ingest_files(
        [path],
        tmp_path / "c.zarr",
        IngestOptions(workers=1, stash_values=2048),
        on_progress=lambda progress: seen.append(progress.what),
    )
    (part,) = Corpus.open(tmp_path / "c.zarr").parts
    assert np.array_equal(part.to_anndata().X.toarray(), adata.X.toarray())
    assert seen.count("write a") > 5
    assert_nothing_is_left(tmp_path / "c.zarr")


def test_a_refused_set_among_good_ones_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    bad = make_adata(seed=9)
    bad.X = bad.X * 0.5
    path = write_h5ad(tmp_path / "bad.h5ad", bad)
    out = tmp_path / "c.zarr"
    with pytest.raises(ValueError, match=r"bad\.h5ad"):
        ingest_files([raw, path], out, IngestOptions(workers=2))
    assert not out.exists()


def test_atomic_makes_one_snapshot_of_all(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    report = ingest_files([raw], out, IngestOptions(workers=1, atomic=True))
    assert report.snapshot == 2
    assert len(Corpus.open(out).parts) == N_SETS
    assert not Corpus.open(out, snapshot=1).parts


def killed_when(command: list[str], root: Path, ripe: Callable[[Path], bool]) -> bool:
    """Start a command, kill it once `ripe`; whether it was killed before it ended."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        if ripe(root):
            child.send_signal(signal.SIGKILL)
            child.wait()
            return True
        time.sleep(0.002)
    return False


def count(root: Path, pattern: str) -> int:
    return len(list(root.glob(pattern)))


@pytest.mark.parametrize(
    ("on_error", "ripe"),
    [
        ("fail", lambda root: count(root, "spill/*/attempts/*") >= 1),
        ("fail", lambda root: count(root, "parts/*/X/data/c/0") >= 2),
        ("skip", lambda root: count(root, "index/*.objects.json") >= 2),
        ("fail", lambda root: count(root, "manifest/000000000002.json") >= 1),
        ("skip", lambda root: count(root, "manifest/000000000003.json") >= 1),
    ],
    ids=["part begun", "second shard", "second part listed", "first commit", "second commit"],
)
def test_a_run_that_was_killed_and_repeated_ends_as_an_unbroken_one(
    raw: Path,
    tmp_path: Path,
    unbroken: dict[str, list[str]],
    on_error: str,
    ripe: Callable[[Path], bool],
) -> None:
    out = tmp_path / "c.zarr"
    command = [sys.executable, "-m", "cellplm", "ingest", str(raw), "--out", str(out)]
    command += ["--workers", "1", "--on-error", on_error]
    killed_when(command, out, ripe)
    if out.exists():
        names = {part.entry.name for part in Corpus.open(out).parts}
        assert names <= set(unbroken)
    subprocess.run(command, check=True, capture_output=True)
    assert objects_of_x(out) == unbroken
    assert_nothing_is_left(out)


@contextlib.contextmanager
def started(folder: Path, module: str, *arguments: str) -> Iterator[subprocess.Popen[Any]]:
    command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
    with (folder / f"{module}-{time.time_ns()}.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[Any]]]]:
    """A Dask scheduler and two workers, each a process of its own; its address."""
    file = tmp_path / "scheduler.json"
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            started(
                tmp_path,
                "dask_scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--no-dashboard",
                "--scheduler-file",
                str(file),
            )  # fmt: skip
        )
        until = time.monotonic() + 60
        while not file.exists() or not file.read_text().strip():
            assert time.monotonic() < until, "the scheduler did not start"
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        workers = [
            stack.enter_context(
                started(
                    tmp_path,
                    "dask_worker",
                    address,
                    "--host",
                    "127.0.0.1",
                    "--nthreads",
                    "1",
                    "--no-dashboard",
                    "--no-nanny",
                    "--local-directory",
                    str(tmp_path / f"worker{number}"),
                )  # fmt: skip
            )
            for number in range(2)
        ]
        yield address, workers


def test_a_dask_cluster_makes_the_same_corpus_though_a_worker_is_killed(
    raw: Path,
    tmp_path: Path,
    unbroken: dict[str, list[str]],
    cluster: tuple[str, list[subprocess.Popen[Any]]],
) -> None:
    address, workers = cluster
    out = tmp_path / "c.zarr"
    killed: list[int] = []

    def kill_one() -> None:
        while not killed:
            if count(out, "spill/*/attempts/*") >= 2 and not list(out.glob("manifest/*3.json")):
                os.kill(workers[0].pid, signal.SIGKILL)
                killed.append(workers[0].pid)
            time.sleep(0.002)

    watcher = threading.Thread(target=kill_one, daemon=True)
    watcher.start()
    report = ingest_files([raw], out, IngestOptions(scheduler=address, on_error="skip"))
    watcher.join(timeout=1)
    assert killed
    assert [each.name for each in report.ingested] == [f"set{i}" for i in range(N_SETS)]
    assert objects_of_x(out) == unbroken
    assert_nothing_is_left(out)


def test_a_scheduler_that_is_not_there_is_one_line(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellplm.ingest.pool.CONNECT_S", 1)
    with pytest.raises(ConfigError, match=r"tcp://127\.0\.0\.1:1: no Dask scheduler") as caught:
        ingest_files([raw], tmp_path / "c.zarr", IngestOptions(scheduler="tcp://127.0.0.1:1"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c.zarr").exists()
