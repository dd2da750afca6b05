from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellplm.errors import CountsError, InputError
from cellplm.ingest.readers import anndata_counts, h5ad, sample
from cellplm.ingest.readers import dense as dense_reader
from cellplm.ingest.source import Found, Modality, ReadOptions, Source
from cellplm.ingest.spacing import nearest_distances
from cellplm.ingest.tissue import assign
from tests.ingest.make import GENES, dense, make_counts, write_h5ad
from tests.ingest.make_anndata import Layout, assert_round_trip, make_anndata, write_h5ad_0_5
from tests.shared import SHARED, needs_shared


def found(path: Path) -> Found:
    (one,) = h5ad.find([path])
    return one


def opened(path: Path, *, counts: str | None = None, modality: Modality | None = None) -> Source:
    return h5ad.open_source(found(path), ReadOptions(counts=counts, modality=modality))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(
    st.sampled_from(["csr", "csc", "dense"]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 30),
)
def test_blocks_of_any_size_make_the_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, n_obs: int, n_vars: int, size: int
) -> None:
    counts = make_counts(n_obs, n_vars, seed=n_obs)
    counts[0, 0] = 1
    path = write_h5ad(tmp_path / "a.h5ad", counts, layout=layout)
    monkeypatch.setattr(h5ad, "ROW_VALUES", size)
    monkeypatch.setattr(anndata_counts, "COLUMN_VALUES", size)
    monkeypatch.setattr(dense_reader, "BLOCK_VALUES", size)
    source = opened(path)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)  # a fresh pass


def test_obs_and_var_come_with_names_as_strings(tmp_path: Path) -> None:
    obs = pd.DataFrame({"donor": pd.Categorical(["a", "b", "a"])}, index=["x", "y", "z"])
    source = opened(write_h5ad(tmp_path / "set.h5ad", make_counts(3, 2), obs=obs))
    assert source.name == "set"
    assert source.obs["donor"].tolist() == ["a", "b", "a"]
    assert source.var.index.tolist() == ["CD3E", "MS4A1"]
    assert source.modality == "scrna"


def test_the_counts_layer_is_found_before_normalised_x(tmp_path: Path) -> None:
    counts = make_counts(5, 4)
    path = tmp_path / "a.h5ad"
    adata = ad.AnnData(np.log1p(counts.astype(np.float32)), layers={"counts": counts})
    adata.write_h5ad(path)
    source = opened(path)
    assert source.counts_from == "layers['counts']"
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_raw_x_comes_with_its_own_var(tmp_path: Path) -> None:
    counts = make_counts(5, 4)
    full = ad.AnnData(counts.astype(np.float32), var=pd.DataFrame(index=list("abcd")))
    adata = full[:, :2].copy()
    adata.raw = full
    adata.X = np.log1p(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    source = opened(tmp_path / "a.h5ad")
    assert source.counts_from == "raw.X"
    assert source.n_vars == 4
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_an_asked_layer_is_taken_and_an_unknown_one_is_told(tmp_path: Path) -> None:
    counts = make_counts(5, 4)
    path = tmp_path / "a.h5ad"
    ad.AnnData(counts.astype(np.float32), layers={"mine": counts * 2}).write_h5ad(path)
    source = opened(path, counts="mine")
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts * 2)
    assert opened(path, counts="X").counts_from == "X"
    with pytest.raises(CountsError, match=r"no layers\['other'\]; it has X, layers\['mine'\]"):
        opened(path, counts="other")


def test_a_file_without_counts_is_refused_with_every_place_looked_at(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", make_counts(4, 3))
    with h5py.File(path, "r+") as file:
        file["X/data"][:] = file["X/data"][:] + 0.5
    with pytest.raises(CountsError) as caught:
        opened(path)
    message = str(caught.value)
    assert "layers['counts']: not there; raw.X: not there; X: non-integer" in message
    assert "\n" not in message


def test_counts_that_stand_late_in_a_thin_matrix_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.zeros((64, 3), dtype=np.int64)
    counts[-1, 2] = 4
    monkeypatch.setattr(sample, "SAMPLE_VALUES", 16)
    monkeypatch.setattr(sample, "SAMPLE_RUNS", 2)
    source = opened(write_h5ad(tmp_path / "a.h5ad", counts, layout="dense"))
    assert dense(source.blocks(), counts.shape).sum() == 4


@pytest.mark.parametrize(
    ("columns", "um"),
    [
        (("CenterX_global_px", "CenterY_global_px"), 0.120280945),
        (("x_centroid", "y_centroid"), 1),
        (("x_coord", "y_coord"), 1),
    ],
)
def test_positions_in_obs_make_it_spatial(
    tmp_path: Path, columns: tuple[str, str], um: float
) -> None:
    obs = pd.DataFrame({columns[0]: [1.0, 2.0], columns[1]: [3.0, 4.0]}, index=["a", "b"])
    source = opened(write_h5ad(tmp_path / "a.h5ad", make_counts(2, 2), obs=obs))
    assert source.modality == "srt"
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, np.array([[1, 3], [2, 4]]) * um, rtol=1e-6)


def test_cosmx_positions_in_obsm_are_pixels_and_others_micrometres(tmp_path: Path) -> None:
    counts, xy = make_counts(2, 2), np.array([[100.0, 0, 7], [0, 100, 7]])
    for platform, um in [("CosMx", 0.120280945), ("other", 1.0)]:
        obs = pd.DataFrame({"technology": [platform] * 2}, index=["a", "b"])
        path = write_h5ad(tmp_path / f"{platform}.h5ad", counts, obs=obs, obsm={"spatial": xy})
        source = opened(path)
        assert source.platform == platform
        assert len(source.warnings) == 1
        assert source.coords_um is not None
        np.testing.assert_allclose(source.coords_um, xy[:, :2] * um, rtol=1e-6)


def test_an_asked_modality_is_kept(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", make_counts(2, 2), obsm={"spatial": np.ones((2, 2))})
    source = opened(path, modality="scrna")
    assert source.modality == "scrna"
    assert source.coords_um is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_hdf5(path: Path) -> None:
    path.write_text("not HDF5")


def drop_obs(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["obs"]


def spoil_obs(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["obs/_index"]


def external_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["layers/counts"] = h5py.ExternalLink("/etc/hostname", "/x")


def soft_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["layers/counts"] = h5py.SoftLink("/X")


def external_storage(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_dataset("obsm/spatial", (4, 2), "f4", external=[(str(path) + ".raw", 0, 32)])


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout(shape=(4, 3), dtype="f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "X", shape=(4, 3))
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset("layers/counts", layout)


def replace_part(path: Path, part: str, change: Callable[[Any], Any]) -> None:
    with h5py.File(path, "r+") as file:
        values = change(file[f"X/{part}"][:])
        del file[f"X/{part}"]
        file[f"X/{part}"] = values


def column_too_high(path: Path) -> None:
    replace_part(path, "indices", lambda x: np.where(np.arange(x.size) == 1, 99, x))


def column_negative(path: Path) -> None:
    replace_part(path, "indices", lambda x: np.where(np.arange(x.size) == 1, -1, x))


def short_indptr(path: Path) -> None:
    replace_part(path, "indptr", lambda x: x[:-1])


def falling_indptr(path: Path) -> None:
    replace_part(path, "indptr", lambda x: x[[0, 2, 1, *range(3, x.size)]] + [0, 9, 0, 0, 0])


def short_data(path: Path) -> None:
    replace_part(path, "data", lambda x: x[:-1])


def float_indices(path: Path) -> None:
    replace_part(path, "indices", lambda x: x.astype(float))


def wrong_shape(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = [4, 7]


def no_layout(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["X"].attrs["encoding-type"] = "coo_matrix"


def three_dimensions(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = np.zeros((4, 3, 2))


def long_row(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for part in ("data", "indices", "indptr"):
            del file[f"X/{part}"]
        file["X/data"] = np.ones(9, "f4")
        file["X/indices"] = np.zeros(9, "i4")
        file["X/indptr"] = np.array([0, 9, 9, 9, 9])


def terabytes(path: Path, key: str, shape: tuple[int, ...], chunks: tuple[int, ...] | None) -> None:
    with h5py.File(path, "r+") as file:
        attrs = dict(file[key].attrs)
        del file[key]
        file.create_dataset(key, shape, "f4", chunks=chunks, compression="gzip" if chunks else None)
        file[key].attrs.update(attrs)


def terabytes_of_x(path: Path) -> None:
    terabytes(path, "X", (10**7, 10**6), (1000, 1000))


def terabytes_of_values(path: Path) -> None:
    for part in ("data", "indices"):
        terabytes(path, f"X/{part}", (10**12,), (10**6,))


def terabytes_in_one_piece(path: Path) -> None:
    terabytes(path, "X/data", (10**12,), None)


def terabytes_of_obs(path: Path) -> None:
    terabytes(path, "obs/_index", (10**12,), (10**6,))


def terabytes_of_positions(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_dataset("obsm/spatial", (4, 10**11), "f8", chunks=(4, 10**5))


def huge_chunk(path: Path) -> None:
    terabytes(path, "X/data", (2**28,), (2**28,))


def lost_chunk(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        n = file["X/data"].shape[0]
        values = file["X/data"][:]
        del file["X/data"]
        file.create_dataset("X/data", (n,), "f4", chunks=(4,))[:4] = values[:4]


def bomb(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        data = file.create_dataset("obs/z", (10**8,), "f4", chunks=(10**7,), compression="gzip")
        for i in range(0, 10**8, 10**7):
            data[i : i + 10**7] = 0


def unequal_columns(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["obs/donor"] = np.zeros(7)
        file["obs"].attrs["column-order"] = ["donor"]


def two_columns_of_one_name(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["obs/donor"] = np.zeros(4)
        file["obs"].attrs["column-order"] = ["donor", "donor"]


def not_utf8_names(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file[b"obs/gr\xfcn"] = np.zeros(4)


def not_utf8_cells(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        attrs = dict(file["obs/_index"].attrs)
        del file["obs/_index"]
        file.create_dataset(
            "obs/_index", data=np.array([b"a", b"\xfc", b"c", b"d"], object),
            dtype=h5py.string_dtype(),
        )  # fmt: skip
        file["obs/_index"].attrs.update(attrs)


def group_in_itself(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["uns/again"] = file["uns"]
        del file["obs"]


def bad_codes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        group = file.create_group("obs/donor")
        group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0"})
        group.attrs["ordered"] = False
        group["codes"] = np.array([0, 1, 5, 0], "i1")
        group["categories"] = np.array(["a", "b"], h5py.string_dtype())
        group["categories"].attrs.update({"encoding-type": "string-array"})
        group["categories"].attrs.update({"encoding-version": "0.2.0"})
        file["obs"].attrs["column-order"] = ["donor"]


def text_matrix(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = np.array([[b"1"] * 3] * 4)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (long_row, "9 values in cell 0, but there are only 3 features"),
        (terabytes_of_x, "never written|only 0 of"),
        (terabytes_of_values, "only 0 of 1000000 chunks"),
        (terabytes_in_one_piece, "never written"),
        (terabytes_of_obs, "declares 1.46e\\+04 GiB|declares .* GiB, but the file takes only"),
        (terabytes_of_positions, "declares .* GiB, but the file takes only"),
        (huge_chunk, "chunks of 1.0 GiB"),
        (lost_chunk, "only 1 of 3 chunks"),
        (bomb, "obs declares 0.37.* GiB, but the file takes only"),
        (unequal_columns, "obs is not a readable table"),
        (two_columns_of_one_name, "two columns 'donor'|obs is not a readable table"),
        (not_utf8_names, "not UTF-8"),
        (not_utf8_cells, "obs is not a readable table"),
        (group_in_itself, "no 'obs'"),
        (bad_codes, "obs is not a readable table"),
        (text_matrix, "values of type"),
        (cut, "not a readable HDF5 file"),
        (no_hdf5, "not a readable HDF5 file"),
        (drop_obs, "no 'obs'"),
        (spoil_obs, "obs is not a readable table"),
        (external_link, "is a link"),
        (soft_link, "is a link"),
        (external_storage, "other files"),
        (virtual, "other files"),
        (column_too_high, "holds 99, but there are 3 features"),
        (column_negative, "holds -1, but there are 3 features"),
        (short_indptr, "indptr has 4 entries, 5 were expected"),
        (falling_indptr, "does not rise"),
        (short_data, "values but"),
        (float_indices, "integers"),
        (wrong_shape, "X is 4 x 7, but obs has 4 and var has 3 rows"),
        (no_layout, "neither a dense, CSR nor CSC"),
        (three_dimensions, "3 dimensions"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    path = write_h5ad(tmp_path / "bad.h5ad", make_counts(4, 3) + 1)
    spoil(path)
    with pytest.raises(InputError, match=words) as caught:
        list(opened(path).blocks())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    counts = make_counts(40, 30, seed=3)
    whole = write_h5ad(tmp_path / "a.h5ad", counts).read_bytes()
    path = tmp_path / "cut.h5ad"
    for size in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="cut.h5ad"):
            opened(path)


def test_a_flipped_byte_is_told_or_does_no_harm(tmp_path: Path) -> None:
    counts = make_counts(12, 9, seed=3)
    whole = write_h5ad(tmp_path / "a.h5ad", counts).read_bytes()
    path = tmp_path / "spoilt.h5ad"
    told = []
    for at in np.random.default_rng(0).integers(0, len(whole), 300):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            source = opened(path)
            for block in source.blocks():
                assert block.indices.max(initial=0) < source.n_vars
        except InputError as error:
            told.append(str(error))
    assert len(told) > 10
    assert all(str(path) in message for message in told)


def test_an_external_category_is_refused(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", make_counts(4, 3))
    secret = tmp_path / "secret"
    secret.write_bytes(b"abcdefgh")
    with h5py.File(path, "r+") as file:
        hidden = file.create_dataset("hidden", (2,), "S4", external=[(str(secret), 0, 8)])
        file["obs/donor"] = np.array([0, 1, 0, 1], "i1")
        file["obs/donor"].attrs["categories"] = hidden.ref
        file["obs"].attrs.update({"encoding-version": "0.1.0", "column-order": ["donor"]})
        del file["hidden"]
    with pytest.raises(InputError, match=r"a\.h5ad"):
        opened(path)


def test_values_of_any_byte_order_and_width_are_the_same(tmp_path: Path) -> None:
    counts = make_counts(6, 5) + 1
    for kind in (">f4", ">i2", "<u8", "<f8", "?", "<f2"):
        path = write_h5ad(tmp_path / "a.h5ad", counts)
        expected = counts.astype(kind).astype(float)
        with h5py.File(path, "r+") as file:
            for part, values in (("data", expected.ravel()), ("indices", file["X/indices"][:])):
                del file[f"X/{part}"]
                to = kind if part == "data" else (">i8" if kind[0] == ">" else "<u2")
                file[f"X/{part}"] = values.astype(to)
        (block,) = opened(path).blocks()
        assert block.data.dtype.isnative
        assert block.indices.dtype == np.int32
        np.testing.assert_array_equal(dense(iter([block]), counts.shape), expected)


def test_large_compressed_chunks_are_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = make_counts(50, 20, seed=4)
    path = write_h5ad(tmp_path / "a.h5ad", counts)
    with h5py.File(path, "r+") as file:
        for part in ("data", "indices"):
            values = file[f"X/{part}"][:]
            del file[f"X/{part}"]
            file.create_dataset(f"X/{part}", data=values, chunks=(values.size,), compression="gzip")
    monkeypatch.setattr(h5ad, "ROW_VALUES", 64)
    np.testing.assert_array_equal(dense(opened(path).blocks(), counts.shape), counts)


@pytest.mark.parametrize("raw", [False, True])
def test_records_of_anndata_0_5_are_read_with_categories_and_positions(
    tmp_path: Path, raw: bool
) -> None:
    counts, full = make_counts(7, 3), make_counts(7, 5, seed=2)
    source = opened(write_h5ad_0_5(tmp_path / "a.h5ad", counts, raw=full if raw else None))
    expected = full if raw else counts
    assert source.counts_from == ("raw.X" if raw else "X")
    assert source.obs.index.tolist() == [f"cell{i}" for i in range(7)]
    assert source.obs["type"].tolist() == list("BTBTBTB")
    assert source.var.index.tolist() == list(GENES[: expected.shape[1]])
    assert source.coords_um is not None
    assert source.coords_um[3].tolist() == [60, 70]
    np.testing.assert_array_equal(dense(source.blocks(), expected.shape), expected)


def test_every_place_that_was_looked_at_is_told(tmp_path: Path) -> None:
    counts = make_counts(5, 4)
    log = np.log1p(counts.astype(np.float32)) + np.float32(0.1)
    layers = {"Counts": log, "raw_counts": counts, "spliced": counts}
    ad.AnnData(log, layers=layers).write_h5ad(tmp_path / "a.h5ad")
    source = opened(tmp_path / "a.h5ad")
    assert source.counts_from == "layers['raw_counts']"
    assert source.looked_in[0].startswith("layers['Counts']: non-integer")
    assert source.looked_in[1:] == ("layers['raw_counts']: raw counts",)
    ad.AnnData(log, layers={"spliced": counts}).write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(CountsError, match="Not looked in: layers 'spliced'"):
        opened(tmp_path / "b.h5ad")


def test_proteins_in_obsm_stay_out_and_it_is_said(tmp_path: Path) -> None:
    counts = make_counts(4, 3)
    obsm = {"protein_expression": np.ones((4, 7)), "X_pca": np.ones((4, 2))}
    source = opened(write_h5ad(tmp_path / "a.h5ad", counts, obsm=obsm))
    assert source.var.index.tolist() == list(GENES[:3])
    assert source.warnings == (
        "obsm['protein_expression'] (7 columns) was left out: the matrix of genes alone is read",
    )


@pytest.mark.parametrize("name", ["a.h5", "a.HDF5"])
def test_a_file_of_another_name_with_obs_and_var_is_found(tmp_path: Path, name: str) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", make_counts(4, 3)).rename(tmp_path / name)
    assert [one.name for one in h5ad.find([path])] == ["a"]


def test_other_hdf5_files_are_no_data_sets(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("plain.h5", "mu.h5mu", "odd.foo", "cut.h5")]
    for path in paths:
        with h5py.File(path, "w") as file:
            file.create_group("matrix" if path.name == "plain.h5" else "obs")
            if path.suffix == ".h5mu":
                file.create_group("mod/rna")
            if path.name == "odd.foo":
                file.create_group("var")
    paths[3].write_bytes(paths[3].read_bytes()[:100])
    assert h5ad.find(paths) == []
    told = [h5ad.refusal(path) or "" for path in paths]
    assert told[0] == ""
    assert "a MuData, of several modalities" in told[1]
    assert "name it .h5ad" in told[2]
    assert "cut short" in told[3]
    assert h5ad.refusal(tmp_path) is None


@pytest.mark.parametrize(
    ("column", "values", "reason", "n_unfit"),
    [
        ("Valid", [0, 1, 1, 0], "marked as invalid (Valid = 0)", 2),
        ("is_valid", [True, False, True, True], "marked as invalid (is_valid = False)", 1),
        ("in_tissue", ["1", "0", "1", "1"], "outside the tissue (in_tissue = 0)", 1),
        ("valid", [0.0, 1.0, None, 1.0], "marked as invalid (valid = 0.0)", 1),
        ("valid", [0, 1, 2, 3], None, 0),
        ("valid", [True, True, True, True], None, 0),
        ("high_quality", [False, True, True, True], None, 0),
    ],
)
def test_flags_that_mean_nothing_else_make_rows_unfit(
    tmp_path: Path, column: str, values: list[Any], reason: str | None, n_unfit: int
) -> None:
    obs = pd.DataFrame({column: values}, index=list("abcd"))
    source = opened(write_h5ad(tmp_path / "a.h5ad", make_counts(4, 3), obs=obs))
    assert {r: int(rows.sum()) for r, rows in source.unfit.items()} == (
        {reason: n_unfit} if reason else {}
    )


def read(path: Path, **options: Any) -> Source:
    return h5ad.open_source(found(path), ReadOptions(**options))


def test_positions_are_taken_from_where_the_user_says(tmp_path: Path) -> None:
    xy = np.array([[1.0, 2], [3, 4]])
    obs = pd.DataFrame({"row": [5.0, 6], "col": [7.0, 8], "x_um": [0.0, 1], "y_um": [0.0, 1]})
    obs.index = pd.Index(["a", "b"])
    obsm = {"spatial": xy * 10, "X_mine": xy}
    path = write_h5ad(tmp_path / "a.h5ad", make_counts(2, 2), obs=obs, obsm=obsm)

    def at(**options: Any) -> Any:
        found = read(path, **options).coords_um
        return None if found is None else found.tolist()

    assert at() == [[10, 20], [30, 40]]
    assert at(um_per_unit=0.5) == [[5, 10], [15, 20]]
    assert at(coords=("X_mine",)) == [[1, 2], [3, 4]]
    assert at(coords=("col", "row"), um_per_unit=2) == [[14, 10], [16, 12]]
    assert "row and col have no unit" in read(path, coords=("row", "col")).warnings[0]
    assert read(path, coords=("x_um", "y_um")).warnings == ()
    with pytest.raises(InputError, match=r"no obsm\['other'\].*X_mine, spatial"):
        read(path, coords=("other",))
    with pytest.raises(InputError, match="no column 'up'"):
        read(path, coords=("up", "row"))


def hexagons(n: int, pitch: float) -> np.ndarray:
    rows, columns = np.divmod(np.arange(n), 20)
    return np.stack([pitch * (columns + rows % 2 / 2), pitch * rows * 3**0.5 / 2], axis=1)


BARCODES = ["".join("ACGT"[(i >> 2 * k) % 4] for k in range(16)) + "-1" for i in range(200)]


def visium(**parts: Any) -> dict[str, Any]:
    """uns as scanpy writes it for one library."""
    return {"spatial": {"lib": {"scalefactors": {"tissue_hires_scalef": 0.1} | parts}}}


@pytest.mark.parametrize(
    ("names", "columns", "uns", "platform", "um"),
    [
        # By the lattice and the names.
        (BARCODES, {}, {}, "Visium", 100 / 137),
        # By the columns of Space Ranger.
        (None, {"array_row": 0, "array_col": 0}, {}, "Visium", 100 / 137),
        # The pitch goes before the diameter, whose meaning has changed.
        (None, {"in_tissue": 1}, visium(spot_diameter_fullres=89.4), "Visium", 100 / 137),
        (None, {"in_tissue": 1, "platform": "Visium v2"}, {}, "Visium v2", 100 / 137),
        # A lattice of something else.
        (None, {}, {}, "unknown", 1.0),
        ([f"s_008um_{i:05}_00001-1" for i in range(200)], {}, {}, "Visium HD", 8 / 137),
        (
            None, {"array_row": 0, "array_col": 0},
            visium(microns_per_pixel=0.25, spot_diameter_fullres=32.0), "Visium", 0.25,
        ),
    ],
)  # fmt: skip
def test_spots_are_known_and_their_pitch_gives_the_unit(
    tmp_path: Path, names: list[str] | None, columns: dict[str, Any], uns: dict[str, Any],
    platform: str, um: float,
) -> None:  # fmt: skip
    xy = hexagons(200, 137.0)
    index = names or [f"cell{i}" for i in range(200)]
    obs = pd.DataFrame({name: [value] * 200 for name, value in columns.items()}, index=index)
    path = write_h5ad(
        tmp_path / "a.h5ad", make_counts(200, 2), obs=obs, obsm={"spatial": xy}, uns=uns
    )
    source = opened(path)
    assert source.spots
    assert source.platform == platform
    assert "rows are spots, not cells" in source.warnings[-1]
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, xy * um, rtol=1e-5)


def test_pixels_of_several_libraries_have_their_own_length(tmp_path: Path) -> None:
    xy = np.concatenate([hexagons(150, 50.0), hexagons(150, 200.0)])
    obs = pd.DataFrame(
        {"library_id": ["a"] * 150 + ["b"] * 150, "array_row": 0, "array_col": 0},
        index=[f"s{i}" for i in range(300)],
    )
    path = write_h5ad(tmp_path / "a.h5ad", make_counts(300, 2), obs=obs, obsm={"spatial": xy})
    coords = opened(path).coords_um
    assert coords is not None
    np.testing.assert_allclose(coords[:150], xy[:150] * 2, rtol=1e-5)
    np.testing.assert_allclose(coords[150:], xy[150:] / 2, rtol=1e-5)


def test_cells_are_no_spots_whatever_squidpy_writes_beside_them(tmp_path: Path) -> None:
    xy = np.random.default_rng(0).uniform(0, 200, (200, 2))
    uns = visium(spot_diameter_fullres=1.0)
    source = opened(
        write_h5ad(tmp_path / "a.h5ad", make_counts(200, 2), obsm={"spatial": xy}, uns=uns)
    )
    assert not source.spots
    assert source.warnings == ("obsm['spatial'] has no unit: taken as micrometres",)


def test_positions_that_can_hardly_be_micrometres_are_doubted(tmp_path: Path) -> None:
    xy = np.random.default_rng(0).uniform(0, 1e5, (200, 2))
    path = write_h5ad(tmp_path / "a.h5ad", make_counts(200, 2), obsm={"spatial": xy})
    assert "probably not in micrometres" in read(path).warnings[1]
    assert len(read(path, um_per_unit=0.1).warnings) == 1


def test_the_global_positions_of_spatialdata_go_before_the_local_ones(tmp_path: Path) -> None:
    local, wide = np.array([[1.0, 1], [2, 2]]), np.array([[100.0, 0], [900, 0]])
    obs = pd.DataFrame({"fov": ["1", "2"]}, index=["1_1", "1_2"])
    path = write_h5ad(
        tmp_path / "a.h5ad", make_counts(2, 2), obs=obs, obsm={"spatial": local, "global": wide}
    )
    source = opened(path)
    assert source.platform == "CosMx"
    assert source.coords_um is not None
    np.testing.assert_allclose(source.coords_um, wide * 0.120280945, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((3, 2)), r"shape \(3, 2\), \(4, 2\) was expected"),
        (np.ones((4, 1)), r"shape \(4, 1\), \(4, 2\) was expected"),
        (np.ones(4), r"shape \(4,\), \(4, 2\) was expected"),
        (np.array([[b"a", b"b"]] * 4), "numbers were expected"),
    ],
)
def test_positions_that_fit_no_cells_are_refused(tmp_path: Path, values: Any, words: str) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", make_counts(4, 3))
    with h5py.File(path, "r+") as file:
        file["obsm/spatial"] = values
    with pytest.raises(InputError, match=words) as caught:
        opened(path)
    assert str(path) in str(caught.value)


def test_positions_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    for values in (np.zeros((4, 2)), np.full((4, 2), np.nan)):
        path = write_h5ad(tmp_path / "a.h5ad", make_counts(4, 3), obsm={"spatial": values})
        source = opened(path)
        assert (source.modality, source.coords_um) == ("scrna", None)
        assert "left out" in source.warnings[0]


def test_missing_and_infinite_positions_are_no_position(tmp_path: Path) -> None:
    xy = np.array([[1.0, 2], [np.nan, 3], [np.inf, 4], [1e300, 5]])
    source = opened(write_h5ad(tmp_path / "a.h5ad", make_counts(4, 3), obsm={"spatial": xy}))
    assert source.coords_um is not None
    assert np.isfinite(source.coords_um).all(axis=1).tolist() == [True, False, False, False]


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_a_file_goes_through_ingestion_unchanged(tmp_path: Path, layout: Layout) -> None:
    counts = make_counts(60, 8, seed=5) + (np.arange(60) % 2)[:, None]
    obs = pd.DataFrame(
        {"donor": pd.Categorical(["a", "b", "c"] * 20), "n": range(60)},
        index=[f"cell{i}" for i in range(60)],
    )
    path = tmp_path / "a.h5ad"
    make_anndata(counts, layout=layout, obs=obs).write_h5ad(path)
    assert_round_trip(path, counts, list(obs.index), list(GENES))


@needs_shared
@pytest.mark.parametrize(
    ("file", "shape", "nnz", "total"),
    [
        ("sc-kang-muscat/example_sce.converted.h5ad", (1556, 1267), 585251, 2338396),
        ("sc-pbmc-cite-h5ad/pbmc_5k_protein_v3.h5ad", (200, 16581), 387353, 1351231),
        ("sc-scimilarity-test/test.h5ad", (1000, 1000), 90431, 295271),
        ("perturb-papalexi-lowmoi/papalexi_lowmoi.converted.h5ad", (20729, 299), 1390126, 4299765),
        ("formats-tiny/anndata-archives/archives/v0.7.0/adata.h5ad", (30, 40), 480, 627),
        ("formats-tiny/anndata-archives/archives/v0.7.8/adata.h5ad", (30, 40), 453, 568),
        ("formats-tiny/h5ad/example_anndata.h5ad", (200, 459), 53667, 610126),
        ("formats-tiny/scp-ingest/anndata/dup_cell.h5ad", (41, 4), 164, 590),
        ("formats-tiny/scp-ingest/anndata/dup_feature.h5ad", (40, 5), 200, 699),
    ],
)
def test_real_files_give_all_their_counts(
    file: str, shape: tuple[int, int], nnz: int, total: int
) -> None:
    source = opened(SHARED / file)
    assert (source.n_obs, source.n_vars) == shape
    data = np.concatenate([block.data[block.data != 0] for block in source.blocks()])
    assert data.size == nnz
    assert int(data.sum(dtype=np.float64)) == total


@needs_shared
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("sc-pbmc68k-reduced/10x_pbmc68k_reduced.h5ad", "raw.X: non-integer.*X: negative"),
        ("srt-h5ad-misc/merfish.h5ad", "X: non-integer"),
        ("formats-tiny/scp-ingest/anndata/nan_value.h5ad", "X: not a number"),
        ("formats-tiny/scp-ingest/anndata/indexed_by_gene_id.h5ad", "X: non-integer"),
        ("formats-tiny/anndata-archives/archives/v0.5.0/adata.h5ad", "raw.X: non-integer"),
        ("formats-tiny/anndata-archives/archives/v0.11.4/adata.h5ad", "X: not there"),
        ("formats-tiny/h5ad/test_data.h5ad", "X: non-integer"),
        ("formats-tiny/h5ad/krumsiek11_augmented_v0-8.h5ad", "X: negative"),
    ],
)
def test_real_files_without_counts_are_refused(file: str, words: str) -> None:
    with pytest.raises(CountsError, match=words):
        opened(SHARED / file)


@needs_shared
def test_a_real_cosmx_h5ad_has_its_four_fields_of_view() -> None:
    source = opened(SHARED / "srt-cosmx-lung5/lung5.converted.h5ad")
    assert (source.modality, source.platform) == ("srt", "CosMx")
    assert np.bincount(assign(source, tissue_key=None).tissue).tolist() == [4347, 3250, 3173, 2693]


def test_sparse_matrices_of_old_files_are_read(tmp_path: Path) -> None:
    counts = make_counts(4, 3) + 1
    path = write_h5ad(tmp_path / "old.h5ad", counts)
    with h5py.File(path, "r+") as file:
        attrs = file["X"].attrs
        del attrs["encoding-type"], attrs["shape"]
        attrs["h5sparse_format"], attrs["h5sparse_shape"] = b"csr", sp.csr_matrix(counts).shape
    np.testing.assert_array_equal(dense(opened(path).blocks(), counts.shape), counts)


@needs_shared
def test_a_real_visium_file_is_known_by_its_lattice() -> None:
    source = opened(SHARED / "srt-h5ad-misc/cortex.h5ad")
    assert (source.n_obs, source.n_vars, source.spots) == (1073, 648, True)
    assert source.platform == "Visium"
    assert source.coords_um is not None
    distances = nearest_distances(source.coords_um)
    assert np.median(distances) == pytest.approx(100, rel=5e-3)


@needs_shared
def test_real_positions_in_pixels_are_doubted() -> None:
    source = opened(SHARED / "srt-osmfish-h5ad/smfish.h5ad")
    assert (source.n_obs, source.n_vars, source.modality) == (4530, 33, "srt")
    assert "nearest cell is 166 away" in source.warnings[0]


@needs_shared
def test_a_real_file_that_is_cut_has_its_reason() -> None:
    for name in ("bad.h5", "bad.foo"):
        path = SHARED / "formats-tiny/scp-ingest/anndata" / name
        assert h5ad.find([path]) == []
        assert "cut short" in (h5ad.refusal(path) or "")
