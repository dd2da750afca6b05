"""`cellplm export`: a data set comes out as a file, or a line says why not."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import pytest

from cellplm.corpus.reader import Corpus
from tests.cli.make import run
from tests.make import make_adata, make_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("export"))


def test_the_document_says_what_was_written(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "set1.h5ad"
    document = run(capsys, "export", corpus.path, "set1", "--out", out, "--json").document
    assert document == {
        "name": "set1",
        "out": str(out),
        "n_obs": 80,
        "n_vars": 30,
        "nnz": corpus.parts[1].entry.nnz,
        "dtype": "float32",
        "bytes": out.stat().st_size,
    }
    assert ad.read_h5ad(out).obs_names.tolist() == [f"cell{i}" for i in range(80)]


def test_a_person_sees_one_line(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.h5ad"
    ran = run(capsys, "export", corpus.path, "set0", "--out", out, "--with-cellplm-columns")
    assert (ran.code, ran.out.count("\n")) == (0, 1)
    assert ran.out.startswith("set0: 100 cells x 50 features, ")
    assert "cellplm_kind" in ad.read_h5ad(out).var


def test_an_earlier_snapshot_has_what_it_had(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("export", corpus.path, "set1", "--out", tmp_path / "a.h5ad")
    run(capsys, *arguments, "--snapshot", 2).assert_error("set1", "Known: set0", code=2)
    assert run(capsys, *arguments, "--snapshot", 3).code == 0


def test_a_file_that_is_there_needs_overwrite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_corpus(tmp_path, make_adata())
    out = tmp_path / "a.h5ad"
    arguments = ("export", made.path, "set0", "--out", out, "--compression", "none", "-q")
    assert run(capsys, *arguments).code == 0
    run(capsys, *arguments).assert_error(out, "--overwrite", code=2)
    ran = run(capsys, *arguments, "--overwrite")
    assert (ran.code, ran.out) == (0, "")


def test_what_is_no_corpus_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "export", tmp_path, "x", "--out", tmp_path / "a.h5ad").assert_error(
        tmp_path, "no cellplm corpus"
    )
