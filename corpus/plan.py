"""Plan an epoch: tissues -> windows -> packs -> global steps. Pure arithmetic, no I/O.

A plan is a function of (snapshot, config, seed, epoch) and knows no ranks, workers or
batches in flight: any number of processes see the same steps, and only divide the packs
of each. So a run resumes anywhere from (snapshot, config, seed, epoch, steps done).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellplm.corpus.index import PartIndex
from cellplm.corpus.manifest import Snapshot
from cellplm.corpus.schema import NNZ_PREFIX_ROWS
from cellplm.errors import ConfigError

Split = Literal["train", "valid", "all"]

COST_PER_CELL = 1.0
COST_PER_NNZ = 0.002
COST_PER_ENTRY = 0.0001
"""A pack's cost is alpha cells + beta non-zeros + gamma cells x genes, in cells; set from the
share of a training step that attention, embedding and output layer take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """How an epoch is cut.

    Attributes:
        window: most cells that see each other at once.
        pack_cells: most cells in a pack; small windows of one part share a pack. 0: as `window`.
        pack_nnz: most stored counts in a pack.
        global_batch_packs: packs in one optimiser step, over all processes.
        min_window: windows with fewer cells are not trained on; 1 keeps every cell.
        valid_fraction: share of tissues held out for validation, by a hash of part and tissue
            that later data sets do not change.
        modality: only these parts; "all" for both.
        batch_label: what the decoder's batch label is: the tissue (sample, or FOV), or the sample
            (slide).
    """

    window: int = 2000
    pack_cells: int = 0
    pack_nnz: int = 20_000_000
    global_batch_packs: int = 4
    min_window: int = 1
    valid_fraction: float = 0.0
    modality: Literal["all", "scrna", "srt"] = "all"
    batch_label: Literal["tissue", "sample"] = "tissue"

    def __post_init__(self) -> None:
        """Check what a type cannot."""
        for name in ("window", "pack_nnz", "global_batch_packs", "min_window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} = {getattr(self, name)}: must be at least 1.")
        if self.pack_cells and self.pack_cells < self.window:
            raise ConfigError(
                f"data.pack_cells = {self.pack_cells}: less than data.window = {self.window}; "
                "a pack holds whole windows (0: as the window)."
            )
        if not 0 <= self.valid_fraction < 1:
            raise ConfigError(f"data.valid_fraction = {self.valid_fraction}: expected 0 <= x < 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tissues:
    """All tissues of a snapshot in manifest order, one row each; T in all.

    Attributes:
        part: (T,) int32 position of the part in the snapshot.
        start, stop: (T,) int64 rows in the part.
        is_srt: (T,) bool.
        usable: (T,) bool; false for every tissue of a part without a gene that the model knows.
        label: (T,) int64 row in `labels`.
        held_out: (T,) float64 in [0, 1): below the validation fraction means held out.
        labels: names of the batch labels, "part/sample" or "part/sample/fov".
    """

    part: NDArray[np.int32]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    is_srt: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    label: NDArray[np.int64]
    held_out: NDArray[np.float64]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One epoch: W windows in P packs in `n_steps` steps.

    Attributes:
        window_tissue: (W,) int64 tissue number of each window.
        window_start, window_stop: (W,) int64 rows in its part.
        pack_windows: (P + 1,) int64, pack p holds windows [pack_windows[p], pack_windows[p + 1]).
        pack_cost: (P,) float64, see COST_PER_CELL.
        global_batch_packs: packs a step; the last step may have fewer.
    """

    window_tissue: NDArray[np.int64]
    window_start: NDArray[np.int64]
    window_stop: NDArray[np.int64]
    pack_windows: NDArray[np.int64]
    pack_cost: NDArray[np.float64]
    global_batch_packs: int

    @property
    def n_packs(self) -> int:
        """Packs in the epoch."""
        return self.pack_cost.size

    @property
    def n_steps(self) -> int:
        """Global steps in the epoch."""
        return -(-self.n_packs // self.global_batch_packs)

    @property
    def n_cells(self) -> int:
        """Cells in the epoch, each exactly once."""
        return int((self.window_stop - self.window_start).sum())

    def packs_of_step(self, step: int) -> range:
        """Pack numbers of one global step."""
        first = step * self.global_batch_packs
        return range(first, min(self.n_packs, first + self.global_batch_packs))

    def windows_of_pack(self, pack: int) -> range:
        """Window numbers of one pack."""
        return range(int(self.pack_windows[pack]), int(self.pack_windows[pack + 1]))


def tissues(
    snapshot: Snapshot,
    indices: Sequence[PartIndex],
    config: PlanConfig,
    genes: NDArray[np.bool_] | None = None,
) -> Tissues:
    """The tissues of a snapshot, numbered in manifest order.

    Args:
        snapshot: names the parts.
        indices: the index object of each part, in that order.
        config: `batch_label` decides the labels.
        genes: by gene-index number, which ones the model knows; None for all.

    Returns:
        Every tissue, whatever the config filters.
    """
    names: dict[str, int] = {}
    label: list[int] = []
    held_out: list[float] = []
    for entry, index in zip(snapshot.parts, indices, strict=True):
        for sample, fov in zip(index.tissue_sample, index.tissue_fov, strict=True):
            tissue = f"{entry.name}/{sample}/{fov}" if fov else f"{entry.name}/{sample}"
            wanted = tissue if config.batch_label == "tissue" else f"{entry.name}/{sample}"
            label.append(names.setdefault(wanted, len(names)))
            held_out.append(_unit_hash(f"{entry.content}/{sample}/{fov}"))
    sizes = [index.n_tissues for index in indices]
    is_srt = [entry.modality == "srt" for entry in snapshot.parts]
    known = [genes is None or bool(genes[i.gene_number[i.gene_number >= 0]].any()) for i in indices]
    return Tissues(
        part=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        start=_concatenate([index.tissue_start for index in indices]),
        stop=_concatenate([index.tissue_stop for index in indices]),
        is_srt=np.repeat(np.array(is_srt, dtype=bool), sizes),
        usable=np.repeat(np.array(known, dtype=bool), sizes),
        label=np.array(label, dtype=np.int64),
        held_out=np.array(held_out, dtype=np.float64),
        labels=tuple(names),
    )


def plan_epoch(
    table: Tissues,
    indices: Sequence[PartIndex],
    config: PlanConfig,
    *,
    seed: int,
    epoch: int,
    split: Split = "train",
) -> Plan:
    """Cut and order one epoch of training.

    Args:
        table: from `tissues`.
        indices: the index object of each part, for non-zeros and genes.
        config: sizes and filters.
        seed: of the run.
        epoch: from 0; each has another order and other windows.
        split: which tissues.

    Returns:
        The same plan for the same arguments, on any machine.
    """
    rng = np.random.default_rng([seed, epoch, 0x9A7])
    chosen = _choose(table, config, split)
    tissue, start, stop = _windows(table, chosen, config.window, rng)
    keep = stop - start >= config.min_window
    tissue, start, stop = tissue[keep], start[keep], stop[keep]
    # Shuffled within each part, so that a pack's windows come from anywhere in it.
    order = np.lexsort((rng.random(tissue.size), table.part[tissue]))
    return _pack(table, indices, config, tissue[order], start[order], stop[order], rng)


def plan_in_order(table: Tissues, indices: Sequence[PartIndex], config: PlanConfig) -> Plan:
    """Every tissue once in stored order, cut into equal windows: for inference.

    The result depends on no seed: which cells are seen together is fixed.
    """
    chosen = _choose(table, config, "all")
    tissue, start, stop = _windows(table, chosen, config.window, None)
    return _pack(table, indices, config, tissue, start, stop, None)


def deal(pack_cost: NDArray[np.float64], n_ranks: int) -> NDArray[np.int64]:
    """Divide the packs of one step among ranks: the costliest first, to the least laden.

    Args:
        pack_cost: (B,) of the step's packs.
        n_ranks: processes.

    Returns:
        (B,) the rank of each pack; the same everywhere.
    """
    load = np.zeros(n_ranks)
    rank = np.empty(pack_cost.size, dtype=np.int64)
    for pack in np.argsort(-pack_cost, kind="stable"):
        rank[pack] = load.argmin()
        load[rank[pack]] += pack_cost[pack]
    return rank


def digest(config: PlanConfig, split: Split) -> str:
    """A short hash of all that shapes a plan, to notice a resume with another config."""
    text = json.dumps([asdict(config), split], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _choose(table: Tissues, config: PlanConfig, split: Split) -> NDArray[np.int64]:
    keep = table.usable.copy()
    if config.modality != "all":
        keep &= table.is_srt == (config.modality == "srt")
    if split != "all":
        keep &= (table.held_out < config.valid_fraction) == (split == "valid")
    return np.flatnonzero(keep)


def _windows(
    table: Tissues, chosen: NDArray[np.int64], window: int, rng: np.random.Generator | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut tissues into windows of at most `window` cells and, where cut, at least about half.

    With a generator the first cut falls at a random place, so that windows differ from epoch
    to epoch; rows are stored shuffled (scRNA) or along a Hilbert curve (SRT), so a window is a
    random sample, or a compact neighbourhood, either way.
    """
    n = table.stop[chosen] - table.start[chosen]
    first = np.where(n > window, np.minimum(window, -(-n // np.maximum(1, -(-n // window)))), n)
    if rng is not None:
        low = -(-window // 2)
        high = np.minimum(window, n - low)
        drawn = low + np.floor(rng.random(n.size) * (high - low + 1)).astype(np.int64)
        first = np.where(n > window, np.clip(drawn, 1, window), n)
    rest = n - first
    n_rest = -(-rest // window)
    owner = np.repeat(np.arange(n.size), n_rest + 1)
    within = np.arange(owner.size) - np.repeat(np.cumsum(n_rest + 1) - (n_rest + 1), n_rest + 1)
    # Window 0 is `first`; the others divide the rest equally.
    parts = np.maximum(n_rest[owner], 1)
    begin = np.where(within == 0, 0, first[owner] + (within - 1) * rest[owner] // parts)
    end = np.where(within == 0, first[owner], first[owner] + within * rest[owner] // parts)
    offset = table.start[chosen][owner]
    return chosen[owner], offset + begin, offset + end


def _pack(
    table: Tissues,
    indices: Sequence[PartIndex],
    config: PlanConfig,
    tissue: NDArray[np.int64],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    rng: np.random.Generator | None,
) -> Plan:
    """Put consecutive windows of a part into packs under the budgets, and order the packs."""
    cells = stop - start
    nnz = _nnz_between(table, indices, tissue, start, stop)
    first, last = _runs(
        table.part[tissue], cells, nnz, config.pack_cells or config.window, config.pack_nnz
    )
    order = np.arange(first.size) if rng is None else rng.permutation(first.size)
    first, last = first[order], last[order]
    size = last - first
    bounds = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    window = np.arange(bounds[-1]) - np.repeat(bounds[:-1], size) + np.repeat(first, size)
    genes = np.array([int((index.gene_number >= 0).sum()) for index in indices] or [0])
    cells_before = np.concatenate([[0], np.cumsum(cells)])
    nnz_before = np.concatenate([[0], np.cumsum(nnz)])
    pack_cells = cells_before[last] - cells_before[first]
    part = table.part[tissue[first]] if first.size else np.zeros(0, dtype=np.int32)
    return Plan(
        window_tissue=tissue[window],
        window_start=start[window],
        window_stop=stop[window],
        pack_windows=bounds,
        pack_cost=COST_PER_CELL * pack_cells
        + COST_PER_NNZ * (nnz_before[last] - nnz_before[first])
        + COST_PER_ENTRY * pack_cells * genes[part],
        global_batch_packs=config.global_batch_packs,
    )


def _runs(
    part: NDArray[np.int32],
    cells: NDArray[np.int64],
    nnz: NDArray[np.float64],
    max_cells: int,
    max_nnz: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Greedy runs of windows: as many as fit; a window over the budget stands alone."""
    cells_after, nnz_after = np.cumsum(cells), np.cumsum(nnz)
    part_end = np.searchsorted(part, part, side="right") if part.size else part
    firsts: list[int] = []
    position = 0
    while position < part.size:
        firsts.append(position)
        before_cells = cells_after[position] - cells[position]
        before_nnz = nnz_after[position] - nnz[position]
        stop = min(
            int(np.searchsorted(cells_after, before_cells + max_cells, side="right")),
            int(np.searchsorted(nnz_after, before_nnz + max_nnz, side="right")),
            int(part_end[position]),
        )
        position = max(stop, position + 1)
    first = np.array(firsts, dtype=np.int64)
    return first, np.append(first[1:], part.size).astype(np.int64)[: first.size]


def _nnz_between(
    table: Tissues,
    indices: Sequence[PartIndex],
    tissue: NDArray[np.int64],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Stored counts of row ranges, interpolated between the prefixes of every 1,024th row."""
    out = np.zeros(tissue.size)
    for number, index in enumerate(indices):
        mine = table.part[tissue] == number
        n_obs = index.library_size.size
        at = np.append(np.arange(0, n_obs, NNZ_PREFIX_ROWS), n_obs)
        prefix = index.nnz_prefix.astype(np.float64)
        out[mine] = np.interp(stop[mine], at, prefix) - np.interp(start[mine], at, prefix)
    return out


def _unit_hash(text: str) -> float:
    raw = hashlib.blake2b(text.encode(), digest_size=8).digest()
    # 53 bits: the float cannot round up to 1.
    return float((int.from_bytes(raw, "little") >> 11) / 2**53)


def _concatenate(arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)
