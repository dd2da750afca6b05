from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.readers import rows, textfile
from cellplm.ingest.readers.delimited import Delimited, is_number, read_small, typed
from tests.ingest.make import dense, write_text
from tests.ingest.make_table import check_message, damaged_gzip

FUZZ = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)


@contextmanager
def buffer_of(n_bytes: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BUFFER_BYTES", n_bytes)
        yield


def numbers_of(table: Delimited, at: range) -> NDArray[np.float64]:
    parts = [values for _, values in table.matrices(at)]
    return np.concatenate(parts) if parts else np.zeros((0, len(at)))


def spelled(value: float) -> st.SearchStrategy[str]:
    return st.sampled_from(
        [repr(value), f"{value:.3f}", f"{value:.18e}", f"{value:g}", f" {value!r} ", f'"{value!r}"',
         f"+{abs(value)!r}", f"{value:.25f}", f"{value:E}"]
    )  # fmt: skip


numbers = st.one_of(
    st.integers(-(2**64), 2**64).map(str),
    st.integers(0, 20).map(str),
    st.integers(0, 2**60).map(lambda n: f"00{n}"),
    st.floats(allow_nan=False, allow_infinity=False).flatmap(spelled),
    st.sampled_from(["0", "0.0", "-0", "1.", ".5", "1e-320", "1e400", "1e22", "1e23", "9e-22",
                     "9007199254740993", "9007199254740993.0", "0e99999", "nan", "-inf",
                     "0.1e1", "123456789012345678", "1234567890123456789.5", "1E5", "0" * 30]),
)  # fmt: skip


@FUZZ
@given(
    fields=st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=12),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    room=st.integers(1, 60),
)
@example(fields=[["1", "2"]], end="\r", room=1)
def test_every_number_is_what_float_makes_of_it(
    tmp_path: Path, fields: list[list[str]], end: str, room: int
) -> None:
    lines = ["name,a,b", *(",".join([f"r{i}", *row]) for i, row in enumerate(fields))]
    path = tmp_path / "m.csv"
    path.write_bytes(end.join(lines).encode())
    with buffer_of(room):
        got = numbers_of(Delimited.sniff(path), range(1, 3))
    expected = np.array([[float(field.strip().strip('"')) for field in row] for row in fields])
    np.testing.assert_array_equal(got, expected)


@FUZZ
@given(
    text=st.text(alphabet='01.,-e"\n\r\t ;aN\ufeffé', max_size=80),
    gz=st.booleans(),
    room=st.integers(1, 40),
)
@example(text='a,b\n"x ""y""",1\n', gz=False, room=3)
@example(text='a,b\n"x\ny",1\n\r\n,\n', gz=False, room=5)
@example(text="a,b,\r\n1,2,\r\n", gz=True, room=4)
@example(text='"",a\n"",""\n', gz=False, room=9)
def test_any_text_gives_what_the_csv_module_gives_or_is_refused(
    tmp_path: Path, text: str, gz: bool, room: int
) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(gzip.compress(text.encode()) if gz else text.encode())
    try:
        with buffer_of(room):
            table = Delimited.sniff(path)
            if table.delimiter == " ":
                return  # the csv module takes each of several spaces for a delimiter
            columns = table.read_columns(range(len(table.columns)))
    except InputError as error:
        check_message(error, path)
        return
    plain = text.removeprefix("\ufeff")
    wanted = list(csv.reader(io.StringIO(plain, newline=""), delimiter=table.delimiter))
    header, *body = [row for row in wanted if any(map(str.strip, row))]
    got = [row for row in map(list, zip(*columns, strict=True)) if any(map(str.strip, row))]
    if table.trailing:
        body = [row[:-1] for row in body]
    assert got == body
    assert list(table.header) in (header, header[:-1])
    for i in range(len(table.columns)):
        try:
            with buffer_of(room):
                values = numbers_of(table, range(i, i + 1))[:, 0]
        except InputError:
            assert not all(map(is_number, columns[i]))
        else:
            expected = [float(field) for field in columns[i]]
            np.testing.assert_array_equal(values, expected)


@FUZZ
@given(at=st.integers(0, 2000), to=st.integers(1, 255), cut=st.integers(0, 60))
def test_damaged_gzip_is_refused_or_reads_as_before(
    tmp_path: Path, at: int, to: int, cut: int
) -> None:
    text = ("name,a,b\n" + "".join(f"r{i},{i * 7919 % 10007},{i}\n" for i in range(300))).encode()
    data = damaged_gzip(text, at, to)
    path = tmp_path / "m.csv"
    path.write_bytes(data[: len(data) - cut])
    try:
        got = numbers_of(Delimited.sniff(path), range(1, 3))
    except InputError as error:
        check_message(error, path)
    else:
        np.testing.assert_array_equal(got, [[i * 7919 % 10007, i] for i in range(300)])


@pytest.mark.parametrize("room", [1, 2, 5, 16, 33, 1 << 20])
def test_the_size_of_the_buffer_changes_nothing(tmp_path: Path, room: int) -> None:
    text = 'n;a;b\r\n"x;1";1;2.5\r\n\r\n"y""2";0;3\n  \n;;\r"multi\nline";4;5'
    path = write_text(tmp_path / "m.csv", text)
    with buffer_of(room):
        table = Delimited.sniff(path)
        assert table.read_columns([0]) == [["x;1", 'y"2', "multi\nline"]]
        blocks = list(table.blocks([1, 2], axis="obs"))
    np.testing.assert_array_equal(dense(iter(blocks), (3, 2)), [[1, 2.5], [0, 3], [4, 5]])


def test_records_hold_texts_and_numbers_of_the_same_rows(tmp_path: Path) -> None:
    path = write_text(tmp_path / "m.tsv", "a\tn\tb\tm\nx\t1\ty\t0\nu\t0\tv\t4\n")
    with buffer_of(8):
        parts = list(Delimited.sniff(path).records([0, 2], [1, 3]))
    assert [texts for texts, _ in parts] == [[["x"], ["y"]], [["u"], ["v"]]]
    np.testing.assert_array_equal(np.concatenate([n for _, n in parts]), [[1, 0], [0, 4]])


@pytest.mark.parametrize(
    ("text", "columns", "body"),
    [
        ("\ufeffn,a\nx,1\n", ("n", "a"), [["x", "1"]]),
        ("# one, two\n#three\n\nn,a\nx,1\n", ("n", "a"), [["x", "1"]]),
        ("# one, two\n#n,a\nx,1\ny,2\n", ("n", "a"), [["x", "1"], ["y", "2"]]),
        ("n,a,b,\nx,1,2,\n", ("n", "a", "b"), [["x", "1", "2"]]),
        ("n,a,b\nx,1,2,\ny,3,4,\n", ("n", "a", "b"), [["x", "1", "2"], ["y", "3", "4"]]),
        ("n,a,b,\nx,1,2\n", ("n", "a", "b"), [["x", "1", "2"]]),
        ("a,b\nx,1,2\n", ("", "a", "b"), [["x", "1", "2"]]),
        ("a\tb\nx\t1\t2\t\ny\t3\t4\t\n", ("", "a", "b"), [["x", "1", "2"], ["y", "3", "4"]]),
        ("n;a\nx;1\n\n\n;\n", ("n", "a"), [["x", "1"]]),
        ("n  a   b \n x 1  2\ny  3 4  \n", ("n", "a", "b"), [["x", "1", "2"], ["y", "3", "4"]]),
        ('"n" "a"\n"x y" 1\n', ("n", "a"), [["x y", "1"]]),
        ("n, a\nx, 1\n", ("n", "a"), [["x", " 1"]]),
        ("n,a\rx,1\ry,2\r", ("n", "a"), [["x", "1"], ["y", "2"]]),
        ('5" wide,a\nx,1\ny,2\n', ('5" wide', "a"), [["x", "1"], ["y", "2"]]),
    ],
)
def test_every_spelling_of_a_table(
    tmp_path: Path, text: str, columns: tuple[str, ...], body: list[list[str]]
) -> None:
    table = Delimited.sniff(write_text(tmp_path / "m.txt", text))
    assert table.columns == columns
    got = table.read_columns(range(len(table.columns)))
    assert [list(row) for row in zip(*got, strict=True)] == body


@pytest.mark.parametrize("name", ["m.csv", "m.csv.gz"])
def test_gzip_is_told_by_its_bytes_not_by_its_name(tmp_path: Path, name: str) -> None:
    for data in (b"n,a\nx,1\n", gzip.compress(b"n,a\n") + gzip.compress(b"x,1\n")):
        (tmp_path / name).write_bytes(data)
        assert Delimited.sniff(tmp_path / name).read_columns([0, 1]) == [["x"], ["1"]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("n,a\nx,1\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ("n,a\nx,1\n".encode("utf-16-le"), "line 1 has NUL bytes"),
        ("n,\xe4\nx,1\n".encode("latin-1"), "not UTF-8 text (byte 0xe4 in line 1)"),
        (b"PK\x03\x04....", "a zip archive or Excel file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel file; export it as csv"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"\xfd7zXZ\x00", "compressed with xz"),
        (b"\x28\xb5\x2f\xfd\x00", "compressed with zstd"),
        (gzip.compress(b"PAR1...."), "a Parquet file"),
        (b"  <!DOCTYPE html><html>", "a web page or XML"),
        (b"\x1f\x8b\x08\x00nonsense", "the gzip stream is damaged"),
        (b"", "empty file"),
        (b"\n \n# only a comment\n", "empty file"),
        (b"n,a\n", "a single line"),
        (b"one\ntwo\nthree\n", "do not divide"),
        (b"n,a,b,c\nx,1\ny,2\n", "the header has 4 fields, the first row 2"),
    ],
)
def test_what_is_no_table_is_told_in_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        Delimited.sniff(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


GOOD = "".join(f"g{i},{i},{i % 7}\n" for i in range(200))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("LYZ,1\n", "line 202 (row 'LYZ') has 2 fields, 3 were expected"),
        ("LYZ,1,2,3\n", "line 202 (row 'LYZ') has 4 fields, 3 were expected"),
        ("LYZ,1,many\n", "row 'LYZ' (line 202), column 'b': 'many' is not a number"),
        ("\n\nLYZ,1,many\n", "row 'LYZ' (line 204), column 'b': 'many' is not a number"),
        ("LYZ,,1\n", "row 'LYZ' (line 202), column 'a': '' is not a number; every count"),
        ("LYZ,NA,1\n", "column 'a': 'NA' is not a number; every count has to be there"),
        ('LYZ,"1,5",1\n', "column 'a': '1,5' is not a number; write numbers with a decimal point"),
        ('LYZ,"1,234,567",1\n', "'1,234,567' is not a number; write numbers with a decimal"),
        ("LYZ,1_000,1\n", "'1_000' is not a number"),
        ("LYZ,0x1F,1\n", "'0x1F' is not a number"),
        ("LYZ,１,1\n", "'１' is not a number"),
        ("LYZ,1 2,1\n", "'1 2' is not a number"),
        ('"LYZ"x,1,1\n', "line 202 (row 'LYZx'), column 'n': text after a closing quote"),
        ('"LYZ,1,1\n', "line 202 (row 'LYZ,1,1\\n'): a quote opens and does not close"),
    ],
)
@pytest.mark.parametrize("room", [64, 1 << 20])
def test_a_fault_is_named_with_its_row_line_and_column(
    tmp_path: Path, bad: str, words: str, room: int
) -> None:
    path = write_text(tmp_path / "m.csv", "n,a,b\n" + GOOD + bad)
    with buffer_of(room), pytest.raises(InputError) as caught:
        numbers_of(Delimited.sniff(path), range(1, 3))
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_row_that_does_not_end_in_its_delimiter_is_a_fault(tmp_path: Path) -> None:
    lines = "".join(f"g{i},{i},\n" for i in range(50))
    path = write_text(tmp_path / "m.csv", f"n,a,\n{lines}LYZ,1,2\n")
    with pytest.raises(InputError, match=r"line 52 \(row 'LYZ'\) has 3 fields, 2 were expected"):
        Delimited.sniff(path).read_columns([0])


def test_a_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"n,a,b\n" + GOOD.encode() + b"L\xfc,1,1\n")
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 0xfc in line 202\)"):
        Delimited.sniff(path).read_columns([0])


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfile, "MAX_LINE", 4096)
    path = write_text(tmp_path / "m.csv", "n,a\n" + "x,1\n" * 30 + '"' + "1" * 50_000)
    with buffer_of(64), pytest.raises(InputError, match="has more than 0 MiB; a quote that does"):
        Delimited.sniff(path).read_columns([0])


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["1", " 2", "+3"], "int64", [1, 2, 3]),
        (["1", "NA", "3"], "float64", [1.0, np.nan, 3.0]),
        (["0.1", "1e3", "-.5"], "float64", [0.1, 1000.0, -0.5]),
        (["TRUE", "FALSE"], "bool", [True, False]),
        (["007", "010"], "object", ["007", "010"]),
        (["1606388400003100001", "1"], "object", ["1606388400003100001", "1"]),
        (["123456789012345678", ""], "object", ["123456789012345678", np.nan]),
        (["T cell", "NA", ""], "object", ["T cell", np.nan, np.nan]),
        (["TRUE", "NA"], "object", ["TRUE", np.nan]),
        (["0x1F", "1_0"], "object", ["0x1F", "1_0"]),
        (["", "NA"], "float64", [np.nan, np.nan]),
        ([], "int64", []),
    ],
)
def test_columns_get_the_type_that_holds_them(
    texts: list[str], kind: str, values: list[object]
) -> None:
    got = typed(texts)
    assert str(got.dtype) == kind
    pd.testing.assert_series_equal(got, pd.Series(values, dtype=kind))


def test_a_small_table_keeps_its_names_as_they_are_written(tmp_path: Path) -> None:
    path = write_text(tmp_path / "m.csv", ',a,b\n001,1,x\nNA,2,"y ""z"""\n1.0,3,\n')
    frame = read_small(path)
    assert frame.index.tolist() == ["001", "NA", "1.0"]
    assert frame["a"].tolist() == [1, 2, 3]
    assert frame["b"].tolist()[:2] == ["x", 'y "z"']
    assert frame["b"].isna().tolist() == [False, False, True]
