"""Which text files belong together, by their names alone.

Files of one data set have one name but for the words that say what each holds: `X.count.csv.gz`
and `X.metadata.csv.gz`, `H1_Data.csv` and `H1_Labels.csv`, `slice1.csv` and `slice1_coor.csv`,
`counts.csv` and `coords.csv`. These words may stand anywhere and be written together
(CellCoordinates), with `_`, `-`, `.` or a space between them. A word that is not known here, such
as in `slice1_uniform_weights.csv`, makes another name of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["", "matrix", "cells", "positions", "meanings", "genes"]
"""What a name says of a file: nothing; counts; a table about cells; their positions; what the
values of a column about cells mean; a table about genes."""

SUFFIX = re.compile(r"(\.(csv|tsv|tab|txt|dat|matrix))+(\.(gz|gzip|bgz))?$", re.I)

_WORDS: dict[Role, str] = {
    "matrix": (
        "counts count raw raw_counts data expression_matrix expression expr exprs matrix mat dge "
        "umi umis umi_counts gene_expression expression_pd raw_expression_pd cell_by_gene "
        "cell_x_gene gene_by_cell gene_x_cell expression_data count_matrix counts_matrix "
        "mapped_dge_for_r"
    ),
    "cells": (
        "cell_metadata metadata meta_data meta cell_meta annotations annotation annot anno ann "
        "cell_annotations cell_annotation cell_annot labels label cell_labels cell_types cell_type "
        "clusters cluster numi n_umi cell_info cells obs barcodes_metadata col_data pdata "
        "pheno_data sample_sheet spot_metadata spots"
    ),
    "positions": (
        "coor coors coord coords coordinate coordinates cell_coordinates cell_coords "
        "cell_coordinate spot_coordinates spot_coords spatial_coordinates spatial_coords locs loc "
        "location locations cell_locations spatial_locations spatial_locs spatial_loc spatial "
        "positions position tissue_positions tissue_positions_list cell_positions centroids "
        "cell_centroids bead_locations bead_locations_for_r xy"
    ),
    "meanings": "cell_type_dict cluster_dict cluster_names cluster_dictionary cell_type_dictionary",
    "genes": (
        "gene_ann gene_anno gene_annot gene_annotation gene_annotations gene_metadata gene_meta "
        "gene_info gene_names genes features feature_metadata row_data fdata var"
    ),
}  # fmt: skip
_ROLE_OF: dict[str, Role] = {
    word.replace("_", ""): role for role, words in _WORDS.items() for word in words.split()
}
_LONGEST = 4
# The single cell portal writes "well05raw_expression_pd.csv".
_GLUED = re.compile(r"(?<=[A-Za-z0-9])(raw_expression_pd)$", re.I)


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """What the name of a file says.

    Attributes:
        role: what it holds.
        word: the words that say so, in lower case and singular: "label", "cell_type".
        stem: the other parts, in lower case: equal for the files of one data set.
        name: the same, to be read.
    """

    role: Role
    word: str
    stem: tuple[str, ...]
    name: str


def named(path: Path) -> Named:
    """Take the name of a file apart; of several words that are no matrix, the last counts."""
    stem = _GLUED.sub(r"_\1", SUFFIX.sub("", path.name))
    parts = [part for part in re.split(r"[-_. ]+", stem) if part]
    rest: list[str] = []
    role: Role = ""
    word = ""
    at = 0
    while at < len(parts):
        for n in range(min(_LONGEST, len(parts) - at), 0, -1):
            found = _ROLE_OF.get("".join(parts[at : at + n]).lower())
            if found is not None:
                if role in ("", "matrix") or found != "matrix":
                    role = found
                    word = "_".join(parts[at : at + n]).lower().removesuffix("s")
                at += n
                break
        else:
            rest.append(parts[at])
            at += 1
    return Named(
        role=role, word=word, stem=tuple(part.lower() for part in rest), name="_".join(rest)
    )
