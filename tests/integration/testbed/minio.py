"""A real S3 server (MinIO) on loopback with its own keys, and a wire in front of it that counts, stalls and breaks.

MinIO is built by tools/build_tools.py from its Go module; it is used by tests only and is no part of what is shipped.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import obstore
from obstore.store import S3Store
from tests.eventually import eventually
from tests.integration.testbed.processes import Process
from tools.build_tools import program

from conclave_cli.local.ports import free_port

USER, PASSWORD = "conclave-tests", "conclave-tests-only"


class Minio:
    """Use as a context manager; buckets are directories below `directory`."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment: Mapping[str, str] = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD}

    def __enter__(self) -> Minio:
        data = self.directory / "data"
        data.mkdir(parents=True)
        console = f"127.0.0.1:{free_port()}"
        self._process = Process(
            "minio",
            [program("minio"), "server", data, "--address", f"127.0.0.1:{self.port}", "--console-address", console],
            self.directory / "minio.log",
            env={
                "MINIO_ROOT_USER": USER,
                "MINIO_ROOT_PASSWORD": PASSWORD,
                "MINIO_BROWSER": "off",
                "MINIO_CALLHOME_ENABLE": "off",
                "MINIO_UPDATE": "off",
                "GOMEMLIMIT": "256MiB",
                "HOME": str(self.directory),
            },
        )
        try:
            eventually(self._is_ready, timeout=60)
        except BaseException:
            self._process.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def make_bucket(self, name: str) -> None:
        (self.directory / "data" / name).mkdir()

    def upload(self, root: Path, bucket: str, prefix: str, part_bytes: int = 8 * 1024**2) -> None:
        """Every file below a directory, hidden ones too; in parts where they are larger than one."""
        store = self.store(bucket)
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            name = f"{prefix}/{path.relative_to(root).as_posix()}"
            obstore.put(store, name, path, use_multipart=path.stat().st_size > part_bytes, chunk_size=part_bytes)

    def store(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            config={
                "access_key_id": USER,
                "secret_access_key": PASSWORD,
                "endpoint": self.url,
                "region": "us-east-1",
            },
            client_options={"allow_http": True},
        )

    def _is_ready(self) -> bool:
        self._process.require_running()
        try:
            with urllib.request.urlopen(f"{self.url}/minio/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class Wire:
    """A TCP relay to a server: counts what comes back, and after so many bytes stalls or breaks."""

    def __init__(self, port: int, *, stall_after: int | None = None, break_after: int | None = None):
        self.received_bytes = 0
        self.stalled = threading.Event()
        self._released = threading.Event()
        self._target, self._stall_after, self._break_after = port, stall_after, break_after
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Wire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        for open_socket in self._sockets:
            _close(open_socket)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._sockets += [client, server]
            for source, sink, is_answer in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, is_answer), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        try:
            while data := source.recv(65536):
                if is_answer and not self._may_pass(len(data)):
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            _close(end)

    def _may_pass(self, count_bytes: int) -> bool:
        with self._lock:
            self.received_bytes += count_bytes
            received_bytes = self.received_bytes
        if self._break_after is not None and received_bytes > self._break_after:
            self._break_after = None  # once: the next try gets through
            return False
        if self._stall_after is not None and received_bytes > self._stall_after:
            self.stalled.set()
            self._released.wait()
        return True


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
