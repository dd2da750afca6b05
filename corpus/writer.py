"""Write one part: a valid AnnData Zarr group, complete before any snapshot names it.

Shards of X are written whole, each by one caller, so several may be written at once.
Consolidated metadata come last: an array replaced afterwards would make AnnData read
X = None without a word.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cellplm.corpus import schema
from cellplm.corpus.manifest import ObjectRef, sync_folder, sync_write


class PartWriter:
    """Writes the arrays of one part; `finish` lists, hashes and syncs every object."""

    def __init__(
        self,
        root: Path,
        part_id: str,
        *,
        n_obs: int,
        n_vars: int,
        nnz: int,
        max_count: int,
        profile: schema.Profile = "balanced",
    ) -> None:
        """Create the empty arrays of X.

        Args:
            root: the corpus.
            part_id: unique and never used before.
            n_obs: cells.
            n_vars: columns.
            nnz: stored counts.
            max_count: the largest of them; decides the dtype.
            profile: how X/data is compressed.
        """
        self.root = root
        self.part_id = part_id
        self.path = root / schema.PARTS / part_id
        self.nnz = nnz
        self._data_spec = schema.data_spec(max_count, nnz, profile)
        self._indices_spec = schema.indices_spec(n_vars, nnz)
        self._group = zarr.create_group(self.path, zarr_format=3)
        self._group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        x = self._group.create_group(
            "X",
            attributes={
                "encoding-type": "csr_matrix",
                "encoding-version": "0.1.0",
                "shape": [n_obs, n_vars],
            },
        )
        self._data = _create(x, "data", nnz, self._data_spec)
        self._indices = _create(x, "indices", nnz, self._indices_spec)
        self._indptr = _create(x, "indptr", n_obs + 1, schema.indptr_spec(n_obs))

    @property
    def data_dtype(self) -> np.dtype[Any]:
        """Dtype of X/data."""
        return self._data_spec.dtype

    @property
    def indices_dtype(self) -> np.dtype[Any]:
        """Dtype of X/indices."""
        return self._indices_spec.dtype

    @property
    def shard_values(self) -> int:
        """Values in a whole shard of X/data and X/indices."""
        return self._data_spec.shard

    @property
    def n_shards(self) -> int:
        """Shards of X/data and X/indices."""
        return -(-self.nnz // self.shard_values)

    def write_shard(
        self, number: int, data: NDArray[np.unsignedinteger], indices: NDArray[np.unsignedinteger]
    ) -> None:
        """Write one whole shard of X/data and of X/indices; safe from several threads.

        Args:
            number: which shard.
            data: its counts, in `data_dtype`.
            indices: their columns, in `indices_dtype`, ascending within a row.
        """
        start = number * self.shard_values
        stop = min(self.nnz, start + self.shard_values)
        if data.size != stop - start or indices.size != data.size:
            raise ValueError(f"shard {number} takes {stop - start} values, not {data.size}")
        self._data[start:stop] = data
        self._indices[start:stop] = indices

    def write_indptr(self, indptr: NDArray[np.int64]) -> None:
        """Write X/indptr, (n_obs + 1,)."""
        self._indptr[:] = indptr

    def write_tables(
        self,
        *,
        obs: pd.DataFrame,
        var: pd.DataFrame,
        coords_um: NDArray[np.float32] | None,
        provenance: Mapping[str, Any],
    ) -> None:
        """Write what stands beside X.

        Args:
            obs: rows in the part's order.
            var: columns in the part's order, unique index.
            coords_um: (n_obs, 2) for SRT, else None.
            provenance: goes to uns/cellplm as one JSON string.
        """
        codecs = {"compressors": list(schema.table_codecs())}
        with warnings.catch_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
            warnings.filterwarnings("ignore", message="zarr v3 autosharding")
            ad.io.write_elem(self._group, "obs", obs, dataset_kwargs=codecs)
            ad.io.write_elem(self._group, "var", var, dataset_kwargs=codecs)
            uns = {"cellplm": json.dumps(provenance)}
            ad.io.write_elem(self._group, "uns", uns)
            ad.io.write_elem(self._group, "obsm", {})
        if coords_um is not None:
            # Not through write_elem: in one chunk, a window would decode the whole slide.
            spatial = self._group["obsm"].create_array(  # type: ignore[union-attr]
                "spatial",
                shape=coords_um.shape,
                dtype=np.float32,
                chunks=(min(schema.TABLE_CHUNK, len(coords_um)), 2),
                compressors=list(schema.table_codecs()),
                config={"write_empty_chunks": True},
                attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
            )
            spatial[:] = coords_um

    def finish(self) -> ObjectRef:
        """Consolidate, sync every object, and write their list.

        Returns:
            Where the list of objects is, and its hash.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(self._group.store)
        objects = []
        for folder, _, names in sorted(os.walk(self.path)):
            for name in sorted(names):
                path = Path(folder) / name
                size, sha256 = hash_file(path, sync=True)
                relative = path.relative_to(self.root).as_posix()
                objects.append({"path": relative, "size": size, "sha256": sha256})
            sync_folder(Path(folder))
        return write_object(
            self.root,
            f"{schema.INDEX}/{self.part_id}.objects.json",
            json.dumps({"objects": objects}, indent=0).encode(),
        )

    def abandon(self) -> None:
        """Delete what was written; for a part that no snapshot will name."""
        shutil.rmtree(self.path, ignore_errors=True)
        for suffix in (".npz", ".objects.json"):
            (self.root / schema.INDEX / f"{self.part_id}{suffix}").unlink(missing_ok=True)


def write_object(root: Path, path: str, raw: bytes) -> ObjectRef:
    """Write one small object of the corpus, synced, and say its hash."""
    target = root / path
    target.parent.mkdir(exist_ok=True)
    sync_write(target, raw)
    return ObjectRef(path=path, sha256=hashlib.sha256(raw).hexdigest())


def hash_file(path: Path, *, sync: bool = False) -> tuple[int, str]:
    """Size in bytes and sha256 of a file, first synced to the disk on request."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


def _create(group: zarr.Group, name: str, n: int, spec: schema.ArraySpec) -> Any:
    return group.create_array(
        name,
        shape=(n,),
        dtype=spec.dtype,
        chunks=(spec.chunk,),
        shards=(spec.shard,),
        compressors=list(spec.codecs),
        fill_value=0,
        # A shard that is not there must mean that it was lost, never that it was all zeros.
        config={"write_empty_chunks": True},
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
    )
