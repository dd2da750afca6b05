from __future__ import annotations

import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellplm.corpus.genes import GeneIndex
from cellplm.errors import GenesError
from cellplm.ingest import gene_names
from cellplm.ingest.feature_kind import CONTROL, PROTEIN
from cellplm.ingest.harmonise import KINDS, MATCHES, Harmonised, harmonise, known_fraction
from tests.shared import SHARED, needs_shared

INDEX = GeneIndex.bundled()
CD3E = "ENSG00000198851"
MOUSE_CD3E = "ENSMUSG00000032093"


def look_up(
    names: list[str],
    *,
    species: str | None = None,
    map_orthologs: bool = False,
    **columns: list[str],
) -> Harmonised:
    var = pd.DataFrame(columns, index=pd.Index(names, dtype=object))
    return harmonise(var, species=species, index=INDEX, map_orthologs=map_orthologs)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (CD3E, "id"),
        (f"{CD3E}.12", "id"),
        (f"{CD3E}.12_PAR_Y", "id"),
        (f"GRCh38_{CD3E}", "id"),
        (f"CD3E_{CD3E}", "id"),
        (f"{CD3E}.12|CD3E", "id"),
        ("CD3E_ENSG00000999999", "approved symbol"),
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


def test_a_symbol_of_several_genes_is_settled_by_an_older_release_or_the_human_homolog() -> None:
    found = look_up(["Nrg1", "Aldoa"])
    assert found.gene_id.tolist() == ["ENSMUSG00000062991", "ENSMUSG00000030695"]
    assert found.match.tolist() == ["approved symbol", "approved symbol"]


@pytest.mark.parametrize(
    ("name", "gene_id"),
    [
        ("RP11-34P13.7", "ENSG00000238009"),
        ("STRA13", "ENSG00000169689"),
        ("Sepp1", "ENSMUSG00000064373"),
        ("Large", "ENSMUSG00000004383"),
    ],
)
def test_names_of_an_older_release_are_previous_symbols(name: str, gene_id: str) -> None:
    found = look_up([name])
    assert found.gene_id.tolist() == [gene_id]
    assert found.match.tolist() == ["previous symbol"]


@pytest.mark.parametrize("name", ["AL627309.1", "AC145212.1", "52", "100507229"])
def test_accession_names_and_bare_numbers_name_no_gene(name: str) -> None:
    found = look_up(["CD3E", name])
    assert found.kind.tolist() == ["gene", "unmapped"]
    assert found.match.tolist() == ["approved symbol", "unknown"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("HLA.A", "HLA-A"), ("NKX6.2", "NKX6-2"), ("MT.ND1", "MT-ND1"), ("ERVFRD.1", "ERVFRD-1"),
        ("C1ORF159", "C1orf159"), ("CXORF58", "CXorf58"), ("HLA.DRB1", "HLA-DRB1"),
    ],
)  # fmt: skip
def test_names_that_r_or_upper_case_changed_are_understood(written: str, meant: str) -> None:
    found, plain = look_up([written]), look_up([meant])
    assert found.symbol.tolist() == [meant]
    assert found.gene_id.tolist() == plain.gene_id.tolist()
    assert found.name.tolist() == [written]


def test_a_mouse_name_that_r_changed_is_understood() -> None:
    found = look_up(["X0610009B22Rik", "H2.K1", "Xkr4"])
    assert found.symbol.tolist() == ["Trappc2b", "H2-K1", "Xkr4"]


def test_a_second_name_made_unique_is_no_other_gene() -> None:
    # Alone, APP-1 is an alias of PABPC4; beside APP it is a second APP.
    assert look_up(["APP-1"]).symbol.tolist() == ["PABPC4"]
    found = look_up(["APP", "APP-1", "ERV3", "ERV3.1"])
    assert found.symbol.tolist()[:2] == ["APP", ""]
    assert found.match.tolist()[1] == "unknown"
    assert found.symbol.tolist()[3] == ""


def test_an_alias_that_r_could_have_written_is_told_apart_by_the_other_names() -> None:
    # NKX6.1 is an alias of NKX6-2, and NKX6-1 after R.
    after_r = look_up(["NKX6.1", "HLA.A", "HLA.B", "HLA.C", "CD3E"])
    assert after_r.symbol.tolist() == ["NKX6-1", "HLA-A", "HLA-B", "HLA-C", "CD3E"]
    plain = look_up(["NKX6.1", "HLA-A", "HLA-B", "HLA-C", "CD3E"])
    assert plain.ambiguous == ("NKX6.1",)
    several = gene_names.candidates("NKX6.1", "human")
    assert sorted(INDEX.symbol[several]) == ["NKX6-1", "NKX6-2"]


def test_of_two_old_names_the_one_that_a_release_used_has_the_gene() -> None:
    found = look_up(["C17orf47", "SEPT4"])
    assert found.kind.tolist() == ["duplicate", "gene"]
    assert found.match.tolist() == ["previous symbol", "previous symbol"]


def test_a_name_as_written_has_the_gene_before_one_that_was_changed() -> None:
    found = look_up(["C6ORF165", "C6orf165"])
    assert found.kind.tolist() == ["duplicate", "gene"]


def test_an_ambiguous_name_is_reported_and_not_guessed() -> None:
    found = look_up(["CD3E", "Y_RNA"])
    assert found.ambiguous == ("Y_RNA",)
    assert found.kind.tolist() == ["gene", "unmapped"]
    assert found.gene_number[1] == -1
    assert found.match.tolist() == ["approved symbol", "ambiguous"]
    assert found.name.tolist() == ["CD3E", "Y_RNA"]
    several = gene_names.candidates("Y_RNA", "human")
    assert len(several) > 100
    assert set(INDEX.species[several]) == {"human"}


def test_the_candidates_of_a_name_are_those_of_its_best_level() -> None:
    assert INDEX.symbol[gene_names.candidates("C11orf48", "human")].tolist() == [
        "LBHD1",
        "C11orf98",
    ]
    assert INDEX.symbol[gene_names.candidates("CD3E", "human")].tolist() == ["CD3E"]
    assert gene_names.candidates("nope", "human").size == 0


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


def test_symbols_in_the_case_of_mouse_are_mouse_also_on_a_small_panel() -> None:
    assert look_up(["Gad2", "Vip"]).species == "mouse"
    assert look_up(["GAD2", "VIP"]).species == "human"


def barnyard() -> tuple[list[str], list[str], list[str]]:
    """Names, ids and expected ids as Cell Ranger writes them for GRCh38 and mm10."""
    human, mouse = INDEX.ensembl_id[:30], INDEX.ensembl_id[INDEX.species == "mouse"][:20]
    symbol = [*INDEX.symbol[:30], *INDEX.symbol[INDEX.species == "mouse"][:20]]
    prefix = ["GRCh38_"] * 30 + ["mm10___"] * 20
    names = [p + (s or i) for p, s, i in zip(prefix, symbol, [*human, *mouse], strict=True)]
    ids = [p + i for p, i in zip(prefix, [*human, *mouse], strict=True)]
    return names, ids, [*human, *mouse]


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_reference_of_two_species_gives_each_gene_its_own_number(with_ids: bool) -> None:
    names, ids, expected = barnyard()
    found = look_up(names, feature_id=ids) if with_ids else look_up(names)
    assert found.gene_id.tolist() == expected
    assert INDEX.ensembl_id[found.gene_number].tolist() == expected
    assert found.species == "human"
    assert found.n_other_species == 20
    assert any("20 of 50 genes are of the other species" in each for each in found.warnings)


def test_a_prefix_decides_also_where_a_symbol_exists_in_both_species() -> None:
    both = sorted(set(INDEX.symbol[INDEX.species == "human"]) & set(
        INDEX.symbol[INDEX.species == "mouse"]
    ) - {""})  # fmt: skip
    name = next(n for n in both if gene_names.candidates(n, "human").size == 1
                and gene_names.candidates(n, "mouse").size == 1)  # fmt: skip
    found = look_up([f"hg19_{name}", f"mm10_{name}", "hg19-CD3E", "MOUSE_Cd3e"])
    assert INDEX.species[found.gene_number].tolist() == ["human", "mouse", "human", "mouse"]
    assert found.gene_id.tolist()[2:] == [CD3E, MOUSE_CD3E]


def test_ids_of_both_species_are_found_without_prefixes() -> None:
    found = look_up([CD3E, MOUSE_CD3E, "ENSG00000090382"])
    assert found.kind.tolist() == ["gene", "gene", "gene"]
    assert (found.species, found.n_other_species) == ("human", 1)


def test_only_genes_of_another_species_than_asked_are_refused() -> None:
    with pytest.raises(GenesError, match="not one feature is a human gene, but 1 are genes of"):
        look_up([MOUSE_CD3E], species="human")


def test_orthologs_stand_under_the_number_of_the_human_gene_and_keep_their_id() -> None:
    names = ["Cd3e", "Gad1", "Xkr4", "Ighv1-4", "Blank-1"]
    plain, mapped = look_up(names), look_up(names, map_orthologs=True)
    assert mapped.gene_id.tolist() == plain.gene_id.tolist()
    assert mapped.symbol.tolist() == ["Cd3e", "Gad1", "Xkr4", "Ighv1-4", ""]
    assert mapped.species == "mouse"
    human = INDEX.numbers_of([CD3E, "ENSG00000128683", "ENSG00000206579"])
    assert mapped.gene_number.tolist()[:3] == human.tolist()
    # No one-to-one ortholog: it stays under its own number.
    assert mapped.gene_number[3] == plain.gene_number[3] >= 0
    assert (plain.n_orthologs, mapped.n_orthologs) == (0, 3)
    assert mapped.warnings == (
        "3 of 4 mouse genes stand under the number of their one-to-one human ortholog",
    )


def test_a_human_gene_in_a_mouse_data_set_gives_way_to_the_ortholog() -> None:
    mouse = list(INDEX.ensembl_id[INDEX.species == "mouse"][1000:1012])
    found = look_up([CD3E, *mouse, MOUSE_CD3E], map_orthologs=True)
    assert found.kind.tolist() == ["duplicate", *["gene"] * 13]
    assert found.gene_id[0] == CD3E
    assert INDEX.ensembl_id[found.gene_number[-1]] == CD3E


def test_orthologs_are_not_mapped_where_both_species_are_measured() -> None:
    found = look_up([CD3E, MOUSE_CD3E, "ENSMUSG00000070880"], map_orthologs=True)
    assert found.species == "mouse"
    assert INDEX.ensembl_id[found.gene_number].tolist() == found.gene_id.tolist()
    assert "orthologs are not mapped: genes of both species are measured" in found.warnings


def test_human_data_do_not_change_with_orthologs() -> None:
    assert look_up(["CD3E"], map_orthologs=True).gene_number == look_up(["CD3E"]).gene_number


def test_ids_that_stand_beside_other_names_are_refused() -> None:
    rows = np.flatnonzero((INDEX.species == "human") & (INDEX.symbol != ""))[:40]
    ids, names = list(INDEX.ensembl_id[rows]), list(INDEX.symbol[rows])
    assert look_up(names, gene_ids=ids).warnings == ()
    swapped = [*ids[:35], *reversed(ids[35:])]
    (warning,) = look_up(names, gene_ids=swapped).warnings
    assert warning.startswith("the ids of 4 of 40 features belong to other genes than their names")
    with pytest.raises(GenesError, match="the ids of 40 of 40 features.*in another order"):
        look_up(names, gene_ids=list(reversed(ids)))


@pytest.mark.parametrize(
    "name",
    [
        "ERCC-00002", "NegPrb11", "Negative1", "NegControlProbe_00042", "NegControlCodeword_0500",
        "Blank-23", "BLANK_0001", "SystemControl1", "FalseCode12", "UnassignedCodeword_0003",
        "antisense_PROKR2", "DeprecatedCodeword_0321", "Negative01", "NegPrb01", "Blank1",
        "DEPRECATED_ENSG00000061455", "Blank_A", "GenomicControl_3", "Intergenic_Region_12",
    ],
)  # fmt: skip
def test_controls_are_no_genes(name: str) -> None:
    assert look_up(["CD3E", name]).kind.tolist() == ["gene", "control"]


def test_no_known_name_looks_like_a_control_or_a_protein() -> None:
    for species in gene_names.SPECIES:
        names = pd.Series(gene_names._table(species).names.name.to_pylist())
        for pattern in (CONTROL, PROTEIN):
            assert names[names.str.contains(pattern)].tolist() == []


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


@pytest.mark.parametrize(
    ("feature_type", "kind"),
    [
        ("Gene Expression", "gene"), ("", "gene"), ("protein_coding", "gene"),
        ("CRISPR Guide Capture", "unmapped"), ("Peaks", "unmapped"), ("Custom", "unmapped"),
        ("Multiplexing Capture", "unmapped"), ("Antigen Capture", "unmapped"),
        ("Antibody Capture", "protein"), ("Protein Expression", "protein"),
        ("Negative Control Codeword", "control"), ("Blank Codeword", "control"),
        ("Unassigned Codeword", "control"), ("Genomic Control", "control"),
    ],
)  # fmt: skip
def test_only_gene_expression_may_be_a_gene_whatever_the_name(feature_type: str, kind: str) -> None:
    found = look_up(["LYZ", "STAT1"], feature_types=["Gene Expression", feature_type])
    assert found.kind.tolist() == ["gene", kind]
    assert found.match.tolist()[1] == ("approved symbol" if kind == "gene" else "no gene")
    assert (found.gene_number[1] >= 0) == (kind == "gene")
    assert (found.gene_id[1] != "") == (kind == "gene")


def test_a_guide_does_not_take_the_number_of_its_target() -> None:
    types = ["CRISPR Guide Capture", "Antibody Capture", "Gene Expression", "Gene Expression"]
    found = look_up(["STAT1", "STAT1", "STAT1", "STAT1"], feature_types=types)
    assert found.kind.tolist() == ["unmapped", "protein", "gene", "duplicate"]


def test_biotypes_are_no_other_feature_types() -> None:
    found = look_up(["LYZ", "MALAT1", "STAT1"], feature_type=["protein_coding", "lncRNA", "misc"])
    assert found.kind.tolist() == ["gene", "gene", "gene"]


@pytest.mark.parametrize("name", ["CD3E_TotalSeqB", "adt_CD3E", "ADT-CD3E", "HTO_1", "HTO3"])
def test_antibodies_are_known_by_name_too(name: str) -> None:
    assert look_up(["CD3E", name]).kind.tolist() == ["gene", "protein"]


def test_a_part_of_a_gene_is_not_the_gene() -> None:
    found = look_up([CD3E, "intron_ENSG00000090382", "ENSG00000090382|probe_7"])
    assert found.kind.tolist() == ["gene", "unmapped", "unmapped"]


def test_genes_of_another_organism_are_refused_as_such() -> None:
    with pytest.raises(GenesError, match="genes of another species"):
        look_up(["ENSDARG00000000001", "ENSDARG00000000002"])


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
    assert set(found.match.tolist()) <= set(MATCHES)
    assert ((found.gene_id != "") == np.isin(found.kind, ["gene", "duplicate"])).all()


def test_an_older_index_gives_no_number_it_lacks() -> None:
    older = GeneIndex.from_bytes(_first_rows(100))
    var = pd.DataFrame(index=[*INDEX.ensembl_id[:3], *INDEX.ensembl_id[5000:5003], "Xkr4"])
    assert harmonise(var, species=None, index=older).counts["gene"] == 3


def test_names_of_genes_are_known_and_names_of_cells_are_not() -> None:
    assert known_fraction(["CD3E", "Xkr4", f"{CD3E}.3", "DDX58"]) == 1
    assert known_fraction(["AAACCTG-1", "cell_7"]) == 0
    assert known_fraction([]) == 0


@needs_shared
@pytest.mark.parametrize(
    ("path", "species", "n_genes", "n_unmapped"),
    [
        ("srt-osmfish-h5ad/smfish.h5ad", "mouse", 33, 0),
        # Mouse cells, but the symbols are human.
        ("sc-pancreas-cider/pancreas.converted.h5ad", "human", 12_470, 3),
        ("sc-kang-ifnb-1k/pbmc.ctrl.converted.h5ad", "human", 8_914, 97),
        # Names such as TXNIP_ENSG00000117289, some with ids that Ensembl has retired.
        ("sc-kang-muscat/example_sce.converted.h5ad", "human", 1_264, 3),
        ("srt-cosmx-lung5/lung5.converted.h5ad", "human", 960, 0),
        ("srt-h5ad-misc/merfish.h5ad", "mouse", 155, 0),
        ("srt-h5ad-misc/cortex.h5ad", "mouse", 648, 0),
    ],
)
def test_real_data_sets_are_recognised(
    path: str, species: str, n_genes: int, n_unmapped: int
) -> None:
    with warnings.catch_warnings(), h5py.File(SHARED / path) as file:
        warnings.simplefilter("ignore")  # of anndata, about old files
        var = ad.io.read_elem(file["var"])
    found = harmonise(var, species=None, index=INDEX)
    assert found.species == species
    assert (found.counts["gene"], found.counts["unmapped"]) == (n_genes, n_unmapped)


def _first_rows(n: int) -> bytes:
    import io

    table = pd.read_parquet(io.BytesIO(INDEX.raw_bytes)).head(n)
    out = io.BytesIO()
    table.assign(ortholog=np.int32(-1)).to_parquet(out)
    return out.getvalue()


def test_a_retired_id_is_the_gene_that_has_its_symbol_now() -> None:
    index = GeneIndex.bundled()
    retired, now = "ENSG00000117289", "ENSG00000265972"  # TXNIP
    genes = harmonise(pd.DataFrame(index=[retired, "CD3E"]), species=None, index=index)
    assert genes.gene_id[0] == now
    assert index.vocabulary[genes.gene_number[0]] >= 0
    both = harmonise(pd.DataFrame(index=[retired, now]), species=None, index=index)
    assert both.kind.tolist() == ["duplicate", "gene"]


def test_no_gene_of_the_vocabulary_is_taken_for_another() -> None:
    index = GeneIndex.bundled()
    ids = list(index.vocabulary_ids())
    genes = harmonise(pd.DataFrame(index=ids), species="human", index=index)
    assert genes.gene_id.tolist() == ids
