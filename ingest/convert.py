"""Raw files into a corpus: plan every data set, then write and commit one after the other.

With on_error "fail" nothing is written until every data set was checked whole. A part is
complete and synced before the snapshot that names it; whatever stops the work before that
leaves the corpus as it was.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from dask.base import compute
from dask.delayed import delayed

from cellplm.corpus import index as part_index
from cellplm.corpus import manifest, schema
from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.index import PartIndex
from cellplm.corpus.manifest import PartEntry, Snapshot
from cellplm.corpus.reader import Corpus
from cellplm.corpus.writer import PartWriter, write_object
from cellplm.errors import ConflictError, InputError
from cellplm.ingest.find import find, why_not
from cellplm.ingest.lease import Lease
from cellplm.ingest.plan import IngestOptions, Planned, hash_sources, plan_data_set
from cellplm.ingest.report import Ingested, IngestReport, Left
from cellplm.ingest.sort import assemble, spill
from cellplm.ingest.source import Found
from cellplm.ingest.tables import obs_table, var_table
from cellplm.logs import OnProgress, Progress, ignore


def ingest_files(
    paths: Sequence[str | Path],
    out: str | Path,
    options: IngestOptions | None = None,
    *,
    dry_run: bool = False,
    on_progress: OnProgress = ignore,
) -> IngestReport:
    """Find data sets under `paths` and bring them into the corpus at `out`.

    Args:
        paths: files and folders.
        out: a corpus, or a path where none is yet.
        options: how to read and sort them.
        dry_run: only plan; nothing is written.
        on_progress: called now and then.

    Returns:
        What came in, what was skipped as already there, what was refused and why.

    Raises:
        InputError: a data set is refused and on_error is "fail"; nothing was written.
        NotACorpusError: `out` is something else.
    """
    options = options or IngestOptions()
    root = Path(out)
    corpus = Corpus.open(root) if root.exists() else None
    genes = corpus.genes if corpus else GeneIndex.bundled()
    known = _Known(corpus.snapshot if corpus else None, options.allow_duplicate)
    found, others = find([Path(path) for path in paths])
    if not found:
        listed = ", ".join(str(path) for path in paths)
        first = f" The first: {why_not(others[0])}" if others else ""
        raise InputError(f"{listed}: no data set found in {len(others)} files.{first}")
    ready: list[tuple[Found, Planned, float]] = []
    skipped: list[Left] = []
    refused: list[Left] = []
    for each in found:
        began = time.monotonic()
        try:
            planned = _plan(each, options, genes, known, on_progress)
        except _Skipped as skip:
            skipped.append(Left(name=each.name, source=str(each.path), reason=str(skip)))
        except InputError as error:
            if options.on_error == "fail":
                raise
            refused.append(Left(name=each.name, source=str(each.path), reason=str(error)))
        else:
            ready.append((each, planned, time.monotonic() - began))
    done: list[Ingested] = []
    snapshot = corpus.snapshot.snapshot if corpus else None
    if dry_run:
        done = [_describe(each, planned, s, planned.source.name) for each, planned, s in ready]
    elif ready:
        with Lease(root, genes) as lease:
            for each, planned, seconds in ready:
                began = time.monotonic()
                committed = _convert(root, planned, options, lease, on_progress)
                entry = committed.parts[-1]
                seconds += time.monotonic() - began
                done.append(_describe(each, planned, seconds, entry.name))
                snapshot = committed.snapshot
    return IngestReport(
        snapshot=snapshot,
        ingested=tuple(done),
        skipped=tuple(skipped),
        refused=tuple(refused),
        other_files=tuple(
            Left(name=path.name, source=str(path), reason=why_not(path)) for path in others
        ),
    )


class _Skipped(Exception):
    """The data set is in the corpus already."""


class _Known:
    """What the corpus holds, and what this run is about to add to it."""

    def __init__(self, snapshot: Snapshot | None, allow_duplicate: bool) -> None:
        self.allow_duplicate = allow_duplicate
        parts = snapshot.parts if snapshot else ()
        self.sources = {frozenset(s.sha256 for s in part.sources): part.name for part in parts}
        self.content = {part.content: part.name for part in parts}

    def check_sources(self, sources: Sequence[manifest.SourceFile]) -> None:
        name = self.sources.get(frozenset(source.sha256 for source in sources))
        if name and not self.allow_duplicate:
            raise _Skipped(f"already in as {name!r}: the same files")

    def check_content(self, planned: Planned) -> None:
        name = self.content.get(planned.content)
        if name and not self.allow_duplicate:
            raise _Skipped(f"already in as {name!r}: the same counts in every cell")
        self.content[planned.content] = planned.source.name
        self.sources[frozenset(s.sha256 for s in planned.sources)] = planned.source.name


def _plan(
    found: Found, options: IngestOptions, genes: GeneIndex, known: _Known, on_progress: OnProgress
) -> Planned:
    sources = hash_sources(found)
    known.check_sources(sources)
    what = f"check {found.name}"
    on_progress(Progress(what=what, done=0, total=0))
    on_rows = _counter(on_progress, what)
    planned = plan_data_set(found, sources, options, genes, on_rows)
    known.check_content(planned)
    return planned


def _counter(on_progress: OnProgress, what: str) -> Callable[[int], None]:
    def on_rows(done: int) -> None:
        on_progress(Progress(what=what, done=done, total=0))

    return on_rows


def _convert(
    root: Path,
    planned: Planned,
    options: IngestOptions,
    lease: Lease,
    on_progress: OnProgress,
) -> Snapshot:
    """Write one planned data set as a part, and commit it."""
    source = planned.source
    part_id = f"{_slug(source.name)}-{uuid.uuid4().hex[:12]}"
    lease.beat(part_id)
    writer = PartWriter(
        root,
        part_id,
        n_obs=source.n_obs,
        n_vars=source.n_vars,
        nnz=planned.nnz,
        max_count=planned.scanned.max_count,
        profile=options.profile,
    )
    try:
        report = _counter(on_progress, f"sort {source.name}")

        def along(done: int) -> None:
            lease.beat()
            report(done)

        folder = lease.spill / part_id
        folder.mkdir()
        files = spill(source, planned.layout, writer, folder, along)
        _assemble_all(files, planned, writer, options.workers, lease, on_progress)
        folder.rmdir()
        writer.write_indptr(planned.layout.indptr)
        coords = None
        if source.modality == "srt" and source.coords_um is not None:
            coords = source.coords_um[planned.row_order]
        obs = obs_table(planned)
        writer.write_tables(
            obs=obs,
            var=var_table(planned),
            coords_um=coords,
            provenance=_provenance(planned, options),
        )
        index = part_index.to_bytes(_index(planned, coords))
        index_ref = write_object(root, f"{schema.INDEX}/{part_id}.npz", index)
        objects_ref = writer.finish()
        entry = PartEntry(
            id=part_id,
            path=f"{schema.PARTS}/{part_id}",
            name=source.name,
            modality=source.modality,
            platform=source.platform,
            species=planned.genes.species,
            n_obs=source.n_obs,
            n_kept=int(planned.kept.sum()),
            n_vars=source.n_vars,
            n_genes=planned.genes.counts.get("gene", 0),
            nnz=planned.nnz,
            n_tissues=planned.tissues.start.size,
            content=planned.content,
            sources=planned.sources,
            index=index_ref,
            objects=objects_ref,
        )
        add = _add(entry, allow_duplicate=options.allow_duplicate)
        return manifest.commit(root, add, operation="ingest", writer=lease.write_id)
    except BaseException:
        # The commit may have landed before what failed: a part that is named stays.
        if all(part.id != part_id for part in manifest.latest(root).parts):
            writer.abandon()
        raise


def _assemble_all(
    files: Sequence[Path],
    planned: Planned,
    writer: PartWriter,
    workers: int,
    lease: Lease,
    on_progress: OnProgress,
) -> None:
    """Phase 3 of the sort: shards are independent tasks of a Dask graph."""
    finished = 0

    def one(number: int, path: Path) -> None:
        nonlocal finished
        assemble(number, path, planned.layout, writer)
        finished += 1
        lease.beat()
        what = f"write {planned.source.name}"
        on_progress(Progress(what=what, done=finished, total=len(files)))

    tasks = [delayed(one, pure=False)(k, path) for k, path in enumerate(files)]
    compute(*tasks, scheduler="threads", num_workers=workers)  # type: ignore[no-untyped-call]


def _add(entry: PartEntry, *, allow_duplicate: bool) -> manifest.Change:
    def change(parent: Snapshot) -> Snapshot:
        for part in parent.parts:
            if part.content == entry.content and not allow_duplicate:
                raise ConflictError(
                    f"{entry.name}: another writer has just committed the same data as "
                    f"{part.name!r}."
                )
        names = {part.name for part in parent.parts}
        name, number = entry.name, 2
        while name in names:
            name, number = f"{entry.name}-{number}", number + 1
        return replace(parent, parts=(*parent.parts, replace(entry, name=name)))

    return change


def _index(planned: Planned, coords_um: np.ndarray[Any, np.dtype[np.float32]] | None) -> PartIndex:
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


def _provenance(planned: Planned, options: IngestOptions) -> dict[str, Any]:
    source, genes = planned.source, planned.genes
    return {
        "engine": version("cellplm-engine"),
        "format": source.format,
        "sources": [asdict(each) for each in planned.sources],
        "options": asdict(options),
        "counts_from": source.counts_from,
        "looked_in": list(source.looked_in),
        "rounded_values": planned.scanned.n_rounded,
        "tissue_rule": planned.rule.rule,
        "excluded_cells": planned.excluded,
        "features": genes.counts,
        "mapped_by": genes.how,
        "ambiguous": list(genes.ambiguous),
        "warnings": list(planned.warnings),
    }


def _describe(found: Found, planned: Planned, seconds: float, name: str) -> Ingested:
    source, genes = planned.source, planned.genes
    return Ingested(
        name=name,
        source=str(found.path),
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
        seconds=round(seconds, 2),
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:40] or "part"
