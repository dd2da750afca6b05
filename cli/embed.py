"""`cellplm embed`: zero-shot embeddings of a file's cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cellplm.cli.console import DeviceOption, Json, Quiet, Verbose, emit, emit_json, watch


def embed(
    data: Annotated[Path, typer.Argument(help="A file or folder with one data set.")],
    checkpoint: Annotated[Path, typer.Option(help="A run or checkpoint folder.")],
    out: Annotated[Path, typer.Option("--out", help="The h5ad to write.")],
    context: Annotated[
        str | None, typer.Option(help="obs column whose cells are seen together.")
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Most cells seen together.")] = 2000,
    device: DeviceOption = "auto",
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Write a file's cells with their embeddings in obsm["X_cellplm"].

    Example: cellplm embed mine.h5ad --checkpoint runs/first --out embedded.h5ad
    """
    from cellplm.tasks.embed import embed_file

    with watch(verbose=verbose, quiet=quiet) as on_progress:
        done = embed_file(
            data,
            checkpoint,
            out,
            context=context,
            window=window,
            device=device,
            on_progress=on_progress,
        )
    if json:
        emit_json(done)
    elif not quiet:
        emit(
            f"{done['embedded']:,} of {done['cells']:,} cells, {done['width']} numbers each, "
            f'in obsm["X_cellplm"] of {out}'
        )
