"""Commits are all kept, in one line, and never half there."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from cellplm.corpus import manifest, schema
from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.manifest import ObjectRef, PartEntry, Snapshot
from cellplm.corpus.reader import Corpus
from cellplm.errors import CorruptCorpusError, NotACorpusError


def entry(name: str) -> PartEntry:
    return PartEntry(
        id=name, path=f"parts/{name}", name=name, modality="scrna", platform="x",
        species="human", n_obs=1, n_kept=1, n_vars=1, n_genes=1, nnz=1, n_tissues=1,
        content=name, sources=(), index=ObjectRef(path=f"index/{name}.npz", sha256="0"),
        objects=ObjectRef(path=f"index/{name}.objects.json", sha256="0"),
    )  # fmt: skip


def add(root: Path, name: str) -> Snapshot:
    def change(parent: Snapshot) -> Snapshot:
        return replace(parent, parts=(*parent.parts, entry(name)))

    return manifest.commit(root, change, operation="ingest", writer=name)


def add_many(root: Path, writer: int, n: int) -> None:
    for number in range(n):
        add(root, f"w{writer}-{number}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Corpus.create(tmp_path / "c.zarr", GeneIndex.bundled(), writer="w").path


def test_a_new_corpus_has_an_empty_first_snapshot(root: Path) -> None:
    snapshot = manifest.latest(root)
    assert (snapshot.snapshot, snapshot.parent, snapshot.parts) == (1, None, ())


def test_snapshots_read_back_as_written(root: Path) -> None:
    committed = add(root, "a")
    assert manifest.load(root, committed.snapshot) == committed == manifest.latest(root)


def test_four_writers_lose_no_commit(root: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=add_many, args=(root, k, 8)) for k in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
        assert each.exitcode == 0
    newest = manifest.latest(root)
    assert newest.snapshot == 1 + 32
    assert {p.name for p in newest.parts} == {f"w{k}-{n}" for k in range(4) for n in range(8)}
    for number in range(2, newest.snapshot + 1):
        snapshot = manifest.load(root, number)
        before = manifest.load(root, number - 1)
        assert snapshot.parent == number - 1
        assert snapshot.parts[:-1] == before.parts


def test_an_old_snapshot_stays_readable(root: Path) -> None:
    add(root, "a")
    add(root, "b")
    assert [p.name for p in manifest.load(root, 2).parts] == ["a"]


@pytest.mark.parametrize("hint", ["1", "999", "nonsense", None])
def test_the_hint_is_only_a_hint(root: Path, hint: str | None) -> None:
    add(root, "a")
    add(root, "b")
    if hint is None:
        (root / schema.LATEST).unlink()
    else:
        (root / schema.LATEST).write_text(hint)
    assert manifest.latest(root).snapshot == 3


def test_no_temporary_file_is_left(root: Path) -> None:
    add(root, "a")
    assert sorted(p.name for p in (root / schema.MANIFEST).iterdir()) == [
        "000000000001.json",
        "000000000002.json",
        "latest",
    ]


@pytest.mark.parametrize("path", ["../x", "/etc/x", "parts/../../x", "./parts/x", "a//b"])
def test_a_path_that_leaves_the_corpus_is_refused(root: Path, path: str) -> None:
    add(root, "a")
    file = root / schema.MANIFEST / "000000000002.json"
    values = json.loads(file.read_bytes())
    values["parts"][0]["path"] = path
    file.write_text(json.dumps(values))
    with pytest.raises(CorruptCorpusError, match="leaves the corpus"):
        manifest.latest(root)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"snapshot": 2}'])
def test_a_torn_snapshot_is_named(root: Path, raw: bytes) -> None:
    (root / schema.MANIFEST / "000000000002.json").write_bytes(raw)
    with pytest.raises(CorruptCorpusError, match=r"000000000002\.json"):
        manifest.latest(root)


def test_a_snapshot_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(NotACorpusError, match="snapshot 7"):
        Corpus.open(root, snapshot=7)
