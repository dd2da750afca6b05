"""The tasks of an ingest: what one worker does for one data set, or for some shards of it.

Tasks take and return paths, sizes and small tables, never counts, so they run in this process,
in others, and on the workers of a Dask cluster that see the same disk. A task may be run
again when its worker died: each attempt writes a part of its own, which `bring` marks in the
workplace before it begins, so that what dead attempts leave is found.

A data set whose counts fit in memory is read, sorted and written by one task. Of a larger one,
`bring` writes all but the shards; `write_from_files` is the task for those, and `finish` lists and
syncs the objects.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellplm.corpus import index as part_index
from cellplm.corpus import schema
from cellplm.corpus.columns import OBS_COLUMNS, VAR_COLUMNS, renamed
from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.index import PartIndex
from cellplm.corpus.manifest import ObjectRef, PartEntry, SourceFile
from cellplm.corpus.writer import PartWriter, hash_file, write_object
from cellplm.errors import InputError
from cellplm.ingest.options import DataSetOptions
from cellplm.ingest.overlap import Prints, prints
from cellplm.ingest.plan import Planned, plan_data_set
from cellplm.ingest.report import Ingested
from cellplm.ingest.sort import (
    Layout,
    rows_in_memory,
    rows_of_shard,
    shards_of,
    write_shard,
)
from cellplm.ingest.source import Found
from cellplm.ingest.stash import Piece, Stash, read_pieces, read_rows
from cellplm.ingest.tables import obs_table, var_table

ATTEMPTS = "attempts"
"""Folder of the workplace with an empty file for every part that was begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One data set to be brought into a corpus.

    Attributes:
        found: what was seen on disk.
        shown: what the user calls its path.
        sources: its hashed files.
        options: that hold for it.
        genes: the corpus's gene index; None: the bundled one.
        root: the corpus; None: only plan.
        workplace: for temporary files; seen by all workers.
        stash_values: counts that may be held in memory.
    """

    found: Found
    shown: str
    sources: tuple[SourceFile, ...]
    options: DataSetOptions
    genes: Path | None
    root: Path | None
    workplace: Path
    stash_values: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Shards:
    """What is left to do of a part whose counts lie in files.

    Attributes:
        layout: file of the part's `Layout`.
        files: of each shard, those that hold rows of it.
    """

    layout: Path
    files: tuple[tuple[Path, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Brought:
    """A data set that was planned and, unless it was a dry run, written.

    Attributes:
        told: for the report.
        content: of all its cells.
        prints: by which its cells are found again.
        entry: for the snapshot; its `objects` come from `finish`. None in a dry run.
        writer: of the part.
        shards: still to be written; None: all are.
    """

    told: Ingested
    content: str
    prints: Prints
    entry: PartEntry | None = None
    writer: PartWriter | None = None
    shards: Shards | None = None


def hash_sources(found: Found) -> tuple[SourceFile, ...]:
    """Size and sha256 of every file of a data set, by its path below their common folder.

    Raises:
        InputError: one cannot be read.
    """
    out = []
    for path in _all_files(found.files):
        try:
            size, sha256 = hash_file(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
        name = path.relative_to(found.path.parent) if found.path.parent in path.parents else path
        shown = name.as_posix() if not name.is_absolute() else path.name
        out.append(SourceFile(path=shown, size=size, sha256=sha256))
    return tuple(out)


def bring(job: Job, on_rows: Callable[[int], None] | None = None) -> Brought:
    """Read one data set, check all of it, and write its part as far as memory allows.

    Args:
        job: what and how.
        on_rows: called with the rows (or columns) read so far.

    Raises:
        InputError: with one line that names the file and the fault; nothing is left of it.
    """
    began = time.monotonic()
    part_id = f"{_slug(job.found.name)}-{uuid.uuid4().hex[:12]}"
    folder = job.workplace / part_id
    planned, stash = plan_data_set(
        job.found,
        job.sources,
        job.options,
        _gene_index(job.genes),
        None if job.root is None else folder,
        job.stash_values,
        on_rows or (lambda _: None),
    )
    told = _describe(job, planned)
    brought = Brought(told=told, content=planned.content, prints=prints(planned.cells))
    if job.root is not None:
        brought = _write(job, job.root, planned, stash, part_id, brought)
    stash.close()
    return replace(brought, told=replace(told, seconds=round(time.monotonic() - began, 2)))


def write_from_files(number: int, files: Sequence[Path], layout: Path, writer: PartWriter) -> None:
    """Task: write one shard, from the files that hold rows of it."""
    loaded = Layout.load(layout)
    rows = rows_of_shard(number, _read_all(files), loaded, writer)
    write_shard(number, rows, loaded, writer)


def finish(writer: PartWriter) -> ObjectRef:
    """Task: list, hash and sync every object of a part."""
    return writer.finish()


def attempts(workplace: Path) -> list[str]:
    """Ids of the parts that were begun in a workplace."""
    folder = workplace / ATTEMPTS
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def _write(
    job: Job, root: Path, planned: Planned, stash: Stash, part_id: str, brought: Brought
) -> Brought:
    """The part of a planned data set; without its shards where the stash went to disk."""
    source = planned.source
    (job.workplace / ATTEMPTS).mkdir(parents=True, exist_ok=True)
    (job.workplace / ATTEMPTS / part_id).touch()
    writer = PartWriter(
        root,
        part_id,
        n_obs=source.n_obs,
        n_vars=source.n_vars,
        nnz=planned.nnz,
        max_count=planned.scanned.max_count,
        profile=job.options.profile,
    )
    shards = None
    if stash.paths:
        shards = _leave(stash, planned.layout, writer)
    coords = None
    if source.modality == "srt" and source.coords_um is not None:
        coords = source.coords_um[planned.row_order]
    writer.write_tables(
        indptr=planned.layout.indptr,
        obs=obs_table(planned),
        var=var_table(planned),
        coords_um=coords,
        provenance=_provenance(job, planned),
    )
    index = part_index.to_bytes(_index(planned, coords))
    index_ref = write_object(root, f"{schema.INDEX}/{part_id}.npz", index)
    if shards is None:
        rows = rows_in_memory(stash, planned.layout)
        for number in range(writer.n_shards):
            write_shard(number, rows, planned.layout, writer)
    told = brought.told
    entry = PartEntry(
        id=part_id,
        path=f"{schema.PARTS}/{part_id}",
        name=source.name,
        modality=source.modality,
        platform=source.platform,
        species=told.species,
        n_obs=told.n_obs,
        n_kept=told.n_kept,
        n_vars=told.n_vars,
        n_genes=told.n_genes,
        nnz=told.nnz,
        n_tissues=told.n_tissues,
        content=planned.content,
        sources=planned.sources,
        index=index_ref,
        objects=ObjectRef(path="", sha256="") if shards else writer.finish(),
    )
    return replace(brought, entry=entry, writer=writer, shards=shards)


def _leave(stash: Stash, layout: Layout, writer: PartWriter) -> Shards:
    """Note for other tasks what of the stash each shard needs."""
    assert stash.folder is not None
    path = stash.folder / "layout.npz"
    layout.save(path)
    needs: list[list[Path]] = [[] for _ in range(writer.n_shards)]
    for file in stash.paths:
        shards = [shards_of(rows, layout, writer) for rows in read_rows(file)]
        for shard in np.unique(np.concatenate(shards)):
            needs[shard].append(file)
    return Shards(layout=path, files=tuple(tuple(each) for each in needs))


def _read_all(paths: Sequence[Path]) -> Iterator[Piece]:
    for path in paths:
        yield from read_pieces(path)


@lru_cache(maxsize=1)
def _gene_index(path: Path | None) -> GeneIndex:
    return GeneIndex.bundled() if path is None else GeneIndex.from_path(path)


def _all_files(files: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the files below them."""
    out: list[Path] = []
    for path in files:
        out += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return out


def _index(planned: Planned, coords_um: NDArray[np.float32] | None) -> PartIndex:
    table, indptr = planned.tissues, planned.layout.indptr
    origin = np.full((table.start.size, 2), np.nan, dtype=np.float32)
    extent = origin.copy()
    if coords_um is not None:
        for number, (start, stop) in enumerate(zip(table.start, table.stop, strict=True)):
            origin[number] = coords_um[start:stop].min(axis=0)
            extent[number] = coords_um[start:stop].max(axis=0) - origin[number]
    library_size = planned.scanned.library_size[planned.row_order]
    narrow = np.uint32 if library_size.max(initial=0) < 2**32 else np.uint64
    return PartIndex(
        tissue_start=table.start,
        tissue_stop=table.stop,
        tissue_nnz=indptr[table.stop] - indptr[table.start],
        tissue_sample=table.sample,
        tissue_fov=table.fov,
        tissue_origin_um=origin,
        tissue_extent_um=extent,
        nnz_prefix=part_index.nnz_prefix(indptr),
        gene_number=planned.genes.gene_number[planned.column_order].astype(np.int32),
        library_size=library_size.astype(narrow),
    )


def _provenance(job: Job, planned: Planned) -> dict[str, Any]:
    source, genes = planned.source, planned.genes
    return {
        "engine": version("cellplm-engine"),
        "format": source.format,
        "source": job.shown,
        "sources": [asdict(each) for each in planned.sources],
        "options": asdict(job.options),
        "counts_from": source.counts_from,
        "looked_in": list(source.looked_in),
        "rounded_values": planned.scanned.n_rounded,
        "tissue_rule": planned.rule.rule,
        "excluded_cells": planned.excluded,
        "features": genes.counts,
        "mapped_by": genes.how,
        "ambiguous": list(genes.ambiguous),
        "warnings": list(planned.warnings),
        "renamed_columns": {
            "obs": renamed(source.obs.columns, OBS_COLUMNS),
            "var": renamed(source.var.columns, VAR_COLUMNS),
        },
    }


def _describe(job: Job, planned: Planned) -> Ingested:
    source, genes = planned.source, planned.genes
    return Ingested(
        name=source.name,
        source=job.shown,
        format=source.format,
        modality=source.modality,
        species=genes.species,
        platform=source.platform,
        n_obs=source.n_obs,
        n_kept=int(planned.kept.sum()),
        n_vars=source.n_vars,
        n_genes=genes.counts.get("gene", 0),
        nnz=planned.nnz,
        n_tissues=planned.tissues.start.size,
        counts_from=source.counts_from,
        tissue_rule=planned.rule.rule,
        excluded_cells=planned.excluded,
        features=genes.counts,
        warnings=planned.warnings,
        seconds=0.0,
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:40] or "part"
