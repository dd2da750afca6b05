"""Give the features of a source their stable gene numbers.

A feature is looked up by Ensembl id, then as an approved symbol, a previous symbol and
an alias of one species. A name that belongs to several genes at the first level where it
is known is reported and left unmapped: a wrong gene is worse than a lost one. Of two columns
that reach the same gene, the one matched at the better level keeps it, then the first;
the other is a "duplicate" and stays in the part without a number.

A data set has one species: the one that more features belong to. References of two (10x
barnyards) say of each feature which it is, by its id or a prefix (GRCh38_, mm10_), and each is
looked up in its own; plain symbols are those of the data set's species.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cellplm.corpus.genes import GeneIndex
from cellplm.errors import GenesError
from cellplm.ingest import gene_names
from cellplm.ingest.feature_kind import CONTROL, kinds, matches, text
from cellplm.ingest.gene_names import LEVELS, SEVERAL, SPECIES

Kind = Literal["gene", "duplicate", "unmapped", "control", "protein"]
KINDS: tuple[Kind, ...] = ("gene", "duplicate", "unmapped", "control", "protein")
MATCHED = ("id", *LEVELS)
MATCHES = (*MATCHED, "ambiguous", "unknown", "no gene")

ID_COLUMNS = (
    "feature_id", "gene_ids", "gene_id", "ensembl_id", "ensembl", "ensembl_gene_id", "ensemblid",
    "accession", "id", "ens_id",
)  # fmt: skip
SYMBOL_COLUMNS = (
    "feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "symbol", "gene",
    "gene_short_name", "name",
)  # fmt: skip

# "mm10_Xkr4", "GRCh38______MALAT1", "hg19-A1BG", "MOUSE_Actb": references of two genomes, and
# Seurat's way of writing them.
_GENOME = (
    r"^(?:(?P<human>GRCh3[78]|hg19|hg38|HUMAN|human)|(?P<mouse>GRCm3[89]|mm9|mm10|mm39|MOUSE|mouse))"
    r"(?:[-_]pre-?mrna)?(?:_+|-+)(?P<rest>\S.*)$"
)
# "ENSG00000198851.12", "CD3E_ENSG00000198851", "ENSG00000198851|CD3E".
_ID = (
    r"^(?:(?P<before>.+)[_|:;,])?(?P<id>ENS(?:MUS)?G[0-9]{11})(?:\.[0-9]+)?(?:_PAR_Y)?"
    r"(?:[_|:;,](?P<after>.+))?$"
)
# A gene that has no symbol but the name of its clone.
_CLONE = r"^(?:RP[0-9]+-|CT[ABCD]-|LL[0-9]+NC|[A-Z]{1,2}[0-9]{5,6}\.|[A-Z]{4}[0-9]{8}\.)"
_OTHER_ID = r"^ENS[A-Z]{3,4}G[0-9]{11}"

MIXED_SHARE = 0.1
"""Of the genes that the rarer species needs for a data set to be one of two species."""

ASKED_NAMES = 20
"""Features with an id and an approved symbol, from which on their agreement is judged."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Harmonised:
    """What became of every feature, in the source's order.

    Attributes:
        gene_number: (n_vars,) int32, the gene index number; -1 unless kind is "gene". That of
            the human ortholog where orthologs were asked for.
        kind: (n_vars,) str, one of `KINDS`.
        match: (n_vars,) str, one of `MATCHES`: by what a gene was found, or why not.
        name: (n_vars,) str, the id or name that was found or is ambiguous, without genome prefix;
            "" otherwise.
        symbol: (n_vars,) str, the approved symbol, "" where no gene was found.
        gene_id: (n_vars,) str, the Ensembl id, "" where no gene was found. Duplicates keep
            symbol and id of the gene they repeat; orthologs do not change it.
        species: of the data set, "human" or "mouse".
        counts: features of each kind, every kind present.
        how: features matched by each of `MATCHED`, duplicates included.
        ambiguous: names that belong to several genes, as the source writes them.
        n_other_species: features of the kind gene that belong to the other species.
        n_orthologs: genes that stand under the number of their human ortholog.
        warnings: sentences for the report.
    """

    gene_number: NDArray[np.int32]
    kind: NDArray[np.str_]
    match: NDArray[np.str_]
    name: NDArray[np.str_]
    symbol: NDArray[np.str_]
    gene_id: NDArray[np.str_]
    species: str
    counts: dict[str, int]
    how: dict[str, int]
    ambiguous: tuple[str, ...]
    n_other_species: int
    n_orthologs: int
    warnings: tuple[str, ...]


def harmonise(
    var: pd.DataFrame, *, species: str | None, index: GeneIndex, map_orthologs: bool = False
) -> Harmonised:
    """Look every feature up.

    Args:
        var: features; the index holds names, columns may hold ids, symbols and types.
        species: "human" or "mouse"; None: the one that more features belong to.
        index: the gene index whose numbers are given out.
        map_orthologs: give a mouse gene the number of its one-to-one human ortholog. Not done
            where the data set is one of two species: both genes of a pair are measured there.

    Raises:
        GenesError: the species is not known, not one feature is a gene of it, or the ids and the
            symbols of most features belong to different genes.
    """
    if species is not None and species not in SPECIES:
        raise GenesError(f"species {species!r} is not known; known are {', '.join(SPECIES)}")
    columns = list(_columns(var, index))
    kind = kinds([each.text for each in columns], var)
    asked = kind == ""
    found = [_find(columns, asked, one, index) for one in ([species] if species else SPECIES)]
    best = max(found, key=lambda each: each.merit)
    hit = best.number >= 0
    own = hit & (index.species[best.number] == best.species)
    if not own.any():
        raise GenesError(_nothing_recognised(var, species, int(hit.sum())))
    warnings = _disagreement(columns, best, own, index)

    number = best.number
    if map_orthologs and best.species == "mouse":
        if (hit & ~own).sum() < MIXED_SHARE * hit.sum():
            ortholog = index.ortholog[number]
            number = np.where(own & (ortholog >= 0), ortholog, number)
        else:
            warnings.append("orthologs are not mapped: genes of both species are measured")
    kind[asked] = "unmapped"
    kind[hit] = "gene"
    # lexsort is stable: by gene, the data set's species first, then rank, then position.
    order = np.lexsort((best.rank, ~own, number))
    order = order[hit[order]]
    kind[order[1:][number[order[1:]] == number[order[:-1]]]] = "duplicate"

    is_gene = kind == "gene"
    counts: dict[str, int] = {k: int((kind == k).sum()) for k in KINDS}
    n_other = int((is_gene & ~own).sum())
    if n_other:
        warnings.append(
            f"{n_other:,} of {counts['gene']:,} genes are of the other species; the data set "
            f"counts as {best.species}"
        )
    n_orthologs = int((is_gene & (number != best.number)).sum())
    if n_orthologs:
        warnings.append(
            f"{n_orthologs:,} of {counts['gene']:,} mouse genes stand under the number of their "
            "one-to-one human ortholog"
        )
    at = np.where(hit, best.level, MATCHES.index("unknown"))
    at[best.number == SEVERAL] = MATCHES.index("ambiguous")
    at[~asked] = MATCHES.index("no gene")
    return Harmonised(
        gene_number=np.where(is_gene, number, -1).astype(np.int32),
        kind=kind,
        match=np.array(MATCHES)[at],
        name=best.name.astype(np.str_),
        symbol=np.where(hit, index.symbol[best.number], "").astype(np.str_),
        gene_id=np.where(hit, index.ensembl_id[best.number], "").astype(np.str_),
        species=best.species,
        counts=counts,
        how={name: int((at == i).sum()) for i, name in enumerate(MATCHED)},
        ambiguous=tuple(var.index[best.number == SEVERAL].astype(str)),
        n_other_species=n_other,
        n_orthologs=n_orthologs,
        warnings=tuple(warnings),
    )


def known_fraction(names: Iterable[str]) -> float:
    """Share of names that are a gene (id or symbol of any level) of either species.

    For telling which axis of a table is the genes; 0 for no names.
    """
    listed = text(pd.Index(list(names), dtype=object))
    if not len(listed):
        return 0.0
    plain, _ = _without_genome(listed)
    known = gene_names.known(plain) | matches(plain, _ID) | matches(plain, CONTROL)
    return float(known.mean())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Column:
    """One column of names or ids, for V features.

    Attributes:
        text: without genome prefix.
        names: what is looked up as a symbol; "" where `text` is nothing but an id.
        number: (V,) int32 gene of the id; -1: no id, or one that the index lacks.
        species: (V,) int8 position in `SPECIES` that id or prefix tell; -1: neither does.
    """

    text: pa.StringArray
    names: pa.StringArray
    number: NDArray[np.int32]
    species: NDArray[np.int8]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Found:
    """Looking everything up, with plain symbols taken for those of one species.

    Attributes:
        number: (V,) int32 gene, `SEVERAL`, or -1.
        level: (V,) int8 position in `MATCHED`.
        rank: (V,) int8, -1 for an id, else that of the name (see `gene_names.Meaning`).
        name: (V,) what was found.
        merit: to compare with the same for the other species.
    """

    species: str
    number: NDArray[np.int32]
    level: NDArray[np.int8]
    rank: NDArray[np.int8]
    name: NDArray[np.object_]
    merit: tuple[int, int, int]


def _columns(var: pd.DataFrame, index: GeneIndex) -> Iterator[_Column]:
    """The index, then columns of ids, then of symbols (any case)."""
    lower = {str(column).lower(): column for column in reversed(var.columns)}
    wanted = [lower[name] for name in (*ID_COLUMNS, *SYMBOL_COLUMNS) if name in lower]
    yield _column(text(var.index), index)
    for name in wanted:
        yield _column(text(var[name]), index)


def _column(listed: pa.StringArray, index: GeneIndex) -> _Column:
    plain, species = _without_genome(listed)
    number = np.full(len(plain), -1, dtype=np.int32)
    names = plain
    if matches(plain, _ID).any():
        parts = pc.extract_regex(plain, _ID)
        ids, before, after = (
            pc.struct_field(parts, part).fill_null("") for part in ("id", "before", "after")
        )
        number = index.numbers_of(ids.to_numpy(zero_copy_only=False))
        is_id = matches(ids, ".")
        species[is_id] = np.where(matches(ids, "MUS"), 1, 0)[is_id]
        beside = pc.binary_join_element_wise(before, after, "")
        names = pc.if_else(pa.array(is_id), beside, plain)
        # "CD3E_ENSG…" is a gene; "intron_ENSG…" is a part of one.
        strange = matches(beside, ".") & ~gene_names.known(beside) & ~matches(beside, _CLONE)
        number[strange] = -1
    return _Column(text=plain, names=names, number=number, species=species)


def _without_genome(names: pa.StringArray) -> tuple[pa.StringArray, NDArray[np.int8]]:
    """Names without a genome's prefix, and the species that it tells."""
    species = np.full(len(names), -1, dtype=np.int8)
    if not matches(names, _GENOME).any():
        return names, species
    parts = pc.extract_regex(names, _GENOME)
    for number, name in enumerate(SPECIES):
        species[matches(pc.struct_field(parts, name).fill_null(""), ".")] = number
    return pc.coalesce(pc.struct_field(parts, "rest"), names), species


def _find(
    columns: list[_Column], candidate: NDArray[np.bool_], species: str, index: GeneIndex
) -> _Found:
    n = candidate.size
    number = np.full(n, gene_names.UNKNOWN, dtype=np.int32)
    level = np.full(n, len(MATCHED), dtype=np.int8)
    rank = np.full(n, -1, dtype=np.int8)
    name = np.full(n, "", dtype=object)
    told = np.full(n, -1, dtype=np.int8)
    for column in columns:
        told = np.where(told < 0, column.species, told)
        fresh = candidate & (number < 0) & (column.number >= 0)
        number[fresh], level[fresh] = column.number[fresh], 0
        name[fresh] = column.text.to_numpy(zero_copy_only=False)[fresh]
    told[told < 0] = SPECIES.index(species)
    by_id = level == 0
    now = _current(index)[number]
    rank[by_id & (now != number)] = 0
    number = np.where(by_id, now, number)
    for code in np.unique(told):
        mine = candidate & ~by_id & (told == code)
        for column in columns if mine.any() else ():
            meaning = gene_names.look_up(column.names, SPECIES[code])
            # A corpus keeps its first gene index; a newer release may know more names.
            usable = (meaning.level >= 0) & (meaning.number < index.n)
            better = mine & usable & (meaning.level + 1 < level)
            number[better], level[better] = meaning.number[better], meaning.level[better] + 1
            rank[better] = meaning.rank[better]
            name[better] = column.names.to_numpy(zero_copy_only=False)[better]
    hit = number >= 0
    shape = r"^[A-Z][a-z]" if species == "mouse" else r"^[A-Z][A-Z0-9]"
    typical = matches(pa.array(name[hit], type=pa.string()), shape)
    own = index.species[number[hit]] == species
    merit = (
        int(own.sum()),
        int((own & (level[hit] <= 1)).sum()),
        int((own & typical).sum()),
    )
    return _Found(species=species, number=number, level=level, rank=rank, name=name, merit=merit)


@lru_cache(maxsize=2)
def _current(index: GeneIndex) -> NDArray[np.int32]:
    """(n,) the gene that each number means today: itself, but for retired Ensembl ids.

    An id outside the vocabulary that HGNC does not know (no biotype), and whose symbol one gene
    of the vocabulary or of HGNC has, is an older id of that gene, or its copy on a patch of
    the assembly: TXNIP was ENSG00000117289 and is ENSG00000265972.
    """
    known = (index.vocabulary >= 0) | (index.biotype != "")
    # Where a symbol has a gene in the vocabulary, that is the one.
    order = np.lexsort((index.number, index.vocabulary < 0))
    order = order[known[order] & (index.symbol[order] != "")]
    keys = pd.Index(index.species[order] + " " + index.symbol[order])
    first = ~keys.duplicated()
    several = keys[index.vocabulary[order] >= 0]
    several = several[several.duplicated()]
    target = pd.Series(order[first], index=keys[first]).drop(several.unique())
    retired = np.flatnonzero(~known & (index.symbol != ""))
    names = pd.Index(index.species[retired] + " " + index.symbol[retired])
    found = target.reindex(names).to_numpy()
    out = index.number.copy()
    hit = ~np.isnan(found)
    out[retired[hit]] = found[hit].astype(np.int32)
    return out


def _disagreement(
    columns: list[_Column], found: _Found, own: NDArray[np.bool_], index: GeneIndex
) -> list[str]:
    """A warning, or a refusal, where ids and symbols stand for different genes."""
    by_id = own & (found.level == 0)
    if not by_id.any():
        return []
    named = np.full(by_id.size, -1, dtype=np.int32)
    for column in columns:
        meaning = gene_names.look_up(column.names, found.species)
        named = np.where((named < 0) & (meaning.level == 0), meaning.number, named)
    asked = by_id & (named >= 0)
    other = asked & (named != found.number)
    other &= index.symbol[named] != index.symbol[found.number]
    n_asked, n_other = int(asked.sum()), int(other.sum())
    if n_asked < ASKED_NAMES or n_other <= 0.05 * n_asked:
        return []
    first = int(np.flatnonzero(other)[0])
    example = (
        f"{index.ensembl_id[found.number[first]]} is {index.symbol[found.number[first]]}, "
        f"but stands beside {index.symbol[named[first]]}"
    )
    told = f"the ids of {n_other:,} of {n_asked:,} features belong to other genes than their names"
    if n_other > n_asked / 2:
        raise GenesError(f"{told} ({example}); one of the two columns is in another order")
    return [f"{told} ({example}); the ids were taken"]


def _nothing_recognised(var: pd.DataFrame, species: str | None, n_other: int) -> str:
    names = ", ".join(repr(str(name)) for name in var.index[:5])
    if n_other:
        return (
            f"not one feature is a {species} gene, but {n_other:,} are genes of the other species "
            f"(the first features are {names}); leave --species {species} out"
        )
    if matches(text(var.index), _OTHER_ID).any():
        return (
            f"the features are genes of another species ({names}); human and mouse genes are known"
        )
    return (
        f"none of {len(var)} features is a known {species or 'human or mouse'} gene "
        f"(the first are {names}); expected Ensembl ids or gene symbols as feature names, "
        f"or ids in one of the columns {', '.join(ID_COLUMNS[:4])}"
    )
