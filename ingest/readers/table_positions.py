"""Where the cells of a text table lie, in micrometres, and whether they are spots.

Positions are taken from the first of

1. the two columns that the user names;
2. columns of the usual names (ingest/coords.py), wherever they stand;
3. names of spots that are places on an array, "10x13" or "17.907x4.967", as those of Spatial
   Transcriptomics: spots of 100 µm, 200 µm apart. Where a file of positions says the same to
   within one spot, its more exact numbers are taken;
4. plain columns (x and y, X and Y, imagecol and imagerow ...) of the matrix itself or of a file
   named as one of positions, or the only two columns of numbers in such a file. In other files
   x and y may be a UMAP.

Where names say no unit, positions are taken for micrometres and it is said. Visium's spots
(`array_row`, `array_col`) tell it by their pitch. Beads of Slide-seq (10 µm) hold one or two
cells, and nothing in its tables marks them: they are taken for cells.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.coords import Pair, coords_columns, coords_um
from cellplm.ingest.readers.positions import MIN_SPOTS, Positions, settled
from cellplm.ingest.readers.spots import Spots, marked_spots, spots_on_lattice
from cellplm.ingest.source import ReadOptions
from cellplm.ingest.spacing import lattice_pitch

ST_PITCH_UM = 200.0
ARRAY = ("array_x", "array_y")
SECTION = "section"

# In lower case.
PLAIN_PAIRS = (
    ("x", "y"), ("x_um", "y_um"), ("xcoord", "ycoord"), ("x_coord", "y_coord"),
    ("coord_x", "coord_y"),
    ("x_centroid", "y_centroid"), ("centroid_x", "centroid_y"), ("center_x", "center_y"),
    ("centerx", "centery"), ("pos_x", "pos_y"), ("x_pos", "y_pos"), ("loc_x", "loc_y"),
    ("sdimx", "sdimy"), ("imagecol", "imagerow"), ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ("pixel_x", "pixel_y"), ("new_x", "new_y"), ("x_px", "y_px"),
)  # fmt: skip

_PLACE = re.compile(r"(?:(?P<section>.+)[-_])?(?P<x>\d+(?:\.\d+)?)x(?P<y>\d+(?:\.\d+)?)", re.A)
# The arrays have up to 35 x 33 places; larger ones were never sold.
_MAX_PLACE = 256.0
_KNOWN_UNIT = re.compile(r"(?i)(_um|_global_px|^[xy]_centroid)$")


def array_places(names: pd.Index[str]) -> pd.DataFrame | None:
    """The places on an array that names of spots are, and the section before them, if there is one.

    Returns:
        (n_obs rows) array_x and array_y, in places, and section; None where names are others.
    """
    if len(names) < 2 or _PLACE.fullmatch(str(names[0])) is None:
        return None
    found = [_PLACE.fullmatch(str(name)) for name in names]
    if None in found:
        return None
    frame = pd.DataFrame([m.groupdict() for m in found if m is not None], index=names)
    frame = frame.rename(columns={"x": ARRAY[0], "y": ARRAY[1]})
    places = frame[list(ARRAY)].astype(float)
    # "10x1", "10x2" are samples of another company.
    spread = all(places[axis].nunique() > 1 for axis in ARRAY)
    if not spread or names.has_duplicates or places.to_numpy().max() > _MAX_PLACE:
        return None
    return places if frame[SECTION].nunique() < 2 else places.join(frame[SECTION])


def positions(
    obs: pd.DataFrame,
    *,
    plain: Collection[str],
    only: Collection[str],
    platform: str,
    path: Path,
    options: ReadOptions,
) -> Positions:
    """Find the positions, their unit, and spots among them.

    Args:
        obs: the cells, with the columns of `array_places` if they have any.
        plain: columns in which plain names mean positions.
        only: columns of files of positions; the only two with numbers are x and y.
        platform: the instrument, as far as obs tells.
        path: the file, for messages.
        options: `coords` and `um_per_unit` go before everything that is found.

    Raises:
        InputError: a column that the user names is not there.
    """
    notes: list[str] = []
    spots = marked_spots(obs, platform)
    if set(ARRAY) <= set(obs.columns):
        why = "their names are places on an array, as those of Spatial Transcriptomics"
        spots = Spots(why=why, platform="ST", pitch_um=ST_PITCH_UM)
    pair = _pair(obs, plain, only, path, options)
    um: NDArray[np.float32] | None = None
    if pair is not None:
        xy = coords_um(obs, replace(options, coords=pair[:2], um_per_unit=1.0), path=path)
        assert xy is not None  # the columns are there
        spots = spots or spots_on_lattice(xy, obs)
        factor, note = _um_per_unit(xy, pair, spots, options)
        notes += [note] if note else []
        um = xy * np.float32(factor)
    return settled(um, spots, platform, notes, options)


def _pair(
    obs: pd.DataFrame,
    plain: Collection[str],
    only: Collection[str],
    path: Path,
    options: ReadOptions,
) -> Pair | None:
    """The columns of the positions and µm a unit, 1 where none is told."""
    if options.coords is not None:
        if len(options.coords) != 2:
            raise InputError(
                f"{path}: --coords {','.join(options.coords)}: a table has no obsm; name two "
                f"columns, as in X,Y"
            )
        x, y = options.coords
        usual = coords_columns(obs[[c for c in (x, y) if c in obs.columns]])
        return x, y, usual[2] if usual else 1.0
    if (usual := coords_columns(obs)) is not None:
        return usual
    lower = {name.lower(): name for name in reversed(list(plain))}
    named = ((lower[x], lower[y]) for x, y in PLAIN_PAIRS if x in lower and y in lower)
    numbers = [name for name in only if pd.api.types.is_numeric_dtype(obs[name])]
    found = next(named, (numbers[0], numbers[1]) if len(numbers) == 2 else None)
    if set(ARRAY) <= set(obs.columns):
        if found is not None and _near(obs[list(found)], obs[list(ARRAY)]):
            return *found, ST_PITCH_UM
        return *ARRAY, ST_PITCH_UM
    return (*found, 1.0) if found is not None else None


def _um_per_unit(
    xy: NDArray[np.float32], pair: Pair, spots: Spots | None, options: ReadOptions
) -> tuple[float, str | None]:
    """Micrometres a unit, and a sentence where that is not what the columns say."""
    x, y, um = pair
    if options.um_per_unit is not None:
        return options.um_per_unit, None
    if um == 1 and spots is not None and spots.pitch_um is not None:
        pitch = lattice_pitch(xy, at_least=MIN_SPOTS)
        if pitch is not None:
            um = spots.pitch_um / pitch
            told = f"{um:.4g} µm by the pitch of spots, {spots.pitch_um:g} µm"
            return um, f"{x} and {y} have units of {told}"
    if um != 1 or _KNOWN_UNIT.search(x):
        return um, None
    return um, (
        f"{x} and {y} have no unit: taken as micrometres; give another one with --um-per-unit"
    )


def _near(places: pd.DataFrame, array: pd.DataFrame) -> bool:
    """Whether two tables of (n_obs, 2) say the same place to within one."""
    values: NDArray[np.float64] = places.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    return bool((np.abs(values - array.to_numpy(float)) <= 1).all())
