"""What was ingested comes out again: every value, every name, in the order of the source."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellplm.corpus import export
from cellplm.corpus.columns import OBS_COLUMNS, VAR_COLUMNS
from cellplm.corpus.export import ExportOptions, export_part
from cellplm.corpus.reader import Corpus
from cellplm.corpus.tables import stored_table
from cellplm.errors import ConfigError, CorruptCorpusError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.options import IngestOptions
from cellplm.logs import Progress
from tests.make import make_adata, make_corpus, vocabulary_genes
from tests.shared import SHARED, needs_shared


def read(path: Path) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* names are not unique")
        return ad.read_h5ad(path)


def exported(corpus: Corpus, out: Path, options: ExportOptions | None = None) -> ad.AnnData:
    export_part(corpus, corpus.parts[0].entry.name, out, options)
    return read(out)


def assert_same(back: ad.AnnData, source: ad.AnnData) -> None:
    assert back.shape == source.shape
    differ: Any = sp.csr_matrix(back.X) != sp.csr_matrix(source.X)
    assert differ.nnz == 0
    assert back.X.has_sorted_indices
    assert np.all(back.X.data > 0)
    assert back.obs_names.tolist() == source.obs_names.tolist()
    assert back.var_names.tolist() == source.var_names.tolist()
    pd.testing.assert_frame_equal(back.obs, source.obs, check_names=False)
    pd.testing.assert_frame_equal(back.var, source.var, check_names=False)


def test_what_came_in_comes_out(tmp_path: Path) -> None:
    adata = make_adata(spatial=True)
    corpus = make_corpus(tmp_path, adata)
    back = exported(corpus, tmp_path / "out.h5ad")
    assert_same(back, adata)
    assert back.X.dtype == np.float32
    assert np.array_equal(back.obsm["spatial"], adata.obsm["spatial"].astype(np.float32))
    assert json.loads(back.uns["cellplm"])["counts_from"] == "X"
    assert not list(tmp_path.glob(".out*"))


def test_cells_and_features_without_a_role_come_out_at_their_place(tmp_path: Path) -> None:
    adata = make_adata()
    counts = adata.X.toarray()
    counts[[0, 7, 50]] = 0
    adata.X = sp.csr_matrix(counts)
    names = adata.var_names.to_numpy().astype(object)
    names[[0, 3, 20]] = ["NegPrb1", "nobody", "CD3E-ish"]
    names[30] = f"{names[10]}.7"  # a duplicate of column 10
    adata.var_names = names
    corpus = make_corpus(tmp_path, adata)
    assert corpus.parts[0].entry.n_kept == 97
    assert_same(exported(corpus, tmp_path / "out.h5ad"), adata)


def test_our_columns_come_along_on_request(tmp_path: Path) -> None:
    adata = make_adata()
    corpus = make_corpus(tmp_path, adata)
    part = corpus.parts[0]
    # Every column of a part that is not the source's is known as ours.
    assert set(stored_table(part, "obs").columns) - set(adata.obs.columns) <= set(OBS_COLUMNS) | {
        "source_sample"
    }
    assert set(stored_table(part, "var").columns) <= set(VAR_COLUMNS)
    back = exported(corpus, tmp_path / "out.h5ad", ExportOptions(with_ours=True))
    assert back.var["cellplm_gene_id"].tolist() == adata.var_names.tolist()
    assert (back.var["cellplm_kind"] == "gene").all()
    assert back.obs["cellplm_source_row"].tolist() == list(range(100))
    assert back.obs["cellplm_sample"].tolist() == adata.obs["sample"].tolist()
    pd.testing.assert_frame_equal(back.obs[list(adata.obs.columns)], adata.obs)


def test_names_that_repeat_repeat_again(tmp_path: Path) -> None:
    path = tmp_path / "t_counts.csv"
    header = ["cell", "CD3E", "LYZ", "CD3E", "MS4A1"]
    counts = [[9, 4 + i, 2, i] for i in range(6)]
    rows = [f"c{i},{','.join(map(str, row))}" for i, row in enumerate(counts)]
    path.write_text("\n".join([",".join(header), *rows]))
    ingest_files([path], tmp_path / "c.zarr")
    corpus = Corpus.open(tmp_path / "c.zarr")
    back = exported(corpus, tmp_path / "out.h5ad")
    assert back.var_names.tolist() == header[1:]
    assert back.X.toarray().tolist() == counts


def test_an_export_that_comes_in_again_is_the_same_data_set(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, make_adata())
    for with_ours in (False, True):
        out = tmp_path / f"out{with_ours}.h5ad"
        export_part(corpus, "set0", out, ExportOptions(with_ours=with_ours))
        report = ingest_files([out], corpus.path)
        assert "same counts" in report.skipped[0].reason


@pytest.mark.parametrize(
    ("largest", "dtype"), [(3, np.float32), (2**24, np.float32), (2**24 + 1, np.float64)]
)
def test_counts_beyond_float32_are_written_as_float64(
    tmp_path: Path, largest: int, dtype: type
) -> None:
    adata = make_adata()
    counts = adata.X.toarray().astype(np.float64)
    counts[5, 7] = largest
    adata.X = sp.csr_matrix(counts)
    back = exported(make_corpus(tmp_path, adata), tmp_path / "out.h5ad")
    assert back.X.dtype == dtype
    assert back.X[5, 7] == largest


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n_obs=st.integers(1, 40),
    n_vars=st.integers(1, 30),
    band=st.integers(1, 200),
    window=st.integers(1, 200),
)
def test_bands_and_windows_of_any_size_give_the_same_file(
    seed: int, n_obs: int, n_vars: int, band: int, window: int
) -> None:
    rng = np.random.default_rng(seed)
    counts: NDArray[Any] = rng.poisson(rng.gamma(0.4, 2.0, (n_obs, n_vars)))
    counts[rng.integers(n_obs), rng.integers(n_vars)] = rng.choice([9, 300, 70_000])
    adata = ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(
            {"donor": rng.choice(["a", "b", "c"], n_obs), "n": rng.normal(size=n_obs)},
            index=[f"c{i}" for i in range(n_obs)],
        ),
        var=pd.DataFrame(index=rng.permutation(vocabulary_genes(n_vars))),
    )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "BAND_VALUES", band)
        patch.setattr(export, "WINDOW_VALUES", window)
        options = IngestOptions(tissue_key="donor")
        corpus = make_corpus(Path(folder), adata, options=options)
        seen: list[Progress] = []
        out = Path(folder) / "out.h5ad"
        done = export_part(corpus, "set0", out, on_progress=seen.append)
        assert_same(read(out), adata)
        assert done.nnz == seen[-1].done == seen[-1].total == np.count_nonzero(counts)
        assert done.bytes == out.stat().st_size


def test_compression_changes_the_size_and_nothing_else(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, make_adata(samples=(400,)))
    small = exported(corpus, tmp_path / "gzip.h5ad")
    large = exported(corpus, tmp_path / "none.h5ad", ExportOptions(compression="none"))
    assert_same(small, large)
    assert (tmp_path / "gzip.h5ad").stat().st_size < (tmp_path / "none.h5ad").stat().st_size


def test_a_file_that_is_there_is_replaced_only_on_request(tmp_path: Path) -> None:
    adata = make_adata()
    corpus = make_corpus(tmp_path, adata)
    out = tmp_path / "out.h5ad"
    out.write_text("mine")
    with pytest.raises(ConfigError, match=r"out\.h5ad: exists already.*--overwrite"):
        export_part(corpus, "set0", out)
    assert out.read_text() == "mine"
    assert_same(exported(corpus, out, ExportOptions(overwrite=True)), adata)


@pytest.mark.parametrize(
    ("out", "fault"),
    [
        ("out.csv", "has to end in .h5ad"),
        ("folder.h5ad", "is a folder"),
        ("corpus.zarr/parts/out.h5ad", "lies inside of the corpus"),
    ],
)
def test_a_place_that_will_not_do_is_refused(tmp_path: Path, out: str, fault: str) -> None:
    corpus = make_corpus(tmp_path, make_adata())
    (tmp_path / "folder.h5ad").mkdir()
    with pytest.raises(ConfigError, match=fault):
        export_part(corpus, "set0", tmp_path / out)


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    with pytest.raises(ConfigError, match="no data set 'x'. Known: set0, set1"):
        export_part(corpus, "x", tmp_path / "out.h5ad")


def damage_order(part: Path) -> None:
    rows = zarr.open_array(part / "obs" / "source_row", mode="r+")
    rows[0] = rows[1]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda part: shutil.rmtree(part / "X" / "data" / "c"), "X/data"),
        (lambda part: shutil.rmtree(part / "X" / "indptr" / "c"), "X/indptr"),
        (lambda part: shutil.rmtree(part / "obs" / "cell_type"), "obs"),
        (lambda part: shutil.rmtree(part / "var" / "source_column"), "var/source_column"),
        (lambda part: shutil.rmtree(part / "uns"), "uns"),
        (damage_order, "obs/source_row"),
    ],
)
def test_a_damaged_part_is_named_and_leaves_no_file(
    tmp_path: Path, damage: Any, named: str
) -> None:
    corpus = make_corpus(tmp_path, make_adata())
    damage(corpus.parts[0].path)
    out = tmp_path / "exports" / "out.h5ad"
    with pytest.raises(CorruptCorpusError, match=f"{corpus.parts[0].path / named}: "):
        export_part(Corpus.open(corpus.path), "set0", out)
    assert not out.exists()
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


@needs_shared
@pytest.mark.parametrize(
    "path",
    [
        "sc-pancreas-cider/pancreas.converted.h5ad",
        "sc-kang-muscat/example_sce.converted.h5ad",
        "sc-pbmc1k-3chem/1k_PBMC_v3_filt.converted.h5ad",
        "srt-osmfish-h5ad/smfish.h5ad",
        "perturb-papalexi-lowmoi/papalexi_lowmoi.converted.h5ad",
    ],
)
def test_a_real_file_comes_back(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "BAND_VALUES", 200_000)
    ingest_files([SHARED / path], tmp_path / "c.zarr")
    corpus = Corpus.open(tmp_path / "c.zarr")
    back = exported(corpus, tmp_path / "out.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata, about old files and repeated names
        source = ad.read_h5ad(SHARED / path)
    source.var.index = source.var.index.astype(str)
    assert_same(back, source)


@needs_shared
def test_a_real_table_comes_back_with_every_value(tmp_path: Path) -> None:
    path = SHARED / "sc-mixology-3cl" / "sc_dropseq.count.csv.gz"
    ingest_files([path], tmp_path / "c.zarr")
    back = exported(Corpus.open(tmp_path / "c.zarr"), tmp_path / "out.h5ad")
    table = pd.read_csv(path, index_col=0).T
    assert back.obs_names.tolist() == table.index.tolist()
    assert back.var_names.tolist() == table.columns.tolist()
    assert np.array_equal(back.X.toarray(), table.to_numpy())
