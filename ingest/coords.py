"""Which columns hold the positions of cells, and in which unit.

Shared by the readers whose formats do not fix this themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.source import ReadOptions

# 0.120280945 µm: one pixel of the CosMx instrument, from NanoString's data set README.
COSMX_UM_PER_PX = 0.120280945

# (x, y, µm a unit); the first pair that a table has is taken. Without a unit: µm.
COLUMNS = (
    ("CenterX_global_px", "CenterY_global_px", COSMX_UM_PER_PX),
    ("x_centroid", "y_centroid", 1.0),
    ("center_x", "center_y", 1.0),
    ("x_coord", "y_coord", 1.0),
    ("xcoord", "ycoord", 1.0),
    ("x_um", "y_um", 1.0),
    ("spatial_x", "spatial_y", 1.0),
    ("sdimx", "sdimy", 1.0),
)


# Plain names say little: taken only by readers of formats where they mean positions.
PLAIN = (("X", "Y", 1.0), ("x", "y", 1.0))

Pair = tuple[str, str, float]


def coords_columns(obs: pd.DataFrame, *, also: Sequence[Pair] = ()) -> Pair | None:
    """The x column, the y column and µm a unit; None where no known pair is there.

    Args:
        obs: cells.
        also: pairs to look for after the usual ones, such as `PLAIN`.
    """
    for x, y, um in (*COLUMNS, *also):
        if x in obs.columns and y in obs.columns:
            return x, y, um
    return None


def coords_um(
    obs: pd.DataFrame,
    options: ReadOptions | None = None,
    *,
    path: Path | None = None,
    also: Sequence[Pair] = (),
) -> NDArray[np.float32] | None:
    """Positions from the columns that the user names, or the first known pair.

    Args:
        obs: cells.
        options: `coords` and `um_per_unit` of it go before what the names of columns say.
        path: the file, for the message.
        also: see `coords_columns`.

    Returns:
        (n_obs, 2) float32 µm, NaN for cells without a position or with one that is no number;
        None where there are none.

    Raises:
        InputError: obs lacks a column that the user names.
    """
    asked = options.coords if options else None
    if asked is not None and len(asked) == 2:
        missing = [name for name in asked if name not in obs.columns]
        if missing:
            known = ", ".join(str(column) for column in obs.columns) or "none"
            raise InputError(
                f"{path}: no column {missing[0]!r} for the positions; its columns are: {known}"
            )
        known_pair = coords_columns(obs[list(asked)])
        found: Pair | None = (*asked, known_pair[2] if known_pair else 1.0)
    else:
        found = coords_columns(obs, also=also)
    if found is None:
        return None
    x, y, um = found
    if options is not None and options.um_per_unit is not None:
        um = options.um_per_unit
    xy = obs[[x, y]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    return np.asarray(xy * um, dtype=np.float32)
