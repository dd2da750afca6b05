from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.find import SOURCES
from cellplm.ingest.find import find as find_all
from cellplm.ingest.options import IngestOptions
from cellplm.ingest.readers import tenx_h5, tenx_mtx
from cellplm.ingest.source import ReadOptions, Source
from tests.ingest.make import dense, make_counts
from tests.ingest.make_tenx import (
    PX_UM,
    barcodes,
    feature,
    out_of,
    write,
    write_h5,
    write_mtx,
    write_spatial,
)
from tests.shared import SHARED, needs_shared

TINY = SHARED / "formats-tiny"
N = 24


def opened(root: Path, **options: Any) -> Source:
    (one,), _ = find_all([root])
    return SOURCES[one.format].open_source(one, ReadOptions(**options))


def expected_um(table: pd.DataFrame) -> NDArray[np.float64]:
    xy: NDArray[np.float64] = table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
    return xy * PX_UM


def run(tmp_path: Path, *, h5: bool = False, **how: Any) -> tuple[Path, pd.DataFrame]:
    """A run of `N` spots, and its table of positions."""
    outs = tmp_path / "slide1/outs"
    if h5:
        write_h5(outs / "filtered_feature_bc_matrix.h5", make_counts(N, 6))
    else:
        write_mtx(outs / "filtered_feature_bc_matrix", make_counts(N, 6))
    return outs, write_spatial(outs / "spatial", barcodes(N), **how)


@pytest.mark.parametrize("h5", [False, True])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("gz", [False, True])
def test_spots_get_their_positions_in_micrometres(
    tmp_path: Path, h5: bool, version: int, gz: bool
) -> None:
    in_tissue = [1, 0, 1] * (N // 3)
    _, table = run(tmp_path, h5=h5, version=version, gz=gz, in_tissue=in_tissue)
    source = opened(tmp_path)
    assert (source.name, source.modality, source.platform) == ("slide1", "srt", "Visium")
    assert source.spots
    assert source.obs.index.tolist() == barcodes(N)
    assert source.obs["in_tissue"].tolist() == in_tissue
    assert source.obs["array_row"].tolist() == table["array_row"].tolist()
    assert source.coords_um is not None
    assert source.coords_um.dtype == np.float32
    np.testing.assert_allclose(source.coords_um, expected_um(table), rtol=1e-4)
    assert list(source.unfit) == ["outside the tissue (in_tissue = 0)"]
    assert source.unfit["outside the tissue (in_tissue = 0)"].tolist() == [
        not inside for inside in in_tissue
    ]
    np.testing.assert_array_equal(dense(source.blocks(), (N, 6)), make_counts(N, 6))


def test_neighbours_in_a_row_are_100_um_apart(tmp_path: Path) -> None:
    run(tmp_path)
    xy = opened(tmp_path).coords_um
    assert xy is not None
    np.testing.assert_allclose(np.hypot(*(xy[1] - xy[0])), 100, rtol=1e-4)


def test_barcodes_are_joined_by_name_and_never_by_position(tmp_path: Path) -> None:
    outs, table = run(tmp_path)
    path = outs / "spatial/tissue_positions.csv"
    known = table[:-2]
    extra = pd.DataFrame([["GGGGTTTTCCCCAAAA-1", 0, 70, 70, 1.0, 2.0]], columns=table.columns)
    pd.concat([known[::-1], extra]).to_csv(path, index=False)
    source = opened(tmp_path)
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um[:-2], expected_um(known), rtol=1e-4)
    assert np.isnan(source.coords_um[-2:]).all()
    assert source.obs["in_tissue"].isna().tolist() == [False] * (N - 2) + [True] * 2
    assert not source.unfit
    assert "2 of 24 barcodes are not in tissue_positions.csv" in source.warnings[0]


@pytest.mark.parametrize(
    ("scales", "um"),
    [
        # A theoretical spot of 65 µm in Space Ranger 1, of 70 µm in 3: the lattice says which.
        ({"spot_diameter_fullres": 65 / PX_UM}, PX_UM),
        ({"spot_diameter_fullres": 70 / PX_UM}, PX_UM),
        ({}, PX_UM),
        ({"microns_per_pixel": 0.5}, 0.5),
        ({"bin_size_um": 16.0}, 16 / (50 / PX_UM)),
    ],
)
def test_the_lattice_is_the_ruler(tmp_path: Path, scales: dict[str, Any], um: float) -> None:
    _, table = run(tmp_path, scales=scales)
    source = opened(tmp_path)
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, expected_um(table) / PX_UM * um, rtol=1e-4)


def test_where_no_lattice_is_the_spot_is_the_ruler(tmp_path: Path) -> None:
    outs, table = run(tmp_path)
    table["array_row"], table["array_col"] = 0, 0
    table.to_csv(outs / "spatial/tissue_positions.csv", index=False)
    source = opened(tmp_path)
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, expected_um(table), rtol=1e-4)
    assert "spot_diameter_fullres of 65 µm" in source.warnings[0]


def test_what_the_user_says_of_positions_goes_first(tmp_path: Path) -> None:
    _, table = run(tmp_path)
    source = opened(tmp_path, um_per_unit=2.0)
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, expected_um(table) / PX_UM * 2, rtol=1e-6)
    source = opened(tmp_path, coords=("array_col", "array_row"))
    assert source.coords_um is not None
    np.testing.assert_array_equal(source.coords_um, table[["array_col", "array_row"]])
    source = opened(tmp_path, modality="scrna")
    assert (source.modality, source.coords_um, source.spots) == ("scrna", None, True)


@pytest.mark.parametrize("told", [True, False])
def test_bins_of_visium_hd_are_places_too(tmp_path: Path, told: bool) -> None:
    names = [f"s_008um_{i // 4:05d}_{i % 4:05d}-1" for i in range(N)]
    tables = {}
    for size in ("square_008um", "square_016um"):
        folder = tmp_path / "brain/outs/binned_outputs" / size
        write_h5(folder / "filtered_feature_bc_matrix.h5", make_counts(N, 6), names=names)
        write_h5(folder / "raw_feature_bc_matrix.h5", make_counts(N, 6), names=names)
        scales = None if told else {"tissue_hires_scalef": 0.1}
        tables[size] = write_spatial(folder / "spatial", names, version=4, scales=scales)
    seen, _ = find_all([tmp_path])
    assert [one.name for one in seen] == ["brain-square_008um", "brain-square_016um"]
    source = tenx_h5.open_source(seen[0], ReadOptions())
    assert (source.platform, source.spots, source.modality) == ("Visium HD", True, "srt")
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, expected_um(tables["square_008um"]), rtol=1e-4)


def test_positions_beside_the_matrix_belong_to_its_prefix(tmp_path: Path) -> None:
    tables = {}
    for prefix, seed in (("GSM1_", 0), ("GSM2_", 1)):
        path = tmp_path / f"{prefix}filtered_feature_bc_matrix.h5"
        write_h5(path, make_counts(N, 6, seed=seed))
        tables[prefix] = write_spatial(tmp_path, barcodes(N), prefix=prefix, version=1, gz=True)
    write_mtx(tmp_path, make_counts(N, 6), prefix="GSM3_")
    tables["GSM3_"] = write_spatial(tmp_path, barcodes(N), prefix="GSM3_")
    seen, others = find_all([tmp_path])
    assert [one.name for one in seen] == ["GSM1", "GSM2", "GSM3"]
    assert others == []
    for one in seen:
        source = SOURCES[one.format].open_source(one, ReadOptions())
        assert source.coords_um is not None
        expected = expected_um(tables[f"{one.name}_"])
        np.testing.assert_allclose(source.coords_um, expected, rtol=1e-4)


def test_pictures_beside_the_positions_belong_to_the_run(tmp_path: Path) -> None:
    outs, _ = run(tmp_path)
    picture = write(outs / "spatial/tissue_hires_image.png", b"\x89PNG")
    (one,), others = find_all([tmp_path])
    assert picture in one.beside
    assert others == []


def test_space_ranger_says_that_rows_are_spots_where_positions_are_lost(tmp_path: Path) -> None:
    attrs = {"software_version": "spaceranger-2.1.0", "chemistry_description": "Visium V4 - FFPE"}
    source = tenx_h5.open_source(
        tenx_h5.find([write_h5(tmp_path / "a.h5", make_counts(4, 3), attrs=attrs)])[0],
        ReadOptions(),
    )
    assert (source.spots, source.platform, source.modality) == (True, "Visium", "scrna")


def test_segmented_cells_of_space_ranger_4_are_cells(tmp_path: Path) -> None:
    attrs = {"software_version": "spaceranger-4.0.1", "chemistry_description": "Visium HD v1"}
    path = tmp_path / "brain/outs/segmented_outputs/filtered_feature_cell_matrix.h5"
    names = [f"cellid_{i:09d}-1" for i in range(4)]
    write_h5(path, make_counts(4, 3), names=names, attrs=attrs)
    (one,) = tenx_h5.find([path])
    source = tenx_h5.open_source(one, ReadOptions())
    assert (source.name, source.spots, source.platform) == ("brain", False, "Visium HD")
    assert "cell_segmentations.geojson" in source.warnings[0]


def test_spots_are_refused_unless_they_are_asked_for(tmp_path: Path) -> None:
    in_tissue = [0] * 3 + [1] * (N - 3)
    _, table = run(tmp_path, in_tissue=in_tissue)
    with pytest.raises(InputError, match="spots"):
        ingest_files([tmp_path / "slide1"], tmp_path / "c.zarr", IngestOptions())
    options = IngestOptions(allow_spots=True, min_counts=0)
    report = ingest_files([tmp_path / "slide1"], tmp_path / "c.zarr", options)
    assert report.ingested[0].excluded_cells == {"outside the tissue (in_tissue = 0)": 3}
    obs, names, got = out_of(tmp_path / "c.zarr")
    assert obs.index.tolist() == barcodes(N)
    assert obs["array_col"].tolist() == table["array_col"].tolist()
    assert names == [feature(i)[1] for i in range(6)]
    np.testing.assert_array_equal(got, make_counts(N, 6))


Spoil = Callable[[Path], Path]


def edit(change: Callable[[str], str], name: str = "tissue_positions.csv") -> Spoil:
    def spoil(spatial: Path) -> Path:
        path = spatial / name
        path.write_text(change(path.read_text()))
        return path

    return spoil


def replaced(old: str, new: str, name: str = "tissue_positions.csv") -> Spoil:
    return edit(lambda text: text.replace(old, new, 1), name)


SCALES = "scalefactors_json.json"
FIRST, SECOND = barcodes(2)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (edit(lambda _: ""), "no table of positions"),
        (edit(lambda text: text.split("\n")[0]), "no positions in it"),
        (replaced("in_tissue", "tissue"), "no column 'in_tissue'; it has barcode, tissue"),
        (edit(lambda text: text.split("\n", 1)[1].replace(",", ";")), "without a header, 6 were"),
        (replaced(f"{SECOND},1", f"{FIRST},1"), f"barcode '{FIRST}' stands twice"),
        (replaced(f"{FIRST},1", f"{FIRST},2"), "in_tissue of .* is .*2.*; 0 or 1 was expected"),
        (replaced("300.0", "left"), f"pxl_col_in_fullres of barcode '{FIRST}' is 'left'"),
        (replaced("300.0", ""), "pxl_col_in_fullres of .* is 'nan'; a number was expected"),
        (replaced("300.0", "inf"), "pxl_col_in_fullres of .* is 'inf'; a number was expected"),
        (edit(lambda text: text.replace("-1,", "-7,")), "none of its 24 barcodes"),
        (edit(lambda text: text + '"open\n'), "no table of positions"),
        (edit(lambda _: "{", SCALES), "not JSON"),
        (edit(lambda _: "[" * 100_000, SCALES), "not JSON"),
        (edit(lambda _: "[1]", SCALES), "an object with scale factors"),
        (edit(lambda _: '{"microns_per_pixel": 0}', SCALES), "microns_per_pixel is 0"),
        (edit(lambda _: '{"microns_per_pixel": "1"}', SCALES), "microns_per_pixel is '1'"),
        (edit(lambda _: '{"bin_size_um": NaN}', SCALES), "bin_size_um is nan"),
    ],
)
def test_damaged_positions_are_refused_in_one_line_that_names_the_file(
    tmp_path: Path, spoil: Spoil, words: str
) -> None:
    outs, _ = run(tmp_path)
    path = spoil(outs / "spatial")
    with pytest.raises(InputError, match=words) as caught:
        opened(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    outs, table = run(tmp_path, version=4)
    path = outs / "spatial/tissue_positions.parquet"
    whole = path.read_bytes()
    for data, words in ((whole[:-40], "not a readable parquet"), (b"PAR1", "not a readable")):
        path.write_bytes(data)
        with pytest.raises(InputError, match=words) as caught:
            opened(tmp_path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    table.drop(columns="array_row").to_parquet(path)
    with pytest.raises(InputError, match="no column 'array_row'"):
        opened(tmp_path)


def test_pixels_of_no_known_length_are_not_guessed(tmp_path: Path) -> None:
    outs, table = run(tmp_path)
    (outs / "spatial" / SCALES).write_text(json.dumps({"tissue_hires_scalef": 0.1}))
    table["array_row"] = 0
    table.to_csv(outs / "spatial/tissue_positions.csv", index=False)
    with pytest.raises(InputError, match="--um-per-unit"):
        opened(tmp_path)
    assert opened(tmp_path, um_per_unit=0.5).coords_um is not None


@needs_shared
@pytest.mark.parametrize(
    ("folder", "shape", "um", "n_outside", "platform"),
    [
        ("srt-visium-spaceranger3", (2898, 19465), 4.6776, 0, "Visium"),
        ("formats-tiny/scanpy/visium_data/1.0.0", (100, 100), 0.7268, 0, "Visium"),
        ("formats-tiny/VisiumIO/10xVisium/section1", (50, 49), 0.7267, 28, "Visium"),
        ("formats-tiny/VisiumIO/binned_outputs", (10, 10), 0.273824, 0, "Visium HD"),
    ],
)
def test_real_runs_come_with_their_positions(
    folder: str, shape: tuple[int, int], um: float, n_outside: int, platform: str
) -> None:
    source = opened(SHARED / folder)
    assert (source.n_obs, source.n_vars) == shape
    assert (source.platform, source.spots, source.modality) == (platform, True, "srt")
    assert sum(int(mask.sum()) for mask in source.unfit.values()) == n_outside
    (path,) = (p for p in source.files if p.name.startswith("tissue_positions"))
    names = ["barcode", "in_tissue", "array_row", "array_col", "y", "x"]
    if path.suffix == ".parquet":
        table = pd.read_parquet(path).set_axis(names, axis=1)
    else:
        table = pd.read_csv(path, names=names, skiprows=int("list" not in path.name))
    truth = table.set_index("barcode").loc[source.obs.index]
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, truth[["x", "y"]] * um, rtol=1e-3)
    assert source.obs["in_tissue"].tolist() == truth["in_tissue"].tolist()


@needs_shared
def test_the_real_run_of_space_ranger_3_holds_all_its_counts() -> None:
    source = opened(SHARED / "srt-visium-spaceranger3")
    total = sum(int(block.data.sum()) for block in source.blocks())
    assert total == 3_085_005  # 1,065 a spot
    assert source.format == tenx_mtx.FORMAT


@needs_shared
def test_a_real_flat_folder_of_two_data_sets_is_told_apart() -> None:
    seen, _ = find_all([TINY / "seurat/matrix.mtx", TINY / "seurat/filtered_feature_bc_matrix.h5"])
    mtx, h5 = (SOURCES[one.format].open_source(one, ReadOptions()) for one in seen)
    assert (mtx.n_obs, mtx.modality, mtx.spots) == (80, "scrna", False)
    assert (h5.n_obs, h5.modality, h5.spots) == (2695, "srt", True)
