"""Every feature of a data set is accounted for, by name."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.corpus.tables import stored_table
from cellplm.errors import ConfigError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.gene_report import SHOWN_GENES, Gene, Renamed, gene_report
from cellplm.ingest.harmonise import MATCHES
from cellplm.ingest.options import IngestOptions
from tests.make import make_corpus
from tests.shared import SHARED, needs_shared

FEATURES = {
    "nope": "Gene Expression",
    "LYZ": "Gene Expression",
    "ENSG00000090382": "Gene Expression",  # LYZ by id
    "DDX58": "Gene Expression",
    "Y_RNA": "Gene Expression",
    "CD3E": "Antibody Capture",
    "STAT1": "CRISPR Guide Capture",
    "GAPDH": "Gene Expression",
    "ERCC-00002": "Gene Expression",
    "C11orf48": "Gene Expression",
    "NKX2.2": "Gene Expression",
    "MALAT1": "Gene Expression",
}


def corpus_of(folder: Path, names: list[str], **columns: list[str]) -> Corpus:
    counts = np.random.default_rng(0).poisson(3, (20, len(names))).astype(np.float32)
    adata = ad.AnnData(
        counts,
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(20)]),
        var=pd.DataFrame(columns, index=names),
    )
    return make_corpus(folder, adata)


def test_every_feature_is_accounted_for(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, list(FEATURES), feature_types=list(FEATURES.values()))
    report = gene_report(corpus, "set0")
    assert (report.name, report.species, report.n_vars) == ("set0", "human", 12)
    assert report.kinds == {
        "gene": 5, "duplicate": 1, "unmapped": 4, "control": 1, "protein": 1
    }  # fmt: skip
    assert report.matches == {
        "id": 1, "approved symbol": 3, "previous symbol": 1, "alias": 1, "ambiguous": 2,
        "unknown": 1, "no gene": 3,
    }  # fmt: skip
    assert sum(report.kinds.values()) == sum(report.matches.values()) == report.n_vars
    assert tuple(report.matches) == MATCHES
    # MALAT1 is no gene of the default vocabulary.
    assert (report.n_in_vocabulary, report.n_vocabulary) == (4, 19_374)
    assert (report.n_other_species, report.n_orthologs) == (0, 0)
    assert report.other_types == {"CRISPR Guide Capture": 1}
    assert report.unmapped == ("nope",)
    assert report.controls == ("ERCC-00002",)
    assert report.proteins == ("CD3E",)
    assert report.renamed == (
        Renamed(
            name="DDX58", gene_id="ENSG00000107201", symbol="RIGI", match="previous symbol"
        ),
        Renamed(name="NKX2.2", gene_id="ENSG00000125820", symbol="NKX2-2", match="alias"),
    )  # fmt: skip
    (duplicate,) = report.duplicates
    assert (duplicate.name, duplicate.column, duplicate.symbol) == ("LYZ", 1, "LYZ")
    assert (duplicate.kept_name, duplicate.kept_column) == ("ENSG00000090382", 2)


def test_an_ambiguous_name_is_listed_with_its_genes(tmp_path: Path) -> None:
    report = gene_report(corpus_of(tmp_path, list(FEATURES)), "set0")
    several, two = report.ambiguous
    assert (several.name, several.n_columns) == ("Y_RNA", 1)
    assert several.n_genes > len(several.genes) == SHOWN_GENES
    assert two.name == "C11orf48"
    assert two.genes == (
        Gene(gene_id="ENSG00000162194", symbol="LBHD1"),
        Gene(gene_id="ENSG00000278615", symbol="C11orf98"),
    )


def test_the_name_that_was_found_is_told_where_the_index_holds_numbers(tmp_path: Path) -> None:
    names = ["DDX58", "LYZ", "Y_RNA"]
    report = gene_report(corpus_of(tmp_path, ["0", "1", "2"], feature_name=names), "set0")
    assert [(each.name, each.symbol) for each in report.renamed] == [("DDX58", "RIGI")]
    assert [each.name for each in report.ambiguous] == ["Y_RNA"]


def test_columns_that_have_our_names_do_not_mislead_the_report(tmp_path: Path) -> None:
    ids = ["ENSG00000107201", "ENSG00000090382"]
    corpus = corpus_of(tmp_path, ["a", "b"], gene_id=ids, symbol=["x", "y"], kind=["u", "v"])
    report = gene_report(corpus, "set0")
    assert report.matches["id"] == 2
    assert report.renamed == ()


def test_a_gene_of_two_species_is_told_apart(tmp_path: Path) -> None:
    names = ["GRCh38_CD3E", "GRCh38_LYZ", "GRCh38_Y_RNA", "mm10___Cd3e"]
    report = gene_report(corpus_of(tmp_path, names), "set0")
    assert (report.species, report.n_other_species) == ("human", 1)
    assert [each.name for each in report.ambiguous] == ["Y_RNA"]
    assert report.renamed == ()


def test_mouse_genes_under_human_numbers_are_counted(tmp_path: Path) -> None:
    names = ["Cd3e", "Gad1", "Ighv1-4", "Cd3e_ENSMUSG00000032093"]
    counts = np.random.default_rng(0).poisson(3, (20, 4)).astype(np.float32)
    adata = ad.AnnData(
        counts,
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(20)]),
        var=pd.DataFrame(index=names),
    )
    corpus = make_corpus(tmp_path, adata, options=IngestOptions(map_orthologs=True))
    report = gene_report(corpus, "set0")
    assert (report.species, report.n_orthologs, report.n_other_species) == ("mouse", 2, 0)
    assert report.kinds["gene"] == 3
    assert report.n_in_vocabulary == 2
    (duplicate,) = report.duplicates
    assert (duplicate.name, duplicate.kept_name) == ("Cd3e", "Cd3e_ENSMUSG00000032093")
    stored = stored_table(corpus.parts[0], "var").set_index("source_name")
    assert stored.loc["Gad1", "gene_id"] == "ENSMUSG00000070880"


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data set 'nope'. Known: set0"):
        gene_report(corpus_of(tmp_path, ["CD3E"]), "nope")


@needs_shared
def test_the_report_of_a_real_panel_names_its_probes_and_retired_symbols(tmp_path: Path) -> None:
    files = (SHARED / "srt-cosmx-lung5").glob("*.csv.gz")
    ingest_files(list(files), tmp_path / "c.zarr")
    report = gene_report(Corpus.open(tmp_path / "c.zarr"), "Lung5_Rep3")
    assert report.kinds == {
        "gene": 960, "duplicate": 0, "unmapped": 0, "control": 20, "protein": 0
    }  # fmt: skip
    assert {each.name: each.symbol for each in report.renamed} == {
        "DDX58": "RIGI",
        "C9orf16": "BBLN",
    }
    assert all(name.startswith("NegPrb") for name in report.controls)
    index = GeneIndex.bundled()
    assert report.n_in_vocabulary <= 960 < index.n
