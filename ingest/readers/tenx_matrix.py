"""One opened 10x matrix, and the data set that it makes together with its positions.

What the readers of MatrixMarket folders and of HDF5 files have in common once they have read
names; readers of other formats that keep their counts this way may use it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.ingest.readers import visium
from cellplm.ingest.source import Block, Found, ReadOptions, Source

BARCODE = r"^[ACGTN]{8,}-(\d+)$"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Matrix:
    """Counts with the names of their rows and columns.

    Attributes:
        barcodes: of the cells, N strings.
        var: one row a feature, see `Source.var`.
        place: where in its files the counts are.
        blocks: see `Source.blocks`.
        platform: that the file itself names, or "unknown".
        spots: whether the file itself says that its rows are spots.
        unfit: see `Source.unfit`.
        notes: sentences for the report.
    """

    barcodes: pd.Index[str]
    var: pd.DataFrame
    place: str
    blocks: Callable[[], Iterator[Block]]
    platform: str = "unknown"
    spots: bool = False
    unfit: Mapping[str, NDArray[np.bool_]] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()


def source_of(matrix: Matrix, found: Found, options: ReadOptions) -> Source:
    """The data set of a matrix, with positions where its files have some.

    Raises:
        InputError: see `visium.places`.
    """
    obs = cells(matrix.barcodes)
    places = visium.places(found.files, matrix.barcodes, options)
    if places is None:
        return _source(matrix, found, options, obs)
    return _source(matrix, found, options, pd.concat([obs, places.obs], axis=1), places)


def cells(barcodes: pd.Index[str]) -> pd.DataFrame:
    """A table of cells; `cellranger aggr` numbers libraries behind the barcodes: its column."""
    obs = pd.DataFrame(index=barcodes)
    if barcodes.empty or not re.match(BARCODE, barcodes[0]):
        return obs
    library = pd.Series(barcodes, dtype=object).str.extract(BARCODE, expand=False)
    if library.notna().all() and library.nunique() > 1:
        obs["library"] = library.to_numpy(dtype=object)
    return obs


def features(names: Sequence[str], ids: Sequence[str] | None) -> pd.DataFrame:
    """A table of features: by name, or by id where the name is empty."""
    if ids is None:
        return pd.DataFrame(index=pd.Index(list(names), dtype=object))
    shown = [name or id_ for name, id_ in zip(names, ids, strict=True)]
    return pd.DataFrame({"feature_id": list(ids)}, index=pd.Index(shown, dtype=object))


def _source(
    matrix: Matrix,
    found: Found,
    options: ReadOptions,
    obs: pd.DataFrame,
    places: visium.Places | None = None,
) -> Source:
    coords_um = places.coords_um if places else None
    modality = options.modality or ("scrna" if coords_um is None else "srt")
    return Source(
        name=found.name,
        format=found.format,
        files=found.files,
        obs=obs,
        var=matrix.var,
        counts_from=matrix.place,
        looked_in=(f"{matrix.place}: the only matrix of the data set",),
        modality=modality,
        platform=places.platform if places else matrix.platform,
        coords_um=coords_um if modality == "srt" else None,
        spots=places is not None or matrix.spots,
        unfit=MappingProxyType({**matrix.unfit, **(places.unfit if places else {})}),
        blocks=matrix.blocks,
        warnings=(*matrix.notes, *(places.notes if places else ())),
    )
