"""A hash of what a data set says, whatever file it is in: to recognise it when it comes again.

Each cell's (gene id, count) pairs are hashed and added up, the sum is mixed into 128 bits, and
those are added up over cells modulo 2^128. Sums do not care about order, so the hash streams,
runs on any block layout, and is the same for another file format, other cell names and
another order of cells or genes. Columns without a gene id do not take part; a second column of
one gene does, since which of the two is called the duplicate depends on their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellplm.ingest.kernels import HASH_COUNT, HASH_MIX_A, HASH_MIX_B

Hash = NDArray[np.uint64]

_HIGH = np.uint64(0xD6E8FEB86659FD93)


def gene_hashes(gene_ids: Sequence[str]) -> Hash:
    """64 bits per gene.

    Args:
        gene_ids: (V,) Ensembl ids; "" for a column that is no gene.

    Returns:
        (V,) uint64; 0 where it is no gene.
    """
    raw = [hashlib.blake2b(g.encode(), digest_size=8).digest() if g else bytes(8) for g in gene_ids]
    return np.frombuffer(b"".join(raw), dtype="<u8").astype(np.uint64)


def digest(sums: Hash) -> str:
    """The hash of a data set from the sums of its cells: 32 hexadecimal digits."""
    low, high = sums.copy(), sums * _HIGH + HASH_COUNT
    _mix(low)
    _mix(high)
    total = (_add_up(high) << 64) + _add_up(low)
    return f"{total % 2**128:032x}"


def _mix(values: Hash) -> None:
    """The finaliser of MurmurHash3 (Appleby, public domain), in place."""
    shift = np.uint64(33)
    for factor in (HASH_MIX_A, HASH_MIX_B):
        values ^= values >> shift
        values *= factor
    values ^= values >> shift


def _add_up(values: Hash) -> int:
    low = int((values & np.uint64(0xFFFFFFFF)).sum())
    return (int((values >> np.uint64(32)).sum()) << 32) + low
