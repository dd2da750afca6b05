"""Names, dtypes and codecs on disk: the one place that knows them (docs/format.md).

Everything that is written or read elsewhere takes its names and chunk sizes from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

FORMAT_VERSION = 1

ROOT = "zarr.json"
MANIFEST = "manifest"
LATEST = "manifest/latest"
GENES = "genes"
PARTS = "parts"
INDEX = "index"
LEASES = "leases"
SPILL = "spill"
"""Where an ingest in progress sorts; empty otherwise."""

SHARD_VALUES = 32 * 1024 * 1024
"""Values in a whole shard of X/data and X/indices: few objects, long reads."""
CHUNK_VALUES = 128 * 1024
"""Values in an inner chunk: what is wasted at either end of a window."""
LZ4_LEVEL = 5
INDPTR_CHUNK = 16 * 1024
TABLE_CHUNK = 64 * 1024
NNZ_PREFIX_ROWS = 1024

Profile = Literal["balanced", "fast"]
Modality = Literal["scrna", "srt"]

KINDS = ("gene", "duplicate", "unmapped", "control", "protein")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """How a one-dimensional array is laid out.

    Attributes:
        dtype: NumPy dtype.
        chunk: values in an inner chunk.
        shard: values in a shard, a multiple of `chunk`.
        shuffle: what blosc-lz4 does before it compresses an inner chunk; None: no blosc.
        zstd: whether zstd compresses instead.
    """

    dtype: np.dtype[Any]
    chunk: int
    shard: int
    shuffle: Literal["shuffle", "bitshuffle"] | None = None
    zstd: bool = False

    @property
    def codecs(self) -> tuple[Any, ...]:
        """What becomes of an inner chunk; crc32c is the last."""
        if self.zstd:
            return table_codecs()
        if self.shuffle is None:
            return (Crc32cCodec(),)
        return (
            BloscCodec(
                cname="lz4",
                clevel=LZ4_LEVEL,
                shuffle=self.shuffle,
                typesize=self.dtype.itemsize,
            ),
            Crc32cCodec(),
        )


def index_dtype(n_vars: int) -> np.dtype[Any]:
    """Dtype of X/indices."""
    return np.dtype(np.uint16 if n_vars <= 2**16 else np.uint32)


def count_dtype(max_count: int) -> np.dtype[Any]:
    """Smallest unsigned dtype that holds the counts of a part."""
    return np.min_scalar_type(max(max_count, 0))


def data_spec(max_count: int, nnz: int, profile: Profile) -> ArraySpec:
    """Layout of X/data."""
    dtype = count_dtype(max_count)
    if profile == "fast":
        return _values(dtype, nnz, None)
    return _values(dtype, nnz, "bitshuffle" if dtype.itemsize == 1 else "shuffle")


def indices_spec(n_vars: int, nnz: int) -> ArraySpec:
    """Layout of X/indices."""
    return _values(index_dtype(n_vars), nnz, "shuffle")


def indptr_spec(n_obs: int) -> ArraySpec:
    """Layout of X/indptr."""
    chunk = min(INDPTR_CHUNK, n_obs + 1)
    shard = chunk * -(-(n_obs + 1) // chunk)
    return ArraySpec(dtype=np.dtype(np.int64), chunk=chunk, shard=shard, zstd=True)


def table_codecs() -> tuple[Any, ...]:
    """What compresses everything but X."""
    return (ZstdCodec(level=3), Crc32cCodec())


def _values(
    dtype: np.dtype[Any], nnz: int, shuffle: Literal["shuffle", "bitshuffle"] | None
) -> ArraySpec:
    chunk = max(1, min(CHUNK_VALUES, nnz))
    shard = min(SHARD_VALUES, chunk * max(1, -(-nnz // chunk)))
    return ArraySpec(dtype=dtype, chunk=chunk, shard=shard, shuffle=shuffle)
