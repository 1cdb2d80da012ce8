"""A download reaches its store as the Job's variables say: past a proxy, with a company's certificates, over IPv6.

Real sockets on this machine, and the real client of object stores in a process of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOWHERE = "store.example.invalid"
"""No resolver knows it: only a proxy can lead there."""
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


def _header() -> bytes:
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"1234"


FILES = {
    "config.json": b'{"architectures": ["MixtralForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors": _header(),
}


class Store(BaseHTTPRequestHandler):
    """As much of S3 as a download asks for. What it was asked is in `seen` of its server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        if "list-type" in parse_qs(parts.query):
            rows = "".join(
                f"<Contents><Key>m/{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{hashlib.md5(content).hexdigest()}&quot;</ETag><Size>{len(content)}</Size></Contents>"
                for name, content in FILES.items()
            )
            return self._answer(
                200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()
            )
        content = FILES[parts.path.rpartition("/")[2]]
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(found[1]), int(found[2])) if found else (0, len(content) - 1)
        span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"} if found else {}
        etag = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        return self._answer(206 if found else 200, content[first : last + 1], span | etag)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Tunnel(Store):
    """A proxy that answers for the store itself where it is asked in plain HTTP, and leads to it by CONNECT."""

    def do_CONNECT(self) -> None:
        self.server.seen.append(f"CONNECT {self.path}")  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", self.server.store_port)) as store:  # type: ignore[attr-defined]
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_copy, args=(store, self.connection), daemon=True)
            back.start()
            _copy(self.connection, store)
            back.join(10)
        self.close_connection = True


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Server(ThreadingHTTPServer):
    """Of one address family."""

    daemon_threads = True

    def __init__(self, host: str, handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.seen: list[str] = []
        super().__init__((host, 0), handler)
        self.port = self.server_address[1]
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_: object) -> None:
        """A client that refuses a certificate goes away."""


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def download(target: Path, endpoint: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name.upper() not in PROXY_VARIABLES}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    command = [
        sys.executable,
        "-m",
        "conclave_weights",
        "download",
        "--endpoint",
        endpoint,
        "s3://bucket/m",
        str(target),
    ]
    return subprocess.run(
        command, env={**environment, **keys, **variables}, capture_output=True, text=True, timeout=120, check=False
    )


def fetched(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in target.glob("*") if not path.name.startswith(".")}


def is_ipv6_there() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not is_ipv6_there(), reason="this machine has no IPv6 loopback")
def test_over_ipv6(tmp_path: Path) -> None:
    with serving(Server("::1", Store)) as store:
        done = download(tmp_path / "weights", f"http://[::1]:{store.port}")
    assert (done.returncode, done.stderr) == (0, "")
    assert fetched(tmp_path / "weights") == FILES


def test_through_a_proxy(tmp_path: Path) -> None:
    with serving(Server("127.0.0.1", Tunnel)) as proxy:
        done = download(
            tmp_path / "weights", f"http://{NOWHERE}:9000", HTTP_PROXY=f"http://127.0.0.1:{proxy.port}", NO_PROXY=".svc"
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert all(path.startswith(f"http://{NOWHERE}:9000/bucket") for path in proxy.seen)
    assert fetched(tmp_path / "weights") == FILES


def test_a_store_that_needs_no_proxy_is_asked_itself(tmp_path: Path) -> None:
    with serving(Server("127.0.0.1", Store)) as store, serving(Server("127.0.0.1", Tunnel)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        endpoint = f"http://127.0.0.1:{store.port}"
        done = download(tmp_path / "weights", endpoint, HTTP_PROXY=url, NO_PROXY="localhost,127.0.0.1,::1,.svc")
        assert (done.returncode, done.stderr) == (0, "")
        assert proxy.seen == []
    assert fetched(tmp_path / "weights") == FILES


def _authority(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """A company's certificate, and a server of NOWHERE that shows one of its own from it."""
    now = datetime.now(UTC)
    key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "company")])
    build = partial(
        x509.CertificateBuilder,
        issuer_name=issuer,
        not_valid_before=now - timedelta(days=1),
        not_valid_after=now + timedelta(days=1),
    )
    root = (
        build(subject_name=issuer, public_key=key.public_key(), serial_number=1)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NOWHERE)])
    names = x509.SubjectAlternativeName([x509.DNSName(NOWHERE), x509.IPAddress(ip_address("127.0.0.1"))])
    leaf = (
        build(subject_name=name, public_key=server_key.public_key(), serial_number=2)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "ca.crt").write_bytes(root.public_bytes(pem))
    (directory / "server.pem").write_bytes(
        server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + leaf.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return directory / "ca.crt", context


def test_through_a_proxy_by_https_with_a_companys_certificates(tmp_path: Path) -> None:
    bundle, context = _authority(tmp_path)
    with serving(Server("127.0.0.1", Store, context)) as store, serving(Server("127.0.0.1", Tunnel)) as proxy:
        proxy.store_port = store.port  # type: ignore[attr-defined]
        way = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "SSL_CERT_FILE": str(bundle)}
        done = download(tmp_path / "weights", f"https://{NOWHERE}", **way)
        assert (done.returncode, done.stderr) == (0, "")
        assert {*proxy.seen} == {f"CONNECT {NOWHERE}:443"}
    assert fetched(tmp_path / "weights") == FILES


def test_without_the_certificates_the_message_names_them(tmp_path: Path) -> None:
    _, context = _authority(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    bundle, _ = _authority(other)
    with serving(Server("127.0.0.1", Store, context)) as store:
        done = download(tmp_path / "weights", f"https://127.0.0.1:{store.port}", SSL_CERT_FILE=str(bundle))
    assert done.returncode == 4
    assert "certificate" in done.stderr.lower()
