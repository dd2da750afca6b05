from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.errors import InputError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.find import find
from cellplm.ingest.harmonise import harmonise
from cellplm.ingest.options import IngestOptions
from cellplm.ingest.readers import rows, table, textfile
from cellplm.ingest.readers.table_names import named
from cellplm.ingest.source import ReadOptions, Source
from cellplm.ingest.tissue import assign
from tests.ingest.make import GENES, CountCheck, dense, make_counts, write_text
from tests.ingest.make_table import (
    CELLS,
    Style,
    check_message,
    write_feature_counts,
    write_giotto,
    write_matrix,
    write_rctd,
    write_rows,
    write_st,
    write_starmap,
)
from tests.shared import SHARED, needs_shared

COUNTS = make_counts(len(CELLS), len(GENES))
CELLS_DOWN = Style(genes_down=False)
FUZZ = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)


def opened(folder: Path, options: ReadOptions | None = None) -> Source:
    (one,) = table.find(sorted(folder.iterdir()))
    return table.open_source(one, options or ReadOptions())


def check_counts(source: Source, counts: np.ndarray = COUNTS) -> None:
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


# The matrix itself


@FUZZ
@given(
    style=st.builds(
        Style,
        genes_down=st.booleans(),
        sep=st.sampled_from([",", "\t", ";", " "]),
        corner=st.sampled_from(["gene", "cell", "GENE", "barcode", None]),
        quote=st.sampled_from(["", '"']),
        quote_all=st.booleans(),
        end=st.sampled_from(["\n", "\r\n", "\r"]),
        before=st.sampled_from(["", "\ufeff", "# made by hand; with, every\tdelimiter\n", "\n\n"]),
        behind=st.sampled_from(["", "\n\n", " \n", ",,,,\n,,,,\n"]),
    ),
    trailing=st.booleans(),
    gz=st.booleans(),
    seed=st.integers(0, 9),
    room=st.sampled_from([40, 1000, 1 << 20]),
)
def test_either_orientation_and_any_spelling_give_the_same_matrix(
    tmp_path: Path, style: Style, trailing: bool, gz: bool, seed: int, room: int
) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    if style.behind.startswith(",") and style.sep != ",":
        style = replace(style, behind="")
    if trailing:
        style = replace(style, trailing=style.sep)
    counts = make_counts(len(CELLS), len(GENES), seed=seed)
    write_matrix(tmp_path / ("m.csv.gz" if gz else "m.txt"), counts, style)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BUFFER_BYTES", room)
        source = opened(tmp_path)
        assert source.obs.index.tolist() == list(CELLS)
        assert source.var.index.tolist() == list(GENES)
        check_counts(source, counts)
    assert source.obs.columns.tolist() == source.var.columns.tolist() == []
    assert (source.modality, source.warnings, source.spots) == ("scrna", (), False)


@pytest.mark.parametrize("style", [Style(), CELLS_DOWN])
def test_a_corpus_gives_back_every_count_and_name(tmp_path: Path, style: Style) -> None:
    counts = make_counts(60, len(GENES), seed=4) + 1
    cells = [f"cell {i}" for i in range(60)]
    (tmp_path / "d").mkdir()
    write_matrix(tmp_path / "d" / "a.count.csv.gz", counts, style, cells=cells)
    rows_ = [[cell, f"t{i % 3}", i / 4] for i, cell in enumerate(cells)]
    write_rows(tmp_path / "d" / "a.metadata.csv", [["cell", "type", "score"], *reversed(rows_)])
    ingest_files([tmp_path / "d"], tmp_path / "c.zarr", IngestOptions())
    adata = Corpus.open(tmp_path / "c.zarr").parts[0].to_anndata()
    assert adata.obs_names.tolist() == cells
    assert adata.var["source_name"].tolist() == list(GENES)
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    assert adata.obs["type"].tolist() == [f"t{i % 3}" for i in range(60)]
    assert adata.obs["score"].tolist() == [i / 4 for i in range(60)]


def test_small_blocks_make_the_same_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [f"cell_{i}" for i in range(300)]
    counts = make_counts(300, len(GENES))
    write_matrix(tmp_path / "m.csv", counts, CELLS_DOWN, cells=cells)
    monkeypatch.setattr(rows, "BUFFER_BYTES", 256)
    source = opened(tmp_path)
    assert len(list(source.blocks())) > 3
    check_counts(source, counts)


def test_names_that_stand_twice_are_kept(tmp_path: Path) -> None:
    cells = ("a", "b", "a", "c", "b")
    genes = (*GENES[:-1], GENES[0])
    write_matrix(tmp_path / "m.csv", COUNTS, Style(), cells=cells, genes=genes)
    source = opened(tmp_path)
    assert source.obs.index.tolist() == list(cells)
    assert source.var.index.tolist() == list(genes)
    check_counts(source)


def test_cells_may_be_numbered_in_the_header(tmp_path: Path) -> None:
    cells = [str(i) for i in range(5)]
    for corner in ("", "gene", None):
        write_matrix(tmp_path / "m.csv", COUNTS, Style(corner=corner), cells=cells)
        source = opened(tmp_path)
        assert source.obs.index.tolist() == cells
        check_counts(source)


def test_positions_and_measurements_beside_the_genes_go_to_obs(tmp_path: Path) -> None:
    head = ["", "x_centroid", "y_centroid", "area", "cell type", *GENES[:4], "cluster", *GENES[4:]]
    body = [
        [c, i + 0.5, -i, 2 * i, f"type {i}", *COUNTS[i, :4], i % 2, *COUNTS[i, 4:]]
        for i, c in enumerate(CELLS)
    ]
    write_rows(tmp_path / "m.csv", [head, *body])
    source = opened(tmp_path)
    assert (source.modality, source.warnings) == ("srt", ())
    wanted = ["x_centroid", "y_centroid", "area", "cell type", "cluster"]
    assert source.obs.columns.tolist() == wanted
    assert source.obs["cell type"].tolist() == [f"type {i}" for i in range(5)]
    assert source.obs["cluster"].tolist() == [0, 1, 0, 1, 0]
    assert source.var.index.tolist() == list(GENES)
    xy = np.array([[i + 0.5, -i] for i in range(5)], dtype=np.float32)
    np.testing.assert_array_equal(source.coords_um, xy)
    check_counts(source)


@pytest.mark.parametrize("head", [["x", "y"], ["X", "Y"]])
def test_cells_may_have_positions_and_no_names(tmp_path: Path, head: list[str]) -> None:
    body = [[10 * i, i, *COUNTS[i]] for i in range(5)]
    write_rows(tmp_path / "m.csv", [[*head, *GENES], *body])
    source = opened(tmp_path)
    assert source.obs.index.tolist() == ["0", "1", "2", "3", "4"]
    assert source.coords_um is not None
    assert source.coords_um.tolist() == [[10 * i, i] for i in range(5)]
    assert any("cells have no names" in note for note in source.warnings)
    assert any("have no unit: taken as micrometres" in note for note in source.warnings)
    check_counts(source)


def test_a_table_without_names_of_cells_loses_no_gene(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.csv", [GENES, *COUNTS])
    source = opened(tmp_path)
    assert source.var.index.tolist() == list(GENES)
    check_counts(source)


def test_a_counter_before_the_names_is_no_cell(tmp_path: Path) -> None:
    body = [[i, f"bar{i}", *COUNTS[i]] for i in range(5)]
    write_rows(tmp_path / "m.csv", [["", "barcode", *GENES], *body])
    source = opened(tmp_path)
    assert source.obs.index.tolist() == [f"bar{i}" for i in range(5)]
    check_counts(source)
    down = [[i, gene, *COUNTS[:, i]] for i, gene in enumerate(GENES)]
    write_rows(tmp_path / "m.csv", [["Unnamed: 0", "gene", *CELLS], *down])
    source = opened(tmp_path)
    assert source.obs.index.tolist() == list(CELLS)
    assert source.var.index.tolist() == list(GENES)
    check_counts(source)


def test_columns_about_the_genes_go_to_var(tmp_path: Path) -> None:
    ids = [f"ENSG{i:011d}" for i in range(len(GENES))]
    body = [[ids[i], g, i % 2, *COUNTS[:, i]] for i, g in enumerate(GENES)]
    write_rows(tmp_path / "m.csv", [["gene_id", "gene_name", "length", *CELLS], *body])
    source = opened(tmp_path)
    assert source.var.index.tolist() == ids
    assert source.var["gene_name"].tolist() == list(GENES)
    assert source.var["length"].tolist() == [i % 2 for i in range(len(GENES))]
    check_counts(source)


def test_feature_counts_has_five_columns_that_are_no_cells(tmp_path: Path) -> None:
    write_feature_counts(tmp_path / "counts.txt", COUNTS)
    source = opened(tmp_path)
    assert source.obs.index.tolist() == [f"/bam/{c}.bam" for c in CELLS]
    assert source.var.columns.tolist() == ["Chr", "Start", "End", "Strand", "Length"]
    assert source.var["Chr"].tolist()[:3] == ["1", "X", "chr1;chr1"]
    check_counts(source)


# Files beside it


def test_metadata_of_the_same_name_are_joined_by_cell(tmp_path: Path) -> None:
    write_matrix(tmp_path / "a.count.csv", COUNTS, Style(corner=None))
    body = [[f'"{cell}"', i, f'"t{i}"'] for i, cell in enumerate(CELLS)]
    write_rows(tmp_path / "a.metadata.csv", [['"n"', '"type"'], *reversed(body)])
    source = opened(tmp_path)
    assert source.name == "a"
    assert source.obs["type"].tolist() == ["t0", "t1", "t2", "t3", "t4"]
    assert source.obs["n"].tolist() == [0, 1, 2, 3, 4]
    assert source.warnings == ("a.metadata.csv joined by name (5 of 5 cells)",)


def test_metadata_of_some_cells_leave_the_others_empty(tmp_path: Path) -> None:
    write_matrix(tmp_path / "a.count.csv", COUNTS, Style())
    write_rows(tmp_path / "a.metadata.csv", [["cell", "n"], *[[c, 1] for c in CELLS[2:]]])
    source = opened(tmp_path)
    assert source.obs["n"].isna().tolist() == [True, True, False, False, False]
    assert source.warnings == ("a.metadata.csv joined by name (3 of 5 cells)",)


def test_labels_without_cell_names_are_joined_by_position(tmp_path: Path) -> None:
    write_matrix(tmp_path / "H1_Data.csv", COUNTS, Style(quote='"'))
    labels = [[f'"{i + 1}"', f'"t{i}"'] for i in range(5)]
    write_rows(tmp_path / "H1_Labels.csv", [['""', '"x"'], *labels])
    genes = [[f'"{i}"', f'"{gene}"'] for i, gene in enumerate(GENES, 1)]
    write_rows(tmp_path / "H1_Gene_Ann.csv", [['""', '"x"'], *genes])
    source = opened(tmp_path)
    names = ["H1_Data.csv", "H1_Gene_Ann.csv", "H1_Labels.csv"]
    assert [path.name for path in source.files] == names
    assert source.obs["label"].tolist() == ["t0", "t1", "t2", "t3", "t4"]
    assert source.var.columns.tolist() == []
    assert "by position" in source.warnings[0]
    assert "says nothing new" in source.warnings[1]


@pytest.mark.parametrize("header", [["label"], []])
def test_a_bare_list_of_labels_is_joined_by_position(tmp_path: Path, header: list[str]) -> None:
    write_matrix(tmp_path / "counts.csv", COUNTS, Style())
    labels = [[f"T cell {i % 2}"] for i in range(5)]
    write_rows(tmp_path / "labels.txt", [*([header] if header else []), *labels])
    source = opened(tmp_path)
    assert source.obs["label"].tolist() == [f"T cell {i % 2}" for i in range(5)]


def test_annotations_without_a_header_keep_their_first_cell(tmp_path: Path) -> None:
    write_matrix(tmp_path / "glioma_expression_small.counts.matrix", COUNTS, Style(sep="\t"))
    body = [[cell, f"t{i}"] for i, cell in enumerate(CELLS)]
    write_rows(tmp_path / "glioma_annotations_small.txt", body, sep="\t")
    source = opened(tmp_path)
    assert source.name == "glioma_small"
    assert source.obs["annotation"].tolist() == [f"t{i}" for i in range(5)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([["", "x"], ["1", "a"], ["2", "b"]], "it names 0 of 5 cells and has 2 rows"),
        ([["cell", "x"], *[[f"other{i}", "a"] for i in range(5)]], "names 0 of 5 cells"),
        ([["cell", "x"], *[[c, "a"] for c in CELLS[:2]]], "it names 2 of 5 cells and has 2 rows"),
        ([["cell", "x"], *[[CELLS[0], "a"]] * 5], "it names 1 of 5 cells"),
    ],
)
def test_a_table_that_does_not_fit_is_left_out_and_it_is_said(
    tmp_path: Path, body: list[list[object]], words: str
) -> None:
    write_matrix(tmp_path / "H1_Data.csv", COUNTS, Style())
    write_rows(tmp_path / "H1_Labels.csv", body)
    source = opened(tmp_path)
    assert source.obs.columns.tolist() == []
    assert words in source.warnings[0]
    assert "H1_Labels.csv was left out" in source.warnings[0]


def test_numberings_from_0_and_from_1_are_no_names(tmp_path: Path) -> None:
    write_matrix(tmp_path / "counts.csv", COUNTS, Style(), cells=[str(i) for i in range(5)])
    labels = [[i + 1, f"t{i}"] for i in range(5)]
    write_rows(tmp_path / "labels.csv", [["", "type"], *labels])
    source = opened(tmp_path)
    assert source.obs["type"].tolist() == ["t0", "t1", "t2", "t3", "t4"]
    assert "by position" in source.warnings[0]


def test_cells_whose_names_stand_twice_are_joined_only_in_the_same_order(tmp_path: Path) -> None:
    cells = ("a", "b", "a", "c", "d")
    write_matrix(tmp_path / "counts.csv", COUNTS, Style(), cells=cells)
    write_rows(tmp_path / "metadata.csv", [["cell", "n"], *[[c, i] for i, c in enumerate(cells)]])
    assert opened(tmp_path).obs["n"].tolist() == [0, 1, 2, 3, 4]
    write_rows(tmp_path / "metadata.csv", [["cell", "n"], *[[c, c] for c in "dcba"]])
    source = opened(tmp_path)
    assert source.obs["n"].tolist()[1::2] == ["b", "c"]
    assert source.obs["n"].isna().tolist() == [True, False, True, False, False]
    assert "not to 2 cells whose names stand more than once" in source.warnings[0]


def test_columns_of_one_name_are_both_kept_unless_they_are_the_same(tmp_path: Path) -> None:
    write_matrix(tmp_path / "counts.csv", COUNTS, Style())
    for name, shift in (("metadata", 0), ("clusters", 1)):
        body = [[c, i + shift, i] for i, c in enumerate(CELLS)]
        write_rows(tmp_path / f"{name}.csv", [["cell", "n", "same"], *body])
    source = opened(tmp_path)
    assert source.obs.columns.tolist() == ["n", "same", "n_metadata"]
    assert source.obs["n"].tolist() == [1, 2, 3, 4, 5]
    assert source.obs["n_metadata"].tolist() == [0, 1, 2, 3, 4]


def test_one_table_of_metadata_belongs_to_all_matrices_that_it_names(tmp_path: Path) -> None:
    other = [f"other{i}" for i in range(5)]
    write_matrix(tmp_path / "A_counts.csv", COUNTS, Style())
    write_matrix(tmp_path / "B_counts.csv", COUNTS, Style(), cells=other)
    write_matrix(tmp_path / "C_counts.csv", COUNTS, Style(), cells=list("vwxyz"))
    body = [[c, c] for c in (*CELLS, *other)]
    write_rows(tmp_path / "metadata.csv", [["cell", "copy"], *body])
    write_text(tmp_path / "labels.csv", "nothing\n")
    sources = {
        one.name: table.open_source(one, ReadOptions())
        for one in table.find(sorted(tmp_path.iterdir()))
    }
    by_cell = {source.obs.index[0]: source for source in sources.values()}
    assert by_cell["cell_0"].obs["copy"].tolist() == list(CELLS)
    assert by_cell["other0"].obs["copy"].tolist() == other
    assert by_cell["v"].obs.columns.tolist() == []
    assert all(any("labels.csv was left" in n for n in s.warnings) for s in sources.values())


def test_a_damaged_table_beside_the_matrix_is_a_fault(tmp_path: Path) -> None:
    write_matrix(tmp_path / "counts.csv", COUNTS, Style())
    text = "cell,type\n" + "".join(f"{c},t\n" for c in CELLS) + "x\n"
    path = write_text(tmp_path / "metadata.csv", text)
    with pytest.raises(InputError, match=r"line 7 \(row 'x'\) has 1 fields, 2 were expected") as e:
        opened(tmp_path)
    assert str(path) in str(e.value)


def test_rctd_folders_have_positions_sums_and_types(tmp_path: Path) -> None:
    counts = write_rctd(tmp_path / "Vignette")
    source = opened(tmp_path / "Vignette")
    assert source.name == "Vignette"
    assert source.obs.columns.tolist() == ["x", "y", "cell_type", "numi"]
    assert source.obs["numi"].tolist() == counts.sum(axis=1).tolist()
    assert source.obs["cell_type"].tolist() == ["t0", "t1", "t0", "t1", "t0"]
    np.testing.assert_array_equal(source.coords_um, [[10.5 * i, -3 * i] for i in range(5)])
    assert (source.spots, source.platform) == (False, "unknown")
    assert any("x and y have no unit" in note for note in source.warnings)
    check_counts(source, counts)


def test_slide_seq_tables_for_r_belong_together(tmp_path: Path) -> None:
    write_matrix(tmp_path / "MappedDGEForR.csv", COUNTS, Style(quote='"'))
    body = [[c, 3 * i, i] for i, c in enumerate(CELLS)]
    path = tmp_path / "BeadLocationsForR.csv"
    write_rows(path, [["barcodes", "xcoord", "ycoord"], *reversed(body)])
    source = opened(tmp_path)
    assert source.spots is False
    np.testing.assert_array_equal(source.coords_um, [[3 * i, i] for i in range(5)])


def test_what_clusters_mean_is_spelled_out(tmp_path: Path) -> None:
    write_matrix(tmp_path / "dge.csv", COUNTS, Style(quote='"'))
    body = [[c, i % 2 + 1, 9] for i, c in enumerate(CELLS)]
    write_rows(tmp_path / "meta_data.csv", [["barcode", "cluster", "nUMI"], *body])
    meanings = [["Cluster", "Name"], [1, "Astrocytes"], [2, "Bergmann"], [3, "Nobody"]]
    write_rows(tmp_path / "cell_type_dict.csv", meanings)
    source = opened(tmp_path)
    names = ["Astrocytes", "Bergmann"]
    assert source.obs["cell_type"].tolist() == [names[i % 2] for i in range(5)]
    write_rows(tmp_path / "cell_type_dict.csv", [["Other", "Name"], [1, "Astrocytes"]])
    assert any("cell_type_dict.csv was left out" in note for note in opened(tmp_path).warnings)


def test_starmap_plus_has_a_second_line_of_types(tmp_path: Path) -> None:
    counts = write_starmap(tmp_path)
    source = opened(tmp_path)
    assert source.name == "well05"
    assert source.obs.index.tolist() == list(CELLS)
    assert source.obs["Z"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(source.coords_um, [[1.5 * i, 2.5 * i] for i in range(5)])
    check_counts(source, counts)


def test_seqfish_cells_are_numbers_in_both_tables(tmp_path: Path) -> None:
    cells = [str(i) for i in range(1, 6)]
    write_matrix(tmp_path / "Small_CellxGene.csv", COUNTS, CELLS_DOWN, cells=cells)
    body = [[i, 100 * i, 7 * i, 8 * i] for i in range(5, 0, -1)]
    head = ["label", "area", "center_x", "center_y"]
    write_rows(tmp_path / "Small_CellCoordinates.csv", [head, *body])
    source = opened(tmp_path)
    assert source.obs["area"].tolist() == [100, 200, 300, 400, 500]
    np.testing.assert_array_equal(source.coords_um, [[7 * i, 8 * i] for i in range(1, 6)])


@pytest.mark.parametrize(
    ("name", "role", "word", "stem"),
    [
        ("slice1.csv.gz", "", "", "slice1"),
        ("slice1_coor.csv.gz", "positions", "coor", "slice1"),
        ("slice1_uniform_weights.csv.gz", "", "", "slice1 uniform weights"),
        ("seqfish_field_expr.txt.gz", "matrix", "expr", "seqfish field"),
        ("seqfish_field_locs.txt", "positions", "loc", "seqfish field"),
        ("expression_matrix.txt.gz", "matrix", "expression_matrix", ""),
        ("spatial_locs.txt", "positions", "spatial_loc", ""),
        ("cell_metadata.txt", "cells", "cell_metadata", ""),
        ("mouse_ligand_receptors.txt", "", "", "mouse ligand receptors"),
        ("nUMI.csv", "cells", "numi", ""),
        ("Baron_H1_Gene_Ann.csv", "genes", "gene_ann", "baron h1"),
        ("TestSetSmall_CellxGene.csv", "matrix", "cellxgene", "testsetsmall"),
        ("mockraw_expression_pd.csv", "matrix", "raw_expression_pd", "mock"),
        ("mock_spatial.csv", "positions", "spatial", "mock"),
        ("GSM1_sample.cell-types.TSV.GZ", "cells", "cell_type", "gsm1 sample"),
        ("expression_metadata.csv", "cells", "metadata", ""),
    ],
)
def test_names_of_files_say_what_they_hold(name: str, role: str, word: str, stem: str) -> None:
    got = named(Path(name))
    assert (got.role, got.word, " ".join(got.stem)) == (role, word, stem)


def test_a_plate_of_wells_in_metadata_is_no_matrix_of_genes(tmp_path: Path) -> None:
    # A1, B1 and the like are aliases of genes.
    wells = ["A1", "B1", "A10", "A11", "B10"]
    write_matrix(tmp_path / "a.count.csv", COUNTS, Style(), cells=wells)
    write_rows(tmp_path / "a.metadata.csv", [["well", "n"], *[[w, i] for i, w in enumerate(wells)]])
    (one,) = table.find(sorted(tmp_path.iterdir()))
    assert [path.name for path in one.files] == ["a.count.csv", "a.metadata.csv"]
    assert "named as a table about cells" in (table.refusal(tmp_path / "a.metadata.csv") or "")


# Positions and spots


@pytest.mark.parametrize("integers", [False, True])
def test_spots_of_an_array_are_200_um_apart(tmp_path: Path, integers: bool) -> None:
    counts, names = write_st(tmp_path / "s", integers=integers)
    (one,), others = find([tmp_path / "s"])
    assert [path.name for path in one.files] == ["slice1.csv.gz", "slice1_coor.csv.gz"]
    assert [path.name for path in others] == ["slice1_uniform_weights.csv.gz"]
    source = opened(tmp_path / "s")
    assert (source.platform, source.spots, source.modality) == ("ST", True, "srt")
    assert source.obs.index.tolist() == names
    # The more exact places are beside it, whatever the names say.
    exact = [[x + 0.064, y - 0.064] for y in range(3, 6) for x in range(10, 14)]
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, np.array(exact) * 200, rtol=1e-6)
    check_counts(source, counts)
    with pytest.raises(InputError, match=r"12 rows are spots .* \(ST\).*--allow-spots"):
        ingest_files([tmp_path / "s"], tmp_path / "c.zarr", IngestOptions())
    ingest_files([tmp_path / "s"], tmp_path / "c.zarr", IngestOptions(allow_spots=True))
    adata = Corpus.open(tmp_path / "c.zarr").parts[0].to_anndata()
    assert adata.obs_names.tolist() == names
    np.testing.assert_array_equal(adata.X.toarray(), counts)


def test_the_names_of_spots_are_enough_and_pixels_are_not_mistaken(tmp_path: Path) -> None:
    write_st(tmp_path, integers=True)
    (tmp_path / "slice1_coor.csv.gz").unlink()
    places = np.array([[x, y] for y in range(3, 6) for x in range(10, 14)])
    np.testing.assert_array_equal(opened(tmp_path).coords_um, places * 200)
    write_rows(tmp_path / "slice1_coor.csv", (places * 150 + 7).tolist())
    source = opened(tmp_path)
    np.testing.assert_array_equal(source.coords_um, places * 200)
    assert source.obs["x"].tolist() == (places[:, 0] * 150 + 7).tolist()
    half = opened(tmp_path, ReadOptions(um_per_unit=100.0))
    np.testing.assert_array_equal(half.coords_um, places * 100)


def test_spots_of_several_sections_are_told_by_what_is_before_their_places(tmp_path: Path) -> None:
    names = [f"s{k}_{x}x{y}" for k in (1, 2) for x in range(4) for y in range(3)]
    write_matrix(tmp_path / "m.csv", make_counts(24, len(GENES)), CELLS_DOWN, cells=names)
    source = opened(tmp_path)
    assert source.spots
    assert source.obs["section"].tolist() == ["s1"] * 12 + ["s2"] * 12


@pytest.mark.parametrize(
    "names", [[f"10x{i}" for i in range(5)], ["1x1", "2x2", "1x1", "2x1", "3x1"], [*"abcd", "1x1"]]
)
def test_other_names_with_an_x_are_no_places(tmp_path: Path, names: list[str]) -> None:
    write_matrix(tmp_path / "m.csv", COUNTS, CELLS_DOWN, cells=names)
    source = opened(tmp_path)
    assert (source.spots, source.modality, source.coords_um) == (False, "scrna", None)


def test_giotto_joins_two_visium_samples(tmp_path: Path) -> None:
    counts, names = write_giotto(tmp_path)
    source = opened(tmp_path)
    assert source.obs.index.tolist() == names
    assert (source.platform, source.spots) == ("Visium", True)
    assert source.obs["sample"].tolist() == ["NP"] * 20 + ["PP"] * 20
    assert source.obs["list_ID"].tolist() == ["NP"] * 20 + ["PP"] * 20
    (reason,) = source.unfit
    assert reason == "outside the tissue (in_tissue = 0)"
    assert np.flatnonzero(source.unfit[reason]).tolist() == [3]
    assert source.coords_um is not None
    steps = np.linalg.norm(np.diff(source.coords_um[:8], axis=0), axis=1)
    np.testing.assert_allclose(steps, 100, rtol=1e-4)
    assert len(set(assign(source, tissue_key=None).sample)) == 2
    check_counts(source, counts)


def test_libraries_of_cellranger_aggr_are_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list("ACGT"), 16)) + f"-{i % 2 + 1}" for i in range(40)]
    write_matrix(tmp_path / "m.csv", make_counts(40, len(GENES)), Style(), cells=names)
    source = opened(tmp_path)
    assert source.obs["sample"].tolist() == [f"library_{i % 2 + 1}" for i in range(40)]
    assert "samples are told by" in source.warnings[0]
    one = [name[:-1] + "1" for name in names]
    write_matrix(tmp_path / "m.csv", make_counts(40, len(GENES)), Style(), cells=one)
    assert "sample" not in opened(tmp_path).obs.columns


def test_plain_names_are_positions_only_where_they_can_be_nothing_else(tmp_path: Path) -> None:
    write_matrix(tmp_path / "counts.csv", COUNTS, Style())
    body = [["cell", "x", "y"], *[[c, i, 2 * i] for i, c in enumerate(CELLS)]]
    write_rows(tmp_path / "metadata.csv", body)
    source = opened(tmp_path)
    assert (source.modality, source.coords_um) == ("scrna", None)
    asked = opened(tmp_path, ReadOptions(coords=("x", "y"), um_per_unit=0.5))
    assert asked.modality == "srt"
    np.testing.assert_array_equal(asked.coords_um, [[0.5 * i, i] for i in range(5)])
    (tmp_path / "metadata.csv").rename(tmp_path / "coords.csv")
    np.testing.assert_array_equal(opened(tmp_path).coords_um, [[i, 2 * i] for i in range(5)])


def test_the_only_numbers_of_a_file_of_positions_are_the_positions(tmp_path: Path) -> None:
    write_matrix(tmp_path / "counts.csv", COUNTS, Style())
    body = [["id", "dim_1", "dim_2"], *[[c, i, 2 * i] for i, c in enumerate(CELLS)]]
    write_rows(tmp_path / "locations.csv", body)
    np.testing.assert_array_equal(opened(tmp_path).coords_um, [[i, 2 * i] for i in range(5)])


def test_two_measurements_are_no_positions(tmp_path: Path) -> None:
    body = [[c, i, i, *COUNTS[i]] for i, c in enumerate(CELLS)]
    write_rows(tmp_path / "m.csv", [["cell", "area", "volume", *GENES], *body])
    assert opened(tmp_path).modality == "scrna"


def test_cells_without_a_position_have_none(tmp_path: Path) -> None:
    write_rctd(tmp_path)
    write_rows(tmp_path / "coords.csv", [["", "x", "y"], *[[c, 1, "NA"] for c in CELLS[1:]]])
    source = opened(tmp_path)
    assert source.coords_um is not None
    assert np.isnan(source.coords_um[:, 1]).all()
    assert np.isnan(source.coords_um[0, 0])


@pytest.mark.parametrize(
    ("coords", "words"),
    [
        (("x", "nope"), "no column 'nope' for the positions; its columns are: x, y"),
        (("spatial",), "--coords spatial: a table has no obsm; name two columns"),
    ],
)
def test_positions_that_are_not_there_are_refused(
    tmp_path: Path, coords: tuple[str, ...], words: str
) -> None:
    write_rctd(tmp_path)
    with pytest.raises(InputError, match=words):
        opened(tmp_path, ReadOptions(coords=coords))


def test_positions_are_left_out_if_asked(tmp_path: Path) -> None:
    write_rctd(tmp_path)
    source = opened(tmp_path, ReadOptions(modality="scrna"))
    assert (source.modality, source.coords_um) == ("scrna", None)


# What is refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty file"),
        ("gene,a,b\n", "a single line"),
        ("just\nwords\n", "do not divide"),
        ("1.5,2.5\n3.5,4.5\n", "line holds numbers"),
        ("1,2\n3,4\n", "line holds numbers"),
        ("gene,1,2,2\nCD3E,1,2,3\nLYZ,4,5,6\n", "line holds numbers"),
        ("CD3E,1,2\nLYZ,4,5\nNKG7,4,6\n", "the first line is a row"),
        ("CD3E,3,2\nLYZ,4,5\nNKG7,4,6\n", "the first line is a row"),
        ("CD3E,c1,c2\nLYZ,4,5\nNKG7,4,6\n", "the first line is a row"),
        ("gene,a,b\nCD3E,1,2\nLYZ,x,4\n", "row 'LYZ', column 'a' holds 'x'"),
        ("gene,a,b\nCD3E,1,2\nLYZ,,4\n", "row 'LYZ', column 'a' holds ''"),
        ("gene,a,b\nCD3E,1,NA\nLYZ,3,4\n", "column 'b' holds 'NA'; numbers were expected every"),
        ("gene;a;b\nCD3E;1,5;2\nLYZ;3;4\n", "holds '1,5'; numbers were expected everywhere but"),
        ("gene;a;b\nCD3E;1,5;2\nLYZ;3;4\n", "write numbers with a decimal point"),
        ("cell,x,y\nc1,1,2\nc2,3,4\n", "genes are on neither axis"),
        ("gene,c_1,c_2\nfeat_1,1,2\nfeat_2,3,4\n", "genes are on neither axis"),
        ("a,b,c,d\nCD3E,1\nLYZ,2\n", "the header has 4 fields, the first row 2"),
        ("gene,a,,b\nCD3E,1,2,3\nLYZ,4,5,6\n", "column 3 of 4 has no name"),
        ("cell_1,cell_2,\nCD3E,1,2\nLYZ,4,5\n", "column 3 of 3 has no name"),
        ("gene,mean,variance\nCD3E,1,2\nLYZ,4,5\n", "no matrix of counts but statistics"),
        ("gene,chr,start\nCD3E,1,2\nLYZ,4,5\n", "no column of numbers beside the names"),
        ("ligand,receptor\nCD3E,LYZ\nLYZ,CD3E\n", "no column of numbers beside the names"),
        ("other,CD3E,LYZ\n1,1,2\n1,4,5\n", "no names of cells: numbers in the first column"),
    ],
)
def test_what_is_no_matrix_is_not_claimed_and_the_reason_is_told(
    tmp_path: Path, text: str, words: str
) -> None:
    path = write_text(tmp_path / "m.csv", text)
    assert table.find([path]) == []
    reason = table.refusal(path)
    assert reason is not None
    assert words in reason
    assert reason.startswith(f"{path}: ")
    assert "\n" not in reason


def late(text: bytes, n: int = 4000) -> bytes:
    """A matrix that goes bad only after the lines that `find` looks at."""
    good = [f"{GENES[i % len(GENES)]},{i},{i * 7919 % 10007}" for i in range(n)]
    return "\n".join(["gene,a,b", *good, ""]).encode() + text


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("m.csv", late(b"LYZ,1\n"), r"line 4002 \(row 'LYZ'\) has 2 fields, 3 were expected"),
        ("m.csv", late(b"LYZ,1,2,3\n"), "has 4 fields, 3 were expected"),
        ("m.csv", late(b"LYZ,1,many\n"), r"row 'LYZ' \(line 4002\), column 'b': 'many'"),
        ("m.csv", late(b"LYZ,1,\n"), "column 'b': '' is not a number"),
        ("m.csv", late(b"LYZ,NA,1\n"), "column 'a': 'NA' is not a number; every count"),
        ("m.csv", late(b"L\xfc,1,1\n"), "not UTF-8 text .* in line 4002"),
        ("m.csv", late(b'"LYZ,1,1\n'), "a quote opens and does not close"),
        pytest.param(
            "m.csv.gz", gzip.compress(late(b""))[:-999], "gzip stream is damaged", id="cut gzip"
        ),
    ],
)
def test_a_fault_further_down_is_named_with_its_place(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        list(opened(tmp_path).blocks())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("nan", "value nan at cell 'a', feature 'LYZ' .not a number"),
        ("-1", "value -1 at cell 'a', feature 'LYZ'"),
        ("1e400", "value inf at cell 'a', feature 'LYZ'"),
        ("0.5", "value 0.5 at cell 'a', feature 'LYZ'"),
        ("1e12", "value 1e.12 at cell 'a', feature 'LYZ'"),
    ],
)
def test_a_number_that_is_no_count_is_named_with_cell_and_gene(
    tmp_path: Path, bad: str, words: str
) -> None:
    write_text(tmp_path / "m.csv", f"gene,a,b\nCD3E,1,2\nLYZ,{bad},4\n")
    source = opened(tmp_path)
    check = CountCheck(source)
    with pytest.raises(InputError, match=words):
        list(map(check.add, source.blocks()))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_matrix(tmp_path / "m.csv", COUNTS, Style())
    for genes in (GENES[:3], (*GENES, "CD4")):
        source = opened(tmp_path)
        counts = make_counts(5, len(genes))
        write_matrix(path, counts, Style(), genes=genes)
        with pytest.raises(InputError, match="changed while it was read"):
            list(source.blocks())
        write_matrix(path, COUNTS, Style())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.xlsx", "an Excel file; export it as csv"),
        ("a.XLS", "an Excel file"),
        ("a.rds", "an R file; export it from R as csv, mtx or h5ad"),
        ("a.RData", "an R file"),
        ("a.rds.gz", "an R file"),
        ("a.h5seurat", "an R file"),
        ("a.mat", "a MATLAB file"),
        ("a.pkl", "a Python file"),
    ],
)
def test_files_of_other_programs_are_told_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"anything")
    assert table.find([path]) == []
    with pytest.raises(InputError, match=words) as caught:
        find([path])
    assert str(path) in str(caught.value)


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfile, "MAX_LINE", 100)
    path = write_text(tmp_path / "m.csv", "gene,a\n" + "1," * 500)
    assert table.find([path]) == []
    assert "a line of more than" in (table.refusal(path) or "")


def test_other_files_have_no_reason(tmp_path: Path) -> None:
    assert table.refusal(tmp_path / "picture.png") is None


VALID = (
    "gene,a,b,c\n" + "".join(f'"{gene}",{i},{7 * i},0\n' for i, gene in enumerate(GENES)) * 4
).encode()


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None
)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.binary(max_size=3), st.integers(0, 40)),
        max_size=4,
    ),
    gz=st.booleans(),
    room=st.sampled_from([32, 1 << 20]),
)
def test_no_bytes_bring_down_the_reader(
    tmp_path: Path, edits: list[tuple[int, bytes, int]], gz: bool, room: int
) -> None:
    data = VALID
    for at, text, n_cut in edits:
        data = data[:at] + text + data[at + n_cut :]
    path = tmp_path / "m.csv"
    path.write_bytes(gzip.compress(data) if gz else data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BUFFER_BYTES", room)
        found = table.find([path])
        if not found:
            assert "\n" not in (table.refusal(path) or "\n")
            return
        try:
            source = table.open_source(found[0], ReadOptions())
            dense(source.blocks(), (source.n_obs, source.n_vars))
        except InputError as error:
            check_message(error, path)


# Real data


REAL = {
    # folder, name: cells, features, sum, kind of positions, species, columns of obs
    ("sc-mixology-3cl", "sc_celseq2"): (274, 28204, 10321416, None, "human", {"cell_line"}),
    ("sc-mixology-3cl", "sc_dropseq"): (225, 15127, 5830998, None, "human", {"cell_line"}),
    ("sc-baron-h1", "Baron_H1"): (1937, 20125, 11244731, None, "human", {"label"}),
    ("srt-giotto-mini/seqfish", "seqfish_field"): (118, 1774, 82497, "cells", "mouse", {"sdimx"}),
    ("srt-giotto-mini/visium_multisample", "visium_multisample"): (
        2327, 1255, 1421449, "Visium", "human", {"array_row", "list_ID", "sample"},
    ),
    ("srt-rctd-vignettes/SpatialRNA/Vignette", "Vignette"): (
        100, 378, 15246, "cells", "mouse", {"xcoord"},
    ),
    ("srt-rctd-vignettes/SpatialRNA/VisiumVignette", "VisiumVignette"): (
        313, 276, 3026195, "Visium", "mouse", {"x", "y", "numi"},
    ),
    ("srt-rctd-vignettes/SpatialRNA/MerfishVignette", "MerfishVignette"): (
        750, 134, 253880, "cells", "mouse", {"x", "y", "numi"},
    ),
    ("srt-rctd-vignettes/Vignette", "Vignette"): (
        475, 384, 1177794, None, "mouse", {"cluster", "cell_type"},
    ),
    ("srt-rctd-vignettes/Visium_Ref", "Visium_Ref"): (
        510, 307, 341112, None, "mouse", {"cell_type", "sample"},
    ),
    ("srt-rctd-vignettes/Merfish_Ref", "Merfish_Ref"): (
        1308, 134, 44771, None, "mouse", {"cell_type", "sample"},
    ),
    ("srt-st-breast-paste/sample_data", "slice1"): (254, 7998, 762301, "ST", "human", {"x", "y"}),
    ("srt-st-breast-paste/sample_data", "slice2"): (251, 7713, 737686, "ST", "human", {"x", "y"}),
    ("formats-tiny/SpatialExperimentIO/seqFISH_small", "TestSetSmall"): (
        14, 9, 2, "cells", "human", {"area"},
    ),
    ("formats-tiny/SpatialExperimentIO/STARmapPLUS_small", "mock"): (
        9, 8, 1, "cells", "human", {"Z", "Main_molecular_cell_type"},
    ),
    ("formats-tiny/scvi-mini", "Layer2_BC_count_matrix-1"): (
        8, 14789, 19003, "ST", "human", {"array_x"},
    ),
    ("srt-xenium-breast-crops", "charmander"): (8486, 313, 1517117, "cells", "human", {"area"}),
    ("srt-xenium-breast-crops", "pikachu"): (9430, 313, 1681676, "cells", "human", {"area"}),
}  # fmt: skip


@needs_shared
@pytest.mark.parametrize(("folder", "name"), REAL)
def test_real_tables_come_whole(folder: str, name: str) -> None:
    n_obs, n_vars, total, where, species, columns = REAL[folder, name]
    found = [one for one in table.find(sorted((SHARED / folder).iterdir())) if one.name == name]
    source = table.open_source(found[0], ReadOptions())
    assert (source.n_obs, source.n_vars) == (n_obs, n_vars)
    assert columns <= set(source.obs.columns)
    assert source.obs[sorted(columns)].notna().all(axis=None)
    assert source.spots == (where in ("Visium", "ST"))
    assert (source.coords_um is not None) == (where is not None)
    if source.coords_um is not None:
        assert np.isfinite(source.coords_um).all()
    if source.spots:
        assert source.platform == where
    check = CountCheck(source)
    assert sum(int(check.add(block).data.sum()) for block in source.blocks()) == total
    assert harmonise(source.var, species=None, index=GeneIndex.bundled()).species == species


@needs_shared
def test_float_noise_of_a_real_table_is_rounded() -> None:
    source = opened(SHARED / "sc-celltypist-sample")
    assert (source.n_obs, source.n_vars) == (559, 32786)
    check = CountCheck(source)
    assert sum(int(check.add(block).data.sum()) for block in source.blocks()) == 3619954
    assert check.n_rounded > 100_000


@needs_shared
def test_real_places_of_spots_agree_with_the_file_beside_them() -> None:
    folder = SHARED / "srt-st-breast-paste" / "sample_data"
    source = table.open_source(table.find(sorted(folder.iterdir()))[0], ReadOptions())
    np.testing.assert_array_equal(
        source.obs[["x", "y"]].to_numpy(), source.obs[["array_x", "array_y"]].to_numpy()
    )


@needs_shared
@pytest.mark.parametrize(
    ("folder", "words"), [("sc-pollen-tpm", "TPM"), ("sc-oligodendroglioma", "non-integer")]
)
def test_real_tables_without_counts_are_refused(tmp_path: Path, folder: str, words: str) -> None:
    assert opened(SHARED / folder).obs.notna().all(axis=None)
    with pytest.raises(InputError, match=words):
        ingest_files([SHARED / folder], tmp_path / "c.zarr", IngestOptions())


@needs_shared
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("srt-st-breast-paste/sample_data/slice3_coor.csv.gz", "line holds numbers"),
        ("srt-st-breast-paste/sample_data/slice1_uniform_weights.csv.gz", "do not divide"),
        ("formats-tiny/scp-ingest/mtx/AB_toy_data_toy.txt", "genes are on neither axis"),
        (
            "sc-oligodendroglioma/gencode_downsampled.EXAMPLE_ONLY_DONT_REUSE.txt",
            "the first line is a row",
        ),
        (
            "srt-giotto-mini/visium_multisample/mouse_ligand_receptors.txt",
            "no column of numbers beside the names",
        ),
    ],
)
def test_real_files_that_are_no_matrices_are_told(path: str, words: str) -> None:
    reason = table.refusal(SHARED / path)
    assert reason is not None
    assert words in reason
