from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellplm.corpus.reader import Corpus
from cellplm.errors import InputError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.find import find
from cellplm.ingest.options import IngestOptions
from cellplm.ingest.readers import gem, rows
from cellplm.ingest.source import ReadOptions, Source
from tests.ingest.make import dense, write_text
from tests.ingest.make_table import (
    GEM,
    GEM_CELLS,
    GEM_COUNTS,
    GEM_GENES,
    GEM_XY_UM,
    check_message,
    write_gem,
)
from tests.shared import SHARED, needs_shared


def opened(path: Path, options: ReadOptions | None = None) -> Source:
    (one,) = gem.find([path])
    return gem.open_source(one, options or ReadOptions())


@pytest.mark.parametrize("cell", ["CellID", "cell", "label"])
@pytest.mark.parametrize("name", ["chip.gem", "chip.gem.gz"])
@pytest.mark.parametrize("room", [80, 1 << 20])
def test_counts_are_summed_by_cell_and_gene(
    tmp_path: Path, cell: str, name: str, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BUFFER_BYTES", room)
    source = opened(write_gem(tmp_path / name, cell=cell))
    assert (source.name, source.platform, source.modality) == ("chip", "Stereo-seq", "srt")
    assert source.obs.index.tolist() == GEM_CELLS
    assert source.var.index.tolist() == GEM_GENES
    np.testing.assert_array_equal(dense(source.blocks(), GEM_COUNTS.shape), GEM_COUNTS)
    np.testing.assert_array_equal(source.coords_um, GEM_XY_UM)
    assert "2 of 8 rows with cell 0 (outside of cells) were dropped" in source.warnings


def test_names_of_genes_stand_beside_their_ids(tmp_path: Path) -> None:
    source = opened(write_gem(tmp_path / "chip.gem", names=True))
    assert source.var.index.tolist() == GEM_GENES
    assert source.var["feature_id"].tolist() == [f"id_{gene}" for gene in GEM_GENES]


def test_the_pitch_of_the_chip_may_be_given(tmp_path: Path) -> None:
    path = write_gem(tmp_path / "chip.gem")
    source = opened(path, ReadOptions(um_per_unit=0.715))
    expected = (GEM_XY_UM * 2 * 0.715).astype(np.float32)
    np.testing.assert_array_equal(source.coords_um, expected)
    assert opened(path, ReadOptions(modality="scrna")).coords_um is None


def test_a_corpus_gives_back_every_count_and_name(tmp_path: Path) -> None:
    write_gem(tmp_path / "chip.gem.gz")
    found, others = find([tmp_path / "chip.gem.gz"])
    assert ([one.format for one in found], others) == (["gem"], [])
    ingest_files([tmp_path / "chip.gem.gz"], tmp_path / "c.zarr", IngestOptions(min_counts=1))
    adata = Corpus.open(tmp_path / "c.zarr").parts[0].to_anndata()
    assert adata.obs_names.tolist() == GEM_CELLS
    assert adata.var["source_name"].tolist() == GEM_GENES
    np.testing.assert_array_equal(adata.X.toarray(), GEM_COUNTS)
    np.testing.assert_array_equal(adata.obsm["spatial"], GEM_XY_UM)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(
    table=st.lists(
        st.tuples(
            st.sampled_from(["CD3E", "LYZ", "NKG7", "MS4A1"]),
            st.integers(0, 99),
            st.integers(0, 99),
            st.integers(0, 9),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=60,
    ),
    by_gene=st.booleans(),
    room=st.sampled_from([64, 200, 1 << 20]),
    merge=st.sampled_from([1, 7, 1 << 20]),
)
def test_in_any_order_the_sums_are_the_same(
    tmp_path: Path,
    table: list[tuple[str, int, int, int, int]],
    by_gene: bool,
    room: int,
    merge: int,
) -> None:
    if by_gene:
        table.sort()
    path = write_gem(tmp_path / "chip.gem", table)
    cells = sorted({row[4] for row in table} - {0})
    if not cells:
        with pytest.raises(InputError, match="every row has the cell 0"):
            opened(path)
        return
    genes = list(dict.fromkeys(row[0] for row in table))
    counts = np.zeros((len(cells), len(genes)))
    for gene, _, _, n, cell in table:
        if cell:
            counts[cells.index(cell), genes.index(gene)] += n
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BUFFER_BYTES", room)
        patch.setattr(gem, "_MERGE_PAIRS", merge)
        source = opened(path)
        np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)
    assert source.var.index.tolist() == genes
    assert source.obs.index.tolist() == [str(cell) for cell in cells]


HEAD = "geneID\tx\ty\tMIDCounts\tcell\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "geneID\tx\ty\tMIDCounts\nCD3E\t1\t2\t3\n",
            "its rows are places of the chip (bins), not cells: there is no column CellID, cell or",
        ),
        ("gene\ta\tb\nCD3E\t1\t2\n", "no gem file: the columns geneID, x, y and MIDCounts"),
        ("", "empty file"),
        (HEAD, "a single line"),
        (HEAD + "CD3E\t1\t2\t3\t0\n", "every row has the cell 0"),
        (HEAD + "CD3E\t1\t2\t-3\t1\n", "MIDCounts is -3 in row 1; a whole number from 0"),
        (HEAD + "CD3E\t1\t2\t3\t1\nLYZ\t1\t2\t1.5\t1\n", "MIDCounts is 1.5 in row 2"),
        (HEAD + "CD3E\t1\t2\t3\t1\nLYZ\t1\t2\t1\tnan\n", "cell is nan in row 2"),
        (HEAD + "CD3E\t1\t2\t3\t1\nLYZ\t1\t2\t99999999999\t1\n", "MIDCounts is 99999999999"),
        (HEAD + "CD3E\t1\t2\t3\t1\nLYZ\tone\t2\t1\t1\n", "row 'LYZ' (line 3), column 'x': 'one'"),
        (HEAD + "CD3E\t1\t2\t3\t1\nLYZ\t1\t2\t1\n", "line 3 (row 'LYZ') has 4 fields, 5 were"),
    ],
)
def test_what_is_no_matrix_of_cells_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = write_text(tmp_path / "chip.gem", text)
    with pytest.raises(InputError) as caught:
        opened(path)
    assert words in str(caught.value)
    check_message(caught.value, path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_gem(tmp_path / "chip.gem")
    source = opened(path)
    write_gem(path, [*GEM, ("CD4", 1, 1, 1, 7)])
    with pytest.raises(InputError, match="changed while it was read"):
        list(source.blocks())


@needs_shared
def test_a_real_file_of_bins_is_refused() -> None:
    path = SHARED / "formats-tiny" / "bgi-stereoseq" / "SS200000135TL_D1_bin1_small.gem.gz"
    with pytest.raises(InputError, match="its rows are places of the chip"):
        opened(path)
