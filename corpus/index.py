"""The index object of a part: the little that planning and streaming need beside X.

A few arrays in one .npz, read whole and checked against the hash in the snapshot; no
pickled objects. Everything a plan knows of a part stands here, so a plan does no I/O.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cellplm.corpus.schema import NNZ_PREFIX_ROWS
from cellplm.errors import CorruptCorpusError


@dataclass(frozen=True, kw_only=True, slots=True)
class PartIndex:
    """T tissues, N rows, V columns of one part.

    Attributes:
        tissue_start, tissue_stop: (T,) int64 rows; tissues follow each other from row 0, and
            rows after the last one belong to none.
        tissue_nnz: (T,) int64 stored counts.
        tissue_sample, tissue_fov: (T,) str; the FOV is "" for scRNA.
        tissue_origin_um: (T, 2) float32, the lowest x and y of its cells, NaN for scRNA.
        tissue_extent_um: (T, 2) float32, width and height of its cells' bounding box, NaN for
            scRNA.
        nnz_prefix: int64 stored counts before rows 0, 1024, 2048, … and in all.
        gene_number: (V,) int32 gene-index number per column, -1 where it is no gene.
        library_size: (N,) uint32 or uint64, counts over the columns that are genes.
    """

    tissue_start: NDArray[np.int64]
    tissue_stop: NDArray[np.int64]
    tissue_nnz: NDArray[np.int64]
    tissue_sample: NDArray[np.str_]
    tissue_fov: NDArray[np.str_]
    tissue_origin_um: NDArray[np.float32]
    tissue_extent_um: NDArray[np.float32]
    nnz_prefix: NDArray[np.int64]
    gene_number: NDArray[np.int32]
    library_size: NDArray[np.unsignedinteger]

    @property
    def n_tissues(self) -> int:
        """Tissues in the part."""
        return self.tissue_start.size


def nnz_prefix(indptr: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stored counts before every 1,024th row, and in all.

    Args:
        indptr: (N + 1,) of the whole part.

    Returns:
        (ceil(N / 1024) + 1,) int64.
    """
    n_obs = indptr.size - 1
    rows = np.append(np.arange(0, n_obs, NNZ_PREFIX_ROWS), n_obs)
    prefix: NDArray[np.int64] = indptr[rows]
    return prefix


def to_bytes(index: PartIndex) -> bytes:
    """The .npz, equal bytes for equal content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for field in fields(PartIndex):
            member = io.BytesIO()
            np.lib.format.write_array(member, getattr(index, field.name), allow_pickle=False)
            # A fixed time stamp, so that the same part has the same index hash.
            info = zipfile.ZipInfo(f"{field.name}.npy")
            archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)
    return buffer.getvalue()


def from_bytes(raw: bytes, *, name: str) -> PartIndex:
    """Read it back.

    Raises:
        CorruptCorpusError: not an index; `name` is in the message.
    """
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            return PartIndex(**{field.name: arrays[field.name] for field in fields(PartIndex)})
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise CorruptCorpusError(f"{name}: not a part index ({error}).") from None
