"""The content hash knows the data, not the file."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from cellplm.ingest.content import digest, gene_hashes
from tests.ingest.make import cell_sums


def counts_of(seed: int, n_obs: int = 20, n_vars: int = 30) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    return sp.csr_matrix(rng.poisson(0.4, (n_obs, n_vars)).astype(np.uint32))


def hash_of(counts: sp.csr_matrix, gene_ids: list[str]) -> str:
    return digest(
        cell_sums(
            counts.indptr.astype(np.int64), counts.indices, counts.data, gene_hashes(gene_ids)
        )
    )


GENES = [f"ENSG{i:011d}" for i in range(30)]


@given(seed=st.integers(0, 1000))
def test_order_of_cells_and_genes_does_not_matter(seed: int) -> None:
    counts = counts_of(seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(20), rng.permutation(30)
    moved = counts[rows][:, columns]
    assert hash_of(moved, [GENES[c] for c in columns]) == hash_of(counts, GENES)


@given(seed=st.integers(0, 1000), at=st.integers(0, 10_000))
def test_any_change_of_a_count_matters(seed: int, at: int) -> None:
    counts = counts_of(seed)
    changed = counts.copy()
    changed.data[at % changed.nnz] += 1
    assert hash_of(changed, GENES) != hash_of(counts, GENES)


def test_moving_a_count_to_another_cell_matters() -> None:
    a = sp.csr_matrix(np.array([[1, 2], [0, 0]], dtype=np.uint32))
    b = sp.csr_matrix(np.array([[1, 0], [0, 2]], dtype=np.uint32))
    assert hash_of(a, GENES[:2]) != hash_of(b, GENES[:2])


def test_the_same_cell_twice_is_not_no_cell() -> None:
    a = sp.csr_matrix(np.array([[1, 2], [1, 2]], dtype=np.uint32))
    b = sp.csr_matrix(np.array([[3, 4], [3, 4]], dtype=np.uint32))
    assert hash_of(a, GENES[:2]) != hash_of(b, GENES[:2])


def test_columns_that_are_no_genes_take_no_part() -> None:
    counts = counts_of(1)
    without = counts[:, :29]
    assert hash_of(counts, [*GENES[:29], ""]) == hash_of(without, GENES[:29])


def test_blocks_of_genes_add_up_to_the_whole() -> None:
    counts = counts_of(2)
    genes = gene_hashes(GENES)
    sums = np.zeros(20, dtype=np.uint64)
    for start in (0, 10, 20):
        block = counts[:, start : start + 10].tocsr()
        sums += cell_sums(block.indptr.astype(np.int64), block.indices + start, block.data, genes)
    assert digest(sums) == hash_of(counts, GENES)
