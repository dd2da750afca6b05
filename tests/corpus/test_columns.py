"""Columns of the source and ours stand side by side, and come apart again."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from cellplm.corpus.columns import OBS_COLUMNS, VAR_COLUMNS, as_in_source, renamed, stored_names

NAMES = st.sampled_from(
    ["tissue", "Tissue", "source_tissue", "source_source_tissue", "fov", "FOV", "source_row",
     "source_source_row", "x", "X", "source_x", "kept", "cellplm_tissue", "source_name", "a/b",
     "a_b", "_index", "", "..", "zarr.json", "ß", "ss", "K", "\u212a"]
) | st.text(max_size=120)  # fmt: skip


@given(st.lists(NAMES, unique=True), st.booleans())
def test_every_name_comes_back_and_none_stands_twice(names: list[str], repeats: bool) -> None:
    source = pd.DataFrame(
        [[f"{n}{i}" for n in names] for i in range(2)],
        index=["a", "a" if repeats else "b"],
        columns=pd.Index(names, dtype=object),
    )
    stored = source.copy()
    stored.columns = pd.Index(stored_names(names, OBS_COLUMNS), dtype=object)
    folded = [unicodedata.normalize("NFKC", n).casefold() for n in (*stored.columns, *OBS_COLUMNS)]
    assert len(set(folded)) == len(folded)
    assert not any("/" in n or n in ("", "_index") or n.startswith("__") for n in stored.columns)
    for name in (each for each in OBS_COLUMNS if each != "source_name"):
        stored[name] = range(2)
    stored.index = pd.Index(["a", "a-1" if repeats else "b"])
    if repeats:
        stored["source_name"] = source.index.to_numpy()
    back = renamed(names, OBS_COLUMNS)
    pd.testing.assert_frame_equal(as_in_source(stored, OBS_COLUMNS, back), source)
    with_ours = as_in_source(stored, OBS_COLUMNS, back, with_ours=True)
    assert with_ours.columns.is_unique
    pd.testing.assert_frame_equal(with_ours[names], source)
    assert with_ours.shape[1] == len(names) + len(OBS_COLUMNS) - 1


def test_only_names_that_meet_others_are_changed() -> None:
    columns = ["kind", "source_kind", "kinds", "Match", "x", "X"]
    assert stored_names(columns, VAR_COLUMNS) == [
        "source_kind", "source_source_kind", "kinds", "source_Match", "x", "source_X",
    ]  # fmt: skip
    assert renamed(["x", "kinds"], VAR_COLUMNS) == {}


def test_a_column_that_stands_twice_gets_two_names() -> None:
    assert stored_names(["a", "a", 3], OBS_COLUMNS) == ["a", "source_a", "3"]


def test_a_part_that_names_no_columns_has_only_ours_renamed() -> None:
    table = pd.DataFrame({"source_kind": ["u"], "source_x": [1], "kind": ["gene"]}, index=["g"])
    assert list(as_in_source(table, VAR_COLUMNS).columns) == ["kind", "source_x"]


@pytest.mark.parametrize(
    "names", [["Sample", "fov ", "SAMPLE"], ["a/b", "a_b", ".", "_index", "é" * 300]]
)
def test_a_table_with_stored_names_survives_consolidated_metadata(
    tmp_path: Path, names: list[str]
) -> None:
    table = pd.DataFrame({i: pd.Categorical([f"v{i}", "w"]) for i in range(len(names))})
    table.columns = pd.Index(stored_names(names, OBS_COLUMNS), dtype=object)
    table.index = pd.Index(["c0", "c1"])
    table["sample"] = pd.Categorical(["s", "t"])
    group = zarr.create_group(tmp_path / "part", zarr_format=3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")
        ad.io.write_elem(group, "obs", table)
    zarr.consolidate_metadata(group.store)
    back = ad.io.read_elem(zarr.open_group(tmp_path / "part", mode="r")["obs"])
    pd.testing.assert_frame_equal(back, table)
