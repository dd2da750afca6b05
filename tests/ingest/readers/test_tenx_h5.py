from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.find import find as find_all
from cellplm.ingest.options import IngestOptions
from cellplm.ingest.readers import tenx_h5
from cellplm.ingest.source import Found, ReadOptions, Source
from tests.ingest.make import dense, make_counts, write_h5ad
from tests.ingest.make_tenx import barcodes, feature, out_of, write_h5, write_h5_v2, write_mtx
from tests.shared import SHARED, needs_shared

TINY = SHARED / "formats-tiny"


def opened(path: Path) -> Source:
    (one,) = tenx_h5.find([path])
    return tenx_h5.open_source(one, ReadOptions())


def matrix_of(source: Source) -> NDArray[np.float64]:
    return dense(source.blocks(), (source.n_obs, source.n_vars))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20
)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30))
def test_blocks_of_any_size_make_the_matrix(
    tmp_path: Path, n_cells: int, n_genes: int, size: int
) -> None:
    counts = make_counts(n_cells, n_genes, seed=n_cells)
    source = opened(write_h5(tmp_path / "a.h5", counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tenx_h5, "BLOCK_VALUES", size)
        np.testing.assert_array_equal(matrix_of(source), counts)
        np.testing.assert_array_equal(matrix_of(source), counts)  # a fresh pass


def test_names_types_and_platform_come_along(tmp_path: Path) -> None:
    types = ["Gene Expression", "Antibody Capture", "CRISPR Guide Capture"]
    attrs = {"chemistry_description": "Single Cell 3' v3"}
    path = write_h5(tmp_path / "pbmc.h5", make_counts(4, 3), types=types, attrs=attrs)
    source = opened(path)
    assert (source.name, source.format, source.platform) == ("pbmc", "10x_h5", "Chromium")
    assert source.obs.index.tolist() == barcodes(4)
    assert source.var.index.tolist() == [feature(i)[1] for i in range(3)]
    assert source.var["feature_id"].tolist() == [feature(i)[0] for i in range(3)]
    assert source.var["feature_types"].tolist() == types
    assert source.var["genome"].tolist() == ["GRCh38"] * 3
    assert (source.modality, source.spots) == ("scrna", False)


def test_names_may_be_strings_of_any_length_or_numbers(tmp_path: Path) -> None:
    counts = make_counts(4, 3)
    path = write_h5(tmp_path / "a.h5", counts)
    with h5py.File(path, "r+") as file:
        for key, values in {
            "matrix/barcodes": ["a", "bb", "ccc", "dµ"],
            "matrix/features/id": [574405, 574404, 7],
        }.items():
            del file[key]
            file[key] = values
    source = opened(path)
    assert source.obs.index.tolist() == ["a", "bb", "ccc", "dµ"]
    assert source.var["feature_id"].tolist() == ["574405", "574404", "7"]
    np.testing.assert_array_equal(matrix_of(source), counts)


def test_cell_ranger_2_has_a_group_for_its_genome(tmp_path: Path) -> None:
    counts = make_counts(5, 4)
    path = tmp_path / "s1/outs/filtered_gene_bc_matrices_h5.h5"
    source = opened(write_h5_v2(path, {"hg19": counts}))
    assert source.name == "s1"
    assert source.var["feature_id"].tolist() == [feature(i)[0] for i in range(4)]
    assert source.var["genome"].tolist() == ["hg19"] * 4
    np.testing.assert_array_equal(matrix_of(source), counts)


def test_every_genome_of_a_file_is_a_data_set(tmp_path: Path) -> None:
    genomes = {"hg19": make_counts(9, 4) + 1, "mm10": make_counts(7, 5, seed=1) + 1}
    path = write_h5_v2(tmp_path / "mix.h5", genomes)
    seen, _ = find_all([path])
    assert [one.name for one in seen] == ["mix-hg19", "mix-mm10"]
    for one, counts in zip(seen, genomes.values(), strict=True):
        source = tenx_h5.open_source(one, ReadOptions())
        assert source.files == (path,)
        np.testing.assert_array_equal(matrix_of(source), counts)
    options = IngestOptions()
    report = ingest_files([path], tmp_path / "c.zarr", options)
    assert [one.n_obs for one in report.ingested] == [9, 7]


def test_a_run_is_one_data_set_however_often_it_was_written(tmp_path: Path) -> None:
    counts, raw = make_counts(40, 9) + 1, make_counts(60, 9)
    outs = tmp_path / "donor1/outs"
    write_h5(outs / "filtered_feature_bc_matrix.h5", counts)
    write_mtx(outs / "filtered_feature_bc_matrix", counts)
    write_h5(outs / "raw_feature_bc_matrix.h5", raw)
    write_mtx(outs / "raw_feature_bc_matrix", raw)
    with h5py.File(outs / "molecule_info.h5", "w") as file:
        file["barcodes"] = [1, 2]
    report = ingest_files([tmp_path / "donor1"], tmp_path / "c.zarr", IngestOptions())
    assert [(one.name, one.format) for one in report.ingested] == [("donor1", "10x_h5")]
    obs, names, got = out_of(tmp_path / "c.zarr")
    assert obs.index.tolist() == barcodes(40)
    assert names == [feature(i)[1] for i in range(9)]
    np.testing.assert_array_equal(got, counts)
    told = {left.name: left.reason for left in report.other_files}
    assert set(told) == {"raw_feature_bc_matrix.h5", "molecule_info.h5", "matrix.mtx.gz"}
    assert "name it" in told["raw_feature_bc_matrix.h5"]
    assert "name its folder" in told["matrix.mtx.gz"]
    assert "no 10x matrix in it" in told["molecule_info.h5"]


def test_what_is_named_is_taken(tmp_path: Path) -> None:
    counts, raw = make_counts(4, 3), make_counts(9, 3)
    outs = tmp_path / "donor1/outs"
    filtered = write_h5(outs / "filtered_feature_bc_matrix.h5", counts)
    write_mtx(outs / "filtered_feature_bc_matrix", counts)
    write_h5(outs / "raw_feature_bc_matrix.h5", raw)
    write_mtx(outs / "raw_feature_bc_matrix", raw)
    assert [one.path for one in find_all([filtered])[0]] == [filtered]
    for name in ("filtered", "raw"):
        folder = outs / f"{name}_feature_bc_matrix"
        assert [one.path for one in find_all([folder])[0]] == [folder / "matrix.mtx.gz"]
    # Alone among the files that it may choose from, a raw matrix is taken.
    (one,) = tenx_h5.find([outs / "raw_feature_bc_matrix.h5"])
    assert one.name == "donor1-raw"
    np.testing.assert_array_equal(matrix_of(tenx_h5.open_source(one, ReadOptions())), raw)


def test_a_prefix_is_the_name_and_tells_runs_apart(tmp_path: Path) -> None:
    for prefix in ("GSM1_", "GSM2_"):
        write_h5(tmp_path / f"{prefix}filtered_feature_bc_matrix.h5", make_counts(4, 3))
    write_h5(tmp_path / "GSM2_raw_feature_bc_matrix.h5", make_counts(9, 3))
    write_h5(tmp_path / "GSM3_raw_feature_bc_matrix.h5", make_counts(9, 3))
    seen = tenx_h5.find(sorted(tmp_path.iterdir()))
    assert [one.name for one in seen] == ["GSM1", "GSM2", "GSM3-raw"]


def test_samples_of_multi_are_named_by_their_folders(tmp_path: Path) -> None:
    for sample in "AB":
        count = tmp_path / "run/outs/per_sample_outs" / sample / "count"
        write_h5(count / "sample_filtered_feature_bc_matrix.h5", make_counts(4, 3))
        write_h5(count / "sample_raw_feature_bc_matrix.h5", make_counts(9, 3))
    write_h5(tmp_path / "run/outs/multi/count/raw_feature_bc_matrix.h5", make_counts(20, 3))
    seen, others = find_all([tmp_path])
    assert [one.name for one in seen] == ["A", "B"]
    assert len(others) == 3


def test_of_cellbender_the_cells_are_taken(tmp_path: Path) -> None:
    write_h5(tmp_path / "out.h5", make_counts(9, 3))
    write_h5(tmp_path / "out_filtered.h5", make_counts(4, 3))
    (one,) = tenx_h5.find(sorted(tmp_path.iterdir()))
    assert one.path.name == "out_filtered.h5"
    assert "all droplets" in (tenx_h5.refusal(tmp_path / "out.h5") or "")


def test_the_folder_is_taken_where_the_file_is_damaged(tmp_path: Path) -> None:
    counts = make_counts(4, 3)
    outs = tmp_path / "donor1/outs"
    path = write_h5(outs / "filtered_feature_bc_matrix.h5", counts)
    path.write_bytes(path.read_bytes()[:3000])
    write_h5(outs / "raw_feature_bc_matrix.h5", make_counts(9, 3))
    write_mtx(outs / "filtered_feature_bc_matrix", counts)
    (one,), others = find_all([tmp_path])
    assert one.format == "10x_mtx"
    assert path in others
    assert "not a readable HDF5 file" in (tenx_h5.refusal(path) or "")


def write_probes(path: Path) -> NDArray[Any]:
    """Four probes of two genes and an excluded one, as Space Ranger writes them; by gene."""
    counts = make_counts(6, 5, seed=4)
    path = write_h5(path, counts)
    with h5py.File(path, "r+") as file:
        inner = file["matrix/features"]
        del inner["id"], inner["name"]
        genes = ["ENSG1", "ENSG2", "ENSG1", "ENSG1", "ENSG2"]
        inner["id"] = [f"{gene}|X|{i}".encode() for i, gene in enumerate(genes)]
        inner["name"] = [f"X|{i}".encode() for i in range(5)]
        inner["gene_id"] = [gene.encode() for gene in genes]
        inner["gene_name"] = [gene.replace("ENSG", "SYM").encode() for gene in genes]
        inner["filtered_probes"] = np.array([True, True, True, False, True])
        inner["probe_region"] = [b"none"] * 5
        file["matrix/filtered_barcodes"] = np.array([1, 1, 0, 1, 1, 1], dtype=bool)
    return np.stack(
        [counts[:, 0] + counts[:, 2], counts[:, 1] + counts[:, 4], counts[:, 3]], axis=1
    )


def test_probes_are_summed_to_genes_and_excluded_ones_stay_apart(tmp_path: Path) -> None:
    counts = write_probes(tmp_path / "raw_probe_bc_matrix.h5")
    source = opened(tmp_path / "raw_probe_bc_matrix.h5")
    assert source.var.index.tolist() == ["SYM1", "SYM2", "X|3"]
    assert source.var["feature_id"].tolist() == ["ENSG1", "ENSG2", "ENSG1|X|3"]
    assert source.var["n_probes"].tolist() == [2, 2, 1]
    np.testing.assert_array_equal(matrix_of(source), counts)
    assert source.warnings == (
        "counts of 4 probes were summed to 2 genes; 1 excluded probes stay features of their own",
    )
    (reason,) = source.unfit
    assert source.unfit[reason].tolist() == [False, False, True, False, False, False]


def test_probes_are_left_where_genes_are_beside_them(tmp_path: Path) -> None:
    write_probes(tmp_path / "raw_probe_bc_matrix.h5")
    write_h5(tmp_path / "raw_feature_bc_matrix.h5", make_counts(6, 3))
    (one,) = tenx_h5.find(sorted(tmp_path.iterdir()))
    assert one.path.name == "raw_feature_bc_matrix.h5"


def test_a_probe_that_stands_twice_is_not_summed_away(tmp_path: Path) -> None:
    path = tmp_path / "raw_probe_bc_matrix.h5"
    write_probes(path)
    with h5py.File(path, "r+") as file:
        indptr = file["matrix/indptr"][:]
        at = int(np.flatnonzero(np.diff(indptr) > 1)[0])
        file["matrix/indices"][indptr[at] + 1] = file["matrix/indices"][indptr[at]]
    source = opened(path)
    with pytest.raises(InputError, match=r"raw_probe_bc_matrix\.h5: a probe has two values"):
        list(source.blocks())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_hdf5(path: Path) -> None:
    path.write_text("not HDF5")


def emptied(path: Path) -> None:
    with h5py.File(path, "w"):
        pass


def without(part: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[part]

    return spoil


def linked_matrix(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["matrix"]
        file["matrix"] = h5py.ExternalLink("elsewhere.h5", "/matrix")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "not a readable HDF5 file"),
        (no_hdf5, "not a readable HDF5 file"),
        (emptied, "no 10x matrix in it.*it has nothing"),
        (without("matrix/shape"), "no 10x matrix in it"),
        (without("matrix/data"), "no 10x matrix in it"),
        (linked_matrix, "no 10x matrix in it"),
    ],
)
def test_what_is_no_matrix_is_not_claimed_and_says_why(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    path = write_h5(tmp_path / "bad.h5", make_counts(4, 3))
    spoil(path)
    assert tenx_h5.find([path]) == []
    with pytest.raises(InputError, match=words) as caught:
        find_all([path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def changed(part: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            values = change(file[f"matrix/{part}"][:])
            del file[f"matrix/{part}"]
            file[f"matrix/{part}"] = values

    return spoil


def second_is(value: int) -> Callable[[Any], Any]:
    return lambda x: np.where(np.arange(x.size) == 1, value, x)


def declared(part: str, shape: tuple[int, ...], **how: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            kind = file[f"matrix/{part}"].dtype
            del file[f"matrix/{part}"]
            file.create_dataset(f"matrix/{part}", shape, dtype=kind, **how)

    return spoil


def external_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["matrix/more"] = h5py.ExternalLink("/etc/hostname", "/x")


def soft_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = h5py.SoftLink("/matrix/features/id")


def virtual(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        n = file["matrix/data"].shape
        del file["matrix/data"]
        layout = h5py.VirtualLayout(shape=n, dtype="i4")
        layout[:] = h5py.VirtualSource("elsewhere.h5", "data", shape=n)
        file.create_virtual_dataset("matrix/data", layout)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("matrix/barcodes"), "no /matrix/barcodes"),
        (without("matrix/features"), "no /matrix/gene_names"),
        (without("matrix/features/id"), "no /matrix/features/id"),
        (without("matrix/features/name"), "no /matrix/features/name"),
        (changed("shape", lambda _: [4, 7]), "is 4 x 7, but has 3 features and 4 barcodes"),
        (changed("shape", lambda _: [4, 3]), "is 4 x 3, but has 3 features and 4 barcodes"),
        (changed("shape", lambda _: [3.0, 4.0]), "no pair of whole numbers"),
        (changed("shape", lambda _: [3, 4, 1]), "no pair of whole numbers"),
        (changed("barcodes", lambda x: x[:-1]), "but has 3 features and 3 barcodes"),
        (changed("barcodes", lambda x: x.reshape(2, 2)), "2 dimensions"),
        (changed("barcodes", lambda x: np.zeros(4)), "names were expected"),
        (changed("barcodes", lambda x: [b"\xff\xfe", b"b", b"c", b"d"]), "readable|decode"),
        (changed("indices", second_is(99)), "holds 99, but there are 3 features"),
        (changed("indices", second_is(-1)), "holds -1, but there are 3 features"),
        (changed("indices", lambda x: x.astype(float)), "integers in a row were expected"),
        (changed("indptr", lambda x: x[:-1]), "indptr has 4 entries, 5 were expected"),
        (changed("indptr", lambda x: x[[0, 3, 2, 1, 4]]), "does not rise"),
        (changed("indptr", lambda x: x + 1), "does not rise from 0"),
        (changed("data", lambda x: x[:-1]), "11 values but 12 indices"),
        (declared("data", (2**42,), chunks=(2**20,)), "declares 4398046511104 values"),
        (declared("indices", (2**42,), chunks=(2**20,)), "declares 4398046511104 values"),
        (declared("indptr", (2**42,), chunks=(2**20,)), "declares 4398046511104 values"),
        (declared("barcodes", (2**42,), chunks=(2**20,)), "declares 4398046511104 values"),
        (declared("data", (12,), external=[("x.raw", 0, 96)]), "other files"),
        (external_link, "is a link"),
        (soft_link, "is a link"),
        (virtual, "other files"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    path = write_h5(tmp_path / "bad.h5", make_counts(4, 3) + 1)
    spoil(path)
    with pytest.raises(InputError, match=words) as caught:
        list(opened(path).blocks())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_anndata_file_is_left_to_its_own_reader(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5", make_counts(4, 3))
    assert tenx_h5.find([path]) == []
    assert tenx_h5.refusal(path) is None


def test_other_files_have_no_reason(tmp_path: Path) -> None:
    assert tenx_h5.refusal(tmp_path / "a.h5ad") is None
    assert tenx_h5.refusal(tmp_path / "picture.png") is None


def truth(path: Path, group: str) -> NDArray[Any]:
    with h5py.File(path) as file:
        parts = [file[group][name][:] for name in ("data", "indices", "indptr")]
        n_features, n_cells = (int(n) for n in file[group]["shape"][:])
    matrix = sp.csc_matrix((parts[0], parts[1], parts[2]), shape=(n_features, n_cells))
    return np.asarray(matrix.toarray()).T


@needs_shared
@pytest.mark.parametrize(
    ("file", "group", "name", "shape", "total"),
    [
        ("scanpy/10x_data/1.2.0/filtered_gene_bc_matrices_h5.h5", "hg19_chr21", "1.2.0",
         (12, 343), 12),
        ("scanpy/10x_data/3.0.0/filtered_feature_bc_matrix.h5", "matrix", "3.0.0",
         (1107, 507), 41549),
        ("scanpy/visium_data/1.0.0/filtered_feature_bc_matrix.h5", "matrix", "1.0.0",
         (100, 100), 932),
        ("seurat/filtered_feature_bc_matrix.h5", "matrix", "seurat", (2695, 100), 132231),
        ("VisiumIO/10xVisium/section1/outs/raw_feature_bc_matrix.h5", "matrix", "section1-raw",
         (50, 49), 607),
    ],
)  # fmt: skip
def test_real_files_give_all_their_counts(
    file: str, group: str, name: str, shape: tuple[int, int], total: int
) -> None:
    source = opened(TINY / file)
    assert (source.name, source.n_obs, source.n_vars) == (name, *shape)
    got = matrix_of(source)
    assert got.sum() == total
    np.testing.assert_array_equal(got, truth(TINY / file, group))


@needs_shared
def test_a_real_file_of_two_genomes_is_two_data_sets() -> None:
    path = TINY / "scanpy/10x_data/1.2.0/multiple_genomes.h5"
    seen = tenx_h5.find([path])
    assert [one.name for one in seen] == [
        "multiple_genomes-another_genome", "multiple_genomes-hg19_chr21",
    ]  # fmt: skip
    for one in seen:
        source = tenx_h5.open_source(one, ReadOptions())
        np.testing.assert_array_equal(matrix_of(source), truth(path, one.path.name))


@needs_shared
def test_a_real_file_of_probes_loses_no_count() -> None:
    path = TINY / "scanpy/visium_data/2.1.0/raw_probe_bc_matrix.h5"
    source = opened(path)
    assert (source.n_obs, source.n_vars) == (4987, 671 + 318)
    got = matrix_of(source)
    assert got.sum() == truth(path, "matrix").sum() == 3372
    with h5py.File(path) as file:
        inner = file["matrix/features"]
        genes, included = inner["gene_id"][:].astype(str), inner["filtered_probes"][:]
    gene = "ENSMUSG00000002055"
    gene = next(g for g in genes[included] if (genes[included] == g).sum() > 1) or gene
    expected = truth(path, "matrix")[:, included & (genes == gene)].sum(axis=1)
    column = source.var["feature_id"].tolist().index(gene)
    np.testing.assert_array_equal(got[:, column], expected)


@needs_shared
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("scp-ingest/anndata/bad.h5", "not a readable HDF5 file, or cut short"),
        ("scvi-mini/brain_large.h5", "no /mm10/barcodes"),
    ],
)
def test_real_files_that_are_no_data_sets(file: str, words: str) -> None:
    one = Found(format=tenx_h5.FORMAT, path=TINY / file, files=(TINY / file,), name="x")
    with pytest.raises(InputError, match=words):
        tenx_h5.open_source(one, ReadOptions())
