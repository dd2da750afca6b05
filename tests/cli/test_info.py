"""`cellplm info`: what a corpus holds, and what is no corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellplm.corpus.reader import Corpus
from tests.cli.make import run
from tests.make import make_adata, make_corpus

KEYS = set("snapshot format_version n_obs n_genes nnz n_tissues bytes modalities parts".split())
PART_KEYS = set(
    "id name path modality platform species n_obs n_kept n_vars n_genes nnz n_tissues bytes".split()
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("info"))


def test_the_document_adds_up(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    document = run(capsys, "info", corpus.path, "--json").document
    assert set(document) >= KEYS
    parts = document["parts"]
    assert all(set(part) >= PART_KEYS for part in parts)
    assert document["n_obs"] == 180 == sum(part["n_obs"] for part in parts)
    assert document["nnz"] == sum(part["nnz"] for part in parts)
    assert document["n_tissues"] == sum(part["n_tissues"] for part in parts)
    assert document["modalities"] == {"scrna": 100, "srt": 80}
    # The 30 genes of the slide are among the 50 of the other.
    assert document["n_genes"] == 50
    for part in parts:
        files = [path for path in (corpus.path / part["path"]).rglob("*") if path.is_file()]
        assert part["bytes"] == sum(path.stat().st_size for path in files)


def test_an_earlier_snapshot_can_be_looked_at(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    last = corpus.snapshot.snapshot
    earlier = run(capsys, "info", corpus.path, "--snapshot", last - 1, "--json").document
    assert earlier["snapshot"] == last - 1
    assert len(earlier["parts"]) == 1
    run(capsys, "info", corpus.path, "--snapshot", 99).assert_error(corpus.path, "99")


def test_a_person_sees_a_table(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "info", corpus.path)
    assert shown.code == 0
    for word in ("set0", "set1", "180 cells", "50 genes"):
        assert word in shown.out


def test_what_is_no_corpus_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "info", tmp_path / "absent", "--json").assert_error(
        tmp_path / "absent", "cellplm ingest"
    )
    run(capsys, "info", tmp_path).assert_error(tmp_path, "no cellplm corpus")


def test_the_gene_report_is_one_document(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    document = run(capsys, "info", corpus.path, "--genes", "set0", "--json").document
    assert document["name"] == "set0"
    assert document["n_vars"] == 50 == sum(document["kinds"].values())
    assert document["matches"]["id"] == 50 == document["n_in_vocabulary"]
    assert document["unmapped"] == document["renamed"] == document["ambiguous"] == []


def test_a_person_sees_counts_and_the_first_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata = make_adata()
    adata.var_names = ["CD3E", "LYZ", "[red]", "DDX58", *[f"odd{i}" for i in range(46)]]
    made = make_corpus(tmp_path, adata)
    shown = run(capsys, "info", made.path, "--genes", "set0")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0] == "set0, 50 features"
    assert "human; 3 genes in the default vocabulary of 19,374" in lines
    assert "found under another name (1): DDX58 → RIGI" in lines
    (unknown,) = (line for line in lines if line.startswith("unknown"))
    assert unknown.startswith("unknown (47): [red], odd0, odd1,")
    assert unknown.endswith("odd18, … and 27 more (--json lists all)")


def test_an_unknown_data_set_is_said_in_one_line(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "info", corpus.path, "--genes", "nope").assert_error("nope", "set0, set1", code=2)
