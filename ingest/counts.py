"""Say why what a source hands on are no raw counts.

A sample of values may look whole and the rest not be, so every value is checked on its way to
disk (ingest/scan.py). Counts that a table writer spoiled a little (0.999999999999999) are
rounded and counted there; anything further off is refused here, with the first place where it
was seen and a guess at what it is.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cellplm.errors import CountsError, InputError
from cellplm.ingest import kernels
from cellplm.ingest.kernels import LARGEST, TOLERANCE
from cellplm.ingest.source import Block, Source

# A diagnosis reads the source again to sum its cells; past this many values it goes without.
DIAGNOSE_VALUES = 64 * 2**20


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
    where = f"{source.files[0]}: {source.counts_from}"
    if fault == kernels.FAULT_VALUE:
        raise CountsError(f"{where}: {_no_count(source, block, at)}")
    if fault == kernels.FAULT_REPEAT:
        raise InputError(
            f"{where}: {_place(source, block, at)} has two values; one entry a cell and feature "
            "was expected. Sum or drop the repeated ones"
        )
    words, n = ("features", source.n_vars) if block.axis == "obs" else ("cells", source.n_obs)
    raise InputError(f"{where}: an index is {block.indices[at]}, but there are {n} {words}")


def _no_count(source: Source, block: Block, at: int) -> str:
    values = block.data[at:]
    if values.dtype == np.float16:  # too narrow for the bounds of `fault_of`
        values = values.astype(np.float32)
    value = values[0]
    told = fault_of(values) or f"value {value:.6g}"
    guess = _guess(source) if np.isfinite(value) and value >= 0 else ""
    looked = f"Looked in: {'; '.join(source.looked_in)}. " if source.looked_in else ""
    return (
        f"not raw counts: value {value:.6g} at {_place(source, block, at)} ({guess or told}). "
        f"{looked}Give the raw counts, or name where they are with --counts"
    )


def _place(source: Source, block: Block, at: int) -> str:
    segment = block.start + int(np.searchsorted(block.indptr, at, side="right")) - 1
    other = int(block.indices[at])
    row, column = (segment, other) if block.axis == "obs" else (other, segment)
    cell, feature = source.obs.index[row], source.var.index[column]
    return f"cell {str(cell)!r}, feature {str(feature)!r}"


def _guess(source: Source) -> str:
    """What the whole matrix looks like, from the sums of its cells."""
    sums = np.zeros(source.n_obs)
    linear = np.zeros(source.n_obs)
    largest, n_values = 0.0, 0
    try:
        for block in source.blocks():
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
