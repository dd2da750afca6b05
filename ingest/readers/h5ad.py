"""Read AnnData's h5ad files.

Counts are looked for in `layers['counts']` (and other spellings), `raw.X` and `X`, in this
order, and taken from the first place where a sample of the values may be raw counts. The
matrix may be CSR, CSC or dense; files of anndata 0.5 and 0.7 are read too. Cells have
positions where `obsm['spatial']` or the usual obs columns hold them; they are taken for
micrometres unless a column name or the platform says pixels (CosMx).

An HDF5 file can point outside itself (links, external and virtual data sets): a file handed to
us has no business reading others, so such files are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from numpy.typing import NDArray

from cellplm.errors import CountsError, InputError, MissingFileError
from cellplm.ingest.blocks import compress
from cellplm.ingest.coords import COSMX_UM_PER_PX, coords_um
from cellplm.ingest.counts import fault_of
from cellplm.ingest.source import Block, Found, Modality, ReadOptions, Source

FORMAT = "h5ad"

LAYERS = ("counts", "raw_counts", "count", "raw", "umi", "umis")
OBSM_KEYS = ("spatial", "X_spatial", "spatial_coords")
PLATFORM_COLUMNS = ("technology", "platform", "instrument")

BLOCK_VALUES = 4 * 2**20
SAMPLE_VALUES = 100_000
SAMPLE_RUNS = 16
MAX_DEPTH = 6

Layout = Literal["csr", "csc", "dense"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Matrix:
    """A matrix inside a file: its path there, how it lies, and its shape."""

    path: Path
    key: str
    layout: Layout
    shape: tuple[int, int]


def find(files: Sequence[Path]) -> list[Found]:
    """Every file that ends in .h5ad is a data set of its own."""
    return [
        Found(format=FORMAT, path=path, files=(path,), name=path.name[: -len(".h5ad")])
        for path in files
        if path.name.lower().endswith(".h5ad")
    ]


def refusal(path: Path) -> str | None:
    """None: every file of this name is claimed."""
    return None


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read obs and var, choose where the counts are.

    Raises:
        InputError: the file cannot be read, or its parts do not fit together.
        CountsError: no place holds raw counts.
    """
    with _opened(found.path) as file:
        for name in ("obs", "var"):
            if name not in file:
                raise InputError(f"{found.path}: no {name!r} in it; an h5ad file has obs and var")
        _refuse_ways_out(file, found.path, depth=0)
        obs = _frame(file, "obs", found.path)
        place, matrix, var_key, looked_in = _choose(file, found.path, options.counts)
        var = _frame(file, var_key, found.path)
        if matrix.shape != (len(obs), len(var)):
            raise InputError(
                f"{found.path}: {place} is {matrix.shape[0]} x {matrix.shape[1]}, but obs has "
                f"{len(obs)} and {var_key} has {len(var)} rows"
            )
        if matrix.layout != "dense":
            _check_sparse(file[matrix.key], matrix)
        platform = _platform(obs)
        positions_um, notes = _coords(file, obs, platform, found.path)
    modality: Modality = options.modality or ("srt" if positions_um is not None else "scrna")
    return Source(
        name=found.name,
        format=FORMAT,
        files=found.files,
        obs=obs,
        var=var,
        counts_from=place,
        looked_in=looked_in,
        modality=modality,
        platform=platform,
        coords_um=positions_um if modality == "srt" else None,
        blocks=lambda: _blocks(matrix),
        warnings=notes,
    )


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file whose faults, also those met while reading, become an InputError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file") from error
    # What h5py raises for damaged files, found by flipping bytes.
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable HDF5 file, or cut short ({reason})") from error


def _refuse_ways_out(group: h5py.Group, path: Path, depth: int) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise InputError(f"{path}: {group.name}/{name} is a link; such files are not read")
        item = group[name]
        if isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise InputError(
                    f"{path}: {item.name} keeps its data in other files; such files are not read"
                )
        elif not isinstance(item, h5py.Group) or depth == MAX_DEPTH:
            raise InputError(f"{path}: {group.name}/{name} is nothing that an h5ad file has there")
        else:
            _refuse_ways_out(item, path, depth + 1)


def _frame(file: h5py.File, key: str, path: Path) -> pd.DataFrame:
    """A table of obs or var, its names as strings."""
    if key not in file:
        raise InputError(f"{path}: no {key!r} in it")
    item = file[key]
    try:
        if isinstance(item, h5py.Dataset):
            frame = _compound(item, file.get("uns"))
        else:
            with warnings.catch_warnings():
                # Files of older anndata versions are welcome and need no advice.
                warnings.simplefilter("ignore")
                frame = read_elem(item)
    except Exception as error:  # anndata raises many kinds for a table that is not its own
        reason = str(error).split("\n", 1)[0]
        raise InputError(f"{path}: {key} is not a readable table ({reason})") from error
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{path}: {key} holds a {type(frame).__name__}, not a table")
    frame.index = frame.index.astype(str)
    return frame


def _compound(item: h5py.Dataset, uns: h5py.Group | None) -> pd.DataFrame:
    """A table of anndata before 0.7: one record a row, categories in uns."""
    records = item[:]
    columns = {}
    for name in records.dtype.names:
        values = records[name]
        if values.ndim != 1:
            continue
        if values.dtype.kind in "SO":
            values = np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values])
        categories = f"{name}_categories"
        if uns is not None and categories in uns:
            labels = [v.decode() if isinstance(v, bytes) else v for v in uns[categories][:]]
            values = pd.Categorical.from_codes(values, pd.Index(labels))
        columns[name] = values
    frame = pd.DataFrame(columns)
    name = next((n for n in ("index", "_index") if n in frame.columns), frame.columns[0])
    return frame.set_index(name).rename_axis(None)


def _choose(
    file: h5py.File, path: Path, asked: str | None
) -> tuple[str, _Matrix, str, tuple[str, ...]]:
    """The place of the counts, the matrix, the key of its var, and what was seen on the way."""
    layers = file["layers"] if "layers" in file else {}
    raw, raw_var = ("raw.X", "raw.var") if "raw.X" in file else ("raw/X", "raw/var")
    places = [(f"layers[{name!r}]", f"layers/{name}", "var") for name in LAYERS if name in layers]
    places = places or [("layers['counts']", "layers/counts", "var")]
    places += [("raw.X", raw, raw_var), ("X", "X", "var")]
    if asked is not None:
        usual = {"X": places[-1], "raw": places[-2], "raw.X": places[-2]}
        places = [usual.get(asked, (f"layers[{asked!r}]", f"layers/{asked}", "var"))]
        if places[0][1] not in file:
            have = ["X", *(["raw"] if raw in file else []), *layers]
            raise CountsError(f"{path}: no {places[0][0]}; it has {', '.join(have)}")
    looked: list[str] = []
    for place, key, var_key in places:
        if key not in file:
            looked.append(f"{place}: not there")
            continue
        matrix = _matrix(file, key, path)
        fault = _sample_fault(file[key], matrix)
        looked.append(f"{place}: {fault or 'raw counts'}")
        if fault is None:
            return place, matrix, var_key, tuple(looked)
    raise CountsError(
        f"{path}: no raw counts found. Looked in {'; '.join(looked)}. Give a file with raw counts, "
        f"or name the layer that holds them with --counts"
    )


def _matrix(file: h5py.File, key: str, path: Path) -> _Matrix:
    item = file[key]
    if isinstance(item, h5py.Dataset):
        if item.ndim != 2:
            raise InputError(f"{path}: {key} has {item.ndim} dimensions, a matrix has 2")
        return _Matrix(path=path, key=key, layout="dense", shape=(item.shape[0], item.shape[1]))
    encoding = item.attrs.get("encoding-type", item.attrs.get("h5sparse_format", ""))
    encoding = encoding.decode() if isinstance(encoding, bytes) else str(encoding)
    layouts: dict[str, Layout] = {"csr": "csr", "csc": "csc"}
    layout = layouts.get(encoding.removesuffix("_matrix"))
    shape = item.attrs.get("shape", item.attrs.get("h5sparse_shape"))
    if layout is None or shape is None or len(shape) != 2:
        raise InputError(f"{path}: {key} is neither a dense, CSR nor CSC matrix ({encoding!r})")
    for part in ("data", "indices", "indptr"):
        if not isinstance(item.get(part), h5py.Dataset) or item[part].ndim != 1:
            raise InputError(f"{path}: {key} is a sparse matrix without {part}")
    return _Matrix(path=path, key=key, layout=layout, shape=(int(shape[0]), int(shape[1])))


def _sample_fault(item: h5py.Group | h5py.Dataset, matrix: _Matrix) -> str | None:
    """Why a sample of the matrix, spread evenly over it, is not raw counts; None if it may be."""
    values = item if matrix.layout == "dense" else item["data"]
    if values.dtype.kind not in "iufb":
        return f"values of type {values.dtype}"
    width = matrix.shape[1] if matrix.layout == "dense" else 1
    run = max(1, SAMPLE_VALUES // SAMPLE_RUNS // max(width, 1))
    n = values.shape[0]
    starts = sorted({n * i // SAMPLE_RUNS for i in range(SAMPLE_RUNS)})
    # A chunk is read and unpacked whole for any part of it, so a run costs little.
    sample = [values[start : min(start + run, n)].ravel() for start in starts]
    seen = np.concatenate(sample) if sample else np.zeros(0, dtype=values.dtype)
    if fault := fault_of(seen):
        return fault
    # Thin matrices: nothing but zeros in a sample says nothing, so look at all of it.
    return None if n and (seen.any() or _any(values)) else "no values but zero"


def _any(values: h5py.Dataset) -> bool:
    width = values.shape[1] if values.ndim == 2 else 1
    step = max(1, BLOCK_VALUES // max(width, 1))
    return any(values[i : i + step].any() for i in range(0, values.shape[0], step))


def _check_sparse(item: h5py.Group, matrix: _Matrix) -> NDArray[np.int64]:
    """indptr, once it is known to fit shape, data and indices."""
    where = f"{matrix.path}: {matrix.key}"
    n_major = matrix.shape[0] if matrix.layout == "csr" else matrix.shape[1]
    n_data, n_indices, n_indptr = (item[k].shape[0] for k in ("data", "indices", "indptr"))
    if n_data != n_indices:
        raise InputError(f"{where} has {n_data} values but {n_indices} indices")
    if n_indptr != n_major + 1:
        raise InputError(f"{where}/indptr has {n_indptr} entries, {n_major + 1} were expected")
    if item["indices"].dtype.kind not in "iu" or item["indptr"].dtype.kind not in "iu":
        raise InputError(f"{where}: indices and indptr have to be integers")
    indptr: NDArray[np.int64] = item["indptr"][:].astype(np.int64)
    if indptr[0] != 0 or indptr[-1] != n_data or (np.diff(indptr) < 0).any():
        raise InputError(f"{where}/indptr does not rise from 0 to {n_data}, the number of values")
    return indptr


def _blocks(matrix: _Matrix) -> Iterator[Block]:
    with _opened(matrix.path) as file:
        item = file[matrix.key]
        if matrix.layout == "dense":
            yield from _dense_blocks(item, matrix)
        else:
            yield from _sparse_blocks(item, matrix)


def _dense_blocks(item: h5py.Dataset, matrix: _Matrix) -> Iterator[Block]:
    n, width = matrix.shape
    step = max(1, BLOCK_VALUES // max(width, 1))
    if item.chunks and step > item.chunks[0]:
        step -= step % item.chunks[0]  # whole chunks: none is unpacked twice
    for start in range(0, n, step):
        yield compress(item[start : start + step], axis="obs", start=start)


def _sparse_blocks(item: h5py.Group, matrix: _Matrix) -> Iterator[Block]:
    indptr = _check_sparse(item, matrix)
    n_minor = matrix.shape[1] if matrix.layout == "csr" else matrix.shape[0]
    start, n_major = 0, indptr.size - 1
    while start < n_major:
        stop = int(np.searchsorted(indptr, indptr[start] + BLOCK_VALUES, side="right")) - 1
        stop = min(max(stop, start + 1), n_major)
        low, high = int(indptr[start]), int(indptr[stop])
        indices = item["indices"][low:high]
        if indices.size and not 0 <= indices.min() <= indices.max() < n_minor:
            bad = indices.min() if indices.min() < 0 else indices.max()
            raise InputError(
                f"{matrix.path}: {matrix.key}/indices holds {bad}, but there are {n_minor} "
                f"{'features' if matrix.layout == 'csr' else 'cells'}"
            )
        yield Block(
            axis="obs" if matrix.layout == "csr" else "var",
            start=start,
            indptr=indptr[start : stop + 1] - low,
            indices=indices.astype(np.int32),
            data=item["data"][low:high],
        )
        start = stop


def _platform(obs: pd.DataFrame) -> str:
    """The one value of a column that names the instrument."""
    for name in PLATFORM_COLUMNS:
        if name in obs.columns:
            values = obs[name].dropna().astype(str).unique()
            if len(values) == 1:
                return str(values[0])
    return "unknown"


def _coords(
    file: h5py.File, obs: pd.DataFrame, platform: str, path: Path
) -> tuple[NDArray[np.float32] | None, tuple[str, ...]]:
    """Positions in µm, and sentences about their unit."""
    obsm: Any = file.get("obsm")
    for key in OBSM_KEYS:
        if not isinstance(obsm, h5py.Group) or key not in obsm:
            continue
        item = obsm[key]
        values = item[:] if isinstance(item, h5py.Dataset) else _frame(file, f"obsm/{key}", path)
        xy = np.asarray(values, dtype=np.float64)
        if xy.ndim != 2 or xy.shape[0] != len(obs) or xy.shape[1] < 2:
            raise InputError(
                f"{path}: obsm[{key!r}] has the shape {xy.shape}, ({len(obs)}, 2) was expected"
            )
        if platform.lower() == "cosmx":
            note = f"obsm[{key!r}] of a CosMx set: taken as pixels of {COSMX_UM_PER_PX} µm"
            return (xy[:, :2] * COSMX_UM_PER_PX).astype(np.float32), (note,)
        note = f"obsm[{key!r}] has no unit: taken as micrometres"
        return xy[:, :2].astype(np.float32), (note,)
    return coords_um(obs), ()
