"""Which columns hold the positions of cells, and in which unit.

Shared by the readers whose formats do not fix this themselves.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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


def coords_columns(obs: pd.DataFrame) -> tuple[str, str, float] | None:
    """The x column, the y column and µm a unit; None where no known pair is there."""
    for x, y, um in COLUMNS:
        if x in obs.columns and y in obs.columns:
            return x, y, um
    return None


def coords_um(obs: pd.DataFrame) -> NDArray[np.float32] | None:
    """Positions from the first known pair of columns, (n_obs, 2) float32 µm.

    Cells without a position, or with one that is no number, get NaN.
    """
    found = coords_columns(obs)
    if found is None:
        return None
    x, y, um = found
    xy = obs[[x, y]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    return np.asarray(xy * um, dtype=np.float32)
