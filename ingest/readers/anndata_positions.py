"""Where the cells of an AnnData lie, in micrometres, and whether they are cells at all.

Positions are taken from the first of

1. what the user names: two columns of obs, or one key of obsm;
2. columns of obs whose name tells the unit (`CenterX_global_px` of CosMx);
3. `obsm['global']` beside an obs column `fov`, which is how spatialdata-io writes CosMx: its
   `obsm['spatial']` counts from the corner of each field of view;
4. `obsm['spatial']`, `X_spatial` or `spatial_coords`, of which two columns are read;
5. the usual columns of obs, which are micrometres.

The unit of obsm is what the user says; pixels for CosMx; and for Visium follows from the pitch of
the spots, 100 µm. Space Ranger's `spot_diameter_fullres` is second choice: against the pitch
it is 65 µm in version 1 and 70 µm in version 3, in no case the 55 µm of a spot. Failing all
that, positions are taken for micrometres and it is said.

Spots, not cells, are rows of Visium (`array_row` and `array_col` in obs, or scale factors in
uns) and of any positions that lie on a lattice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.coords import COSMX_UM_PER_PX, coords_columns, coords_um
from cellplm.ingest.readers.anndata_tables import refuse_growth, table
from cellplm.ingest.readers.container import Container, group_at, is_array, item_at
from cellplm.ingest.readers.positions import MIN_SPOTS, Positions, settled
from cellplm.ingest.readers.spots import Spots, marked_spots, spots_on_lattice, visium
from cellplm.ingest.source import ReadOptions
from cellplm.ingest.spacing import lattice_pitch

OBSM_KEYS = ("spatial", "X_spatial", "spatial_coords")
SPATIALDATA_GLOBAL = "global"

VISIUM_DIAMETER_UM = 65.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """An open AnnData, as far as positions need it.

    Attributes:
        container: what it is in.
        root: its group.
        obsm: a group, before 0.7 an array of records; None where there is none.
        obs: its cells.
        platform: the instrument, as far as obs tells.
    """

    container: Container
    root: Any
    obsm: Any | None
    obs: pd.DataFrame
    platform: str


def positions(part: Part, options: ReadOptions) -> Positions:
    """Find the positions, their unit, and spots among them.

    Args:
        part: what is open.
        options: `coords` and `um_per_unit` go before everything that is found.

    Raises:
        InputError: what the user names is not there, or obsm does not fit obs.
    """
    obs, platform = part.obs, part.platform
    spots = marked_spots(obs, platform) or _scaled_spots(part)
    key = _obsm_key(part, options)
    um: NDArray[np.float32] | None
    notes: list[str] = []
    if key is None:
        um = coords_um(obs, options, path=part.container.path)
        if um is not None:
            spots = spots or spots_on_lattice(um, obs)
            notes += _columns_note(obs, options)
    else:
        xy = _obsm(part, key)
        placed = xy[np.isfinite(xy).all(axis=1)]
        if len(placed) == 0 or (len(placed) > 1 and not np.ptp(placed, axis=0).any()):
            um = None
            notes.append(f"obsm[{key!r}] was left out: its positions are all missing or the same")
        else:
            spots = spots or spots_on_lattice(xy, obs)
            if key == SPATIALDATA_GLOBAL:
                platform = "CosMx"
            factor, said = _um_per_unit(part, xy, spots, options, cosmx="cosmx" in platform.lower())
            with np.errstate(over="ignore"):
                um = (xy * factor).astype(np.float32)
            notes.append(f"obsm[{key!r}] {said}")
    return settled(um, spots, platform, notes, options)


def _obsm_key(part: Part, options: ReadOptions) -> str | None:
    """The key of obsm that holds the positions; None where columns of obs do, or nothing."""
    obsm, obs = part.obsm, part.obs
    names: list[str] = []
    if obsm is not None:
        names = list(obsm.dtype.names or ()) if is_array(obsm) else sorted(obsm.keys())
    if options.coords is not None:
        if len(options.coords) == 2:
            return None
        (key,) = options.coords
        if key not in names:
            raise InputError(
                f"{part.container.path}: no obsm[{key!r}] for the positions; obsm has: "
                f"{', '.join(names) or 'nothing'}. Two columns of obs can be named as well"
            )
        return key
    columns = coords_columns(obs)
    if columns is not None and columns[2] != 1:
        return None
    if SPATIALDATA_GLOBAL in names and "spatial" in names and "fov" in obs.columns:
        return SPATIALDATA_GLOBAL
    return next((key for key in OBSM_KEYS if key in names), None)


def _obsm(part: Part, key: str) -> NDArray[np.float64]:
    """(n_obs, 2) of obsm[key], in its own unit."""
    container, obsm, n_obs = part.container, part.obsm, len(part.obs)
    where = f"{container.path}: obsm[{key!r}]"
    assert obsm is not None
    item = obsm if is_array(obsm) else obsm[key]
    values: Any
    if is_array(item):
        refuse_growth(item, f"obsm/{key}", container.path, container.n_bytes)
        container.refuse_unwritten(item)
        values = item[:][key] if is_array(obsm) else item[:]
    elif "indptr" in item:
        raise InputError(f"{where} is sparse; positions are dense, ({n_obs}, 2)")
    else:
        frame = table(part.root, f"obsm/{key}", container).iloc[:, :2]
        kinds = [str(kind) for kind in frame.dtypes if not pd.api.types.is_numeric_dtype(kind)]
        if kinds:
            raise InputError(f"{where} holds {kinds[0]}, numbers were expected")
        values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    if values.ndim != 2 or values.shape[0] != n_obs or values.shape[1] < 2:
        raise InputError(f"{where} has the shape {values.shape}, ({n_obs}, 2) was expected")
    if values.dtype.kind not in "iuf":
        raise InputError(f"{where} holds {values.dtype}, numbers were expected")
    return np.asarray(values[:, :2], dtype=np.float64)


def _columns_note(obs: pd.DataFrame, options: ReadOptions) -> list[str]:
    """That columns which the user names, and nobody knows, are taken for micrometres."""
    if options.um_per_unit is not None or options.coords is None:
        return []
    if coords_columns(obs[list(options.coords)]) is not None:
        return []
    return [f"obs columns {' and '.join(options.coords)} have no unit: taken as micrometres"]


def _scaled_spots(part: Part) -> Spots | None:
    """Spots by the scale factors of an image."""
    # squidpy writes a spot diameter of 1 for cells, so it is no proof alone.
    diameters = [diameter for diameter, _ in _scalefactors(part.root).values()]
    if "in_tissue" in part.obs.columns and any(d is not None and d != 1 for d in diameters):
        return visium("uns['spatial'] has the scale factors of Visium spots")
    return None


def _um_per_unit(
    part: Part, xy: NDArray[np.float64], spots: Spots | None, options: ReadOptions, *, cosmx: bool
) -> tuple[float | NDArray[np.float64], str]:
    """Micrometres a unit, for all cells or (n_obs, 1), and what was taken for what."""
    if options.um_per_unit is not None:
        return options.um_per_unit, f"has units of {options.um_per_unit:g} µm, as asked"
    if spots is not None and spots.pitch_um is not None:
        by_library = _um_by_library(part, xy, spots.pitch_um)
        if by_library is not None:
            return by_library
    if cosmx:
        return COSMX_UM_PER_PX, f"of a CosMx set: taken as pixels of {COSMX_UM_PER_PX} µm"
    return 1.0, "has no unit: taken as micrometres"


def _um_by_library(
    part: Part, xy: NDArray[np.float64], pitch_um: float
) -> tuple[NDArray[np.float64], str] | None:
    """The unit of each library of spots, which may be pixels of another image each."""
    library, names = np.zeros(len(xy), dtype=np.int64), [""]
    if "library_id" in part.obs.columns:
        library, unique = pd.factorize(part.obs["library_id"].astype(str))
        names = [str(name) for name in unique]
    known = _scalefactors(part.root)
    only = next(iter(known.values())) if len(known) == 1 else (None, None)
    factors: list[float] = []
    said: list[str] = []
    for code, name in enumerate(names):
        diameter, microns = known.get(name, only)
        pitch = lattice_pitch(xy[library == code], at_least=MIN_SPOTS)
        if microns is not None:
            factors.append(microns)
            said.append(f"{microns:.4g} µm by microns_per_pixel")
        elif pitch is not None:
            factors.append(pitch_um / pitch)
            said.append(f"{factors[-1]:.4g} µm by the pitch of spots, {pitch_um:g} µm")
        elif diameter is not None and diameter != 1:
            factors.append(VISIUM_DIAMETER_UM / diameter)
            said.append(f"{factors[-1]:.4g} µm by spot_diameter_fullres, {VISIUM_DIAMETER_UM:g} µm")
        else:
            return None
    return np.array(factors)[library][:, None], f"has units of {'; '.join(dict.fromkeys(said))}"


def _scalefactors(root: Any) -> dict[str, tuple[float | None, float | None]]:
    """Library -> (spot_diameter_fullres, microns_per_pixel), as scanpy puts them into uns."""
    spatial = group_at(root, "uns/spatial")
    found = {}
    for library in spatial.keys() if spatial is not None else ():
        factors = group_at(spatial, f"{library}/scalefactors")
        if factors is not None:
            found[str(library)] = (
                _number(item_at(factors, "spot_diameter_fullres")),
                _number(item_at(factors, "microns_per_pixel")),
            )
    return found


def _number(item: Any | None) -> float | None:
    """A positive number that stands alone; None for everything else."""
    if item is None or not is_array(item) or item.shape != () or item.dtype.kind not in "iuf":
        return None
    value = float(np.asarray(item[()]))
    return value if np.isfinite(value) and value > 0 else None
