"""Read MERSCOPE exports of Vizgen: counts and metadata of the cells of one region.

Files, .csv or .csv.gz, in one folder; what stands before and behind the two names is equal:

- `cell_by_gene.csv`: a cell id, then one column a feature, counts (required);
- `cell_metadata.csv`: a cell id, fov, volume, center_x and center_y in µm, ... (required).

So `HumanBreast_cell_by_gene.csv` and `cell_by_gene_S1R1.csv` are known too. The id is called
EntityID, cell or nothing at all ("" and R's "X"), is as large as an int64 and is kept as text.
The two tables are joined by it, never by position: their rows stand in different orders.

`Blank-1` and the like are code words that no probe has. A column `Anti-*` is a protein; columns
of intensities (`*_raw`, `*_high_pass`) are measurements of the cell wherever they stand.
`detected_transcripts.csv`, boundaries and images are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.coords import coords_um
from cellplm.ingest.readers.cell_ids import id_texts, read_frame, refuse_repeated, rows_of
from cellplm.ingest.readers.delimited import Delimited
from cellplm.ingest.source import Found, Modality, ReadOptions, Source

FORMAT = "merscope"

NAME = re.compile(
    r"^(?P<prefix>.*?)[-_. ]?(?P<role>cell_by_gene|cell_metadata)[-_. ]?(?P<rest>[^.]*)"
    r"\.csv(\.gz)?$",
    re.I,
)
NOT_READ = re.compile(r"detected_transcripts(_.*)?\.(csv(\.gz)?|parquet)$", re.I)
# In lower case, the best first.
ID_NAMES = ("entityid", "cell_id", "cellid", "cell", "barcode", "barcodes", "", "x", "unnamed: 0")
REGION = re.compile(r"region[-_ ]?\w*", re.I)
BLANK = re.compile(r"blank(?![a-z])", re.I)
PROTEIN = re.compile(r"anti[-_]", re.I)
INTENSITY = re.compile(r".*_(raw|high_pass)$", re.I)
POSITIONS = ("center_x", "center_y")


def find(files: Sequence[Path]) -> list[Found]:
    """One data set for every table of counts, with the metadata of the same name."""
    by_name: dict[tuple[str, str], dict[str, Path]] = {}
    for path in files:
        if match := NAME.match(path.name):
            key = (match["prefix"], match["rest"])
            by_name.setdefault(key, {})[match["role"].lower()] = path
    return [
        Found(
            format=FORMAT,
            path=roles["cell_by_gene"],
            files=(roles["cell_by_gene"], *(p for r, p in roles.items() if r == "cell_metadata")),
            name="_".join(part for part in key if part) or _folder(roles["cell_by_gene"]),
        )
        for key, roles in by_name.items()
        if "cell_by_gene" in roles and (len(roles) == 2 or _shows(roles["cell_by_gene"]))
    ]


def refusal(path: Path) -> str | None:
    """Why a file named as of a MERSCOPE export is no data set."""
    if NOT_READ.search(path.name):
        return f"{path}: of a MERSCOPE export, and not read; its counts are in cell_by_gene.csv"
    match = NAME.match(path.name)
    if match is None or match["role"].lower() != "cell_metadata":
        return None
    return f"{path}: named as of a MERSCOPE export, but without its cell_by_gene.csv"


def open_source(found: Found, options: ReadOptions) -> Source:
    """Read the ids of the matrix and the metadata, and join them.

    With the modality "scrna", metadata may be missing.

    Raises:
        MissingFileError: there is no metadata file beside the matrix.
        InputError: a table has no ids or no positions, a cell stands twice or has no metadata.
    """
    layout = _layout(found.path)
    texts = layout.table.read_columns([layout.id_at, *layout.aside])
    cells = id_texts(texts[0])
    refuse_repeated(cells, found.path)
    modality: Modality = options.modality or "srt"
    notes: list[str] = []
    if len(found.files) > 1:
        obs, note = _metadata(found.files[1], cells, of=found.path)
        notes += note
    elif modality == "scrna":
        obs = pd.DataFrame(index=cells)
    else:
        raise MissingFileError(
            f"{found.path}: no {_other(found.path)} beside it; a MERSCOPE export has one, with the "
            f"positions of the cells. To read the counts alone, pass --modality scrna"
        )
    for i, column in zip(layout.aside, texts[1:], strict=True):
        obs[layout.table.columns[i]] = pd.to_numeric(pd.Series(column), errors="coerce").to_numpy()
    if modality == "srt" and options.coords is None and not set(POSITIONS) <= set(obs.columns):
        raise InputError(
            f"{found.files[1]}: no columns {' and '.join(POSITIONS)}; it has "
            f"{', '.join(map(str, obs.columns))}"
        )
    return Source(
        name=found.name,
        format=FORMAT,
        files=found.files,
        obs=obs,
        var=_var([layout.table.columns[i] for i in layout.features]),
        counts_from="cell_by_gene",
        looked_in=("cell_by_gene: one column a feature",),
        modality=modality,
        platform="MERSCOPE",
        coords_um=coords_um(obs, options, path=found.path) if modality == "srt" else None,
        blocks=lambda: layout.table.blocks(layout.features, axis="obs"),
        warnings=tuple(notes),
    )


def _shows(path: Path) -> bool:
    """Whether counts without metadata are of the instrument: others call tables so too."""
    match = NAME.match(path.name)
    if match is not None and not match["prefix"] and not match["rest"]:
        return True
    try:
        return any(BLANK.match(name) for name in Delimited.sniff(path).columns)
    except InputError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """The fields of the table of counts."""

    table: Delimited
    id_at: int
    features: tuple[int, ...]
    aside: tuple[int, ...]
    """Intensities, which are measurements of the cell."""


def _folder(path: Path) -> str:
    """The folder's name; a run has folders region_0, region_1, ..., so with the run's before."""
    folder = path.absolute().parent
    if REGION.fullmatch(folder.name) and folder.parent.name:
        return f"{folder.parent.name}_{folder.name}"
    return folder.name


def _other(path: Path) -> str:
    return re.sub("cell_by_gene", "cell_metadata", path.name, flags=re.I)


def _layout(path: Path) -> _Layout:
    table = Delimited.sniff(path)
    leading = len(_id_columns(table, stop=True))
    if not leading:
        raise InputError(
            f"{path}: no column of cell ids; a cell_by_gene table starts with EntityID or cell. It "
            f"starts with: {', '.join(table.columns[:5])}"
        )
    id_at = min(range(leading), key=lambda i: ID_NAMES.index(table.columns[i].lower()))
    aside = tuple(i for i, name in enumerate(table.columns) if INTENSITY.match(name))
    features = tuple(i for i in range(leading, len(table.columns)) if i not in set(aside))
    if not features:
        raise InputError(f"{path}: no column of a feature beside the cell ids")
    return _Layout(table=table, id_at=id_at, features=features, aside=aside)


def _id_columns(table: Delimited, *, stop: bool = False) -> list[int]:
    """Columns that may hold ids; with `stop`, those before the first other column."""
    at: list[int] = []
    for i, name in enumerate(table.columns):
        # Only as the first column is "X" what R calls a column without a name.
        if name.lower() in ID_NAMES and (i == 0 or name.lower() != "x"):
            at.append(i)
        elif stop:
            break
    return at


def _metadata(path: Path, cells: pd.Index[str], *, of: Path) -> tuple[pd.DataFrame, list[str]]:
    """The metadata of the cells, in the order of the matrix, and sentences about it."""
    table = Delimited.sniff(path)
    at = _id_columns(table)
    if not at:
        raise InputError(
            f"{path}: no column of cell ids; a cell_metadata table has EntityID or an unnamed "
            f"first column. It starts with: {', '.join(table.columns[:5])}"
        )
    at.sort(key=lambda i: ID_NAMES.index(table.columns[i].lower()))
    ids = [id_texts(column) for column in table.read_columns(at)]
    # An export through pandas has an unnamed counter before the ids: most matches win.
    best = max(range(len(at)), key=lambda i: int(ids[i].isin(cells).sum()))
    rows = rows_of(cells, ids[best], path=path, of=of)
    rest = [i for i in range(len(table.columns)) if i != at[best] and table.columns[i]]
    obs = read_frame(table, rest, n_rows=len(ids[best])).iloc[rows].set_axis(cells, axis=0)
    n_more = len(ids[best]) - len(cells)
    return obs, [f"{path.name}: {n_more} cells that have no counts were left out"] * bool(n_more)


def _var(names: list[str]) -> pd.DataFrame:
    types = [
        "Blank" if BLANK.match(name) else "Protein" if PROTEIN.match(name) else "Gene Expression"
        for name in names
    ]
    return pd.DataFrame({"feature_types": types}, index=pd.Index(names, dtype=object))
