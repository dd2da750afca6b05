"""Open an AnnData, whatever holds it: obs, var, the place of its counts, its positions.

h5ad, AnnData Zarr and the tables of SpatialData differ in their containers only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cellplm.errors import InputError
from cellplm.ingest.readers import anndata_counts
from cellplm.ingest.readers.anndata_positions import Part, positions
from cellplm.ingest.readers.anndata_tables import table
from cellplm.ingest.readers.cell_marks import platform, unfit
from cellplm.ingest.readers.container import Container, is_array, item_at
from cellplm.ingest.source import Found, Modality, ReadOptions, Source

# Matrices of obsm that were measured and are no genes; embeddings are not worth a word.
MEASURED = re.compile(r"protein|antibod|(^|_)(adt|hto)|hashtag|grna|guide|chromvar|atac", re.I)


def open_anndata(
    container: Container, found: Found, options: ReadOptions, *, format: str
) -> Source:
    """Read obs and var, choose where the counts are.

    Raises:
        InputError: the container cannot be read, or its parts do not fit together.
        CountsError: no place holds raw counts.
    """
    path = container.path
    with container.opened() as root:
        refuse_no_anndata(root, path)
        obs = table(root, "obs", container)
        choice = anndata_counts.choose(root, container, options.counts)
        var = table(root, choice.var_key, container)
        matrix = choice.matrix
        if matrix.shape != (len(obs), len(var)):
            raise InputError(
                f"{path}: {choice.place} is {matrix.shape[0]} x {matrix.shape[1]}, but obs has "
                f"{len(obs)} and {choice.var_key} has {len(var)} rows"
            )
        anndata_counts.check(root, container, matrix)
        obsm, lost = _obsm(root)
        part = Part(container=container, root=root, obsm=obsm, obs=obs, platform=platform(obs))
        where = positions(part, options)
        notes = (*where.notes, *lost, *_left_out(obsm))
    modality: Modality = options.modality or ("srt" if where.coords_um is not None else "scrna")
    return Source(
        name=found.name,
        format=format,
        files=found.files,
        obs=obs,
        var=var,
        counts_from=choice.place,
        looked_in=choice.looked_in,
        modality=modality,
        platform=where.platform,
        coords_um=where.coords_um if modality == "srt" else None,
        spots=where.spots,
        unfit=unfit(obs),
        blocks=lambda: anndata_counts.blocks(container, matrix),
        warnings=notes,
    )


def refuse_no_anndata(root: Any, path: Path) -> None:
    """Refuse a file or folder that lacks obs or var.

    Raises:
        InputError: which one.
    """
    if "mod" in root and "obs" in root:
        raise InputError(
            f"{path}: a MuData, of several modalities; write the one with the RNA counts as a "
            f"file of its own (mdata.mod['rna'].write_h5ad)"
        )
    for name in ("obs", "var"):
        if name not in root:
            raise InputError(f"{path}: no {name!r} in it; an AnnData has obs and var")


def _obsm(root: Any) -> tuple[Any | None, tuple[str, ...]]:
    """obsm, or why there is none."""
    try:
        return item_at(root, "obsm"), ()
    except ValueError as error:
        # Records of several values a field, as anndata 0.6 wrote them: zarr 3 knows them not.
        return None, (f"obsm was left out: it cannot be read ({str(error)[:100]})",)


def _left_out(obsm: Any | None) -> tuple[str, ...]:
    """That measurements in obsm do not come in."""
    if obsm is None or is_array(obsm):
        return ()
    notes = []
    for key in sorted(obsm.keys()):
        if MEASURED.search(key):
            item = obsm[key]
            size = f" ({item.shape[1]} columns)" if is_array(item) and len(item.shape) == 2 else ""
            notes.append(f"obsm[{key!r}]{size} was left out: the matrix of genes alone is read")
    return tuple(notes)
