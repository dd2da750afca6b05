"""Read a web server that does not say beforehand how long a file is, but where it ends.

obstore takes only replies with a Content-Length. Servers that pack as they send (GitHub's
archives are the usual case) have none; they send counted pieces, the last of which is empty
(Transfer-Encoding: chunked), so a reply that is cut off is still told from a whole one. A reply
with neither is refused: nobody can say whether it is whole.
"""

from __future__ import annotations

import string
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from urllib.parse import quote, urlsplit

from cellplm.errors import InputError
from cellplm.ingest.fetch.address import Address
from cellplm.ingest.fetch.limits import Limits

_CHUNK = 1 << 20
_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
)


@contextmanager
def read_pieces(
    address: Address, limits: Limits
) -> Iterator[tuple[dict[str, str], Iterator[bytes]]]:
    """Ask for a file.

    Yields:
        The headers of the reply, their names in lower case, and the contents, to be read to
        their end.

    Raises:
        InputError: it cannot be had; also while it is read.
    """
    # Not urllib's own opener, which would follow an address or a redirect to ftp:// and file://.
    opener = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    request = urllib.request.Request(quote(address.url, safe=string.punctuation))
    try:
        response = opener.open(request, timeout=limits.silence_s)
    except (OSError, HTTPException) as error:
        raise InputError(f"{address.shown}: cannot be read ({error}); try again later") from None
    with response:
        fault = None
        if not isinstance(response, HTTPResponse):
            fault = "is not answered over http"
        elif address.scheme == "https" and urlsplit(response.url).scheme != "https":
            fault = "leads on to an address that is not https://"
        elif not response.chunked:
            fault = "has no announced length, so nobody can say whether all of it came"
        if fault:
            raise InputError(f"{address.shown}: {fault}; download it yourself")
        headers = {key.lower(): value for key, value in response.headers.items()}
        yield headers, _read(response, address)


def _read(response: HTTPResponse, address: Address) -> Iterator[bytes]:
    while True:
        try:
            piece = response.read(_CHUNK)
        except (OSError, HTTPException) as error:
            raise InputError(
                f"{address.shown}: the connection broke off before the end "
                f"({type(error).__name__}); try again"
            ) from None
        if not piece:
            return
        yield piece
