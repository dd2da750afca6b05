"""The sort loses nothing, whatever the block layout, the order, the memory and the shard size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tensorstore as ts
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cellplm.corpus import schema
from cellplm.corpus.writer import PartWriter
from cellplm.errors import CountsError
from cellplm.ingest.scan import Columns, Scan, scan
from cellplm.ingest.sort import (
    lay_out,
    rows_in_memory,
    rows_of_shard,
    shards_of,
    write_shard,
)
from cellplm.ingest.source import Axis, Block, Source
from cellplm.ingest.stash import Stash, read_pieces, read_rows
from tests.ingest.make import cell_sums


def source_of(counts: np.ndarray, axis: Axis, block: int) -> Source:
    """A source whose blocks run along cells or along features, `block` of them each."""
    matrix = sp.csr_matrix(counts) if axis == "obs" else sp.csc_matrix(counts)

    def blocks() -> Iterator[Block]:
        for start in range(0, counts.shape[0 if axis == "obs" else 1], block):
            each = (
                matrix[start : start + block] if axis == "obs" else matrix[:, start : start + block]
            )
            yield Block(
                axis=axis,
                start=start,
                indptr=each.indptr.astype(np.int64),
                indices=each.indices.astype(np.int32),
                data=each.data,
            )

    n_obs, n_vars = counts.shape
    return Source(
        name="made",
        format="made",
        files=(Path("made"),),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n_obs)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(n_vars)]),
        counts_from="X",
        blocks=blocks,
    )


def columns_of(source: Source, order: np.ndarray | None = None, seed: int = 0) -> Columns:
    """Columns that go where `order` says, all of them genes with made hashes."""
    rng = np.random.default_rng(seed)
    order = np.arange(source.n_vars) if order is None else order
    return Columns(
        target=np.argsort(order).astype(np.uint32),
        gene_hash=rng.integers(1, 2**60, source.n_vars).astype(np.uint64),
        is_gene=np.ones(source.n_vars, dtype=bool),
    )


def forgetful(n_vars: int) -> Stash:
    return Stash(None, n_vars=n_vars, budget=10, position_of=lambda: np.arange(0))


def write_part(root: Path, stash: Stash, scanned: Scan, rows: np.ndarray, n_vars: int) -> Path:
    """All shards of a part, by the way that its stash asks for; its X."""
    layout = lay_out(scanned.row_nnz, rows)
    writer = PartWriter(
        root,
        "p",
        n_obs=rows.size,
        n_vars=n_vars,
        nnz=int(layout.indptr[-1]),
        max_count=scanned.max_count,
    )
    writer.write_tables(
        indptr=layout.indptr,
        obs=pd.DataFrame(index=[str(i) for i in range(rows.size)]),
        var=pd.DataFrame(index=[str(i) for i in range(n_vars)]),
        coords_um=None,
        provenance={},
    )
    if not stash.paths:
        held = rows_in_memory(stash, layout)
        for number in range(writer.n_shards):
            write_shard(number, held, layout, writer)
        return writer.path / "X"
    for number in range(writer.n_shards):
        mine = [
            path
            for path in stash.paths
            if any(number in shards_of(rows, layout, writer) for rows in read_rows(path))
        ]
        pieces = (piece for path in mine for piece in read_pieces(path))
        write_shard(number, rows_of_shard(number, pieces, layout, writer), layout, writer)
    return writer.path / "X"


def matrix_of(x: Path, shape: tuple[int, int]) -> np.ndarray:
    """A part's counts through zarr-python; TensorStore has to read the same."""
    read = {}
    for name in ("data", "indices", "indptr"):
        read[name] = np.asarray(zarr.open_array(x / name, mode="r")[:])
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(x / name)}}
        array = ts.open({**spec, "fill_missing_data_reads": False}, open=True).result()
        assert np.array_equal(array.read().result(), read[name])
    parts = (read["data"], read["indices"].astype(np.int64), read["indptr"])
    matrix: sp.csr_matrix = sp.csr_matrix(parts, shape=shape)
    assert matrix.has_sorted_indices
    return matrix.toarray()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    n_obs=st.integers(1, 40),
    n_vars=st.integers(1, 200),
    axis=st.sampled_from(["obs", "var"]),
    block=st.integers(1, 50),
    chunk=st.integers(1, 40),
    chunks_per_shard=st.integers(1, 20),
    budget=st.sampled_from([1, 300, 100_000]),
    mean=st.sampled_from([0.02, 0.5, 3.0, 400.0, 70_000.0]),
    surprise=st.booleans(),
)
def test_rows_and_columns_arrive_where_they_should(
    seed: int,
    n_obs: int,
    n_vars: int,
    axis: Axis,
    block: int,
    chunk: int,
    chunks_per_shard: int,
    budget: int,
    mean: float,
    surprise: bool,
) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(mean, (n_obs, n_vars)).astype(np.float32)
    counts[0, 0] = 1  # a part is never empty
    # A shard must hold the longest row, as 32 Mi values always do.
    chunks_per_shard = max(chunks_per_shard, -(-n_vars // chunk))
    rows, columns = rng.permutation(n_obs), rng.permutation(n_vars)
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(schema, "CHUNK_VALUES", chunk)
        patch.setattr(schema, "SHARD_VALUES", chunk * chunks_per_shard)
        source = source_of(counts, axis, block)
        # The order that is known before the counts are: some rows will move to the end.
        known = np.argsort(rng.permutation(rows) if surprise else rows)
        stash = Stash(
            Path(folder) / "stash", n_vars=n_vars, budget=budget, position_of=lambda: known
        )
        scanned = scan(source, columns_of(source, columns), stash, lambda _: None)
        x = write_part(Path(folder), stash, scanned, rows, n_vars)
        got = matrix_of(x, counts.shape)
    assert np.array_equal(got, counts[rows][:, columns])


@pytest.mark.parametrize("profile", ["balanced", "fast"])
@pytest.mark.parametrize("largest", [200, 60_000, 2**32 - 1])
def test_zarr_python_would_have_written_the_same_shard(
    tmp_path: Path, profile: schema.Profile, largest: int
) -> None:
    rng = np.random.default_rng(0)
    n = 3 * schema.CHUNK_VALUES + 17
    counts = rng.integers(1, largest, n, endpoint=True)
    spec = schema.data_spec(largest, n, profile)
    writer = PartWriter(tmp_path, "p", n_obs=1, n_vars=n, nnz=n, max_count=largest, profile=profile)
    columns = np.arange(n).astype(writer.indices_dtype)
    writer.write_shard(0, [(counts.astype(spec.dtype), columns)])
    array = zarr.create_array(
        tmp_path / "theirs",
        shape=(n,),
        dtype=spec.dtype,
        chunks=(spec.chunk,),
        shards=(spec.shard,),
        compressors=list(spec.codecs),
    )
    array[:] = counts.astype(spec.dtype)
    ours = (writer.path / "X" / "data" / "c" / "0").read_bytes()
    assert ours == (tmp_path / "theirs" / "c" / "0").read_bytes()


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_sums_per_row_count_genes_only_in_the_library(axis: Axis) -> None:
    counts = np.array([[1, 0, 5], [0, 0, 0], [2, 3, 0]], dtype=np.int64)
    source = source_of(counts, axis, 2)
    columns = Columns(
        target=np.arange(3, dtype=np.uint32),
        gene_hash=np.array([7, 9, 9], dtype=np.uint64),
        is_gene=np.array([True, True, False]),
    )
    scanned = scan(source, columns, forgetful(3), lambda _: None)
    assert scanned.row_nnz.tolist() == [2, 0, 2]
    assert scanned.row_total.tolist() == [6, 0, 5]
    assert scanned.library_size.tolist() == [1, 0, 5]
    assert scanned.max_count == 5


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_the_content_of_cells_is_that_of_the_slow_sum(axis: Axis) -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(1.0, (30, 20))
    source = source_of(counts, axis, 7)
    columns = columns_of(source)
    columns.gene_hash[[2, 11]] = 0
    scanned = scan(source, columns, forgetful(20), lambda _: None)
    csr = sp.csr_matrix(counts)
    slow = cell_sums(
        csr.indptr.astype(np.int64), csr.indices, csr.data.astype(np.uint32), columns.gene_hash
    )
    assert np.array_equal(scanned.content, slow)


@pytest.mark.parametrize("axis", ["obs", "var"])
@pytest.mark.parametrize("bad", [-1.0, 0.5, np.nan, np.inf])
def test_one_bad_value_at_the_very_end_is_found(axis: Axis, bad: float) -> None:
    counts = np.ones((50, 8))
    counts[-1, -1] = bad
    source = source_of(counts, axis, 7)
    with pytest.raises(CountsError, match="c49.*g7"):
        scan(source, columns_of(source), forgetful(8), lambda _: None)
