"""Where the cells of a loom file lie, in micrometres.

Positions are what the user names, columns of the usual names (a two-dimensional `spatial` is
spatial_x and spatial_y by now), or `X` and `Y`. The last may be a tSNE: they are positions only
beside a column that only images have (`IMAGE_COLUMNS`). `Region` and `Area` are none of
these, since dissections have them, and `_X`, `_tSNE_1` and the like are never positions.

Where `size_um2 / size_pix` is the same for all cells (osmFISH), X and Y are pixels, and its root is
the length of one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cellplm.errors import InputError
from cellplm.ingest.coords import COLUMNS, PLAIN, coords_columns, coords_um
from cellplm.ingest.readers.positions import Positions, settled
from cellplm.ingest.readers.spots import marked_spots, spots_on_lattice
from cellplm.ingest.source import ReadOptions

# In lower case. Beside one of these, X and Y are positions.
IMAGE_COLUMNS = {
    "size_pix", "size_um2", "fov", "fov_id", "cell_area", "nucleus_area", "volume", "cell_volume",
    "slice_id", "section_id", "z",
}  # fmt: skip
# What else is called a position says nothing of its unit.
WITH_UNIT = {(x, y) for x, y, _ in COLUMNS} - {("spatial_x", "spatial_y")}
# How much the area of a pixel may differ between cells, as a share.
PIXEL_WITHIN = 1e-3


def positions(obs: pd.DataFrame, platform: str, path: Path, options: ReadOptions) -> Positions:
    """Find the positions, their unit, and spots among them.

    Args:
        obs: the cells.
        platform: the instrument, as far as obs tells.
        path: the file, for messages.
        options: `coords` and `um_per_unit` go before everything that is found.

    Raises:
        InputError: what the user names is not there.
    """
    notes: list[str] = []
    pair = _pair(obs, path, options)
    if pair is not None and options.um_per_unit is None and pair not in WITH_UNIT:
        pixel_um = _pixel_um(obs)
        if pixel_um is not None:
            options = replace(options, um_per_unit=pixel_um)
            notes.append(
                f"{pair[0]} and {pair[1]} are pixels of {pixel_um:.4g} µm: size_um2 / size_pix is "
                f"{pixel_um**2:.4g} µm² for all cells"
            )
        else:
            notes.append(f"{pair[0]} and {pair[1]} have no unit: taken as micrometres")
    um = None
    if pair is not None:
        um = coords_um(obs, replace(options, coords=pair), path=path)
    spots = marked_spots(obs, platform)
    if um is not None:
        spots = spots or spots_on_lattice(um, obs)
    return settled(um, spots, platform, notes, options)


def _pair(obs: pd.DataFrame, path: Path, options: ReadOptions) -> tuple[str, str] | None:
    """The columns of the positions, or None."""
    if options.coords is not None:
        pair = options.coords
        if len(pair) == 1:
            pair = (f"{pair[0]}_x", f"{pair[0]}_y")
            if not set(pair) <= set(obs.columns):
                raise InputError(
                    f"{path}: no two-dimensional col_attrs/{options.coords[0]} for the positions; "
                    f"name one, or two of: {', '.join(map(str, obs.columns)) or 'no column'}"
                )
        return pair[0], pair[1]
    also = PLAIN if IMAGE_COLUMNS & {str(c).lower() for c in obs.columns} else ()
    found = coords_columns(obs, also=also)
    return None if found is None else (found[0], found[1])


def _pixel_um(obs: pd.DataFrame) -> float | None:
    """The length of a pixel, from the sizes of cells in pixels and in µm²."""
    if not {"size_pix", "size_um2"} <= set(obs.columns):
        return None
    sizes = obs[["size_um2", "size_pix"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    sizes = sizes[np.isfinite(sizes).all(axis=1) & (sizes > 0).all(axis=1)]
    if len(sizes) == 0:
        return None
    areas = sizes[:, 0] / sizes[:, 1]
    area = float(np.median(areas))
    same = np.abs(areas - area) <= PIXEL_WITHIN * area
    return round(float(np.sqrt(area)), 9) if same.all() else None
