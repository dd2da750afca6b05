"""MERSCOPE cells keep their own metadata, whatever the order of the rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.harmonise import harmonise
from cellplm.ingest.options import IngestOptions
from cellplm.ingest.readers import merscope
from cellplm.ingest.source import ReadOptions, Source
from cellplm.ingest.tissue import assign
from tests.ingest.make import dense
from tests.ingest.make_merscope import FEATURES, FOVS, N_CELLS, centers_um, ids, write_merscope
from tests.shared import SHARED, needs_shared

GENES, META = "cell_by_gene.csv", "cell_metadata.csv"


def opened(folder: Path, options: ReadOptions | None = None) -> Source:
    (one,) = merscope.find(sorted(folder.iterdir()))
    return merscope.open_source(one, options or ReadOptions())


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("id_name", ["EntityID", "cell_id", "cell", ""])
@pytest.mark.parametrize(("before", "behind"), [("", ""), ("HumanBreast_", ""), ("", "_S1R1")])
def test_cells_are_joined_by_id_in_the_order_of_the_counts(
    tmp_path: Path, gz: bool, id_name: str, before: str, behind: str
) -> None:
    counts = write_merscope(
        tmp_path / "region_0", before=before, behind=behind, id_name=id_name, gz=gz
    )
    source = opened(tmp_path / "region_0")
    assert source.obs.index.tolist() == ids()
    assert source.obs["fov"].tolist() == list(FOVS)
    assert source.obs["volume"].tolist() == [100.5 + i for i in range(N_CELLS)]
    assert source.obs["Anti-CD45_high_pass"].tolist() == [0.5 * i for i in range(N_CELLS)]
    assert source.coords_um is not None
    np.testing.assert_array_equal(source.coords_um, centers_um().astype(np.float32))
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)
    assert source.var.index.tolist() == list(FEATURES)
    assert (source.platform, source.modality, source.warnings) == ("MERSCOPE", "srt", ())


def test_a_corpus_gives_back_every_count_and_name(tmp_path: Path) -> None:
    counts = write_merscope(tmp_path / "run" / "region_0")
    ingest_files([tmp_path / "run"], tmp_path / "c.zarr", IngestOptions())
    part = Corpus.open(tmp_path / "c.zarr").parts[0]
    adata = part.to_anndata()
    assert adata.obs_names.tolist() == ids()
    assert adata.var["source_name"].tolist() == list(FEATURES)
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    np.testing.assert_array_equal(adata.obsm["spatial"], centers_um().astype(np.float32))
    assert part.entry.name == "run_region_0"


def test_blank_code_words_are_controls_and_fields_of_view_tissues(tmp_path: Path) -> None:
    write_merscope(tmp_path)
    source = opened(tmp_path)
    kinds = harmonise(source.var, species=None, index=GeneIndex.bundled()).kind
    assert [kind == "control" for kind in kinds] == [name[:5] == "Blank" for name in FEATURES]
    assert assign(source, tissue_key=None).tissue.tolist() == [0, 0, 0, 1, 1, 1, 0]


def test_proteins_and_intensities_between_the_counts_are_told_apart(tmp_path: Path) -> None:
    counts = write_merscope(tmp_path)
    edit(tmp_path / GENES, "ICAM3", "Anti-CD3")
    edit(tmp_path / GENES, "CX3CL1", "Anti-CD3_raw")
    source = opened(tmp_path)
    types = source.var["feature_types"]
    assert types["Anti-CD3"] == "Protein"
    assert types["Blank-23"] == "Blank"
    assert "Anti-CD3_raw" not in source.var.index
    np.testing.assert_array_equal(source.obs["Anti-CD3_raw"], counts[:, 5])
    np.testing.assert_array_equal(dense(source.blocks(), (N_CELLS, 5)), counts[:, :5])


def test_a_counter_before_the_ids_is_not_taken_for_them(tmp_path: Path) -> None:
    counts = write_merscope(tmp_path, id_name="cell")
    for name in (GENES, META):
        head, *rows = (tmp_path / name).read_text().splitlines()
        numbered = [f",{head}", *(f"{i},{row}" for i, row in enumerate(rows))]
        (tmp_path / name).write_text("\n".join(numbered) + "\n")
    source = opened(tmp_path)
    assert source.obs.index.tolist() == ids()
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_metadata_of_more_cells_are_left_out_with_a_word(tmp_path: Path) -> None:
    write_merscope(tmp_path)
    with (tmp_path / META).open("a") as file:
        file.write("17,3,1,1,1,1,1,1\n")
    source = opened(tmp_path)
    assert source.n_obs == N_CELLS
    assert "1 cells that have no counts were left out" in source.warnings[0]


def test_the_metadata_table_by_itself_is_no_data_set(tmp_path: Path) -> None:
    write_merscope(tmp_path)
    (tmp_path / GENES).unlink()
    assert merscope.find(sorted(tmp_path.iterdir())) == []
    assert "without its cell_by_gene.csv" in str(merscope.refusal(tmp_path / META))
    assert "and not read" in str(merscope.refusal(tmp_path / "S1_detected_transcripts.csv"))


def test_counts_without_metadata_are_read_only_when_asked(tmp_path: Path) -> None:
    counts = write_merscope(tmp_path)
    (tmp_path / META).unlink()
    with pytest.raises(MissingFileError, match=r"no cell_metadata\.csv beside it") as caught:
        opened(tmp_path)
    assert str(tmp_path / GENES) in str(caught.value)
    source = opened(tmp_path, ReadOptions(modality="scrna"))
    assert source.coords_um is None
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


LAST = ids()[-1]


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (META, LAST, "4", rf"1 of 7 cells of cell_by_gene\.csv .* such as {LAST}; its ids look"),
        (META, LAST, ids()[0], f"cell {ids()[0]} stands twice"),
        (GENES, LAST, ids()[0], f"cell {ids()[0]} stands twice"),
        (META, "EntityID", "number", "no column of cell ids"),
        (GENES, "EntityID", "number", "no column of cell ids"),
        (META, "center_x", "x", "no columns center_x and center_y; it has fov, volume"),
        (GENES, f"\n{LAST},", f"\n{LAST},5,", "has 8 fields, 7 were expected"),
        (META, f"\n{ids()[2]},", f"\n{ids()[2]},5,", "has 9 fields, 8 were expected"),
    ],
)
def test_what_does_not_fit_together_is_told(
    tmp_path: Path, name: str, old: str, new: str, words: str
) -> None:
    write_merscope(tmp_path)
    edit(tmp_path / name, old, new)
    with pytest.raises(InputError, match=words) as caught:
        opened(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ids_that_a_spreadsheet_rounded_are_explained(tmp_path: Path) -> None:
    write_merscope(tmp_path)
    for name in (GENES, META):
        for one in ids():
            edit(tmp_path / name, one, f"{float(one):.8e}")
    with pytest.raises(InputError, match="stands twice.*the ids were rounded"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("new", "words"),
    [("n/a", "'n/a' is not a number"), ("", "'' is not a number")],
)
def test_a_count_that_is_no_number_is_named(tmp_path: Path, new: str, words: str) -> None:
    counts = write_merscope(tmp_path)
    row = ",".join(map(str, counts[4]))
    edit(tmp_path / GENES, f"{ids()[4]},{row}", f"{ids()[4]},{row[: row.rindex(',')]},{new}")
    source = opened(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        list(source.blocks())
    assert f"row '{ids()[4]}' (line 6), column 'CX3CL1'" in str(caught.value)


@pytest.mark.parametrize("name", [GENES, META])
@pytest.mark.parametrize("content", [b"", b"EntityID,PDK4\n", b"\x1f\x8bno gzip", b"\xff\xfe\x00"])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    write_merscope(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        opened(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


@needs_shared
def test_a_vendor_sample_opens() -> None:
    source = opened(SHARED / "formats-tiny/SpatialExperimentIO/MERSCOPE_small")
    assert (source.n_obs, source.n_vars, source.name) == (8, 9, "ovarian_p2s2")
    # The metadata begin with the cell that the counts end with.
    assert source.obs.index.tolist() == [*(str(i) for i in range(15589, 15596)), "88869"]
    assert source.obs["fov"].tolist() == [1715, 1715, 1715, 1715, 1715, 1716, 1716, 1609]
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um[-1], [12501.3060081969, 10052.7792821054])


def test_a_table_of_that_name_that_is_none_of_the_instruments_is_left(tmp_path: Path) -> None:
    (tmp_path / "sample_cell_by_gene.csv").write_text("cell,CD3E,LYZ\na,1,2\nb,3,4\n")
    assert merscope.find([tmp_path / "sample_cell_by_gene.csv"]) == []
    (tmp_path / "own_cell_by_gene.csv").write_text("cell,CD3E,Blank-1\na,1,2\nb,3,4\n")
    (one,) = merscope.find([tmp_path / "own_cell_by_gene.csv"])
    assert one.name == "own"
