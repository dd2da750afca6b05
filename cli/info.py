"""`cellplm info`: what a corpus holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cellplm.cli.console import Json, Quiet, Verbose, emit, emit_json, watch
from cellplm.corpus.reader import Corpus
from cellplm.corpus.schema import FORMAT_VERSION


def info(
    corpus: Annotated[Path, typer.Argument(help="A corpus.")],
    snapshot: Annotated[int | None, typer.Option(help="An earlier snapshot.")] = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Show a corpus: snapshot, data sets, cells, genes, tissues, bytes.

    Example: cellplm info corpus.zarr
    """
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
