from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellplm.corpus.genes import GeneIndex
from cellplm.errors import GenesError
from cellplm.ingest.harmonise import KINDS, Harmonised, harmonise, known_fraction

INDEX = GeneIndex.bundled()
CD3E = "ENSG00000198851"


def look_up(names: list[str], *, species: str | None = None, **columns: list[str]) -> Harmonised:
    var = pd.DataFrame(columns, index=pd.Index(names, dtype=object))
    return harmonise(var, species=species, index=INDEX)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (CD3E, "id"),
        (f"{CD3E}.12", "id"),
        ("GRCh38_CD3E", "approved symbol"),
        ("hg19_CD3E", "approved symbol"),
        ("CD3E", "approved symbol"),
        (" CD3E ", "approved symbol"),
    ],
)
def test_every_spelling_reaches_the_gene(name: str, how: str) -> None:
    found = look_up([name])
    assert found.gene_id.tolist() == [CD3E]
    assert found.symbol.tolist() == ["CD3E"]
    assert found.how[how] == 1
    assert INDEX.ensembl_id[found.gene_number[0]] == CD3E


@pytest.mark.parametrize(
    ("old", "new"), [("DDX58", "RIGI"), ("C9orf16", "BBLN"), ("KARS", "KARS1"), ("WARS", "WARS1")]
)
def test_a_retired_symbol_reaches_the_gene_of_today(old: str, new: str) -> None:
    found = look_up([old])
    assert found.symbol.tolist() == [new]
    assert found.how["previous symbol"] == 1


def test_a_previous_symbol_of_several_genes_is_settled_by_the_release_that_used_it() -> None:
    assert look_up(["QARS"]).symbol.tolist() == ["QARS1"]


def test_an_ambiguous_name_is_reported_and_not_guessed() -> None:
    found = look_up(["CD3E", "Y_RNA"])
    assert found.ambiguous == ("Y_RNA",)
    assert found.kind.tolist() == ["gene", "unmapped"]
    assert found.gene_number[1] == -1


def test_the_second_column_of_a_gene_is_a_duplicate() -> None:
    found = look_up(["CD3E", "LYZ", "CD3E"])
    assert found.kind.tolist() == ["gene", "gene", "duplicate"]
    assert found.gene_number[2] == -1
    assert found.gene_id[2] == CD3E


def test_the_better_match_gets_the_gene_even_when_it_comes_later() -> None:
    found = look_up(["DDX58", "RIGI"])
    assert found.kind.tolist() == ["duplicate", "gene"]


def test_an_id_column_counts_before_the_name() -> None:
    found = look_up(["LYZ"], gene_ids=[f"{CD3E}.1"])
    assert found.symbol.tolist() == ["CD3E"]


def test_a_symbol_column_is_used_where_the_index_says_nothing() -> None:
    assert look_up(["0", "1"], feature_name=["CD3E", "LYZ"]).symbol.tolist() == ["CD3E", "LYZ"]


def test_missing_values_in_an_id_column_are_no_ids() -> None:
    var = pd.DataFrame({"gene_ids": [None, np.nan]}, index=["CD3E", "LYZ"])
    assert harmonise(var, species=None, index=INDEX).counts["gene"] == 2


@pytest.mark.parametrize("prefix", ["", "mm10_", "mm10___"])
def test_mouse_is_recognised_and_stays_mouse(prefix: str) -> None:
    found = look_up([prefix + name for name in ("Xkr4", "Cd3e", "Lyz2", "Gad1")])
    assert found.species == "mouse"
    assert found.counts["gene"] == 4
    assert (INDEX.species[found.gene_number] == "mouse").all()


def test_an_asked_species_is_kept() -> None:
    assert look_up(["CD3E", "Xkr4", "Gad1"], species="human").counts["gene"] == 1
    with pytest.raises(GenesError, match="human, mouse"):
        look_up(["CD3E"], species="dog")


@pytest.mark.parametrize(
    "name",
    [
        "ERCC-00002", "NegPrb11", "Negative1", "NegControlProbe_00042", "NegControlCodeword_0500",
        "Blank-23", "BLANK_0001", "SystemControl1", "FalseCode12", "UnassignedCodeword_0003",
        "antisense_PROKR2", "DeprecatedCodeword_0321",
    ],
)  # fmt: skip
def test_controls_are_no_genes(name: str) -> None:
    assert look_up(["CD3E", name]).kind.tolist() == ["gene", "control"]


@pytest.mark.parametrize("name", ["ERCC1", "BLNK", "NEGR1", "NELFB", "BLM"])
def test_genes_named_like_controls_are_genes(name: str) -> None:
    assert look_up([name]).kind.tolist() == ["gene"]


def test_feature_types_tell_proteins_and_controls() -> None:
    found = look_up(
        ["CD3E", "CD3E", "LYZ", "probe"],
        feature_types=[
            "Gene Expression", "Antibody Capture", "protein_coding", "Negative Control Probe",
        ],
    )  # fmt: skip
    assert found.kind.tolist() == ["gene", "protein", "gene", "control"]


def test_nothing_recognised_is_told_with_examples() -> None:
    with pytest.raises(GenesError, match="none of 3 features.*'foo1'") as caught:
        look_up(["foo1", "foo2", "foo3"])
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["CD3E", CD3E, "LYZ", "DDX58", "RIGI", "Y_RNA", "nope", "ERCC-00002"]),
        min_size=1,
    ).filter(lambda names: set(names) & {"CD3E", CD3E, "LYZ", "DDX58", "RIGI"})
)
def test_no_gene_is_given_twice_and_kinds_add_up(names: list[str]) -> None:
    found = look_up(names)
    numbers = found.gene_number[found.kind == "gene"]
    assert (numbers >= 0).all()
    assert len(set(numbers.tolist())) == numbers.size
    assert (found.gene_number[found.kind != "gene"] == -1).all()
    assert sum(found.counts.values()) == len(names)
    assert set(found.counts) == set(KINDS)
    assert sum(found.how.values()) == found.counts["gene"] + found.counts["duplicate"]


def test_an_older_index_gives_no_number_it_lacks() -> None:
    older = GeneIndex.from_bytes(_first_rows(100))
    var = pd.DataFrame(index=[*INDEX.ensembl_id[:3], *INDEX.ensembl_id[5000:5003], "Xkr4"])
    assert harmonise(var, species=None, index=older).counts["gene"] == 3


def test_names_of_genes_are_known_and_names_of_cells_are_not() -> None:
    assert known_fraction(["CD3E", "Xkr4", f"{CD3E}.3", "DDX58"]) == 1
    assert known_fraction(["AAACCTG-1", "cell_7"]) == 0
    assert known_fraction([]) == 0


def _first_rows(n: int) -> bytes:
    import io

    table = pd.read_parquet(io.BytesIO(INDEX.raw_bytes)).head(n)
    out = io.BytesIO()
    table.assign(ortholog=np.int32(-1)).to_parquet(out)
    return out.getvalue()
