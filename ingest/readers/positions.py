"""What a reader knows of the places of cells, and the last questions that are put to them.

Readers find positions and their unit in ways of their own; whether rows are spots, which
platform that means, and whether the unit can be right is decided here for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellplm.ingest.readers.spots import Spots
from cellplm.ingest.source import ReadOptions
from cellplm.ingest.spacing import unit_doubt

# Enough spots to measure a pitch that is known to be there.
MIN_SPOTS = 7


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Positions:
    """What is known about places.

    Attributes:
        coords_um: (n_obs, 2) float32, NaN for a cell without; None where there are none.
        spots: whether a row is a spot or bin.
        platform: "Visium", "Visium HD", "CosMx" or what came in.
        notes: sentences for the report.
    """

    coords_um: NDArray[np.float32] | None
    spots: bool
    platform: str
    notes: tuple[str, ...]


def settled(
    um: NDArray[np.float32] | None,
    spots: Spots | None,
    platform: str,
    notes: Sequence[str],
    options: ReadOptions,
) -> Positions:
    """Positions, once they and spots among them were looked for.

    Args:
        um: (n_obs, 2) µm, any value for a cell without; None where there are none.
        spots: why rows are spots; None where they are cells.
        platform: the instrument, as far as it is known.
        notes: sentences for the report so far.
        options: the unit is not doubted where `um_per_unit` says it.
    """
    told = list(notes)
    if um is not None:
        um = np.where(np.isfinite(um), um, np.float32(np.nan))
    if spots is not None:
        told.append(f"rows are spots, not cells: {spots.why}")
        platform = (spots.platform or platform) if platform == "unknown" else platform
    elif um is not None and options.um_per_unit is None and (doubt := unit_doubt(um)):
        told.append(doubt)
    return Positions(coords_um=um, spots=spots is not None, platform=platform, notes=tuple(told))
