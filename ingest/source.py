"""What a reader hands on: one opened data set, and its counts as compressed blocks.

A reader is two functions. `find` looks at the entries of one folder (files, and Zarr folders,
which count as one file) and claims those that it knows together (a matrix and the metadata
beside it are one data set); `open_source` reads the small tables (obs, var) and returns a
`Source` whose `blocks` streams the counts. Blocks may run along cells (CSR files, cells x
genes tables) or along features (CSC files, genes x cells tables): nothing downstream cares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Axis = Literal["obs", "var"]
Modality = Literal["scrna", "srt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Some whole rows (axis "obs") or whole columns (axis "var") of a count matrix.

    Attributes:
        axis: what `indptr` runs along.
        start: the source row (or column) that the first entry of `indptr` belongs to.
        indptr: (n + 1,) int64, from 0.
        indices: (nnz,) int32 columns (or rows) in the source's own order; any order, no
            duplicates within one row (or column).
        data: (nnz,) the values as read, any numeric dtype; explicit zeros are allowed.
    """

    axis: Axis
    start: int
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    data: NDArray[Any]

    @property
    def n(self) -> int:
        """Rows (or columns) in this block."""
        return self.indptr.size - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One data set seen on disk, not opened yet."""

    format: str
    path: Path
    files: tuple[Path, ...]
    """Every file that belongs to it, `path` first; hashed into the provenance. They may lie in
    folders below or beside that of `path`; a Zarr folder stands for all that is in it."""
    beside: tuple[Path, ...] = ()
    """Files that belong to it and are not read, such as the same counts in another format: no
    data sets of their own, and not hashed."""
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """What a user may say about how a data set is to be read."""

    counts: str | None = None
    """A layer name, or "X" or "raw"; None: look in the usual places."""
    species: str | None = None
    modality: Modality | None = None
    coords: tuple[str, ...] | None = None
    """Where positions are: the x and the y column of obs, or the one key of obsm. None: look in
    the usual places."""
    um_per_unit: float | None = None
    """Micrometres a unit of the positions; None: what format, platform or column name say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One opened data set.

    Attributes:
        name: short, from the file or folder name.
        format: the reader's name.
        files: what it was read from.
        obs: one row a cell, index the cell names as strings (not necessarily unique).
        var: one row a feature, index the source's names as strings (not necessarily unique).
            A column "feature_id" holds stable ids where the source has them beside the names.
        counts_from: where the counts are, in the words of the format ("layers['counts']").
        looked_in: every place where counts were looked for, with what was found there.
        modality: "srt" where cells have coordinates.
        platform: the instrument, where the format tells ("CosMx").
        coords_um: (n_obs, 2) float32 micrometres, or None. One frame per slide.
        spots: whether a row is a place that holds several cells (Visium, ST), not one cell.
        unfit: reason -> (n_obs,) bool, rows that the source itself marks as no good cells; they
            stay in the part and belong to no tissue. A reason reads after a number of cells:
            "marked as invalid (Valid = 0)", "outside the tissue (in_tissue = 0)".
        blocks: starts a fresh pass over the counts. All blocks of a pass share one axis and
            cover it once, in order.
        warnings: sentences for the report.
    """

    name: str
    format: str
    files: tuple[Path, ...]
    obs: pd.DataFrame
    var: pd.DataFrame
    counts_from: str
    looked_in: tuple[str, ...] = ()
    modality: Modality = "scrna"
    platform: str = "unknown"
    coords_um: NDArray[np.float32] | None = None
    spots: bool = False
    unfit: Mapping[str, NDArray[np.bool_]] = field(default_factory=lambda: MappingProxyType({}))
    blocks: Callable[[], Iterator[Block]]
    warnings: tuple[str, ...] = field(default=())

    @property
    def n_obs(self) -> int:
        """Cells."""
        return len(self.obs)

    @property
    def n_vars(self) -> int:
        """Features."""
        return len(self.var)


class Reader(Protocol):
    """A module that knows one format."""

    FORMAT: str

    def find(self, files: Sequence[Path]) -> list[Found]:
        """Claim data sets among the entries of one folder that no earlier reader claimed."""

    def refusal(self, path: Path) -> str | None:
        """Why an entry that looks like this format is no data set, in one line that names it.

        None for one that is a data set, or that looks like another format.
        """

    def open_source(self, found: Found, options: ReadOptions) -> Source:
        """Open one of them.

        Raises:
            InputError: with one line that names the file and the fault.
        """
