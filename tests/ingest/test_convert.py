"""Files become parts with the source's own counts, or nothing changes at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellplm.corpus import manifest, schema
from cellplm.corpus.reader import Corpus, Part
from cellplm.corpus.writer import PartWriter
from cellplm.errors import ConflictError, InputError, MissingFileError, NotACorpusError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.options import IngestOptions
from tests.make import make_adata, make_corpus, write_h5ad
from tests.shared import SHARED, needs_shared

DATA = SHARED


def snapshot_of(root: Path) -> dict[str, str]:
    """Every object of a folder and its hash."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def assert_counts_are_the_sources(part: Part, cells: pd.Series[Any], genes: pd.Series[Any]) -> None:
    """Counts per cell and per feature, by the source's own names."""
    adata = part.to_anndata()
    assert np.array_equal(np.asarray(adata.X.sum(1)).ravel(), cells.to_numpy())
    assert adata.var["source_name"].tolist() == genes.index.tolist()
    assert np.array_equal(np.asarray(adata.X.sum(0)).ravel(), genes.to_numpy())


@pytest.fixture(scope="module")
def four_sets(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """CosMx lung 5 (csv), both mixology protocols and Kang muscat in one corpus."""
    out = tmp_path_factory.mktemp("four") / "corpus.zarr"
    lung = tmp_path_factory.mktemp("raw") / "lung5"
    lung.mkdir()
    for file in (DATA / "srt-cosmx-lung5").glob("*.csv.gz"):
        shutil.copy(file, lung)
    ingest_files([lung, DATA / "sc-mixology-3cl", DATA / "sc-kang-muscat"], out)
    return Corpus.open(out)


@needs_shared
def test_four_real_data_sets_have_the_cells_of_the_manifest(four_sets: Corpus) -> None:
    sizes = {part.entry.name: part.entry.n_obs for part in four_sets.parts}
    assert sorted(sizes.values()) == [225, 274, 1556, 13463]
    lung = next(p for p in four_sets.parts if p.entry.n_obs == 13463)
    assert lung.entry.modality == "srt"
    assert lung.entry.n_vars == 980
    assert lung.entry.n_tissues == 4
    fov = ad.io.read_zarr(lung.path).obs["fov"]
    assert sorted(fov.value_counts().tolist()) == [2693, 3173, 3250, 4347]


@needs_shared
def test_their_counts_per_cell_and_gene_are_the_sources(four_sets: Corpus) -> None:
    by_size = {part.entry.n_obs: part for part in four_sets.parts}
    lung = pd.read_csv(DATA / "srt-cosmx-lung5" / "Lung5_Rep3_exprMat_file.csv.gz")
    lung = lung.drop(columns=["fov", "cell_ID"])
    assert_counts_are_the_sources(by_size[13463], lung.sum(axis=1), lung.sum())
    for n, name in ((274, "sc_celseq2"), (225, "sc_dropseq")):
        table = pd.read_csv(DATA / "sc-mixology-3cl" / f"{name}.count.csv.gz", index_col=0)
        assert_counts_are_the_sources(by_size[n], table.sum(), table.sum(axis=1))
    kang = ad.read_h5ad(DATA / "sc-kang-muscat" / "example_sce.converted.h5ad")
    counts = sp.csr_matrix(kang.X)
    cells = pd.Series(np.asarray(counts.sum(1)).ravel())
    genes = pd.Series(np.asarray(counts.sum(0)).ravel(), index=kang.var_names)
    assert_counts_are_the_sources(by_size[1556], cells, genes)


@needs_shared
def test_the_h5ad_twin_of_a_cosmx_set_is_recognised_and_skipped(
    four_sets: Corpus, tmp_path: Path
) -> None:
    root = tmp_path / "copy.zarr"
    shutil.copytree(four_sets.path, root)
    before = snapshot_of(root)
    report = ingest_files([DATA / "srt-cosmx-lung5" / "lung5.converted.h5ad"], root)
    assert not report.ingested
    (skipped,) = report.skipped
    assert "Lung5" in skipped.reason
    assert snapshot_of(root) == before


def test_the_same_file_again_is_skipped_by_its_hash(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", make_adata())
    ingest_files([path], tmp_path / "c.zarr")
    report = ingest_files([path], tmp_path / "c.zarr")
    assert [left.reason for left in report.skipped] == ["already in as 'a': the same files"]
    insisted = IngestOptions(allow_duplicate=True)
    report = ingest_files([path], tmp_path / "c.zarr", insisted)
    assert [each.name for each in report.ingested] == ["a-2"]


def test_the_same_counts_under_other_names_are_skipped(tmp_path: Path) -> None:
    adata = make_adata()
    other = adata[::-1, ::-1].copy()
    other.obs_names = [f"x{i}" for i in range(other.n_obs)]
    write_h5ad(tmp_path / "raw" / "a.h5ad", adata)
    write_h5ad(tmp_path / "raw" / "b.h5ad", other)
    report = ingest_files([tmp_path / "raw"], tmp_path / "c.zarr")
    assert [each.name for each in report.ingested] == ["a"]
    assert [left.name for left in report.skipped] == ["b"]


def test_cells_with_few_counts_stay_last_and_belong_to_no_tissue(tmp_path: Path) -> None:
    adata = make_adata()
    x = adata.X.toarray()
    x[[3, 50]] = 0
    x[7] = 0
    x[7, 1] = 4
    adata.X = sp.csr_matrix(x)
    path = write_h5ad(tmp_path / "a.h5ad", adata)
    report = ingest_files([path], tmp_path / "c.zarr")
    (each,) = report.ingested
    assert each.excluded_cells == {"with no counts": 2, "with fewer than 5 counts": 1}
    assert (each.n_obs, each.n_kept) == (100, 97)
    (part,) = Corpus.open(tmp_path / "c.zarr").parts
    obs = ad.io.read_zarr(part.path).obs
    assert sorted(obs["source_row"].iloc[97:]) == [3, 7, 50]
    assert (obs["tissue"].iloc[97:] == -1).all()
    assert part.entry.nnz == np.count_nonzero(x)


def test_a_dry_run_writes_nothing_and_says_what_the_run_then_does(tmp_path: Path) -> None:
    write_h5ad(tmp_path / "raw" / "a.h5ad", make_adata())
    out = tmp_path / "c.zarr"
    planned = ingest_files([tmp_path / "raw"], out, dry_run=True)
    assert not out.exists()
    done = ingest_files([tmp_path / "raw"], out)
    for before, after in zip(planned.ingested, done.ingested, strict=True):
        for name in ("name", "n_obs", "n_kept", "n_genes", "nnz", "n_tissues", "counts_from"):
            assert getattr(before, name) == getattr(after, name)


def test_each_data_set_is_a_commit_of_its_own(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    assert corpus.snapshot.snapshot == 3
    assert [p.entry.name for p in Corpus.open(corpus.path, snapshot=2).parts] == ["set0"]


def test_nothing_of_the_work_is_left_behind(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    assert not list((corpus.path / schema.LEASES).iterdir())
    assert not list((corpus.path / schema.SPILL).iterdir())


def test_provenance_tells_where_a_part_comes_from(tmp_path: Path) -> None:
    (part, _) = make_corpus(tmp_path).parts
    told = json.loads(ad.io.read_zarr(part.path).uns["cellplm"])
    assert told["sources"][0]["path"] == "set0.h5ad"
    assert told["format"] == "h5ad"
    assert told["features"]["gene"] == 50
    assert told["tissue_rule"]


def test_columns_of_the_source_with_our_names_are_kept_beside_ours(tmp_path: Path) -> None:
    adata = make_adata()
    adata.obs["kept"] = "theirs"
    adata.var["kind"] = "theirs"
    (part,) = make_corpus(tmp_path, adata).parts
    back = part.to_anndata()
    assert (back.obs["source_kept"] == "theirs").all()
    assert back.obs["kept"].all()
    assert (back.var["source_kind"] == "theirs").all()


def normalised(adata: ad.AnnData) -> None:
    x = adata.X.toarray()
    adata.X = sp.csr_matrix(np.log1p(x / x.sum(1, keepdims=True) * 1e4))


def negative(adata: ad.AnnData) -> None:
    adata.X = adata.X.toarray() - 1.0


def one_fraction(adata: ad.AnnData) -> None:
    adata.X.data[-1] = 2.5


def no_genes(adata: ad.AnnData) -> None:
    adata.var_names = [f"peak{i}" for i in range(adata.n_vars)]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (normalised, r"raw\.X|layers"),
        (negative, "negative"),
        (one_fraction, r"2\.5"),
        (no_genes, "peak0"),
    ],
)
def test_data_that_is_no_raw_count_matrix_is_refused_and_the_corpus_stays(
    tmp_path: Path, spoil: Any, says: str
) -> None:
    corpus = make_corpus(tmp_path, make_adata())
    before = snapshot_of(corpus.path)
    adata = make_adata(seed=9)
    spoil(adata)
    bad = write_h5ad(tmp_path / "bad.h5ad", adata)
    good = write_h5ad(tmp_path / "good.h5ad", make_adata(seed=8))
    with pytest.raises(InputError, match=says) as caught:
        ingest_files([good, bad], corpus.path)
    assert "bad.h5ad" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot_of(corpus.path) == before


def test_with_skip_the_rest_comes_in_and_the_refusal_is_reported(tmp_path: Path) -> None:
    bad = make_adata(seed=9)
    normalised(bad)
    write_h5ad(tmp_path / "raw" / "bad.h5ad", bad)
    write_h5ad(tmp_path / "raw" / "good.h5ad", make_adata())
    report = ingest_files([tmp_path / "raw"], tmp_path / "c.zarr", IngestOptions(on_error="skip"))
    assert [each.name for each in report.ingested] == ["good"]
    assert [left.name for left in report.refused] == ["bad"]


def truncated_h5ad(folder: Path) -> Path:
    path = write_h5ad(folder / "cut.h5ad", make_adata())
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def truncated_gzip(folder: Path) -> Path:
    path = folder / "cut.csv.gz"
    x = make_adata()
    raw = x.to_df().to_csv().encode()
    path.write_bytes(gzip.compress(raw)[:-100])
    return path


def not_hdf5(folder: Path) -> Path:
    path = folder / "text.h5ad"
    path.write_text("hello")
    return path


def absent(folder: Path) -> Path:
    return folder / "absent.h5ad"


@pytest.mark.parametrize("make", [truncated_h5ad, truncated_gzip, not_hdf5, absent])
def test_an_unreadable_file_is_one_line_and_makes_no_corpus(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    kind = MissingFileError if make is absent else InputError
    with pytest.raises(kind) as caught:
        ingest_files([path], tmp_path / "c.zarr")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c.zarr").exists()


def test_a_folder_with_nothing_but_a_damaged_table_names_it(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    path = truncated_gzip(tmp_path / "raw")
    with pytest.raises(InputError, match=path.name):
        ingest_files([tmp_path / "raw"], tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


def test_an_out_that_is_no_corpus_is_left_alone(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", make_adata())
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter").write_text("text")
    with pytest.raises(NotACorpusError, match="thesis"):
        ingest_files([path], out)
    assert snapshot_of(out).keys() == {"chapter"}


def test_a_failure_while_writing_leaves_the_corpus_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path, make_adata())
    before = snapshot_of(corpus.path)
    path = write_h5ad(tmp_path / "b.h5ad", make_adata(seed=3))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for step in ("write_shard", "write_tables", "finish"):
        with monkeypatch.context() as patch:
            patch.setattr(PartWriter, step, full)
            with pytest.raises(OSError, match="No space"):
                ingest_files([path], corpus.path)
        assert snapshot_of(corpus.path) == before
    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "finish", full)
        with pytest.raises(OSError, match="No space"):
            ingest_files([path], tmp_path / "new.zarr")
    assert not (tmp_path / "new.zarr").exists()


def test_a_failure_after_the_commit_landed_keeps_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path, make_adata())
    path = write_h5ad(tmp_path / "b.h5ad", make_adata(seed=3))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "_write_hint", full)
        with pytest.raises(OSError, match="No space"):
            ingest_files([path], corpus.path)
    parts = Corpus.open(corpus.path).parts
    assert [p.entry.name for p in parts] == ["set0", "b"]
    assert parts[1].to_anndata().n_obs == 100


def test_two_writers_of_the_same_data_do_not_both_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path, make_adata())
    path = write_h5ad(tmp_path / "b.h5ad", make_adata(seed=3))
    finish = PartWriter.finish

    def meanwhile(self: PartWriter) -> Any:
        monkeypatch.setattr(PartWriter, "finish", finish)
        ingest_files([path], corpus.path)
        return finish(self)

    monkeypatch.setattr(PartWriter, "finish", meanwhile)
    with pytest.raises(ConflictError, match="same data"):
        ingest_files([path], corpus.path)
    assert [p.entry.name for p in Corpus.open(corpus.path).parts] == ["set0", "b"]


def test_a_large_count_and_many_columns_take_the_wider_types(tmp_path: Path) -> None:
    adata = make_adata()
    adata.X.data[0] = 70_000
    (part,) = make_corpus(tmp_path, adata).parts
    assert ad.io.read_zarr(part.path).X.dtype == np.uint32
    assert part.to_anndata().X.max() == 70_000


def test_an_h5ad_with_csc_counts_gives_the_same_part(tmp_path: Path) -> None:
    adata = make_adata()
    ingest_files([write_h5ad(tmp_path / "a.h5ad", adata)], tmp_path / "c.zarr")
    other = adata.copy()
    other.X = sp.csc_matrix(adata.X)
    path = write_h5ad(tmp_path / "b.h5ad", other)
    with h5py.File(path) as file:
        assert file["X"].attrs["encoding-type"] == "csc_matrix"
    options = IngestOptions(allow_duplicate=True)
    ingest_files([path], tmp_path / "c.zarr", options)
    a, b = Corpus.open(tmp_path / "c.zarr").parts
    assert a.entry.content == b.entry.content
    x, y = ad.io.read_zarr(a.path).X, ad.io.read_zarr(b.path).X
    assert np.array_equal(x.indptr, y.indptr)
    assert np.array_equal(x.indices, y.indices)
    assert np.array_equal(x.data, y.data)
