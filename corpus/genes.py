"""The gene index: one stable number for every human and mouse gene.

The number of a gene is its row in the bundled `genes.parquet`. A release only appends
rows, so a number in an old corpus means the same gene for ever. A corpus keeps a copy of the
index it was written with, byte for byte; its sha256 is how two indexes are compared.

The index is not the model's vocabulary. `vocabulary` says where a gene stands in the
default one; most genes of the index are in none.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cellplm.errors import CorruptCorpusError

COLUMNS = ("number", "ensembl_id", "symbol", "species", "biotype", "ortholog", "vocabulary")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GeneIndex:
    """Every gene that has a number.

    Attributes:
        number: (n,) int32, equal to 0..n-1.
        ensembl_id: (n,) str without versions, unique.
        symbol: (n,) str, "" where a gene has none.
        species: (n,) str, "human" or "mouse".
        biotype: (n,) str, HGNC's locus group or "".
        ortholog: (n,) int32 number of the one-to-one ortholog in the other species; -1: none.
        vocabulary: (n,) int32 position in the default vocabulary; -1: not in it.
        sha256: of `raw_bytes`, in hexadecimal.
        raw_bytes: the parquet file itself.
    """

    number: NDArray[np.int32]
    ensembl_id: NDArray[np.object_]
    symbol: NDArray[np.object_]
    species: NDArray[np.object_]
    biotype: NDArray[np.object_]
    ortholog: NDArray[np.int32]
    vocabulary: NDArray[np.int32]
    sha256: str
    raw_bytes: bytes = field(repr=False)
    _rows_by_id: pd.Index[str] = field(repr=False)

    @staticmethod
    def bundled() -> GeneIndex:
        """The index that this release ships; read once per process."""
        return _bundled()

    @classmethod
    def from_path(cls, path: Path) -> GeneIndex:
        """Read an index from a file.

        Raises:
            CorruptCorpusError: the file is missing or is no gene index.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CorruptCorpusError(
                f"{path}: the gene index cannot be read ({error.strerror})"
            ) from error
        return cls.from_bytes(data, name=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "gene index") -> GeneIndex:
        """Read an index from the bytes of its parquet file; `name` is for the messages.

        Raises:
            CorruptCorpusError: the bytes are no gene index.
        """
        try:
            table = pq.read_table(BytesIO(data))
        except (pa.ArrowException, OSError) as error:
            reason = str(error).split("\n", 1)[0]
            raise CorruptCorpusError(f"{name}: not a readable gene index ({reason})") from error
        missing = [column for column in COLUMNS if column not in table.column_names]
        if missing:
            raise CorruptCorpusError(f"{name}: the gene index lacks {', '.join(missing)}")
        column = {c: table[c].to_numpy(zero_copy_only=False) for c in COLUMNS}
        for c in ("number", "ortholog", "vocabulary"):
            if column[c].dtype != np.int32:
                raise CorruptCorpusError(f"{name}: the gene index has {c} as {column[c].dtype}")
            column[c].flags.writeable = False
        rows_by_id = pd.Index(column["ensembl_id"])
        n = len(rows_by_id)
        if not np.array_equal(column["number"], np.arange(n)) or not rows_by_id.is_unique:
            raise CorruptCorpusError(f"{name}: gene numbers are not 0..{n - 1}, one an id")
        if n and not -1 <= column["ortholog"].min() <= column["ortholog"].max() < n:
            raise CorruptCorpusError(f"{name}: an ortholog is no gene of the index")
        return cls(
            **column,
            sha256=hashlib.sha256(data).hexdigest(),
            raw_bytes=data,
            _rows_by_id=rows_by_id,
        )

    @property
    def n(self) -> int:
        """Genes in the index."""
        return self.number.size

    def vocabulary_ids(self) -> tuple[str, ...]:
        """Ensembl ids of the default vocabulary, in its order."""
        inside = np.flatnonzero(self.vocabulary >= 0)
        order = inside[np.argsort(self.vocabulary[inside])]
        return tuple(self.ensembl_id[order])

    def numbers_of(self, ensembl_ids: Sequence[str] | NDArray[np.object_]) -> NDArray[np.int32]:
        """Numbers of Ensembl ids without versions, (len,) int32; -1 where unknown."""
        wanted = pd.Index(np.asarray(ensembl_ids, dtype=object))
        return self._rows_by_id.get_indexer(wanted).astype(np.int32)


@cache
def _bundled() -> GeneIndex:
    resource = importlib.resources.files("cellplm") / "data" / "genes.parquet"
    return GeneIndex.from_bytes(resource.read_bytes(), name="the bundled gene index")
