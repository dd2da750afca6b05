"""What obstore says when something cannot be had, as one line with what to do.

Its errors are long, of a few types only, and hold the address with its signature; what happened
stands in their text. This is the one place that reads that text (of obstore 0.12).
"""

from __future__ import annotations

import re

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.fetch.address import Address
from cellplm.ingest.fetch.limits import Limits

_LOGIN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true if it is "
    "public",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true if it is public",
}
_METADATA = ("/latest/api/token", "/latest/meta-data/", "/computeMetadata/v1/")
"""Where a machine in the cloud is asked for its own credentials, after the environment had none."""
_PREFIX = {"s3": "AWS", "gs": "GOOGLE"}
_ENDPOINT = {"s3": " and AWS_ENDPOINT_URL", "gs": " and GOOGLE_BASE_URL"}


def unreachable(text: str, address: Address, limits: Limits) -> InputError:
    """The error to raise instead of one of obstore's.

    Args:
        text: the whole of what obstore says.
        address: what was asked for.
        limits: with which it was asked.
    """
    found = re.search(r"status code: (\d{3})", text)
    status = int(found[1]) if found else 0
    code = re.search(r"<Code>(\w+)</Code>", text)
    told = f"{status} {code[1]}" if code else str(status)
    shown, place = address.shown, address.place
    if any(mark in text for mark in _METADATA):
        return InputError(f"{shown}: no credentials; {_LOGIN.get(address.scheme, '')}")
    if code and code[1] == "NoSuchBucket":
        return MissingFileError(f"{shown}: there is no bucket {place}; check its name")
    if status in (404, 410) or text.startswith("Object at location"):
        return MissingFileError(f"{shown}: not found ({status or 404}); {_other(address)}")
    if status in (401, 403):
        login = _LOGIN.get(address.scheme) or (
            "it wants a login, or the link has expired: download it yourself"
        )
        return InputError(f"{shown}: access is refused ({told}); {login}")
    if address.scheme == "s3" and (status == 301 or "region" in text.partition("\n")[0]):
        return InputError(f"{shown}: the bucket is in another region; set AWS_REGION to it")
    if status:
        do = "try again later" if status == 429 or status >= 500 else "check the address"
        return InputError(f"{shown}: the server answers {told}; {do}")
    return InputError(f"{shown}: {_cause(text, address, limits)}")


def _other(address: Address) -> str:
    if address.key.lower().endswith(".zarr") and address.scheme.startswith("http"):
        return (
            "a .zarr is a folder, which a web server cannot list: give s3://, gs:// or an archive"
        )
    return "check the address"


def _cause(text: str, address: Address, limits: Limits) -> str:
    causes = {
        "BadScheme": (
            f"it leads on to an address that is not {address.scheme}://; download it yourself"
            if address.scheme.startswith("http")
            else f"the endpoint begins with http://; set {_PREFIX[address.scheme]}_ALLOW_HTTP=true "
            "to allow that"
        ),
        "InvalidMessage": f"{address.place} does not speak https; check whether it is http://",
        "TooManyRedirects": "it is handed on in a circle; check the address",
        "ertificate": "the certificate of the server is not trusted; check the address",
        "TimedOut": f"nothing came for {limits.silence_s:g} s; try again later",
        "dns error": f"no server called {address.place}; check the address and the network",
        "Connection refused": (
            f"{address.place} refuses the connection; check the address"
            f"{_ENDPOINT.get(address.scheme, '')}"
        ),
        "IncompleteBody": "the connection broke off before the announced length; try again",
        "invalid path": 'holds a name with an empty part, "." or ".."; download it yourself',
    }
    first = re.sub(r"\?\S+", "", text.partition("\n")[0])[:200]
    return next(
        (told for mark, told in causes.items() if mark in text),
        f"cannot be read ({first}); check the address{_ENDPOINT.get(address.scheme, '')} and the "
        "network",
    )
