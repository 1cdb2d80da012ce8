"""Lists and reads a commit of a model repository, of the Hugging Face hub or of a mirror, for `download.py`.

The official library lists, retries and knows the hub's errors. Bytes come by plain HTTP with ranges, so that a download
can be resumed; not by Xet, which mirrors lack (docs/adr/0023). The token is in HF_TOKEN.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from conclave import __version__
from conclave.visible_text import one_line
from conclave_weights.errors import DownloadFailed, WeightsUnfit
from conclave_weights.transfer.hub_address import read_address
from conclave_weights.transfer.hub_client import HubClient
from conclave_weights.transfer.hub_failures import in_plain_words, set_token
from conclave_weights.transfer.hub_files import choose_files, pickled_weights
from conclave_weights.transfer.source import Checksum, StoredObject

if TYPE_CHECKING:
    from httpx2 import Response
    from huggingface_hub import HfApi

SILENCE_S = 60.0
MOST_FILES = 100_000
_RANGE_BYTES = 8 * 2**30
"""Of one request: the hub's CDN sends no more than 50 GB at once."""
_CHUNK_BYTES = 2**20
_TRIES, _RETRY_S = 5, 1.0
"""Tries without a new byte, and the wait before the second one. It doubles each time."""
_LONGEST_NAME_BYTES = 200
"""A file system allows 255, and the growing file has a longer name than the file."""
_SHA1, _SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")
_TOKEN = re.compile("[!-~]+")


class Hub:
    """The files of `hf://ORGANISATION/NAME@COMMIT`. Raises InvalidInput for an address or endpoint that cannot be one.

    `include` and `exclude` are patterns of paths; without `include`, the files that `choose_files` chooses. A download
    for an engine (`for_engine`) refuses a repository of pickled weights before the first byte.
    """

    kind = "hub"
    has_sure_checksums = True
    remedy = "name the revision that has these files"

    def __init__(
        self,
        uri: str,
        *,
        endpoint: str = "",
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        for_engine: bool = False,
        environment: Mapping[str, str] = os.environ,
        silence_s: float = SILENCE_S,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._address = read_address(uri, endpoint)
        self.uri, self.where = uri, self._address.where
        self._include, self._exclude, self._for_engine = tuple(include), tuple(exclude), for_engine
        self._retry_s = retry_s
        token = environment.get("HF_TOKEN", "")
        self._has_token = bool(token)
        self._api, self._headers = self._connect(token, silence_s)

    @property
    def asked(self) -> dict[str, object]:
        """Address, endpoint and patterns; the token is no part of it."""
        patterns = {"include": [*self._include], "exclude": [*self._exclude]}
        given = {name: value for name, value in patterns.items() if value}
        return {"source": self.uri, "endpoint": self._address.endpoint, **given}

    def checksum(self, item: StoredObject) -> Checksum | None:
        """SHA-256 of what is in Git LFS, SHA-1 of the rest."""
        if _SHA256.fullmatch(item.etag):
            return Checksum("SHA-256", item.etag)
        return Checksum("SHA-1", item.etag) if _SHA1.fullmatch(item.etag) else None

    def list(self) -> tuple[StoredObject, ...]:
        """The files that are wanted of the repository, sorted, without hidden ones."""
        with self._in_plain_words(self.where):
            listed = self._tree()
            wanted = self._wanted(listed)
        return tuple(listed[path] or self._ask_for(path) for path in wanted)

    def read(self, item: StoredObject, offset: int) -> Generator[memoryview, None, None]:
        """Chunks of a file from an offset on. A broken connection is opened again where it broke."""
        what = f"{self.where}: {item.path}"
        tries = 0
        while offset < item.size_bytes:
            begun = offset
            with self._in_plain_words(what):
                try:
                    with closing(self._stream(item, offset)) as chunks:
                        for chunk in chunks:
                            offset += len(chunk)
                            if offset > item.size_bytes:
                                raise DownloadFailed(
                                    f"{what}: the hub sent more than the {item.size_bytes} bytes that it lists; use "
                                    "another endpoint"
                                )
                            yield memoryview(chunk)
                    if offset == begun:
                        raise DownloadFailed(
                            f"{what}: the hub sent {offset} bytes, expected {item.size_bytes}; the download continues "
                            "from there"
                        )
                    tries = 0
                    continue
                except _transient():
                    tries = 1 if offset > begun else tries + 1
                    if tries >= _TRIES:
                        raise
            time.sleep(self._retry_s * 2 ** (tries - 1))

    def _connect(self, token: str, silence_s: float) -> tuple[HfApi, dict[str, str]]:
        try:
            from huggingface_hub import HfApi, set_client_factory
        except ImportError as error:
            raise DownloadFailed(
                "the library for hubs is not installed: pip install 'conclave-inference[download]'"
            ) from error
        if token and not _TOKEN.fullmatch(token):
            raise DownloadFailed(
                f"{self.where}: HF_TOKEN has a space, a line break or another character that no token has, expected "
                f"printable ASCII; {set_token(' again')}"
            )
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it writes URLs of the CDN, which are signed
        set_client_factory(HubClient(self._address, silence_s, has_token=self._has_token).make)
        # `False`: a token that a person has stored on the machine is not used.
        api = HfApi(
            endpoint=self._address.endpoint,
            token=token or False,
            library_name="conclave",
            library_version=__version__,
        )
        headers = {"User-Agent": f"conclave/{__version__}"}
        return api, headers | ({"Authorization": f"Bearer {token}"} if token else {})

    def _tree(self) -> dict[str, StoredObject | None]:
        """The files by path; None where only the name of a file is known."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import HfHubHTTPError

        repository, commit = self._address.repository, self._address.commit
        found: dict[str, StoredObject | None] = {}
        try:
            listing = self._api.list_repo_tree(repository, revision=commit, recursive=True)
            for number, entry in enumerate(listing, start=1):
                if number > MOST_FILES:
                    raise self._too_many()
                if isinstance(entry, RepoFile):
                    etag = entry.lfs.sha256 if entry.lfs else entry.blob_id
                    found[entry.path] = _checked(entry.path, entry.size, etag)
        except HfHubHTTPError as error:
            if error.response.status_code != 404 or error.response.headers.get("X-Error-Code"):
                raise
            return self._siblings()
        return found

    def _siblings(self) -> dict[str, StoredObject | None]:
        """The same of a mirror that has no listing of trees."""
        info = self._api.model_info(self._address.repository, revision=self._address.commit, files_metadata=True)
        self._check_commit(self.where, info.sha)
        found: dict[str, StoredObject | None] = {}
        if len(info.siblings or ()) > MOST_FILES:
            raise self._too_many()
        for sibling in info.siblings or ():
            etag = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
            is_known = sibling.size is not None and etag is not None
            found[sibling.rfilename] = _checked(sibling.rfilename, sibling.size, etag) if is_known else None
        return found

    def _too_many(self) -> DownloadFailed:
        return DownloadFailed(
            f"{self.where}: more than {MOST_FILES} files, expected those of one model; name another one"
        )

    def _ask_for(self, path: str) -> StoredObject:
        """Size and hash of one file."""
        from huggingface_hub import get_hf_file_metadata

        what = f"{self.where}: {path}"
        with self._in_plain_words(what):
            found = get_hf_file_metadata(self._url(path), token=False, headers=self._headers, retry_on_errors=True)
            self._check_commit(what, found.commit_hash)
            if found.size is None:
                raise DownloadFailed(f"{what}: the hub does not say the file's size; use another endpoint")
            return StoredObject(path, found.size, found.etag or "")

    def _wanted(self, listed: Iterable[str]) -> tuple[str, ...]:
        """Raises DownloadFailed for names that cannot be names of files here, and where nothing is wanted."""
        from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # it is loaded lazily

        given = sorted(listed)
        for path in given:
            if any(part in ("", ".", "..") for part in path.split("/")):
                raise DownloadFailed(
                    f"{self.where}: the hub lists a file {path!r}, whose name leads out of the directory; nothing was "
                    "written: use another endpoint"
                )
        has = f"it has {', '.join(path[:99] for path in given[:5])}" if given else "it has no files"
        has += f" and {len(given) - 5} more" if len(given) > 5 else ""
        seen = [path for path in given if not any(part.startswith(".") for part in path.split("/"))]
        chosen = seen if self._include else choose_files(seen)
        if not chosen:
            raise DownloadFailed(
                f"{self.where}: no *.safetensors in the top directory of the repository: {has}; name another "
                "repository, or the files that are wanted, with allowPatterns or --include"
            )
        allowed, ignored = [*self._include] or None, [*self._exclude] or None
        wanted = tuple(filter_repo_objects(chosen, allow_patterns=allowed, ignore_patterns=ignored))
        if not wanted:
            raise DownloadFailed(
                f"{self.where}: the patterns leave no file of the repository: {has}; correct allowPatterns (--include) "
                "and ignorePatterns (--exclude)"
            )
        for path in wanted:
            if not path.isprintable() or any(len(part.encode()) > _LONGEST_NAME_BYTES for part in path.split("/")):
                raise DownloadFailed(
                    f"{self.where}: the hub lists a file {path[:99]!r}, expected a printable name of at most "
                    f"{_LONGEST_NAME_BYTES} bytes; exclude it"
                )
        pickled = pickled_weights(wanted)
        if self._for_engine and pickled:
            raise WeightsUnfit(
                f"{self.where}: only pickled weights ({', '.join(pickled[:3])}), which can run code when they are "
                "loaded; expected *.safetensors: name a repository or revision with safetensors; or, on a machine, "
                f"`conclave weights download {self.uri} PATH`, `conclave weights convert`, and copy the result into a "
                "claim or an object store"
            )
        return wanted

    def _url(self, path: str) -> str:
        from huggingface_hub import hf_hub_url

        address = self._address
        return hf_hub_url(address.repository, path, revision=address.commit, endpoint=address.endpoint)

    def _stream(self, item: StoredObject, offset: int) -> Generator[bytes, None, None]:
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they are loaded lazily
            hf_raise_for_status,
            http_stream_backoff,
        )

        end = min(offset + _RANGE_BYTES, item.size_bytes) - 1
        headers = {**self._headers, "Accept-Encoding": "identity", "Range": f"bytes={offset}-{end}"}
        url, wait_s = self._url(item.path), self._retry_s
        with http_stream_backoff(
            "GET", url, headers=headers, base_wait_time=wait_s, retry_on_exceptions=()
        ) as response:
            hf_raise_for_status(response)
            self._check_answer(item, response, offset)
            skipped = offset if response.status_code == 200 else 0  # a hub without ranges begins anew
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                if kept := chunk[skipped:]:
                    yield kept
                skipped = max(skipped - len(chunk), 0)

    def _check_answer(self, item: StoredObject, response: Response, offset: int) -> None:
        """The hub's own answer is the first one; the answer with the bytes may be a CDN's."""
        what = f"{self.where}: {item.path}"
        for answer in (*response.history, response):
            self._check_commit(what, answer.headers.get("X-Repo-Commit"))
            etag = (answer.headers.get("X-Linked-Etag") or item.etag).removeprefix("W/").strip('"')
            size = answer.headers.get("X-Linked-Size") or str(item.size_bytes)
            if (etag, size) != (item.etag, str(item.size_bytes)):
                raise DownloadFailed(
                    f"{what}: the hub sends {one_line(etag)} of {one_line(size)} bytes, expected {item.etag} of "
                    f"{item.size_bytes} bytes as it listed; try again, or use another endpoint"
                )
        said = response.headers.get("Content-Range", "")
        if response.status_code == 206 and not said.startswith(f"bytes {offset}-"):
            raise DownloadFailed(
                f'{what}: the hub sends the range "{one_line(said)}", expected bytes from {offset} on; use another '
                "endpoint"
            )

    def _check_commit(self, what: str, seen: str | None) -> None:
        """Mirrors may not say it."""
        if seen is not None and seen != self._address.commit:
            raise DownloadFailed(
                f"{what}: the hub answers with commit {one_line(seen)}, expected {self._address.commit}; it does not "
                "keep revisions apart: use another endpoint"
            )

    @contextmanager
    def _in_plain_words(self, what: str) -> Iterator[None]:
        with in_plain_words(what, self._address, has_token=self._has_token):
            yield


def _transient() -> tuple[type[Exception], ...]:
    """What a connection may break by."""
    import httpx2

    return (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)


def _checked(path: object, size_bytes: object, etag: object) -> StoredObject:
    """What a hub lists is foreign. Raises TypeError, as for a missing field."""
    if isinstance(path, str) and isinstance(etag, str) and isinstance(size_bytes, int) and size_bytes >= 0:
        return StoredObject(path, size_bytes, etag)
    raise TypeError(f"a file {path!r} of size {size_bytes!r} and hash {etag!r}")
