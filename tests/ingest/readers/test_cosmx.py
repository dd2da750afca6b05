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
from cellplm.ingest.readers import cosmx, h5ad, transcripts
from cellplm.ingest.source import ReadOptions, Source
from cellplm.ingest.tissue import assign
from tests.ingest.make import GENES, CountCheck, dense, write_cosmx
from tests.ingest.make_cosmx import (
    CELLS,
    TARGETS,
    UM_PER_PX,
    Drawn,
    Names,
    global_px,
    write_atomx,
    write_fov_positions,
    write_tx,
)
from tests.shared import SHARED, needs_shared


def opened(folder: Path, options: ReadOptions | None = None) -> Source:
    (one,) = cosmx.find(sorted(folder.iterdir()))
    return cosmx.open_source(one, options or ReadOptions())


@pytest.mark.parametrize("gz", [False, True])
def test_rows_are_joined_by_fov_and_cell_and_cell_0_is_dropped(tmp_path: Path, gz: bool) -> None:
    counts = write_cosmx(tmp_path, gz=gz)
    source = opened(tmp_path)
    assert source.name == "S1"
    assert source.obs.index.tolist() == ["c_7_1", "c_7_2", "c_7_3", "c_9_1", "c_9_2", "c_9_3"]
    assert source.obs["Area"].tolist() == [7, 14, 21, 9, 18, 27]
    assert source.var.index.tolist() == list(GENES)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)
    expected = np.array([[701, -10], [702, -20], [703, -30], [901, -10], [902, -20], [903, -30]])
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, expected * 0.120280945, rtol=1e-6)
    assert "1 rows with cell_ID 0" in source.warnings[0]


def test_fields_of_view_are_the_tissues(tmp_path: Path) -> None:
    write_cosmx(tmp_path)
    got = assign(opened(tmp_path), tissue_key=None)
    assert got.tissue.tolist() == [0, 0, 0, 1, 1, 1]
    assert set(got.sample) == {"S1"}


def test_slides_in_one_folder_are_data_sets_of_their_own(tmp_path: Path) -> None:
    write_cosmx(tmp_path, prefix="S1")
    write_cosmx(tmp_path, prefix="S2")
    assert sorted(one.name for one in cosmx.find(sorted(tmp_path.iterdir()))) == ["S1", "S2"]


def test_other_spellings_of_the_columns_are_understood(tmp_path: Path) -> None:
    write_cosmx(tmp_path)
    for path in tmp_path.iterdir():
        text = path.read_text().replace("cell_ID", "cell_id").replace("fov", "FOV")
        path.write_text(text.replace("CenterX", "centerx").replace("CenterY", "centery"))
    assert opened(tmp_path).coords_um is not None


def edit(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


EXPR, META = "S1_exprMat_file.csv", "S1_metadata_file.csv"


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (META, "9,3,903", "9,4,903", "1 of 6 cells of .* such as cell 3 of FOV 9"),
        (META, "9,3,903", "9,2,903", "cell 2 of FOV 9 stands twice"),
        (META, "cell_ID", "id", "no column 'cell_ID'"),
        (META, "CenterX_global_px", "X", "no columns CenterX_global_px"),
        (EXPR, "\n9,3,", "\n9,2,", "cell 2 of FOV 9 stands twice"),
        (EXPR, "\n9,3,", "\n9,three,", "cell_ID is 'three'"),
        (EXPR, '"fov"', '"field"', "no column 'fov'"),
        (EXPR, "\n9,3,", "\n9,3,1,", "fields"),
    ],
)
def test_what_does_not_fit_together_is_told(
    tmp_path: Path, name: str, old: str, new: str, words: str
) -> None:
    write_cosmx(tmp_path)
    edit(tmp_path, name, old, new)
    with pytest.raises(InputError, match=words) as caught:
        opened(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


def test_a_matrix_without_metadata_is_refused(tmp_path: Path) -> None:
    write_cosmx(tmp_path)
    (tmp_path / META).unlink()
    with pytest.raises(MissingFileError, match="metadata_file"):
        opened(tmp_path)


def test_a_matrix_without_metadata_is_read_only_when_asked(tmp_path: Path) -> None:
    counts = write_cosmx(tmp_path)
    (tmp_path / META).unlink()
    source = opened(tmp_path, ReadOptions(modality="scrna"))
    assert source.coords_um is None
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_other_files_of_an_export_are_no_data_set(tmp_path: Path) -> None:
    write_cosmx(tmp_path)
    (tmp_path / EXPR).unlink()
    assert cosmx.find(sorted(tmp_path.iterdir())) == []
    assert "without its *exprMat_file.csv or *tx_file.csv" in str(cosmx.refusal(tmp_path / META))


@pytest.mark.parametrize("gz", [False, True])
def test_an_export_of_atomx_gives_back_every_count_and_name(tmp_path: Path, gz: bool) -> None:
    counts = write_atomx(tmp_path / "raw", gz=gz)
    write_fov_positions(tmp_path / "raw")
    ingest_files([tmp_path / "raw"], tmp_path / "c.zarr", IngestOptions())
    part = Corpus.open(tmp_path / "c.zarr").parts[0]
    adata = part.to_anndata()
    assert part.entry.name == "S2"
    assert adata.obs_names.tolist() == [f"c_2_{fov}_{cell}" for fov, cell in CELLS]
    assert adata.var["source_name"].tolist() == list(TARGETS)
    assert adata.obs["Area"].tolist() == [10 * i for i in range(len(CELLS))]
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    expected = (global_px() * UM_PER_PX).astype(np.float32)
    np.testing.assert_array_equal(adata.obsm["spatial"], expected)


@pytest.mark.parametrize(
    "names",
    [
        Names(fov="FOV", number="cell_id"),
        Names(fov="Fov", number="cellID", x="center_x_global_px", y="center_y_global_px"),
        Names(number="CellId", x="x_global_px", y="y_global_px"),
        Names(number="cell.ID", x="CenterX.global.px", y="CenterY.global.px"),
        Names(x="x_slide_mm", y="y_slide_mm", unit_px=1000 / UM_PER_PX),
    ],
)
def test_every_spelling_of_the_columns_means_the_same(tmp_path: Path, names: Names) -> None:
    counts = write_atomx(tmp_path, names=names, composite=())
    source = opened(tmp_path)
    assert source.obs.index.tolist() == [f"c_{fov}_{cell}" for fov, cell in CELLS]
    assert source.var.index.tolist() == list(TARGETS)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, global_px() * UM_PER_PX, rtol=1e-6)


@pytest.mark.parametrize("where", ["-", "_", "."])
def test_files_are_known_by_name_in_any_case(tmp_path: Path, where: str) -> None:
    write_atomx(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").iterdir():
        role = path.name.removeprefix("S2_")
        path.rename(tmp_path / "b" / f"Run1{where}{role.upper().replace('.CSV', '.csv')}")
    assert opened(tmp_path / "b").name == "Run1"


@pytest.mark.parametrize("composite", [("exprMat", "metadata"), ("exprMat",), ("metadata",), ()])
def test_one_cell_number_on_two_slides_is_two_cells(
    tmp_path: Path, composite: tuple[str, ...]
) -> None:
    counts = write_atomx(tmp_path, slides=(1, 2), composite=composite)
    if len(composite) < 2:
        with pytest.raises(InputError, match="stands twice"):
            opened(tmp_path)
        return
    source = opened(tmp_path)
    expected = [f"c_{slide}_{fov}_{cell}" for slide in (1, 2) for fov, cell in CELLS]
    assert source.obs.index.tolist() == expected
    assert source.obs["slide_ID"].astype(str).tolist() == ["1"] * 8 + ["2"] * 8
    assert source.obs["Area"].tolist() == [10 * i for i in range(16)]
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_composite_names_alone_are_enough(tmp_path: Path) -> None:
    counts = write_atomx(tmp_path)
    for path in tmp_path.iterdir():
        rows = [line.split(",") for line in path.read_text().splitlines()]
        drop = [i for i, name in enumerate(rows[0]) if name in ("fov", "cell_ID")]
        kept = [",".join(v for i, v in enumerate(row) if i not in drop) for row in rows]
        path.write_text("\n".join(kept) + "\n")
    source = opened(tmp_path)
    assert source.obs[["fov", "cell_ID"]].to_numpy().tolist() == [list(cell) for cell in CELLS]
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_controls_are_told_by_their_names(tmp_path: Path) -> None:
    write_atomx(tmp_path)
    source = opened(tmp_path)
    types = source.var["feature_types"]
    assert types[["NegPrb3", "Negative05"]].unique().tolist() == ["Negative Control Probe"]
    assert types["SystemControl7"] == "System Control"
    assert types["FalseCode2"] == "False Code"
    kinds = harmonise(source.var, species=None, index=GeneIndex.bundled()).kind
    assert [kind == "control" for kind in kinds] == [False, False, True, False, *[True] * 3, False]


@pytest.mark.parametrize("unit", ["px", "mm"])
def test_positions_within_the_fov_are_added_to_its_own(tmp_path: Path, unit: str) -> None:
    write_atomx(tmp_path, positions="local")
    write_fov_positions(tmp_path, unit=unit)
    source = opened(tmp_path)
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, global_px() * UM_PER_PX, rtol=1e-6)
    assert "only positions within the FOV" in source.warnings[0]


def test_positions_within_the_fov_need_those_of_the_fov(tmp_path: Path) -> None:
    write_atomx(tmp_path, positions="local")
    with pytest.raises(InputError, match="no fov_positions_file for those of the FOV"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("\n12,", "\n13,", "FOV 12 is not in it"),
        ("\n12,", "\n1,", "FOV 1 stands twice"),
        ("\n12,", "\nx,", "fov is 'x' in data row 2"),
        ("x_global_px", "x", "no columns fov, x_global_px and y_global_px"),
    ],
)
def test_damaged_positions_of_fovs_are_told(tmp_path: Path, old: str, new: str, words: str) -> None:
    write_atomx(tmp_path, positions="local")
    write_fov_positions(tmp_path)
    edit(tmp_path, "S2_fov_positions_file.csv", old, new)
    with pytest.raises(InputError, match=words) as caught:
        opened(tmp_path)
    assert str(tmp_path / "S2_fov_positions_file.csv") in str(caught.value)


def test_the_user_says_what_a_pixel_is(tmp_path: Path) -> None:
    write_atomx(tmp_path)
    source = opened(tmp_path, ReadOptions(um_per_unit=0.18))
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, global_px() * 0.18, rtol=1e-6)


def test_a_damaged_composite_name_is_told(tmp_path: Path) -> None:
    write_atomx(tmp_path)
    edit(tmp_path, "S2_metadata_file.csv", "c_2_12_4", "c_2_12")
    with pytest.raises(InputError, match=r"S2_metadata_file\.csv: cell is 'c_2_12' in data row"):
        opened(tmp_path)


def expected_order(drawn: Drawn, *, grouped: bool) -> list[tuple[int, int]]:
    """Cells as they have to stand: FOVs as in the file, if each is in one piece."""
    cells = sorted({(int(f), int(c)) for f, c in zip(drawn.fov, drawn.number, strict=True) if c})
    order = list(dict.fromkeys(drawn.fov.tolist()))
    return sorted(cells, key=lambda cell: (order.index(cell[0]), cell[1])) if grouped else cells


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("batch_bytes", [700, 16 * 2**20])
def test_transcripts_are_counted_by_cell_and_target(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gz: bool,
    shuffled: bool,
    batch_bytes: int,
) -> None:
    monkeypatch.setattr(transcripts, "BATCH_BYTES", batch_bytes)
    monkeypatch.setattr(transcripts, "MERGE_PAIRS", 20)
    monkeypatch.setattr(transcripts, "BLOCK_VALUES", 9)
    drawn = write_tx(tmp_path, shuffled=shuffled, gz=gz)
    source = opened(tmp_path)
    cells = expected_order(drawn, grouped=not shuffled)
    assert source.obs[["fov", "cell_ID"]].to_numpy().tolist() == [list(cell) for cell in cells]
    assert source.obs.index.tolist() == [f"c_{fov}_{cell}" for fov, cell in cells]
    assert source.var.index.tolist() == sorted(set(drawn.target.tolist()))
    expected = drawn.counts(source.var.index.tolist(), cells)
    np.testing.assert_array_equal(dense(source.blocks(), expected.shape), expected)
    assert max(block.data.size for block in source.blocks()) <= 9
    mean = [
        drawn.xy[(drawn.fov == fov) & (drawn.number == cell)].mean(axis=0) for fov, cell in cells
    ]
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, np.array(mean) * UM_PER_PX, rtol=1e-6)
    n_outside = int((drawn.number == 0).sum())
    assert f"{400 - n_outside} transcripts of L9_tx_file.csv" in source.warnings[0]
    assert f"{n_outside} of 400 transcripts with cell_ID 0" in source.warnings[1]
    assert "the mean of those of its transcripts" in source.warnings[2]


def test_transcripts_become_a_corpus(tmp_path: Path) -> None:
    drawn = write_tx(tmp_path / "raw")
    ingest_files([tmp_path / "raw"], tmp_path / "c.zarr", IngestOptions())
    adata = Corpus.open(tmp_path / "c.zarr").parts[0].to_anndata()
    cells = expected_order(drawn, grouped=True)
    assert adata.obs_names.tolist() == [f"c_{fov}_{cell}" for fov, cell in cells]
    targets = adata.var["source_name"].tolist()
    np.testing.assert_array_equal(adata.X.toarray(), drawn.counts(targets, cells))


def test_transcripts_beside_a_matrix_are_not_counted(tmp_path: Path) -> None:
    counts = write_atomx(tmp_path)
    write_tx(tmp_path)
    (tmp_path / "L9_tx_file.csv").rename(tmp_path / "S2_tx_file.csv")
    (one,) = cosmx.find(sorted(tmp_path.iterdir()))
    assert one.beside == (tmp_path / "S2_tx_file.csv",)
    source = cosmx.open_source(one, ReadOptions())
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_positions_of_transcripts_within_the_fov_need_those_of_the_fov(tmp_path: Path) -> None:
    drawn = write_tx(tmp_path, local=True, fovs=(1, 12))
    with pytest.raises(InputError, match="no fov_positions_file"):
        opened(tmp_path)
    write_fov_positions(tmp_path, prefix="L9")
    source = opened(tmp_path)
    first = (drawn.fov == 1) & (drawn.number == 1)
    expected = (drawn.xy[first].mean(axis=0) + (494.5, -160233.25)) * UM_PER_PX
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um[0], expected, rtol=1e-6)


def test_metadata_tell_the_positions_of_counted_cells(tmp_path: Path) -> None:
    drawn = write_tx(tmp_path)
    cells = expected_order(drawn, grouped=True)
    rows = [f"{f},{c},{f + c},{f - c}" for f, c in [*reversed(cells), (99, 1)]]
    header = "fov,cell_ID,CenterX_global_px,CenterY_global_px"
    (tmp_path / "L9_metadata_file.csv").write_text("\n".join([header, *rows]) + "\n")
    source = opened(tmp_path)
    expected = np.array([(f + c, f - c) for f, c in cells]) * UM_PER_PX
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, expected, rtol=1e-6)
    assert source.warnings[-1] == "L9_metadata_file.csv: 1 cells that have no counts were left out"


HEADER = "fov,cell_ID,x_global_px,y_global_px,target\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEADER + "1,0,5,5,A\n", "no transcript lies in a cell"),
        (HEADER + "1,1,5,5,A\n1,2.5,5,5,A\n", "cell_ID is 2.5 in data row 2; a whole number"),
        (HEADER + "1,1,5,5,A\n1,-1,5,5,A\n", "cell_ID is -1 in data row 2; a whole number"),
        (HEADER + "1,1,5,5,A\n4e9,1,5,5,A\n", "fov is 4000000000 in data row 2"),
        (HEADER + "1,1,5,5,A\n1,one,5,5,A\n", "cell_ID is 'one' in line 3; a number was expected"),
        (HEADER + "1,1,5,5,A\n1,1,left,5,A\n", "x_global_px is 'left' in line 3; a number"),
        (HEADER + "1,1,5,5,A\n1,1,5,5,\n", "target is empty in data row 2"),
        (HEADER + "1,1,5,5,A\n1,1,5\n", "Expected 5 columns, got 3"),
        (HEADER, "a single line"),
        (HEADER.replace("target", "spot") + "1,1,5,5,A\n", "no column 'target'"),
        (HEADER.replace("fov", "field") + "1,1,5,5,A\n", "no column 'fov'"),
        (HEADER.replace("cell_ID", "cells") + "1,1,5,5,A\n", "no column 'cell_ID'"),
        (HEADER.replace("x_global_px", "x") + "1,1,5,5,A\n", "no columns x_global_px"),
    ],
)
def test_damaged_transcripts_are_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "L9_tx_file.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        opened(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip_of_transcripts_is_told(tmp_path: Path) -> None:
    write_tx(tmp_path, gz=True)
    path = tmp_path / "L9_tx_file.csv.gz"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError) as caught:
        opened(tmp_path)
    assert str(path) in str(caught.value)


def test_transcripts_that_change_while_they_are_read_are_told(tmp_path: Path) -> None:
    write_tx(tmp_path)
    source = opened(tmp_path)
    write_tx(tmp_path, seed=1, fovs=(1, 12, 4))
    with pytest.raises(InputError, match="changed while it was read"):
        list(source.blocks())


@needs_shared
def test_a_vendor_sample_opens() -> None:
    folder = SHARED / "formats-tiny/SpatialExperimentIO/CosMx_small"
    source = opened(folder)
    assert (source.n_obs, source.n_vars, source.name) == (9, 8, "lung_p9s1")
    assert source.coords_um is not None
    expected = np.array([25423.7777777778, 162475.666666667]) * UM_PER_PX
    np.testing.assert_allclose(source.coords_um[0], expected, rtol=1e-6)
    (found,) = cosmx.find(sorted(folder.iterdir()))
    assert [path.suffix for path in found.beside] == [".csv", ".parquet"]


@needs_shared
def test_a_vendor_table_of_transcripts_has_the_cells_of_the_manifest() -> None:
    source = opened(SHARED / "srt-cosmx-lung12-tx")
    counts = dense(source.blocks(), (source.n_obs, source.n_vars))
    # 122 (FOV, cell_ID) of which one in each of the 2 FOVs is cell_ID 0.
    assert counts.shape == (120, 980)
    assert source.obs["fov"].value_counts().to_dict() == {2: 67, 3: 53}
    assert int(counts.sum()) == 25825 - 6860
    kinds = source.var["feature_types"].value_counts().to_dict()
    assert kinds == {"Gene Expression": 960, "Negative Control Probe": 20}
    assert "6860 of 25825 transcripts" in source.warnings[1]


@needs_shared
def test_the_flat_files_and_the_h5ad_of_one_slide_hold_the_same_counts() -> None:
    flat = opened(SHARED / "srt-cosmx-lung5")
    (one,) = h5ad.find([SHARED / "srt-cosmx-lung5/lung5.converted.h5ad"])
    twin = h5ad.open_source(one, ReadOptions())
    assert (flat.n_obs, flat.n_vars) == (13463, 980)
    shape = (flat.n_obs, flat.n_vars)
    checked = [
        dense((check.add(block) for block in source.blocks()), shape)
        for source, check in ((flat, CountCheck(flat)), (twin, CountCheck(twin)))
    ]
    rows = twin.obs.index.get_indexer("Lung5_Rep3_" + flat.obs.index.str.removeprefix("c_"))
    columns = twin.var.index.get_indexer(flat.var.index)
    np.testing.assert_array_equal(checked[0], checked[1][rows][:, columns])
    assert flat.coords_um is not None
    assert twin.coords_um is not None
    np.testing.assert_allclose(flat.coords_um, twin.coords_um[rows], rtol=1e-5)
    assert np.bincount(assign(flat, tissue_key=None).tissue).tolist() == [4347, 3250, 3173, 2693]
