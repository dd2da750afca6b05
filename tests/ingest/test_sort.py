"""The sort loses nothing, whatever the block layout, the order and the shard size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cellplm.corpus import schema
from cellplm.corpus.writer import PartWriter
from cellplm.errors import CountsError
from cellplm.ingest.sort import assemble, lay_out, scan, spill
from cellplm.ingest.source import Axis, Block, Source


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


def sort_whole(root: Path, source: Source, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """All three phases; returns the part's matrix and the orders it was given."""
    genes = rng.integers(1, 2**60, source.n_vars).astype(np.uint64)
    scanned = scan(source, genes, np.ones(source.n_vars, dtype=bool), lambda _: None)
    rows, columns = rng.permutation(source.n_obs), rng.permutation(source.n_vars)
    layout = lay_out(scanned, rows, columns)
    writer = PartWriter(
        root,
        "p",
        n_obs=source.n_obs,
        n_vars=source.n_vars,
        nnz=int(layout.indptr[-1]),
        max_count=scanned.max_count,
    )
    folder = root / "spill"
    folder.mkdir()
    for number, path in enumerate(spill(source, layout, writer, folder, lambda _: None)):
        assemble(number, path, layout, writer)
    assert not list(folder.iterdir())
    writer.write_indptr(layout.indptr)
    x = root / "parts" / "p" / "X"
    data, indices, indptr = (
        np.asarray(zarr.open_array(x / name, mode="r")[:]) for name in ("data", "indices", "indptr")
    )
    shape = (source.n_obs, source.n_vars)
    matrix: sp.csr_matrix = sp.csr_matrix((data, indices.astype(np.int64), indptr), shape=shape)
    assert matrix.has_sorted_indices
    return matrix.toarray(), rows, columns


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    n_obs=st.integers(1, 40),
    n_vars=st.integers(1, 30),
    axis=st.sampled_from(["obs", "var"]),
    block=st.integers(1, 50),
    chunk=st.integers(1, 40),
    chunks_per_shard=st.integers(1, 4),
    mean=st.sampled_from([0.02, 0.5, 3.0, 400.0]),
)
def test_rows_and_columns_arrive_where_they_should(
    seed: int,
    n_obs: int,
    n_vars: int,
    axis: Axis,
    block: int,
    chunk: int,
    chunks_per_shard: int,
    mean: float,
) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(mean, (n_obs, n_vars)).astype(np.float32)
    # A shard must hold the longest row, as 32 Mi values always do.
    chunk = max(chunk, n_vars)
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(schema, "CHUNK_VALUES", chunk)
        patch.setattr(schema, "SHARD_VALUES", chunk * chunks_per_shard)
        got, rows, columns = sort_whole(Path(folder), source_of(counts, axis, block), rng)
    assert np.array_equal(got, counts[rows][:, columns])


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_sums_per_row_count_genes_only_in_the_library(axis: Axis) -> None:
    counts = np.array([[1, 0, 5], [0, 0, 0], [2, 3, 0]], dtype=np.int64)
    hashes = np.array([7, 9, 9], dtype=np.uint64)
    is_gene = np.array([True, True, False])
    scanned = scan(source_of(counts, axis, 2), hashes, is_gene, lambda _: None)
    assert scanned.row_nnz.tolist() == [2, 0, 2]
    assert scanned.row_total.tolist() == [6, 0, 5]
    assert scanned.library_size.tolist() == [1, 0, 5]
    assert scanned.max_count == 5


@pytest.mark.parametrize("axis", ["obs", "var"])
@pytest.mark.parametrize("bad", [-1.0, 0.5, np.nan, np.inf])
def test_one_bad_value_at_the_very_end_is_found(axis: Axis, bad: float) -> None:
    counts = np.ones((50, 8))
    counts[-1, -1] = bad
    with pytest.raises(CountsError, match="c49.*g7"):
        scan(
            source_of(counts, axis, 7),
            np.ones(8, dtype=np.uint64),
            np.ones(8, dtype=bool),
            lambda _: None,
        )
