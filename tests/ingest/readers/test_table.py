from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellplm.errors import InputError
from cellplm.ingest.counts import CountCheck
from cellplm.ingest.readers import rows, table, textfile
from cellplm.ingest.source import ReadOptions, Source
from tests.ingest.make import GENES, dense, make_counts, write_text
from tests.shared import SHARED, needs_shared

CELLS = [f"cell_{i}" for i in range(5)]


def opened(folder: Path) -> Source:
    (one,) = table.find(sorted(folder.iterdir()))
    return table.open_source(one, ReadOptions())


def write(
    path: Path, across: list[str], down: list[str], values: np.ndarray, *, sep: str = ",",
    corner: str | None = "", quote: str = "",
) -> Path:  # fmt: skip
    head = [f"{quote}{name}{quote}" for name in across]
    if corner is not None:
        head = [f"{quote}{corner}{quote}", *head]
    rows = [
        sep.join([f"{quote}{name}{quote}", *map(str, row)])
        for name, row in zip(down, values.tolist(), strict=True)
    ]
    return write_text(path, "\n".join([sep.join(head), *rows]) + "\n")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(
    genes_down=st.booleans(),
    sep=st.sampled_from([",", "\t", ";", " "]),
    corner=st.sampled_from(["", "gene", None]),
    quote=st.sampled_from(["", '"']),
    gz=st.booleans(),
    seed=st.integers(0, 9),
)
def test_either_orientation_and_any_spelling_give_the_same_matrix(
    tmp_path: Path, genes_down: bool, sep: str, corner: str | None, quote: str, gz: bool, seed: int
) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    if sep == " " and corner == "" and not quote:
        corner = "gene"
    counts = make_counts(len(CELLS), len(GENES), seed=seed)
    path = tmp_path / ("m.csv.gz" if gz else "m.csv")
    if genes_down:
        write(path, CELLS, list(GENES), counts.T, sep=sep, corner=corner, quote=quote)
    else:
        write(path, list(GENES), CELLS, counts, sep=sep, corner=corner, quote=quote)
    source = opened(tmp_path)
    assert source.obs.index.tolist() == CELLS
    assert source.var.index.tolist() == list(GENES)
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_small_blocks_make_the_same_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = make_counts(300, len(GENES))
    write(tmp_path / "m.csv", list(GENES), [f"cell_{i}" for i in range(300)], counts)
    monkeypatch.setattr(rows, "BUFFER_BYTES", 256)
    source = opened(tmp_path)
    assert len(list(source.blocks())) > 3
    np.testing.assert_array_equal(dense(source.blocks(), counts.shape), counts)


def test_positions_and_areas_go_to_obs(tmp_path: Path) -> None:
    values = np.hstack([np.arange(15.0).reshape(5, 3), make_counts(5, len(GENES))])
    write(tmp_path / "m.csv", ["x_centroid", "y_centroid", "area", *GENES], CELLS, values)
    source = opened(tmp_path)
    assert source.modality == "srt"
    assert source.obs.columns.tolist() == ["x_centroid", "y_centroid", "area"]
    assert source.var.index.tolist() == list(GENES)
    np.testing.assert_array_equal(source.coords_um, values[:, :2].astype(np.float32))
    np.testing.assert_array_equal(dense(source.blocks(), (5, len(GENES))), values[:, 3:])


def test_metadata_of_the_same_name_are_joined_by_cell(tmp_path: Path) -> None:
    write(tmp_path / "a.count.csv", CELLS, list(GENES), make_counts(len(GENES), 5), corner=None)
    rows = [f'"{cell}",{i},"t{i}"' for i, cell in enumerate(CELLS)]
    write_text(tmp_path / "a.metadata.csv", "\n".join(['"n","type"', *reversed(rows)]))
    source = opened(tmp_path)
    assert source.name == "a"
    assert source.obs["type"].tolist() == ["t0", "t1", "t2", "t3", "t4"]
    assert "by name (5 of 5 cells)" in source.warnings[0]


def test_labels_without_cell_names_are_joined_by_position(tmp_path: Path) -> None:
    write(tmp_path / "H1_Data.csv", CELLS, list(GENES), make_counts(len(GENES), 5), quote='"')
    labels = [f'"{i + 1}","t{i}"' for i in range(5)]
    write_text(tmp_path / "H1_Labels.csv", "\n".join(['"","x"', *labels]))
    write_text(tmp_path / "H1_Gene_Ann.csv", '"","x"\n"1","CD3E"\n"2","LYZ"\n')
    source = opened(tmp_path)
    names = ["H1_Data.csv", "H1_Gene_Ann.csv", "H1_Labels.csv"]
    assert [path.name for path in source.files] == names
    assert source.obs["label"].tolist() == ["t0", "t1", "t2", "t3", "t4"]
    assert "by position" in source.warnings[0]


def test_labels_of_another_number_of_cells_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    write(tmp_path / "H1_Data.csv", CELLS, list(GENES), make_counts(len(GENES), 5))
    write_text(tmp_path / "H1_Labels.csv", '"","x"\n"1","a"\n"2","b"\n')
    source = opened(tmp_path)
    assert source.obs.columns.tolist() == []
    assert "left out" in source.warnings[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty file"),
        ("gene,a,b\n", "a single line"),
        ("just\nwords\n", "do not divide"),
        ("1.5,2.5\n3.5,4.5\n", "line holds numbers"),
        ("gene,a,b\nCD3E,1,2\nLYZ,x,4\n", "row 'LYZ', column 'a' holds 'x'"),
        ("gene,a,b\nCD3E,1,2\nLYZ,,4\n", "row 'LYZ', column 'a' holds ''"),
        ("cell,x,y\nc1,1,2\nc2,3,4\n", "genes are on neither axis"),
        ("a,b,c,d\nCD3E,1\nLYZ,2\n", "the header has 4 fields, the first row 2"),
    ],
)
def test_what_is_no_matrix_is_not_claimed_and_the_reason_is_told(
    tmp_path: Path, text: str, words: str
) -> None:
    path = write_text(tmp_path / "m.csv", text)
    assert table.find([path]) == []
    reason = table.refusal(path)
    assert reason is not None
    assert words in reason
    assert str(path) in reason


def late(text: bytes, n: int = 4000) -> bytes:
    """A matrix that goes bad only after the lines that `find` looks at."""
    good = [f"{GENES[i % len(GENES)]},{i},{i * 7919 % 10007}" for i in range(n)]
    return "\n".join(["gene,a,b", *good, ""]).encode() + text


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("m.csv", late(b"LYZ,1\n"), r"line 4002 \(row 'LYZ'\) has 2 fields, 3 were expected"),
        ("m.csv", late(b"LYZ,1,2,3\n"), "has 4 fields, 3 were expected"),
        ("m.csv", late(b"LYZ,1,many\n"), r"row 'LYZ' \(line 4002\), column 'b': 'many'"),
        ("m.csv", late(b"LYZ,1,\n"), "column 'b': '' is not a number"),
        ("m.csv", late(b"LYZ,NA,1\n"), "column 'a': 'NA' is not a number"),
        ("m.csv", late(b"L\xfc,1,1\n"), "not UTF-8 text"),
        pytest.param(
            "m.csv.gz", gzip.compress(late(b""))[:-999], "gzip|cut|Truncated", id="cut gzip"
        ),
    ],
)
def test_a_fault_further_down_is_named_with_its_place(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        list(opened(tmp_path).blocks())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes("gene,a\nCD3E,1\n".encode("utf-16"))
    assert table.find([path]) == []
    assert "UTF-8" in (table.refusal(path) or "")


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfile, "MAX_LINE", 100)
    path = write_text(tmp_path / "m.csv", "gene,a\n" + "1," * 500)
    assert table.find([path]) == []
    assert "a line of more than" in (table.refusal(path) or "")


def test_other_files_have_no_reason(tmp_path: Path) -> None:
    assert table.refusal(tmp_path / "picture.png") is None


@needs_shared
@pytest.mark.parametrize(
    ("folder", "name", "shape", "total", "column"),
    [
        ("sc-mixology-3cl", "sc_celseq2", (274, 28204), 10321416, "cell_line"),
        ("sc-mixology-3cl", "sc_dropseq", (225, 15127), 5830998, "cell_line"),
        ("sc-baron-h1", "Baron_H1", (1937, 20125), 11244731, "label"),
    ],
)
def test_real_tables_come_with_their_labels(
    folder: str, name: str, shape: tuple[int, int], total: int, column: str
) -> None:
    found = [one for one in table.find(sorted((SHARED / folder).iterdir())) if one.name == name]
    source = table.open_source(found[0], ReadOptions())
    assert (source.n_obs, source.n_vars) == shape
    assert source.obs[column].notna().all()
    check = CountCheck(source)
    assert sum(int(check.add(block).data.sum()) for block in source.blocks()) == total


@needs_shared
def test_float_noise_of_a_real_table_is_rounded() -> None:
    source = opened(SHARED / "sc-celltypist-sample")
    assert (source.n_obs, source.n_vars) == (559, 32786)
    check = CountCheck(source)
    assert sum(int(check.add(block).data.sum()) for block in source.blocks()) == 3619954
    assert check.n_rounded > 100_000


@needs_shared
@pytest.mark.parametrize(
    ("folder", "words"), [("sc-pollen-tpm", "TPM"), ("sc-oligodendroglioma", "non-integer")]
)
def test_real_tables_without_counts_are_refused(folder: str, words: str) -> None:
    source = opened(SHARED / folder)
    check = CountCheck(source)
    with pytest.raises(InputError, match=words):
        list(map(check.add, source.blocks()))
