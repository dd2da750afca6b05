"""Which entries of a pack are hidden from the model and carry the loss.

A share of the cells is chosen; in each of these a share of the measured genes is hidden,
zeros included. The other cells stay intact and carry no loss. The draw depends on the
pack's key alone.

C cells, G measured genes, M masked cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cellplm.model.config import ModelConfig
from cellplm.model.draws import Key, generator_of

# Draws are made in chunks of this many entries; changing it changes every mask.
_DRAW = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Mask:
    """Hidden entries of a pack.

    Attributes:
        cells_M: (M,) int64, the masked cells, ascending.
        hidden_MG: (M, G) bool, true where the entry is hidden.
    """

    cells_M: Tensor
    hidden_MG: Tensor

    def n_hidden(self) -> int:
        """|A|: the entries that carry the loss."""
        # Not sum(): 50 times slower on a bool array (torch 2.13, CPU).
        return int(torch.count_nonzero(self.hidden_MG))

    def hides(self, rows: Tensor, columns: Tensor, n_cells: int) -> Tensor:
        """Whether each of the given entries is hidden.

        Args:
            rows: (n,) int64, cells of the pack.
            columns: (n,) int64, local genes.
            n_cells: C.

        Returns:
            (n,) bool.
        """
        n_masked = self.cells_M.numel()
        if n_masked == 0:
            return torch.zeros_like(rows, dtype=torch.bool)
        slot_C = torch.full((n_cells,), -1, dtype=torch.int64, device=rows.device)
        slot_C[self.cells_M] = torch.arange(n_masked, device=rows.device)
        slot = slot_C[rows]
        return self.hidden_MG[slot.clamp(min=0), columns] & (slot >= 0)


def draw_mask(
    n_cells: int, n_genes: int, config: ModelConfig, key: Key, device: torch.device | str = "cpu"
) -> Mask:
    """Draw the mask of a pack.

    Args:
        n_cells: C.
        n_genes: G, measured genes of the vocabulary.
        config: gives the two rates; `mask_cells` is met exactly (rounded), `mask_genes` is the
            probability of each entry, in steps of 2**-16.
        key: of the pack.
        device: where the mask is drawn and stays. Equal on equal devices.
    """
    generator = generator_of(key, "mask", device)
    n_masked = round(config.mask_cells * n_cells)
    order = torch.randperm(n_cells, generator=generator, device=device)
    cells_M = order[:n_masked].sort().values
    hidden = torch.empty(n_masked * n_genes, dtype=torch.bool, device=device)
    threshold = round(config.mask_genes * 2**16) - 2**15
    for start in range(0, hidden.numel(), _DRAW):
        chunk = hidden[start : start + _DRAW]
        # Four 16-bit numbers out of each 64-bit draw: a fourth of the time of one float each.
        words = torch.empty(-(-chunk.numel() // 4), dtype=torch.int64, device=device)
        words.random_(-(2**63), None, generator=generator)
        torch.lt(words.view(torch.int16)[: chunk.numel()], threshold, out=chunk)
    return Mask(cells_M=cells_M, hidden_MG=hidden.view(n_masked, n_genes))
