"""`cellplm ingest`: raw files into a corpus."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from cellplm.cli.console import Json, Quiet, Verbose, emit, emit_json, watch
from cellplm.errors import ConfigError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.options import IngestOptions, read_rules
from cellplm.ingest.report import IngestReport


def ingest(
    out: Annotated[Path, typer.Option("--out", help="The corpus: made, or added to.")],
    raw: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, archives and addresses (s3://, gs://, https://)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, write nothing.")] = False,
    manifest: Annotated[
        Path | None, typer.Option(help="datasets.toml with options of single data sets.")
    ] = None,
    tissue_key: Annotated[
        str | None,
        typer.Option(help="obs column that names the sample (srt: the field of view) of a cell."),
    ] = None,
    species: Annotated[
        Literal["human", "mouse"] | None, typer.Option(help="Found if not given.")
    ] = None,
    map_orthologs: Annotated[
        bool,
        typer.Option("--map-orthologs", help="Mouse genes count as their 1:1 human orthologs."),
    ] = False,
    modality: Annotated[
        Literal["scrna", "srt"] | None, typer.Option(help="Found from coordinates if not given.")
    ] = None,
    counts: Annotated[
        str | None, typer.Option(help="Where raw counts are: a layer's name, X or raw.")
    ] = None,
    coords: Annotated[
        str | None, typer.Option(help="Where positions are: two obs columns X,Y or a key of obsm.")
    ] = None,
    um_per_unit: Annotated[
        float | None, typer.Option(help="Micrometres a unit of the positions.")
    ] = None,
    allow_spots: Annotated[
        bool, typer.Option("--allow-spots", help="Take in spots that hold several cells (Visium).")
    ] = False,
    profile: Annotated[
        Literal["balanced", "fast"], typer.Option(help="Compression of the counts.")
    ] = "balanced",
    min_counts: Annotated[
        int, typer.Option(help="Cells with fewer counts are kept, but in no tissue.")
    ] = 5,
    min_cells: Annotated[
        int, typer.Option(help="Tissues with fewer cells are none; the cells are kept.")
    ] = 1,
    allow_duplicate: Annotated[
        bool, typer.Option("--allow-duplicate", help="Take in the same data a second time.")
    ] = False,
    on_error: Annotated[
        Literal["fail", "skip"],
        typer.Option(help="fail: one bad data set, and nothing comes in; skip: take the rest."),
    ] = "fail",
    atomic: Annotated[
        bool, typer.Option("--atomic", help="One snapshot for all data sets, at the end.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes; as many as cores (up to 8) if not given.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="tcp://… of a Dask scheduler whose workers do the work.")
    ] = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Find data sets of all known formats, check them, and add them to a corpus.

    Example: cellplm ingest ./raw --out corpus.zarr
    """
    rules = read_rules(manifest) if manifest else ()
    sources = raw or [str(rule.path) for rule in rules]
    if not sources:
        raise ConfigError("RAW: give files, folders or addresses, or a --manifest that names them.")
    options = IngestOptions(
        tissue_key=tissue_key,
        species=species,
        map_orthologs=map_orthologs,
        modality=modality,
        counts=counts,
        coords=tuple(coords.split(",")) if coords else None,
        um_per_unit=um_per_unit,
        allow_spots=allow_spots,
        profile=profile,
        min_counts=min_counts,
        min_cells=min_cells,
        allow_duplicate=allow_duplicate,
        on_error=on_error,
        atomic=atomic,
        workers=workers,
        scheduler=scheduler,
        rules=rules,
    )
    with watch(verbose=verbose, quiet=quiet) as on_progress:
        report = ingest_files(sources, out, options, dry_run=dry_run, on_progress=on_progress)
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
