"""Read loom files, of specification 1, 2 and 3.

Layout: `matrix` (features x cells, dense), `layers/<name>` of the same shape,
`row_attrs/<name>` and `col_attrs/<name>`. Attributes of one dimension become the columns of var
and obs. Those of two dimensions or of records (embeddings, regulons), where anndata.read_loom
raises, are left out and named in a warning; only a two-dimensional `spatial` becomes the columns
spatial_x and spatial_y. Feature names are in `Gene` (or a name alike), stable ids in `Accession`;
cell names in `CellID` (or a name alike).

Counts are looked for in layers named as such ("counts"), then in `matrix`, which is also where
velocyto keeps the sum of its spliced and unspliced layers. Positions: see loom_positions.py.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import CountsError, InputError
from cellplm.ingest.readers import dense, hdf5
from cellplm.ingest.readers.anndata_counts import LAYERS
from cellplm.ingest.readers.anndata_tables import refuse_growth
from cellplm.ingest.readers.cell_marks import platform, unfit
from cellplm.ingest.readers.loom_positions import positions
from cellplm.ingest.readers.sample import fault_of_sample
from cellplm.ingest.source import Block, Found, Modality, ReadOptions, Source

FORMAT = "loom"

# In lower case; the first that is there is taken.
FEATURE_NAMES = (
    "gene", "genes", "var_names", "gene_name", "gene_names", "genename", "gene_symbol", "symbol",
    "gene_short_name", "feature_name", "name", "accession", "gene_id", "gene_ids", "ensembl_id",
    "ensembl", "ensemblid",
)  # fmt: skip
CELL_NAMES = (
    "cellid", "cell_id", "obs_names", "cell_names", "cell_name", "barcode", "barcodes", "cell",
    "cells", "index",
)  # fmt: skip
SPATIAL = ("spatial", "X_spatial", "spatial_coords")


def find(files: Sequence[Path]) -> list[Found]:
    """Every file that ends in .loom is a data set of its own."""
    return [
        Found(format=FORMAT, path=path, files=(path,), name=path.name[: -len(".loom")])
        for path in files
        if path.name.lower().endswith(".loom")
    ]


def refusal(path: Path) -> str | None:
    """None: every file of this name is claimed."""
    return None


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read the attributes of both axes, choose where the counts are.

    Raises:
        InputError: the file cannot be read, or its parts do not fit together.
        CountsError: no place holds raw counts.
    """
    path = found.path
    with hdf5.opened(path) as file:
        hdf5.refuse_ways_out(file, path)
        for name in ("matrix", "row_attrs", "col_attrs"):
            if name not in file or isinstance(file[name], h5py.Dataset) != (name == "matrix"):
                raise InputError(
                    f"{path}: no {name!r} in it; a loom file has matrix, row_attrs and col_attrs"
                )
        key, looked_in = _choose(file, path, options.counts)
        n_vars, n_obs = file[key].shape
        rows, rows_left = _attributes(file["row_attrs"], n_vars, path, wide=())
        asked = options.coords if options.coords and len(options.coords) == 1 else ()
        columns, columns_left = _attributes(file["col_attrs"], n_obs, path, wide=asked or SPATIAL)
    var = _named(rows, FEATURE_NAMES)
    if var is None:
        swapped = _named(columns, FEATURE_NAMES[:4]) is not None
        raise InputError(
            f"{path}: row_attrs has no Gene, the names of features; it has: "
            f"{', '.join(map(str, rows.columns)) or 'nothing'}"
            + (". col_attrs has: transpose the file" if swapped else "")
        )
    notes = [f"{name} was left out: it has several columns" for name in rows_left + columns_left]
    obs = _named(columns, CELL_NAMES)
    if obs is None:
        obs = columns.set_axis(pd.Index([str(i) for i in range(n_obs)], dtype=object), axis=0)
        notes.append("col_attrs has no CellID: cells are named by their number")
    places = positions(obs, platform(obs), path, options)
    modality: Modality = options.modality or ("srt" if places.coords_um is not None else "scrna")
    return Source(
        name=found.name,
        format=FORMAT,
        files=found.files,
        obs=obs,
        var=var,
        counts_from=_words(key),
        looked_in=looked_in,
        modality=modality,
        platform=places.platform,
        coords_um=places.coords_um if modality == "srt" else None,
        spots=places.spots,
        unfit=unfit(obs),
        blocks=lambda: _blocks(path, key),
        warnings=(*notes, *places.notes),
    )


def _choose(file: h5py.File, path: Path, asked: str | None) -> tuple[str, tuple[str, ...]]:
    """The data set of the counts, and what was seen on the way."""
    layers = file.get("layers")
    names = sorted(layers) if isinstance(layers, h5py.Group) else []
    keys = [f"layers/{name}" for known in LAYERS for name in names if name.lower() == known]
    keys.append("matrix")
    if asked is not None:
        keys = ["matrix" if asked == "matrix" else f"layers/{asked}"]
        if keys[0] not in file:
            have = ", ".join(["matrix", *(_words(f"layers/{name}") for name in names)])
            raise CountsError(f"{path}: no {_words(keys[0])}; it has {have}")
    looked: list[str] = []
    for key in keys:
        item = file[key]
        if not isinstance(item, h5py.Dataset) or item.ndim != 2:
            raise InputError(f"{path}: {key} is no matrix of features x cells")
        if item.shape != file["matrix"].shape:
            raise InputError(
                f"{path}: {key} is {' x '.join(map(str, item.shape))}, the matrix "
                f"{' x '.join(map(str, file['matrix'].shape))}"
            )
        hdf5.refuse_unwritten(item, path)
        fault = fault_of_sample(item)
        looked.append(f"{_words(key)}: {fault or 'raw counts'}")
        if fault is None:
            return key, tuple(looked)
    others = [_words(f"layers/{name}") for name in names if f"layers/{name}" not in keys]
    raise CountsError(
        f"{path}: no raw counts found. Looked in {'; '.join(looked)}"
        + (f". Not looked in: {', '.join(others)}" if others and asked is None else "")
        + ". Give a file with raw counts, or name the layer that holds them with --counts"
    )


def _words(key: str) -> str:
    return f"layers[{key.removeprefix('layers/')!r}]" if key != "matrix" else key


def _attributes(
    group: h5py.Group, n: int, path: Path, *, wide: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """A table of the attributes of an axis, and the names of those that are no columns.

    Args:
        group: row_attrs or col_attrs.
        n: features or cells.
        path: the file, for messages.
        wide: attributes of two dimensions of which the first two columns are kept.
    """
    where = group.name.strip("/")
    refuse_growth(group, where, path, path.stat().st_size)
    hdf5.refuse_unwritten(group, path)
    columns: dict[str, Any] = {}
    left_out: list[str] = []
    for name in group:
        item = group[name]
        is_wide = name in wide and isinstance(item, h5py.Dataset) and len(item.shape or ()) == 2
        if isinstance(item, h5py.Dataset) and (not item.shape or item.shape[0] != n):
            raise InputError(
                f"{path}: {where}/{name} has the shape {item.shape}, but the matrix has {n} "
                f"{'rows' if where == 'row_attrs' else 'columns'}"
            )
        if is_wide and item.shape[1] >= 2 and item.dtype.kind in "iuf":
            stem = "spatial" if name in SPATIAL else name
            columns |= {f"{stem}_{axis}": item[:, i] for i, axis in enumerate("xy")}
        elif not isinstance(item, h5py.Dataset) or item.ndim != 1 or item.dtype.names is not None:
            left_out.append(f"{where}/{name}")
        else:
            columns[name] = _column(item, f"{path}: {where}/{name}")
    return pd.DataFrame(columns, index=pd.RangeIndex(n)), left_out


def _column(item: h5py.Dataset, where: str) -> NDArray[Any]:
    values = item[:]
    if values.dtype.kind not in "SO":
        return np.asarray(values)
    try:
        text = [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text; write it again as such") from error
    # What is not ASCII was stored as entities of HTML until specification 3.
    return np.array([html.unescape(v) if "&" in v else v for v in text], dtype=object)


def _named(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame | None:
    """The table with the first known column of names as its index; None where there is none."""
    lower = {str(column).lower(): column for column in reversed(frame.columns)}
    column = next((lower[name] for name in names if name in lower), None)
    if column is None:
        return None
    index = pd.Index(frame[column].astype(str).to_numpy(dtype=object), dtype=object)
    return frame.drop(columns=column).set_axis(index, axis=0)


def _blocks(path: Path, key: str) -> Iterator[Block]:
    with hdf5.opened(path) as file:
        yield from dense.blocks(hdf5.for_one_pass(file, key), rows="var", first=1)
