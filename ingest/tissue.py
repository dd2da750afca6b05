"""Decide which rows make a tissue, and in which order its cells stand.

In spatial data a tissue is one field of view of one sample, or a tile of 512 µm where the
source knows no fields of view. In dissociated data it is one sample. Sample columns are
never combined: the first of `SAMPLE_COLUMNS` that really divides the cells is taken. They
stand from the specimen that was one suspension (sample, library) to what holds several
(donor, then batch), so that cells called one tissue were together in life.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.source import Source

SAMPLE_COLUMNS = (
    "sample_id", "sample", "sample_name", "sampleid", "slide_id", "slide", "slice", "section",
    "biosample_id", "library_id", "library", "lib", "channel", "orig.ident", "replicate",
    "bio_rep", "donor_id", "donor", "patient_id", "patient", "individual", "subject_id", "subject",
    "mouse_id", "mouse", "animal", "batch", "batch_id",
)  # fmt: skip
FOV_COLUMNS = ("fov", "fov_id", "field_of_view", "fov_name")

# A column with fewer cells a value than this is a cell name or a measurement, no sample.
MIN_CELLS_PER_SAMPLE = 10

TILE_UM = 512.0
MIN_CELLS = 50
MAX_CELLS = 10_000

HILBERT_BITS = 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TissueRule:
    """Which tissue every cell belongs to.

    Attributes:
        sample: (n_obs,) str, the sample (for spatial data the slide).
        fov: (n_obs,) str, field of view or tile; "" for dissociated cells.
        tissue: (n_obs,) int32 codes in order of first appearance; -1 for a cell that has
            no position where tissues are tiles.
        rule: how they were found, for the report.
    """

    sample: NDArray[np.str_]
    fov: NDArray[np.str_]
    tissue: NDArray[np.int32]
    rule: str


def assign(source: Source, *, tissue_key: str | None) -> TissueRule:
    """Group the cells of a source into tissues.

    Args:
        source: what was read.
        tissue_key: an obs column whose values are the tissues; None: look for one.

    Raises:
        InputError: there is no such column.
    """
    if tissue_key is not None and tissue_key not in source.obs.columns:
        known = ", ".join(str(c) for c in source.obs.columns) or "none"
        raise InputError(
            f"{source.files[0]}: obs has no column {tissue_key!r} to make tissues of; "
            f"its columns are: {known}"
        )
    if source.modality == "scrna":
        sample, rule = _sample(source, tissue_key)
        return TissueRule(
            sample=sample, fov=np.full(source.n_obs, "", "<U1"), tissue=_codes(sample), rule=rule
        )
    sample, sample_rule = _sample(source, None)
    column = tissue_key or _column(source.obs, FOV_COLUMNS)
    if column is not None:
        fov = _text(source.obs[column])
        tissue = _codes(sample, fov)
        rule = f"obs[{column!r}] within each sample ({sample_rule})"
        if tissue_key is None and source.coords_um is not None:
            tissue = _split_large(tissue, source.coords_um)
    elif source.coords_um is not None:
        fov = _tiles(_codes(sample), source.coords_um)
        tissue = _split_large(_codes(sample, fov), source.coords_um)
        tissue[fov == ""] = -1
        rule = f"tiles of {TILE_UM:.0f} µm within each sample ({sample_rule})"
    else:
        fov, tissue, rule = np.full(source.n_obs, "", "<U1"), _codes(sample), sample_rule
    return TissueRule(sample=sample, fov=fov, tissue=_in_order(tissue), rule=rule)


def order_within(
    tissue: NDArray[np.int32], coords_um: NDArray[np.float32] | None, rng_seed: int
) -> NDArray[np.int64]:
    """The permutation that puts cells in the order of the corpus.

    Args:
        tissue: (n,) codes; cells with a negative code go last, in their own order.
        coords_um: (n, 2) positions: cells of a tissue follow a Hilbert curve through its
            bounding square. None: they are shuffled.
        rng_seed: of the shuffle.

    Returns:
        (n,) source rows in the order they are written.
    """
    if coords_um is None:
        key = np.random.default_rng(rng_seed).permutation(tissue.size)
    else:
        key = _hilbert_within(tissue, coords_um)
    key = np.where(tissue < 0, 0, key)
    last = np.where(tissue < 0, np.iinfo(np.int32).max, tissue)
    return np.lexsort((np.arange(tissue.size), key, last))


def hilbert(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distance along the Hilbert curve of 2**16 x 2**16 points.

    Source: the bit-wise walk from the largest quadrant down, as in Hacker's Delight, ch. 16.
    """
    x, y = x.copy(), y.copy()
    distance = np.zeros_like(x)
    side = 1 << (HILBERT_BITS - 1)
    while side:
        right, up = (x & side) > 0, (y & side) > 0
        distance += side * side * ((3 * right) ^ up)
        x &= side - 1
        y &= side - 1
        flip = ~up & right
        x[flip], y[flip] = side - 1 - x[flip], side - 1 - y[flip]
        swap = ~up
        x[swap], y[swap] = y[swap], x[swap]
        side >>= 1
    return distance


def _sample(source: Source, key: str | None) -> tuple[NDArray[np.str_], str]:
    if key is not None:
        return _text(source.obs[key]), f"obs[{key!r}], as asked"
    lower = {str(c).lower(): str(c) for c in reversed(source.obs.columns)}
    single: str | None = None
    for name in SAMPLE_COLUMNS:
        if name not in lower:
            continue
        column = lower[name]
        values = _text(source.obs[column])
        n_values = len(pd.unique(values))
        if n_values > 1 and n_values * MIN_CELLS_PER_SAMPLE <= source.n_obs:
            return values, f"obs[{column!r}]"
        if n_values == 1 and single is None and values[0]:
            single = column
    if single is not None:
        return _text(source.obs[single]), f"one sample: obs[{single!r}] has one value"
    return np.full(source.n_obs, source.name), "one sample: no sample column"


def _column(obs: pd.DataFrame, wanted: tuple[str, ...]) -> str | None:
    lower = {str(c).lower(): str(c) for c in reversed(obs.columns)}
    return next((lower[name] for name in wanted if name in lower), None)


def _text(values: pd.Series[str]) -> NDArray[np.str_]:
    """Values as strings, missing ones as ""."""
    text = values.astype(object).where(values.notna(), "").astype(str)
    return text.to_numpy(dtype=np.str_)


def _codes(*columns: NDArray[np.str_]) -> NDArray[np.int32]:
    """Codes of the distinct combinations, in order of first appearance."""
    combined = pd.factorize(columns[0])[0].astype(np.int64)
    for column in columns[1:]:
        inner, values = pd.factorize(column)
        combined = combined * max(len(values), 1) + inner
    return pd.factorize(combined)[0].astype(np.int32)


def _in_order(tissue: NDArray[np.int32]) -> NDArray[np.int32]:
    out = np.full(tissue.size, -1, dtype=np.int32)
    inside = tissue >= 0
    out[inside] = pd.factorize(tissue[inside])[0]
    return out


def _tiles(sample: NDArray[np.int32], coords_um: NDArray[np.float32]) -> NDArray[np.str_]:
    """A tile name for every cell, "" without a position; thin tiles join a neighbour."""
    fov = np.full(sample.size, "", dtype="<U32")
    placed = np.isfinite(coords_um).all(axis=1)
    for code in range(int(sample.max(initial=-1)) + 1):
        rows = np.flatnonzero(placed & (sample == code))
        if rows.size == 0:
            continue
        steps = np.floor((coords_um[rows] - coords_um[rows].min(axis=0)) / TILE_UM)
        tiles, inverse, sizes = np.unique(
            steps.astype(np.int64), axis=0, return_inverse=True, return_counts=True
        )
        names = np.array([f"tile_{x}_{y}" for x, y in tiles])
        fov[rows] = names[_merge_thin(tiles, sizes)][inverse.ravel()]
    return fov


def _merge_thin(tiles: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The tile that stands for each tile, so that all but a lonely one have `MIN_CELLS`.

    Tiles are visited along a Hilbert curve, where the next one is mostly a neighbour: thin
    tiles are gathered until they are enough, a thin rest joins what came before.
    """
    walk = np.argsort(hilbert(tiles[:, 0], tiles[:, 1]), kind="stable")
    leader = np.empty(sizes.size, dtype=np.int64)
    first, filled, previous = -1, 0, -1
    for tile in walk:
        if first < 0:
            first, filled = int(tile), 0
        leader[tile] = first
        filled += int(sizes[tile])
        if filled >= MIN_CELLS:
            first, previous = -1, int(leader[tile])
    if first >= 0 and previous >= 0:
        leader[leader == first] = previous
    return leader


def _split_large(tissue: NDArray[np.int32], coords_um: NDArray[np.float32]) -> NDArray[np.int32]:
    """Halve tissues of more than `MAX_CELLS` across their longer side until none is left."""
    tissue = tissue.copy()
    n_codes = int(tissue.max(initial=-1)) + 1
    large = [int(code) for code in np.flatnonzero(np.bincount(tissue) > MAX_CELLS)]
    while large:
        code = large.pop()
        rows = np.flatnonzero(tissue == code)
        if rows.size <= MAX_CELLS:
            continue
        places = np.nan_to_num(coords_um[rows])
        axis = int(np.argmax(np.ptp(places, axis=0)))
        upper = np.argsort(places[:, axis], kind="stable")[rows.size // 2 :]
        tissue[rows[upper]] = n_codes
        large += [code, n_codes]
        n_codes += 1
    return tissue


def _hilbert_within(tissue: NDArray[np.int32], coords_um: NDArray[np.float32]) -> NDArray[np.int64]:
    """Hilbert distance of each cell in the bounding square of its own tissue."""
    code = np.where(tissue < 0, tissue.max(initial=-1) + 1, tissue).astype(np.int64)
    xy = np.nan_to_num(coords_um.astype(np.float64))
    n_codes = int(code.max(initial=-1)) + 1
    low, high = np.full((n_codes, 2), np.inf), np.full((n_codes, 2), -np.inf)
    np.minimum.at(low, code, xy)
    np.maximum.at(high, code, xy)
    side = np.maximum((high - low).max(axis=1, initial=0), 1e-9)
    steps = (xy - low[code]) / side[code, None] * ((1 << HILBERT_BITS) - 1)
    whole = np.clip(steps, 0, (1 << HILBERT_BITS) - 1).astype(np.int64)
    return hilbert(whole[:, 0], whole[:, 1])
