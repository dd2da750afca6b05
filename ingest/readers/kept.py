"""Leave out some segments of a matrix while its blocks go by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cellplm.ingest.source import Block


def kept(blocks: Iterable[Block], keep: NDArray[np.bool_]) -> Iterator[Block]:
    """The blocks without the segments that are not to be kept, and renumbered.

    Args:
        blocks: of one axis, in order.
        keep: a value a segment (a row where blocks are of rows).
    """
    start = 0
    for block in blocks:
        here = keep[block.start : block.start + block.n]
        if here.all():
            out = replace(block, start=start)
        else:
            lengths = np.diff(block.indptr)
            values = np.repeat(here, lengths)
            out = Block(
                axis=block.axis,
                start=start,
                indptr=np.append(0, np.cumsum(lengths[here])),
                indices=block.indices[values],
                data=block.data[values],
            )
        start += out.n
        yield out
