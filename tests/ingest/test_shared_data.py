"""Real data of many origins come in with the numbers of docs/formats.md, or are left for the
reasons there.

The tables of its section "Data sets that were tried" are what is expected, so that document and
code cannot part. Cells and features in them were held against the list that comes with the data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from cellplm.corpus.reader import Corpus
from cellplm.errors import InputError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.find import SOURCES
from cellplm.ingest.options import IngestOptions
from cellplm.ingest.report import Ingested, IngestReport
from tests.shared import SHARED, needs_shared

FORMATS = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
TAKEN = ("format", "modality", "species", "cells (kept)", "features (genes)", "tissues",
         "counts from")  # fmt: skip
LEFT = ("outcome", "why")
SPOTS = "Spots, with --allow-spots"
UNKNOWN = "no data set that can be read; known formats are"
"""Said of licences and notes, which the tables leave out."""

Rows = dict[str, tuple[str, ...]]
"""By the path below the folder of the data, the other cells of a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The tables below some headings."""

    taken: Rows
    left: Rows

    def of(self, folder: str) -> Expected:
        """What lies in one folder."""
        return Expected(taken=within(self.taken, folder), left=within(self.left, folder))


def within(rows: Rows, folder: str) -> Rows:
    """The rows of one folder."""
    return {path: row for path, row in rows.items() if path.split("/")[0] == folder}


def rows_of(text: str) -> Iterator[tuple[str, ...]]:
    """The cells of each line of each table, headers too."""
    for line in text.splitlines():
        if line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            yield tuple(cell.strip().replace(r"\|", "|") for cell in cells)


def read_tables(text: str) -> Expected:
    """The tables in a part of the document; a path may stand in one row only."""
    expected = Expected(taken={}, left={})
    into: Rows = {}
    for first, *rest in rows_of(text):
        if first == "file":
            into = {TAKEN: expected.taken, LEFT: expected.left}[tuple(rest)]
            continue
        path = first.strip("`")
        assert path not in expected.taken | expected.left, f"{path} stands there twice"
        into[path] = tuple(rest)
    return expected


TRIED = FORMATS.read_text(encoding="utf-8").split("\n## Data sets that were tried\n")[1]
PARTS = {part.split("\n")[0]: part for part in TRIED.split("\n### ")}
USUAL = read_tables("\n".join(part for title, part in PARTS.items() if title != SPOTS))
ALLOWED = read_tables(PARTS[SPOTS])

IN_TABLES = {path.split("/")[0] for path in USUAL.taken | USUAL.left}
ON_DISK = (
    {p.name for p in SHARED.iterdir() if p.is_dir() and not p.name.startswith("genes-")}
    if SHARED.is_dir()
    else set()
)


def row_of(one: Ingested) -> tuple[str, ...]:
    """What the tables say of a data set that comes in."""
    return (
        one.format,
        one.modality,
        one.species,
        f"{one.n_obs:,} ({one.n_kept:,})",
        f"{one.n_vars:,} ({one.n_genes:,})",
        f"{one.n_tissues:,}",
        one.counts_from,
    )


def below(source: str) -> str:
    """The path of a data set below the folder of the data."""
    return Path(source).relative_to(SHARED).as_posix()


def left_of(report: IngestReport) -> dict[str, tuple[str, str]]:
    """Outcome and reason of everything that does not come in."""
    return {
        below(left.source): (outcome, left.reason)
        for outcome, several in (
            ("refused", report.refused),
            ("skipped", report.skipped),
            ("no data set", report.other_files),
        )
        for left in several
        if UNKNOWN not in left.reason
    }


Plan = Callable[[str], IngestReport]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A dry run over one folder, done once."""
    nowhere = tmp_path_factory.mktemp("plan") / "none.zarr"

    @cache
    def planned(folder: str) -> IngestReport:
        options = IngestOptions(on_error="skip", workers=1)
        return ingest_files([SHARED / folder], nowhere, options, dry_run=True)

    return planned


def test_the_tables_know_only_formats_and_outcomes_that_there_are() -> None:
    assert {row[0] for row in (USUAL.taken | ALLOWED.taken).values()} <= set(SOURCES)
    outcomes = {row[0] for row in USUAL.left.values()}
    assert outcomes == {"refused", "skipped", "no data set"}
    assert all(why for _, why in USUAL.left.values())
    spots = {path for path, (_, why) in USUAL.left.items() if "rows are spots" in why}
    assert spots == set(ALLOWED.taken | ALLOWED.left)


@needs_shared
def test_every_folder_of_data_stands_in_the_tables() -> None:
    assert ON_DISK == IN_TABLES


@needs_shared
@pytest.mark.parametrize("folder", sorted(IN_TABLES | ON_DISK))
def test_what_a_folder_holds_comes_in_with_its_numbers(folder: str, plan: Plan) -> None:
    report = plan(folder)
    assert {below(one.source): row_of(one) for one in report.ingested} == USUAL.of(folder).taken


@needs_shared
@pytest.mark.parametrize("folder", sorted(IN_TABLES | ON_DISK))
def test_what_a_folder_holds_beside_is_left_for_its_reason(folder: str, plan: Plan) -> None:
    found, expected = left_of(plan(folder)), USUAL.of(folder).left
    assert {path: outcome for path, (outcome, _) in found.items()} == {
        path: row[0] for path, row in expected.items()
    }
    wrong = {path: why for path, (_, why) in found.items() if expected[path][1] not in why}
    assert not wrong


@needs_shared
@pytest.mark.parametrize("path", sorted(ALLOWED.taken))
def test_spots_come_in_where_they_are_allowed(path: str, tmp_path: Path) -> None:
    options = IngestOptions(allow_spots=True, workers=1)
    report = ingest_files([SHARED / path], tmp_path / "c.zarr", options)
    (one,) = report.ingested
    assert row_of(one) == ALLOWED.taken[path]
    (part,) = Corpus.open(tmp_path / "c.zarr").parts
    adata = part.to_anndata()
    assert adata.shape == (one.n_obs, one.n_vars)
    assert int((adata.X.data > 0).sum()) == one.nnz
    if one.modality == "srt":  # a file of counts alone has no positions
        assert adata.obsm["spatial"].shape == (one.n_obs, 2)


@needs_shared
@pytest.mark.parametrize("path", sorted(ALLOWED.left))
def test_spots_that_are_allowed_may_be_refused_for_another_reason(
    path: str, tmp_path: Path
) -> None:
    options = IngestOptions(allow_spots=True, workers=1)
    with pytest.raises(InputError) as caught:
        ingest_files([SHARED / path], tmp_path / "c.zarr", options)
    assert ALLOWED.left[path][1] in str(caught.value)
    assert not (tmp_path / "c.zarr").exists()
