from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellplm.errors import CountsError, InputError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.options import IngestOptions
from cellplm.ingest.readers import anndata_counts, anndata_zarr, zarr_folder
from cellplm.ingest.readers import dense as dense_reader
from cellplm.ingest.source import ReadOptions, Source
from tests.ingest.make import GENES, dense, make_counts
from tests.ingest.make_anndata import (
    Layout,
    ZarrFormat,
    assert_round_trip,
    make_anndata,
    unconsolidate,
    write_matrix,
    write_zarr,
    write_zarr_0_6,
)
from tests.shared import SHARED, needs_shared


def opened(path: Path, **options: Any) -> Source:
    (one,) = anndata_zarr.find([path])
    return anndata_zarr.open_source(one, ReadOptions(**options))


def rewrite_x(path: Path, counts: np.ndarray, layout: Layout, **kwargs: Any) -> None:
    """X again, with chunks and shards of our own."""
    unconsolidate(path)
    shutil.rmtree(path / "X")
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    write_matrix(root, "X", counts, layout, **kwargs)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None
)
@given(
    layout=st.sampled_from(["csr", "csc", "dense"]),
    zarr_format=st.sampled_from([2, 3]),
    n_obs=st.integers(1, 9),
    n_vars=st.integers(1, 9),
    chunk=st.integers(2, 12),
    sharded=st.booleans(),
    size=st.integers(1, 30),
    large=st.sampled_from([1, 2**20]),
)
def test_blocks_of_any_size_and_chunks_make_the_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout, zarr_format: ZarrFormat,
    n_obs: int, n_vars: int, chunk: int, sharded: bool, size: int, large: int,
) -> None:  # fmt: skip
    counts = make_counts(n_obs, n_vars, seed=n_obs) + 1
    path = tmp_path / "a.zarr"
    shutil.rmtree(path, ignore_errors=True)
    write_zarr(path, make_anndata(counts, layout=layout), zarr_format=zarr_format)
    chunks = (chunk, chunk) if layout == "dense" else (chunk,)
    shards = {"shards": tuple(3 * c for c in chunks)} if sharded and zarr_format == 3 else {}
    rewrite_x(path, counts, layout, chunks=chunks, **shards)
    monkeypatch.setattr(anndata_zarr, "ROW_VALUES", size)
    monkeypatch.setattr(anndata_counts, "COLUMN_VALUES", size)
    monkeypatch.setattr(dense_reader, "BLOCK_VALUES", size)
    monkeypatch.setattr(zarr_folder, "LARGE_CHUNK", large)
    source = opened(path)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)  # a fresh pass


@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_anndata_writes_is_read(
    tmp_path: Path, zarr_format: ZarrFormat, consolidated: bool
) -> None:
    counts, xy = make_counts(5, 4), np.arange(10.0).reshape(5, 2)
    obs = pd.DataFrame(
        {"donor": pd.Categorical(list("aabba")), "n": [0, 0, 0, 0, 0], "ok": [True] * 5},
        index=[f"ä{i}" for i in range(5)],
    )
    adata = make_anndata(counts, obs=obs, obsm={"spatial": xy}, uns={"x": 1})
    adata.X = np.log1p(counts) + 0.1
    adata.layers["counts"] = counts
    source = opened(
        write_zarr(tmp_path / "set.zarr", adata, zarr_format=zarr_format, consolidated=consolidated)
    )
    assert (source.name, source.format, source.files) == (
        "set", "anndata-zarr", (tmp_path / "set.zarr",),
    )  # fmt: skip
    assert source.counts_from == "layers['counts']"
    assert source.looked_in == ("layers['counts']: raw counts",)
    assert source.obs.index.tolist() == obs.index.tolist()
    assert source.obs["donor"].tolist() == list("aabba")
    assert source.obs["n"].tolist() == [0] * 5
    assert source.var.index.tolist() == list(GENES[:4])
    assert source.coords_um is not None
    np.testing.assert_array_equal(source.coords_um, xy)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_raw_x_comes_with_its_own_var(tmp_path: Path, zarr_format: ZarrFormat) -> None:
    counts = make_counts(5, 4)
    full = ad.AnnData(counts.astype(np.float32), var=pd.DataFrame(index=list("abcd")))
    adata = full[:, :2].copy()
    adata.raw = full
    adata.X = np.log1p(adata.X)
    source = opened(write_zarr(tmp_path / "a.zarr", adata, zarr_format=zarr_format))
    assert source.counts_from == "raw.X"
    assert source.var.index.tolist() == list("abcd")
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_records_of_anndata_0_6_are_read_without_the_obsm_that_zarr_cannot(tmp_path: Path) -> None:
    counts = make_counts(7, 5)
    source = opened(write_zarr_0_6(tmp_path / "a.zarr", counts))
    assert source.obs.index.tolist() == [f"cell{i}" for i in range(7)]
    assert source.obs["type"].tolist() == list("BTBTBTB")
    assert source.var.index.tolist() == list(GENES[:5])
    assert "obsm was left out" in source.warnings[0]
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_chunks_of_zeros_that_were_not_written_are_zeros(tmp_path: Path) -> None:
    counts = make_counts(8, 6)
    counts[2:6] = 0
    path = write_zarr(tmp_path / "a.zarr", make_anndata(counts, layout="dense"))
    rewrite_x(path, counts, "dense", chunks=(2, 6))
    assert len(list((path / "X" / "c").iterdir())) == 2
    np.testing.assert_array_equal(dense(opened(path).blocks(), counts.shape), counts)


def test_a_single_gene_has_no_chunks_of_indices(tmp_path: Path) -> None:
    counts = np.array([[1], [0], [3]])
    path = write_zarr(tmp_path / "a.zarr", make_anndata(counts))
    assert not (path / "X/indices/c").exists()
    np.testing.assert_array_equal(dense(opened(path).blocks(), counts.shape), counts)


def lose(part: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        os.remove(path / part)

    return spoil


def lose_dense(path: Path) -> None:
    rewrite_x(path, make_counts(4, 3) + 1, "dense", chunks=(4, 3))
    shutil.rmtree(path / "X/c")


def lose_root(path: Path) -> None:
    os.remove(path / "zarr.json")


def cut_chunk(path: Path) -> None:
    chunk = path / "X/data/c/0"
    chunk.write_bytes(chunk.read_bytes()[:-3])


def cut_metadata(path: Path) -> None:
    chunk = path / "X/data/zarr.json"
    chunk.write_bytes(chunk.read_bytes()[:-30])


def link_out(path: Path) -> None:
    secret = path.parent / "secret"
    secret.write_bytes((path / "X/data/c/0").read_bytes())
    os.remove(path / "X/data/c/0")
    (path / "X/data/c/0").symlink_to(secret)


def link_folder(path: Path) -> None:
    shutil.move(path / "obs", path.parent / "elsewhere")
    (path / "obs").symlink_to(path.parent / "elsewhere")


def link_loop(path: Path) -> None:
    (path / "uns" / "again").symlink_to(path)


def fifo(path: Path) -> None:
    os.remove(path / "X/data/c/0")
    os.mkfifo(path / "X/data/c/0")


def metadata(part: str, **new: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        file = path / part / "zarr.json"
        about = json.loads(file.read_text()) | new
        file.write_text(json.dumps(about))
        unconsolidate(path)

    return spoil


def grid(*chunks: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": chunks}}


def wrong_shape(path: Path) -> None:
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    root["X"].attrs["shape"] = [4, 7]


def no_layout(path: Path) -> None:
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    root["X"].attrs["encoding-type"] = "coo_matrix"


def column_too_high(path: Path) -> None:
    zarr.open_array(path / "X/indices", mode="r+")[1] = 99


def not_a_number(path: Path) -> None:
    zarr.open_array(path / "X/data", mode="r+")[1] = np.nan


def negative(path: Path) -> None:
    zarr.open_array(path / "X/data", mode="r+")[1] = -1


def no_var(path: Path) -> None:
    shutil.rmtree(path / "var/_index")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose("X/data/c/0"), "X/data has no chunk c/0 of 1; it was lost"),
        (lose("X/indices/c/0"), "X/indices has no chunk"),
        (lose("X/indptr/c/0"), "X/indptr has no chunk"),
        (lose("obs/_index/c/0"), "obs/_index has no chunk"),
        (lose("X/data/zarr.json"), "not a readable Zarr folder"),
        (lose_dense, "X has no chunk of its values"),
        (lose_root, "not a readable Zarr folder"),
        (cut_chunk, "not a readable Zarr folder, or damaged"),
        (cut_metadata, "not a readable Zarr folder, or damaged"),
        (link_out, "X/data/c/0: a link"),
        (link_folder, "obs: a link"),
        (link_loop, "uns/again: a link"),
        (fifo, "X/data/c/0: no file"),
        (metadata("X/data", shape=[10**12]), "X/data has no chunk c/1 of"),
        (metadata("X/data", shape=[10**12], chunk_grid=grid(10**12)), "chunks of 3.73e|chunks of"),
        (metadata("obs/_index", shape=[10**11]), "obs declares .* GiB, but the file takes only"),
        (metadata("X/indptr", shape=[9], chunk_grid=grid(9)), "damaged|indptr has 9 entries"),
        (wrong_shape, "X is 4 x 7, but obs has 4 and var has 3 rows"),
        (no_layout, "neither a dense, CSR nor CSC"),
        (column_too_high, "holds 99, but there are 3 features"),
        (not_a_number, "X: not a number"),
        (negative, "X: negative"),
        (no_var, "var is not a readable table"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_refused_in_one_line_that_names_it(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    path = write_zarr(tmp_path / "bad.zarr", make_anndata(make_counts(4, 3) + 1))
    spoil(path)
    with pytest.raises(InputError, match=words) as caught:
        list(opened(path).blocks())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class _Spy:
    """Unpickling this leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.trace,))


@pytest.mark.parametrize("filters", [["pickle"], ["vlen-utf8", "pickle"], ["delta", "pickle"]])
def test_codecs_that_run_code_are_refused(tmp_path: Path, filters: list[str]) -> None:
    path = write_zarr(tmp_path / "a.zarr", make_anndata(make_counts(4, 3)), zarr_format=2)
    unconsolidate(path)
    about = json.loads((path / "obs/_index/.zarray").read_text())
    about["compressor"] = None
    about["filters"] = [{"id": name, "dtype": "<f4", "astype": "<f4"} for name in filters]
    if filters[0] == "delta":
        about["dtype"], about["fill_value"] = "<f4", 0
    (path / "obs/_index/.zarray").write_text(json.dumps(about))
    (path / "obs/_index/0").write_bytes(pickle.dumps(_Spy(tmp_path / "trace")))
    with pytest.raises(InputError, match=r"a\.zarr"):
        opened(path)
    assert not (tmp_path / "trace").exists()


def test_a_flipped_byte_is_told_or_does_no_harm(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", make_anndata(make_counts(12, 9, seed=3)))
    files = sorted(p for p in path.rglob("*") if p.is_file())
    rng = np.random.default_rng(0)
    told = []
    for _ in range(200):
        file = files[int(rng.integers(len(files)))]
        whole = file.read_bytes()
        at = int(rng.integers(len(whole)))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            if found := anndata_zarr.find([path]):
                source = anndata_zarr.open_source(found[0], ReadOptions())
                for block in source.blocks():
                    assert block.indices.max(initial=0) < source.n_vars
        except InputError as error:
            told.append(str(error))
        file.write_bytes(whole)
    assert len(told) > 10
    assert all(str(path) in message for message in told)


def test_other_folders_are_no_data_sets_and_say_why(tmp_path: Path) -> None:
    corpus, array, group, empty = (tmp_path / f"{name}.zarr" for name in ("c", "a", "g", "e"))
    source = write_zarr(tmp_path / "s.zarr", make_anndata(make_counts(60, 8) + 1))
    ingest_files([source], corpus, IngestOptions())
    zarr.create_array(array, shape=(2,), dtype="f4")
    zarr.open_group(group, mode="w").create_group("images")
    empty.mkdir()
    assert anndata_zarr.find([corpus, array, group, empty, tmp_path]) == []
    told = [anndata_zarr.refusal(path) or "" for path in (corpus, array, group, empty)]
    assert "a cellplm corpus, not a source" in told[0]
    assert "It has: nothing" in told[1]
    assert "It has: images" in told[2]
    assert "neither zarr.json nor .zgroup" in told[3]
    assert anndata_zarr.refusal(tmp_path / "file") is None


def test_an_unknown_layer_is_told_with_those_there_are(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", make_anndata(make_counts(4, 3)))
    with pytest.raises(CountsError, match=r"no layers\['other'\]; it has X$"):
        opened(path, counts="other")


@pytest.mark.parametrize(("zarr_format", "layout"), [(2, "dense"), (3, "csr"), (3, "csc")])
def test_a_folder_goes_through_ingestion_unchanged(
    tmp_path: Path, zarr_format: ZarrFormat, layout: Layout
) -> None:
    counts = make_counts(60, 8, seed=5) + (np.arange(60) % 2)[:, None]
    adata = make_anndata(counts, layout=layout)
    path = write_zarr(tmp_path / "a.zarr", adata, zarr_format=zarr_format)
    assert_round_trip(path, counts, [f"cell{i}" for i in range(60)], list(GENES))


@needs_shared
def test_a_real_folder_of_anndata_0_6_is_read() -> None:
    source = opened(SHARED / "sc-neuron10k-zarr/10x-10k-subset.zarr")
    assert (source.n_obs, source.n_vars) == (10000, 1000)
    assert source.var["gene_ids"].iloc[0] == "ENSMUSG00000051951"
    assert sum(int(block.data.sum()) for block in source.blocks()) == 1597698


@needs_shared
@pytest.mark.parametrize(
    ("version", "total"), [("v0.7.0", 627), ("v0.7.8", 568), ("v0.11.4", None)]
)
def test_real_archives_are_read_as_their_h5ad_twins(
    tmp_path: Path, version: str, total: int | None
) -> None:
    archive = SHARED / "formats-tiny/anndata-archives/archives" / version / "adata.zarr.zip"
    shutil.unpack_archive(archive, tmp_path / "a.zarr")
    if total is None:
        with pytest.raises(CountsError, match="X: not there"):
            opened(tmp_path / "a.zarr")
        return
    source = opened(tmp_path / "a.zarr")
    assert (source.n_obs, source.n_vars, source.counts_from) == (30, 40, "raw.X")
    assert "obs_cat" in source.obs.columns
    assert sum(int(block.data.sum()) for block in source.blocks()) == total
