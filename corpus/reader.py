"""Open a corpus at a snapshot, and read row ranges of its parts through TensorStore.

A missing chunk is an error here, never zeros: arrays are opened with
fill_missing_data_reads=false, and every chunk carries a crc32c.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
import tensorstore as ts
import zarr
from numpy.typing import NDArray

from cellplm.corpus import index as part_index
from cellplm.corpus import manifest, schema
from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.index import PartIndex
from cellplm.corpus.manifest import GenesRef, PartEntry, Snapshot
from cellplm.errors import ConfigError, CorruptCorpusError, NotACorpusError

CACHE_BYTES = 16 * 1024 * 1024
"""Enough for shard indices and the chunks that neighbouring windows share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Some consecutive rows of a part.

    Attributes:
        indptr: (n + 1,) int64, from 0.
        indices: (nnz,) uint16 or uint32 columns, ascending within a row.
        data: (nnz,) uint8, uint16 or uint32 counts.
        coords_um: (n, 2) float32, or None for scRNA.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.unsignedinteger]
    data: NDArray[np.unsignedinteger]
    coords_um: NDArray[np.float32] | None


class Part:
    """One part of a corpus, opened when it is first read."""

    def __init__(self, root: Path, entry: PartEntry) -> None:
        """Nothing is read yet."""
        self.root = root
        self.entry = entry

    @cached_property
    def index(self) -> PartIndex:
        """The part's index object, checked against the snapshot's hash."""
        raw = read_object(self.root, self.entry.index.path, self.entry.index.sha256)
        return part_index.from_bytes(raw, name=self.entry.index.path)

    @property
    def path(self) -> Path:
        """The AnnData Zarr group."""
        return self.root / self.entry.path

    def read_rows(self, start: int, stop: int) -> Rows:
        """Read rows [start, stop).

        Safe from several threads; TensorStore reads the arrays at the same time.

        Raises:
            CorruptCorpusError: an object is missing or damaged; the message names it.
        """
        indptr = np.asarray(self._read("X/indptr", start, stop + 1).result())
        low, high = int(indptr[0]), int(indptr[-1])
        data = self._read("X/data", low, high)
        indices = self._read("X/indices", low, high)
        coords = self._read("obsm/spatial", start, stop) if self._has_coords else None
        return Rows(
            indptr=indptr - low,
            data=np.asarray(data.result()),
            indices=np.asarray(indices.result()),
            coords_um=None if coords is None else np.asarray(coords.result()),
        )

    def read_indptr(self) -> NDArray[np.int64]:
        """(n_obs + 1,) stored counts before each row, 8 bytes a cell.

        Raises:
            CorruptCorpusError: an object is missing or damaged; the message names it.
        """
        return np.asarray(self._read("X/indptr", 0, self.entry.n_obs + 1).result())

    @property
    def data_dtype(self) -> np.dtype[Any]:
        """Dtype of the counts."""
        dtype: np.dtype[Any] = self._array("X/data").dtype.numpy_dtype
        return dtype

    @property
    def indices_dtype(self) -> np.dtype[Any]:
        """Dtype of the columns of the counts."""
        dtype: np.dtype[Any] = self._array("X/indices").dtype.numpy_dtype
        return dtype

    @cached_property
    def source_rows(self) -> NDArray[np.int64]:
        """(n_obs,) row in the source of each row."""
        return np.asarray(zarr.open_array(self.path / "obs" / "source_row", mode="r")[:])

    @cached_property
    def source_columns(self) -> NDArray[np.int64]:
        """(n_vars,) column in the source of each column."""
        return np.asarray(zarr.open_array(self.path / "var" / "source_column", mode="r")[:])

    def to_anndata(self, *, source_order: bool = True) -> ad.AnnData:
        """The whole part in memory, with counts widened to float32.

        Args:
            source_order: rows and columns as in the source (else as stored).
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Observation names are not unique")
            adata: ad.AnnData = ad.io.read_zarr(self.path)
        # uint8 wraps in arithmetic (X + X): what leaves the corpus is widened.
        x = adata.X
        widened = (x.data.astype(np.float32), x.indices.astype(np.int64), x.indptr)
        adata.X = sp.csr_matrix(widened, shape=x.shape)
        if source_order:
            rows, columns = np.argsort(self.source_rows), np.argsort(self.source_columns)
            adata = adata[rows][:, columns].copy()
        return adata

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of the part on the disk, by its object list."""
        return sum(int(each["size"]) for each in self.objects)

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """Path, size and sha256 of each object of the part."""
        ref = self.entry.objects
        listed = json.loads(read_object(self.root, ref.path, ref.sha256))
        objects: list[dict[str, Any]] = listed["objects"]
        return objects

    @property
    def _has_coords(self) -> bool:
        return self.entry.modality == "srt"

    def _read(self, name: str, start: int, stop: int) -> _Pending:
        return _Pending(self.path / name, self._array(name)[start:stop].read())

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = _open(self.path / name, self._context)
        return self._arrays[name]

    @cached_property
    def _context(self) -> Any:
        return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return {}


class Corpus:
    """A corpus pinned to one snapshot."""

    def __init__(self, path: Path, snapshot: Snapshot) -> None:
        """Use `open` or `create`."""
        self.path = path
        self.snapshot = snapshot
        self.parts = tuple(Part(path, entry) for entry in snapshot.parts)

    @classmethod
    def open(cls, path: str | Path, *, snapshot: int | None = None) -> Corpus:
        """Open a corpus at its newest snapshot, or at a given one.

        Raises:
            NotACorpusError: nothing there, something else, or a newer format.
            CorruptCorpusError: the manifest cannot be read.
        """
        root = Path(path)
        _check_root(root)
        if snapshot is None:
            return cls(root, manifest.latest(root))
        return cls(root, manifest.load(root, snapshot))

    @classmethod
    def create(cls, path: str | Path, genes: GeneIndex, *, writer: str) -> Corpus:
        """Make an empty corpus with a gene index, all at once.

        Raises:
            NotACorpusError: something is there already.
        """
        root = Path(path)
        if root.exists():
            raise NotACorpusError(f"{root}: exists already; a new corpus needs a path of its own.")
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotACorpusError(f"{root}: cannot be created ({error.strerror}).") from None
        temporary = root.with_name(f".{root.name}.{uuid.uuid4().hex}.tmp")
        try:
            corpus_id = str(uuid.uuid4())
            group = zarr.create_group(temporary, zarr_format=3)
            group.attrs["cellplm"] = {
                "format": "corpus",
                "version": schema.FORMAT_VERSION,
                "corpus_id": corpus_id,
            }
            for folder in (schema.GENES, schema.PARTS, schema.INDEX, schema.LEASES):
                (temporary / folder).mkdir()
            name = f"{schema.GENES}/{genes.sha256[:16]}.parquet"
            manifest.sync_write(temporary / name, genes.raw_bytes)
            ref = GenesRef(path=name, n=genes.n, sha256=genes.sha256)
            first = manifest.write_first(temporary, ref, writer)
            # The manifest exists before the corpus does: there is no half-made corpus.
            temporary.rename(root)
        except OSError as error:
            raise NotACorpusError(f"{root}: cannot be created ({error}).") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls(root, first)

    @cached_property
    def corpus_id(self) -> str:
        """Unique id, given at creation."""
        attributes = _check_root(self.path)
        return str(attributes["corpus_id"])

    @property
    def genes_path(self) -> Path:
        """The file of the gene index."""
        return self.path / self.snapshot.genes.path

    @cached_property
    def genes(self) -> GeneIndex:
        """The gene index that column numbers refer to."""
        ref = self.snapshot.genes
        return GeneIndex.from_bytes(read_object(self.path, ref.path, ref.sha256), name=ref.path)

    def part(self, name_or_id: str) -> Part:
        """One part by its name or id.

        Raises:
            ConfigError: there is none; the known names are listed.
        """
        for part in self.parts:
            if name_or_id in (part.entry.name, part.entry.id):
                return part
        known = ", ".join(part.entry.name for part in self.parts) or "none"
        raise ConfigError(f"{self.path}: no data set {name_or_id!r}. Known: {known}.")


def read_object(root: Path, path: str, sha256: str) -> bytes:
    """Read a small object and check its hash.

    Raises:
        CorruptCorpusError: missing, or not the bytes that the snapshot names.
    """
    try:
        raw = (root / path).read_bytes()
    except OSError as error:
        raise CorruptCorpusError(
            f"{root / path}: missing or unreadable ({error.strerror})."
        ) from None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise CorruptCorpusError(f"{root / path}: its bytes are not those that were committed.")
    return raw


class _Pending:
    """A read on its way, whose failure names the array."""

    __slots__ = ("_future", "_path")

    def __init__(self, path: Path, future: Any) -> None:
        self._path = path
        self._future = future

    def result(self) -> Any:
        try:
            return self._future.result()
        except ValueError as error:
            fault = _first_line(error)
            raise CorruptCorpusError(f"{self._path}: cannot be read: {fault}") from None


def _open(path: Path, context: Any) -> Any:
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path.absolute())},
        "fill_missing_data_reads": False,
        "recheck_cached_data": False,
        "recheck_cached_metadata": False,
    }
    try:
        return ts.open(spec, read=True, open=True, context=context).result()
    except ValueError as error:
        raise CorruptCorpusError(f"{path}: cannot be opened: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).partition(" [")[0].partition("\n")[0]


def _check_root(root: Path) -> dict[str, Any]:
    if not root.exists():
        raise NotACorpusError(f"{root}: no such corpus. Make one: cellplm ingest RAW --out {root}")
    try:
        attributes = json.loads((root / schema.ROOT).read_bytes())["attributes"]["cellplm"]
        version = int(attributes["version"])
        if attributes["format"] != "corpus":
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError):
        raise NotACorpusError(
            f"{root}: exists and is no cellplm corpus (no {schema.ROOT} that says so); "
            "give another path."
        ) from None
    if version > schema.FORMAT_VERSION:
        raise NotACorpusError(
            f"{root}: written in format {version}, this cellplm reads up to "
            f"{schema.FORMAT_VERSION}; upgrade cellplm-engine."
        )
    checked: dict[str, Any] = attributes
    return checked
