"""MERSCOPE exports, as Vizgen's software writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.ingest.make import make_counts, write_text

FEATURES = ("PDK4", "CD4", "ICAM3", "Blank-1", "Blank-23", "CX3CL1")
# As large as the instrument's, and too close to each other for a float64.
FIRST_ID = 1606388400003100001
N_CELLS = 7
FOVS = (12, 12, 12, 3, 3, 3, 12)


def ids() -> list[str]:
    """The cells in the order of the counts."""
    return [str(FIRST_ID + i) for i in range(N_CELLS)]


def centers_um() -> NDArray[np.float64]:
    """(cells, 2), in the order of the counts."""
    return np.array([[10000.25 + 7 * i, 9000.5 - 11 * i] for i in range(N_CELLS)])


def write_merscope(
    folder: Path, *, before: str = "", behind: str = "", id_name: str = "EntityID", gz: bool = False
) -> NDArray[np.int64]:
    """The two tables of a region; the metadata stand in another order than the counts.

    Returns:
        (cells, features) counts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = make_counts(N_CELLS, len(FEATURES), seed=3)
    end = f"{behind}.csv.gz" if gz else f"{behind}.csv"
    rows = [f"{name},{','.join(map(str, row))}" for name, row in zip(ids(), counts, strict=True)]
    header = f"{'cell' if id_name == '' else id_name},{','.join(FEATURES)}"
    write_text(folder / f"{before}cell_by_gene{end}", "\n".join([header, *rows]) + "\n")
    order = np.random.default_rng(5).permutation(N_CELLS)
    header = f"{id_name},fov,volume,center_x,center_y,min_x,PolyT_raw,Anti-CD45_high_pass"
    xy = centers_um()
    meta = [
        f"{ids()[i]},{FOVS[i]},{100.5 + i},{x},{y},{x - 4},{1000 + i},{0.5 * i}"
        for i, (x, y) in zip(order, xy[order], strict=True)
    ]
    write_text(folder / f"{before}cell_metadata{end}", "\n".join([header, *meta]) + "\n")
    return counts
