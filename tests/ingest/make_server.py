"""Real servers on loopback: the web, with and without TLS, and an object store (moto)."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a web server answers.

    Attributes:
        body: what it sends.
        status: of HTTP.
        headers: besides the length.
        length: what it announces: None for the length of the body, -1 for nothing.
        pieces: whether it sends counted pieces, and whether the last one of them.
        silence_s: how long it waits in the middle of the body.
        resumes: whether the first answer breaks off in the middle, and ranges are answered.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    pieces: bool = False
    last_piece: bool = True
    silence_s: float = 0
    resumes: bool = False


class Web(ThreadingHTTPServer):
    """A web server; `replies` is by path, and `asked` is every request line with its range."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: dict[str, Reply] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"


@contextmanager
def web_server(certificate: Path | None = None) -> Iterator[Web]:
    server = Web()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        before = len(self.server.asked)
        self.server.asked.append((self.path, asked))
        reply = self.server.replies.get(self.path.partition("?")[0], Reply(status=404))
        body = reply.body
        if reply.resumes and asked:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        else:
            self.send_response(reply.status)
        for key, value in reply.headers.items():
            self.send_header(key, value)
        if reply.pieces:
            self.send_header("Transfer-Encoding", "chunked")
            body = (
                b"".join(
                    b"%x\r\n%s\r\n" % (len(part), part)
                    for part in (body[i : i + 1000] for i in range(0, len(body), 1000))
                )
                + b"0\r\n\r\n" * reply.last_piece
            )
        elif reply.length != -1:
            self.send_header("Content-Length", str(reply.length or len(body)))
        self.end_headers()
        half = len(body) // 2
        cut = reply.resumes and not asked and not before
        self.wfile.write(body[:half])
        self.wfile.flush()
        time.sleep(reply.silence_s)
        if not cut:
            self.wfile.write(body[half:])
        self.close_connection = cut or not reply.last_piece or reply.length is not None


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """An authority, and a certificate of 127.0.0.1 with its key that it has signed."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of this test")])
    signed = []
    for i, key in enumerate(keys):
        builder = x509.CertificateBuilder(
            issuer_name=name,
            subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{i}")])
            if i
            else name,
            public_key=key.public_key(),
            serial_number=i + 1,
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(hours=1),
        )
        loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = (
            builder.add_extension(loopback, critical=False)
            if i
            else builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        )
        signed.append(builder.sign(keys[0], hashes.SHA256()))
    pem = serialization.Encoding.PEM
    secret = keys[1].private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    authority, server = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(signed[0].public_bytes(pem))
    server.write_bytes(signed[1].public_bytes(pem) + secret)
    return authority, server


@contextmanager
def object_store() -> Iterator[str]:
    """A moto server in its own process; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            for _ in range(600):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
