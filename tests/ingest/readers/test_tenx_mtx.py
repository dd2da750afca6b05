from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from numpy.typing import NDArray

from cellplm.errors import CountsError, InputError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.find import find as find_all
from cellplm.ingest.options import IngestOptions
from cellplm.ingest.readers import tenx_mtx
from cellplm.ingest.source import Found, ReadOptions, Source
from tests.ingest.make import CountCheck, dense, make_counts
from tests.ingest.make_tenx import (
    barcodes,
    feature,
    features_text,
    mtx_text,
    out_of,
    write,
    write_mtx,
)
from tests.shared import SHARED, needs_shared

TINY = SHARED / "formats-tiny"


def found(folder: Path) -> list[Found]:
    return tenx_mtx.find(sorted(folder.iterdir()))


def opened(folder: Path) -> Source:
    (one,) = found(folder)
    return tenx_mtx.open_source(one, ReadOptions())


def matrix_of(source: Source) -> NDArray[np.float64]:
    return dense(source.blocks(), (source.n_obs, source.n_vars))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_folder_of_any_version_gives_its_counts(
    tmp_path: Path, version: int, gz: bool, transposed: bool
) -> None:
    counts = make_counts(7, 9)
    write_mtx(tmp_path / "run1", counts, version=version, gz=gz, transposed=transposed)
    source = opened(tmp_path / "run1")
    assert source.name == "run1"
    assert source.obs.index.tolist() == barcodes(7)
    assert source.var.index.tolist() == [feature(i)[1] for i in range(9)]
    assert source.var["feature_id"].tolist() == [feature(i)[0] for i in range(9)]
    if version == 3:
        assert source.var["feature_types"].tolist() == ["Gene Expression"] * 9
    np.testing.assert_array_equal(matrix_of(source), counts)
    np.testing.assert_array_equal(matrix_of(source), counts)  # a fresh pass
    assert (source.modality, source.spots, source.coords_um) == ("scrna", False, None)


def test_a_square_matrix_is_genes_x_cells(tmp_path: Path) -> None:
    counts = make_counts(6, 6)
    source = opened(write_mtx(tmp_path / "a", counts))
    assert "genes x cells" in source.counts_from
    np.testing.assert_array_equal(matrix_of(source), counts)


def test_files_may_be_gzipped_in_any_mix_and_one_may_be_there_twice(tmp_path: Path) -> None:
    counts = make_counts(4, 3)
    write_mtx(tmp_path / "a", counts, gz=False)
    names = tmp_path / "a/barcodes.tsv"
    (tmp_path / "a/barcodes.tsv.gz").write_bytes(names.read_bytes())  # no gzip, in spite of it
    names.unlink()
    matrix = tmp_path / "a/matrix.mtx"
    (tmp_path / "a/matrix.mtx.gz").write_bytes(gzip.compress(matrix.read_bytes()))
    (one,) = found(tmp_path / "a")
    assert one.path == matrix
    assert [path.name for path in one.files] == ["matrix.mtx", "barcodes.tsv.gz", "features.tsv"]
    assert [path.name for path in one.beside] == ["matrix.mtx.gz"]
    np.testing.assert_array_equal(matrix_of(opened(tmp_path / "a")), counts)


def test_features_keep_their_types(tmp_path: Path) -> None:
    types = ["Gene Expression", "Antibody Capture", "CRISPR Guide Capture"]
    source = opened(write_mtx(tmp_path / "a", make_counts(4, 3), types=types))
    assert source.var["feature_types"].tolist() == types


@pytest.mark.parametrize(
    ("text", "names", "ids"),
    [
        ("CD3E\nLYZ\n", ["CD3E", "LYZ"], None),
        ("ENSG1\tCD3E\nENSG2\t\n", ["CD3E", "ENSG2"], ["ENSG1", "ENSG2"]),
        ("574405\tCD3E\n574404\tLYZ\n", ["CD3E", "LYZ"], ["574405", "574404"]),
        ('"x"\n"CD3E"\n"LYZ"\n', ["CD3E", "LYZ"], None),
        ("gene_id\tgene_name\nE1\tCD3E\nE2\tLYZ\n", ["CD3E", "LYZ"], ["E1", "E2"]),
        ("E1\tCD3E\r\nE2\tLYZ\r\n\r\n", ["CD3E", "LYZ"], ["E1", "E2"]),
        ("\ufeffE1\tCD3E\nE2\tLYZ", ["CD3E", "LYZ"], ["E1", "E2"]),
    ],
)
def test_spellings_of_features(
    tmp_path: Path, text: str, names: list[str], ids: list[str] | None
) -> None:
    counts = make_counts(3, 2)
    write_mtx(tmp_path / "a", counts)
    (tmp_path / "a/features.tsv.gz").write_bytes(gzip.compress(text.encode()))
    source = opened(tmp_path / "a")
    assert source.var.index.tolist() == names
    assert (source.var["feature_id"].tolist() if ids else None) == ids
    np.testing.assert_array_equal(matrix_of(source), counts)


def test_a_feature_called_gene_is_no_header_where_the_numbers_fit(tmp_path: Path) -> None:
    write_mtx(tmp_path / "a", make_counts(3, 2))
    write(tmp_path / "a/features.tsv.gz", "gene\tgene\nE2\tLYZ\n")
    assert opened(tmp_path / "a").var.index.tolist() == ["gene", "LYZ"]


def test_multiome_features_keep_their_place_in_the_genome(tmp_path: Path) -> None:
    write_mtx(tmp_path / "a", make_counts(3, 2))
    text = "E1\tCD3E\tGene Expression\tchr1\t10\t20\nchr1:5-9\tchr1:5-9\tPeaks\tchr1\t5\t9\n"
    write(tmp_path / "a/features.tsv.gz", text)
    var = opened(tmp_path / "a").var
    assert var["feature_types"].tolist() == ["Gene Expression", "Peaks"]
    assert var[["chromosome", "start", "end"]].to_numpy().tolist() == [
        ["chr1", "10", "20"],
        ["chr1", "5", "9"],
    ]


def test_libraries_that_aggr_numbers_become_a_column(tmp_path: Path) -> None:
    names = [*barcodes(3), *barcodes(2, suffix="-2")]
    source = opened(write_mtx(tmp_path / "a", make_counts(5, 3), names=names))
    assert source.obs["library"].tolist() == ["1", "1", "1", "2", "2"]
    assert "library" not in opened(write_mtx(tmp_path / "b", make_counts(5, 3))).obs.columns


def test_triples_of_one_folder_are_told_apart_by_their_prefix(tmp_path: Path) -> None:
    first, second, third = make_counts(4, 3), make_counts(5, 3, seed=1), make_counts(6, 3, seed=2)
    write_mtx(tmp_path, first, prefix="GSM1_A_", version=2)
    write_mtx(tmp_path, second, prefix="GSM1_A_2.", version=2, gz=False)
    write(tmp_path / "B.counts.mtx", mtx_text(third))
    write(tmp_path / "B-barcodes.tsv", "".join(f"{name}\n" for name in barcodes(6)))
    write(tmp_path / "B-genes.tsv.gz", features_text(3, columns=1))
    write(tmp_path / "other.mtx", mtx_text(third))
    by_name = {one.name: tenx_mtx.open_source(one, ReadOptions()) for one in found(tmp_path)}
    assert sorted(by_name) == ["B", "GSM1_A", "GSM1_A_2"]
    for name, counts in (("GSM1_A", first), ("GSM1_A_2", second), ("B", third)):
        np.testing.assert_array_equal(matrix_of(by_name[name]), counts)
    assert "a matrix without names" in (tenx_mtx.refusal(tmp_path / "other.mtx") or "")


def test_one_list_of_genes_may_serve_all_matrices_of_a_folder(tmp_path: Path) -> None:
    for prefix, seed in (("S1_", 0), ("S2_", 1)):
        write_mtx(tmp_path, make_counts(4, 3, seed=seed), prefix=prefix, version=2)
        (tmp_path / f"{prefix}genes.tsv.gz").unlink()
    write(tmp_path / "GSE1_genes.tsv", features_text(3, columns=2))
    assert [one.name for one in found(tmp_path)] == ["S1", "S2"]
    for seed, one in enumerate(found(tmp_path)):
        source = tenx_mtx.open_source(one, ReadOptions())
        np.testing.assert_array_equal(matrix_of(source), make_counts(4, 3, seed=seed))


def test_kallisto_bustools_is_cells_x_genes(tmp_path: Path) -> None:
    counts = make_counts(5, 3)
    write(tmp_path / "cells_x_genes.mtx", mtx_text(counts, transposed=True, field="real"))
    write(tmp_path / "cells_x_genes.barcodes.txt", "".join(f"{b}\n" for b in barcodes(5)))
    write(tmp_path / "cells_x_genes.genes.txt", "".join(f"{feature(i)[0]}.4\n" for i in range(3)))
    source = opened(tmp_path)
    assert "cells x genes" in source.counts_from
    np.testing.assert_array_equal(matrix_of(source), counts)


def star_solo(root: Path) -> NDArray[Any]:
    """What STARsolo leaves: genes and junctions, raw with estimates, and filtered."""
    raw, counts = make_counts(9, 4, seed=1), make_counts(4, 4)
    for kind, values in (("raw", raw), ("filtered", counts)):
        write_mtx(root / "Gene" / kind, values, gz=False)
    write(root / "Gene/raw/UniqueAndMult-EM.mtx", mtx_text(raw + 0.5, field="real"))
    write_mtx(root / "SJ/raw", raw, gz=False)
    for name in ("spliced", "unspliced", "ambiguous"):
        write(root / f"Velocyto/raw/{name}.mtx", mtx_text(raw))
    write(root / "Velocyto/raw/barcodes.tsv", "".join(f"{b}\n" for b in barcodes(9)))
    write(root / "Velocyto/raw/features.tsv", features_text(4))
    return counts


def test_of_star_solo_the_filtered_genes_are_taken(tmp_path: Path) -> None:
    counts = star_solo(tmp_path / "s1_Solo.out")
    (one,), others = find_all([tmp_path])
    assert one.name == "s1"
    source = tenx_mtx.open_source(one, ReadOptions())
    np.testing.assert_array_equal(matrix_of(source), counts)
    told = {path.relative_to(tmp_path): tenx_mtx.refusal(path) or "" for path in others}
    reasons = {str(path).split("/", 1)[1]: reason for path, reason in told.items()}
    assert "name its folder" in reasons["Gene/raw/matrix.mtx"]
    assert "name its folder" in reasons["Gene/raw/UniqueAndMult-EM.mtx"]
    assert "STARsolo's SJ" in reasons["SJ/raw/matrix.mtx"]
    assert "without names" in reasons["Velocyto/raw/spliced.mtx"]


def test_a_raw_matrix_is_taken_when_it_is_named_or_alone(tmp_path: Path) -> None:
    counts = star_solo(tmp_path / "s1_Solo.out")
    (one,), _ = find_all([tmp_path / "s1_Solo.out/Gene/raw"])
    assert one.name == "s1-raw"
    assert tenx_mtx.open_source(one, ReadOptions()).n_obs == 9
    write_mtx(tmp_path / "s2/outs/raw_feature_bc_matrix", counts)
    (one,), _ = find_all([tmp_path / "s2"])
    assert one.name == "s2-raw"


def test_of_cell_ranger_the_filtered_matrix_is_taken(tmp_path: Path) -> None:
    counts = make_counts(4, 3)
    outs = tmp_path / "sampleX/outs"
    write_mtx(outs / "raw_feature_bc_matrix", make_counts(9, 3))
    write_mtx(outs / "filtered_feature_bc_matrix", counts)
    (one,), others = find_all([tmp_path])
    assert one.name == "sampleX"
    np.testing.assert_array_equal(matrix_of(tenx_mtx.open_source(one, ReadOptions())), counts)
    assert others == [outs / "raw_feature_bc_matrix/matrix.mtx.gz"]
    for path in others:
        assert str(outs / "filtered_feature_bc_matrix") in (tenx_mtx.refusal(path) or "")


def test_every_genome_of_cell_ranger_2_is_a_data_set(tmp_path: Path) -> None:
    outs = tmp_path / "mix/outs"
    for kind in ("filtered", "raw"):
        for genome, seed in (("hg19", 0), ("mm10", 1)):
            folder = outs / f"{kind}_gene_bc_matrices" / genome
            write_mtx(folder, make_counts(5, 3, seed=seed), version=2, gz=False)
    seen, _ = find_all([tmp_path])
    assert [one.name for one in seen] == ["mix-hg19", "mix-mm10"]
    for seed, one in enumerate(seen):
        source = tenx_mtx.open_source(one, ReadOptions())
        np.testing.assert_array_equal(matrix_of(source), make_counts(5, 3, seed=seed))


def test_the_raw_matrix_of_all_samples_of_multi_is_left(tmp_path: Path) -> None:
    outs = tmp_path / "run/outs"
    write_mtx(outs / "multi/count/raw_feature_bc_matrix", make_counts(30, 3))
    for sample, seed in (("A", 0), ("B", 1)):
        folder = outs / "per_sample_outs" / sample / "count/sample_filtered_feature_bc_matrix"
        write_mtx(folder, make_counts(5, 3, seed=seed))
    seen, others = find_all([tmp_path])
    assert [one.name for one in seen] == ["A", "B"]
    assert len(others) == 3
    for path in others:
        assert f"{outs / 'per_sample_outs'} has the cells" in (tenx_mtx.refusal(path) or "")


def test_a_prefixed_raw_triple_is_left_beside_the_filtered_one(tmp_path: Path) -> None:
    write_mtx(tmp_path, make_counts(9, 3), prefix="GSM1_raw_")
    write_mtx(tmp_path, make_counts(4, 3), prefix="GSM1_filtered_")
    (one,) = found(tmp_path)
    assert one.path.name == "GSM1_filtered_matrix.mtx.gz"
    assert "raw" in (tenx_mtx.refusal(tmp_path / "GSM1_raw_matrix.mtx.gz") or "")


def test_a_xenium_matrix_is_left_to_its_own_reader(tmp_path: Path) -> None:
    folder = write_mtx(tmp_path / "cell_feature_matrix", make_counts(4, 3))
    assert found(folder) == []
    assert "Xenium" in (tenx_mtx.refusal(folder / "matrix.mtx.gz") or "")


def test_a_whole_run_comes_back_out_of_the_corpus(tmp_path: Path) -> None:
    counts = make_counts(40, 10) + np.eye(40, 10, dtype=np.int64) * 300
    types = ["Gene Expression"] * 9 + ["Antibody Capture"]
    outs = tmp_path / "donor1/outs"
    write_mtx(outs / "filtered_feature_bc_matrix", counts, types=types)
    write_mtx(outs / "raw_feature_bc_matrix", make_counts(50, 10), types=types)
    report = ingest_files([tmp_path / "donor1"], tmp_path / "c.zarr", IngestOptions())
    assert [one.name for one in report.ingested] == ["donor1"]
    assert report.ingested[0].features["protein"] == 1
    obs, names, got = out_of(tmp_path / "c.zarr")
    assert obs.index.tolist() == barcodes(40)
    assert names == [feature(i)[1] for i in range(10)]
    np.testing.assert_array_equal(got, counts)


@pytest.mark.parametrize("order", ["genes", "none"])
def test_other_orders_come_back_out_of_the_corpus_too(tmp_path: Path, order: str) -> None:
    counts = make_counts(40, 8) + np.eye(40, 8, dtype=np.int64) * 9
    write_mtx(tmp_path / "a", counts, order=order)
    ingest_files([tmp_path / "a"], tmp_path / "c.zarr", IngestOptions(min_counts=0))
    np.testing.assert_array_equal(out_of(tmp_path / "c.zarr")[2], counts)


def test_estimates_are_refused_as_no_counts(tmp_path: Path) -> None:
    source = opened(write_mtx(tmp_path / "a", make_counts(4, 3) + 0.25, field="real"))
    with pytest.raises(CountsError, match=r"matrix\.mtx\.gz.*not raw counts"):
        list(map(CountCheck(source).add, source.blocks()))


Spoil = Callable[[Path], Path]


def one_barcode_less(folder: Path) -> Path:
    write(folder / "barcodes.tsv.gz", "".join(f"{b}\n" for b in barcodes(5)))
    return folder / "matrix.mtx.gz"


def one_feature_more(folder: Path) -> Path:
    write(folder / "features.tsv.gz", features_text(5))
    return folder / "matrix.mtx.gz"


def names_swapped(folder: Path) -> Path:
    write(folder / "barcodes.tsv.gz", features_text(4))
    write(folder / "features.tsv.gz", "".join(f"{b}\n" for b in barcodes(4)))
    return folder / "matrix.mtx.gz"


def no_names(folder: Path) -> Path:
    return write(folder / "barcodes.tsv.gz", "")


def far_too_many_names(folder: Path) -> Path:
    return write(folder / "barcodes.tsv.gz", "A\n" * 5000)


def gap_in_names(folder: Path) -> Path:
    return write(folder / "barcodes.tsv.gz", "A\nB\n\nD\nE\nF\n")


def names_in_latin_1(folder: Path) -> Path:
    return write(folder / "features.tsv.gz", "E1\tCD3\nE2\tTNF\xe4\n".encode("latin-1"))


def names_in_utf_16(folder: Path) -> Path:
    return write(folder / "barcodes.tsv.gz", "A\nB\nC\nD\nE\nF\n".encode("utf-16"))


def cut_names(folder: Path) -> Path:
    path = folder / "features.tsv.gz"
    path.write_bytes(path.read_bytes()[:-9])
    return path


def cut_matrix(folder: Path) -> Path:
    path = folder / "matrix.mtx.gz"
    path.write_bytes(path.read_bytes()[:-9])
    return path


def terabytes(folder: Path) -> Path:
    text = "%%MatrixMarket matrix coordinate integer general\n2000000000 2000000000 1\n1 1 1\n"
    return write(folder / "matrix.mtx.gz", text)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (one_barcode_less, "4 x 6, but features.tsv.gz has 4 features and barcodes.tsv.gz 5 cells"),
        (one_feature_more, "4 x 6, but features.tsv.gz has 5 features"),
        (names_swapped, "4 x 6, but features.tsv.gz has 4 features and barcodes.tsv.gz 4 cells"),
        (no_names, "barcodes.tsv.gz 0 cells"),
        (far_too_many_names, "more names than matrix.mtx.gz has"),
        (gap_in_names, "line 3 is empty"),
        (names_in_latin_1, "not UTF-8"),
        (names_in_utf_16, "not UTF-8"),
        (cut_names, "ends in the middle"),
        (cut_matrix, "ends in the middle"),
        (terabytes, "2000000000 x 2000000000, but"),
    ],
)
def test_what_does_not_fit_together_is_told(tmp_path: Path, spoil: Spoil, words: str) -> None:
    folder = write_mtx(tmp_path / "a", make_counts(6, 4) + 1)
    named = spoil(folder)
    with pytest.raises(InputError, match=words) as caught:
        list(opened(folder).blocks())
    assert str(named) in str(caught.value) or named.name in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", ["barcodes.tsv.gz", "features.tsv.gz", "matrix.mtx.gz"])
def test_a_folder_without_one_of_the_three_says_so(tmp_path: Path, lost: str) -> None:
    folder = write_mtx(tmp_path / "a", make_counts(6, 4))
    (folder / lost).unlink()
    assert found(folder) == []
    for path in folder.iterdir():
        reason = tenx_mtx.refusal(path) or ""
        assert str(path) in reason
        assert ("no .mtx file" in reason) == (path.name != "matrix.mtx.gz")


def test_two_matrices_for_one_list_of_names_are_not_guessed(tmp_path: Path) -> None:
    folder = write_mtx(tmp_path / "a", make_counts(6, 4), gz=False)
    (folder / "matrix.mtx").rename(folder / "counts.mtx")
    write(folder / "umis.mtx", mtx_text(make_counts(6, 4)))
    assert found(folder) == []
    assert "one matrix for them" in (tenx_mtx.refusal(folder / "umis.mtx") or "")


def test_other_files_have_no_reason(tmp_path: Path) -> None:
    assert tenx_mtx.refusal(tmp_path / "picture.png") is None
    assert tenx_mtx.refusal(tmp_path / "cells.csv") is None


def truth(matrix: Path) -> NDArray[Any]:
    return np.asarray(sp.coo_matrix(scipy.io.mmread(matrix)).toarray()).T


@needs_shared
@pytest.mark.parametrize(
    ("folder", "name", "shape", "total"),
    [
        ("scanpy/10x_data/int-ids", "int-ids", (5, 6), 8),
        ("scanpy/10x_data/1.2.0/filtered_gene_bc_matrices/hg19_chr21", "1.2.0", (12, 343), 12),
        ("scanpy/10x_data/3.0.0/filtered_feature_bc_matrix", "3.0.0", (1107, 507), 41549),
        ("monocle3-cr2/cr2.0/outs/filtered_gene_bc_matrices/hg19", "cr2.0", (80, 240), 23110),
        ("seurat/cr3.0", "cr3.0", (5, 5), 80147),
    ],
)
def test_real_folders_give_all_their_counts(
    folder: str, name: str, shape: tuple[int, int], total: int
) -> None:
    (one,) = found(TINY / folder)
    assert one.name == name
    source = tenx_mtx.open_source(one, ReadOptions())
    assert (source.n_obs, source.n_vars) == shape
    got = matrix_of(source)
    assert got.sum() == total
    np.testing.assert_array_equal(got, truth(one.path))
    lines = one.files[1].read_bytes()
    lines = gzip.decompress(lines) if lines[:2] == b"\x1f\x8b" else lines
    assert source.obs.index.tolist() == lines.decode().split()


@needs_shared
def test_a_real_folder_of_prefixed_and_damaged_files() -> None:
    folder = TINY / "scp-ingest/mtx"
    by_name = {one.name: one for one in found(folder)}
    assert sorted(by_name) == [
        "AB_toy_data_toy", "one_column_feature_file_data_models", "raw_count", "scp-ingest",
    ]  # fmt: skip
    source = tenx_mtx.open_source(by_name.pop("scp-ingest"), ReadOptions())
    np.testing.assert_array_equal(matrix_of(source), truth(folder / "matrix.mtx"))
    for one in by_name.values():
        with pytest.raises(InputError, match="cut off|more than it has places"):
            list(tenx_mtx.open_source(one, ReadOptions()).blocks())
    assert "'%%MatrixMarket' was expected" in (tenx_mtx.refusal(folder / "sorted_matrix.mtx") or "")


@needs_shared
def test_a_real_mouse_folder_with_prefixed_names(tmp_path: Path) -> None:
    with zipfile.ZipFile(SHARED / "sc-dixit-bmdc-mm10/mm10.zip") as archive:
        archive.extractall(tmp_path)
    (one,), _ = find_all([tmp_path])
    source = tenx_mtx.open_source(one, ReadOptions())
    assert (source.name, source.n_obs, source.n_vars) == ("mm10", 1310, 27998)
    assert source.var.index[0] == "mm10_Xkr4"
    np.testing.assert_array_equal(matrix_of(source), truth(one.path))
    report = ingest_files([tmp_path / "mm10"], tmp_path / "c.zarr", IngestOptions())
    (told,) = report.ingested
    assert (told.species, told.n_obs) == ("mouse", 1310)
    assert told.features["gene"] > 27_900
