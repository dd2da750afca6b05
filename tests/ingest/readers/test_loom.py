from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellplm.errors import CountsError, InputError
from cellplm.ingest.readers import dense as dense_reader
from cellplm.ingest.readers import loom
from cellplm.ingest.source import ReadOptions, Source
from cellplm.ingest.spacing import nearest_distances
from tests.ingest.make import GENES, dense, make_counts
from tests.ingest.make_anndata import assert_round_trip
from tests.ingest.make_loom import Spec, write_loom
from tests.shared import SHARED, needs_shared


def opened(path: Path, **options: Any) -> Source:
    (one,) = loom.find([path])
    return loom.open_source(one, ReadOptions(**options))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(
    n_obs=st.integers(1, 12),
    n_vars=st.integers(1, 12),
    chunks=st.none() | st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.integers(1, 60),
    slab=st.sampled_from([0, 64, 2**20]),
)
def test_blocks_of_any_size_and_chunks_make_the_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_obs: int, n_vars: int,
    chunks: tuple[int, int] | None, size: int, slab: int,
) -> None:  # fmt: skip
    counts = make_counts(n_obs, n_vars, seed=n_obs)
    counts[0, 0] = 1
    path = write_loom(tmp_path / "a.loom", counts, chunks=chunks)
    monkeypatch.setattr(dense_reader, "BLOCK_VALUES", size)
    monkeypatch.setattr(dense_reader, "SLAB_BYTES", slab)
    source = opened(path)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)  # a fresh pass


@pytest.mark.parametrize(("chunks", "axis"), [((4, 5), "obs"), ((1, 50), "var"), (None, "var")])
def test_blocks_run_along_the_axis_that_fits_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, int] | None, axis: str
) -> None:
    path = write_loom(tmp_path / "a.loom", make_counts(50, 8), chunks=chunks)
    monkeypatch.setattr(dense_reader, "BLOCK_VALUES", 80)
    monkeypatch.setattr(dense_reader, "SLAB_BYTES", 0)
    blocks = list(opened(path).blocks())
    assert {block.axis for block in blocks} == {axis}
    assert len(blocks) > 1


@pytest.mark.parametrize("spec", [1, 2, 3])
def test_every_specification_is_read(tmp_path: Path, spec: Spec) -> None:
    counts = make_counts(4, 3)
    path = write_loom(
        tmp_path / "set.loom", counts, spec=spec, dtype="i4",
        rows={"Gene": GENES[:3], "Accession": [f"ENSG0000000000{i}" for i in range(3)]},
        columns={"CellID": list("abcd"), "Grün & co": ["ä", "<", "&", "x"], "n": [1, 2, 3, 4]},
    )  # fmt: skip
    source = opened(path)
    assert source.name == "set"
    assert source.obs.index.tolist() == list("abcd")
    assert source.obs["Grün & co"].tolist() == ["ä", "<", "&", "x"]
    assert source.obs["n"].tolist() == [1, 2, 3, 4]
    assert source.var.index.tolist() == list(GENES[:3])
    assert source.var["Accession"].tolist()[2] == "ENSG00000000002"
    assert source.modality == "scrna"
    assert source.looked_in == ("matrix: raw counts",)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_the_names_of_anndata_are_understood(tmp_path: Path) -> None:
    path = write_loom(
        tmp_path / "a.loom", make_counts(2, 2),
        rows={"var_names": ["CD3E", "LYZ"]}, columns={"obs_names": ["x", "y"]},
    )  # fmt: skip
    source = opened(path)
    assert source.obs.index.tolist() == ["x", "y"]
    assert source.var.index.tolist() == ["CD3E", "LYZ"]


def test_cells_without_names_are_numbered_and_it_is_said(tmp_path: Path) -> None:
    source = opened(write_loom(tmp_path / "a.loom", make_counts(3, 2), columns={}))
    assert source.obs.index.tolist() == ["0", "1", "2"]
    assert "no CellID" in source.warnings[0]


def test_ids_stand_in_for_names(tmp_path: Path) -> None:
    ids = ["ENSG00000000419", "ENSG00000000457"]
    source = opened(write_loom(tmp_path / "a.loom", make_counts(3, 2), rows={"Accession": ids}))
    assert source.var.index.tolist() == ids


def test_attributes_of_several_columns_are_left_out_by_name(tmp_path: Path) -> None:
    embedding = np.zeros(3, dtype=[("_X", "f8"), ("_Y", "f8")])
    path = write_loom(
        tmp_path / "a.loom", make_counts(3, 2),
        columns={"CellID": list("abc"), "X_pca": np.ones((3, 5)), "Embedding": embedding},
    )  # fmt: skip
    source = opened(path)
    assert source.obs.columns.tolist() == []
    assert source.coords_um is None
    assert source.warnings == (
        "col_attrs/Embedding was left out: it has several columns",
        "col_attrs/X_pca was left out: it has several columns",
    )


def test_layers_of_counts_go_first_and_others_can_be_asked_for(tmp_path: Path) -> None:
    counts = make_counts(5, 4)
    log = np.log1p(counts) + 0.1
    path = write_loom(tmp_path / "a.loom", log, layers={"counts": counts, "spliced": counts * 2})
    source = opened(path)
    assert source.counts_from == "layers['counts']"
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)
    source = opened(path, counts="spliced")
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts * 2)
    with pytest.raises(CountsError, match=r"no layers\['x'\]; it has matrix, layers\['counts'\]"):
        opened(path, counts="x")
    with pytest.raises(CountsError, match="Looked in matrix: non-integer"):
        opened(path, counts="matrix")


def test_velocyto_keeps_its_counts_in_the_matrix(tmp_path: Path) -> None:
    spliced, unspliced = make_counts(5, 4), make_counts(5, 4, seed=1)
    layers = {"spliced": spliced, "unspliced": unspliced, "ambiguous": 0 * spliced}
    source = opened(write_loom(tmp_path / "a.loom", spliced + unspliced, layers=layers))
    assert source.counts_from == "matrix"
    np.testing.assert_array_equal(dense(source.blocks(), (5, 4)), spliced + unspliced)


PLACES = {"CellID": list("ab"), "X": [1.0, 2], "Y": [4.0, 5]}


@pytest.mark.parametrize(
    ("columns", "um", "note"),
    [
        (PLACES, None, None),
        (PLACES | {"Region": list("rs"), "Area": ["CTX"] * 2}, None, None),
        (PLACES | {"fov": [1, 2]}, 1.0, "no unit"),
        (PLACES | {"size_pix": [100.0, 8], "size_um2": [25.0, 2]}, 0.5, "pixels of 0.5"),
        (PLACES | {"size_pix": [100.0, 8], "size_um2": [25.0, 1]}, 1.0, "no unit"),
        (PLACES | {"_X": [0.0] * 2, "_Y": [0.0] * 2}, None, None),
        ({"x_um": [1.0, 2], "y_um": [4.0, 5]}, 1.0, None),
        ({"spatial": np.array([[1.0, 4], [2, 5]])}, 1.0, "no unit"),
        ({"X_spatial": np.array([[1, 4, 0], [2, 5, 0]])}, 1.0, "no unit"),
    ],
)  # fmt: skip
def test_x_and_y_are_positions_only_beside_what_images_have(
    tmp_path: Path, columns: dict[str, Any], um: float | None, note: str | None
) -> None:
    columns = {"CellID": list("ab")} | columns
    source = opened(write_loom(tmp_path / "a.loom", make_counts(2, 2) + 1, columns=columns))
    assert source.modality == ("srt" if um else "scrna")
    if um is None:
        assert source.coords_um is None
    else:
        assert source.coords_um is not None
        expected = np.array([[1, 4], [2, 5]]) * um
        np.testing.assert_allclose(source.coords_um, expected, rtol=1e-6)
    assert (note or "") in " ".join(source.warnings)
    assert note is not None or source.warnings == ()


def test_positions_are_taken_from_where_the_user_says(tmp_path: Path) -> None:
    columns = PLACES | {"mine": np.array([[1.0, 4], [2, 5]])}
    path = write_loom(tmp_path / "a.loom", make_counts(2, 2) + 1, columns=columns)
    for options in ({"coords": ("X", "Y")}, {"coords": ("mine",)}):
        source = opened(path, um_per_unit=2.0, **options)
        assert source.coords_um is not None
        assert source.coords_um.tolist() == [[2, 8], [4, 10]]
    for coords in (("other",), ("X", "other")):
        with pytest.raises(InputError, match="other") as caught:
            opened(path, coords=coords)
        assert str(path) in str(caught.value)


def test_an_asked_modality_is_kept(tmp_path: Path) -> None:
    columns = PLACES | {"fov": [1, 1]}
    path = write_loom(tmp_path / "a.loom", make_counts(2, 2) + 1, columns=columns)
    assert opened(path, modality="scrna").coords_um is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_hdf5(path: Path) -> None:
    path.write_text("not HDF5")


def edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    spoil.__name__ = change.__name__
    return spoil


@edit
def drop_matrix(file: h5py.File) -> None:
    del file["matrix"]


@edit
def drop_rows(file: h5py.File) -> None:
    del file["row_attrs"]


@edit
def drop_gene(file: h5py.File) -> None:
    del file["row_attrs/Gene"]


@edit
def transposed(file: h5py.File) -> None:
    values = file["matrix"][:].T
    del file["matrix"]
    file["matrix"] = values
    file.move("row_attrs", "other")
    file.move("col_attrs", "row_attrs")
    file.move("other", "col_attrs")


@edit
def short_attribute(file: h5py.File) -> None:
    del file["col_attrs/CellID"]
    file["col_attrs/CellID"] = np.arange(3)


@edit
def three_dimensions(file: h5py.File) -> None:
    del file["matrix"]
    file["matrix"] = np.zeros((3, 4, 2))


@edit
def other_shape(file: h5py.File) -> None:
    file["layers/counts"] = np.ones((3, 5))


@edit
def link(file: h5py.File) -> None:
    file["layers/counts"] = h5py.ExternalLink("/etc/hostname", "/x")


@edit
def soft_link(file: h5py.File) -> None:
    file["layers/counts"] = h5py.SoftLink("/matrix")


@edit
def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(3, 4), dtype="f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "matrix", shape=(3, 4))
    file.create_virtual_dataset("layers/counts", layout)


@edit
def terabytes(file: h5py.File) -> None:
    del file["matrix"]
    file.create_dataset("matrix", (10**6, 10**6), "f4", chunks=(64, 64), compression="gzip")


@edit
def terabytes_of_names(file: h5py.File) -> None:
    del file["col_attrs/CellID"]
    file.create_dataset("col_attrs/CellID", (10**12,), "S10", chunks=(10**6,))


@edit
def not_a_number(file: h5py.File) -> None:
    file["matrix"][1, 1] = np.nan


@edit
def negative(file: h5py.File) -> None:
    file["matrix"][1, 1] = -3


@edit
def text(file: h5py.File) -> None:
    del file["matrix"]
    file["matrix"] = np.array([[b"1"] * 4] * 3)


@edit
def not_utf8(file: h5py.File) -> None:
    del file["row_attrs/Gene"]
    file["row_attrs/Gene"] = np.array([b"a", b"\xfc", b"c"])


@edit
def nothing_but_zeros(file: h5py.File) -> None:
    file["matrix"][:] = 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "not a readable HDF5 file"),
        (no_hdf5, "not a readable HDF5 file"),
        (drop_matrix, "no 'matrix'"),
        (drop_rows, "no 'row_attrs'"),
        (drop_gene, "row_attrs has no Gene"),
        (transposed, "row_attrs has no Gene.*transpose"),
        (short_attribute, r"CellID has the shape \(3,\), but the matrix has 4 columns"),
        (three_dimensions, "no matrix of features x cells"),
        (other_shape, "layers/counts is 3 x 5, the matrix 3 x 4"),
        (link, "is a link"),
        (soft_link, "is a link"),
        (virtual, "other files"),
        (terabytes, "matrix declares 1000000 x 1000000 values, but only 0 of"),
        (terabytes_of_names, "declares .* GiB, but the file takes only"),
        (not_a_number, "matrix: not a number"),
        (negative, "matrix: negative"),
        (text, "matrix: values of type"),
        (not_utf8, "row_attrs/Gene is not UTF-8"),
        (nothing_but_zeros, "matrix: no values but zero"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    path = write_loom(tmp_path / "bad.loom", make_counts(4, 3) + 1)
    spoil(path)
    with pytest.raises(InputError, match=words) as caught:
        list(opened(path).blocks())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_goes_through_ingestion_unchanged(tmp_path: Path) -> None:
    counts = make_counts(60, 8, seed=5) + (np.arange(60) % 2)[:, None]
    path = write_loom(tmp_path / "a.loom", counts)
    assert_round_trip(path, counts, [f"cell{i}" for i in range(60)], list(GENES))


@needs_shared
@pytest.mark.parametrize(
    ("name", "shape", "total", "n_left_out"),
    [
        ("SCENIC.loom", (200, 862), 126583, 3),
        ("example.loom", (100, 50), 2418, 5),
        ("mouseBrain_toy.loom", (200, 862), 126583, 0),
    ],
)
def test_real_files_where_anndata_raises_are_read(
    name: str, shape: tuple[int, int], total: int, n_left_out: int
) -> None:
    path = SHARED / "formats-tiny/loom" / name
    source = opened(path)
    assert (source.n_obs, source.n_vars) == shape
    assert len(source.warnings) == n_left_out
    counts = dense(source.blocks(), shape)
    assert counts.sum() == total
    with h5py.File(path) as file:
        np.testing.assert_array_equal(counts, file["matrix"][:].T)


@needs_shared
def test_a_real_file_without_counts_is_refused() -> None:
    with pytest.raises(CountsError, match="matrix: negative"):
        opened(SHARED / "formats-tiny/scp-ingest/test_loom.loom")


@needs_shared
def test_the_osmfish_loom_has_positions_and_invalid_cells() -> None:
    source = opened(SHARED / "srt-osmfish-loom/osmFISH_SScortex_mouse_all_cells.loom")
    assert (source.n_obs, source.n_vars, source.modality) == (6471, 33, "srt")
    assert {reason: rows.sum() for reason, rows in source.unfit.items()} == {
        "marked as invalid (Valid = 0)": 1632
    }
    assert "pixels of 0.065 µm" in source.warnings[0]
    assert source.coords_um is not None
    assert 5 < np.median(nearest_distances(source.coords_um)) < 20
    assert not source.spots
    assert sum(block.data.sum() for block in source.blocks()) == 1248106
