"""Read the HDF5 matrices of Cell Ranger and Space Ranger (.h5).

- Cell Ranger 3 and later, Space Ranger, CellBender: a group `matrix` with `barcodes`, `features`
  (id, name, feature_type, genome, ...), and `data`, `indices`, `indptr`, `shape` of a CSC matrix
  of features x barcodes.
- Cell Ranger 1 and 2: a group for each genome, with `barcodes`, `genes`, `gene_names` and the same
  four. Each genome is a data set, as it is a folder of its own in MatrixMarket: its barcodes are
  the cells called for it. The path of such a data set is FILE/GENOME.
- Space Ranger's raw_probe_bc_matrix.h5: features are probes; see probes.py.

A file is recognised by these groups. The MatrixMarket folder of the same counts, spatial/ beside
it (visium.py) and scale factors belong to the data set. A raw matrix is left where the filtered
one of its run is beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
import pandas as pd

from cellplm.errors import InputError
from cellplm.ingest.blocks import BLOCK_VALUES
from cellplm.ingest.readers import probes, sparse, tenx, visium
from cellplm.ingest.readers.hdf5 import opened, refuse_unwritten, refuse_ways_out
from cellplm.ingest.readers.sparse import Sparse
from cellplm.ingest.readers.tenx_matrix import Matrix, features, source_of
from cellplm.ingest.source import Block, Found, ReadOptions, Source

FORMAT = "10x_h5"

SUFFIXES = (".h5", ".hdf5")
PARTS = ("data", "indices", "indptr", "shape")
MODERN = "matrix"
# Named by Xenium, whose reader knows what belongs to it.
NOT_OURS = re.compile(r"cell_feature_matrix\.h5", re.I)
FILTERED_SUFFIX = "_filtered.h5"
# Space Ranger 4 segments cells in the image; its barcodes say so.
SEGMENTED_CELL = "cellid_"
SEGMENTED = "cells were segmented; their positions (cell_segmentations.geojson) are not read"

MAX_GROUPS = 1000
MAX_NAMES_BYTES = 2**32
NAMES_AT_ONCE = 2**14


def find(files: Sequence[Path]) -> list[Found]:
    """One data set for each file with a matrix, or for each genome in it."""
    found = []
    for path in files:
        if path.suffix.lower() not in SUFFIXES or _left(path, files) is not None:
            continue
        try:
            groups, _ = _groups(path)
        except InputError:
            continue  # `refusal` says why, when somebody asks for this very file
        run = tenx.run_of(path)
        prefix = run.prefix if run else path.stem
        spatial, pictures = visium.beside(path.parent, run.prefix if run else "", files)
        left = (*tenx.twins(path), *tenx.raw_names(path), *pictures)
        raw = ("raw",) if run and run.kind == "raw" else ()
        for group in groups:
            several = (group,) if len(groups) > 1 else ()
            found.append(
                Found(
                    format=FORMAT,
                    path=path / group if several else path,
                    files=(path, *spatial),
                    beside=left,
                    name=tenx.data_set_name(path.parent, prefix, tags=(*raw, *several)),
                )
            )
    return found


def refusal(path: Path) -> str | None:
    """Why an HDF5 file is no 10x matrix, or one that is left."""
    if path.suffix.lower() not in SUFFIXES:
        return None
    try:
        groups, names = _groups(path)
    except InputError as error:
        return str(error)
    if groups or "obs" in names:  # AnnData's reader knows better
        return _left(path, tenx.visible_files(path.parent)) if groups else None
    return (
        f"{path}: no 10x matrix in it, which is a group 'matrix' or one for each genome with "
        f"{', '.join(PARTS)}; it has {', '.join(names)[:200] or 'nothing'}"
    )


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read the names of both axes, and positions where there are some.

    Raises:
        InputError: the file cannot be read, or its parts do not fit together.
    """
    path = found.files[0]
    groups, _ = _groups(path)
    group = found.path.name if found.path != path else (groups or [MODERN])[0]
    return source_of(open_group(path, group), found, options)


def open_group(path: Path, name: str) -> Matrix:
    """Read the names of a matrix in a group of a file.

    Raises:
        InputError: as `open_source`.
    """
    with opened(path) as file:
        refuse_ways_out(file, path)
        group = _group(file, name, path)
        barcodes = pd.Index(_names(group, "barcodes", path), dtype=object)
        var = _var(group, path)
        _check(group, len(barcodes), len(var), path)
        software, chemistry = (
            _text(file.attrs.get(key, "")) for key in ("software_version", "chemistry_description")
        )
        unfit = {}
        if "filtered_barcodes" in group:
            kept = _array(group, "filtered_barcodes", path)[:].astype(bool)
            if kept.shape == (len(barcodes),) and not kept.all():
                unfit["not among the filtered barcodes (filtered_barcodes = 0)"] = ~kept
        # Files of probes of Space Ranger 2 have no attributes, but the name of their set.
        sets = [str(each) for each in group.get("features/target_sets", ())]
    spatial = software.startswith("spaceranger") or any(
        name.lower().startswith("visium") for name in (chemistry, *sets)
    )
    segmented = len(barcodes) > 0 and barcodes[0].startswith(SEGMENTED_CELL)
    matrix = Matrix(
        barcodes=barcodes,
        var=var,
        place=f"/{name} (features x barcodes)",
        blocks=lambda: _blocks(path, name),
        platform=_platform(chemistry, spatial),
        spots=spatial and not segmented,
        unfit=MappingProxyType(unfit),
        notes=(SEGMENTED,) if segmented else (),
    )
    return probes.joined(matrix, path) if probes.are_in(var) else matrix


def _left(path: Path, files: Sequence[Path]) -> str | None:
    """Why a file is left that may well be a matrix; None for one that is taken."""
    if NOT_OURS.fullmatch(path.name):
        return f"{path}: the counts of a Xenium run, without the cells.parquet that goes with them"
    filtered = path.with_name(path.stem + FILTERED_SUFFIX)
    if filtered in files:
        return f"{path}: a matrix of all droplets beside {filtered.name}; name it to take it"
    beside = tenx.filtered_beside(path)
    if beside is None:
        return None
    told = f"{path}: a raw matrix, while {beside} has the cells of the run; to take the raw one"
    if tenx.pooled(path) is not None or beside.is_dir():
        return f"{told}, move it into a folder of its own"
    # `files` are those of the folder, or this one where it is named itself.
    return f"{told}, name it" if beside in files else None


def _groups(path: Path) -> tuple[list[str], list[str]]:
    """The groups with a matrix in a file, and what it has in all."""
    with opened(path) as file:
        if len(file) > MAX_GROUPS:
            raise InputError(f"{path}: {len(file)} groups in it; a 10x file has a few")
        names = list(file)
        # A link is looked at, never followed: it may lead out of the file.
        hard = [n for n in names if isinstance(file.get(n, getlink=True), h5py.HardLink)]
        groups = [n for n in hard if isinstance(file[n], h5py.Group)]
        found = [n for n in groups if all(part in file[n] for part in PARTS)]
    return ([MODERN] if MODERN in found else found), names


def _group(file: h5py.File, name: str, path: Path) -> h5py.Group:
    group = file.get(name)
    if not isinstance(group, h5py.Group):
        raise InputError(f"{path}: no group {name!r} in it")
    return group


def _array(group: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """A data set of one dimension that is all there."""
    item = group.get(name)
    if not isinstance(item, h5py.Dataset):
        raise InputError(f"{path}: no {group.name}/{name}; a 10x matrix has {name}")
    if item.ndim != 1:
        raise InputError(f"{path}: {item.name} has {item.ndim} dimensions, one was expected")
    refuse_unwritten(item, path)
    return item


def _names(group: h5py.Group, name: str, path: Path) -> list[str]:
    """A data set of strings (or numbers that are names)."""
    item = _array(group, name, path)
    n_bytes = item.size * item.dtype.itemsize
    strings = h5py.check_string_dtype(item.dtype)
    if strings is None and item.dtype.kind not in "iu":
        raise InputError(f"{path}: {item.name} is of type {item.dtype}, names were expected")
    out: list[str] = []
    for start in range(0, item.shape[0], NAMES_AT_ONCE):
        values = item[start : start + NAMES_AT_ONCE].tolist()
        if strings is not None and strings.length is None:
            n_bytes += sum(map(len, values))
        if n_bytes > MAX_NAMES_BYTES:
            raise InputError(f"{path}: {item.name} has more than {MAX_NAMES_BYTES >> 30} GiB")
        out += [v.decode() if isinstance(v, bytes) else str(v) for v in values]
    return out


def _var(group: h5py.Group, path: Path) -> pd.DataFrame:
    """The table of features of either layout."""
    if "features" not in group:
        var = features(_names(group, "gene_names", path), _names(group, "genes", path))
        return var.assign(genome=group.name.strip("/"))
    inner = _group(group, "features", path)
    var = features(_names(inner, "name", path), _names(inner, "id", path))
    other = {"feature_type": "feature_types"}
    for name in inner:
        item = inner[name]
        if name in ("name", "id") or name.startswith("_") or not isinstance(item, h5py.Dataset):
            continue
        if item.shape == (len(var),):
            numeric = item.dtype.kind in "fb"
            values: Any = _array(inner, name, path)[:] if numeric else _names(inner, name, path)
            var[other.get(name, name)] = values
    return var


def _check(group: h5py.Group, n_cells: int, n_features: int, path: Path) -> None:
    """Refuse parts that do not fit together."""
    shape = _array(group, "shape", path)
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise InputError(f"{path}: {shape.name} is no pair of whole numbers")
    declared = tuple(int(n) for n in shape[:])
    if declared != (n_features, n_cells):
        raise InputError(
            f"{path}: {group.name} is {declared[0]} x {declared[1]}, but has {n_features} features "
            f"and {n_cells} barcodes"
        )
    for name in PARTS[:3]:
        _array(group, name, path)
    sparse.checked_indptr(_sparse(group, path))


def _sparse(group: h5py.Group, path: Path) -> Sparse:
    n_features, n_cells = (int(n) for n in group["shape"][:])
    return Sparse(
        where=f"{path}: {group.name}",
        axis="obs",
        n_major=n_cells,
        n_minor=n_features,
        indptr=group["indptr"],
        indices=group["indices"],
        data=group["data"],
        block_values=BLOCK_VALUES,
    )


def _blocks(path: Path, name: str) -> Iterator[Block]:
    with opened(path) as file:
        yield from sparse.blocks(_sparse(_group(file, name, path), path))


def _platform(chemistry: str, spatial: bool) -> str:
    if spatial:
        return "Visium HD" if "HD" in chemistry else "Visium"
    return "Chromium" if chemistry.startswith("Single Cell") else "unknown"


def _text(value: Any) -> str:
    """An attribute as text; h5py gives strings, bytes, or arrays of one of them."""
    first = np.ravel(np.asarray(value, dtype=object))[:1].tolist() if value is not None else []
    return "".join(v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in first)
