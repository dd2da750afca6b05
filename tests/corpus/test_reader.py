"""What was written is read; what was damaged is an error that names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from cellplm.corpus import schema
from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.errors import ConfigError, CorruptCorpusError, NotACorpusError
from tests.make import make_adata, make_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path)


def test_every_part_opens_as_anndata(corpus: Corpus) -> None:
    for part in corpus.parts:
        adata = ad.io.read_zarr(part.path)
        assert adata.shape == (part.entry.n_obs, part.entry.n_vars)
        assert adata.X.dtype == np.uint8
        assert adata.X.nnz == part.entry.nnz
        assert adata.var_names.is_unique
        assert json.loads(adata.uns["cellplm"])["counts_from"] == "X"


def test_a_part_widened_in_source_order_is_the_source(tmp_path: Path) -> None:
    adata = make_adata()
    (part,) = make_corpus(tmp_path, adata).parts
    back = part.to_anndata()
    assert (back.X != adata.X).nnz == 0
    assert back.obs_names.equals(adata.obs_names)
    assert back.var["source_name"].tolist() == adata.var_names.tolist()
    assert back.obs["cell_type"].tolist() == adata.obs["cell_type"].tolist()
    assert back.X.dtype == np.float32


def test_row_ranges_are_rows_of_the_part(corpus: Corpus) -> None:
    for part in corpus.parts:
        whole = ad.io.read_zarr(part.path)
        for start, stop in ((0, 1), (3, 3), (10, 50), (0, part.entry.n_obs)):
            rows = part.read_rows(start, stop)
            expected = whole.X[start:stop]
            assert np.array_equal(rows.indptr, expected.indptr)
            assert np.array_equal(rows.indices, expected.indices)
            assert np.array_equal(rows.data, expected.data)
            if part.entry.modality == "srt":
                assert rows.coords_um is not None
                assert np.array_equal(rows.coords_um, whole.obsm["spatial"][start:stop])


def test_tissues_are_contiguous_samples_and_the_index_agrees(corpus: Corpus) -> None:
    for part in corpus.parts:
        obs = ad.io.read_zarr(part.path).obs
        index = part.index
        for number, (start, stop) in enumerate(
            zip(index.tissue_start, index.tissue_stop, strict=True)
        ):
            assert (obs["tissue"].iloc[start:stop] == number).all()
            assert (obs["sample"].iloc[start:stop] == index.tissue_sample[number]).all()
        assert index.tissue_stop[-1] == part.entry.n_kept
        assert not obs["kept"].iloc[part.entry.n_kept :].any()


def test_genes_come_first_in_the_order_of_the_index(corpus: Corpus) -> None:
    for part in corpus.parts:
        number = part.index.gene_number
        genes = number[number >= 0]
        assert (number[: genes.size] >= 0).all()
        assert (np.diff(genes) > 0).all()
        names = corpus.genes.ensembl_id[genes]
        assert (ad.io.read_zarr(part.path).var_names[: genes.size] == names).all()


@pytest.mark.parametrize("name", ["X/data", "X/indices", "X/indptr", "obsm/spatial"])
def test_a_missing_or_damaged_chunk_raises_and_never_reads_as_zeros(
    tmp_path: Path, name: str
) -> None:
    corpus = make_corpus(tmp_path, make_adata(spatial=True))
    (part,) = corpus.parts
    chunk = next(p for p in (part.path / name / "c").rglob("*") if p.is_file())
    raw = chunk.read_bytes()
    flipped = bytearray(raw)
    flipped[len(raw) // 3] ^= 0x10
    for damaged in (None, raw[:-3], bytes(flipped)):
        chunk.unlink()
        if damaged is not None:
            chunk.write_bytes(damaged)
        (again,) = Corpus.open(corpus.path).parts
        with pytest.raises(CorruptCorpusError, match=name):
            again.read_rows(0, 90)
        chunk.write_bytes(raw)
    part.read_rows(0, 90)


def test_a_changed_index_or_gene_table_is_noticed(corpus: Corpus) -> None:
    entry = corpus.parts[0].entry
    for path in (entry.index.path, corpus.snapshot.genes.path):
        target = corpus.path / path
        raw = target.read_bytes()
        target.write_bytes(raw + b" ")
        again = Corpus.open(corpus.path)
        with pytest.raises(CorruptCorpusError, match=path):
            _ = again.parts[0].index, again.genes
        target.write_bytes(raw)


def test_every_object_of_a_part_is_listed(corpus: Corpus) -> None:
    for part in corpus.parts:
        on_disk = {
            p.relative_to(corpus.path).as_posix() for p in part.path.rglob("*") if p.is_file()
        }
        assert {each["path"] for each in part.objects} == on_disk


def test_other_things_are_refused_as_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("absent", "folder", "file"):
        with pytest.raises(NotACorpusError, match=name):
            Corpus.open(tmp_path / name)
    for name in ("folder", "file"):
        with pytest.raises(NotACorpusError, match=name):
            Corpus.create(tmp_path / name, GeneIndex.bundled(), writer="w")


def test_a_newer_format_says_to_upgrade(corpus: Corpus) -> None:
    root = corpus.path / schema.ROOT
    values = json.loads(root.read_bytes())
    values["attributes"]["cellplm"]["version"] = schema.FORMAT_VERSION + 1
    root.write_text(json.dumps(values))
    with pytest.raises(NotACorpusError, match="upgrade"):
        Corpus.open(corpus.path)


def test_unknown_parts_name_the_known_ones(corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="set0"):
        corpus.part("nothing")
    assert corpus.part("set0").entry.id == corpus.parts[0].entry.id


def test_a_corpus_may_be_moved(corpus: Corpus, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "c.zarr"
    moved.parent.mkdir()
    shutil.move(corpus.path, moved)
    assert Corpus.open(moved).parts[0].read_rows(0, 5).indptr.size == 6
