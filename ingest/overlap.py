"""Cells that stand twice: in a data set and in another one, or within one.

Two cells are the same by their counts (the sum of ingest/content.py) or by their names. Either can
be chance, and chance is not reported:

- Few counts are alike by themselves, so cells with fewer than 10 do not take part, nor do
  counts that more than 3 cells of a data set have. (In two crops of one Xenium slide, 313 genes,
  15 of 17,916 cells are alike; none of those with 5 counts or more.)
- Names that only number cells ("cell_12", "3_117", "A7") do not take part. Barcodes come from
  short lists that all runs share: their matches are reported where they are more than the list
  explains, among names that are equal but for the barcode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cellplm.corpus.reader import Corpus, Part
from cellplm.corpus.schema import Modality
from cellplm.corpus.tables import column

MIN_COUNTS = 10
MOST_ALIKE = 3
FEWEST = 3
"""Matches up to here are never reported."""

NAMES = 256 * 2**10
"""Names that are looked at at a time."""

BARCODES = 737_280
"""Of 10x chromium, v1 and v2; later lists and other methods have more."""
SPOT_BARCODES = 4_992
"""Of a Visium slide."""

_BARCODE = r"^(?P<before>.*?)[ACGT]{12,}(?P<after>.*)$"
_NUMBERING = (
    r"(?i)\b(?:cells?|spots?|beads?|bins?|samples?|barcodes?|bc|rows?|obs|idx|index|lib|library|fov"
    r"|roi|nucleus|nuclei|plate|well|donor|batch|run|rep|slide|section|unknown|nan|none)\b"
)
# Wells of a plate have barcodes of one short list; Xenium counts in letters from a to p.
_SHORT = r"\b[ACGTN]{3,11}\b"
_COUNTED_IN_LETTERS = r"^[a-p]{8} $"
# So many digits are an identifier (MERSCOPE, UUIDs), and no running number.
_IDENTIFIER = r"[0-9A-Fa-f-]{20}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cells:
    """What is compared of a data set's n cells, in any order.

    Attributes:
        data_set: its name.
        cell_hash: (n,) uint64, sums of ingest/content.py over all of a cell's counts.
        totals: (n,) counts of a cell.
        names: (n,) as the source has them.
        modality: "srt" barcodes may be those of spots.
    """

    data_set: str
    cell_hash: NDArray[np.uint64]
    totals: NDArray[np.integer]
    names: pd.Index[str]
    modality: Modality


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Cells of a new data set that another one seems to have too.

    Attributes:
        part: name of the other.
        n_same_counts: cells of the new one with exactly the counts of one of the other; 0 where
            it is no more than chance.
        n_same_names: the same of names.
        n_of_new: cells of the new one.
        n_of_part: cells of the other.
    """

    part: str
    n_same_counts: int
    n_same_names: int
    n_of_new: int
    n_of_part: int

    @property
    def most(self) -> bool:
        """Whether more than half of the smaller data set is in the other."""
        same = max(self.n_same_counts, self.n_same_names)
        return 2 * same > min(self.n_of_new, self.n_of_part)

    def sentence(self) -> str:
        """For the report."""
        counts, names = f"{self.n_same_counts:,}", f"{self.n_same_names:,}"
        if self.n_same_counts and self.n_same_names:
            what = f"cells have exactly the counts, and {names} the names, of cells"
        elif self.n_same_counts:
            what = "cells have exactly the counts of cells"
        else:
            what = "cells have the names of cells"
        n = counts if self.n_same_counts else names
        return f"{n} of {self.n_of_new:,} {what} of {self.part!r} ({self.n_of_part:,} cells)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """Cells of a data set that stand in it before.

    Attributes:
        n_same_names: cells with the name of an earlier one.
        n_same_counts: cells of 10 counts or more with exactly the counts of an earlier one.
    """

    n_same_names: int
    n_same_counts: int

    def sentences(self) -> list[str]:
        """For the report; none where nothing repeats."""
        out = []
        if self.n_same_names:
            out.append(f"{self.n_same_names:,} cells have the name of an earlier cell")
        if self.n_same_counts:
            out.append(
                f"{self.n_same_counts:,} cells have exactly the counts of an earlier cell (cells "
                f"of {MIN_COUNTS} counts or more)"
            )
        return out


def overlaps(corpus: Corpus | None, new: Sequence[Prints]) -> list[list[Overlap]]:
    """Compare data sets with every part of a corpus, and with those before them.

    Args:
        corpus: before any of them came in; each of its parts is read once. None: there is none.
        new: the data sets, in their order.

    Returns:
        For each of them what is more than chance, in the order of the parts.

    Raises:
        CorruptCorpusError: names or hashes of a part cannot be read.
    """
    out: list[list[Overlap]] = [[] for _ in new]
    for part in corpus.parts if corpus and new else ():
        theirs = prints(cells_of(part))
        for found, mine in zip(out, new, strict=True):
            found += compare(mine, theirs)
    for number, mine in enumerate(new):
        for theirs in new[:number]:
            out[number] += compare(mine, theirs)
    return out


def compare(new: Prints, other: Prints) -> list[Overlap]:
    """What of a data set another one has too: one overlap, or none."""
    overlap = Overlap(
        part=other.data_set,
        n_same_counts=_same_counts(new, other),
        n_same_names=_same_names(new, other),
        n_of_new=new.n,
        n_of_part=other.n,
    )
    return [overlap] if overlap.n_same_counts or overlap.n_same_names else []


def cells_of(part: Part) -> Cells:
    """Read what is compared of a part: 16 bytes a cell, and the names.

    Raises:
        CorruptCorpusError: it cannot be read.
    """
    hashes = column(part, "obs", "cell_hash")
    names = column(part, "obs", "source_name")
    if names is None:
        names = column(part, "obs", "_index")
    if hashes is None or names is None:  # written before there were hashes
        hashes = np.zeros(part.entry.n_obs, dtype=np.uint64)
    return Cells(
        data_set=part.entry.name,
        cell_hash=np.asarray(hashes, dtype=np.uint64),
        totals=part.index.library_size,
        names=pd.Index(np.asarray(names, dtype=object)),
        modality=part.entry.modality,
    )


def repeats(cells: Cells) -> Repeats:
    """Cells that stand twice within one data set."""
    hashes = cells.cell_hash[_telling(cells)]
    return Repeats(
        n_same_names=int(cells.names.duplicated().sum()),
        n_same_counts=hashes.size - np.unique(hashes).size,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prints:
    """What may be found again of a data set; every array of values is unique and ascending.

    Attributes:
        data_set: its name.
        n: its cells.
        hashes: of counts that say something.
        n_cells: how many cells have each of them.
        names: hashes of names that say something.
        besides: hashes of what stands beside the barcodes.
        n_barcodes: how many names have each of them.
        spatial: whether barcodes may be those of spots.
    """

    data_set: str
    n: int
    hashes: NDArray[np.uint64]
    n_cells: NDArray[np.int64]
    names: NDArray[np.uint64]
    besides: NDArray[np.uint64]
    n_barcodes: NDArray[np.int64]
    spatial: bool


def prints(cells: Cells) -> Prints:
    """What may be found again of some cells."""
    hashes, n_cells = _counted(cells.cell_hash[_telling(cells)])
    rare = n_cells <= MOST_ALIKE
    besides, named = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    # A stretch at a time: all names at once would take several times their memory.
    for start in range(0, cells.names.size, NAMES):
        # R makes "." of "-".
        names = pa.array(cells.names[start : start + NAMES].astype(str), type=pa.large_string())
        names = pc.replace_substring(names, ".", "-")
        parts = pc.extract_regex(names, _BARCODE)
        with_barcode, plain = names.filter(parts.is_valid()), names.filter(parts.is_null())
        parts = parts.drop_null()
        beside = pc.binary_join_element_wise(
            pc.struct_field(parts, "before"),
            pc.struct_field(parts, "after"),
            pa.scalar("|", names.type),
        )
        besides.append(_hashed(beside))
        named += [_hashed(with_barcode), _hashed(plain.filter(_says_something(plain)))]
    beside_hashes, n_barcodes = _counted(np.concatenate(besides))
    return Prints(
        data_set=cells.data_set,
        n=cells.names.size,
        hashes=hashes[rare],
        n_cells=n_cells[rare],
        names=_counted(np.concatenate(named))[0],
        besides=beside_hashes,
        n_barcodes=n_barcodes,
        spatial=cells.modality == "srt",
    )


def _counted(values: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """What np.unique gives, by sorting: it hashes, which is several times slower here."""
    ordered = np.sort(values)
    first = np.flatnonzero(np.diff(ordered, prepend=~ordered[:1]))
    return ordered[first], np.diff(first, append=ordered.size)


def _telling(cells: Cells) -> NDArray[np.bool_]:
    """Which cells have counts that are not alike by chance."""
    enough: NDArray[np.bool_] = (cells.totals >= MIN_COUNTS) & (cells.cell_hash != 0)
    return enough


def _says_something(names: pa.Array) -> pa.BooleanArray:
    """Whether a name is more than a number: it has a word of three letters, or is long."""
    words = pc.replace_substring_regex(names, r"[^A-Za-z]+", " ")
    for pattern in (_COUNTED_IN_LETTERS, _NUMBERING, _SHORT):
        words = pc.replace_substring_regex(words, pattern, "")
    return pc.or_(
        pc.match_substring_regex(words, r"[A-Za-z]{3}"),
        pc.match_substring_regex(names, _IDENTIFIER),
    )


def _hashed(texts: pa.Array) -> NDArray[np.uint64]:
    values = texts.to_numpy(zero_copy_only=False).astype(object)
    hashed: NDArray[np.uint64] = pd.util.hash_array(values, categorize=False)
    return hashed


def _same_counts(new: Prints, part: Prints) -> int:
    _, mine, _ = np.intersect1d(new.hashes, part.hashes, assume_unique=True, return_indices=True)
    n = int(new.n_cells[mine].sum())
    return n if n > FEWEST else 0


def _same_names(new: Prints, part: Prints) -> int:
    n = int(np.intersect1d(new.names, part.names, assume_unique=True).size)
    _, mine, theirs = np.intersect1d(
        new.besides, part.besides, assume_unique=True, return_indices=True
    )
    pairs = float((new.n_barcodes[mine].astype(float) * part.n_barcodes[theirs]).sum())
    chance = pairs / (SPOT_BARCODES if new.spatial or part.spatial else BARCODES)
    return n if n > chance + 5 * chance**0.5 + FEWEST else 0
