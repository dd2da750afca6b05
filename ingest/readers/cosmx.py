"""Read CosMx flat files, as the vendor's export writes them.

Files of one slide, .csv or .csv.gz, in one folder, with a common prefix:

- `*exprMat_file`: fov, cell_ID, one column a target, counts (required);
- `*metadata_file`: fov, cell_ID, CenterX_global_px, CenterY_global_px, ... (required);
- `*fov_positions_file`: fov, x_global_px, y_global_px (kept with the provenance, not read).

`cell_ID` is unique within its FOV only, so a cell is known by the pair. The two tables are
joined by it, never by position: the vendor does not promise equal order. `cell_ID` 0 is
not a cell but the transcripts outside all cells; such rows are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.blocks import compress
from cellplm.ingest.coords import coords_um
from cellplm.ingest.readers.delimited import Delimited, read_small
from cellplm.ingest.source import Block, Found, Modality, ReadOptions, Source

FORMAT = "cosmx"

NAME = re.compile(
    r"^(?P<prefix>.*?)[-_.]?(?P<role>exprMat|metadata|fov_positions|tx)_file\.csv(\.gz)?$", re.I
)
FOV = ("fov", "FOV", "Fov")
CELL = ("cell_ID", "cell_id", "cellID", "CellId", "cell")
OTHER_NAMES = {
    "centerx_global_px": "CenterX_global_px",
    "centery_global_px": "CenterY_global_px",
}


def find(files: Sequence[Path]) -> list[Found]:
    """One data set for every expression matrix, with the files that share its prefix."""
    by_prefix: dict[str, dict[str, Path]] = {}
    for path in files:
        if match := NAME.match(path.name):
            by_prefix.setdefault(match["prefix"], {})[match["role"].lower()] = path
    return [
        Found(
            format=FORMAT,
            path=roles["exprmat"],
            files=(roles["exprmat"], *(roles[r] for r in sorted(roles) if r != "exprmat")),
            name=prefix or roles["exprmat"].parent.name,
        )
        for prefix, roles in by_prefix.items()
        if "exprmat" in roles
    ]


def refusal(path: Path) -> str | None:
    """Why a file named as of a CosMx export is no data set."""
    match = NAME.match(path.name)
    if match is None:
        return None
    return f"{path}: a file of a CosMx export without its *exprMat_file.csv"


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read the metadata and the cell keys of the matrix, and join them.

    Raises:
        MissingFileError: there is no metadata file beside the matrix.
        InputError: a key column lacks, a cell stands twice, or a cell has no metadata.
    """
    table = Delimited.sniff(found.path)
    fov_at, cell_at = (_position(table.columns, names, found.path) for names in (FOV, CELL))
    features = [i for i in range(len(table.columns)) if i not in (fov_at, cell_at, table.label_at)]
    keys = table.read_columns([fov_at, cell_at])
    expr = pd.MultiIndex.from_arrays(
        [_whole(keys[0], "fov", found.path), _whole(keys[1], "cell_ID", found.path)],
        names=["fov", "cell_ID"],
    )
    keep = expr.get_level_values("cell_ID") != 0
    cells = expr[keep]
    if not cells.is_unique:
        fov, cell = cells[cells.duplicated()][0]
        raise InputError(f"{found.path}: cell {cell} of FOV {fov} stands twice")
    obs = _metadata(found, cells)
    n_outside = int((~keep).sum())
    notes = (f"{n_outside} rows with cell_ID 0 (transcripts outside cells) were dropped",)
    modality: Modality = options.modality or "srt"
    return Source(
        name=found.name,
        format=FORMAT,
        files=found.files,
        obs=obs,
        var=pd.DataFrame(index=pd.Index([table.columns[i] for i in features], dtype=object)),
        counts_from="exprMat_file",
        looked_in=("exprMat_file: one column a target",),
        modality=modality,
        platform="CosMx",
        coords_um=coords_um(obs) if modality == "srt" else None,
        blocks=lambda: _blocks(table, features, keep),
        warnings=notes if n_outside else (),
    )


def _position(columns: Sequence[str], names: tuple[str, ...], path: Path) -> int:
    for name in names:
        if name in columns:
            return list(columns).index(name)
    raise InputError(
        f"{path}: no column {names[0]!r}; a CosMx table has fov and cell_ID. It starts with: "
        f"{', '.join(columns[:5])}"
    )


def _whole(values: Sequence[str], name: str, path: Path) -> NDArray[np.int64]:
    numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce")
    bad = numbers.isna() | (numbers % 1 != 0)
    if bad.any():
        row = int(np.argmax(bad.to_numpy()))
        raise InputError(
            f"{path}: {name} is {values[row]!r} in data row {row + 1}; a whole number was expected"
        )
    return numbers.to_numpy(dtype=np.int64)


def _metadata(found: Found, cells: pd.MultiIndex) -> pd.DataFrame:
    """The metadata of the cells, in the order of the matrix, with unique names."""
    path = next(
        (p for p in found.files if (m := NAME.match(p.name)) and m["role"].lower() == "metadata"),
        None,
    )
    if path is None:
        raise MissingFileError(
            f"{found.path}: no *metadata_file.csv beside it; a CosMx export has one, with the "
            f"positions of the cells"
        )
    table = read_small(path)
    columns = [str(c) for c in table.columns]
    fov, cell = columns[_position(columns, FOV, path)], columns[_position(columns, CELL, path)]
    keys = pd.MultiIndex.from_arrays(
        [_whole(list(table[fov]), "fov", path), _whole(list(table[cell]), "cell_ID", path)]
    )
    if not keys.is_unique:
        twice = keys[keys.duplicated()][0]
        raise InputError(f"{path}: cell {twice[1]} of FOV {twice[0]} stands twice")
    rows = keys.get_indexer(cells)
    if (rows < 0).any():
        lost = cells[rows < 0]
        raise InputError(
            f"{path}: {len(lost)} of {len(cells)} cells of {found.path.name} are not in it, such "
            f"as cell {lost[0][1]} of FOV {lost[0][0]}; the two files have to be of one export"
        )
    renamed = {c: OTHER_NAMES[c.lower()] for c in columns if c.lower() in OTHER_NAMES}
    obs = table.iloc[rows].drop(columns=[fov, cell]).rename(columns=renamed)
    obs.insert(0, "fov", cells.get_level_values(0).to_numpy())
    obs.insert(1, "cell_ID", cells.get_level_values(1).to_numpy())
    obs.index = pd.Index([f"c_{f}_{c}" for f, c in cells], dtype=object)
    if not {"CenterX_global_px", "CenterY_global_px"} <= set(obs.columns):
        raise InputError(
            f"{path}: no columns CenterX_global_px and CenterY_global_px; it has "
            f"{', '.join(columns)}"
        )
    return obs


def _blocks(table: Delimited, features: list[int], keep: NDArray[np.bool_]) -> Iterator[Block]:
    """Rows of the matrix that are cells, renumbered without the others."""
    start = 0
    for first, values in table.matrices(features):
        values = values[keep[first : first + len(values)]]
        yield compress(values, axis="obs", start=start)
        start += len(values)
