"""`cellplm embed`: a file with embeddings, and what is refused."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from tests.cli.make import make_run, run
from tests.make import make_adata, make_corpus, write_h5ad


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    corpus = make_corpus(folder, make_adata(seed=8))
    make_run(corpus.path, folder / "run")
    write_h5ad(folder / "mine.h5ad", make_adata(samples=(30, 20)))
    return folder


def test_the_file_holds_every_cell_in_order_with_its_embedding(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out.h5ad"
    words = ["embed", folder / "mine.h5ad", "--checkpoint", folder / "run", "--out", out]
    done = run(capsys, *words, "--json")
    assert done.code == 0, done.err
    assert done.document == {"cells": 50, "embedded": 50, "width": 6, "out": str(out)}
    got = ad.read_h5ad(out)
    assert list(got.obs_names) == [f"cell{i}" for i in range(50)]
    assert got.obsm["X_cellplm"].shape == (50, 6)
    assert np.isfinite(got.obsm["X_cellplm"]).all()
    shown = run(capsys, *words, "--context", "cell_type", "--window", 10)
    assert "50 of 50 cells" in shown.out
    again = ad.read_h5ad(out)
    assert again.uns["cellplm"]["window"] == 10
    assert again.uns["cellplm"]["n_tissues"] == 3
    assert not np.array_equal(again.obsm["X_cellplm"], got.obsm["X_cellplm"])


def test_what_is_missing_or_unknown_is_named_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, absent, out = folder / "mine.h5ad", tmp_path / "absent", tmp_path / "out.h5ad"
    known = ["--checkpoint", folder / "run", "--out", out]
    run(capsys, "embed", data, "--checkpoint", absent, "--out", out).assert_error(absent)
    run(capsys, "embed", data, "--checkpoint", data, "--out", out).assert_error(data)
    run(capsys, "embed", absent, *known).assert_error(absent)
    run(capsys, "embed", data, *known, "--context", "nope").assert_error(data, "nope")
    assert run(capsys, "embed", data, *known, "--window", 0).code == 2
    assert run(capsys, "embed", data, "--out", out).code == 2
    assert not out.exists()


def test_a_file_without_a_gene_of_the_model_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata = make_adata(samples=(30,))
    adata.var_names = [f"ENSMUSG{i:011d}" for i in (1, 3, 28, 31, 37, 49, 56, 58, 78, 85)] + [
        f"x{i}" for i in range(40)
    ]
    data = write_h5ad(tmp_path / "mouse.h5ad", adata)
    words = ["--checkpoint", folder / "run", "--out", tmp_path / "out.h5ad"]
    run(capsys, "embed", data, *words).assert_error("mouse.h5ad", "none of its 10 genes")
