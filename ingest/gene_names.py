"""What a name of a gene means: the bundled table of symbols, looked up by the thousand.

A name is an approved symbol, a previous symbol or an alias of one species; the best level at
which it is known decides, and a name of several genes at that level names none of them.

Two ways of writing a name are undone where the name itself is unknown: R's `make.names` (HLA.A
for HLA-A, X7SK for 7SK), and upper case in the open reading frames (C1ORF159 for C1orf159). Only
approved and previous symbols are found so. NKX6.1 is both NKX6-1 after R and an alias of NKX6-2:
the first where all names went through R, else it is ambiguous.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

SPECIES = ("human", "mouse")
LEVELS = ("approved symbol", "previous symbol", "alias")

UNKNOWN, SEVERAL = -1, -2

_ALIAS = LEVELS.index("alias")
_RANKS = 4
"""Of the names at one level: used by a release or not, as written or not."""
_ENOUGH = 3
"""Names that are known only as a way of writing, to say that a file writes so."""
# What the two ways of writing leave no name with.
_PLAIN = r"[^A-Za-z0-9._]"
_FRAME = r"^C(?:[0-9]+|X|Y)orf[0-9]"
# What anndata and R append to the second of two equal names.
_REPEAT = r"^(?P<first>.+)[-.][0-9]+$"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Meaning:
    """What n names mean in one species.

    Attributes:
        number: (n,) int32 gene number, `SEVERAL` or `UNKNOWN`.
        level: (n,) int8 position in `LEVELS`, -1 where unknown.
        rank: (n,) int8, lower is better, of two names of one gene: first by level, then
            whether an annotation release called the gene so, then whether it is as written.
    """

    number: NDArray[np.int32]
    level: NDArray[np.int8]
    rank: NDArray[np.int8]


def look_up(names: pa.StringArray, species: str) -> Meaning:
    """What names mean.

    A name that looks like a repeat of another one of them ("CD3E-1" beside "CD3E") counts only
    where it is itself an approved or previous symbol, letter for letter.

    Args:
        names: (n,) without nulls; "" is unknown.
        species: one of `SPECIES`.
    """
    table = _table(species)
    exact, variant = _find(names, table.names.name), _find(names, table.variants.name)
    number = np.where(exact >= 0, table.names.number[exact], np.int32(UNKNOWN))
    rank = np.where(exact >= 0, table.names.rank[exact], np.int8(-1))
    is_alias = rank >= _ALIAS * _RANKS
    free = (exact < 0) & (variant >= 0)
    if (is_alias | free).any():
        repeat = is_alias | free
        repeat[repeat] = _repeats(names.filter(pa.array(repeat)), names)
        number[repeat], rank[repeat] = UNKNOWN, -1
        free &= ~repeat
        torn = is_alias & ~repeat & (variant >= 0) & (table.variants.number[variant] != number)
        meant = torn & _written_so(names, int(free.sum()))
        number[torn & ~meant] = SEVERAL
        free |= meant
        number[free] = table.variants.number[variant[free]]
        rank[free] = table.variants.rank[variant[free]] + 1
    return Meaning(number=number, level=rank // _RANKS, rank=rank)


def known(names: pa.StringArray) -> NDArray[np.bool_]:
    """(n,) whether a name is a gene, or several, of any species, as it is written."""
    out = np.zeros(len(names), dtype=bool)
    for species in SPECIES:
        out |= _find(names, _table(species).names.name) >= 0
    return out


def candidates(name: str, species: str) -> NDArray[np.int32]:
    """Numbers of all genes that a name may mean, ascending: those of its best level.

    Of an alias also the gene that it is another way of writing of.
    """
    rows = _rows().filter((pc.field("species") == species) & (pc.field("name") == name))
    level = rows["level"].to_numpy()
    number = rows["number"].to_numpy()[level == level.min(initial=_ALIAS)]
    if number.size and level.min() == _ALIAS:
        variants = _table(species).variants
        at = _find(pa.array([name]), variants.name)
        number = np.append(number, variants.number[at[at >= 0]])
    return np.unique(number[number >= 0]).astype(np.int32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Names:
    """Unique names, each with its gene or `SEVERAL`, and its rank (see `Meaning`)."""

    name: pa.StringArray
    number: NDArray[np.int32]
    rank: NDArray[np.int8]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Table:
    """What one species' names are, and other ways of writing the symbols among them."""

    names: _Names
    variants: _Names


@cache
def _rows() -> pa.Table:
    resource = importlib.resources.files("cellplm") / "data" / "gene_names.parquet"
    with importlib.resources.as_file(resource) as path:
        return pq.read_table(path)


@cache
def _table(species: str) -> _Table:
    rows = _rows().filter(pc.field("species") == species)
    unused = ~rows["used"].to_numpy()
    rank = (rows["level"].to_numpy() * _RANKS + 2 * unused).astype(np.int8)
    names, number = rows["name"].combine_chunks(), rows["number"].to_numpy()
    symbols = names.filter(pa.array(rank < _ALIAS * _RANKS))
    written = [_as_r_writes(symbols), _upper_frames(symbols)]
    changed = np.concatenate([_differ(each, symbols) for each in written])
    variants = _settled(
        pa.concat_arrays(written).filter(pa.array(changed)),
        np.tile(number[rank < _ALIAS * _RANKS], 2)[changed],
        np.tile(rank[rank < _ALIAS * _RANKS], 2)[changed],
    )
    return _Table(names=_settled(names, number, rank), variants=variants)


def _settled(names: pa.StringArray, number: NDArray[np.int32], rank: NDArray[np.int8]) -> _Names:
    """Each name once, with its gene or `SEVERAL` at its best level."""
    codes = names.dictionary_encode()
    rows = pd.DataFrame({"code": codes.indices.to_numpy(), "number": number, "rank": rank})
    rows["level"] = rows["rank"] // _RANKS
    rows = rows.sort_values(["code", "rank"], kind="stable")
    rows = rows.drop_duplicates(["code", "level", "number"])
    torn = rows.duplicated(["code", "level"], keep=False)
    rows["number"] = rows["number"].where(~torn, SEVERAL)
    rows = rows.drop_duplicates("code")
    return _Names(
        name=codes.dictionary.take(pa.array(rows["code"].to_numpy())),
        number=rows["number"].to_numpy(dtype=np.int32),
        rank=rows["rank"].to_numpy(dtype=np.int8),
    )


def _as_r_writes(names: pa.StringArray) -> pa.StringArray:
    dotted = pc.replace_substring_regex(names, _PLAIN, ".")
    return pc.replace_substring_regex(dotted, r"^([0-9_])", r"X\1")


def _upper_frames(names: pa.StringArray) -> pa.StringArray:
    return pc.replace_substring_regex(names, r"^(C(?:[0-9]+|X|Y))orf([0-9])", r"\1ORF\2")


def _written_so(names: pa.StringArray, n_variants: int) -> NDArray[np.bool_]:
    """Which names stand in a file that writes all names in the way that would change them."""
    is_frame = _matches(names, "ORF")
    if n_variants < _ENOUGH:
        return np.zeros(len(names), dtype=bool)
    return np.where(is_frame, not _matches(names, _FRAME).any(), not _matches(names, _PLAIN).any())


def _repeats(names: pa.StringArray, all_names: pa.StringArray) -> NDArray[np.bool_]:
    """Which names are another one of all names and a number."""
    first = pc.struct_field(pc.extract_regex(names, _REPEAT), "first")
    return _numpy(pc.is_in(first, all_names, skip_nulls=True))


def _find(names: pa.StringArray, among: pa.StringArray) -> NDArray[np.int32]:
    """(n,) position of each name, -1 where it is not there."""
    found: NDArray[np.int32] = pc.index_in(names, among).fill_null(-1).to_numpy()
    return found


def _matches(names: pa.StringArray, pattern: str) -> NDArray[np.bool_]:
    return _numpy(pc.match_substring_regex(names, pattern))


def _differ(left: pa.StringArray, right: pa.StringArray) -> NDArray[np.bool_]:
    return _numpy(pc.not_equal(left, right))


def _numpy(values: pa.BooleanArray) -> NDArray[np.bool_]:
    out: NDArray[np.bool_] = values.to_numpy(zero_copy_only=False)
    return out
