"""Give the features of a source their stable gene numbers.

A feature is looked up by Ensembl id, then as an approved symbol, a previous symbol and
an alias of one species. A name that belongs to several genes at the first level where it
is known is reported and left unmapped: a wrong gene is worse than a lost one. Of two columns
that reach the same gene, the one matched at the better level keeps it, then the first;
the other is a "duplicate" and stays in the part without a number.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cellplm.corpus.genes import GeneIndex
from cellplm.errors import GenesError

Kind = Literal["gene", "duplicate", "unmapped", "control", "protein"]
KINDS: tuple[Kind, ...] = ("gene", "duplicate", "unmapped", "control", "protein")
SPECIES = ("human", "mouse")
LEVELS = ("approved symbol", "previous symbol", "alias")

ID_COLUMNS = (
    "feature_id", "gene_ids", "gene_id", "ensembl_id", "ensembl", "ensembl_gene_id", "ensemblid",
    "accession", "id", "ens_id",
)  # fmt: skip
SYMBOL_COLUMNS = (
    "feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "symbol", "gene",
    "gene_short_name", "name",
)  # fmt: skip
TYPE_COLUMNS = ("feature_types", "feature_type", "type")

# "mm10_Xkr4", "GRCh38______MALAT1", "hg19-A1BG": Cell Ranger's and others' mixed references.
GENOME_PREFIX = r"^(?:GRCh3[78]|GRCm3[89]|hg19|hg38|mm9|mm10|mm39|refdata)(?:_+|-)(?=\S)"
ENSEMBL_ID = r"^(ENS(?:MUS)?G\d{11})(?:\.\d+)?(?:_PAR_Y)?$"

# Spike-ins, and the negative controls of CosMx, Xenium, MERSCOPE and in situ panels.
CONTROL = (
    r"(?i:^ERCC[-_.]\d+|^SpikeIn|^NegPrb|^Neg(?:ative)?[-_ ]?Control|^Negative(?:[-_ .]?\d+)?$"
    r"|^Blank(?:[-_ ]?\d.*|_.*)?$|^SystemControl|^FalseCode|^antisense_|^Intergenic_?Region"
    r"|^(?:Unassigned|Deprecated)(?:Codeword|_)|^GenomicControl)"
)
CONTROL_TYPES = r"(?i:control|blank|unassigned|deprecated|false ?code|genomic control|spike)"
PROTEIN_TYPES = r"(?i:antibody|protein|(?<!\w)adt(?!\w)|hashtag|cite[-_]?seq|multiplexing capture)"
PROTEIN_ONLY_TYPES = r"(?i:protein[-_ ]coding)"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Harmonised:
    """What became of every feature, in the source's order.

    Attributes:
        gene_number: (n_vars,) int32, the gene index number; -1 unless kind is "gene".
        kind: (n_vars,) str, one of `KINDS`.
        symbol: (n_vars,) str, the approved symbol, "" where no gene was found.
        gene_id: (n_vars,) str, the Ensembl id, "" where no gene was found. Duplicates keep
            symbol and id of the gene they repeat.
        species: of the data set, "human" or "mouse".
        counts: features of each kind, every kind present.
        how: features matched by "id" and by each of `LEVELS`, duplicates included.
        ambiguous: names that belong to several genes, as the source writes them.
    """

    gene_number: NDArray[np.int32]
    kind: NDArray[np.str_]
    symbol: NDArray[np.str_]
    gene_id: NDArray[np.str_]
    species: str
    counts: dict[str, int]
    how: dict[str, int]
    ambiguous: tuple[str, ...]


def harmonise(var: pd.DataFrame, *, species: str | None, index: GeneIndex) -> Harmonised:
    """Look every feature up.

    Args:
        var: features; the index holds names, columns may hold ids, symbols and types.
        species: "human" or "mouse"; None: the one that more features belong to.
        index: the gene index whose numbers are given out.

    Raises:
        GenesError: the species is not known, or not one feature is a gene of it.
    """
    if species is not None and species not in SPECIES:
        raise GenesError(f"species {species!r} is not known; known are {', '.join(SPECIES)}")
    kind = _kinds(var)
    candidate = kind == "unmapped"
    ids = [c.str.extract(ENSEMBL_ID, expand=False) for c in _columns(var, ID_COLUMNS)]
    names = list(_columns(var, SYMBOL_COLUMNS))
    tried = [
        _match(ids, names, candidate, species=one, index=index)
        for one in ([species] if species else SPECIES)
    ]
    best = max(tried, key=lambda match: int((match.level >= 0).sum()))
    hit = best.level >= 0
    if not hit.any():
        raise GenesError(_nothing_recognised(var, species))

    number = best.number.copy()
    # lexsort is stable: by gene, then level, then position in the source.
    order = np.lexsort((best.level, number))
    order = order[hit[order]]
    repeated = order[1:][number[order[1:]] == number[order[:-1]]]
    kind[hit] = "gene"
    kind[repeated] = "duplicate"
    symbol = np.where(hit, index.symbol[number], "").astype(np.str_)
    gene_id = np.where(hit, index.ensembl_id[number], "").astype(np.str_)
    number[repeated] = -1
    return Harmonised(
        gene_number=number,
        kind=kind,
        symbol=symbol,
        gene_id=gene_id,
        species=best.species,
        counts={k: int((kind == k).sum()) for k in KINDS},
        how={name: int((best.level == i).sum()) for i, name in enumerate(("id", *LEVELS))},
        ambiguous=tuple(var.index[best.ambiguous].astype(str)),
    )


def known_fraction(names: Iterable[str]) -> float:
    """Share of names that are a gene (id or symbol of any level) of either species.

    For telling which axis of a table is the genes; 0 for no names.
    """
    cleaned = _clean(pd.Series(list(names), dtype=object))
    if cleaned.empty:
        return 0.0
    known = cleaned.str.match(ENSEMBL_ID) | cleaned.str.match(CONTROL)
    for species in SPECIES:
        for level in range(len(LEVELS)):
            known |= cleaned.isin(_names()[species, level].index)
    return float(known.mean())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Match:
    """Looking everything up in one species: level 0 is the id, 1.. are `LEVELS`."""

    species: str
    number: NDArray[np.int32]
    level: NDArray[np.int8]
    ambiguous: NDArray[np.bool_]


def _kinds(var: pd.DataFrame) -> NDArray[np.str_]:
    """Controls and proteins by name and type; everything else is unmapped for now."""
    kind = np.full(len(var), "unmapped", dtype="<U9")
    lower = {str(column).lower(): column for column in var.columns}
    for wanted in TYPE_COLUMNS:
        if wanted in lower:
            types = var[lower[wanted]].astype(str)
            protein = types.str.contains(PROTEIN_TYPES) & ~types.str.contains(PROTEIN_ONLY_TYPES)
            kind[protein.to_numpy()] = "protein"
            kind[types.str.contains(CONTROL_TYPES).to_numpy()] = "control"
    for names in _columns(var, ("feature_id",)):
        kind[names.str.match(CONTROL).to_numpy(dtype=bool)] = "control"
    return kind


def _columns(var: pd.DataFrame, wanted: tuple[str, ...]) -> Iterator[pd.Series[str]]:
    """The index, then the columns of these names (any case), cleaned."""
    yield _clean(pd.Series(var.index, dtype=object))
    lower = {str(column).lower(): column for column in reversed(var.columns)}
    for name in wanted:
        if name in lower:
            yield _clean(var[lower[name]].astype(object).reset_index(drop=True))


def _clean(names: pd.Series[str]) -> pd.Series[str]:
    text = names.where(names.notna(), "").astype(str).str.strip()
    return text.str.replace(GENOME_PREFIX, "", regex=True)


def _match(
    ids: list[pd.Series[str]],
    names: list[pd.Series[str]],
    candidate: NDArray[np.bool_],
    *,
    species: str,
    index: GeneIndex,
) -> _Match:
    n = candidate.size
    number = np.full(n, -1, dtype=np.int32)
    level = np.full(n, -1, dtype=np.int8)
    ambiguous = np.zeros(n, dtype=bool)
    of_species = index.species == species
    for column in ids:
        found = index.numbers_of(column.to_numpy())
        fresh = candidate & (level < 0) & (found >= 0) & of_species[found]
        number[fresh], level[fresh] = found[fresh], 0
    for i in range(len(LEVELS)):
        table = _names()[species, i]
        for column in names:
            known = table.reindex(column, fill_value=-1).to_numpy(dtype=np.int32, copy=True)
            # A corpus keeps its first gene index; a newer release may know more names.
            known[known >= index.n] = -1
            open_ = candidate & (level < 0) & ~ambiguous
            ambiguous |= open_ & (known == _SEVERAL)
            fresh = open_ & (known >= 0)
            number[fresh], level[fresh] = known[fresh], i + 1
    return _Match(species=species, number=number, level=level, ambiguous=ambiguous)


_SEVERAL = -2


@cache
def _names() -> dict[tuple[str, int], pd.Series[int]]:
    """Gene number by name for each (species, level); `_SEVERAL` for an ambiguous name."""
    resource = importlib.resources.files("cellplm") / "data" / "gene_names.parquet"
    with importlib.resources.as_file(resource) as path:
        table = pq.read_table(path).to_pandas()
    tables: dict[tuple[str, int], pd.Series[int]] = {}
    for species in SPECIES:
        for level in range(len(LEVELS)):
            rows = table[(table["species"] == species) & (table["level"] == level)]
            number = rows["number"].where(~rows["name"].duplicated(keep=False), _SEVERAL)
            first = ~rows["name"].duplicated()
            tables[species, level] = pd.Series(
                number[first].to_numpy(dtype=np.int32), index=pd.Index(rows["name"][first])
            )
    return tables


def _nothing_recognised(var: pd.DataFrame, species: str | None) -> str:
    names = ", ".join(repr(str(name)) for name in var.index[:5])
    return (
        f"none of {len(var)} features is a known {species or 'human or mouse'} gene "
        f"(the first are {names}); expected Ensembl ids or gene symbols as feature names, "
        f"or ids in one of the columns {', '.join(ID_COLUMNS[:4])}"
    )
