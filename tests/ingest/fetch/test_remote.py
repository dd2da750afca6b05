"""What an address names comes whole, or there is one line that says what to do."""

from __future__ import annotations

import json
import random
import socket
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config  # type: ignore[import-untyped]

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.fetch.address import file_name, is_remote, parse_address
from cellplm.ingest.fetch.limits import Limits
from cellplm.ingest.fetch.remote import download
from cellplm.logs import Progress
from tests.ingest.make_archive import tree_of
from tests.ingest.make_server import Reply, Web, object_store, web_server, write_certificate

QUICK = Limits(reserve_bytes=0, n_retries=0, silence_s=10)


def got(text: str, into: Path, limits: Limits = QUICK) -> Path:
    return download(parse_address(text), into, limits=limits)


def refusal(text: str, into: Path, limits: Limits = QUICK) -> str:
    """The message with which it is refused; checks that it is one line and leaves nothing."""
    with pytest.raises(InputError) as told:
        got(text, into, limits)
    assert list(into.iterdir()) == []
    message = str(told.value)
    assert message.startswith(text.partition("?")[0])
    assert message.isprintable()
    return message


# Addresses


def test_addresses_are_told_from_paths() -> None:
    yes = ["s3://b/k", "gs://b", "https://h/f", "HTTP://h/f", "file:///f", "ftp://h/f", "az://c/f"]
    no = ["a.h5ad", "/a/b", "./s3", "C:\\a", "C:/a", "a:b", "", "s3:"]
    assert [is_remote(text) for text in yes] == [True] * len(yes)
    assert [is_remote(text) for text in no] == [False] * len(no)


@pytest.mark.parametrize(
    "text", ["s3://bucket/d/k", "gs://bucket/k", "https://h/f", "file:///tmp/x"]
)
def test_an_address_that_went_through_a_path_is_mended(text: str) -> None:
    assert is_remote(str(Path(text)))
    assert parse_address(str(Path(text))) == parse_address(text)


@pytest.mark.parametrize(
    ("text", "place", "key", "is_folder", "parent"),
    [
        ("s3://bucket/a/b.h5ad", "bucket", "a/b.h5ad", False, "s3://bucket/a"),
        ("s3://bucket/a/b.zarr/", "bucket", "a/b.zarr", True, "s3://bucket/a"),
        ("s3://bucket", "bucket", "", True, "s3:/"),
        ("gs://bucket/50%25 #1?.csv", "bucket", "50%25 #1?.csv", False, "gs://bucket"),
        ("https://h:8080/d/f.csv?x=1#top", "h:8080", "/d/f.csv", False, "https://h:8080/d"),
        ("https://h/d/", "h", "/d/", True, "https://h"),
        ("https://h/d/?acc=GSE1", "h", "/d/", False, "https://h"),
        ("file:///a/b%20c.csv", "", "/a/b c.csv", False, "file:///a"),
        ("file://localhost/a/", "", "/a/", True, "file://localhost"),
    ],
)
def test_addresses_are_taken_apart(
    text: str, place: str, key: str, is_folder: bool, parent: str
) -> None:
    address = parse_address(text)
    assert (address.place, address.key, address.is_folder) == (place, key, is_folder)
    assert address.parent == parent


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ftp://h/f", "addresses begin with s3://, gs://, https://, http://, file://"),
        ("s3:///f", "no name of a bucket"),
        ("s3://B_1 !/f", "no name of a bucket"),
        ("gs://x", "no name of a bucket"),
        ("https:///f", "names no server"),
        ("https://h:99999/f", "is no address"),
        ("https://[::1/f", "is no address"),
        ("file://other/f", "names no file of this machine"),
        ("file:///a%00b", "names no file of this machine"),
        ("https://me:secret@h/f", "https://h/f: an address with a user name is not read"),
    ],
)
def test_an_address_that_is_none_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        parse_address(text)
    assert told in str(error.value)
    assert "secret" not in str(error.value)


def test_secrets_of_an_address_are_not_shown() -> None:
    signed = (
        "https://b.s3.amazonaws.com/a.h5ad?X-Amz-Credential=AKIA1&X-Amz-Signature=ff&Expires=9"
        "&sig=1&access_token=2&apikey=3&versionId=7#top"
    )
    address = parse_address(signed)
    assert address.shown == "https://b.s3.amazonaws.com/a.h5ad?versionId=7"
    assert address.url == signed.removesuffix("#top")
    geo = "https://h/geo/download/?acc=GSE1&format=file&file=GSE1%5FRAW%2Etar"
    shown = parse_address(geo).shown
    assert shown == "https://h/geo/download/?acc=GSE1&format=file&file=GSE1_RAW.tar"


@pytest.mark.parametrize(
    ("url", "disposition", "name"),
    [
        ("https://h/a/x.h5ad", None, "x.h5ad"),
        ("https://h/a/x%20y.h5ad?v=1", None, "x y.h5ad"),
        ("https://h/a/content", 'attachment; filename="x.h5ad"', "x.h5ad"),
        ("https://h/a", "attachment; filename*=UTF-8''x%20%C3%A4.h5ad", "x ä.h5ad"),
        ("https://h/a/x.h5ad", "inline", "x.h5ad"),
        ("https://h/download/?acc=GSE1&file=GSE1%5FRAW%2Etar", None, "GSE1_RAW.tar"),
        ("https://h/download?file=../../etc/x.h5ad", None, "x.h5ad"),
        ("https://h/download?file=..%2F..%2F.h5ad", None, "download"),
        ("https://h/download?file=C%3A%5Cx%5Cy.csv", None, "y.csv"),
        ("https://h/a", 'attachment; filename="../../.bashrc"', "bashrc"),
        ("https://h/a", 'attachment; filename="/etc/x\x01|\x1b[2J.csv"', "x___[2J.csv"),
        ("https://h/a", 'attachment; filename=".."', "a"),
        ("https://h/%2e%2e%2f%2e%2e%2fx.csv", None, "x.csv"),
        ("https://h/", None, "download"),
        ("https://h/" + "n" * 300 + ".h5ad", None, "n" * 195 + ".h5ad"),
    ],
)
def test_a_file_gets_a_name_that_is_safe(url: str, disposition: str | None, name: str) -> None:
    assert file_name(parse_address(url), disposition) == name


# The web


@pytest.fixture(scope="module")
def server() -> Iterator[Web]:
    with web_server() as web:
        yield web


@pytest.fixture
def web(server: Web) -> Web:
    server.replies.clear()
    server.asked.clear()
    return server


BODY = random.Random(0).randbytes(20 << 20)


def test_a_file_comes_whole_under_its_name(web: Web, tmp_path: Path) -> None:
    web.replies["/d/x%20y.h5ad"] = Reply(body=BODY)
    seen: list[Progress] = []
    address = parse_address(f"{web.url}/d/x%20y.h5ad?a=b%2Fc")
    path = download(address, tmp_path, limits=QUICK, on_progress=seen.append)
    assert path == tmp_path / "x y.h5ad"
    assert tree_of(tmp_path) == {"x y.h5ad": BODY}
    # The server sees the address as it was written.
    assert web.asked == [("/d/x%20y.h5ad?a=b%2Fc", None)]
    assert seen[-1] == Progress(what=f"download {address.shown}", done=20 << 20, total=20 << 20)


def test_nothing_that_stands_there_is_overwritten(web: Web, tmp_path: Path) -> None:
    web.replies["/x.csv"] = Reply(body=b"new")
    (tmp_path / "x.csv").write_bytes(b"old")
    path = got(f"{web.url}/x.csv", tmp_path)
    assert (path.name, path.read_bytes()) == ("x.csv", b"new")
    assert (tmp_path / "x.csv").read_bytes() == b"old"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(web: Web, tmp_path: Path, status: int) -> None:
    named = {"Content-Disposition": 'attachment; filename="real.h5ad"'}
    web.replies["/files/7"] = Reply(status=status, headers={"Location": "/store/7?sig=a%2Fb"})
    web.replies["/store/7"] = Reply(body=b"data", headers=named)
    assert got(f"{web.url}/files/7", tmp_path).name == "real.h5ad"
    assert tree_of(tmp_path) == {"real.h5ad": b"data"}
    assert web.asked[-1] == ("/store/7?sig=a%2Fb", None)


def test_a_connection_that_breaks_is_taken_up_again(web: Web, tmp_path: Path) -> None:
    web.replies["/x"] = Reply(body=BODY, headers={"ETag": '"1"'}, resumes=True)
    got(f"{web.url}/x", tmp_path, Limits(reserve_bytes=0, n_retries=2))
    assert tree_of(tmp_path) == {"x": BODY}
    assert len(web.asked) == 2
    assert str(web.asked[1][1]).startswith("bytes=")


def test_counted_pieces_of_no_announced_length_come_whole(web: Web, tmp_path: Path) -> None:
    named = {"Content-Disposition": "attachment; filename=x.zip"}
    web.replies["/a"] = Reply(status=302, headers={"Location": "/b"})
    web.replies["/b"] = Reply(body=BODY[:5555], headers=named, pieces=True)
    got(f"{web.url}/a", tmp_path)
    assert tree_of(tmp_path) == {"x.zip": BODY[:5555]}


HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(status=404), "not found (404); check the address"),
        (Reply(status=410), "not found (410); check the address"),
        (Reply(status=401), "access is refused (401); it wants a login, or the link has expired"),
        (Reply(status=403), "access is refused (403); it wants a login, or the link has expired"),
        (Reply(status=429), "the server answers 429; try again later"),
        (Reply(status=500), "the server answers 500; try again later"),
        (Reply(body=b"ab", length=1000), "the connection broke off before the announced length"),
        (Reply(body=b"ab", length=-1), "has no announced length, so nobody can say"),
        (Reply(body=BODY[:5555], pieces=True, last_piece=False), "the connection broke off"),
        (Reply(body=b"<html>", headers=HTML), "is a web page, no data file"),
        (Reply(body=b"<html>", headers=HTML, pieces=True), "is a web page, no data file"),
        (Reply(body=b"?", headers={"Content-Encoding": "br"}), "the server sends x packed (br)"),
        (Reply(status=302, headers={"Location": "/x"}), "it is handed on in a circle"),
        (Reply(status=302, headers={"Location": "file:///etc/passwd"}), "the server answers 302"),
        (
            Reply(status=302, headers={"Location": "ftp://h/f"}),
            "leads on to an address that is not",
        ),
        (Reply(body=bytes(1000), length=1 << 45), "has 32 TiB, more than 2 TiB"),
    ],
)
def test_a_reply_that_is_not_the_file_is_refused(
    web: Web, tmp_path: Path, reply: Reply, told: str
) -> None:
    web.replies["/x"] = reply
    assert told in refusal(f"{web.url}/x?token=hidden", tmp_path)


def test_a_missing_file_is_a_missing_file(web: Web, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        got(f"{web.url}/none", tmp_path)
    assert "a .zarr is a folder" in refusal(f"{web.url}/x.zarr", tmp_path)


def test_a_folder_of_a_web_server_is_refused_before_it_is_asked(web: Web, tmp_path: Path) -> None:
    assert "is a folder, which a web server cannot list" in refusal(f"{web.url}/d/", tmp_path)
    assert web.asked == []


def test_a_silent_server_is_given_up(web: Web, tmp_path: Path) -> None:
    patience = Limits(reserve_bytes=0, n_retries=0, silence_s=0.3)
    for pieces in (False, True):
        web.replies["/x"] = Reply(body=BODY[:5000], silence_s=0.8, pieces=pieces)
        told = refusal(f"{web.url}/x", tmp_path, patience)
        assert ("broke off" if pieces else "nothing came for 0.3 s") in told


def test_a_server_that_fails_is_asked_again(web: Web, tmp_path: Path) -> None:
    web.replies["/x"] = Reply(status=503)
    refusal(f"{web.url}/x", tmp_path, Limits(n_retries=1))
    assert len(web.asked) == 2


def test_nobody_there_is_told(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        told = refusal(f"http://127.0.0.1:{port}/x", tmp_path)
    assert f"127.0.0.1:{port} refuses the connection; check the address" in told
    assert "no server called nosuch.invalid" in refusal("http://nosuch.invalid/x", tmp_path)


def test_a_disk_that_is_too_small_is_told_before_anything_comes(web: Web, tmp_path: Path) -> None:
    web.replies["/x"] = Reply(body=b"x" * 2000)
    limits = Limits(reserve_bytes=1 << 60)
    assert "needs 1.95 KiB in " in refusal(f"{web.url}/x", tmp_path, limits)


def test_over_https_certificates_count_and_nothing_leads_out_of_it(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, certificate = write_certificate(tmp_path)
    into = tmp_path / "into"
    into.mkdir()
    with web_server(certificate) as safe:
        safe.replies["/a"] = Reply(status=302, headers={"Location": "/b"})
        safe.replies["/b"] = Reply(body=b"data", headers={"ETag": '"1"'})
        safe.replies["/pieces"] = Reply(body=b"pieces", pieces=True)
        safe.replies["/down"] = Reply(status=302, headers={"Location": f"{web.url}/b"})
        web.replies["/b"] = Reply(body=b"swapped")
        assert "the certificate of the server is not trusted" in refusal(f"{safe.url}/b", into)
        assert safe.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        told = refusal(f"{safe.url}/down", into)
        assert "leads on to an address that is not https://" in told
        plain = web.url.replace("http:", "https:")
        assert "does not speak https" in refusal(f"{plain}/b", into)
        assert web.asked == []
        got(f"{safe.url}/a", into)
        got(f"{safe.url}/pieces", into)
    assert tree_of(into) == {"a": b"data", "pieces": b"pieces"}


# Object stores


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_store() as address:
        yield address


@pytest.fixture
def bucket(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """A new bucket, as boto3 sees it, and the environment that leads to it."""
    given = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    config = Config(s3={"addressing_style": "path"}, parameter_validation=False)
    s3 = boto3.resource("s3", config=config)
    bucket = s3.create_bucket(Bucket=f"bucket{zlib.crc32(request.node.nodeid.encode())}")
    yield bucket
    s3.meta.client.close()


def fill(bucket: Any, objects: Mapping[str, bytes], *, acl: str = "private") -> str:
    for key, data in objects.items():
        bucket.put_object(Key=key, Body=data, ACL=acl)
    return f"s3://{bucket.name}"


ODD = {
    "a b.txt": b"1",
    "ü#%41+~[x].txt": b"2",
    "sub/deep/c.csv": b"3",
    "empty": b"",
    "a?b=c&d": b"5",
}


def test_an_object_comes_as_a_file(bucket: Any, tmp_path: Path) -> None:
    at = fill(bucket, {"d/x.h5ad": BODY, "d/x.h5ad.md5": b"no", "d/ü #%41?.csv": b"odd"})
    assert got(f"{at}/d/x.h5ad", tmp_path) == tmp_path / "x.h5ad"
    got(f"{at}/d/ü #%41?.csv", tmp_path)
    assert tree_of(tmp_path) == {"x.h5ad": BODY, "ü #%41?.csv": b"odd"}


@pytest.mark.parametrize("end", ["", "/"])
def test_a_prefix_comes_as_a_folder_with_its_structure(
    bucket: Any, tmp_path: Path, end: str
) -> None:
    beside = {"d/x.zarr2/no": b"no", "d/x": b"no", "x.zarr/no": b"no"}
    at = fill(bucket, {f"d/x.zarr/{key}": ODD[key] for key in ODD} | beside)
    assert got(f"{at}/d/x.zarr{end}", tmp_path) == tmp_path / "x.zarr"
    assert tree_of(tmp_path / "x.zarr") == ODD


def test_a_bucket_comes_whole(bucket: Any, tmp_path: Path) -> None:
    assert got(fill(bucket, ODD), tmp_path) == tmp_path / bucket.name
    assert tree_of(tmp_path / bucket.name) == ODD


def test_many_objects_come_and_progress_ends_at_their_sum(bucket: Any, tmp_path: Path) -> None:
    objects = {f"x.zarr/c/{i // 20}/{i}": str(i).encode() * 9 for i in range(50)}
    address = parse_address(fill(bucket, objects) + "/x.zarr")
    seen: list[Progress] = []
    root = download(address, tmp_path, limits=QUICK, on_progress=seen.append)
    assert {f"x.zarr/{key}": value for key, value in tree_of(root).items()} == objects
    done = [each.done for each in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total == sum(map(len, objects.values()))


def test_the_markers_of_folders_are_no_files(bucket: Any, tmp_path: Path) -> None:
    at = fill(bucket, {"d/": b"", "d/sub/": b"", "d/sub/x": b"1", "d/none/": b""})
    got(f"{at}/d", tmp_path)
    # Of a folder that holds nothing, a listing does not tell whether it is one.
    assert tree_of(tmp_path / "d") == {"sub/x": b"1", "none": b""}


def test_an_object_is_preferred_to_the_folder_of_its_name(bucket: Any, tmp_path: Path) -> None:
    at = fill(bucket, {"d": b"file", "d/x": b"below"})
    assert got(f"{at}/d", tmp_path).read_bytes() == b"file"
    got(f"{at}/d/", _made(tmp_path / "other"))
    assert tree_of(tmp_path / "other") == {"d/x": b"below"}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("objects", "told"),
    [
        ({"d/a//b": b"1"}, 'holds a name with an empty part, "." or ".."'),
        ({"d/../../b": b"1"}, 'holds a name with an empty part, "." or ".."'),
        ({"d/a\\b": b"1"}, "has a backslash in its name"),
        ({"d/x": b"1", "d/X": b"2"}, "stands there twice"),
        ({"d/x": b"1", "d/x/y": b"2"}, "stands there as a file and as a folder"),
        ({"e/x": b"1"}, "no file and no folder of that name; check the address"),
        ({"d/.DS_Store": b"1"}, "holds no file"),
    ],
)  # fmt: skip
def test_a_prefix_that_is_not_safe_is_refused(
    bucket: Any, tmp_path: Path, objects: dict[str, bytes], told: str
) -> None:
    assert told in refusal(f"{fill(bucket, objects)}/d", tmp_path)


def test_limits_hold_for_a_prefix(bucket: Any, tmp_path: Path) -> None:
    at = fill(bucket, {f"d/{i}": b"12345" for i in range(5)})
    cases = {
        "more than 4 files": Limits(max_entries=4),
        "has 25 B, more than 24 B": Limits(max_bytes=24),
        "needs 25 B in ": Limits(reserve_bytes=1 << 60),
    }
    for told, limits in cases.items():
        assert told in refusal(f"{at}/d", tmp_path, limits)


def test_what_changes_while_it_is_listed_is_refused(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = fill(bucket, {"d/x": b"12345", "d/y": b"1"})
    from cellplm.ingest.fetch import remote

    below = remote._below

    def listed_before(store: Any, transfer: Any) -> Any:
        found = below(store, transfer)
        fill(bucket, {"d/x": b"123"})
        return found

    monkeypatch.setattr(remote, "_below", listed_before)
    assert "3 bytes of d/x came, but 5 were announced" in refusal(f"{at}/d", tmp_path)


def test_what_is_not_there_is_missing(bucket: Any, tmp_path: Path) -> None:
    at = fill(bucket, {"d/x": b"1"})
    with pytest.raises(MissingFileError, match="no file and no folder of that name"):
        got(f"{at}/d/y", tmp_path)
    with pytest.raises(MissingFileError, match="there is no bucket nosuch-bucket"):
        got("s3://nosuch-bucket/x", tmp_path)


def test_what_is_public_comes_without_credentials(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    at = fill(bucket, {"public": b"1"}, acl="public-read")
    fill(bucket, {"private": b"2"})
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    got(f"{at}/public", tmp_path)
    assert tree_of(tmp_path) == {"public": b"1"}
    (tmp_path / "public").unlink()
    told = refusal(f"{at}/private", tmp_path)
    assert "access is refused (403); set AWS_ACCESS_KEY_ID" in told
    monkeypatch.delenv("AWS_SKIP_SIGNATURE")
    # Where the credentials of a machine would be asked for; here nobody answers.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"{endpoint}/nobody")
    told = refusal(f"{at}/public", tmp_path)
    assert "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or" in told


def test_an_endpoint_that_cannot_be_used_is_told(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = fill(bucket, {"x": b"1"})
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert "set AWS_ALLOW_HTTP=true to allow that" in refusal(f"{at}/x", tmp_path)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        told = refusal(f"{at}/x", tmp_path)
    assert "refuses the connection; check the address and AWS_ENDPOINT_URL" in told


def test_times_of_the_environment_are_kept(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = fill(bucket, {"x": b"1"})
    monkeypatch.setenv("AWS_TIMEOUT", "1ns")
    assert "nothing came for" in refusal(f"{at}/x", tmp_path)


def test_a_google_address_is_read_by_googles_client(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """For reading, Google's XML interface is that of S3, so moto answers; Google is not asked."""
    fill(bucket, {f"d/x.zarr/{key}": ODD[key] for key in ODD}, acl="public-read")
    account = tmp_path / "account.json"
    known = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": ""}
    account.write_text(json.dumps(known | {"private_key": "", "private_key_id": ""}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(account))
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    into = _made(tmp_path / "into")
    got(f"gs://{bucket.name}/d/x.zarr", into)
    got(f"gs://{bucket.name}/d/x.zarr/sub/deep/c.csv", into)
    assert tree_of(into / "x.zarr") == ODD
    assert (into / "c.csv").read_bytes() == b"3"
    into = _made(tmp_path / "other")
    assert "no file and no folder" in refusal(f"gs://{bucket.name}/nothing", into)
