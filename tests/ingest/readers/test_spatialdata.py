from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from cellplm.errors import CountsError, InputError
from cellplm.ingest.readers import anndata_zarr, spatialdata
from cellplm.ingest.source import Found, ReadOptions, Source
from tests.ingest.make import GENES, dense, make_counts
from tests.ingest.make_anndata import (
    ZarrFormat,
    assert_round_trip,
    make_anndata,
    write_spatialdata,
    write_zarr,
)


def opened(one: Found, **options: Any) -> Source:
    return spatialdata.open_source(one, ReadOptions(**options))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_every_table_is_a_data_set_with_its_own_positions(
    tmp_path: Path, zarr_format: ZarrFormat
) -> None:
    counts, xy = make_counts(5, 4), np.arange(10.0).reshape(5, 2)
    obs = pd.DataFrame({"region": pd.Categorical(["cells"] * 5)}, index=list("abcde"))
    tables = {
        "cells": make_anndata(counts, obs=obs, obsm={"spatial": xy}),
        "nuclei": make_anndata(counts[:3] * 2, layout="csc"),
    }
    path = write_spatialdata(tmp_path / "slide.zarr", tables, zarr_format=zarr_format)
    one, two = spatialdata.find([path])
    assert (one.name, two.name) == ("slide-cells", "slide-nuclei")
    assert one.files == (path / "tables/cells",)
    source = opened(one)
    assert (source.format, source.modality) == ("spatialdata", "srt")
    assert source.obs["region"].tolist() == ["cells"] * 5
    assert source.coords_um is not None
    np.testing.assert_array_equal(source.coords_um, xy)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)
    source = opened(two)
    assert (source.modality, source.coords_um) == ("scrna", None)
    np.testing.assert_array_equal(dense(source.blocks(), (3, 4)), counts[:3] * 2)


def test_the_only_table_is_named_after_the_folder(tmp_path: Path) -> None:
    path = write_spatialdata(tmp_path / "s.zarr", {"table": make_anndata(make_counts(3, 2))})
    assert [one.name for one in spatialdata.find([path])] == ["s"]


def test_the_table_of_the_first_versions_is_found(tmp_path: Path) -> None:
    path = write_spatialdata(tmp_path / "s.zarr", {"table": make_anndata(make_counts(3, 2))})
    (path / "tables").rename(path / "table")
    (one,) = spatialdata.find([path])
    assert one.path == path / "table/table"
    assert opened(one).n_obs == 3


def test_spots_of_visium_are_known(tmp_path: Path) -> None:
    obs = pd.DataFrame(
        {"in_tissue": [1, 0, 1], "array_row": 0, "array_col": [0, 2, 4]}, index=list("abc")
    )
    adata = make_anndata(make_counts(3, 2), obs=obs, obsm={"spatial": np.eye(3, 2)})
    (one,) = spatialdata.find([write_spatialdata(tmp_path / "s.zarr", {"table": adata})])
    source = opened(one)
    assert (source.spots, source.platform) == (True, "Visium")
    assert {reason: int(rows.sum()) for reason, rows in source.unfit.items()} == {
        "outside the tissue (in_tissue = 0)": 1
    }


def test_an_anndata_is_no_spatialdata(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", make_anndata(make_counts(3, 2)))
    assert spatialdata.find([path, tmp_path]) == []
    assert spatialdata.refusal(path) is None
    assert spatialdata.refusal(tmp_path) is None


def test_a_spatialdata_without_tables_says_so(tmp_path: Path) -> None:
    path = write_spatialdata(tmp_path / "s.zarr", {})
    assert spatialdata.find([path]) == []
    assert anndata_zarr.find([path]) == []
    assert "without tables" in (spatialdata.refusal(path) or "")


def test_a_table_without_counts_is_refused_by_its_own_name(tmp_path: Path) -> None:
    path = write_spatialdata(tmp_path / "s.zarr", {"t": make_anndata(make_counts(3, 2) / 3)})
    with pytest.raises(CountsError, match=r"s\.zarr/tables/t: no raw counts"):
        opened(spatialdata.find([path])[0])


@pytest.mark.parametrize("part", ["tables", "tables/t", "tables/t/obs", "tables/t/X/data/c"])
def test_a_link_is_refused_wherever_it_is(tmp_path: Path, part: str) -> None:
    path = write_spatialdata(tmp_path / "s.zarr", {"t": make_anndata(make_counts(3, 2) + 1)})
    (path / part).rename(tmp_path / "elsewhere")
    (path / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{part}: a link"):
        opened(spatialdata.find([path])[0])


def test_a_table_in_an_unreadable_folder_is_told(tmp_path: Path) -> None:
    path = write_spatialdata(tmp_path / "s.zarr", {"t": make_anndata(make_counts(3, 2))})
    (path / "tables/t/zarr.json").write_text("{")
    (one,) = spatialdata.find([path])
    with pytest.raises(InputError, match="not a readable Zarr folder"):
        opened(one)


def test_a_folder_goes_through_ingestion_unchanged(tmp_path: Path) -> None:
    counts = make_counts(60, 8, seed=5) + (np.arange(60) % 2)[:, None]
    xy = np.random.default_rng(0).uniform(0, 300, (60, 2))
    adata = make_anndata(counts, obsm={"spatial": xy})
    path = write_spatialdata(tmp_path / "a.zarr", {"table": adata})
    back = assert_round_trip(path, counts, [f"cell{i}" for i in range(60)], list(GENES))
    np.testing.assert_allclose(back.obsm["spatial"], xy, rtol=1e-5)


def test_the_images_are_not_read(tmp_path: Path) -> None:
    path = write_spatialdata(tmp_path / "s.zarr", {"t": make_anndata(make_counts(3, 2))})
    assert zarr.open_array(path / "images/he", mode="r").shape == (3, 4, 4)
    for chunk in (path / "images/he").rglob("c/*"):
        if chunk.is_file():
            chunk.unlink()
    assert opened(spatialdata.find([path])[0]).n_obs == 3
