"""What became of every feature of a data set, name by name: `cellplm info --genes`.

What a part stores decides (ids, kinds, how they were matched). The names are looked up again only
to say which of a feature's names was the one, and between which genes an ambiguous one stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus, Part
from cellplm.corpus.tables import provenance, source_table, stored_table
from cellplm.ingest import gene_names
from cellplm.ingest.feature_kind import TYPE_COLUMNS
from cellplm.ingest.gene_names import SPECIES
from cellplm.ingest.harmonise import KINDS, MATCHES, Harmonised, harmonise

SHOWN_GENES = 20
"""Genes that are listed of an ambiguous name; Y_RNA has hundreds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gene:
    """A gene of the index; the symbol is "" where it has none."""

    gene_id: str
    symbol: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Renamed:
    """A feature whose name is not the approved symbol of its gene."""

    name: str
    gene_id: str
    symbol: str
    match: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ambiguous:
    """A name of several genes.

    Attributes:
        name: as it was looked up.
        n_columns: features with it.
        n_genes: genes with it.
        genes: the first of them, at most `SHOWN_GENES`.
    """

    name: str
    n_columns: int
    n_genes: int
    genes: tuple[Gene, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicate:
    """A feature whose gene another one stands for; columns are those of the source, from 0."""

    name: str
    column: int
    gene_id: str
    symbol: str
    kept_name: str
    kept_column: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneReport:
    """The features of one data set; lists are in the order of the source.

    Attributes:
        name: of the part.
        species: of the data set.
        n_vars: features.
        kinds: features of each kind.
        matches: features by what they were found by, or why not.
        n_in_vocabulary: genes in the default vocabulary.
        n_vocabulary: genes of that vocabulary.
        n_other_species: genes of the other species.
        n_orthologs: mouse genes that stand under the number of their human ortholog.
        other_types: features that are neither gene nor protein nor control, by feature type.
        renamed: found under another name than the approved symbol.
        ambiguous: names of several genes.
        unmapped: names that were looked up and are unknown.
        duplicates: further columns of a gene.
        controls: their names.
        proteins: their names.
    """

    name: str
    species: str
    n_vars: int
    kinds: dict[str, int]
    matches: dict[str, int]
    n_in_vocabulary: int
    n_vocabulary: int
    n_other_species: int
    n_orthologs: int
    other_types: dict[str, int]
    renamed: tuple[Renamed, ...]
    ambiguous: tuple[Ambiguous, ...]
    unmapped: tuple[str, ...]
    duplicates: tuple[Duplicate, ...]
    controls: tuple[str, ...]
    proteins: tuple[str, ...]


def gene_report(corpus: Corpus, name: str) -> GeneReport:
    """Say what became of the features of one data set.

    Args:
        corpus: that holds it.
        name: name or id of the part.

    Raises:
        ConfigError: there is no such part; the known ones are listed.
        CorruptCorpusError: its var cannot be read.
    """
    part = corpus.part(name)
    stored = stored_table(part, "var")
    order = np.argsort(stored["source_column"].to_numpy())
    var = stored.iloc[order]
    number = part.index.gene_number[order]
    source = source_table(part, "var")
    again = _again(part, source, corpus.genes)
    names = var["source_name"].to_numpy().astype(str)
    gene_id, symbol = (var[c].to_numpy().astype(str) for c in ("gene_id", "symbol"))
    kind = var["kind"].to_numpy().astype(str)
    match = var["match"].to_numpy().astype(str) if "match" in var else again.match
    is_gene = kind == "gene"
    own_number = corpus.genes.numbers_of(gene_id.astype(object))
    of_species = corpus.genes.species[own_number] == part.entry.species
    looked_up = np.where(again.name != "", again.name, names)
    return GeneReport(
        name=part.entry.name,
        species=part.entry.species,
        n_vars=len(var),
        kinds=_counted(kind, KINDS),
        matches=_counted(match, MATCHES),
        n_in_vocabulary=int((corpus.genes.vocabulary[number[is_gene]] >= 0).sum()),
        n_vocabulary=int((corpus.genes.vocabulary >= 0).sum()),
        n_other_species=int((is_gene & ~of_species).sum()),
        n_orthologs=int((is_gene & (own_number != number)).sum()),
        other_types=_types(source[(match == "no gene") & (kind == "unmapped")]),
        renamed=_renamed(looked_up, gene_id, symbol, match),
        ambiguous=_ambiguous(looked_up[match == "ambiguous"], part.entry.species, corpus.genes),
        unmapped=tuple(names[match == "unknown"].tolist()),
        duplicates=_duplicates(names, gene_id, symbol, kind, own_number, number),
        controls=tuple(names[kind == "control"].tolist()),
        proteins=tuple(names[kind == "protein"].tolist()),
    )


def _again(part: Part, source: pd.DataFrame, index: GeneIndex) -> Harmonised:
    orthologs = bool(provenance(part).get("options", {}).get("map_orthologs", False))
    return harmonise(source, species=part.entry.species, index=index, map_orthologs=orthologs)


def _counted(values: NDArray[np.str_], known: tuple[str, ...]) -> dict[str, int]:
    return {each: int((values == each).sum()) for each in known}


def _types(source: pd.DataFrame) -> dict[str, int]:
    lower = {str(column).lower(): column for column in reversed(source.columns)}
    column = next((lower[name] for name in TYPE_COLUMNS if name in lower), None)
    if column is None or source.empty:
        return {}
    counted = source[column].astype(str).value_counts()
    return {str(name): int(n) for name, n in counted.items() if n}


def _renamed(
    names: NDArray[np.str_],
    gene_id: NDArray[np.str_],
    symbol: NDArray[np.str_],
    match: NDArray[np.str_],
) -> tuple[Renamed, ...]:
    rows = np.flatnonzero((gene_id != "") & (match != "id") & (names != symbol))
    return tuple(
        Renamed(
            name=str(names[i]), gene_id=str(gene_id[i]), symbol=str(symbol[i]), match=str(match[i])
        )
        for i in rows
    )


def _ambiguous(names: NDArray[np.str_], species: str, index: GeneIndex) -> tuple[Ambiguous, ...]:
    found = []
    other = SPECIES[1 - SPECIES.index(species)]
    for name, n_columns in pd.Series(names).value_counts(sort=False).items():
        number = gene_names.candidates(str(name), species)
        if number.size < 2:  # of a reference of two species
            number = gene_names.candidates(str(name), other)
        number = number[number < index.n]
        genes = tuple(
            Gene(gene_id=str(index.ensembl_id[n]), symbol=str(index.symbol[n]))
            for n in number[:SHOWN_GENES]
        )
        found.append(
            Ambiguous(name=str(name), n_columns=int(n_columns), n_genes=number.size, genes=genes)
        )
    return tuple(found)


def _duplicates(
    names: NDArray[np.str_],
    gene_id: NDArray[np.str_],
    symbol: NDArray[np.str_],
    kind: NDArray[np.str_],
    own_number: NDArray[np.int32],
    number: NDArray[np.int32],
) -> tuple[Duplicate, ...]:
    kept = np.flatnonzero(kind == "gene")
    by_id = {str(gene_id[i]): int(i) for i in kept}
    by_number = {int(number[i]): int(i) for i in kept}
    out = []
    for i in np.flatnonzero(kind == "duplicate"):
        # A human gene whose number a mouse ortholog has is found by the number alone.
        at = by_id.get(str(gene_id[i]), by_number.get(int(own_number[i]), int(i)))
        out.append(
            Duplicate(
                name=str(names[i]),
                column=int(i),
                gene_id=str(gene_id[i]),
                symbol=str(symbol[i]),
                kept_name=str(names[at]),
                kept_column=int(at),
            )
        )
    return tuple(out)
