"""A file given to a task becomes a corpus of one part for a while, and comes back as AnnData."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellplm.errors import InputError
from cellplm.tasks.data import as_anndata, in_order, opened
from tests.make import make_adata, write_h5ad


def test_every_cell_with_a_count_is_there_once_in_windows_of_unknown_batches(
    tmp_path: Path,
) -> None:
    adata = make_adata(samples=(30, 20))
    counts = adata.X.toarray()
    counts[4] = 0
    counts[5] = 0
    counts[5, 2] = 1
    adata.X = sp.csr_matrix(counts)
    with opened(write_h5ad(tmp_path / "a.h5ad", adata)) as corpus:
        batches = list(in_order(corpus, 8))
        part = corpus.parts[0]
        rows = part.source_rows[np.concatenate([batch.row.numpy() for batch in batches])]
        again = [batch.row.tolist() for batch in in_order(corpus, 8)]
    assert sorted(rows) == [row for row in range(50) if row != 4]
    assert all((batch.batch_label == -1).all() for batch in batches)
    assert max(batch.n_cells for batch in batches) <= 8
    assert again == [batch.row.tolist() for batch in batches]


def test_a_window_holds_cells_of_one_sample_or_of_the_column_asked_for(tmp_path: Path) -> None:
    adata = make_adata(samples=(30, 20))
    data = write_h5ad(tmp_path / "a.h5ad", adata)
    for context, column in ((None, "sample"), ("cell_type", "cell_type")):
        with opened(data, context=context) as corpus:
            assert corpus.parts[0].entry.n_tissues == adata.obs[column].nunique()
            for batch in in_order(corpus, 100):
                rows = corpus.parts[0].source_rows[batch.row.numpy()]
                for start, stop in zip(batch.segments[:-1], batch.segments[1:], strict=True):
                    assert adata.obs[column].iloc[rows[start:stop]].nunique() == 1


def fail_within(data: Path, folders: list[Path]) -> None:
    with opened(data) as corpus:
        folders.append(corpus.path)
        raise RuntimeError("mine")


def test_the_corpus_is_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    data = write_h5ad(tmp_path / "a.h5ad", make_adata(samples=(20,)))
    with opened(data) as corpus:
        folder = corpus.path
        assert folder.exists()
    assert not folder.parent.exists()
    folders: list[Path] = []
    with pytest.raises(RuntimeError, match="mine"):
        fail_within(data, folders)
    assert not folders[0].parent.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5ad"]


def test_several_data_sets_and_unknown_columns_and_missing_files_are_refused(
    tmp_path: Path,
) -> None:
    for seed in (0, 1):
        write_h5ad(tmp_path / f"set{seed}.h5ad", make_adata(samples=(20,), seed=seed))
    with pytest.raises(InputError, match=r"2 data sets \(set0, set1\)"), opened(tmp_path):
        pass
    one = tmp_path / "set0.h5ad"
    with pytest.raises(InputError, match=r"set0.h5ad.*'nope'"), opened(one, context="nope"):
        pass
    with pytest.raises(InputError, match="absent.h5ad"), opened(tmp_path / "absent.h5ad"):
        pass


def test_an_h5ad_comes_back_as_it_is(tmp_path: Path) -> None:
    adata = make_adata(samples=(20,))
    adata.uns["mine"] = "kept"
    adata.obsm["X_pca"] = np.arange(40.0).reshape(20, 2)
    data = write_h5ad(tmp_path / "a.h5ad", adata)
    with opened(data) as corpus:
        got = as_anndata(data, corpus)
    assert list(got.obs.columns) == list(adata.obs.columns)
    assert got.uns["mine"] == "kept"
    assert np.array_equal(got.obsm["X_pca"], adata.obsm["X_pca"])
    assert (got.X != adata.X).nnz == 0


@pytest.mark.parametrize("n_left", [10, 50])
def test_counts_in_raw_come_back_with_their_own_genes(tmp_path: Path, n_left: int) -> None:
    whole = make_adata(samples=(20,))
    adata = whole[:, np.random.default_rng(0).permutation(50)[:n_left]].copy()
    adata.X = adata.X.log1p()
    adata.raw = whole
    data = write_h5ad(tmp_path / "a.h5ad", adata)
    with opened(data) as corpus:
        got = as_anndata(data, corpus)
    assert list(got.var_names) == list(whole.var_names)
    assert (got.X != whole.X).nnz == 0
    assert list(got.obs_names) == list(whole.obs_names)
    assert list(got.obs["cell_type"]) == list(whole.obs["cell_type"])


def test_a_table_comes_back_in_its_own_order_and_can_be_written(tmp_path: Path) -> None:
    adata = make_adata(samples=(20,))
    data = tmp_path / "table.csv"
    backwards = list(adata.var_names[::-1])
    counts = adata[:, backwards].X.toarray().astype(int)
    pd.DataFrame(counts, adata.obs_names, backwards).to_csv(data)
    with opened(data) as corpus:
        got = as_anndata(data, corpus)
    assert list(got.obs_names) == list(adata.obs_names)
    assert list(got.var_names) == backwards
    assert np.array_equal(got.X.toarray(), counts)
    got.write_h5ad(tmp_path / "out.h5ad")
    assert ad.read_h5ad(tmp_path / "out.h5ad").shape == (20, 50)
