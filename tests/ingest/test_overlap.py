"""The same cells in two data sets are reported, and chance is not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.corpus.schema import Modality
from cellplm.ingest import content
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.harmonise import harmonise
from cellplm.ingest.overlap import (
    BARCODES,
    SPOT_BARCODES,
    Cells,
    Overlap,
    Repeats,
    cells_of,
    compare,
    overlaps,
    prints,
    repeats,
)
from tests.ingest.make import cell_sums
from tests.make import make_adata, make_corpus, vocabulary_genes, write_h5ad
from tests.shared import SHARED, needs_shared


def cells(
    counts: NDArray[Any],
    names: list[str] | None = None,
    *,
    genes: list[str] | None = None,
    modality: Modality = "scrna",
    data_set: str = "other",
) -> Cells:
    matrix = sp.csr_matrix(counts.astype(np.uint32))
    matrix.eliminate_zeros()
    hashes = content.gene_hashes(genes or vocabulary_genes(counts.shape[1]))
    return Cells(
        data_set=data_set,
        cell_hash=cell_sums(matrix.indptr.astype(np.int64), matrix.indices, matrix.data, hashes),
        totals=counts.sum(axis=1),
        names=pd.Index(names or [str(i) for i in range(len(counts))]),
        modality=modality,
    )


def found_in(new: Cells, others: list[Cells]) -> list[Overlap]:
    mine = prints(new)
    return [each for other in others for each in compare(mine, prints(other))]


def random_counts(n_obs: int, *, seed: int, n_vars: int = 60, mean: float = 1.0) -> NDArray[Any]:
    return np.random.default_rng(seed).poisson(mean, (n_obs, n_vars))


def barcodes(n: int, *, of: int = BARCODES, seed: int = 0, end: str = "-1") -> list[str]:
    """n names from a list of barcodes."""
    drawn = np.random.default_rng(seed).choice(of, n, replace=False)
    letters = ["".join("ACGT"[(k >> 2 * i) & 3] for i in range(16)) for k in drawn.tolist()]
    return [name + end for name in letters]


def test_equal_counts_are_found_whatever_the_names_and_the_order() -> None:
    counts = random_counts(50, seed=0)
    new = cells(np.concatenate([random_counts(30, seed=1), counts[20:]]))
    (found,) = found_in(new, [cells(counts[::-1])])
    assert found == Overlap(
        part="other", n_same_counts=30, n_same_names=0, n_of_new=60, n_of_part=50
    )
    assert found.most
    assert found.sentence() == (
        "30 of 60 cells have exactly the counts of cells of 'other' (50 cells)"
    )


def test_cells_of_few_counts_are_alike_by_chance() -> None:
    few = np.zeros((200, 60), dtype=np.int64)
    few[np.arange(200), np.arange(200) % 60] = 1 + np.arange(200) // 60
    assert found_in(cells(few), [cells(few)]) == []


def test_counts_that_many_cells_have_say_nothing() -> None:
    common = np.tile(random_counts(1, seed=0), (40, 1))
    counts = np.concatenate([common, random_counts(20, seed=1)])
    (found,) = found_in(cells(counts), [cells(counts)])
    assert found.n_same_counts == 20


def test_up_to_three_matches_are_not_reported() -> None:
    counts, other = random_counts(30, seed=0), random_counts(40, seed=1)
    for n in (1, 3, 4):
        mixed = np.concatenate([counts[:n], other])
        assert len(found_in(cells(mixed), [cells(counts)])) == (n > 3)


def test_empty_cells_are_no_match() -> None:
    empty = np.zeros((20, 60), dtype=np.int64)
    assert found_in(cells(empty), [cells(empty)]) == []


@pytest.mark.parametrize(
    "form",
    [
        "{}", "cell{}", "cell_{}", "Cell-{}", "CELL_{:06d}", "c_1_{}", "spot {}", "A{}", "x{}",
        "{}x{}", "fov_3_cell_{}", "s_002um_00001_{:05d}-1", "well_AAACCTG_{}", "{}.0", "R1_{}",
    ],
)  # fmt: skip
def test_names_that_only_number_cells_say_nothing(form: str) -> None:
    names = [form.format(i, i) for i in range(300)]
    new, part = (cells(random_counts(300, seed=seed), names) for seed in (0, 1))
    assert found_in(new, [part]) == []


def test_xenium_counts_in_letters() -> None:
    names = [f"aaaa{a}{b}{c}{d}-1" for a in "abcd" for b in "abcd" for c in "abcd" for d in "mnop"]
    new, part = (cells(random_counts(len(names), seed=seed), names) for seed in (0, 1))
    assert found_in(new, [part]) == []


@pytest.mark.parametrize(
    "form",
    [
        "human1_lib1.final_cell_{:04d}", "GSM2230757-{}", "Lung5_Rep3_16_{}",
        "11088342476461192440022163991{:010d}", "9d4d9078-6c7d-42c6-8402-7c95f3f{:05d}",
    ],
)  # fmt: skip
def test_names_that_say_more_are_found(form: str) -> None:
    names = [form.format(i) for i in range(100)]
    new = cells(random_counts(60, seed=0), names[:60])
    part = cells(random_counts(90, seed=1), names[10:])
    (found,) = found_in(new, [part])
    assert (found.n_same_counts, found.n_same_names) == (0, 50)
    assert found.sentence() == "50 of 60 cells have the names of cells of 'other' (90 cells)"


def test_dots_that_r_made_of_hyphens_do_not_hide_names() -> None:
    names = [f"liver-a-{i}" for i in range(20)]
    new = cells(random_counts(20, seed=0), names)
    part = cells(random_counts(20, seed=1), [name.replace("-", ".") for name in names])
    assert found_in(new, [part])[0].n_same_names == 20


def test_both_counts_and_names_are_told() -> None:
    counts = random_counts(20, seed=0)
    new = cells(counts, [f"liver_a_{i}" for i in range(20)])
    part = cells(counts[:12], [f"liver_a_{i}" for i in range(10, 22)])
    (found,) = found_in(new, [part])
    assert found.sentence() == (
        "12 of 20 cells have exactly the counts, and 10 the names, of cells of 'other' (12 cells)"
    )


@pytest.mark.parametrize("seed", range(5))
def test_barcodes_of_two_runs_meet_by_chance(seed: int) -> None:
    n = 20_000
    one, other = barcodes(n, seed=seed), barcodes(n, seed=100 + seed)
    assert len(set(one) & set(other)) > 400
    counts = np.full((n, 1), 20)
    assert found_in(cells(counts, one), [cells(counts, other)]) == []


def test_more_shared_barcodes_than_chance_are_reported() -> None:
    one, other = barcodes(1000, seed=0), barcodes(1556, seed=1)
    mixed = [*one[:55], *other[55:]]
    found = found_in(cells(random_counts(1000, seed=0), one), [cells(np.ones((1556, 1)), mixed)])
    assert found[0].n_same_names >= 55
    assert not found[0].most


def test_barcodes_beside_different_words_do_not_meet() -> None:
    one = barcodes(500, seed=0)
    new = cells(random_counts(500, seed=0), [f"donor1_{name}" for name in one])
    part = cells(random_counts(500, seed=1), [f"donor2_{name}" for name in one])
    assert found_in(new, [part]) == []


def test_the_barcodes_of_spots_are_few_and_meet_often() -> None:
    one, other = (barcodes(2000, of=SPOT_BARCODES, seed=seed) for seed in (0, 1))
    assert len(set(one) & set(other)) > 500
    counts = np.full((2000, 1), 20)
    assert found_in(cells(counts, one, modality="srt"), [cells(counts, other)]) == []
    same = found_in(cells(counts, one, modality="srt"), [cells(counts, one)])
    assert same[0].n_same_names == 2000


def test_repeats_within_a_data_set_are_counted() -> None:
    counts = random_counts(10, seed=0)
    counts[9] = 0
    counts[8] = counts[0]
    counts[7] = counts[0]
    names = [*"abcdefgh", "a", "a"]
    found = repeats(cells(counts, names))
    assert found == Repeats(n_same_names=2, n_same_counts=2)
    assert found.sentences() == [
        "2 cells have the name of an earlier cell",
        "2 cells have exactly the counts of an earlier cell (cells of 10 counts or more)",
    ]
    assert repeats(cells(counts[:7])).sentences() == []


def test_parts_of_a_corpus_are_compared_one_by_one(tmp_path: Path) -> None:
    first, second = make_adata(seed=0), make_adata(seed=1)
    first.obs_names = [f"liver_a_{i}" for i in range(100)]
    corpus = make_corpus(tmp_path, first, second)
    new = cells(first.X.toarray()[:40], [f"liver_a_{i}" for i in range(40)])
    assert overlaps(corpus, [prints(new)])[0] == [
        Overlap(part="set0", n_same_counts=40, n_same_names=40, n_of_new=40, n_of_part=100)
    ]
    stored = cells_of(corpus.parts[0])
    assert sorted(stored.names) == sorted(first.obs_names)
    assert sorted(stored.totals) == sorted(first.X.toarray().sum(axis=1))


def taken_in(folder: Path, *paths: str) -> Corpus:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata, about old files
        ingest_files([SHARED / path for path in paths], folder / "c.zarr")
    return Corpus.open(folder / "c.zarr")


@needs_shared
def test_the_pancreas_set_has_42_cells_of_baron(tmp_path: Path) -> None:
    corpus = taken_in(
        tmp_path, "sc-baron-h1/Baron_H1_Data.csv.gz", "sc-pancreas-cider/pancreas.converted.h5ad"
    )
    baron, pancreas = (cells_of(part) for part in corpus.parts)
    # The gene sets differ, so no cell has the same counts.
    (found,) = found_in(pancreas, [baron])
    assert (found.n_same_counts, found.n_same_names) == (0, 42)
    assert found.sentence() == (
        f"42 of 350 cells have the names of cells of {baron.data_set!r} (1,937 cells)"
    )
    assert repeats(pancreas) == Repeats(n_same_names=0, n_same_counts=22)
    assert repeats(baron).sentences() == []


@needs_shared
def test_the_two_osmfish_files_overlap(tmp_path: Path) -> None:
    (part,) = taken_in(tmp_path, "srt-osmfish-h5ad/smfish.h5ad").parts
    with h5py.File(
        SHARED / "srt-osmfish-loom" / "osmFISH_SScortex_mouse_all_cells.loom"
    ) as file:  # fmt: skip
        counts = file["matrix"][:].T
        genes = [name.decode() for name in file["row_attrs/Gene"][:]]
        names = file["col_attrs/CellID"][:].astype(str).tolist()
    ids = harmonise(pd.DataFrame(index=genes), species=None, index=GeneIndex.bundled()).gene_id
    loom = cells(counts, names, genes=list(ids), modality="srt")
    (found,) = found_in(loom, [cells_of(part)])
    assert found.n_same_names == 0  # "778" and the like
    assert found.n_same_counts > 4_500
    (back,) = found_in(cells_of(part), [loom])
    assert (back.n_same_counts, back.n_of_new) == (4_523, 4_530)
    assert back.most
    assert repeats(loom).n_same_counts == 531


@needs_shared
def test_the_kang_files_share_barcodes(tmp_path: Path) -> None:
    corpus = taken_in(
        tmp_path,
        "sc-kang-muscat/example_sce.converted.h5ad",
        "sc-kang-ifnb-1k/pbmc.ctrl.converted.h5ad",
        "sc-kang-ifnb-1k/pbmc.stim.converted.h5ad",
    )
    muscat, ctrl, stim = (cells_of(part) for part in corpus.parts)
    assert [each.n_same_names for each in found_in(muscat, [ctrl, stim])] == [55, 59]
    assert found_in(ctrl, [stim]) == []


@needs_shared
def test_two_regions_of_one_slide_do_not_overlap(tmp_path: Path) -> None:
    corpus = taken_in(tmp_path, "srt-xenium-breast-crops")
    one, other = (cells_of(part) for part in corpus.parts)
    assert found_in(one, [other]) == []


def test_hashes_agree_with_those_that_are_stored(tmp_path: Path) -> None:
    adata = make_adata()
    (part,) = make_corpus(tmp_path, adata).parts
    stored = ad.io.read_zarr(part.path).obs
    made = cells(adata.X.toarray(), genes=list(adata.var_names)).cell_hash
    assert np.array_equal(stored["cell_hash"].to_numpy(), made[stored["source_row"].to_numpy()])


def test_the_report_tells_of_the_corpus_and_of_the_sets_before(tmp_path: Path) -> None:
    adata = make_adata(samples=(300,), n_genes=200, mean=3.0)
    half = adata[:200].copy()
    third = adata[150:].copy()
    third.obs_names = [f"other_{name}" for name in third.obs_names]
    for name, part in (("all", adata), ("half", half), ("third", third)):
        write_h5ad(tmp_path / f"{name}.h5ad", part)
    out = tmp_path / "c.zarr"
    ingest_files([tmp_path / "all.h5ad"], out)
    both = [tmp_path / "half.h5ad", tmp_path / "third.h5ad"]
    planned = ingest_files(both, out, dry_run=True).ingested
    done = ingest_files(both, out).ingested
    assert [each.warnings for each in planned] == [each.warnings for each in done]
    assert any("200 of 200 cells" in w and "'all' (300 cells)" in w for w in done[0].warnings)
    assert any("150 of 150 cells" in w and "'all' (300 cells)" in w for w in done[1].warnings)
    assert any("50 of 150 cells" in w and "'half' (200 cells)" in w for w in done[1].warnings)
