"""`cellplm ingest`: raw files into a corpus."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from cellplm.cli.console import Json, Quiet, Verbose, emit, emit_json, watch
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.plan import IngestOptions
from cellplm.ingest.report import IngestReport


def ingest(
    raw: Annotated[list[Path], typer.Argument(help="Files and folders to look in.")],
    out: Annotated[Path, typer.Option("--out", help="The corpus: made, or added to.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, write nothing.")] = False,
    tissue_key: Annotated[
        str | None,
        typer.Option(help="obs column that names the sample (srt: the field of view) of a cell."),
    ] = None,
    species: Annotated[str | None, typer.Option(help="human or mouse; found if not given.")] = None,
    modality: Annotated[
        Literal["scrna", "srt"] | None, typer.Option(help="Found from coordinates if not given.")
    ] = None,
    counts: Annotated[
        str | None, typer.Option(help="Where raw counts are: a layer's name, X or raw.")
    ] = None,
    profile: Annotated[
        Literal["balanced", "fast"], typer.Option(help="Compression of the counts.")
    ] = "balanced",
    min_counts: Annotated[
        int, typer.Option(help="Cells with fewer counts are kept, but in no tissue.")
    ] = 5,
    allow_duplicate: Annotated[
        bool, typer.Option("--allow-duplicate", help="Take in the same data a second time.")
    ] = False,
    on_error: Annotated[
        Literal["fail", "skip"],
        typer.Option(help="fail: one bad data set, and nothing is written; skip: take the rest."),
    ] = "fail",
    workers: Annotated[
        int | None, typer.Option(help="Processes; as many as cores (up to 8) if not given.")
    ] = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Find data sets (h5ad, csv/tsv tables, CosMx flat files), check them and add them to a corpus.

    Example: cellplm ingest ./raw --out corpus.zarr
    """
    options = IngestOptions(
        tissue_key=tissue_key,
        species=species,
        modality=modality,
        counts=counts,
        profile=profile,
        min_counts=min_counts,
        allow_duplicate=allow_duplicate,
        on_error=on_error,
        workers=workers,
    )
    with watch(verbose=verbose, quiet=quiet) as on_progress:
        report = ingest_files(raw, out, options, dry_run=dry_run, on_progress=on_progress)
    if json:
        emit_json(document(report, dry_run=dry_run))
    elif not quiet:
        _show(report, out, dry_run=dry_run)


def document(report: IngestReport, *, dry_run: bool) -> dict[str, Any]:
    """The report in the words of docs/cli.md."""
    values = asdict(report)
    if dry_run:
        values["planned"] = values.pop("ingested")
    return values


def _show(report: IngestReport, out: Path, *, dry_run: bool) -> None:
    if report.ingested:
        table = Table(title="planned" if dry_run else f"in {out}", title_justify="left")
        for column in ("data set", "format", "modality", "species"):
            table.add_column(column)
        for column in ("cells", "kept", "features", "genes", "tissues"):
            table.add_column(column, justify="right")
        for each in report.ingested:
            words = (each.name, each.format, each.modality, each.species)
            sizes = (each.n_obs, each.n_kept, each.n_vars, each.n_genes, each.n_tissues)
            table.add_row(*words, *(f"{n:,}" for n in sizes))
        emit(table)
    for each in report.ingested:
        emit(f"{each.name}: counts from {each.counts_from}; tissues: {each.tissue_rule}")
        for reason, n in each.excluded_cells.items():
            emit(f"{each.name}: {n:,} cells {reason} belong to no tissue")
        for warning in each.warnings:
            emit(f"{each.name}: {warning}")
    for left in report.skipped:
        emit(f"skipped {left.source}: {left.reason}")
    for left in report.refused:
        emit(f"refused {left.reason}")
    for left in report.other_files:
        emit(f"no data set: {left.reason}")
    if dry_run:
        emit("Nothing was written. Without --dry-run this goes in.")
    elif report.ingested:
        emit(f"snapshot {report.snapshot}. Next: cellplm pretrain {out}")
