"""Archives come out as they went in, or are refused in one line and leave nothing."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cellplm.errors import InputError
from cellplm.ingest.fetch.archive import Unpacked, is_archive, stem, unpack
from cellplm.ingest.fetch.limits import Budget, Limits, told_bytes
from cellplm.ingest.fetch.unzip import read_directory
from cellplm.logs import Progress
from tests.ingest.make_archive import (
    BLOCK,
    central,
    patched,
    pax,
    tar_header,
    tar_of,
    tar_raw,
    tree_of,
    write_bytes,
    zip_of,
)
from tests.shared import SHARED, needs_shared

FILES = {"m/matrix.mtx": b"%%MatrixMarket\n" * 90, "m/genes.tsv": b"g1\tCD3E\n", "m/empty": b""}
NO_RESERVE = Limits(reserve_bytes=0)


def unpacked(path: Path, limits: Limits = NO_RESERVE, *, replace: bool = False) -> Unpacked:
    """Unpack into a folder beside it."""
    into = path.parent / "out"
    into.mkdir(exist_ok=True)
    budget = Budget(limits, packed_bytes=path.stat().st_size, folder=into)
    return unpack(path, into, budget, shown=f"given/{path.name}", replace=replace)


def refusal(path: Path, limits: Limits = NO_RESERVE) -> str:
    """The message with which it is refused; checks that it is one line and leaves nothing."""
    before = sorted(p for p in path.parent.rglob("*") if p.name != "out")
    with pytest.raises(InputError) as told:
        unpacked(path, limits)
    assert sorted(p for p in path.parent.rglob("*") if p.name != "out") == before
    message = str(told.value)
    assert message.startswith(f"given/{path.name}: ")
    assert message.isprintable()
    return message


# What comes out


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.zip", zip_of(FILES)),
        ("m.ZIP", zip_of(FILES, method=zipfile.ZIP_STORED)),
        ("m.zip", zip_of(FILES, zip64=True)),
        ("m.zip", zip_of(FILES, comment=b"PK\5\6 is no end")),
        ("m.zip", b"#!/bin/sh\nexit\n" + zip_of(FILES)),
        ("m.tar", tar_of(FILES)),
        ("m.tar", tar_of(FILES, format=tarfile.GNU_FORMAT)),
        ("m.tar", tar_of(FILES, format=tarfile.USTAR_FORMAT)),
        ("m.tar.gz", tar_of(FILES, compression="gz")),
        ("m.tgz", tar_of(FILES, compression="gz")),
        ("m.tar.bz2", tar_of(FILES, compression="bz2")),
        ("m.tar.xz", tar_of(FILES, compression="xz")),
        # A browser took the gzip off and left the name.
        ("m.tar.gz", tar_of(FILES)),
        # bgzip and pigz write many members; tapes are padded.
        ("m.tgz", b"".join(gzip.compress(bytes([b])) for b in tar_of(FILES)[:700])
         + gzip.compress(tar_of(FILES)[700:]) + bytes(99)),
        ("m.txz", lzma.compress(tar_of(FILES)[:600]) + lzma.compress(tar_of(FILES)[600:])),
        ("m.tbz2", bz2.compress(tar_of(FILES)[:600]) + bz2.compress(tar_of(FILES)[600:])),
        ("m.tar", tar_raw((tar_header("m/genes.tsv", 8), FILES["m/genes.tsv"]),
                          (tar_header("m/empty"), b""),
                          (tar_header("m/matrix.mtx", 1350, wide=True), FILES["m/matrix.mtx"]))),
    ],
)  # fmt: skip
def test_every_kind_comes_out_whole(tmp_path: Path, name: str, data: bytes) -> None:
    result = unpacked(write_bytes(tmp_path / name, data))
    assert result.local == tmp_path / "out" / "m"
    assert tree_of(result.local) == {key.removeprefix("m/"): FILES[key] for key in FILES}
    # The top folder is not repeated, and the user still sees where it was.
    assert result.shown == f"given/{name}/m"


names = st.text("abcXYZ019 _-+ä漢", min_size=1, max_size=30).filter(lambda s: s.strip() == s)


@settings(max_examples=40, deadline=None)
@given(
    files=st.dictionaries(
        st.lists(names, min_size=1, max_size=4).map("/".join), st.binary(max_size=2000), min_size=1
    ),
    kind=st.sampled_from(["zip", "zip64", "tar", "tar.gz", "tar.bz2", "tar.xz"]),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    stored=st.booleans(),
)
def test_what_the_standard_library_packs_comes_out(
    files: dict[str, bytes], kind: str, form: int, stored: bool
) -> None:
    folded = [name.casefold() for name in files]
    clash = len(set(folded)) < len(folded) or any(
        other.startswith(f"{name}/") for name in folded for other in folded
    )
    if kind.startswith("zip"):
        method = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
        data = zip_of(files, method=method, zip64=kind == "zip64")
    else:
        data = tar_of(files, compression=kind[4:], format=form)
    with tempfile.TemporaryDirectory() as folder:
        path = write_bytes(Path(folder) / f"a.{kind.replace('64', '')}", data)
        if clash:
            assert "stands there" in refusal(path)
        else:
            result = unpacked(path)
            if result.shown.endswith("/a"):
                files = {name.removeprefix("a/"): files[name] for name in files}
            assert tree_of(result.local) == files


def test_folders_stand_without_files_and_dots_in_names_mean_nothing(tmp_path: Path) -> None:
    data = tar_of({"./": b"", "./a/": b"", "./a/x": b"1", ".//b/./y": b"2", "empty/": b""})
    root = unpacked(write_bytes(tmp_path / "t.tar", data)).local
    assert tree_of(root) == {"a/x": b"1", "b/y": b"2"}
    assert (root / "empty").is_dir()


def test_long_names_come_out(tmp_path: Path) -> None:
    files = {"/".join(["folder" * 20] * 5) + "/" + "n" * 200: b"1", "x": b"2"}
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = write_bytes(tmp_path / f"{form}.tar", tar_of(files, format=form))
        assert tree_of(unpacked(path).local) == files


@pytest.mark.parametrize(("raw", "name"), [(b"\x81", "ü"), ("ü".encode(), "ü")])
def test_names_of_a_zip_are_utf8_or_those_of_dos(tmp_path: Path, raw: bytes, name: str) -> None:
    data = zip_of({"@" * len(raw): b"1"}).replace(b"@" * len(raw), raw)
    assert tree_of(unpacked(write_bytes(tmp_path / "x.zip", data)).local) == {name: b"1"}


def test_a_directory_of_more_than_65535_entries_is_read_with_zip64_and_without() -> None:
    names = [f"{i:05d}" for i in range(65_540)]
    one = zip_of({"00000": b""}, method=zipfile.ZIP_STORED)
    at = central(one)
    local, entry = one[:at].replace(b"00000", b"%05d"), bytearray(one[at : at + 51])
    whole = b"".join(local % i for i in range(len(names)))
    start, directory = len(whole), bytearray()
    for i, name in enumerate(names):
        struct.pack_into("<L", entry, START, i * len(local % 0))
        directory += entry[:46] + name.encode()
    whole += directory
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *[len(names)] * 2, len(directory), start
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(whole), 1)
    # macOS: no zip64 record, and the number of entries modulo 65,536.
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 4, 4, len(directory), start, 0)
    counted: list[int] = []
    for each in (whole + record + locator + end, whole + end):
        entries = read_directory(io.BytesIO(each), "x.zip", lambda: counted.append(1))
        assert [entry.name for entry in entries] == names
    assert len(counted) == 2 * len(names)
    assert zipfile.ZipFile(io.BytesIO(whole + record + locator + end)).namelist() == names


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("__MACOSX/m/._x", "m/x"), ("m/._x", "m/x"), ("m/.DS_Store", "m/x"),
    ],
)  # fmt: skip
def test_what_macos_adds_is_passed_over(tmp_path: Path, name: str, other: str) -> None:
    for suffix, data in (("zip", zip_of({name: b"?", other: b"1"})),
                         ("tar", tar_of({name: b"?", other: b"1"}))):  # fmt: skip
        path = write_bytes(tmp_path / f"m.{suffix}", data)
        assert list(tree_of(unpacked(path).local).values()) == [b"1"]


def test_an_anndata_zarr_zip_becomes_a_zarr_folder_with_a_top_folder_or_without(
    tmp_path: Path,
) -> None:
    files = {"zarr.json": b"{}", "obs/zarr.json": b"{}"}
    for i, top in enumerate(("", "adata.zarr/", "other/")):
        path = tmp_path / str(i) / "adata.zarr.zip"
        write_bytes(path, zip_of({top + name: files[name] for name in files}))
        result = unpacked(path)
        assert result.local == tmp_path / str(i) / "out" / "adata.zarr"
        assert result.shown == f"given/adata.zarr.zip/{top}".rstrip("/")
        assert tree_of(result.local) == files


def test_in_a_zarr_zip_the_later_of_two_entries_counts_and_case_does(tmp_path: Path) -> None:
    pairs = [(".zattrs", b"old"), ("obs/Batch/0", b"1"), ("obs/batch/0", b"2"), (".zattrs", b"new")]
    root = unpacked(write_bytes(tmp_path / "x.zarr.zip", zip_of(pairs))).local
    assert tree_of(root) == {".zattrs": b"new", "obs/Batch/0": b"1", "obs/batch/0": b"2"}
    inside = {f"d/x.zarr/{name}": b"1" for name in ("obs/Batch/0", "obs/batch/0")}
    assert tree_of(unpacked(write_bytes(tmp_path / "y.zip", zip_of(inside))).local) == inside


@needs_shared
@pytest.mark.parametrize("version", ["v0.7.0", "v0.7.8", "v0.11.4"])
def test_the_zarr_archives_of_anndata_come_out_as_the_standard_library_reads_them(
    tmp_path: Path, version: str
) -> None:
    given = SHARED / "formats-tiny/anndata-archives/archives" / version / "adata.zarr.zip"
    path = write_bytes(tmp_path / "adata.zarr.zip", given.read_bytes())
    with zipfile.ZipFile(given) as archive:
        want = {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}
    assert tree_of(unpacked(path).local) == want


@pytest.mark.parametrize("data", [gzip.compress(b"\x89HDF..."), b"\x89HDF..."])
def test_a_gz_of_one_file_becomes_that_file(tmp_path: Path, data: bytes) -> None:
    result = unpacked(write_bytes(tmp_path / "x.h5ad.gz", data))
    assert result == Unpacked(local=tmp_path / "out" / "x.h5ad", shown="given/x.h5ad.gz")
    assert result.local.read_bytes() == b"\x89HDF..."


def test_nothing_that_stands_there_is_overwritten(tmp_path: Path) -> None:
    write_bytes(tmp_path / "out" / "m" / "old", b"old")
    write_bytes(tmp_path / "out" / "x.h5", b"old")
    for name, data in (("m.zip", zip_of(FILES)), ("x.h5.gz", gzip.compress(b"new"))):
        path = write_bytes(tmp_path / name, data)
        first, second = unpacked(path).local, unpacked(path).local
        assert first == tmp_path / "out" / name / stem(name)
        assert second.name == stem(name)
        assert tree_of(first) == tree_of(second) != {}
    assert (tmp_path / "out" / "m" / "old").read_bytes() == b"old"
    assert (tmp_path / "out" / "x.h5").read_bytes() == b"old"


def test_a_replaced_archive_is_gone_only_once_it_is_unpacked(tmp_path: Path) -> None:
    good = write_bytes(tmp_path / "a.zip", zip_of(FILES))
    unpacked(good, replace=True)
    assert not good.exists()
    bad = write_bytes(tmp_path / "b.zip", zip_of(FILES)[:-9])
    with pytest.raises(InputError):
        unpacked(bad, replace=True)
    assert bad.exists()


def test_archives_are_known_by_name() -> None:
    yes = "a.zip A.ZIP a.tar a.tar.gz a.TGZ a.tar.bz2 a.tbz a.tar.xz a.txz adata.zarr.zip a.h5ad.gz"
    yes += " b.h5.gz b.loom.gz my_cells.zarr.zip"
    no = "a.h5ad a.csv.gz matrix.mtx.gz features.tsv.gz a.gz .zip .hidden.zip a.zip.txt a.zarr zip"
    no += " cells.zarr.zip analysis.zarr.zip cell_feature_matrix.zarr.zip transcripts.zarr.zip"
    assert [name for name in yes.split() if not is_archive(name)] == []
    assert [name for name in no.split() if is_archive(name)] == []
    assert stem("a.b.tar.gz") == "a.b"
    assert stem("A.ZIP") == "A"


def test_progress_tells_the_bytes_of_the_archive(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "m.tar", tar_of({"x": bytes(20 << 20)}))
    seen: list[Progress] = []
    budget = Budget(NO_RESERVE, packed_bytes=1 << 20, folder=tmp_path)
    unpack(path, tmp_path, budget, shown="m.tar", on_progress=seen.append)
    assert [one.what for one in seen] == ["unpack m.tar"] * 2
    assert 8 << 20 <= seen[0].done < seen[1].done <= seen[0].total == path.stat().st_size


# What is refused

BAD_NAMES = {
    "/etc/cron.d/x": "has an absolute name",
    "C:/x": "has an absolute name",
    "../x": 'leads out of its folder with ".."',
    "a/../../x": 'leads out of its folder with ".."',
    "a/..": 'leads out of its folder with ".."',
    "a\\..\\x": "has a backslash",
    "a\nb": "has a control character",
    "a\x1b[2Jb": "has a control character",
    "n" * 256: "has too long a name",
    "/".join(["d" * 200] * 6): "has too long a name",
    "d/" * 65 + "x": "lies more than 64 folders deep",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_not_safe_is_refused(tmp_path: Path, name: str) -> None:
    files = {"good": b"1", name: b"2"}
    for suffix, data in (("zip", zip_of(files)), ("tar", tar_of(files))):
        message = refusal(write_bytes(tmp_path / f"a.{suffix}", data))
        assert BAD_NAMES[name] in message


def test_a_nul_byte_in_a_name_is_refused(tmp_path: Path) -> None:
    data = zip_of({"good": b"1", "x@y.h5": b"2"}).replace(b"x@y", b"x\0y")
    assert "x\\x00y.h5 has a NUL byte" in refusal(write_bytes(tmp_path / "a.zip", data))
    named = tar_raw(pax("p", {"path": "x\0y"}), (tar_header("x"), b""))
    assert "x\\x00y has a NUL byte" in refusal(write_bytes(tmp_path / "a.tar", named))


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([("x", b"1"), ("x", b"2")], "x stands there twice"),
        ([("x", b"1"), ("./x", b"2")], "x stands there twice"),
        ([("X", b"1"), ("x", b"2")], "x stands there twice"),
        ([("d/STRASSE", b"1"), ("D/straße", b"2")], "D/straße stands there twice"),
        ([("\u00e9", b"1"), ("e\u0301", b"2")], "e\u0301 stands there twice"),
        ([("x", b"1"), ("x/y", b"2")], "x stands there as a file and as a folder"),
        ([("x/y", b"1"), ("x", b"2")], "x stands there as a file and as a folder"),
        ([("x.zarr/a", b"1"), ("x.zarr/a", b"2")], "x.zarr/a stands there twice"),
    ],
)  # fmt: skip
def test_a_second_file_of_one_name_is_refused(
    tmp_path: Path, pairs: list[tuple[str, bytes]], told: str
) -> None:
    tar = tar_raw(*((tar_header(name, len(data)), data) for name, data in pairs))
    for suffix, data in (("zip", zip_of(pairs)), ("tar", tar)):
        assert told in refusal(write_bytes(tmp_path / f"a.{suffix}", data))


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        (b"1", "a hard link"), (b"2", "a symbolic link"), (b"3", "a character device"),
        (b"4", "a block device"), (b"6", "a named pipe"), (b"S", "a sparse file"),
        (b"M", "a part of a file of several volumes"), (b"D", "an incremental backup"),
        (b"Z", "an entry of the unknown kind b'Z'"),
    ],
)  # fmt: skip
def test_a_tar_entry_that_is_no_file_is_refused(tmp_path: Path, flag: bytes, told: str) -> None:
    data = tar_raw((tar_header("good", 1), b"1"), (tar_header("bad", flag=flag, link="/etc"), b""))
    message = refusal(write_bytes(tmp_path / "a.tar", data))
    assert "bad is" in message
    assert told in message


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        (stat.S_IFLNK, "a symbolic link"), (stat.S_IFIFO, "a named pipe"),
        (stat.S_IFCHR, "a character device"), (stat.S_IFBLK, "a block device"),
        (stat.S_IFSOCK, "a socket"),
    ],
)  # fmt: skip
def test_a_zip_entry_that_is_no_file_is_refused(tmp_path: Path, mode: int, told: str) -> None:
    path = write_bytes(tmp_path / "a.zip", zip_of({"bad": b"/etc/passwd"}, mode=mode | 0o777))
    assert f"bad is {told}" in refusal(path)


def test_a_write_through_a_link_of_the_archive_is_impossible(tmp_path: Path) -> None:
    data = tar_raw(
        (tar_header("d", flag=b"2", link=str(tmp_path)), b""), (tar_header("d/owned", 1), b"1")
    )
    refusal(write_bytes(tmp_path / "a.tar", data))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("key", ["GNU.sparse.realsize", "GNU.sparse.major"])
def test_a_sparse_file_is_refused_in_every_form(tmp_path: Path, key: str) -> None:
    data = tar_raw(pax("p", {key: str(1 << 44)}), (tar_header("x"), b""))
    assert "x is a sparse file" in refusal(write_bytes(tmp_path / "a.tar", data))


ZIP = zip_of({"x.csv": b"a,b\n" * 50, "y.csv": b"c" * 30})
FLAGS, METHOD, CRC, PACKED, SIZE, START = 8, 10, 16, 20, 24, 42


def _aliased() -> bytes:
    """Two names of one entry: what bombs of overlapping files are made of."""
    first = struct.unpack_from("<L", ZIP, central(ZIP) + START)[0]
    return patched(ZIP, central(ZIP, 1) + START, "<L", first)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (patched(ZIP, central(ZIP) + FLAGS, "<H", 1), "x.csv is encrypted"),
        (patched(ZIP, central(ZIP) + METHOD, "<H", 99), "x.csv is encrypted"),
        (patched(ZIP, central(ZIP) + METHOD, "<H", 9), "x.csv is packed with Deflate64"),
        (patched(ZIP, central(ZIP) + METHOD, "<H", 14), "x.csv is packed with LZMA"),
        (patched(ZIP, central(ZIP) + METHOD, "<H", 77), "x.csv is packed with method 77"),
        (patched(ZIP, central(ZIP) + METHOD, "<H", 0), "x.csv is stored, but has"),
        (patched(ZIP, central(ZIP) + CRC, "<L", 7), "x.csv has another checksum"),
        (patched(ZIP, central(ZIP) + SIZE, "<L", 199), "x.csv unpacks to more than the 199 bytes"),
        (patched(ZIP, central(ZIP) + SIZE, "<L", 201), "x.csv unpacks to 200, not the 201"),
        (patched(ZIP, central(ZIP) + PACKED, "<L", 3), "x.csv ends before its end"),
        (patched(ZIP, central(ZIP) + PACKED, "<L", 99), "x.csv overlaps the entry after it"),
        (patched(ZIP, central(ZIP, 1) + PACKED, "<L", 9999), "y.csv overlaps the entry after it"),
        (_aliased(), "overlaps the entry after it"),
        (patched(ZIP, central(ZIP) + START, "<L", 5), "x.csv overlaps the entry after it"),
        (patched(ZIP, 0, "<L", 0), "the directory tells of x.csv, but something else is there"),
        (patched(ZIP, 30, "<B", 65), "the directory tells of x.csv, but something else is there"),
        (patched(ZIP, 28, "<H", 999), "overlaps the entry after it"),
        (patched(ZIP, 35, "<B", 255), "x.csv cannot be unpacked"),
        (patched(ZIP, central(ZIP, 1), "<L", 0), "entry 2 of its directory is no entry"),
        (patched(ZIP, len(ZIP) - 12, "<H", 3), "is one part of a split archive"),
        (patched(patched(ZIP, len(ZIP) - 12, "<H", 3), len(ZIP) - 14, "<H", 3),
         "its directory has 2 entries, not 3"),
        (patched(ZIP, len(ZIP) - 6, "<L", 1 << 30), "its directory is not where it should be"),
        (patched(ZIP, len(ZIP) - 10, "<L", 1 << 30), "its directory is not where it should be"),
        (patched(ZIP, len(ZIP) - 16, "<H", 1), "is one part of a split archive"),
        (ZIP[:-1], "the record at its end is missing"),
        (ZIP[9:], "its directory is not where it should be"),
        (b"<html>not found</html>", "is no zip archive"),
        (b"", "is empty"),
        (zip_of({}), "holds no file"),
        (zip_of({"__MACOSX/._x": b"1", "d/": b""}), "holds no file"),
        (zip_of({"d/": b"1"}), "d/ is a folder with contents"),
    ],
)  # fmt: skip
def test_a_zip_that_is_not_sound_is_refused(tmp_path: Path, data: bytes, told: str) -> None:
    assert told in refusal(write_bytes(tmp_path / "a.zip", data))


def test_a_zip64_that_is_not_sound_is_refused(tmp_path: Path) -> None:
    data = zip_of({f"{i}": b"" for i in range(3)})
    start, end = central(data), data.rindex(b"PK\5\6")
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, end - start, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    tail = data[end:]
    good = data[:end] + record + locator + tail
    assert len(tree_of(unpacked(write_bytes(tmp_path / "good.zip", good)).local)) == 3
    cases = {
        "its zip64 record is missing": data[:end] + locator + tail,
        "its directory is not where": data[:end] + record[:40] + b"\xff" * 16 + locator + tail,
        "its directory has 3 entries": good.replace(b"\3\0\0\0\0\0\0\0", b"\4\0\0\0\0\0\0\0"),
        "lacks one of its 64-bit sizes": (
            patched(good, start + SIZE, "<L", 0xFFFFFFFF)[: start + 30]
            + b"\4\0" + good[start + 32 : start + 47] + b"\1\0\0\0" + good[start + 47 :]
        ),
    }  # fmt: skip
    # The longer extra field moves and lengthens the directory.
    wide = cases["lacks one of its 64-bit sizes"]
    wide = patched(wide, wide.index(b"PK\6\6") + 40, "<Q", end - start + 4)
    cases["lacks one of its 64-bit sizes"] = patched(wide, wide.index(b"PK\6\7") + 8, "<Q", end + 4)
    for told, each in cases.items():
        assert told in refusal(write_bytes(tmp_path / "a.zip", each))


ONE = (tar_header("x.csv", 3), b"a,b")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (tar_raw(ONE, ONE, end=False)[:BLOCK], "ends 0 bytes into x.csv, which has 3: it was cut"),
        (tar_raw(ONE, end=False), "ends after x.csv without the mark of its end"),
        (tar_raw(ONE)[: 2 * BLOCK + 9], "ends after x.csv without the mark of its end"),
        (tar_raw(ONE, (patched(tar_header("y"), 5, "<B", 9), b"")), "after x.csv is damaged"),
        (tar_raw(ONE) + tar_raw((tar_header("y", 1), b"1")), "goes on after the mark of its end"),
        (tar_raw((tar_header("x", 1 << 41, wide=True), b"1")), "unpacks to more than 2 TiB"),
        (tar_raw((tar_header("x", 9999), b"1")), "bytes into x, which has 9,999: it was cut off"),
        (tar_raw((tar_header("x", 1, flag=b"5"), b"1")), "x is a folder with contents"),
        (tar_raw((tar_header("p", 8 << 30, b"x"), b"")), "p is an extended header of 8,589"),
        (tar_raw((tar_header("l", 8 << 30, b"L"), b"")), "l is an extended header of 8,589"),
        (tar_raw((tar_header("p", 9, b"x"), b"9 path=ab"), ONE), "extended header p is damaged"),
        (tar_raw((tar_header("p", 4, b"x"), b"aaaa"), ONE), "the extended header p is damaged"),
        (tar_raw((tar_header("p", 4, b"x"), b"0 a="), ONE), "the extended header p is damaged"),
        (tar_raw(pax("p", {"size": "-4"}), ONE), "x.csv has no size that can be read"),
        (tar_raw(pax("p", {"size": "9" * 30}), ONE), "x.csv has no size that can be read"),
        (tar_raw(pax("p", {"path": "y"}), pax("q", {"path": "z"}), ONE), "two extended headers"),
        (tar_raw(pax("p", {"path": "y"})), "is no tar archive"),
        (tar_raw(pax("g", {"path": "y"}, b"g"), ONE), "g gives one name or size to all entries"),
        (bytes(20 * BLOCK), "holds no file"),
        (b"<html>not found</html>" * 99, "is no tar archive"),
        (b"", "is empty"),
        (gzip.compress(tar_raw(ONE))[:-9], "the gzip stream ends in the middle"),
        (gzip.compress(tar_raw(ONE))[:-8] + b"12345678", "the gzip stream is damaged before"),
        (gzip.compress(tar_raw(ONE)) + b"more", "something that is not gzip follows"),
        (bz2.compress(tar_raw(ONE))[:-4], "the bzip2 stream ends in the middle"),
        (patched(bz2.compress(tar_raw(ONE)), 40, "<L", 0), "the bzip2 stream is damaged"),
        (lzma.compress(tar_raw(ONE))[:-4], "the xz stream ends in the middle"),
        (patched(lzma.compress(tar_raw(ONE)), 40, "<L", 0), "the xz stream is damaged"),
        (lzma.compress(tar_raw(ONE), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]),
         "the xz stream is damaged before"),
    ],
)  # fmt: skip
def test_a_tar_that_is_not_sound_is_refused(tmp_path: Path, data: bytes, told: str) -> None:
    assert told in refusal(write_bytes(tmp_path / "a.tar.gz", data))


def test_a_file_stands_under_the_name_of_the_folder_that_is_collapsed(tmp_path: Path) -> None:
    """An archive of one file that is called like the archive is no folder."""
    result = unpacked(write_bytes(tmp_path / "m.zip", zip_of({"m": b"1"})))
    assert (tree_of(result.local), result.shown) == ({"m": b"1"}, "given/m.zip")


# Bombs and limits


def test_bytes_that_come_out_are_counted_not_those_declared(tmp_path: Path) -> None:
    few = Limits(reserve_bytes=0, free_bytes=1 << 20, max_ratio=100)
    zeros = bytes(8 << 20)
    bombs = {
        "a.zip": zip_of({"x": zeros}),
        "a.tar.gz": tar_of({"x": zeros}, compression="gz"),
        "a.tar.bz2": tar_of({"x": zeros}, compression="bz2"),
        "a.tar.xz": tar_of({"x": zeros}, compression="xz"),
        "a.h5ad.gz": gzip.compress(zeros),
        # Nothing is written of these, but time passes.
        "b.tar.gz": gzip.compress(tar_raw(ONE) + zeros),
        "c.tar.gz": tar_of({"._x": zeros, "y": b"1"}, compression="gz"),
    }
    for name, data in bombs.items():
        path = write_bytes(tmp_path / name, data)
        assert "unpacks to more than 100 times its size" in refusal(path, few)
        unpacked(path)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(max_bytes=1000), "unpacks to more than 1000 B"),
        (Limits(max_entries=2), "more than 2 files and folders"),
        (Limits(reserve_bytes=1 << 60), "are free and 1048576 TiB are to stay free"),
    ],
)  # fmt: skip
def test_limits_hold_for_every_kind(tmp_path: Path, limits: Limits, told: str) -> None:
    for name, data in (("a.zip", zip_of(FILES)), ("a.tgz", tar_of(FILES, compression="gz"))):
        assert told in refusal(write_bytes(tmp_path / name, data), limits)


def test_a_zip_that_declares_terabytes_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    extra = struct.pack("<HHQ", 1, 8, 1 << 42)
    at, end = central(ZIP), ZIP.rindex(b"PK\5\6")
    wide = patched(patched(ZIP, at + SIZE, "<L", 0xFFFFFFFF), at + 30, "<H", len(extra))
    wide = wide[: at + 51] + extra + wide[at + 51 :]
    wide = patched(wide, end + len(extra) + 12, "<L", end - at + len(extra))
    assert "unpacks to more than 2 TiB" in refusal(write_bytes(tmp_path / "a.zip", wide))


def test_memory_stays_small_whatever_comes_out(tmp_path: Path) -> None:
    zeros = bytes(48 << 20)
    bombs = {
        "a.zip": zip_of({"x": zeros}),
        "a.h5.gz": gzip.compress(zeros, 1),
        "a.tar.bz2": bz2.compress(tar_raw((tar_header("x", len(zeros)), zeros)), 9),
    }
    del zeros
    for name, data in bombs.items():
        path = write_bytes(tmp_path / name, data)
        tracemalloc.start()
        root = unpacked(path).local
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (root if root.is_file() else root / "x").stat().st_size == 48 << 20
        assert peak < 8 << 20


def test_a_disk_that_fills_up_is_told_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bytes(tmp_path / "a.tgz", tar_of({"x": bytes(9 << 20)}, compression="gz"))
    free = itertools.chain([1 << 40] * 4, itertools.repeat(300 << 20))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("cellplm.ingest.fetch.limits._STRIDE", 2 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(next(free)))
    unpacked(path, Limits())
    free = itertools.chain([1 << 40] * 4, itertools.repeat(200 << 20))
    assert "needs 0 B in " in refusal(path, Limits())


def test_sizes_read_well() -> None:
    sizes = {0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 300 << 30: "300 GiB", 2 << 40: "2 TiB"}
    assert {n: told_bytes(n) for n in sizes} == sizes


# Damage of any kind

SMALL = {"d/x.csv": b"gene,a\nCD3E,1\n", "y": b"12"}
WHOLE: dict[str, bytes] = {
    "zip": zip_of(SMALL),
    "zarr.zip": zip_of([*SMALL.items(), ("y", b"12")]),
    "tar": tar_of(SMALL)[: 7 * BLOCK],
    "tar.gz": tar_of(SMALL, compression="gz"),
    "tar.xz": tar_of(SMALL, compression="xz"),
    "h5.gz": gzip.compress(b"12" * 40, mtime=0),
}


def outcome(path: Path) -> dict[str, bytes] | None:
    """What came out; None where it was refused, which must leave nothing, nor write elsewhere."""
    into = path.parent / "out"
    into.mkdir(exist_ok=True)
    budget = Budget(NO_RESERVE, packed_bytes=path.stat().st_size, folder=into)
    told, files = "", None
    try:
        root = unpack(path, into, budget, shown="a").local
    except InputError as error:
        told = str(error)
    else:
        assert root.parent == into
        files = tree_of(root)
        shutil.rmtree(root) if root.is_dir() else root.unlink()
    assert told.isprintable()
    assert sorted(os.listdir(path.parent)) == [path.name, "out"]
    assert os.listdir(into) == []
    return files


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path: Path, kind: str) -> None:
    path = write_bytes(tmp_path / f"a.{kind}", WHOLE[kind])
    want = outcome(path)
    assert want
    whole = WHOLE[kind]
    # A tar is long and dull: its cuts are those at and beside the blocks, and some more.
    near = {max(at + off, 0) for at in range(0, len(whole), BLOCK) for off in (-1, 0, 1)}
    cuts = sorted(near | set(range(0, len(whole), 97))) if kind == "tar" else range(len(whole))
    for n in cuts:
        came = outcome(write_bytes(path, whole[:n]))
        assert came in (None, want)
        # A tar is whole with the first block of its end mark.
        assert came is None or (kind == "tar" and n >= len(whole) - 2 * BLOCK)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz", "h5.gz"])
@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_a_changed_byte_never_changes_what_comes_out(tmp_path: Path, kind: str, flip: int) -> None:
    path = write_bytes(tmp_path / f"a.{kind}", WHOLE[kind])
    want = outcome(path)
    for at in range(len(WHOLE[kind])):
        changed = bytearray(WHOLE[kind])
        changed[at] ^= flip
        assert outcome(write_bytes(path, bytes(changed))) in (None, want), at


where = st.tuples(st.floats(0, 1), st.sampled_from(["set", "cut", "copy", "insert"]))
edits = st.lists(st.tuples(where, st.binary(max_size=9)), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(sorted(WHOLE)), edits=edits)
@example(kind="tar", edits=[((0.0, "set"), b"../../x")])
def test_mutated_archives_are_refused_or_unpacked_below_their_folder(
    kind: str, edits: list[tuple[tuple[float, str], bytes]]
) -> None:
    data = WHOLE[kind]
    for (where, edit), new in edits:
        at = int(where * len(data))
        data = {
            "set": data[:at] + new + data[at + len(new) :],
            "cut": data[:at] + data[at + len(new) :],
            "copy": data[:at] + data[at // 2 : at // 2 + 600] + data[at:],
            "insert": data[:at] + new + data[at:],
        }[edit]
    if kind == "tar":
        data = _summed(data)
    with tempfile.TemporaryDirectory() as folder:
        outcome(write_bytes(Path(folder) / f"a.{kind}", data))


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    head=st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0"]),
    data=st.binary(max_size=1500),
)
def test_noise_is_refused(kind: str, head: bytes, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        came = outcome(write_bytes(Path(folder) / f"a.{kind}", head + data))
    assert came is None


def _summed(data: bytes) -> bytes:
    """Right checksums in every block that looks like a header, so that mutations get past it."""
    out = bytearray(data)
    for at in range(0, len(out) - BLOCK + 1, BLOCK):
        head = bytes(out[at : at + BLOCK])
        if b"ustar" in head:
            blank = head[:148] + b" " * 8 + head[156:]
            out[at + 148 : at + 156] = b"%06o\0 " % sum(blank)
    return bytes(out)


def test_the_checks_of_these_tests_see_what_zlib_sees() -> None:
    assert zlib.crc32(b"12" * 40) == int.from_bytes(WHOLE["h5.gz"][-8:-4], "little")
