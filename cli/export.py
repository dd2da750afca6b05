"""`cellplm export`: a data set of a corpus as an h5ad file again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cellplm.cli.console import Json, Quiet, Verbose, emit, emit_json, watch
from cellplm.corpus.export import Compression, ExportOptions, export_part
from cellplm.corpus.reader import Corpus


def export(
    corpus: Annotated[Path, typer.Argument(help="A corpus.")],
    name: Annotated[str, typer.Argument(help="A data set of it, by name or id.")],
    out: Annotated[Path, typer.Option("--out", help="The h5ad to write.")],
    snapshot: Annotated[int | None, typer.Option(help="An earlier snapshot.")] = None,
    with_cellplm_columns: Annotated[
        bool,
        typer.Option(
            "--with-cellplm-columns",
            help="Keep gene ids, kinds, tissues, … as columns named cellplm_….",
        ),
    ] = False,
    compression: Annotated[
        Compression, typer.Option(help="none: several times faster, and several times larger.")
    ] = "gzip",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Write a data set back as h5ad: its counts, obs and var in the order of its source.

    Example: cellplm export corpus.zarr baron_h1 --out baron_h1.h5ad
    """
    options = ExportOptions(
        with_ours=with_cellplm_columns, compression=compression, overwrite=overwrite
    )
    with watch(verbose=verbose, quiet=quiet) as on_progress:
        done = export_part(
            Corpus.open(corpus, snapshot=snapshot), name, out, options, on_progress=on_progress
        )
    if json:
        emit_json(asdict(done))
    elif not quiet:
        emit(
            escape(
                f"{done.name}: {done.n_obs:,} cells x {done.n_vars:,} features, {done.nnz:,} "
                f"non-zeros as {done.dtype}, {done.bytes / 1e6:,.1f} MB in {done.out}"
            )
        )
