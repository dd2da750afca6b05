"""CosMx exports of AtoMx, and tables of transcripts, as they are written.

The files of the instrument's first releases are `write_cosmx` in tests/ingest/make.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.ingest.make import make_counts, write_text

TARGETS = ("CD3E", "MS4A1", "NegPrb3", "LYZ", "SystemControl7", "FalseCode2", "Negative05", "CD8A")
CELLS = tuple((fov, cell) for fov in (1, 12) for cell in (1, 2, 4, 5))
FOV_ORIGIN_PX = {1: (494.5, -160233.25), 12: (5966.75, -155977.25)}
UM_PER_PX = 0.120280945


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What an export calls its columns."""

    fov: str = "fov"
    number: str = "cell_ID"
    x: str = "CenterX_global_px"
    y: str = "CenterY_global_px"
    unit_px: float = 1.0
    """Pixels a unit of x and y."""


def local_px() -> NDArray[np.float64]:
    """(cells, 2) positions within the FOV."""
    return np.array([[100.5 * cell + fov, 4000.25 - 200 * cell] for fov, cell in CELLS])


def global_px() -> NDArray[np.float64]:
    """(cells, 2) positions on the slide, as before AtoMx."""
    return np.asarray(local_px() + np.array([FOV_ORIGIN_PX[fov] for fov, _ in CELLS]))


def write_atomx(
    folder: Path,
    *,
    prefix: str = "S2",
    slides: tuple[int, ...] = (2,),
    composite: tuple[str, ...] = ("exprMat", "metadata"),
    names: Names | None = None,
    positions: str = "global",
    gz: bool = False,
) -> NDArray[np.int64]:
    """An export of 8 cells a slide; the metadata stand in another order than the counts.

    Args:
        folder: to write to.
        prefix: of the files.
        slides: numbers of the slides in it.
        composite: the files that have a column "cell" with c_<slide>_<FOV>_<number>.
        names: of the columns.
        positions: "global", or "local": within the FOV only.
        gz: gzipped.

    Returns:
        (cells, targets) counts, slide after slide.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = names or Names()
    keys = [(slide, *cell) for slide in slides for cell in CELLS]
    counts = make_counts(len(keys), len(TARGETS), seed=4)
    end = ".csv.gz" if gz else ".csv"
    with_cell = "exprMat" in composite
    rows = [",".join([names.fov, names.number, *["cell"] * with_cell, *TARGETS])]
    for (slide, fov, cell), row in zip(keys, counts, strict=True):
        name = [f"c_{slide}_{fov}_{cell}"] * with_cell
        rows.append(",".join(map(str, [fov, cell, *name, *row])))
    write_text(folder / f"{prefix}_exprMat_file{end}", "\n".join(rows) + "\n")
    with_cell = "metadata" in composite
    x, y = (names.x, names.y) if positions == "global" else ("CenterX_local_px", "CenterY_local_px")
    header = [names.fov, "Area", x, y, names.number, *["cell"] * with_cell, "slide_ID"]
    xy = np.tile((global_px() if positions == "global" else local_px()) / names.unit_px, (4, 1))
    rows = [",".join(header)]
    for i in np.random.default_rng(2).permutation(len(keys)):
        slide, fov, cell = keys[i]
        name = [f"c_{slide}_{fov}_{cell}"] * with_cell
        rows.append(
            ",".join(map(str, [fov, 10 * i, repr(xy[i, 0]), repr(xy[i, 1]), cell, *name, slide]))
        )
    text = "\n".join(rows).replace("np.float64(", "").replace(")", "")
    write_text(folder / f"{prefix}_metadata_file{end}", text + "\n")
    return counts


def write_fov_positions(folder: Path, *, prefix: str = "S2", unit: str = "px") -> None:
    """The positions of the FOVs, in px as before AtoMx or in mm as in its later releases."""
    per_px = 1.0 if unit == "px" else UM_PER_PX / 1000
    x, y = ("x_global_px", "y_global_px") if unit == "px" else ("X_mm", "Y_mm")
    rows = [f"{'fov' if unit == 'px' else 'FOV'},{x},{y}"]
    rows += [f"{fov},{x * per_px!r},{y * per_px!r}" for fov, (x, y) in FOV_ORIGIN_PX.items()]
    write_text(folder / f"{prefix}_fov_positions_file.csv", "\n".join(rows) + "\n")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawn:
    """The transcripts of a table, by row.

    Attributes:
        fov, number, target: of each transcript; number 0 is outside of cells.
        xy: (n, 2) px on the slide.
    """

    fov: NDArray[np.int64]
    number: NDArray[np.int64]
    target: NDArray[np.str_]
    xy: NDArray[np.float64]

    def counts(self, targets: list[str], cells: list[tuple[int, int]]) -> NDArray[np.int64]:
        """(cells, targets), one transcript after the other."""
        out = np.zeros((len(cells), len(targets)), dtype=np.int64)
        for fov, number, target in zip(self.fov, self.number, self.target, strict=True):
            if number:
                out[cells.index((int(fov), int(number))), targets.index(str(target))] += 1
        return out


def write_tx(
    folder: Path,
    *,
    n: int = 400,
    seed: int = 0,
    shuffled: bool = False,
    local: bool = False,
    fovs: tuple[int, ...] = (1, 12, 3),
    gz: bool = False,
) -> Drawn:
    """A table of transcripts, one FOV after the other unless `shuffled`, cells in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    fov = np.sort(rng.integers(0, len(fovs), n))
    fov = np.array(fovs)[rng.permutation(fov) if shuffled else fov]
    drawn = Drawn(
        fov=fov,
        number=rng.choice([0, 1, 2, 3, 7, 11], n),
        target=rng.choice(TARGETS, n, p=[0.3, 0.2, 0.05, 0.25, 0.05, 0.05, 0.05, 0.05]),
        xy=rng.integers(0, 40000, (n, 2)) / 8,
    )
    middle = "local" if local else "global"
    rows = [f"fov,cell_ID,x_{middle}_px,y_{middle}_px,z,target,CellComp"]
    rows += [
        f"{f},{c},{x},{y},{i % 8},{t},{'Nuclear' if c else 0}"
        for i, (f, c, (x, y), t) in enumerate(
            zip(drawn.fov, drawn.number, drawn.xy.tolist(), drawn.target, strict=True)
        )
    ]
    write_text(folder / f"L9_tx_file.csv{'.gz' if gz else ''}", "\n".join(rows) + "\n")
    return drawn
