"""Read CosMx flat files, as the vendor's exports write them.

Files of one slide, .csv or .csv.gz, in one folder, with a common prefix and in any case:

- `*exprMat_file`: fov, cell_ID, one column a target, counts;
- `*metadata_file`: fov, cell_ID, CenterX_global_px, CenterY_global_px, ... (required beside it);
- `*fov_positions_file`: fov, x_global_px, y_global_px, or mm (read where the metadata have only
  positions within the FOV);
- `*tx_file`: fov, cell_ID, x_global_px, y_global_px, target, ...: one row a transcript. Read where
  there is no exprMat_file: then its transcripts are counted, and a cell without metadata is where
  its transcripts are on average.

`cell_ID` is unique within its FOV only, so a cell is known by the pair (ingest/readers/
cosmx_tables.py has the spellings). The tables are joined by it, never by position: the vendor does
not promise equal order. `cell_ID` 0 is not a cell but the transcripts outside all cells; such
rows are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.readers import transcripts
from cellplm.ingest.readers.cell_ids import read_frame
from cellplm.ingest.readers.cosmx_tables import (
    FOV,
    NUMBER,
    SLIDE,
    Keys,
    plain,
    positions,
    read_keys,
    refuse_repeated,
)
from cellplm.ingest.readers.delimited import Delimited
from cellplm.ingest.readers.kept import kept
from cellplm.ingest.source import Block, Found, Modality, ReadOptions, Source

FORMAT = "cosmx"

NAME = re.compile(
    r"^(?P<prefix>.*?)[-_. ]?(?P<role>exprMat|metadata|fov[-_.]positions|tx)[-_.]file"
    r"\.(csv(\.gz)?|parquet)$",
    re.I,
)
TYPES = (
    (re.compile(r"neg(prb|ative)", re.I), "Negative Control Probe"),
    (re.compile(r"systemcontrol", re.I), "System Control"),
    (re.compile(r"falsecode", re.I), "False Code"),
)


def find(files: Sequence[Path]) -> list[Found]:
    """One data set for every prefix that has a matrix or transcripts, with all of its files."""
    by_prefix: dict[str, list[Path]] = {}
    for path in files:
        if match := NAME.match(path.name):
            by_prefix.setdefault(match["prefix"], []).append(path)
    found = []
    for prefix, paths in by_prefix.items():
        main = _of(paths, "exprmat") or _of(paths, "tx")
        if main is not None:
            rest = sorted((p for p in paths if p != main), key=lambda p: (_role(p), p.name))
            unread = tuple(p for p in rest if _role(p) == "tx")
            found.append(
                Found(
                    format=FORMAT,
                    path=main,
                    files=(main, *(p for p in rest if p not in unread)),
                    beside=unread,
                    name=prefix or main.absolute().parent.name,
                )
            )
    return found


def refusal(path: Path) -> str | None:
    """Why a file named as of a CosMx export is no data set."""
    if NAME.match(path.name) is None:
        return None
    return f"{path}: a file of a CosMx export without its *exprMat_file.csv or *tx_file.csv"


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read the metadata and the cells of the matrix or of the transcripts, and join them.

    With the modality "scrna", metadata may be missing.

    Raises:
        MissingFileError: there is no metadata file beside the matrix.
        InputError: a key column lacks, a cell stands twice or has no metadata, or a table is
            damaged.
    """
    counts = _from_transcripts(found) if _role(found.path) == "tx" else _from_matrix(found)
    modality: Modality = options.modality or "srt"
    metadata, fovs = (_of(found.files, role) for role in ("metadata", "fov_positions"))
    notes = list(counts.warnings)
    if metadata is not None:
        obs, more = _metadata(metadata, counts.cells, of=found.path)
        notes += more
    elif counts.positions is not None or modality == "scrna":
        obs = _cells(counts.cells)
        obs = obs if counts.positions is None else obs.join(counts.positions)
    else:
        raise MissingFileError(
            f"{found.path}: no *metadata_file.csv beside it; a CosMx export has one, with the "
            f"positions of the cells. To read the counts alone, pass --modality scrna"
        )
    coords_um = None
    if modality == "srt":
        told = metadata or found.path
        obs, coords_um, more_notes = positions(obs, options=options, path=told, fovs=fovs)
        notes += more_notes
        if coords_um is None:
            raise InputError(
                f"{told}: no columns CenterX_global_px and CenterY_global_px, and no "
                f"fov_positions_file for those of the FOV; it has "
                f"{', '.join(map(str, obs.columns))}"
            )
    return Source(
        name=found.name,
        format=FORMAT,
        files=found.files,
        obs=obs,
        var=_var(counts.features),
        counts_from=counts.place,
        looked_in=(f"{counts.place}: {counts.told}",),
        modality=modality,
        platform="CosMx",
        coords_um=coords_um,
        blocks=counts.blocks,
        warnings=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Counts:
    """Where the counts come from.

    Attributes:
        cells: their rows.
        features: their columns.
        place, told: what it is called, and how it was read.
        positions: of the cells, columns of pixels; None where the metadata have to tell.
        blocks: see `Source`.
        warnings: see `Source`.
    """

    cells: Keys
    features: list[str]
    place: str
    told: str
    positions: pd.DataFrame | None = None
    blocks: Callable[[], Iterator[Block]]
    warnings: tuple[str, ...]


def _role(path: Path) -> str:
    match = NAME.match(path.name)
    return re.sub("[-.]", "_", match["role"].lower()) if match else ""


def _of(paths: Sequence[Path], role: str) -> Path | None:
    """The text file of this role."""
    texts = (p for p in paths if not p.name.lower().endswith(".parquet"))
    return next((p for p in texts if _role(p) == role), None)


def _from_matrix(found: Found) -> _Counts:
    table = Delimited.sniff(found.path)
    rows = read_keys(table)
    keep = rows.number != 0
    cells = rows.take(keep)
    refuse_repeated(cells.index(next(iter(cells.slide), None)), found.path)
    aside = {i for i, name in enumerate(table.columns) if plain(name) in (*FOV, *NUMBER, *SLIDE)}
    features = [i for i in range(len(table.columns)) if i not in aside and i != table.label_at]
    if not features:
        raise InputError(f"{found.path}: no column of a target beside fov and cell_ID")
    n_outside = int((~keep).sum())
    notes = (f"{n_outside} rows with cell_ID 0 (transcripts outside cells) were dropped",)
    return _Counts(
        cells=cells,
        features=[table.columns[i] for i in features],
        place="exprMat_file",
        told="one column a target",
        blocks=lambda: kept(table.blocks(features, axis="obs"), keep),
        warnings=notes if n_outside else (),
    )


def _from_transcripts(found: Found) -> _Counts:
    scanned = transcripts.scan(found.path)
    cells = Keys(fov=scanned.fov, number=scanned.number)
    n_all = scanned.n_transcripts + scanned.n_outside
    notes = [
        f"no exprMat_file: {scanned.n_transcripts} transcripts of {found.path.name} were counted "
        f"by cell and target"
    ]
    if scanned.n_outside:
        notes.append(
            f"{scanned.n_outside} of {n_all} transcripts with cell_ID 0 (outside cells) were "
            f"dropped"
        )
    if _of(found.files, "metadata") is None:
        notes.append("the position of a cell is the mean of those of its transcripts")
    return _Counts(
        cells=cells,
        features=list(scanned.targets),
        place="tx_file",
        told="transcripts by cell and target",
        positions=pd.DataFrame(
            scanned.mean_px, columns=list(scanned.position_columns), index=cells.names()
        ),
        blocks=lambda: transcripts.blocks(scanned),
        warnings=tuple(notes),
    )


def _cells(cells: Keys) -> pd.DataFrame:
    obs = pd.DataFrame({"fov": cells.fov, "cell_ID": cells.number}, index=cells.names())
    slide = next(iter(cells.slide.values()), None)
    if slide is not None and len(set(slide)) > 1:
        obs["slide_ID"] = slide
    return obs


def _metadata(path: Path, cells: Keys, *, of: Path) -> tuple[pd.DataFrame, list[str]]:
    """The metadata of the cells, in the order of the matrix, and sentences about it."""
    table = Delimited.sniff(path)
    keys = read_keys(table)
    # Two tables that number their slides in different ways cannot be joined by them.
    slide = next((kind for kind in keys.slide if kind in cells.slide), None)
    index, wanted = keys.index(slide), cells.index(slide)
    refuse_repeated(index, path)
    refuse_repeated(wanted, of)
    rows = index.get_indexer(wanted)
    if (rows < 0).any():
        *_, fov, number = wanted[rows < 0][0]
        raise InputError(
            f"{path}: {int((rows < 0).sum())} of {len(wanted)} cells of {of.name} are not in it, "
            f"such as cell {number} of FOV {fov}; the two files have to be of one export"
        )
    obs = _cells(cells if cells.slide else keys.take(np.asarray(rows, dtype=np.intp)))
    aside = {i for i in keys.columns if plain(table.columns[i]) not in SLIDE}
    rest = [
        i
        for i, name in enumerate(table.columns)
        if name and i not in aside and name not in obs.columns
    ]
    frame = read_frame(table, rest, n_rows=len(index)).iloc[rows]
    obs = pd.concat([obs, frame.set_axis(obs.index, axis=0)], axis=1)
    n_more = len(index) - int((keys.number == 0).sum()) - len(wanted)
    return obs, [f"{path.name}: {n_more} cells that have no counts were left out"] * bool(n_more)


def _var(names: list[str]) -> pd.DataFrame:
    types = [
        next((kind for pattern, kind in TYPES if pattern.match(name)), "Gene Expression")
        for name in names
    ]
    return pd.DataFrame({"feature_types": types}, index=pd.Index(names, dtype=object))
