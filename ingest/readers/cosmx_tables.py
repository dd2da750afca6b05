"""What the tables of a CosMx export call things: cells, slides and positions.

Every release of the instrument and of AtoMx spells its columns in another way (fov, FOV; cell_ID,
cell_id, CellId; CenterX_global_px, center_x_global_px, x_global_px; x_slide_mm), so names are
compared without case, underscores and dots.

A cell is known by its FOV and its number, which counts from 1 in every FOV; 0 is no cell. Newer
tables have `cell` (or `cell_id`) as well, "c_<slide>_<FOV>_<number>", of which the slide is
needed only where a table holds several.

Positions: AtoMx and the older exports write pixels of the whole slide. A table that has only
pixels within the FOV needs the fov_positions_file, in px or mm. In the exports before AtoMx a
position on the slide is that of the FOV plus that within it, on both axes (so in all 25,825
transcripts of GiottoData's Lung12). AtoMx counts y downwards within the FOV and upwards on the
slide (y_global_px + y_local_px is constant in a FOV in github.com/dcjones/proseg/issues/39), and
no file tells which release wrote it. So the sum is taken for all, with a warning: in an AtoMx
export it mirrors each FOV on its own y axis, and FOVs are tissues here, in which only distances
count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.coords import COSMX_UM_PER_PX, coords_um
from cellplm.ingest.readers.delimited import Delimited, read_small
from cellplm.ingest.source import ReadOptions

FOV = ("fov",)
NUMBER = ("cellid", "cell", "cellnumber")
SLIDE = ("slideid", "slide", "slideidnumeric")
COMPOSITE = r"^c_(\d+)_(\d+)_(\d+)$"

# Plain names, x of each pair; the first pair that a table has is taken.
GLOBAL_PX = ("centerxglobalpx", "xglobalpx", "centerxglobal")
GLOBAL_MM = ("centerxglobalmm", "xglobalmm", "xslidemm", "xmm")
LOCAL_PX = ("centerxlocalpx", "xlocalpx")
UM_PER_MM = 1000.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Keys:
    """The cells of a table.

    Attributes:
        fov: (n,) int64.
        number: (n,) int64, 0 for what is no cell.
        slide: by the kind of column that it comes from, (n,) str.
        columns: the columns that hold nothing but these.
    """

    fov: NDArray[np.int64]
    number: NDArray[np.int64]
    slide: Mapping[str, NDArray[np.object_]] = field(default_factory=lambda: MappingProxyType({}))
    columns: tuple[int, ...] = ()

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Keys:
        """Some of the rows."""
        return Keys(
            fov=self.fov[rows],
            number=self.number[rows],
            slide={kind: values[rows] for kind, values in self.slide.items()},
            columns=self.columns,
        )

    def index(self, kind: str | None = None) -> pd.MultiIndex:
        """(FOV, number) of each row, or (slide, FOV, number) with the slide of this kind."""
        parts = [self.fov, self.number]
        return pd.MultiIndex.from_arrays([self.slide[kind], *parts] if kind else parts)

    def names(self) -> pd.Index[str]:
        """The vendor's names of the cells, "c_<FOV>_<number>" where the slide is not needed."""
        names = "_" + pd.Series(self.fov).astype(str) + "_" + pd.Series(self.number).astype(str)
        kind, slide = next(iter(self.slide.items()), ("", np.zeros(0, dtype=object)))
        if kind == "cell" or len(set(slide)) > 1:
            names = "_" + pd.Series(slide).astype(str) + names
        return pd.Index("c" + names, dtype=object)


def plain(name: object) -> str:
    """A column's name as it is compared: without case, underscores, dots and spaces."""
    return re.sub(r"[\W_]+", "", str(name)).lower()


def key_columns(table: Delimited) -> tuple[int | None, int | None, int | None, int | None]:
    """Where FOV, number, composite id and slide are.

    Raises:
        InputError: the table does not name its cells.
    """
    fov = _first(table, FOV)
    slide = _first(table, SLIDE)
    number = composite = None
    for i, name in enumerate(table.columns):
        if plain(name) in NUMBER:
            if any(re.match(COMPOSITE, row[i].strip()) for row in table.head):
                composite = i if composite is None else composite
            elif number is None or plain(name) == NUMBER[0]:
                number = i
    if composite is None or (fov is not None and number is not None):
        for at, wanted in ((fov, "fov"), (number, "cell_ID")):
            if at is None:
                raise InputError(
                    f"{table.path}: no column {wanted!r}; a CosMx table has fov and cell_ID. It "
                    f"starts with: {', '.join(table.columns[:5])}"
                )
    return fov, number, composite, slide


def read_keys(table: Delimited) -> Keys:
    """The cells of every row.

    Raises:
        InputError: the table does not name its cells, or a row is damaged.
    """
    fov, number, composite, slide = key_columns(table)
    at = [i for i in (fov, number, composite, slide) if i is not None]
    texts = dict(zip(at, table.read_columns(at), strict=True))
    slides: dict[str, NDArray[np.object_]] = {}
    parts = None
    if composite is not None:
        parts = _composite(texts[composite], table.columns[composite], table.path)
        slides["cell"] = parts[0].astype(str).astype(object)
    if slide is not None:
        slides["slide"] = pd.Series(texts[slide], dtype=object).str.strip().to_numpy(dtype=object)
    if fov is None or number is None:
        assert parts is not None  # key_columns
        return Keys(fov=parts[1], number=parts[2], slide=slides, columns=tuple(at))
    return Keys(
        fov=_whole(texts[fov], "fov", table.path),
        number=_whole(texts[number], "cell_ID", table.path),
        slide=slides,
        columns=tuple(at),
    )


def refuse_repeated(index: pd.MultiIndex, path: Path) -> None:
    """Refuse cells that stand twice.

    Raises:
        InputError: which one it is.
    """
    if not index.is_unique:
        *_, fov, number = index[index.duplicated()][0]
        raise InputError(f"{path}: cell {number} of FOV {fov} stands twice")


def positions(
    obs: pd.DataFrame, *, options: ReadOptions, path: Path, fovs: Path | None
) -> tuple[pd.DataFrame, NDArray[np.float32] | None, tuple[str, ...]]:
    """The cells with their columns of positions under the usual names, and the positions.

    Args:
        obs: cells, with a column "fov".
        options: `coords` and `um_per_unit` go before what the columns say.
        path: the table, for messages.
        fovs: the fov_positions_file, if there is one.

    Returns:
        obs; (n_obs, 2) float32 µm, None if there are none; sentences on where they come from.

    Raises:
        InputError: a column that the user names, or the position of a FOV, is missing.
    """
    by_name = {plain(name): str(name) for name in reversed(obs.columns)}
    usual = ("CenterX_global_px", "CenterY_global_px")
    if (pair := _pair(by_name, GLOBAL_PX)) and not set(usual) <= set(obs.columns):
        obs = obs.rename(columns=dict(zip(pair, usual, strict=True)))
    if pair or options.coords is not None:
        return obs, coords_um(obs, options, path=path), ()
    if pair := _pair(by_name, GLOBAL_MM):
        return obs, _um(_numbers(obs, pair) * UM_PER_MM), ()
    pair = _pair(by_name, LOCAL_PX)
    if pair is None or fovs is None:
        return obs, None, ()
    origin_px = _fov_origins_px(fovs, obs["fov"].to_numpy())
    um_per_px = options.um_per_unit or COSMX_UM_PER_PX
    note = (
        f"{path.name} has only positions within the FOV: added to those of {fovs.name}, with y as "
        f"in exports before AtoMx; in later ones each FOV is mirrored"
    )
    return obs, _um((_numbers(obs, pair) + origin_px) * um_per_px), (note,)


def _first(table: Delimited, wanted: Sequence[str]) -> int | None:
    names = [plain(name) for name in table.columns]
    return next((names.index(name) for name in wanted if name in names), None)


def _pair(by_name: Mapping[str, str], wanted: Sequence[str]) -> tuple[str, str] | None:
    for x in wanted:
        y = x.replace("x", "y", 1)
        if x in by_name and y in by_name:
            return by_name[x], by_name[y]
    return None


def _numbers(table: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    values = table[list(columns)].apply(pd.to_numeric, errors="coerce")
    return np.asarray(values, dtype=np.float64)


def _um(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)


def _fov_origins_px(path: Path, fovs: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 2) the position of the FOV of each cell."""
    table = read_small(path)
    by_name = {plain(name): str(name) for name in reversed(table.columns)}
    px, mm = _pair(by_name, GLOBAL_PX), _pair(by_name, GLOBAL_MM)
    pair = px or mm
    if pair is None or FOV[0] not in by_name:
        raise InputError(
            f"{path}: no columns fov, x_global_px and y_global_px, or the same in mm; it has "
            f"{', '.join(map(str, table.columns))}"
        )
    numbers = _whole(list(table[by_name[FOV[0]]]), "fov", path)
    index = pd.Index(numbers)
    if not index.is_unique:
        raise InputError(f"{path}: FOV {index[index.duplicated()][0]} stands twice")
    rows = index.get_indexer(pd.Index(fovs))
    if (rows < 0).any():
        raise InputError(f"{path}: FOV {fovs[int(np.argmax(rows < 0))]} is not in it")
    um_per_unit = UM_PER_MM if pair is mm else COSMX_UM_PER_PX
    origins = _numbers(table, pair) * (um_per_unit / COSMX_UM_PER_PX)
    return np.asarray(origins[rows], dtype=np.float64)


def _composite(values: Sequence[str], name: str, path: Path) -> list[NDArray[np.int64]]:
    texts = pd.Series(values, dtype=object).str.strip()
    parts = texts.str.extract(COMPOSITE)
    bad = parts[0].isna().to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{path}: {name} is {values[row]!r} in data row {row + 1}; c_<slide>_<FOV>_<number> "
            f"was expected"
        )
    return [np.asarray(parts[i], dtype=np.int64) for i in range(3)]


def _whole(values: Sequence[Any], name: str, path: Path) -> NDArray[np.int64]:
    read = pd.to_numeric(pd.Series(list(values), dtype=object), errors="coerce")
    numbers = np.asarray(read, dtype=np.float64)
    # NaN compares as false; a float64 tells whole numbers apart up to 2**53.
    bad = ~((numbers >= 0) & (numbers < 2**53) & (np.floor(numbers) == numbers))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{path}: {name} is {values[row]!r} in data row {row + 1}; a whole number was expected"
        )
    return numbers.astype(np.int64)
