"""Blocks: the windows of a pack, laid out for attention.

Cells attend only within their window. A loop over windows is slow for many small ones, and
one padded array is wasteful for a long one beside short ones. So windows of similar length
share a padded block. A padded place repeats the window's last cell: it is masked out of
every sum, and being a copy it cannot raise a maximum taken over the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A block takes in windows down to this share of its longest one.
_SHORTEST = 0.75
# Most windows of a block: performer-pytorch copies its projection for each window and head.
_MOST_WINDOWS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """Windows of a pack of C rows, in padded blocks of N windows by T places.

    Attributes:
        rows: for each block (N, T) int64, the row of the pack that stands in each place.
        real: for each block (N, T) bool, false for padding; None where nothing is padded.
        order: (C,) int64, the place of each row in the blocks laid end to end. Rows that belong
            to no window have the place after the last.
    """

    rows: tuple[Tensor, ...]
    real: tuple[Tensor | None, ...]
    order: Tensor


def blocks_of(segments: Sequence[int], n_rows: int, device: torch.device | str = "cpu") -> Blocks:
    """Lay out windows.

    Args:
        segments: (S + 1) ascending rows where the windows begin, the end of the last at the end.
        n_rows: C; rows from segments[-1] on are padding.
        device: where the tensors go.
    """
    starts = np.asarray(segments[:-1], dtype=np.int64)
    lengths = np.asarray(segments[1:], dtype=np.int64) - starts
    rows: list[Tensor] = []
    real: list[Tensor | None] = []
    order = np.full(n_rows, -1, dtype=np.int64)
    n_places = 0
    for windows in _similar(lengths):
        longest = int(lengths[windows].max())
        within = np.arange(longest)[None, :]
        is_real = within < lengths[windows, None]
        block = starts[windows, None] + np.minimum(within, lengths[windows, None] - 1)
        places = n_places + np.arange(block.size).reshape(block.shape)
        order[block[is_real]] = places[is_real]
        rows.append(torch.from_numpy(block).to(device))
        real.append(None if is_real.all() else torch.from_numpy(is_real).to(device))
        n_places += block.size
    order[order < 0] = n_places
    return Blocks(rows=tuple(rows), real=tuple(real), order=torch.from_numpy(order).to(device))


def _similar(lengths: NDArray[np.int64]) -> list[list[int]]:
    """Windows grouped by length, longest first; empty windows are left out."""
    groups: list[list[int]] = []
    for window in np.argsort(-lengths, kind="stable").tolist():
        if lengths[window] == 0:
            break
        last = groups[-1] if groups else []
        fits = last and lengths[window] >= _SHORTEST * lengths[last[0]]
        if fits and len(last) < _MOST_WINDOWS:
            last.append(window)
        else:
            groups.append([window])
    return groups
