"""Xenium cells keep their own metadata, whichever files of a bundle there are."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import pandas as pd
import pytest

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.find import find, why_not
from cellplm.ingest.harmonise import harmonise
from cellplm.ingest.options import IngestOptions
from cellplm.ingest.readers import xenium, xenium_zarr
from cellplm.ingest.source import ReadOptions, Source
from tests.ingest.make import dense, make_counts, write_text
from tests.ingest.make_xenium import (
    CONTROL,
    FEATURES,
    IDS,
    N_CELLS,
    NUMBERS,
    Bundle,
    cells_table,
    write_bundle,
    write_zarr,
)
from tests.shared import SHARED, needs_shared

NAMES = [name for _, name, _ in FEATURES]
ZIP = "cell_feature_matrix.zarr.zip"
H5 = "cell_feature_matrix.h5"


def opened(folder: Path, options: ReadOptions | None = None) -> Source:
    (one,) = xenium.find(sorted(path for path in folder.iterdir() if _is_entry(path)))
    return xenium.open_source(one, options or ReadOptions())


def _is_entry(path: Path) -> bool:
    return path.is_file() or path.suffix == ".zarr"


@pytest.mark.parametrize("ids", ["string", "binary", "int"])
@pytest.mark.parametrize("cells", ["parquet", "csv.gz", "csv"])
@pytest.mark.parametrize("matrix", ["h5", "mtx", "zarr.zip", "zarr"])
def test_cells_are_joined_by_id_in_the_order_of_the_matrix(
    tmp_path: Path, matrix: str, cells: str, ids: str
) -> None:
    bundle = Bundle(matrix=(matrix,), cells=(cells,), ids=ids)
    counts = write_bundle(tmp_path, bundle)
    source = opened(tmp_path)
    expected = cells_table(bundle)
    assert source.obs.index.tolist() == bundle.names
    for column in expected.columns.drop("cell_id"):
        assert source.obs[column].tolist() == expected[column].tolist()
    assert source.coords_um is not None
    centroids = expected[["x_centroid", "y_centroid"]].to_numpy(dtype=np.float32)
    np.testing.assert_array_equal(source.coords_um, centroids)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)
    assert source.var.index.tolist() == NAMES
    assert source.var["feature_id"].tolist() == [one for one, _, _ in FEATURES]
    assert source.var["feature_types"].tolist() == [kind for _, _, kind in FEATURES]
    assert (source.platform, source.modality, source.warnings) == ("Xenium", "srt", ())


@pytest.mark.parametrize("matrix", ["h5", "mtx", "zarr.zip"])
def test_a_corpus_gives_back_every_count_and_name(tmp_path: Path, matrix: str) -> None:
    counts = write_bundle(tmp_path / "bundle", Bundle(matrix=(matrix,)))
    ingest_files([tmp_path / "bundle"], tmp_path / "c.zarr", IngestOptions())
    (part,) = Corpus.open(tmp_path / "c.zarr").parts
    adata = part.to_anndata()
    assert adata.obs_names.tolist() == list(IDS)
    assert adata.var["source_name"].tolist() == NAMES
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    expected = cells_table(Bundle())
    assert adata.obs["cell_area"].tolist() == expected["cell_area"].tolist()
    centroids = expected[["x_centroid", "y_centroid"]].to_numpy(dtype=np.float32)
    np.testing.assert_array_equal(adata.obsm["spatial"], centroids)


@pytest.mark.parametrize("matrix", ["h5", "zarr.zip"])
def test_probes_and_code_words_without_a_gene_are_controls(tmp_path: Path, matrix: str) -> None:
    write_bundle(tmp_path, Bundle(matrix=(matrix,)))
    kinds = harmonise(opened(tmp_path).var, species=None, index=GeneIndex.bundled()).kind
    assert [kind == "control" for kind in kinds] == list(CONTROL)


def test_nothing_of_a_bundle_is_found_as_another_data_set(tmp_path: Path) -> None:
    matrix = ("h5", "mtx", "zarr.zip")
    write_bundle(tmp_path / "b", Bundle(matrix=matrix, cells=("parquet", "csv.gz")))
    pca = tmp_path / "b" / "analysis" / "pca" / "gene_expression_10_components"
    pca.mkdir(parents=True)
    write_text(pca / "components.csv", "PC,ABCC11,ACTA2,ACTG2\n1,0.5,1.5,-1\n2,1,2,3\n")
    write_text(pca / "dispersion.csv", "Feature,Normalized.Dispersion\nABCC11,1.5\nACTA2,2.5\n")
    write_text(tmp_path / "b" / "gene_panel.json", "{}")
    (one,), left = find([tmp_path])
    assert one.path == tmp_path / "b" / H5
    assert [path.name for path in left] == ["gene_panel.json"]
    assert "of a Xenium bundle, and not read" in why_not(left[0])
    assert [path.name for path in one.files[:2]] == [H5, "cells.parquet"]
    names = {path.name for path in one.beside}
    assert {ZIP, "matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz", "components.csv"} <= names
    (named,), _ = find([tmp_path / "b" / "cells.csv.gz"])
    assert named.path == one.path


def test_bundles_with_prefixes_share_a_folder(tmp_path: Path) -> None:
    for prefix in ("GSM1_Rep1_", "GSM2_Rep2_"):
        write_bundle(tmp_path, Bundle(prefix=prefix))
    found = xenium.find(sorted(tmp_path.iterdir()))
    assert sorted(one.name for one in found) == ["GSM1_Rep1", "GSM2_Rep2"]
    for one in found:
        assert all(path.name.startswith(one.name) for path in one.files)
        assert xenium.open_source(one, ReadOptions()).n_obs == N_CELLS


@pytest.mark.parametrize(
    ("folder", "name"),
    [("output-XETG00045__0001234__Region_1", None), ("outs", "Run_7_Region_2")],
)
def test_a_bundle_has_the_name_of_its_folder_or_region(
    tmp_path: Path, folder: str, name: str | None
) -> None:
    write_bundle(tmp_path / folder)
    assert opened(tmp_path / folder).name == (name or folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run_name": 5}', "[" * 100_000])
def test_a_damaged_experiment_file_costs_the_name_only(tmp_path: Path, content: str) -> None:
    write_bundle(tmp_path / "outs")
    (tmp_path / "outs" / "experiment.xenium").write_text(content)
    assert opened(tmp_path / "outs").name == "outs"


def test_other_tables_of_cells_are_not_touched(tmp_path: Path) -> None:
    write_text(tmp_path / "T_cells.csv", "cell_id,x\n1,2\n")
    write_bundle(tmp_path)
    (one,) = xenium.find(sorted(tmp_path.iterdir()))
    assert tmp_path / "T_cells.csv" not in one.files


def test_ids_of_numbers_are_written_as_10x_does() -> None:
    assert xenium_zarr.cell_ids(np.array(NUMBERS)).tolist() == list(IDS)


def test_cells_of_more_than_the_matrix_are_left_out_with_a_word(tmp_path: Path) -> None:
    write_bundle(tmp_path, Bundle(cells=("parquet",)))
    table = pd.read_parquet(tmp_path / "cells.parquet")
    more = table.assign(cell_id=[f"bbbbbbb{c}-1" for c in "abcdef"])
    pd.concat([more, table]).to_parquet(tmp_path / "cells.parquet", index=False)
    source = opened(tmp_path)
    assert source.obs.index.tolist() == list(IDS)
    assert source.warnings == ("cells.parquet: 6 cells that have no counts were left out",)


def test_counts_without_cells_are_read_only_when_asked(tmp_path: Path) -> None:
    counts = write_bundle(tmp_path, Bundle(cells=()))
    with pytest.raises(MissingFileError, match=r"no cells\.parquet, cells\.csv\.gz or") as caught:
        opened(tmp_path)
    assert str(tmp_path / H5) in str(caught.value)
    source = opened(tmp_path, ReadOptions(modality="scrna"))
    assert source.coords_um is None
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_a_bundle_without_counts_is_told(tmp_path: Path) -> None:
    write_bundle(tmp_path, Bundle(matrix=()))
    assert xenium.find(sorted(tmp_path.iterdir())) == []
    assert "a Xenium bundle without its counts" in str(
        xenium.refusal(tmp_path / "experiment.xenium")
    )


def test_a_folder_of_the_matrix_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    write_bundle(tmp_path / "other", Bundle(matrix=("mtx",)))
    write_bundle(tmp_path / "b", Bundle(matrix=()))
    (tmp_path / "b" / "cell_feature_matrix").symlink_to(tmp_path / "other" / "cell_feature_matrix")
    assert xenium.find(sorted(p for p in (tmp_path / "b").iterdir() if p.is_file())) == []


def change_cells(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        for name in ("cells.parquet", "cells.csv"):
            if (folder / name).exists():
                parquet = name.endswith("parquet")
                table = (pd.read_parquet if parquet else pd.read_csv)(folder / name)
                table = change(table)
                if parquet:
                    table.to_parquet(folder / name, index=False)
                else:
                    table.to_csv(folder / name, index=False)

    return act


def cut(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        if (folder / name).exists():
            (folder / name).write_bytes((folder / name).read_bytes()[:60])

    return act


@pytest.mark.parametrize("cells", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("act", "words"),
    [
        (
            change_cells(lambda t: t[t["cell_id"] != IDS[2]]),
            rf"1 of 6 cells of {H5} are not in it, such as {IDS[2]}; its ids look like",
        ),
        (
            change_cells(lambda t: t.assign(cell_id=np.arange(6) + 100)),
            "6 of 6 cells .* are not in it, such as aaaaaaab-1; its ids look like 100",
        ),
        (change_cells(lambda t: pd.concat([t, t.iloc[:1]])), "stands twice"),
        (change_cells(lambda t: t.drop(columns="cell_id")), "no column 'cell_id'.* It has: x_cent"),
        (
            change_cells(lambda t: t.rename(columns={"x_centroid": "x"})),
            "no columns x_centroid and y_centroid; it has x, y_centroid",
        ),
        (change_cells(lambda t: t.iloc[:0]), "without rows|a single line"),
    ],
)
def test_cells_that_do_not_fit_the_matrix_are_told(
    tmp_path: Path, cells: str, act: Callable[[Path], None], words: str
) -> None:
    write_bundle(tmp_path, Bundle(cells=(cells,)))
    act(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        opened(tmp_path)
    assert str(tmp_path / f"cells.{cells}") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bundle",
    [
        Bundle(cells=("parquet",)),
        Bundle(cells=("csv.gz",)),
        Bundle(matrix=("zarr.zip",)),
        Bundle(matrix=("h5",)),
    ],
)
@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x1f\x8b\x08 no gzip at all", None])
def test_a_file_that_is_cut_or_none_is_named(
    tmp_path: Path, bundle: Bundle, content: bytes | None
) -> None:
    write_bundle(tmp_path, bundle)
    both = len(bundle.cells) == 2
    name = f"cell_feature_matrix.{bundle.matrix[0]}" if both else f"cells.{bundle.cells[0]}"
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(InputError) as caught:
        opened(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_id_that_stands_twice_in_the_matrix_is_told(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    with h5py.File(tmp_path / H5, "r+") as file:
        file["matrix/barcodes"][1] = IDS[0].encode()
    with pytest.raises(InputError, match=f"{IDS[0]}.* twice"):
        opened(tmp_path)


def store_as_floats(folder: Path) -> None:
    """What R makes of the file of the instrument."""
    with h5py.File(folder / H5, "r+") as file:
        for name in ("shape", "indptr", "indices", "data"):
            values = file[f"matrix/{name}"][:].astype(np.float64)
            del file[f"matrix/{name}"]
            file[f"matrix/{name}"] = values


def test_a_matrix_that_r_wrote_again_is_the_same(tmp_path: Path) -> None:
    counts = write_bundle(tmp_path)
    before = opened(tmp_path).var.drop(columns="genome")
    store_as_floats(tmp_path)
    source = opened(tmp_path)
    pd.testing.assert_frame_equal(source.var, before)
    assert source.obs.index.tolist() == list(IDS)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("indptr", 1.5, "/matrix/indptr holds 1.5; whole numbers"),
        ("indptr", np.nan, "/matrix/indptr holds nan; whole numbers"),
        ("indices", 1e300, "/matrix/indices holds 1e\\+300; whole numbers"),
        ("indices", -1.0, "/matrix/indices holds -1; whole numbers"),
        ("indices", 10.0, "indices holds 10, but there are 10 features"),
        ("shape", 9.0, "/matrix is 9 x 6, but has 10 features and 6 barcodes"),
    ],
)
def test_floats_that_are_no_places_are_told(
    tmp_path: Path, name: str, value: float, words: str
) -> None:
    write_bundle(tmp_path)
    store_as_floats(tmp_path)
    with h5py.File(tmp_path / H5, "r+") as file:
        file[f"matrix/{name}"][0 if name == "shape" else 1] = value
    with pytest.raises(InputError, match=words) as caught:
        list(opened(tmp_path).blocks())
    assert str(tmp_path / H5) in str(caught.value)


def rewrite(path: Path, change: dict[str, bytes | None]) -> None:
    """Write a .zip again, with other entries of these names, or without them."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries = {name: data for name, data in (entries | change).items() if data is not None}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def array_of(path: Path, name: str, **changed: object) -> dict[str, bytes | None]:
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read(f"cell_features/{name}/.zarray"))
    return {f"cell_features/{name}/.zarray": json.dumps(about | changed).encode()}


def blosc_bomb() -> bytes:
    packed = bytearray(numcodecs.Blosc(cname="lz4").encode(np.zeros(7, dtype=np.uint32)))
    packed[4:8] = (2**31 - 17).to_bytes(4, "little")
    return bytes(packed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: {"cell_features/data/3": None}, "of which cell_features/data/3 is not there"),
        (lambda p: {"cell_features/indptr/0": None}, "cell_features/indptr/0 is not there"),
        (lambda p: {"cell_features/data/0": blosc_bomb()}, "data/0 unpacks to 2147483631 bytes"),
        (lambda p: {"cell_features/data/0": b"\x02" * 200_000}, "data/0 unpacks to 200000 bytes"),
        (lambda p: {"cell_features/data/0": b"\x02" * 9}, "damaged|unpacks"),
        (lambda p: array_of(p, "data", shape=[10**13]), "declares 10000000000000 values"),
        (lambda p: array_of(p, "data", chunks=[10**10]), "chunks of 37.3 GiB"),
        (lambda p: array_of(p, "data", shape=[8]), "has 8 values but"),
        (lambda p: array_of(p, "indptr", shape=[7]), "indptr has 7 entries, 12 were expected"),
        (lambda p: array_of(p, "data", compressor={"id": "gzip", "level": 1}), "packed by gzip"),
        (lambda p: array_of(p, "data", filters=[{"id": "pickle"}]), "pickle"),
        (lambda p: {"cell_features/data/.zarray": b"{"}, "damaged"),
        (lambda p: {"cell_features/.zattrs": b"{}"}, "no attribute 'feature_keys'"),
        (lambda p: {"cell_features/.zgroup": None}, "no group 'cell_features'"),
    ],
)
def test_a_damaged_zarr_is_told(
    tmp_path: Path, change: Callable[[Path], dict[str, bytes | None]], words: str
) -> None:
    write_bundle(tmp_path, Bundle(matrix=("zarr.zip",)))
    rewrite(tmp_path / ZIP, change(tmp_path / ZIP))
    with pytest.raises(InputError, match=words) as caught:
        opened(tmp_path)
    assert str(tmp_path / ZIP) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"feature_ids": ["a"]}, "do not fit together: 11 of feature_keys, 1 of feature_ids"),
        ({"number_features": 10}, "10 of number_features"),
        ({"number_cells": 5}, "integers of 5 cells were expected"),
        ({"feature_types": "gene"}, "no attribute 'feature_types'"),
    ],
)
def test_attributes_that_do_not_fit_are_told(
    tmp_path: Path, attrs: dict[str, object], words: str
) -> None:
    write_bundle(tmp_path, Bundle(matrix=()))
    counts = make_counts(N_CELLS, len(FEATURES))
    write_zarr(tmp_path / ZIP, counts, np.array(NUMBERS), attrs=attrs)
    with pytest.raises(InputError, match=words) as caught:
        opened(tmp_path)
    assert str(tmp_path / ZIP) in str(caught.value)


@pytest.mark.parametrize("name", ["indptr", "indices", "data", "cell_id"])
def test_an_array_that_lacks_is_told(tmp_path: Path, name: str) -> None:
    write_bundle(tmp_path, Bundle(matrix=()))
    counts = make_counts(N_CELLS, len(FEATURES))
    write_zarr(tmp_path / ZIP, counts, np.array(NUMBERS), leave_out=name)
    with pytest.raises(InputError, match=f"no array {name!r}"):
        opened(tmp_path)


def test_a_link_in_a_zarr_folder_is_not_followed(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", Bundle(matrix=("zarr",)))
    data = tmp_path / "b" / "cell_feature_matrix.zarr" / "cell_features" / "data"
    shutil.move(data, tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="a link"):
        opened(tmp_path / "b")


@needs_shared
def test_a_vendor_sample_opens() -> None:
    source = opened(SHARED / "formats-tiny/SpatialExperimentIO/Xenium_small")
    assert (source.n_obs, source.n_vars) == (6, 4)
    assert source.name == "Xenium_small"
    assert source.obs.index.tolist() == ["1", "2", "3", "4", "5", "6"]
    assert source.var.index.tolist() == ["ABCC11", "ACTA2", "ACTG2", "ADAM9"]
    assert source.var["feature_id"].iloc[0] == "ENSG00000121270"
    assert source.coords_um is not None
    # cells.parquet goes before cells.csv.gz, which has other positions in this sample.
    np.testing.assert_allclose(source.coords_um[0], [847.259912, 326.191365], rtol=1e-6)
    counts = dense(source.blocks(), (6, 4))
    with h5py.File(
        SHARED / "formats-tiny/SpatialExperimentIO/Xenium_small/cell_feature_matrix.h5"
    ) as file:
        values = file["matrix/data"][:]
    assert counts.sum() == values.sum()
    assert sorted(counts[counts > 0]) == sorted(values[values > 0])
