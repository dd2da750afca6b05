"""What the distances between positions say: spots on a lattice, or cells in a wrong unit.

Cells never stand in rank and file. Spots and bins always do, and the pitch of their lattice is
known, so it also tells how long a pixel is. Where no lattice is, cells lie a few micrometres
to a few dozen apart; positions of another unit give themselves away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

# Fewer positions than this, and a lattice may be chance.
MIN_POSITIONS = 100
# Share of positions whose neighbour is at the pitch, and how exactly.
LATTICE_SHARE = 0.9
LATTICE_WITHIN = 0.05
# More than this is not needed to measure a distance.
MAX_POSITIONS = 100_000
# Median distance to the nearest cell, µm: cortex, embryo and sparse panels lie well inside.
CELLS_APART_UM = (1.0, 100.0)


def nearest_distances(xy: NDArray[Any]) -> NDArray[np.float64]:
    """Distance of each position to the nearest other, in their own unit.

    Args:
        xy: (n, 2); positions that are not finite are passed over, as are all outside of the
            band in x that holds the middle `MAX_POSITIONS`.
    """
    points = np.asarray(xy, dtype=np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) > MAX_POSITIONS:
        first = (len(points) - MAX_POSITIONS) // 2
        middle = np.argpartition(points[:, 0], [first, first + MAX_POSITIONS])
        points = points[middle[first : first + MAX_POSITIONS]]
    if len(points) < 2:
        return np.zeros(0)
    distances = np.asarray(cKDTree(points).query(points, k=2)[0], dtype=np.float64)
    return distances[:, 1]


def lattice_pitch(xy: NDArray[Any], *, at_least: int = MIN_POSITIONS) -> float | None:
    """Distance between neighbours if the positions lie on a lattice; None where they do not.

    Args:
        xy: (n, 2) positions of one slide.
        at_least: of fewer positions nothing is said.
    """
    distances = nearest_distances(xy)
    if distances.size < at_least:
        return None
    pitch = float(np.median(distances))
    near = np.abs(distances - pitch) <= LATTICE_WITHIN * pitch
    return float(distances[near].mean()) if pitch > 0 and near.mean() >= LATTICE_SHARE else None


def unit_doubt(coords_um: NDArray[Any]) -> str | None:
    """A sentence for the report if these can hardly be micrometres; None if they may be."""
    distances = nearest_distances(coords_um)
    if distances.size < MIN_POSITIONS:
        return None
    apart = float(np.median(distances))
    if CELLS_APART_UM[0] <= apart <= CELLS_APART_UM[1]:
        return None
    return (
        f"positions are probably not in micrometres: the nearest cell is {apart:.3g} away in the "
        f"median; give the unit with --um-per-unit"
    )
