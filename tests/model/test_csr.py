import numpy as np
import pytest
import torch

from cellplm.model import csr
from cellplm.model.csr import Csr


def from_dense(dense: torch.Tensor) -> Csr:
    rows, columns = dense.nonzero(as_tuple=True)
    indptr = torch.searchsorted(rows, torch.arange(len(dense) + 1))
    return Csr.of(indptr, columns, dense[rows, columns], dense.shape[1])


def sparse_array(n_rows: int, n_columns: int) -> torch.Tensor:
    rng = np.random.default_rng(n_rows)
    dense = torch.from_numpy(rng.normal(size=(n_rows, n_columns)))
    dense[torch.from_numpy(rng.random((n_rows, n_columns)) < 0.6)] = 0
    dense[n_rows // 2] = 0
    return dense


def test_chunks_cover_all_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(csr.CHUNK_ENTRIES, "cpu", 15)
    dense = sparse_array(11, 5)
    matrix = from_dense(dense)
    assert list(matrix.chunks()) == [(0, 3), (3, 6), (6, 9), (9, 11)]
    assert torch.equal(torch.cat([matrix.dense(a, b) for a, b in matrix.chunks()]), dense)


def test_rows_are_taken_in_the_given_order() -> None:
    dense = sparse_array(8, 6)
    rows = torch.tensor([5, 0, 4, 7])
    taken = from_dense(dense).take_rows(rows)
    assert torch.equal(taken.dense(0, 4), dense[rows])


def test_no_rows_can_be_taken() -> None:
    taken = from_dense(sparse_array(8, 6)).take_rows(torch.tensor([], dtype=torch.int64))
    assert taken.n_rows == 0
    assert list(taken.chunks()) == []
