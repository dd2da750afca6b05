"""Prove that what a source hands on are raw counts, over the whole matrix.

A sample of values may look whole and the rest not be, so every block passes through
`CountCheck` on its way to disk. Counts that a table writer spoiled a little
(0.999999999999999) are rounded and counted; anything further off is refused, with the first
place where it was seen and a guess at what it is.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cellplm.errors import CountsError, InputError
from cellplm.ingest import kernels
from cellplm.ingest.source import Block, Source

TOLERANCE = 1e-6
LARGEST = 2**32 - 1


def refuse(source: Source, block: Block, at: int, fault: int) -> NoReturn:
    """Say what is wrong with one value of a block.

    Args:
        source: of the block.
        block: as it was read.
        at: position in its data.
        fault: one of the faults of ingest/kernels.py.

    Raises:
        CountsError: it is no count.
        InputError: its index is out of range, or its cell and feature have another value.
    """
    check = CountCheck(source)
    if fault == kernels.FAULT_VALUE:
        check._refuse(block, at)
    if fault == kernels.FAULT_REPEAT:
        raise InputError(
            f"{source.files[0]}: {source.counts_from}: {check._place(block, at)} has two values; one "
            "entry a cell and feature was expected. Sum or drop the repeated ones"
        )
    bound = source.n_vars if block.axis == "obs" else source.n_obs
    raise InputError(
        f"{source.files[0]}: {source.counts_from}: an index is {block.indices[at]}, but there are "
        f"{bound} {'features' if block.axis == 'obs' else 'cells'}"
    )


# A diagnosis reads the source again to sum its cells; past this many values it goes without.
DIAGNOSE_VALUES = 64 * 2**20


class CountCheck:
    """Checks the blocks of one pass over one source, in any order.

    Attributes:
        n_rounded: values that were near a whole number and not one.
        max_value: the largest count so far.
    """

    def __init__(self, source: Source) -> None:
        """Start with no block seen."""
        self._source = source
        self.n_rounded = 0
        self.max_value = 0

    def add(self, block: Block) -> Block:
        """The block with its values as uint32 and without explicit zeros.

        Raises:
            CountsError: a value is negative, not finite, not whole or 2**32 and more.
            InputError: one (row, column) stands twice.
        """
        self._refuse_repeats(block)
        data = self._whole(block)
        indptr, indices = block.indptr, block.indices
        keep = data != 0
        if not keep.all():
            kept_before = np.zeros(data.size + 1, dtype=np.int64)
            np.cumsum(keep, out=kept_before[1:])
            indptr, indices, data = kept_before[indptr], indices[keep], data[keep]
        if data.size:
            self.max_value = max(self.max_value, int(data.max()))
        return Block(axis=block.axis, start=block.start, indptr=indptr, indices=indices, data=data)

    def _whole(self, block: Block) -> NDArray[np.uint32]:
        data = block.data
        if data.size == 0:
            return data.astype(np.uint32)
        if data.dtype == np.bool_ or np.issubdtype(data.dtype, np.integer):
            if data.min() < 0 or data.max() > LARGEST:
                self._refuse(block, int(np.argmax((data < 0) | (data > LARGEST))))
            return np.asarray(data, dtype=np.uint32)
        if not np.issubdtype(data.dtype, np.floating):
            raise CountsError(f"{self._where()}: values are of type {data.dtype}, not numbers")
        if data.dtype == np.float16:  # too narrow for the bounds below
            data = data.astype(np.float32)
        whole = np.rint(data)
        # A comparison with NaN is false, so "not within" catches it and infinity as well.
        with np.errstate(invalid="ignore"):
            good = (np.abs(data - whole) <= TOLERANCE) & (whole >= 0) & (whole < LARGEST + 1)
            good &= data >= -TOLERANCE
        if not good.all():
            self._refuse(block, int(np.argmax(~good)))
        self.n_rounded += int(np.count_nonzero(whole != data))
        return np.asarray(whole, dtype=np.uint32)

    def _refuse(self, block: Block, at: int) -> NoReturn:
        value = block.data[at]
        told = fault_of(block.data[at:]) or f"value {value:.6g}"
        guess = self._guess() if np.isfinite(value) and value >= 0 else ""
        looked = "; ".join(self._source.looked_in)
        raise CountsError(
            f"{self._where()}: not raw counts: value {value:.6g} at {self._place(block, at)}"
            f" ({guess or told}). "
            + (f"Looked in: {looked}. " if looked else "")
            + "Give the raw counts, or name where they are with --counts"
        )

    def _where(self) -> str:
        return f"{self._source.files[0]}: {self._source.counts_from}"

    def _place(self, block: Block, at: int) -> str:
        segment = block.start + int(np.searchsorted(block.indptr, at, side="right")) - 1
        other = int(block.indices[at])
        row, column = (segment, other) if block.axis == "obs" else (other, segment)
        cell, feature = self._source.obs.index[row], self._source.var.index[column]
        return f"cell {str(cell)!r}, feature {str(feature)!r}"

    def _refuse_repeats(self, block: Block) -> None:
        steps = np.diff(block.indices)
        ends = block.indptr[1:-1]
        within = np.ones(steps.size, dtype=bool)
        within[ends[(ends > 0) & (ends < block.indices.size)] - 1] = False
        if np.all(steps[within] > 0):
            return
        segment = np.repeat(np.arange(block.n, dtype=np.int64), np.diff(block.indptr))
        order = np.lexsort((block.indices, segment))
        same = (np.diff(block.indices[order]) == 0) & (np.diff(segment[order]) == 0)
        if same.any():
            at = int(order[int(np.argmax(same)) + 1])
            raise InputError(
                f"{self._where()}: {self._place(block, at)} has two values; one entry a cell and "
                f"feature was expected. Sum or drop the repeated ones"
            )

    def _guess(self) -> str:
        """What the whole matrix looks like, from the sums of its cells."""
        sums = np.zeros(self._source.n_obs)
        linear = np.zeros(self._source.n_obs)
        largest, n_values = 0.0, 0
        try:
            for block in self._source.blocks():
                n_values += block.data.size
                if n_values > DIAGNOSE_VALUES:
                    return ""
                segment = np.repeat(np.arange(block.n), np.diff(block.indptr)) + block.start
                row = segment if block.axis == "obs" else block.indices
                values = block.data.astype(np.float64)
                largest = max(largest, float(values.max(initial=0)))
                sums += np.bincount(row, values, minlength=sums.size)
                if largest < LOG_MAX:
                    linear += np.bincount(row, np.expm1(values), minlength=sums.size)
        except InputError:  # a second fault further on: the first one is told, without a guess
            return ""
        if (total := _one_total(sums)) is not None:
            name = "TPM or CPM" if abs(total - 1e6) < 1e3 else "normalised"
            return f"non-integer, every cell sums to {total:.6g}: {name}"
        if largest < LOG_MAX and (total := _one_total(linear)) is not None:
            return f"looks log-normalised: every cell sums to {total:.6g} after expm1"
        return ""


# log1p of the largest count anybody has is below this, and so are log2 and log10 of TPM.
LOG_MAX = 30.0


def fault_of(values: NDArray[Any]) -> str | None:
    """Why these values are no raw counts, in a few words; None if they may be.

    Args:
        values: any values of a matrix, zeros or none included.
    """
    if values.size == 0 or not np.issubdtype(values.dtype, np.floating):
        if values.size and np.issubdtype(values.dtype, np.signedinteger) and values.min() < 0:
            return "negative values"
        return None
    if not np.isfinite(values).all():
        return "not a number or infinite"
    if values.min() < -TOLERANCE:
        return "negative values: looks scaled or centred"
    off = np.abs(values - np.rint(values)) > TOLERANCE
    if off.any():
        example = f"{float(values[np.argmax(off)]):.4g}"
        if values.max() < LOG_MAX:
            return f"non-integer, such as {example}: looks log-normalised"
        return f"non-integer, such as {example}: looks normalised or estimated"
    if values.max() >= LARGEST + 1:
        return "values of 2**32 and more"
    return None


def _one_total(sums: NDArray[np.float64]) -> float | None:
    """The total that all cells with counts share to 0.1 %, if there are two such cells."""
    some = sums[sums > 0]
    if some.size < 2 or np.ptp(some) > 1e-3 * some.max():
        return None
    return float(np.median(some))
