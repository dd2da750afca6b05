"""`cellplm info`: what a corpus holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cellplm.cli.console import Json, Quiet, Verbose, emit, emit_json, watch
from cellplm.corpus.reader import Corpus
from cellplm.corpus.schema import FORMAT_VERSION

if TYPE_CHECKING:
    from cellplm.ingest.gene_report import GeneReport

SHOWN = 20
"""Names that a person sees of each list."""


def info(
    corpus: Annotated[Path, typer.Argument(help="A corpus.")],
    snapshot: Annotated[int | None, typer.Option(help="An earlier snapshot.")] = None,
    genes: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What became of the features of this data set."),
    ] = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Show a corpus: snapshot, data sets, cells, genes, tissues, bytes.

    Example: cellplm info corpus.zarr
    """
    if genes is not None:
        from cellplm.ingest.gene_report import gene_report

        with watch(verbose=verbose, quiet=quiet):
            report = gene_report(Corpus.open(corpus, snapshot=snapshot), genes)
        if json:
            emit_json(asdict(report))
        else:
            _show_genes(report)
        return
    with watch(verbose=verbose, quiet=quiet):
        values = describe(Corpus.open(corpus, snapshot=snapshot))
    if json:
        emit_json(values)
        return
    table = Table(title=f"{corpus}, snapshot {values['snapshot']}", title_justify="left")
    for column in ("data set", "modality", "platform", "species"):
        table.add_column(column)
    for column in ("cells", "kept", "features", "genes", "non-zeros", "tissues", "MB"):
        table.add_column(column, justify="right")
    for part in values["parts"]:
        words = [part[key] for key in ("name", "modality", "platform", "species")]
        keys = ("n_obs", "n_kept", "n_vars", "n_genes", "nnz", "n_tissues")
        sizes = [f"{part[key]:,}" for key in keys]
        table.add_row(*words, *sizes, f"{part['bytes'] / 1e6:,.1f}")
    emit(table)
    emit(
        f"{values['n_obs']:,} cells, {values['nnz']:,} non-zeros, {values['n_tissues']:,} tissues, "
        f"{values['n_genes']:,} genes, {values['bytes'] / 1e6:,.1f} MB"
    )


def describe(corpus: Corpus) -> dict[str, Any]:
    """The document of `info --json`."""
    genes: set[int] = set()
    parts = []
    modalities: Counter[str] = Counter()
    keys = ("n_obs", "n_kept", "n_vars", "n_genes", "nnz", "n_tissues")
    names = ("id", "name", "path", "modality", "platform", "species")
    for part in corpus.parts:
        entry = part.entry
        genes.update(part.index.gene_number[part.index.gene_number >= 0].tolist())
        modalities[entry.modality] += entry.n_obs
        values = {key: getattr(entry, key) for key in (*names, *keys)}
        parts.append({**values, "bytes": part.n_bytes})
    return {
        "snapshot": corpus.snapshot.snapshot,
        "format_version": FORMAT_VERSION,
        "corpus_id": corpus.corpus_id,
        "n_obs": sum(part["n_obs"] for part in parts),
        "n_genes": len(genes),
        "nnz": sum(part["nnz"] for part in parts),
        "n_tissues": sum(part["n_tissues"] for part in parts),
        "bytes": sum(part["bytes"] for part in parts),
        "modalities": dict(modalities),
        "parts": parts,
    }


def _show_genes(report: GeneReport) -> None:
    table = Table(title=f"{escape(report.name)}, {report.n_vars:,} features", title_justify="left")
    table.add_column("kind, or found by")
    table.add_column("features", justify="right")
    for name, n in report.kinds.items():
        table.add_row(name, f"{n:,}")
    table.add_section()
    for name, n in report.matches.items():
        table.add_row(name, f"{n:,}")
    emit(table)
    emit(
        f"{report.species}; {report.n_in_vocabulary:,} genes in the default vocabulary of "
        f"{report.n_vocabulary:,}"
    )
    if report.n_other_species:
        emit(f"{report.n_other_species:,} genes are of the other species")
    if report.n_orthologs:
        emit(f"{report.n_orthologs:,} mouse genes stand under the number of their human ortholog")
    for kind, n in report.other_types.items():
        emit(f"{n:,} features of the type {escape(kind)} are neither genes nor proteins")
    _list(
        "found under another name", [f"{r.name} → {r.symbol or r.gene_id}" for r in report.renamed]
    )
    _list(
        "ambiguous",
        [
            f"{a.name} ({', '.join(g.symbol or g.gene_id for g in a.genes[:3])}"
            f"{f' and {a.n_genes - 3:,} more' if a.n_genes > 3 else ''})"
            for a in report.ambiguous
        ],
    )
    _list(
        "second columns of a gene",
        [
            f"{d.name} (column {d.column:,}; {d.kept_name} in column {d.kept_column:,} counts)"
            for d in report.duplicates
        ],
    )
    _list("unknown", report.unmapped)
    _list("controls", report.controls)
    _list("proteins", report.proteins)


def _list(title: str, names: Sequence[str]) -> None:
    if names:
        more = f", … and {len(names) - SHOWN:,} more (--json lists all)"
        shown = ", ".join(names[:SHOWN]) + (more if len(names) > SHOWN else "")
        emit(escape(f"{title} ({len(names):,}): {shown}"))
