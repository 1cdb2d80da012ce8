"""A small hub over real sockets: the part of the Hugging Face hub's protocol that a download speaks, and its failures.

Large files and safetensors are sent by a second server, the CDN, as Git LFS has it. Needs the standard library only, so
that a pod of the end-to-end tests runs this very file: `python server.py --root DIR --port N --cdn-port M --host NAME`,
where DIR has ORGANISATION/NAME/COMMIT/files.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_BYTES = 1024**2
"""Files of this size are in LFS, and so are safetensors of any size."""
CHUNK_BYTES = 64 * 1024
_TREE = re.compile("/api/models/(.+)/tree/([^/]+)")
_REVISION = re.compile("/api/models/(.+)/revision/([^/]+)")
_RESOLVE = re.compile("/(.+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile("bytes=([0-9]+)-([0-9]*)")


@dataclass(frozen=True)
class Seen:
    """A request that a server got."""

    server: str
    """`hub` or `cdn`."""
    method: str
    path: str
    headers: Mapping[str, str]
    """With lower-case names."""

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization")


@dataclass
class Content:
    """A file of a repository."""

    data: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data, usedforsecurity=False).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id


@dataclass
class Answer:
    """An answer that a test wishes instead of the right one."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class TestHub:
    """Use as a context manager. A test changes the attributes between requests."""

    __test__ = False

    def __init__(self, host: str = "127.0.0.1", port: int = 0, cdn_port: int = 0, bind: str = "127.0.0.1") -> None:
        self.repositories: dict[tuple[str, str], dict[str, Content]] = {}
        self.seen: list[Seen] = []
        self.token: str | None = None
        """What the hub wants of the gated repository; None of a public one."""
        self.page = 1000
        self.extra_entries: list[object] = []
        """Entries of the listing besides those of the files."""
        self.override: Callable[[Seen], Answer | None] = lambda _seen: None
        self.has_tree = self.has_blobs = self.has_ranges = True
        self.sent_bytes = 0
        """Of files, by both servers."""
        self.stall_after: int | None = None
        self.break_after: int | None = None
        """After so many bytes of files, once."""
        self.stalled = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._servers = [_server(self, name, bind, at) for name, at in (("hub", port), ("cdn", cdn_port))]
        self.url, self.cdn_url = (f"http://{host}:{server.server_address[1]}" for server in self._servers)

    def __enter__(self) -> TestHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, repository: str, commit: str, root: Path) -> dict[str, Content]:
        """All files below a directory, hidden ones too, as a commit of the repository."""
        files = {
            path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
        }
        content = {
            path: Content(data, len(data) >= LFS_BYTES or path.endswith(".safetensors")) for path, data in files.items()
        }
        self.repositories[repository, commit] = content
        return content

    def tokens(self, server: str) -> set[str | None]:
        """The Authorization headers that a server got."""
        return {seen.token for seen in self.seen if seen.server == server}

    def answer(self, seen: Seen) -> Answer:
        """What the hub, or the CDN, answers."""
        wished = self.override(seen)
        if wished is not None:
            return wished
        url = urlsplit(seen.path)
        path = unquote(url.path)
        if seen.server == "cdn":
            return self._blob(path.rpartition("/")[2], seen)
        if found := _TREE.fullmatch(path):
            if not self.has_tree:
                return Answer(404, {}, b"not found")
            return self._commit(found[1], found[2]) or self._tree(found[1], found[2], parse_qs(url.query))
        if found := _REVISION.fullmatch(path):
            return self._commit(found[1], found[2]) or self._info(found[1], found[2], parse_qs(url.query))
        if found := _RESOLVE.fullmatch(path):
            return self._commit(found[1], found[2]) or self._resolve(found[1], found[2], found[3], seen)
        return Answer(404, {}, b"not found")

    def _commit(self, repository: str, commit: str) -> Answer | None:
        if (repository, commit) in self.repositories:
            return None
        if any(repository == known for known, _ in self.repositories):
            return failure(404, "RevisionNotFound", f"Invalid rev id: {commit}")
        return failure(401, "RepoNotFound", "Repository not found")

    def _tree(self, repository: str, commit: str, query: Mapping[str, list[str]]) -> Answer:
        files = self.repositories[repository, commit]
        entries: list[object] = [{"type": "directory", "path": "sub", "oid": "0" * 40}]
        for path, content in files.items():
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(content.data)}
            entry["oid"] = content.blob_id
            if content.is_lfs:
                entry["lfs"] = {"oid": content.sha256, "size": len(content.data), "pointerSize": 134}
                entry["xetHash"] = "f" * 64
            entries.append(entry)
        entries += self.extra_entries
        begin = int(query.get("cursor", ["0"])[0])
        headers = {"Content-Type": "application/json"}
        if begin + self.page < len(entries):
            following = f"{self.url}/api/models/{repository}/tree/{commit}?recursive=True&cursor={begin + self.page}"
            headers["Link"] = f'<{following}>; rel="next"'
        return Answer(200, headers, json.dumps(entries[begin : begin + self.page]).encode())

    def _info(self, repository: str, commit: str, query: Mapping[str, list[str]]) -> Answer:
        siblings = []
        for path, content in self.repositories[repository, commit].items():
            sibling: dict[str, object] = {"rfilename": path}
            if self.has_blobs and "blobs" in query:
                sibling |= {"size": len(content.data), "blobId": content.blob_id}
                if content.is_lfs:
                    sibling["lfs"] = {"sha256": content.sha256, "size": len(content.data), "pointerSize": 134}
            siblings.append(sibling)
        body = {"id": repository, "modelId": repository, "sha": commit, "siblings": siblings, "private": False}
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _resolve(self, repository: str, commit: str, path: str, seen: Seen) -> Answer:
        if self.token is not None and seen.token != f"Bearer {self.token}":
            words = f"Access to model {repository} is restricted"
            return failure(403 if seen.token else 401, "GatedRepo", words)
        content = self.repositories[repository, commit].get(path)
        if content is None:
            return failure(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if content.is_lfs:
            headers |= {
                "X-Linked-Etag": f'"{content.sha256}"',
                "X-Linked-Size": str(len(content.data)),
                "Location": f"{self.cdn_url}/{quote(repository)}/{content.sha256}?X-Signature=secret-of-the-url",
            }
            return Answer(302, headers, b"Found. Redirecting")
        return self._ranged(content, {**headers, "ETag": f'"{content.blob_id}"'}, seen)

    def _blob(self, sha256: str, seen: Seen) -> Answer:
        for files in self.repositories.values():
            for content in files.values():
                if content.is_lfs and content.sha256 == sha256:
                    return self._ranged(content, {"ETag": f'"{sha256[:32]}"'}, seen)
        return Answer(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")

    def _ranged(self, content: Content, headers: Mapping[str, str], seen: Seen) -> Answer:
        asked = _RANGE.fullmatch(seen.headers.get("range", ""))
        if asked is None or not self.has_ranges:
            return Answer(200, headers, content.data)
        size_bytes = len(content.data)
        begin, end = int(asked[1]), min(int(asked[2] or size_bytes - 1), size_bytes - 1)
        if begin > end:
            return Answer(416, {**headers, "Content-Range": f"bytes */{size_bytes}"})
        said = f"bytes {begin}-{end}/{size_bytes}"
        return Answer(206, {**headers, "Content-Range": said}, content.data[begin : end + 1])

    def may_send(self, count_bytes: int) -> bool:
        """Counts bytes of files; stalls, or says that the connection breaks here."""
        with self._lock:
            self.sent_bytes += count_bytes
            sent_bytes = self.sent_bytes
            if self.break_after is not None and sent_bytes > self.break_after:
                self.break_after = None
                return False
        if self.stall_after is not None and sent_bytes > self.stall_after:
            self.stalled.set()
            self._released.wait()
            return False
        return True


def failure(status: int, code: str, words: str) -> Answer:
    """An error as the hub has it."""
    headers = {"X-Error-Code": code, "X-Error-Message": words, "Content-Type": "application/json"}
    return Answer(status, headers, json.dumps({"error": words}).encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed is no error."""


def _server(hub: TestHub, name: str, bind: str, port: int) -> _Server:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            seen = Seen(name, self.command, self.path, headers)
            hub.seen.append(seen)
            answer = hub.answer(seen)
            self.send_response(answer.status)
            given = {"Content-Length": str(len(answer.body)), **answer.headers}
            for key, value in given.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            is_file = answer.status in (200, 206) and "/api/" not in self.path
            for begin in range(0, len(answer.body), CHUNK_BYTES):
                chunk = answer.body[begin : begin + CHUNK_BYTES]
                if is_file and not hub.may_send(len(chunk)):
                    self._break()
                    return
                self.wfile.write(chunk)
            if given["Content-Length"] != str(len(answer.body)):
                self._break()

        do_HEAD = do_GET  # noqa: N815

        def _break(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return _Server((bind, port), Handler)


def _repositories(root: Path) -> Iterator[tuple[str, str, Path]]:
    for commit in sorted(root.glob("*/*/*")):
        if commit.is_dir():
            yield commit.parent.relative_to(root).as_posix(), commit.name, commit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cdn-port", type=int, required=True)
    parser.add_argument("--host", required=True, help="the name that clients know this machine by")
    arguments = parser.parse_args()
    with TestHub(arguments.host, arguments.port, arguments.cdn_port, bind="") as hub:
        for repository, commit, directory in _repositories(arguments.root):
            hub.add(repository, commit, directory)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
