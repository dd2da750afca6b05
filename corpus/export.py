"""Write a part back as an h5ad file, its rows and columns in the order of the source.

A part is sorted into tissues, often shuffled, so rows of one place in the file come from all over
the part. They are put in order out of core: one pass over the part deals its rows into bands of
rows that follow each other in the file, in a nameless temporary file beside it; then each band is
read, sorted and written. Memory is bounded by a band, a few numbers a cell, and obs and var.

The file has what the source had of obs, var and counts, under the source's names (which may
repeat); positions in micrometres in obsm["spatial"]; and where it came from in uns["cellplm"].
"""

from __future__ import annotations

import io
import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import anndata as ad
import h5py
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellplm.corpus.manifest import sync_folder
from cellplm.corpus.reader import Corpus, Part
from cellplm.corpus.tables import provenance_text, source_table
from cellplm.errors import ConfigError, CorruptCorpusError
from cellplm.logs import OnProgress, Progress, ignore

BAND_VALUES = 16 * 2**20
"""Values that are put in order at a time."""
WINDOW_VALUES = 4 * 2**20
"""Values that are read from the part at a time."""
CHUNK_VALUES = 64 * 1024
"""Values in a chunk of the file."""

_EXACT = 2**24
"""Up to here every whole number is a float32."""

Compression = Literal["gzip", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """How a part is written.

    Attributes:
        with_ours: keep our columns of obs and var too, as cellplm_<name>.
        compression: gzip takes most of the time and makes the file four to five times smaller.
        overwrite: replace a file that is there.
    """

    with_ours: bool = False
    compression: Compression = "gzip"
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written."""

    name: str
    out: str
    n_obs: int
    n_vars: int
    nnz: int
    dtype: str
    bytes: int


def export_part(
    corpus: Corpus,
    name: str,
    out: str | Path,
    options: ExportOptions | None = None,
    *,
    on_progress: OnProgress = ignore,
) -> Exported:
    """Write one part as an h5ad file, whole or not at all.

    Counts are float32, as AnnData's tools expect, or float64 where one is above 2^24, which a
    float32 cannot hold. Unnamed space of about the size of the part's counts is needed beside
    the file while it is written, unless the part is small.

    Args:
        corpus: that holds it.
        name: name or id of the part.
        out: the file; ends in .h5ad.
        options: how.
        on_progress: called with the stored counts that are written so far.

    Raises:
        ConfigError: there is no such part (the known ones are listed), or `out` will not do.
        CorruptCorpusError: an object of the part is missing or damaged.
    """
    options = options or ExportOptions()
    part = corpus.part(name)
    path = Path(out)
    _check_out(path, corpus.path, overwrite=options.overwrite)
    layout = _lay_out(part)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _whole_or_nothing(path) as temporary,
        h5py.File(temporary, "w") as file,
        _dealt(part, layout, path.parent) as dealt,
    ):
        dtype = np.dtype(np.float32 if dealt.max_count <= _EXACT else np.float64)
        _write_counts(file, part, layout, dealt, dtype, options.compression, on_progress)
        _write_tables(file, part, layout, dealt.coords_um, with_ours=options.with_ours)
    return Exported(
        name=part.entry.name,
        out=str(path),
        n_obs=part.entry.n_obs,
        n_vars=part.entry.n_vars,
        nnz=part.entry.nnz,
        dtype=dtype.name,
        bytes=path.stat().st_size,
    )


def _check_out(path: Path, corpus: Path, *, overwrite: bool) -> None:
    if path.suffix != ".h5ad":
        raise ConfigError(f"{path}: the name of the file has to end in .h5ad.")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give a file.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path}: exists already; give another name, or --overwrite.")
    if path.resolve().is_relative_to(corpus.resolve()):
        raise ConfigError(f"{path}: lies inside of the corpus {corpus}; give a place outside.")


@contextmanager
def _whole_or_nothing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all went well."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Layout:
    """Where N rows and V columns of a part go; the file's rows are the source's.

    Attributes:
        indptr: (N + 1,) int64 of the part.
        row_of: (N,) int64 row of the file of each row of the part.
        stored_row: (N,) int64 the inverse: row of the part of each row of the file.
        column_of: (V,) int32 column of the file of each column of the part.
        out_indptr: (N + 1,) int64 of the file.
        band: (B + 1,) int64 rows of the file at which bands begin, and N.
    """

    indptr: NDArray[np.int64]
    row_of: NDArray[np.int64]
    stored_row: NDArray[np.int64]
    column_of: NDArray[np.int32]
    out_indptr: NDArray[np.int64]
    band: NDArray[np.int64]

    @property
    def n_bands(self) -> int:
        """Bands."""
        return self.band.size - 1


def _lay_out(part: Part) -> _Layout:
    indptr = part.read_indptr()
    row_nnz = np.diff(indptr)
    if indptr[0] != 0 or indptr[-1] != part.entry.nnz or (row_nnz < 0).any():
        raise CorruptCorpusError(f"{part.path / 'X/indptr'}: does not rise from 0 to the counts.")
    row_of, column_of = _order(part, "obs", "source_row"), _order(part, "var", "source_column")
    stored_row = np.argsort(row_of)
    out_indptr = np.concatenate([[0], np.cumsum(row_nnz[stored_row])]).astype(np.int64)
    band = [0]
    while band[-1] < row_nnz.size:
        stop = np.searchsorted(out_indptr, out_indptr[band[-1]] + BAND_VALUES, side="right") - 1
        band.append(min(max(int(stop), band[-1] + 1), row_nnz.size))
    return _Layout(
        indptr=indptr,
        row_of=row_of,
        stored_row=stored_row,
        column_of=column_of.astype(np.int32),
        out_indptr=out_indptr,
        band=np.array(band, dtype=np.int64),
    )


def _order(part: Part, axis: Literal["obs", "var"], column: str) -> NDArray[np.int64]:
    """A column of obs or var that says where each row was in the source."""
    n = part.entry.n_obs if axis == "obs" else part.entry.n_vars
    where = part.path / axis / column
    try:
        order = part.source_rows if axis == "obs" else part.source_columns
    except Exception as error:  # zarr and its codecs raise many kinds
        fault = " ".join(str(error).split())
        raise CorruptCorpusError(f"{where}: cannot be read: {fault}") from None
    if order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
        raise CorruptCorpusError(f"{where}: is no order of 0 to {n - 1}.")
    return order


class _Dealt:
    """The counts of a part, each band's rows together, in the order of the part."""

    def __init__(self, part: Part, layout: _Layout, files: tuple[IO[bytes], IO[bytes]]) -> None:
        """Nothing is dealt yet; `files` get counts and columns."""
        self._layout = layout
        self._files = files
        self._dtypes = (part.data_dtype, part.indices_dtype)
        self._n_vars = part.entry.n_vars
        self.max_count = 0
        self.coords_um: NDArray[np.float32] | None = None
        band_of = np.searchsorted(layout.band, layout.row_of, side="right") - 1
        self._by_band = np.argsort(band_of, kind="stable")
        self._at_row = np.searchsorted(band_of[self._by_band], np.arange(layout.n_bands + 1))
        self._begin = layout.out_indptr[layout.band]

    def deal(self, part: Part) -> None:
        """Read the part once."""
        fill = self._begin[:-1].copy()
        coords = []
        for start, stop in _windows(self._layout.indptr):
            rows = part.read_rows(start, stop)
            if rows.indices.size and int(rows.indices.max()) >= self._n_vars:
                raise CorruptCorpusError(f"{part.path / 'X/indices'}: a column is out of range.")
            self.max_count = max(self.max_count, int(rows.data.max(initial=0)))
            if rows.coords_um is not None:
                coords.append(rows.coords_um)
            band = np.searchsorted(self._layout.band, self._layout.row_of[start:stop], "right") - 1
            order = np.argsort(band, kind="stable")
            dealt = _matrix(rows.data, rows.indices, rows.indptr, self._n_vars)[order]
            edges = np.append(np.flatnonzero(np.diff(band[order], prepend=-1)), order.size)
            for low, high in zip(edges[:-1], edges[1:], strict=True):
                number = int(band[order[low]])
                values = slice(int(dealt.indptr[low]), int(dealt.indptr[high]))
                for file, dtype, array in zip(
                    self._files, self._dtypes, (dealt.data, dealt.indices), strict=True
                ):
                    file.seek(int(fill[number]) * dtype.itemsize)
                    file.write(array[values].astype(dtype, copy=False).tobytes())
                fill[number] += values.stop - values.start
        if coords:
            self.coords_um = np.concatenate(coords)

    def band(self, number: int) -> Any:
        """The rows of one band as the file has them: CSR, columns ascending."""
        begin, end = int(self._begin[number]), int(self._begin[number + 1])
        data, columns = (
            _read(file, dtype, begin, end)
            for file, dtype in zip(self._files, self._dtypes, strict=True)
        )
        rows = self._by_band[self._at_row[number] : self._at_row[number + 1]]
        lengths = self._layout.indptr[rows + 1] - self._layout.indptr[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        stored = _matrix(data, self._layout.column_of[columns], indptr, self._n_vars)
        ordered = stored[np.argsort(self._layout.row_of[rows])]
        ordered.sort_indices()
        return ordered


@contextmanager
def _dealt(part: Part, layout: _Layout, folder: Path) -> Iterator[_Dealt]:
    """Deal a part's counts; what fits into one band stays in memory."""

    def scratch() -> IO[bytes]:
        return io.BytesIO() if layout.n_bands == 1 else tempfile.TemporaryFile(dir=folder)

    with scratch() as counts, scratch() as columns:
        dealt = _Dealt(part, layout, (counts, columns))
        dealt.deal(part)
        yield dealt


def _windows(indptr: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    start, n = 0, indptr.size - 1
    while start < n:
        stop = int(np.searchsorted(indptr, indptr[start] + WINDOW_VALUES, side="right")) - 1
        stop = min(max(stop, start + 1), n)
        yield start, stop
        start = stop


def _matrix(
    data: NDArray[Any], columns: NDArray[Any], indptr: NDArray[np.int64], n_vars: int
) -> Any:
    return sp.csr_matrix((data, columns.astype(np.int32), indptr), shape=(indptr.size - 1, n_vars))


def _read(file: IO[bytes], dtype: np.dtype[Any], begin: int, end: int) -> NDArray[Any]:
    file.seek(begin * dtype.itemsize)
    return np.frombuffer(file.read((end - begin) * dtype.itemsize), dtype=dtype)


def _write_counts(
    file: h5py.File,
    part: Part,
    layout: _Layout,
    dealt: _Dealt,
    dtype: np.dtype[Any],
    compression: Compression,
    on_progress: OnProgress,
) -> None:
    nnz, what = part.entry.nnz, f"write {part.entry.name}"
    x = file.create_group("X")
    x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    x.attrs["shape"] = np.array([part.entry.n_obs, part.entry.n_vars], dtype=np.int64)
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    how: dict[str, Any] = {"chunks": (max(1, min(CHUNK_VALUES, nnz)),)}
    how |= packed if compression == "gzip" else {}
    x.create_dataset("indptr", data=layout.out_indptr)
    data = x.create_dataset("data", shape=(nnz,), dtype=dtype, **how)
    columns = x.create_dataset("indices", shape=(nnz,), dtype=np.int32, **how)
    for number in range(layout.n_bands):
        rows = dealt.band(number)
        begin, end = (int(layout.out_indptr[layout.band[number + i]]) for i in (0, 1))
        data[begin:end] = rows.data.astype(dtype)
        columns[begin:end] = rows.indices
        on_progress(Progress(what=what, done=end, total=nnz))


def _write_tables(
    file: h5py.File,
    part: Part,
    layout: _Layout,
    coords_um: NDArray[np.float32] | None,
    *,
    with_ours: bool,
) -> None:
    obsm = {} if coords_um is None else {"spatial": coords_um[layout.stored_row]}
    elements: dict[str, Any] = {
        "obs": source_table(part, "obs", with_ours=with_ours),
        "var": source_table(part, "var", with_ours=with_ours),
        "obsm": obsm,
        "uns": {"cellplm": provenance_text(part)},
    }
    elements |= {name: {} for name in ("layers", "obsp", "varm", "varp")}
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* names are not unique")
        for name, element in elements.items():
            ad.io.write_elem(file, name, element)
