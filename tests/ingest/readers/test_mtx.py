from __future__ import annotations

import gzip
import io
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.readers import mtx, mtx_entries
from cellplm.ingest.readers.mtx_entries import read_header
from cellplm.ingest.source import Axis, Block
from tests.ingest.make import CountCheck, dense, make_counts, make_source
from tests.ingest.make_tenx import Order, mtx_text, write

tmp_is_shared = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


def read(path: Path, *, rows: Axis = "var") -> list[Block]:
    return list(mtx.blocks(read_header(path), rows=rows))


def read_or_told(path: Path, *, rows: Axis = "var") -> tuple[list[Block], str]:
    try:
        return read(path, rows=rows), ""
    except InputError as error:
        return [], str(error)


def matrix_of(path: Path, shape: tuple[int, int], *, rows: Axis = "var") -> NDArray[np.float64]:
    return dense(iter(read(path, rows=rows)), shape)


@tmp_is_shared
@given(
    order=st.sampled_from(["cells", "genes", "none"]),
    transposed=st.booleans(),
    field=st.sampled_from(["integer", "real"]),
    gz=st.booleans(),
    n_cells=st.integers(1, 9),
    n_genes=st.integers(1, 9),
    block=st.integers(1, 40),
    chunk=st.integers(1, 60),
)
def test_blocks_of_any_order_and_size_make_the_matrix(
    tmp_path: Path,
    order: Order,
    transposed: bool,
    field: str,
    gz: bool,
    n_cells: int,
    n_genes: int,
    block: int,
    chunk: int,
) -> None:
    counts = make_counts(n_cells, n_genes, seed=n_cells * 10 + n_genes)
    path = tmp_path / ("m.mtx.gz" if gz else "m.mtx")
    write(path, mtx_text(counts, order=order, transposed=transposed, field=field))
    with pytest.MonkeyPatch.context() as patch:
        # An order that breaks behind the first block is another test's.
        nnz = int(np.count_nonzero(counts))
        patch.setattr(mtx, "BLOCK_VALUES", max(block, nnz // 2) if order == "none" else block)
        patch.setattr(mtx_entries, "CHUNK", chunk)
        rows: Axis = "obs" if transposed else "var"
        blocks, told = read_or_told(path, rows=rows)
    if order == "none" and "in one order" in told:  # its first half happened to be in order
        return
    assert told == ""
    np.testing.assert_array_equal(dense(iter(blocks), counts.shape), counts)
    assert {b.data.dtype for b in blocks} == {np.dtype("i8" if field == "integer" else "f8")}


def test_the_axis_of_the_blocks_is_the_order_of_the_file(tmp_path: Path) -> None:
    counts = make_counts(30, 20)
    for order, axis in (("cells", "obs"), ("genes", "var"), ("none", "obs")):
        path = write(tmp_path / f"{order}.mtx", mtx_text(counts, order=order))  # type: ignore[arg-type]
        assert {block.axis for block in read(path)} == {axis}


def test_a_file_in_no_order_is_sorted_through_a_file_in_bounded_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = make_counts(200, 30, seed=3)
    counts[5] = 0
    counts[100:150] = 0
    counts[7] = 9  # a cell with more values than a block
    path = write(tmp_path / "m.mtx", mtx_text(counts, order="none"))
    monkeypatch.setattr(mtx, "BLOCK_VALUES", 25)
    blocks = read(path)
    assert len(blocks) > 50
    assert sorted(block.data.size for block in blocks)[-2] <= 25
    np.testing.assert_array_equal(dense(iter(blocks), counts.shape), counts)


def test_sorting_without_room_says_where_and_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "m.mtx", mtx_text(make_counts(50, 30), order="none"))
    monkeypatch.setattr(mtx, "BLOCK_VALUES", 25)
    full = type(shutil.disk_usage(tmp_path))(100, 90, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(InputError, match=r"m\.mtx: its entries are in no order, .*TMPDIR"):
        read(path)


def test_an_order_that_breaks_late_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = make_counts(60, 8) + 1
    lines = mtx_text(counts).splitlines(keepends=True)
    lines = [*lines[:-1], lines[-1].replace(" 60 ", " 3 ")]
    path = write(tmp_path / "m.mtx", "".join(lines))
    monkeypatch.setattr(mtx, "BLOCK_VALUES", 100)
    with pytest.raises(
        InputError, match=r"order of its cells up to entry 479 \(cell 60\), but cell 3 follows"
    ):
        read(path)


@tmp_is_shared
@given(st.lists(st.floats() | st.integers(-(2**70), 2**70), min_size=1, max_size=20), st.data())
def test_a_real_value_is_what_python_reads(
    tmp_path: Path, values: list[float], data: st.DataObject
) -> None:
    form = st.sampled_from(["{!r}", "{:.3f}", "{:+.17e}", "{:.6E}", "{:.0f}.", "{:.30g}"])
    forms = [data.draw(form) if np.isfinite(float(value)) else "{!r}" for value in values]
    texts = [form.format(float(value)) for form, value in zip(forms, values, strict=True)]
    body = "".join(f"1 {i + 1} {text}\n" for i, text in enumerate(texts))
    path = write(
        tmp_path / "m.mtx",
        f"%%MatrixMarket matrix coordinate real general\n1 {len(texts)} {len(texts)}\n{body}",
    )
    got = np.concatenate([block.data for block in read(path)])
    np.testing.assert_array_equal(got, [float(text) for text in texts])


def test_more_inexact_values_than_are_parsed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).random((7, 40))
    monkeypatch.setattr(mtx_entries, "INEXACT_AT_ONCE", 3)
    path = write(tmp_path / "m.mtx", mtx_text(values, field="real"))
    np.testing.assert_array_equal(matrix_of(path, values.shape), values)


def by_scipy(file: Path | io.BytesIO) -> NDArray[Any]:
    return np.asarray(sp.coo_matrix(scipy.io.mmread(file)).toarray())


@pytest.mark.parametrize("field", ["integer", "real"])
def test_scipy_and_we_read_the_same(tmp_path: Path, field: Literal["integer", "real"]) -> None:
    counts = np.random.default_rng(1).random((40, 30)) * (make_counts(40, 30) > 1)
    counts = np.rint(counts * 1000) if field == "integer" else counts
    path = tmp_path / "m.mtx"
    scipy.io.mmwrite(path, sp.coo_matrix(counts), field=field)
    truth = by_scipy(path)
    np.testing.assert_array_equal(matrix_of(path, (30, 40)), truth.T)
    np.testing.assert_array_equal(matrix_of(path, (40, 30), rows="obs"), truth)


HEAD = "%%MatrixMarket matrix coordinate integer general\n"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "2 3 2\n1 1 5\n2 3 7\n",
        HEAD + "2 3 2\n1 1 5\n2 3 7",
        HEAD + "2 3 2\n\n1 1 5\n   \n2 3 7\n\n\n",
        HEAD + "%\n%metadata_json: {}\n\n2  3\t2 \n1\t1\t5\n 2  3  7 \n",
        (HEAD + "2 3 2\n1 1 5\n2 3 7\n").replace("\n", "\r\n"),
        (HEAD + "2 3 2\n1 1 5\n2 3 7\n").replace("integer", "Integer").replace("matrix", "MATRIX"),
        HEAD + "2 3 2\n001 1 +5\n2 3 0007\n",
        "\ufeff" + HEAD + "2 3 2\n1 1 5\n2 3 7\n",
        (HEAD + "2 3 2\n1 1 5.0\n2 3 7e0\n").replace("integer", "real"),
        (HEAD + "2 3 2\n1 1 .5e+1\n2 3 70.E-01\n").replace("integer", "real"),
    ],
)
def test_spellings_of_one_matrix(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "m.mtx", text)
    np.testing.assert_array_equal(matrix_of(path, (3, 2)), [[5, 0], [0, 0], [0, 7]])


def test_a_matrix_without_entries_is_all_zeros(tmp_path: Path) -> None:
    path = write(tmp_path / "m.mtx", HEAD + "4 3 0\n")
    (block,) = read(path)
    assert (block.n, block.data.size) == (3, 0)


def test_gzip_is_told_by_content_and_may_have_several_members(tmp_path: Path) -> None:
    counts = make_counts(5, 4)
    text = mtx_text(counts).encode()
    plain, packed, parts = (tmp_path / name for name in ("a.mtx.gz", "b.mtx", "c.mtx.gz"))
    plain.write_bytes(text)
    packed.write_bytes(gzip.compress(text))
    parts.write_bytes(gzip.compress(text[:90]) + gzip.compress(text[90:]))
    for path in (plain, packed, parts):
        np.testing.assert_array_equal(matrix_of(path, counts.shape), counts)


@pytest.mark.parametrize("order", ["cells", "genes", "none"])
def test_repeated_entries_end_in_one_block_and_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Order
) -> None:
    counts = make_counts(20, 6, seed=1) + 1
    counts[:, 0] = 0
    lines = mtx_text(counts, order=order).splitlines()
    row, column, _ = lines[30].split(" ")
    lines.insert(50 if order == "none" else 31, f"{row} {column} 99")
    lines[2] = f"6 20 {len(lines) - 3}"
    path = write(tmp_path / "m.mtx", "\n".join(lines) + "\n")
    monkeypatch.setattr(mtx, "BLOCK_VALUES", 13)
    check = CountCheck(make_source(counts))
    with pytest.raises(InputError, match="has two values"):
        list(map(check.add, read(path)))


def test_one_place_repeated_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "m.mtx", HEAD + "3 400 1000\n" + "1 1 1\n" * 1000)
    monkeypatch.setattr(mtx, "BLOCK_VALUES", 16)
    with pytest.raises(InputError, match=r"its beginning has at least \d+ entries"):
        read(path)


def test_a_cell_with_more_entries_than_places_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = HEAD + "3 400 1002\n2 1 1\n1 1 1\n" + "1 2 1\n" * 1000
    path = write(tmp_path / "m.mtx", text)
    monkeypatch.setattr(mtx, "BLOCK_VALUES", 16)
    with pytest.raises(InputError, match=r"cell 2 has at least 14 entries, but at most 3"):
        read(path)


def test_a_cell_with_more_entries_than_places_is_refused_in_no_order_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = HEAD + "3 400 1002\n2 9 1\n1 1 1\n" + "1 2 1\n" * 1000
    path = write(tmp_path / "m.mtx", text)
    monkeypatch.setattr(mtx, "BLOCK_VALUES", 16)
    with pytest.raises(InputError, match=r"cell 2 has at least 1000 entries, but at most 3"):
        read(path)


def test_a_disk_that_fills_while_sorting_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    path = write(tmp_path / "m.mtx", mtx_text(make_counts(50, 30), order="none"))
    monkeypatch.setattr(mtx, "BLOCK_VALUES", 25)
    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(InputError, match=r"m\.mtx: .*No space left on device.*TMPDIR"):
        read(path)


def test_one_gene_in_more_cells_than_a_block_holds_is_still_told_by_gene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = make_counts(90, 3) + 1
    path = write(tmp_path / "m.mtx", mtx_text(counts, order="genes"))
    monkeypatch.setattr(mtx, "BLOCK_VALUES", 16)
    blocks = read(path)
    assert {block.axis for block in blocks} == {"var"}
    np.testing.assert_array_equal(dense(iter(blocks), counts.shape), counts)


BODY = "2 3 2\n1 1 5\n2 3 7\n"
REAL = HEAD.replace("integer", "real")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "no MatrixMarket file: it starts with ''"),
        ("gene,a,b\nCD3E,1,2\n", "no MatrixMarket file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "no MatrixMarket file"),
        (HEAD.replace("coordinate", "array") + "2 1\n1\n2\n", "'array' is not read, only coord"),
        (HEAD.replace("integer", "pattern") + "2 3 1\n1 1\n", "'pattern' is not read"),
        (HEAD.replace("integer", "complex") + "2 3 1\n1 1 2 0\n", "'complex' is not read"),
        (HEAD.replace("general", "symmetric") + BODY, "'symmetric' is not read, only general"),
        (HEAD.replace("general", "skew-symmetric") + BODY, "'skew-symmetric' is not read"),
        (HEAD.replace("matrix", "vector") + BODY, "'vector' is not read"),
        ("%%MatrixMarket matrix\n" + BODY, "'matrix coordinate integer general' was"),
        (HEAD, "cut off: no line with the size"),
        (HEAD + "%\n" * 600_000 + BODY, "cut off: no line with the size"),
        (HEAD + "2 t 2\n", "the size of the matrix is '2 t 2'"),
        (HEAD + "2 3\n1 1 5\n", "the size of the matrix is '2 3'"),
        (HEAD + "-2 3 1\n1 1 5\n", "the size of the matrix is '-2 3 1'"),
        (HEAD + "2 3 7\n" + "1 1 1\n" * 7, "7 entries, more than it has places"),
        (HEAD + "99999999999 3 1\n1 1 1\n", "at most 2147483647 rows"),
        (HEAD + "99999999 99999999 999999999999\n1 1 1\n", "so many do not fit into"),
        (HEAD + "2 3 2\n1 1 5\n", "so many do not fit into"),
        (HEAD + "2 3 2\n1 1 5000000000\n", "cut off: 1 entries, but its header says 2"),
        (HEAD + "2 3 1\n1 1 5\n2 3 7\n", "more entries than the 1"),
        (HEAD + "2 3 2\n1 1 5\n2 3\n\n\n\n", "line 4 is '2 3'; a row, a column and one integer"),
        (HEAD + "2 3 2\n1 1 5\n2 3 7 1\n", "line 4 is '2 3 7 1'"),
        (HEAD + "2 3 2\n1 1 5\n2,3,7\n", "line 4 is '2,3,7'"),
        (HEAD + "2 3 2\n% a comment too late\n1 1 5\n2 3 7\n", "line 3 is '% a comment too late'"),
        (HEAD + "2 3 2\n1 1 5.5\n2 3 7\n", "line 3 is '1 1 5.5'; .* one integer"),
        (HEAD + "2 3 2\n1 1 99999999999999999999\n2 3 7\n", "line 3 is"),
        (REAL + "2 3 2\n1 1 5\n2 3 seven\n", "line 4 is '2 3 seven'; .* one real"),
        (REAL + "2 3 2\n1 1 1_0\n2 3 7\n", "line 3 is '1 1 1_0'"),
        (REAL + "2 3 2\n1 1 5\n2 3 \n\n\n", "line 4 is '2 3'"),
        (REAL + "2 3 2\n1 1 1e\n2 3 1\n", "line 3 is '1 1 1e'"),
        (REAL + "2 3 2\n1 1 0x1p3\n2 3 1\n", "line 3 is '1 1 0x1p3'"),
        (HEAD + "2 3 2\n0 1 5\n2 3 7\n", "line 3 is '0 1 5': its row is 0; rows count from 1 to 2"),
        (HEAD + "2 3 2\n1 1 5\n3 3 7\n", "line 4 .*: its row is 3"),
        (HEAD + "2 3 2\n1 0 5\n2 3 7\n", "line 3 .*: its column is 0; columns count from 1 to 3"),
        (HEAD + "2 3 2\n1 1 5\n2 4 7\n", "line 4 .*: its column is 4"),
        (HEAD + "2 3 2\n1 -1 5\n2 3 7\n", "line 3 is '1 -1 5'"),
        (HEAD + "2 3 2\n1 1 5\n2 3 7" + " " * 70_000, "a line of more than 65536 bytes"),
    ],
)
@pytest.mark.parametrize("gz", [False, True])
def test_a_damaged_file_is_refused_in_one_line_that_names_it(
    tmp_path: Path, data: str | bytes, words: str, gz: bool
) -> None:
    if gz and "so many do not fit" in words and "99999999" not in str(data):
        words = "cut off: 1 entries, but its header says 2"
    path = write(tmp_path / ("bad.mtx.gz" if gz else "bad.mtx"), data)
    with pytest.raises(InputError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 0xFF, data[at + 1] ^ 0x55]) + data[at + 2 :]


def followed(data: bytes) -> bytes:
    return data + b"and so on, and so on"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(cut, "ends in the middle"), (flipped, "damaged"), (followed, "not gzip")],
)
def test_a_damaged_gzip_is_told_apart(
    tmp_path: Path, spoil: Callable[[bytes], bytes], words: str
) -> None:
    path = tmp_path / "bad.mtx.gz"
    path.write_bytes(spoil(gzip.compress(mtx_text(make_counts(300, 40)).encode(), mtime=0)))
    with pytest.raises(InputError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_fault_far_into_a_file_is_named_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = make_counts(100, 20) + 1
    lines = mtx_text(counts).splitlines()
    lines[1500] = "7 here 1"
    path = write(tmp_path / "m.mtx.gz", "\n".join(lines) + "\n")
    monkeypatch.setattr(mtx, "BLOCK_VALUES", 64)
    monkeypatch.setattr(mtx_entries, "CHUNK", 100)
    with pytest.raises(InputError, match="line 1501 is '7 here 1'"):
        read(path)


@tmp_is_shared
@given(st.integers(0, 2**32), st.sampled_from(["integer", "real"]), st.booleans())
def test_any_bytes_are_a_matrix_or_an_input_error(
    tmp_path: Path, seed: int, field: str, gz: bool
) -> None:
    data = bytearray(mtx_text(make_counts(8, 5), field=field).encode())
    draw = random.Random(seed)
    for _ in range(draw.randrange(1, 6)):
        at = draw.randrange(len(data))
        kind = draw.randrange(3)
        if kind == 0:
            data[at] = draw.choice(b"0123456789 .-+eE\n\r\t%\x00\xff")
        elif kind == 1:
            del data[at : at + draw.randrange(1, 20)]
        else:
            data[at:at] = bytes(draw.choice(b"0123456789 \n.e") for _ in range(5))
    path = write(tmp_path / ("m.mtx.gz" if gz else "m.mtx"), bytes(data))
    blocks, told = read_or_told(path)
    if told:
        assert "\n" not in told
        assert str(path) in told
        return
    header = read_header(path)
    got = dense(iter(blocks), (header.n_columns, header.n_rows))
    assert sum(block.data.size for block in blocks) == header.nnz
    np.testing.assert_array_equal(got, by_scipy(io.BytesIO(bytes(data))).T)
