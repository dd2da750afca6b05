"""Archives as people, and people who mean harm, make them."""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

BLOCK = 512


def write_bytes(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tree_of(root: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name; a single file by ""."""
    if root.is_file():
        return {"": root.read_bytes()}
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def zip_of(
    files: Mapping[str, bytes] | Iterable[tuple[str, bytes]],
    *,
    method: int = zipfile.ZIP_DEFLATED,
    mode: int = 0,
    zip64: bool = False,
    comment: bytes = b"",
) -> bytes:
    """A zip as the standard library writes it; names may stand twice; `mode` is for every entry."""
    out = io.BytesIO()
    pairs = files.items() if isinstance(files, Mapping) else files
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.filterwarnings("ignore", "Duplicate name")
        for name, data in pairs:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.external_attr = mode << 16
            with archive.open(info, "w", force_zip64=zip64) as entry:
                entry.write(data)
        archive.comment = comment
    return out.getvalue()


def tar_of(
    files: Mapping[str, bytes], *, compression: str = "", format: int = tarfile.PAX_FORMAT
) -> bytes:
    """A tar as the standard library writes it; a name that ends in "/" is a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compression}", format=format) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_header(
    name: str, size: int = 0, flag: bytes = b"0", *, link: str = "", wide: bool = False
) -> bytes:
    """One header, with its checksum; `wide` writes the size in base 256."""
    told = b"\x80" + size.to_bytes(11, "big") if wide else b"%011o\0" % size
    head = struct.pack(
        "100s8s8s8s12s12s8s1s100s6s2s",
        *(name.encode(), b"0000644\0", b"0000000\0", b"0000000\0", told, b"00000000000\0"),
        *(b" " * 8, flag, link.encode(), b"ustar\0", b"00"),
    ).ljust(BLOCK, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def tar_raw(*entries: tuple[bytes, bytes], end: bool = True) -> bytes:
    """Headers with their contents, padded."""
    whole = b"".join(
        head + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0") for head, data in entries
    )
    return whole + bytes(2 * BLOCK) * end


def pax(name: str, records: Mapping[str, str], flag: bytes = b"x") -> tuple[bytes, bytes]:
    """An extended header."""
    data = b""
    for key, value in records.items():
        body = f" {key}={value}\n".encode()
        n = len(body) + len(str(len(body) + len(str(len(body)))))
        data += str(n).encode() + body
    return tar_header(name, len(data), flag), data


def patched(archive: bytes, at: int, form: str, value: int) -> bytes:
    """The bytes with one number replaced."""
    out = bytearray(archive)
    struct.pack_into(form, out, at, value)
    return bytes(out)


def central(archive: bytes, n: int = 0) -> int:
    """Where the n-th entry of a zip's directory begins."""
    at = -1
    for _ in range(n + 1):
        at = archive.index(b"PK\1\2", at + 1)
    return at
