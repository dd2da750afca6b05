"""Encode one shard of a one-dimensional array as the Zarr v3 sharding codec defines it.

zarr-python writes the same bytes, at five times the CPU seconds (docs/benchmarks.md); it and
TensorStore read these. A shard is its inner chunks one behind the other, then for each the
offset and the length as two little-endian uint64, then the crc32c of that index.

Source: the specification of `sharding_indexed`, with the index at the end.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from cellplm.corpus.schema import LZ4_LEVEL, ArraySpec

_ABSENT = 2**64 - 1
_CRC = struct.Struct("<I")
_SHUFFLE = {"shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}


class Encoder:
    """Writes one shard to an open file, a few chunks at a time."""

    def __init__(self, file: BinaryIO, spec: ArraySpec) -> None:
        """Start an empty shard.

        Args:
            file: at its beginning.
            spec: chunk, shard and codecs.
        """
        self._file = file
        self._spec = spec
        self._index = np.full((spec.shard // spec.chunk, 2), _ABSENT, dtype="<u8")
        self._n_chunks = 0
        self._offset = 0

    def add(self, values: NDArray[Any]) -> None:
        """Append values, in the spec's dtype; whole chunks, unless the array ends with them."""
        for start in range(0, values.size, self._spec.chunk):
            chunk = _chunk(values[start : start + self._spec.chunk], self._spec)
            self._index[self._n_chunks] = self._offset, len(chunk)
            self._n_chunks += 1
            self._offset += len(chunk)
            self._file.write(chunk)

    def close(self) -> None:
        """Write the index."""
        self._file.write(_with_crc(self._index.tobytes()))


def _chunk(values: NDArray[Any], spec: ArraySpec) -> bytes:
    if values.size < spec.chunk:
        padded = np.zeros(spec.chunk, dtype=spec.dtype)
        padded[: values.size] = values
        values = padded
    values = np.ascontiguousarray(values, dtype=spec.dtype.newbyteorder("<"))
    if spec.shuffle is None:
        return _with_crc(values.tobytes())
    return _with_crc(blosc.compress(values, b"lz4", LZ4_LEVEL, _SHUFFLE[spec.shuffle]))


def _with_crc(raw: bytes) -> bytes:
    return raw + _CRC.pack(google_crc32c.value(raw))
