"""Whether the rows of a data set are spots or bins, which hold several cells, and not cells.

Visium marks its spots (`array_row`, `array_col`), Visium HD names its bins after their size, and
both lie on a lattice, as cells never do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from cellplm.ingest.spacing import lattice_pitch

VISIUM_PITCH_UM = 100.0
BARCODE = re.compile(r"[ACGT]{16}(-\d+)?([-_].*)?")
HD_BARCODE = re.compile(r"s_(\d{3})um_\d+_\d+.*")
# Names that are looked at to tell what all of them are.
NAMES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Spots:
    """Why rows are spots, and what follows.

    Attributes:
        why: a clause for the report.
        platform: the instrument, if that is clear.
        pitch_um: distance from a spot to the next, if that is known.
    """

    why: str
    platform: str | None
    pitch_um: float | None


def visium(why: str, platform: str = "Visium") -> Spots:
    """Spots of Visium."""
    return Spots(why=why, platform=platform, pitch_um=VISIUM_PITCH_UM)


def marked_spots(obs: pd.DataFrame, platform: str) -> Spots | None:
    """Spots by what obs and the instrument say; None where they say nothing."""
    sizes = {m[1] if (m := HD_BARCODE.fullmatch(str(n))) else "" for n in obs.index[:NAMES]}
    if len(sizes) == 1 and (size := sizes.pop()):
        return Spots(why="bins of Visium HD", platform="Visium HD", pitch_um=float(size))
    if {"array_row", "array_col"} <= set(obs.columns):
        return visium("obs has array_row and array_col, as Visium has")
    if "visium" in platform.lower():
        return visium(f"the platform is {platform}", platform)
    return None


def spots_on_lattice(xy: NDArray[Any], obs: pd.DataFrame) -> Spots | None:
    """Spots by their positions, (n_obs, 2) in any unit; None where they are on no lattice."""
    pitch = lattice_pitch(xy)
    if pitch is None:
        return None
    why = f"positions lie on a lattice with a pitch of {pitch:.4g}"
    if all(BARCODE.fullmatch(str(name)) for name in obs.index[:NAMES]):
        return visium(f"{why} and are named by barcodes, as those of Visium")
    return Spots(why=why, platform=None, pitch_um=None)
