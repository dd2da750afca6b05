"""Decide everything about one data set, in the one pass that reads its counts.

Opens it, harmonises its genes, checks every count, finds its tissues and orders its rows.
What comes out is enough to report (`--dry-run`) and, with the counts in a stash, to write the
part; what is wrong with the data set is found here, while the corpus is still untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.manifest import SourceFile
from cellplm.errors import InputError
from cellplm.ingest import content
from cellplm.ingest.find import SOURCES
from cellplm.ingest.harmonise import Harmonised, harmonise
from cellplm.ingest.options import DataSetOptions
from cellplm.ingest.overlap import Cells, repeats
from cellplm.ingest.scan import Columns, OnRows, Scan, scan
from cellplm.ingest.sort import Layout, lay_out
from cellplm.ingest.source import Found, Source
from cellplm.ingest.stash import Stash
from cellplm.ingest.tissue import TissueRule, assign, order_within

ORDER_SEED = 0
"""Of the shuffle within a scRNA tissue: the same file always makes the same part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TissueTable:
    """T tissues of a part, in the order of its rows; see PartIndex."""

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    sample: NDArray[np.str_]
    fov: NDArray[np.str_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One data set, checked and laid out, with N cells and V features.

    Attributes:
        source: opened; its blocks have been read.
        sources: its files with sizes and hashes.
        genes: what each feature is.
        scanned: sums per source row.
        layout: destinations of rows.
        row_order: (N,) source rows in the part's order, cells without a tissue last.
        column_order: (V,) source columns in the part's order, genes first by their number.
        kept: (N,) bool in source order.
        tissues: in the part's order.
        rule: how samples and tissues were found.
        excluded: cells without a tissue, by reason.
        content: see ingest/content.py.
        warnings: sentences for the report.
    """

    source: Source
    sources: tuple[SourceFile, ...]
    genes: Harmonised
    scanned: Scan
    layout: Layout
    row_order: NDArray[np.int64]
    column_order: NDArray[np.int64]
    kept: NDArray[np.bool_]
    tissues: TissueTable
    rule: TissueRule
    excluded: dict[str, int]
    content: str
    warnings: tuple[str, ...]

    @property
    def cells(self) -> Cells:
        """How its cells are recognised, in the source's order."""
        return _cells(self.source, self.scanned)

    @property
    def nnz(self) -> int:
        """Stored counts."""
        return int(self.layout.indptr[-1])


def plan_data_set(
    found: Found,
    sources: Sequence[SourceFile],
    options: DataSetOptions,
    index: GeneIndex,
    folder: Path | None,
    budget: int,
    on_rows: OnRows,
) -> tuple[Planned, Stash]:
    """Open, check and lay out one data set.

    Args:
        found: what was seen on disk.
        sources: its hashed files.
        options: that hold for it.
        index: the corpus's genes.
        folder: for counts that do not fit in memory; None: they are only checked.
        budget: values that may be held in memory.
        on_rows: called with the rows (or columns) read so far.

    Returns:
        The plan, and the counts.

    Raises:
        InputError: with one line that names the file and the fault.
    """
    source = SOURCES[found.format].open_source(found, options.read)
    if source.n_obs == 0 or source.n_vars == 0:
        raise InputError(
            f"{found.path}: {source.n_obs} cells and {source.n_vars} features; nothing to ingest."
        )
    if source.spots and not options.allow_spots:
        raise InputError(
            f"{found.path}: its {source.n_obs:,} rows are spots that hold several cells each "
            f"({source.platform}), not cells; to take them in all the same, pass --allow-spots."
        )
    genes = _harmonise(found, source, options, index)
    rule = assign(source, tissue_key=options.tissue_key)
    if options.modality == "srt" and source.coords_um is None:
        raise InputError(
            f"{found.path}: --modality srt needs positions, and none were found "
            "(obsm['spatial'], or obs columns of the usual names)."
        )
    column_order = _column_order(genes)
    columns = Columns(
        target=np.argsort(column_order).astype(np.uint32),
        gene_hash=content.gene_hashes(list(genes.gene_id)),
        is_gene=genes.gene_number >= 0,
    )
    stash = Stash(
        folder,
        n_vars=source.n_vars,
        budget=budget,
        position_of=lambda: _positions(source, rule),
    )
    scanned = scan(source, columns, stash, on_rows)
    kept, excluded = _keep(source, rule, scanned, options)
    if not kept.any():
        told = ", ".join(f"{n:,} {reason}" for reason, n in excluded.items())
        lower = "; lower --min-counts or --min-cells if that is why" * ("fewer than" in told)
        raise InputError(f"{found.path}: every cell is excluded ({told}){lower}.")
    row_order, tissues = _order(source, rule, kept)
    planned = Planned(
        source=source,
        sources=tuple(sources),
        genes=genes,
        scanned=scanned,
        layout=lay_out(scanned.row_nnz, row_order),
        row_order=row_order,
        column_order=column_order,
        kept=kept,
        tissues=tissues,
        rule=rule,
        excluded=excluded,
        content=content.digest(scanned.content),
        warnings=(
            *source.warnings,
            *genes.warnings,
            *repeats(_cells(source, scanned)).sentences(),
            *_warnings(source, genes, scanned, options, index),
        ),
    )
    return planned, stash


def _cells(source: Source, scanned: Scan) -> Cells:
    return Cells(
        data_set=source.name,
        cell_hash=scanned.content,
        totals=scanned.library_size,
        names=pd.Index(source.obs.index.astype(str)),
        modality=source.modality,
    )


def _harmonise(
    found: Found, source: Source, options: DataSetOptions, index: GeneIndex
) -> Harmonised:
    try:
        return harmonise(
            source.var,
            species=options.species,
            index=index,
            map_orthologs=options.map_orthologs,
        )
    except InputError as error:
        raise type(error)(f"{found.path}: {error}") from None


def _order(
    source: Source, rule: TissueRule, kept: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], TissueTable]:
    rows = np.flatnonzero(kept)
    coords = None if source.coords_um is None else source.coords_um[rows]
    if source.modality != "srt":
        coords = None
    rows = rows[order_within(rule.tissue[rows], coords, ORDER_SEED)]
    codes = rule.tissue[rows]
    start = np.flatnonzero(np.diff(codes, prepend=codes[0] - 1))
    table = TissueTable(
        start=start.astype(np.int64),
        stop=np.append(start[1:], rows.size).astype(np.int64),
        sample=rule.sample[rows[start]].astype(np.str_),
        fov=rule.fov[rows[start]].astype(np.str_),
    )
    return np.concatenate([rows, np.flatnonzero(~kept)]), table


def _positions(source: Source, rule: TissueRule) -> NDArray[np.int64]:
    """(N,) position of each source row in the part if no cell were excluded for its counts."""
    kept = rule.tissue >= 0
    for unfit in source.unfit.values():
        kept &= ~unfit
    positions = np.empty(source.n_obs, dtype=np.int64)
    order = _order(source, rule, kept)[0] if kept.any() else np.arange(source.n_obs)
    positions[order] = np.arange(source.n_obs)
    return positions


def _column_order(genes: Harmonised) -> NDArray[np.int64]:
    number = genes.gene_number.astype(np.int64)
    rank = np.where(number >= 0, number, np.iinfo(np.int64).max)
    return np.argsort(rank, kind="stable")


def _keep(
    source: Source, rule: TissueRule, scanned: Scan, options: DataSetOptions
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which cells belong to a tissue, and how many do not, each by its first reason."""
    min_counts = max(1, options.min_counts)
    reasons: dict[str, NDArray[np.bool_]] = dict(source.unfit)
    reasons["with no counts"] = np.asarray(scanned.row_total == 0)
    reasons[f"with fewer than {min_counts} counts"] = np.asarray(scanned.row_total < min_counts)
    if source.modality == "srt" and source.coords_um is not None:
        placed = np.asarray(np.isfinite(source.coords_um).all(axis=1))
        reasons["without coordinates"] = ~placed
    kept = np.ones(source.n_obs, dtype=bool)
    excluded = {}
    for reason, applies in reasons.items():
        excluded[reason] = int(np.count_nonzero(kept & applies))
        kept &= ~applies
    if options.min_cells > 1:
        inside = np.where(kept, rule.tissue, -1)
        n_cells = np.bincount(inside[kept], minlength=1)
        few = kept & (n_cells[inside] < options.min_cells)
        excluded[f"in tissues of fewer than {options.min_cells} cells"] = int(few.sum())
        kept &= ~few
    return kept, {reason: n for reason, n in excluded.items() if n}


def _warnings(
    source: Source, genes: Harmonised, scanned: Scan, options: DataSetOptions, index: GeneIndex
) -> list[str]:
    out = []
    if options.counts is not None and options.counts not in source.counts_from:
        out.append(f"--counts {options.counts} was not used: counts from {source.counts_from}")
    n_genes = genes.counts.get("gene", 0)
    n_unmapped = genes.counts.get("unmapped", 0)
    if n_unmapped > n_genes:
        n_all = n_genes + n_unmapped
        out.append(f"only {n_genes:,} of {n_all:,} features were recognised as genes")
    numbers = genes.gene_number[genes.gene_number >= 0]
    if not (index.vocabulary[numbers] >= 0).any():
        out.append(
            f"no gene is in the default model vocabulary ({genes.species}); "
            "the default model will not see this data set"
        )
    if genes.ambiguous:
        shown = ", ".join(genes.ambiguous[:5]) + (" …" if len(genes.ambiguous) > 5 else "")
        out.append(f"ambiguous gene names left unmapped: {len(genes.ambiguous):,} ({shown})")
    if scanned.n_rounded:
        out.append(f"{scanned.n_rounded:,} values within 1e-6 of a whole number were rounded")
    return out
