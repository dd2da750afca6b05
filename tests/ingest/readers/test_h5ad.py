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
from cellplm.ingest.readers import h5ad
from cellplm.ingest.source import Found, Modality, ReadOptions, Source
from cellplm.ingest.tissue import assign
from tests.ingest.make import dense, make_counts, write_h5ad
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
    monkeypatch.setattr(h5ad, "BLOCK_VALUES", size)
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
    with pytest.raises(CountsError, match=r"no layers\['other'\].*X, mine"):
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
    monkeypatch.setattr(h5ad, "SAMPLE_VALUES", 16)
    monkeypatch.setattr(h5ad, "SAMPLE_RUNS", 2)
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


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
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


@needs_shared
@pytest.mark.parametrize(
    ("file", "shape", "nnz", "total"),
    [
        ("sc-kang-muscat/example_sce.converted.h5ad", (1556, 1267), 585251, 2338396),
        ("sc-pbmc-cite-h5ad/pbmc_5k_protein_v3.h5ad", (200, 16581), 387353, 1351231),
        ("sc-scimilarity-test/test.h5ad", (1000, 1000), 90431, 295271),
        ("perturb-papalexi-lowmoi/papalexi_lowmoi.converted.h5ad", (20729, 299), 1390126, 4299765),
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


@needs_shared
def test_a_file_of_anndata_0_5_opens_with_its_categories() -> None:
    path = SHARED / "sc-pbmc68k-reduced/10x_pbmc68k_reduced.h5ad"
    with h5py.File(path) as file:
        obs = h5ad._frame(file, "obs", path)
    assert len(obs) == 700
    assert "CD14+ Monocyte" in set(obs["bulk_labels"])


def test_sparse_matrices_of_old_files_are_read(tmp_path: Path) -> None:
    counts = make_counts(4, 3) + 1
    path = write_h5ad(tmp_path / "old.h5ad", counts)
    with h5py.File(path, "r+") as file:
        attrs = file["X"].attrs
        del attrs["encoding-type"], attrs["shape"]
        attrs["h5sparse_format"], attrs["h5sparse_shape"] = b"csr", sp.csr_matrix(counts).shape
    np.testing.assert_array_equal(dense(opened(path).blocks(), counts.shape), counts)
