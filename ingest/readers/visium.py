"""Read the spatial part of a Visium or Visium HD run: where each spot or bin is.

Files of a folder spatial/ beside the matrix, or (GEO) beside the matrix itself with its prefix:

- tissue_positions_list.csv (Space Ranger 1, no header), tissue_positions.csv (2 and later), or
  tissue_positions.parquet (Visium HD), gzipped or not: barcode, in_tissue, array_row, array_col,
  pxl_row_in_fullres, pxl_col_in_fullres;
- scalefactors_json.json: microns_per_pixel of Visium HD, spot_diameter_fullres.

A row of the matrix is a spot of 55 µm or a bin of 2, 8 or 16 µm: a place, and no cell.

Micrometres a pixel are told by Visium HD. Of Visium they follow from the lattice: spots of one
array_row are 100 µm apart (10x Genomics, "What is the spatial resolution and configuration of
the capture area of the Visium v1 Gene Expression Slide?") and differ by 2 in array_col.
spot_diameter_fullres would be a worse ruler: it does not span the 55 µm of a spot but "a
theoretical 65 µm spot" (10x Genomics, Space Ranger spatial outputs, which divides 65 by it). By
the lattice it spans 64.8 to 65.0 µm in runs of Space Ranger 1, and 70.0 in one of 3.0. It is
only used where positions are too few to see the lattice.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.coords import coords_um
from cellplm.ingest.readers.mtx_entries import opened
from cellplm.ingest.readers.tenx import SEPARATORS, visible_files
from cellplm.ingest.source import ReadOptions

POSITIONS = re.compile(
    r"(?P<prefix>.*?)tissue_positions(?P<list>_list)?\.(?:csv(?:\.gz)?|parquet)", re.I
)
SCALES = re.compile(r"(?P<prefix>.*?)scalefactors_json\.json(?:\.gz)?", re.I)
COLUMNS = (
    "barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres",
)  # fmt: skip
X, Y = "pxl_col_in_fullres", "pxl_row_in_fullres"

SPOTS_APART_UM = 100.0
THEORETICAL_SPOT_UM = 65.0
# Rows are 86.6 µm apart in a hexagonal lattice, 87 in the files; one of bins has equal steps.
ROWS_TO_COLUMNS = (1.65, 1.85)
BIN_BARCODE = re.compile(r"s_(\d{3})um_\d+_\d+")

# The 11 mm capture area has 30 million bins of 2 µm.
MAX_POSITIONS = 2**27
MAX_JSON = 2**20
MAX_CSV = 2**31


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Places:
    """Where the N rows of a matrix are.

    Attributes:
        obs: (N) their columns of the table of positions; missing where it lacks a barcode.
        coords_um: (N, 2) float32, NaN where it does.
        unfit: see `Source.unfit`.
        platform: "Visium" or "Visium HD".
        notes: sentences for the report.
    """

    obs: pd.DataFrame
    coords_um: NDArray[np.float32]
    unfit: Mapping[str, NDArray[np.bool_]]
    platform: str
    notes: tuple[str, ...]


def beside(
    folder: Path, prefix: str, files: Sequence[Path]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The files of the spatial part of a matrix; none where it has no positions.

    Args:
        folder: whose spatial/ is looked into.
        prefix: of the names beside the matrix.
        files: beside the matrix.

    Returns:
        Those that `places` reads (the positions first), and the others, such as pictures.
    """
    inside = visible_files(folder / "spatial")
    if any(POSITIONS.fullmatch(path.name) for path in inside):
        return _chosen(inside)
    matches = {
        path: POSITIONS.fullmatch(path.name) or SCALES.fullmatch(path.name) for path in files
    }
    return _chosen(
        [
            path
            for path, match in matches.items()
            if match and match["prefix"].strip(SEPARATORS) == prefix.strip(SEPARATORS)
        ]
    )


def places(files: Sequence[Path], barcodes: pd.Index[str], options: ReadOptions) -> Places | None:
    """Read where barcodes are; None where no file of a spatial part is among `files`.

    Raises:
        InputError: the positions or the scale factors cannot be read, tell no scale, or know
            none of the barcodes.
    """
    path = next((p for p in files if POSITIONS.fullmatch(p.name)), None)
    if path is None:
        return None
    table = _positions(path)
    rows = pd.Index(table["barcode"]).get_indexer(barcodes)
    if not (rows >= 0).any():
        raise InputError(
            f"{path}: none of its {len(table)} barcodes (such as {table['barcode'].iloc[0]!r}) is "
            f"in the matrix (such as {barcodes[0]!r}); they have to be of one run"
        )
    scales = _scales(next((p for p in files if SCALES.fullmatch(p.name)), None))
    hd = "bin_size_um" in scales or "microns_per_pixel" in scales or _bin_um(barcodes) is not None
    table = table.drop(columns="barcode")
    obs = table.iloc[rows].set_axis(barcodes, axis=0)
    missing = rows < 0
    notes = []
    if missing.any():
        obs = obs.astype(np.float64)
        obs.iloc[np.flatnonzero(missing)] = np.nan
        notes.append(
            f"{int(missing.sum())} of {len(barcodes)} barcodes are not in {path.name} and have no "
            f"position"
        )
    asked = coords_um(obs, options, path=path) if options.coords else None
    if asked is None:
        um, how = options.um_per_unit, "as asked"
        if um is None:
            um, how = _um_per_px(table, scales, _bin_um(barcodes), path)
        notes.append(f"positions are pixels of {um:.4g} µm, {how}")
        asked = np.asarray(obs[[X, Y]].to_numpy(dtype=np.float64) * um, dtype=np.float32)
    outside = obs["in_tissue"].to_numpy(dtype=np.float64) == 0
    unfit = {"outside the tissue (in_tissue = 0)": outside} if outside.any() else {}
    return Places(
        obs=obs,
        coords_um=asked,
        unfit=MappingProxyType(unfit),
        platform="Visium HD" if hd else "Visium",
        notes=tuple(notes),
    )


def _chosen(files: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The positions and scale factors to read, and the other files; none without positions."""
    # Of several spellings the one with a header says most.
    tables = sorted(
        (path for path in files if POSITIONS.fullmatch(path.name)),
        key=lambda path: (path.suffix == ".parquet", "_list" in path.name, path.name),
    )
    if not tables:
        return (), ()
    scales = [path for path in files if SCALES.fullmatch(path.name)]
    read = (*tables[:1], *scales[:1])
    return read, tuple(path for path in files if path not in read)


def _positions(path: Path) -> pd.DataFrame:
    """The table of positions, its columns named and of the right kinds."""
    table = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    if table.empty:
        raise InputError(f"{path}: no positions in it; a row for each barcode was expected")
    for name in COLUMNS[1:]:
        numbers = pd.to_numeric(table[name], errors="coerce")
        bad = ~np.isfinite(numbers.to_numpy(dtype=np.float64))
        if name == "in_tissue":
            bad |= ~numbers.isin([0, 1]).to_numpy()
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"{path}: {name} of barcode {table['barcode'].iloc[row]!r} is "
                f"{str(table[name].iloc[row])!r}; "
                f"{'0 or 1' if name == 'in_tissue' else 'a number'} was expected"
            )
        table[name] = numbers
    twice = table["barcode"].duplicated()
    if twice.any():
        raise InputError(f"{path}: barcode {table['barcode'][twice].iloc[0]!r} stands twice")
    return table


def _parquet(path: Path) -> pd.DataFrame:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if missing := [name for name in COLUMNS if name not in names]:
                raise InputError(
                    f"{path}: no column {missing[0]!r}; it has {', '.join(names)[:200]}"
                )
            if file.metadata.num_rows > MAX_POSITIONS:
                raise InputError(
                    f"{path}: declares {file.metadata.num_rows} rows; at most {MAX_POSITIONS} "
                    f"are read"
                )
            table: pd.DataFrame = file.read(columns=list(COLUMNS)).to_pandas()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a readable parquet file, or cut short ({reason})") from error
    table["barcode"] = table["barcode"].astype(str).astype(object)
    return table[list(COLUMNS)]


def _csv(path: Path) -> pd.DataFrame:
    with opened(path) as text:
        data = text.read_whole(MAX_CSV)
    first = data[:200].removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].strip().lower()
    header = first.startswith((b"barcode", b'"barcode'))
    try:
        table = pd.read_csv(io.BytesIO(data), header=0 if header else None, index_col=False)
    except (ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no table of positions ({reason})") from error
    if header and not set(COLUMNS) <= set(table.columns):
        missing = next(name for name in COLUMNS if name not in table.columns)
        raise InputError(
            f"{path}: no column {missing!r}; it has {', '.join(map(str, table.columns))[:200]}"
        )
    if not header and table.shape[1] != len(COLUMNS):
        raise InputError(
            f"{path}: {table.shape[1]} columns; without a header, {len(COLUMNS)} were expected: "
            f"{', '.join(COLUMNS)}"
        )
    if not header:
        table.columns = pd.Index(COLUMNS)
    table["barcode"] = table["barcode"].astype(str)
    return table[list(COLUMNS)].copy()


def _scales(path: Path | None) -> dict[str, float]:
    """The numbers of the scale factors; none without the file."""
    if path is None:
        return {}
    with opened(path) as text:
        data = text.read_whole(MAX_JSON)
    try:
        said: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({str(error)[:100]})") from error
    if not isinstance(said, dict):
        raise InputError(f"{path}: an object with scale factors was expected")
    scales = {key: value for key, value in said.items() if isinstance(value, int | float)}
    for key in ("microns_per_pixel", "spot_diameter_fullres", "bin_size_um"):
        if key in said and not 0 < scales.get(key, -1) < 1e6:
            raise InputError(f"{path}: {key} is {said[key]!r}; a length above 0 was expected")
    return scales


def _bin_um(barcodes: pd.Index[str]) -> float | None:
    """The size of a bin, which its barcodes begin with."""
    match = BIN_BARCODE.match(str(barcodes[0])) if len(barcodes) else None
    return float(match[1]) if match else None


def _um_per_px(
    table: pd.DataFrame, scales: Mapping[str, float], bin_um: float | None, path: Path
) -> tuple[float, str]:
    """Micrometres a pixel, and what says so."""
    if "microns_per_pixel" in scales:
        return scales["microns_per_pixel"], "by microns_per_pixel of the scale factors"
    column_px, row_px = _steps_px(table)
    bin_um = scales.get("bin_size_um", bin_um)
    if bin_um is not None and column_px > 0:
        return bin_um / column_px, f"by the lattice of bins {bin_um:g} µm apart"
    if column_px > 0 and ROWS_TO_COLUMNS[0] < row_px / column_px < ROWS_TO_COLUMNS[1]:
        um = SPOTS_APART_UM / (2 * column_px)
        return um, f"by the lattice of spots {SPOTS_APART_UM:g} µm apart"
    if "spot_diameter_fullres" in scales:
        um = THEORETICAL_SPOT_UM / scales["spot_diameter_fullres"]
        return um, f"by a spot_diameter_fullres of {THEORETICAL_SPOT_UM:g} µm"
    raise InputError(
        f"{path}: neither its lattice nor a scalefactors_json.json beside it says how long a "
        f"pixel is; give it with --um-per-unit"
    )


def _steps_px(table: pd.DataFrame) -> tuple[float, float]:
    """Pixels from one array_col and one array_row to the next; 0 where it cannot be told."""
    array = table[["array_col", "array_row"]].to_numpy(dtype=np.float64)
    pixels = table[[X, Y]].to_numpy(dtype=np.float64)
    array, pixels = array - array.mean(axis=0), pixels - pixels.mean(axis=0)
    steps, _, rank, _ = np.linalg.lstsq(array, pixels, rcond=None)
    if rank < 2:
        return 0.0, 0.0
    column_px, row_px = np.hypot(steps[:, 0], steps[:, 1]).tolist()
    # Positions that do not follow their array indices are on no lattice.
    off = np.abs(array @ steps - pixels).max()
    return (column_px, row_px) if off < column_px else (0.0, 0.0)
