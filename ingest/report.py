"""What an ingest says of everything that it found: docs/cli.md has it as JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """One data set that came in, or would."""

    name: str
    source: str
    format: str
    modality: str
    species: str
    platform: str
    n_obs: int
    n_kept: int
    n_vars: int
    n_genes: int
    nnz: int
    n_tissues: int
    counts_from: str
    tissue_rule: str
    excluded_cells: dict[str, int]
    features: dict[str, int]
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """One data set, or file, that did not come in, and why."""

    name: str
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """What happened to everything that was found."""

    snapshot: int | None
    ingested: tuple[Ingested, ...]
    skipped: tuple[Left, ...]
    refused: tuple[Left, ...]
    other_files: tuple[Left, ...]
