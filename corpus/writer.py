"""Write one part: a valid AnnData Zarr group, complete before any snapshot names it.

Shards of X are written whole, each by one caller, so several may be written at once, before or
after all the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cellplm.corpus import schema, shard
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
        """Nothing is written yet; a writer can be sent to other processes.

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
        self.n_obs = n_obs
        self.n_vars = n_vars
        self.nnz = nnz
        self._data_spec = schema.data_spec(max_count, nnz, profile)
        self._indices_spec = schema.indices_spec(n_vars, nnz)

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
    def chunk_values(self) -> int:
        """Values in an inner chunk of X/data and X/indices."""
        return self._data_spec.chunk

    @property
    def n_shards(self) -> int:
        """Shards of X/data and X/indices."""
        return -(-self.nnz // self.shard_values)

    def write_shard(
        self,
        number: int,
        runs: Iterable[tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]],
    ) -> None:
        """Write one whole shard of X/data and of X/indices; safe from several processes.

        Args:
            number: which shard.
            runs: its counts, in `data_dtype`, and their columns, in `indices_dtype` and
                ascending within a row; in runs of whole chunks, but for the last.
        """
        expected = min(self.shard_values, self.nnz - number * self.shard_values)
        paths = [self.path / "X" / name / "c" / str(number) for name in ("data", "indices")]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        # A task may run twice at the same time: each writes files of its own.
        mark = uuid.uuid4().hex
        temporary = [path.with_name(f".{number}.{mark}.tmp") for path in paths]
        n_values = 0
        with temporary[0].open("wb") as data_file, temporary[1].open("wb") as indices_file:
            data = shard.Encoder(data_file, self._data_spec)
            indices = shard.Encoder(indices_file, self._indices_spec)
            for counts, columns in runs:
                data.add(counts)
                indices.add(columns)
                n_values += counts.size
            data.close()
            indices.close()
        if n_values != expected:
            raise ValueError(f"shard {number} takes {expected} values, not {n_values}")
        for path, written in zip(paths, temporary, strict=True):
            written.replace(path)

    def write_tables(
        self,
        *,
        indptr: NDArray[np.int64],
        obs: pd.DataFrame,
        var: pd.DataFrame,
        coords_um: NDArray[np.float32] | None,
        provenance: Mapping[str, Any],
    ) -> None:
        """Write all but the shards of X.

        Args:
            indptr: (n_obs + 1,) of X.
            obs: rows in the part's order.
            var: columns in the part's order, unique index.
            coords_um: (n_obs, 2) for SRT, else None.
            provenance: goes to uns/cellplm as one JSON string.
        """
        # Made in memory and then written: half the CPU seconds of as many small files made one
        # by one, and the consolidated metadata come last.
        objects: dict[str, Any] = {}
        group = zarr.create_group(zarr.storage.MemoryStore(objects), zarr_format=3)
        group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        self._make_x(group, indptr)
        codecs = {"compressors": list(schema.table_codecs())}
        with warnings.catch_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
            warnings.filterwarnings("ignore", message="zarr v3 autosharding")
            ad.io.write_elem(group, "obs", obs, dataset_kwargs=codecs)
            ad.io.write_elem(group, "var", var, dataset_kwargs=codecs)
            uns = {"cellplm": json.dumps(provenance)}
            ad.io.write_elem(group, "uns", uns)
            ad.io.write_elem(group, "obsm", {})
        if coords_um is not None:
            # Not through write_elem: in one chunk, a window would decode the whole slide.
            spatial = group["obsm"].create_array(  # type: ignore[union-attr]
                "spatial",
                shape=coords_um.shape,
                dtype=np.float32,
                chunks=(min(schema.TABLE_CHUNK, len(coords_um)), 2),
                compressors=list(schema.table_codecs()),
                config={"write_empty_chunks": True},
                attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
            )
            spatial[:] = coords_um
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(group.store)
        for name, value in objects.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value.to_bytes())

    def _make_x(self, group: zarr.Group, indptr: NDArray[np.int64]) -> None:
        x = group.create_group(
            "X",
            attributes={
                "encoding-type": "csr_matrix",
                "encoding-version": "0.1.0",
                "shape": [self.n_obs, self.n_vars],
            },
        )
        _create(x, "data", self.nnz, self._data_spec)
        _create(x, "indices", self.nnz, self._indices_spec)
        _create(x, "indptr", self.n_obs + 1, schema.indptr_spec(self.n_obs))[:] = indptr

    def finish(self) -> ObjectRef:
        """Sync every object, and write their list.

        Returns:
            Where the list of objects is, and its hash.
        """
        objects = []
        for folder, _, names in sorted(os.walk(self.path)):
            for name in sorted(names):
                path = Path(folder) / name
                if name.endswith(".tmp"):  # of a task whose worker died
                    path.unlink()
                    continue
                size, sha256 = hash_file(path, sync=True)
                relative = path.relative_to(self.root).as_posix()
                objects.append({"path": relative, "size": size, "sha256": sha256})
            sync_folder(Path(folder))
        return write_object(
            self.root,
            f"{schema.INDEX}/{self.part_id}.objects.json",
            json.dumps({"objects": objects}, indent=0).encode(),
        )


def abandon(root: Path, part_id: str) -> None:
    """Delete what was written of a part that no snapshot will name."""
    shutil.rmtree(root / schema.PARTS / part_id, ignore_errors=True)
    for suffix in (".npz", ".objects.json"):
        (root / schema.INDEX / f"{part_id}{suffix}").unlink(missing_ok=True)


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
