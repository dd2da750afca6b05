"""Which features cannot be genes, whatever their names say.

Spike-ins and negative controls are known by name; antibodies, guides, peaks and tags by the
feature type that the format gives them. Where a column says of some features that they are gene
expression, only these may be genes: an antibody "CD3E" and a guide "STAT1" are none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

TYPE_COLUMNS = ("feature_types", "feature_type", "type")

# Spike-ins, and the negative controls of CosMx, Xenium, MERSCOPE and in situ panels.
CONTROL = (
    r"(?i)^(?:ERCC[-_.][0-9]|SpikeIn|NegPrb|Neg(?:ative)?[-_ ]?Control|Negative(?:[-_ .]?[0-9]+)?$"
    r"|Blank(?:[-_ .]?[0-9].*|[-_ ].*)?$|SystemControl|FalseCode|antisense_|Intergenic_?Region"
    r"|(?:Unassigned|Deprecated)(?:[-_ ]?Codeword|_)|Genomic[-_ ]?Control)"
)
PROTEIN = r"(?i)(?:[-_ ]TotalSeq[-_]?[ABCD]?$|^(?:adt|hto|hashtag)[-_: ]|^HTO[0-9]+$)"

GENE_TYPES = r"(?i)^(?:gene[-_ ]?expression|genes?|gex|m?rna)$"
# Of Ensembl's and CELLxGENE's annotation, where a type is a biotype.
BIOTYPES = r"(?i)(?:coding|rna$|pseudogene|_gene$|processed_transcript|^tec$|antisense|intronic)"
CONTROL_TYPES = r"(?i)(?:control|blank|unassigned|deprecated|false ?code|spike)"
PROTEIN_TYPES = r"(?i)(?:antibody|protein|(?:^|[^a-z])adt(?:[^a-z]|$)|hashtag|cite[-_]?seq)"
OTHER_TYPES = r"(?i)(?:crispr|guide|\bs?grna|peak|chromatin|\batac|multiplexing|antigen|\bvdj)"


def kinds(names: Sequence[pa.StringArray], var: pd.DataFrame) -> NDArray[np.str_]:
    """What each feature is if it is no gene.

    Args:
        names: names and ids of the V features, each (V,), without genome prefix.
        var: the features' table, for the columns of types.

    Returns:
        (V,) "control", "protein", "unmapped" for another type, "" for what may be a gene.
    """
    kind = np.full(len(var), "", dtype="<U9")
    for each in names:
        kind[matches(each, PROTEIN)] = "protein"
    lower = {str(column).lower(): column for column in reversed(var.columns)}
    for wanted in TYPE_COLUMNS:
        if wanted in lower:
            types = text(var[lower[wanted]])
            gene, empty = matches(types, GENE_TYPES), matches(types, r"(?i)^(?:nan|none)?$")
            biotype = matches(types, BIOTYPES)
            allowed = gene | empty | biotype if gene.any() else np.ones(len(var), dtype=bool)
            kind[~allowed | matches(types, OTHER_TYPES)] = "unmapped"
            kind[matches(types, PROTEIN_TYPES) & ~biotype] = "protein"
            kind[matches(types, CONTROL_TYPES)] = "control"
    for each in names:
        kind[matches(each, CONTROL) & (kind != "protein")] = "control"
    return kind


def text(values: pd.Series[str] | pd.Index[str]) -> pa.StringArray:
    """(V,) strings without spaces at the ends; missing ones are ""."""
    plain = pd.Series(np.asarray(values, dtype=object))
    plain = plain.where(plain.notna(), "").astype(str)
    return pc.utf8_trim_whitespace(pa.array(plain, type=pa.string()))


def matches(values: pa.StringArray, pattern: str) -> NDArray[np.bool_]:
    """(V,) whether a pattern (RE2) is found in each."""
    out: NDArray[np.bool_] = pc.match_substring_regex(values, pattern).to_numpy(
        zero_copy_only=False
    )
    return out
