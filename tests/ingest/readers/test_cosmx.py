from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.counts import CountCheck
from cellplm.ingest.readers import cosmx, h5ad
from cellplm.ingest.source import ReadOptions, Source
from cellplm.ingest.tissue import assign
from tests.ingest.make import GENES, dense, write_cosmx
from tests.shared import SHARED, needs_shared


def opened(folder: Path) -> Source:
    (one,) = cosmx.find(sorted(folder.iterdir()))
    return cosmx.open_source(one, ReadOptions())


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


@needs_shared
def test_a_vendor_sample_opens() -> None:
    source = opened(SHARED / "formats-tiny/SpatialExperimentIO/CosMx_small")
    assert (source.n_obs, source.n_vars) == (9, 8)


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
