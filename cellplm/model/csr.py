"""Csr: a sparse (C, G) matrix, and dense chunks of its rows.

torch's own CSR tensors have no row slices and slow products on the CPU (MODEL.md has the
timings): both the embedder and the loss fill a dense chunk and let a GEMM do the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Entries of a dense chunk: small enough for the memory, large enough for the GEMM.
CHUNK_ENTRIES = {"cpu": 1 << 22, "cuda": 1 << 27}


@dataclass(frozen=True, kw_only=True, slots=True)
class Csr:
    """Non-zeros of a (C, G) matrix, row after row.

    Attributes:
        indptr: (C + 1,) int64, where each row begins.
        rows: (nnz,) int64, the row of each non-zero, ascending.
        columns: (nnz,) int64.
        values: (nnz,) floating.
        n_columns: G.
    """

    indptr: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor
    n_columns: int

    @staticmethod
    def of(indptr: Tensor, columns: Tensor, values: Tensor, n_columns: int) -> Csr:
        """From the usual three arrays."""
        rows = torch.arange(indptr.numel() - 1, device=indptr.device)
        rows = rows.repeat_interleave(indptr.diff(), output_size=columns.numel())
        return Csr(indptr=indptr, rows=rows, columns=columns, values=values, n_columns=n_columns)

    @property
    def n_rows(self) -> int:
        """C."""
        return self.indptr.numel() - 1

    def with_values(self, values: Tensor) -> Csr:
        """The same places, other values."""
        return replace(self, values=values)

    def take_rows(self, rows: Tensor) -> Csr:
        """The given rows, in the given order."""
        sizes = self.indptr.diff()[rows]
        indptr = torch.zeros(rows.numel() + 1, dtype=torch.int64, device=rows.device)
        torch.cumsum(sizes, 0, out=indptr[1:])
        shift = (self.indptr[:-1][rows] - indptr[:-1]).repeat_interleave(sizes)
        source = torch.arange(shift.numel(), device=rows.device) + shift
        return Csr.of(indptr, self.columns[source], self.values[source], self.n_columns)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Row ranges whose dense form stays within `CHUNK_ENTRIES`."""
        entries = CHUNK_ENTRIES.get(self.indptr.device.type, 1 << 22)
        step = max(1, entries // self.n_columns)
        for start in range(0, self.n_rows, step):
            yield start, min(start + step, self.n_rows)

    def flat(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Places (in the flattened chunk) and values of the non-zeros of rows start to stop."""
        first, last = self.indptr[start].item(), self.indptr[stop].item()
        where = slice(int(first), int(last))
        return (self.rows[where] - start) * self.n_columns + self.columns[where], self.values[where]

    def dense(self, start: int, stop: int) -> Tensor:
        """Rows start to stop as a new (stop - start, G) array."""
        places, values = self.flat(start, stop)
        out = values.new_zeros((stop - start) * self.n_columns)
        return out.scatter_(0, places, values).view(-1, self.n_columns)
