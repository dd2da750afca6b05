"""TissueStream: packs of tissue windows from a corpus, read ahead, resumable anywhere.

The plan says which rows; threads read the next packs through TensorStore (which releases
the interpreter) while the caller computes. State is five values, because the plan is a pure
function of them; it knows no ranks, so a run may resume with another number of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.plan import (
    Plan,
    PlanConfig,
    Split,
    deal,
    digest,
    plan_epoch,
    plan_in_order,
    tissues,
)
from cellplm.corpus.reader import Corpus
from cellplm.errors import ConfigError


class TissueStream(IterableDataset[TissueBatch]):
    """Yields the packs of one epoch at a time, in the plan's order.

    Iterating goes through the rest of the current epoch and leaves the stream at the start
    of the next. `steps` does the same a global step at a time.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: PlanConfig | None = None,
        *,
        seed: int = 0,
        split: Split = "train",
        in_order: bool = False,
        genes: NDArray[np.bool_] | None = None,
        rank: int = 0,
        world_size: int = 1,
        read_ahead: int = 3,
    ) -> None:
        """Read the index objects; nothing else is read yet.

        Args:
            corpus: pinned to its snapshot.
            config: how an epoch is cut.
            seed: of the run.
            split: which tissues.
            genes: by gene-index number, which ones the model knows: parts without any are left
                out; None for all.
            in_order: every tissue once in stored order, the same each epoch, for inference.
            rank: which share of each step this process takes.
            world_size: processes that share the steps.
            read_ahead: packs read before they are asked for.

        Raises:
            ConfigError: the config leaves no cells.
        """
        super().__init__()
        self.corpus = corpus
        self.config = config or PlanConfig()
        self.seed = seed
        self.split: Split = split
        self.in_order = in_order
        self.rank = rank
        self.world_size = world_size
        self.read_ahead = read_ahead
        self.epoch = 0
        self.steps_done = 0
        self._indices = [part.index for part in corpus.parts]
        self._tissues = tissues(corpus.snapshot, self._indices, self.config, genes)
        if self.plan().n_packs == 0:
            raise ConfigError(
                f"{corpus.path}: no cells left to stream (split {split}, modality "
                f"{self.config.modality}, min_window {self.config.min_window}"
                f"{', only parts with genes of the model' if genes is not None else ''})."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the batch labels, which `TissueBatch.batch_label` counts."""
        return self._tissues.labels

    @property
    def n_steps(self) -> int:
        """Global steps in the current epoch."""
        return self.plan().n_steps

    def plan(self) -> Plan:
        """The plan of the current epoch."""
        if self.in_order:
            return plan_in_order(self._tissues, self._indices, self.config)
        return plan_epoch(
            self._tissues,
            self._indices,
            self.config,
            seed=self.seed,
            epoch=self.epoch,
            split=self.split,
        )

    def __iter__(self) -> Iterator[TissueBatch]:
        """This rank's packs, from where the stream stands to the end of the epoch.

        A step counts as done once its last pack was handed out: state taken in the middle
        of one gives the whole step again.
        """
        for plan, step, packs in self._run():
            yield from packs[:-1]
            self._advance(plan, step)
            yield from packs[-1:]

    def steps(self) -> Generator[list[TissueBatch]]:
        """This rank's packs of one global step at a time; none where others took them all.

        State taken while a step is being worked on counts it as done.
        """
        for plan, step, packs in self._run():
            self._advance(plan, step)
            yield packs

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on from here, on any number of processes."""
        return {
            "corpus_id": self.corpus.corpus_id,
            "snapshot": self.corpus.snapshot.snapshot,
            "plan": digest(self.config, self.split),
            "seed": self.seed,
            "epoch": self.epoch,
            "steps_done": self.steps_done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ConfigError: it belongs to another corpus, snapshot, plan or seed.
        """
        mine = self.state_dict()
        keys = ("corpus_id", "snapshot", "plan", "seed")
        differ = [f"{k}: {state.get(k)!r} -> {mine[k]!r}" for k in keys if state.get(k) != mine[k]]
        if differ:
            raise ConfigError(
                f"{self.corpus.path}: the saved stream is not this one ({'; '.join(differ)})."
            )
        self.epoch = int(state["epoch"])
        self.steps_done = int(state["steps_done"])

    def _advance(self, plan: Plan, step: int) -> None:
        if step + 1 < plan.n_steps:
            self.steps_done = step + 1
        else:
            self.epoch, self.steps_done = self.epoch + 1, 0

    def _run(self) -> Iterator[tuple[Plan, int, list[TissueBatch]]]:
        """Read ahead and hand out (plan, step, packs) to the end of the epoch."""
        if get_worker_info() is not None:
            raise ConfigError(
                "TissueStream reads ahead on threads of its own; use DataLoader(num_workers=0)."
            )
        plan, epoch = self.plan(), self.epoch
        todo = range(self.steps_done, plan.n_steps)
        mine = {step: self._share(plan, step) for step in todo}
        ahead = iter([pack for step in todo for pack in mine[step]])
        waiting: deque[Future[TissueBatch]] = deque()
        pool = ThreadPoolExecutor(max_workers=max(1, self.read_ahead), thread_name_prefix="stream")
        try:
            for step in todo:
                packs = []
                for _ in mine[step]:
                    while len(waiting) <= self.read_ahead:
                        pack = next(ahead, None)
                        if pack is None:
                            break
                        waiting.append(pool.submit(self._read, plan, epoch, pack))
                    packs.append(waiting.popleft().result())
                yield plan, step, packs
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _share(self, plan: Plan, step: int) -> list[int]:
        packs = plan.packs_of_step(step)
        ranks = deal(plan.pack_cost[packs.start : packs.stop], self.world_size)
        return [pack for pack, rank in zip(packs, ranks, strict=True) if rank == self.rank]

    def _read(self, plan: Plan, epoch: int, pack: int) -> TissueBatch:
        """Read one pack: its windows one after the other."""
        windows = plan.windows_of_pack(pack)
        tissue = plan.window_tissue[windows.start : windows.stop]
        start = plan.window_start[windows.start : windows.stop]
        stop = plan.window_stop[windows.start : windows.stop]
        number = int(self._tissues.part[tissue[0]])
        part, index = self.corpus.parts[number], self._indices[number]
        rows = [part.read_rows(int(a), int(b)) for a, b in zip(start, stop, strict=True)]
        nnz = np.cumsum([0] + [len(each.data) for each in rows])
        first_tissue = int(np.searchsorted(self._tissues.part, number))
        local = tissue - first_tissue
        coords = extent = None
        if part.entry.modality == "srt":
            relative = [
                each.coords_um - index.tissue_origin_um[t]
                for each, t in zip(rows, local, strict=True)
                if each.coords_um is not None
            ]
            coords = torch.from_numpy(np.concatenate(relative))
            extent = torch.from_numpy(index.tissue_extent_um[local].max(axis=1))
        row = np.concatenate([np.arange(a, b) for a, b in zip(start, stop, strict=True)])
        return TissueBatch(
            indptr=torch.from_numpy(
                np.concatenate(
                    [[0], *(r.indptr[1:] + n for r, n in zip(rows, nnz[:-1], strict=True))]
                )
            ),
            indices=torch.from_numpy(_join([each.indices for each in rows])),
            counts=torch.from_numpy(_join([each.data for each in rows])),
            gene_ids=torch.from_numpy(index.gene_number),
            library_size=torch.from_numpy(index.library_size[row].astype(np.float32)),
            segments=torch.from_numpy(np.concatenate([[0], np.cumsum(stop - start)])),
            batch_label=torch.from_numpy(self._tissues.label[tissue]),
            tissue=torch.from_numpy(tissue),
            coords_um=coords,
            extent_um=extent,
            row=torch.from_numpy(row),
            part=part.entry.id,
            modality=part.entry.modality,
            key=(self.seed, epoch, pack),
        )


def _join(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
