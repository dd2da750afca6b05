"""Addresses as text: which they are, what may be shown of them, and what the file is called.

Pure text: nothing here opens a connection. A bucket's keys are taken as they stand (no "%20", no
query); a web address is one as in a browser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from cellplm.errors import InputError

SCHEMES = ("s3", "gs", "https", "http", "file")
_SECRET = re.compile(r"x-amz-|x-goog-|sig|token|key|cred|secret|passw|auth|expires|policy", re.I)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,221}")
_SUFFIX = re.compile(r"\.\w{1,8}$")
_MAX_NAME = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """One address, taken apart.

    Attributes:
        scheme: one of `SCHEMES`.
        place: the bucket or the host with its port; empty for a file.
        key: the name in the bucket, without "/" at its ends; or the path on the server or disk.
        is_folder: whether it ends in "/".
        url: what is asked for.
        shown: the address without what must not be shown (signatures, tokens).
        parent: `shown` without its last part; addresses that share it are of one folder.
    """

    scheme: str
    place: str
    key: str
    is_folder: bool
    url: str
    shown: str
    parent: str


def is_remote(text: str) -> bool:
    """Whether this is an address and no path; of a scheme that is known or not."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", _mended(text)) is not None


def parse_address(text: str) -> Address:
    """Take an address apart.

    Raises:
        InputError: it is of another scheme, or not whole.
    """
    url = _mended(text)
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise InputError(f"{public(url)}: addresses begin with {known}; download it yourself")
    if scheme in ("s3", "gs"):
        return _in_bucket(scheme, url, rest)
    return _on_server(scheme, url)


def file_name(address: Address, disposition: str | None) -> str:
    """A name for what a web server sends, safe as the name of a file.

    What the server calls it, else the last part of the path, else a name in the query
    ("?acc=GSE1&file=GSE1_RAW.tar").
    """
    message = Message()
    message["Content-Disposition"] = disposition or ""
    last = unquote(address.key).rstrip("/")
    query = [value for _, value in parse_qsl(urlsplit(address.url).query)]
    names = [_clean(name) for name in (message.get_filename() or "", last, *query)]
    named = (name for name in names if _SUFFIX.search(name))
    return names[0] or next(named, "") or names[1] or "download"


def _mended(text: str) -> str:
    """The address that a `Path` was made of: that takes "s3://x" to "s3:/x"."""
    text = re.sub(r"^file:/(?!/)", "file:///", text)
    return re.sub(r"^(s3|gs|https?):/(?!/)", r"\1://", text)


def _in_bucket(scheme: str, url: str, rest: str) -> Address:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise InputError(f"{url}: no name of a bucket; it is {scheme}://bucket/name")
    trimmed = key.rstrip("/")
    return Address(
        scheme=scheme,
        place=bucket,
        key=trimmed,
        is_folder=not key or key.endswith("/"),
        url=url,
        shown=url,
        parent=f"{scheme}://{bucket}/{trimmed}".rstrip("/").rpartition("/")[0],
    )


def _on_server(scheme: str, url: str) -> Address:
    shown = public(url)
    try:
        parts = urlsplit(url)
        host, port, user = parts.hostname or "", parts.port, parts.username
    except ValueError as error:
        raise InputError(f"{shown}: is no address ({error})") from None
    if user is not None:
        raise InputError(f"{shown}: an address with a user name is not read; download it yourself")
    path = parts.path
    if scheme == "file":
        path = unquote(path)
        if host not in ("", "localhost") or not path.startswith("/") or "\0" in path:
            raise InputError(f"{shown}: names no file of this machine; it is file:///folder/name")
        host = ""
    elif not host:
        raise InputError(f"{shown}: names no server; it is {scheme}://server/name")
    return Address(
        scheme=scheme,
        place=f"{host}:{port}" if port else host,
        key=path,
        is_folder=path.endswith("/") and not parts.query,
        url=urlunsplit(parts._replace(fragment="")),
        shown=shown,
        parent=urlunsplit((scheme, parts.netloc, path.rstrip("/").rpartition("/")[0], "", "")),
    )


def public(url: str) -> str:
    """An address without its user, its fragment and all of its query that may be secret."""
    base, _, query = url.partition("#")[0].partition("?")
    base = re.sub(r"://[^/]*@", "://", base)
    kept = [(k, v) for k, v in parse_qsl(query, True) if not _SECRET.search(k)]
    shown = f"{base}?{urlencode(kept, safe=':/,')}" if kept else base
    return "".join(char if char.isprintable() else "_" for char in shown)


def _clean(name: str) -> str:
    """The last part of a name, with nothing in it that a disk or a shell would mind."""
    last = re.split(r"[/\\]", name)[-1]
    plain = "".join(char if char.isprintable() and char not in '<>:"|?*' else "_" for char in last)
    plain = plain.strip(". ")
    while len(plain.encode()) > _MAX_NAME:
        plain = plain[1:]
    return plain
