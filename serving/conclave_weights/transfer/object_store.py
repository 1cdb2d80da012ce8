"""Lists and reads the objects of an S3 prefix for `download.py`, and says in plain words why the store failed.

Credentials come from the environment, under AWS's names. They are never arguments, and never part of a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from conclave.errors import InvalidInput
from conclave_weights.errors import DownloadFailed
from conclave_weights.transfer.source import CHUNK_BYTES, Checksum, StoredObject

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

_RETRIES = 4
_RETRY_S = 60
_SILENCE_S = 60
_URI = re.compile("s3://([^/]+)(?:/(.*))?")
_BUCKET = re.compile("[a-z0-9][a-z0-9.-]*[a-z0-9]|[a-z0-9]")
_BUCKET_LENGTHS = range(3, 64)
_CREDENTIALS = {"access_key_id": "AWS_ACCESS_KEY_ID", "secret_access_key": "AWS_SECRET_ACCESS_KEY"}
_SESSION_TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105 - a variable's name
_KEY = re.compile("[!-~]*")
_MD5 = re.compile('"?([0-9a-f]{32})"?')
_ERROR_CODE, _ERROR_MESSAGE = re.compile("<Code>([^<]+)</Code>"), re.compile("<Message>([^<]+)</Message>")
_SAID = re.compile(r'(?:message|error): "([^"]+)"|\b(Invalid\w+)\(')
_REFUSED_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")


def read_address(uri: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`. Raises InvalidInput, which names the part that is wrong."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise InvalidInput(f"{uri!r} is not an object store's address, expected s3://bucket/path; correct the address")
    bucket, prefix = match[1], match[2] or ""
    if len(bucket) not in _BUCKET_LENGTHS:
        characters = "1 character" if len(bucket) == 1 else f"{len(bucket)} characters"
        raise InvalidInput(
            f'{uri}: the bucket name "{bucket}" has {characters}; S3 bucket names have {_BUCKET_LENGTHS[0]} to '
            f"{_BUCKET_LENGTHS[-1]}. Correct the bucket."
        )
    if not _BUCKET.fullmatch(bucket):
        raise InvalidInput(
            f'{uri}: the bucket name is "{bucket}"; S3 bucket names have lower-case letters, digits, dots and dashes, '
            "and begin and end with a letter or digit. Correct the bucket."
        )
    return bucket, prefix.strip("/")


def _check_endpoint(endpoint: str) -> None:
    """The store's library panics where it can make no request of the endpoint."""
    try:
        parts = urlsplit(endpoint)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no number of a port
        is_url = False
    if not is_url:
        raise InvalidInput(
            f'endpoint "{endpoint}" is not the URL of an object store, expected http:// or https://, a host, and where '
            "needed a port from 1 to 65535, such as https://minio.storage.svc:9000"
        )


class ObjectStore:
    """The objects below `s3://bucket/prefix`. Raises InvalidInput for an address or endpoint that cannot be one."""

    kind = "store"
    has_sure_checksums = False
    remedy = "upload the right objects"

    def __init__(
        self, uri: str, *, endpoint: str = "", region: str = "", environment: Mapping[str, str] = os.environ
    ) -> None:
        self._bucket, self._prefix = read_address(uri)
        if endpoint:
            _check_endpoint(endpoint)
        self.uri = uri
        self.endpoint = endpoint
        self.where = f"{uri} at {endpoint}" if endpoint else uri
        self._store = self._connect(region, environment)

    @property
    def asked(self) -> dict[str, object]:
        """Address and endpoint; credentials and region are no part of it."""
        return {"source": self.uri, "endpoint": self.endpoint}

    def checksum(self, item: StoredObject) -> Checksum | None:
        """An ETag of 32 hex digits is the MD5, unless the store encrypts with a key service: then no ETag is one."""
        found = _MD5.fullmatch(item.etag)
        return Checksum("MD5", found[1]) if found else None

    def _connect(self, region: str, environment: Mapping[str, str]) -> S3Store:
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise DownloadFailed(
                "the library for object stores is not installed: pip install 'conclave-inference[download]'"
            ) from error
        missing = [variable for variable in _CREDENTIALS.values() if not environment.get(variable)]
        if missing:
            raise DownloadFailed(
                f"{self.where}: {' and '.join(missing)} not set, expected in the environment; set them, or in a "
                "cluster add the keys of these names to the Secret that objectStore.secretName names"
            )
        for variable in (*_CREDENTIALS.values(), _SESSION_TOKEN):
            if not _KEY.fullmatch(environment.get(variable, "")):
                raise DownloadFailed(
                    f"{self.where}: {variable} has a space, a line break or another character that no key has, "
                    "expected printable ASCII; set it again "
                    "(in a cluster, in the Secret that objectStore.secretName names)"
                )
        config: S3Config = {
            "access_key_id": environment[_CREDENTIALS["access_key_id"]],
            "secret_access_key": environment[_CREDENTIALS["secret_access_key"]],
            "region": region or "us-east-1",
        }
        if token := environment.get(_SESSION_TOKEN):
            config["session_token"] = token
        if self.endpoint:
            config["endpoint"] = self.endpoint
        return S3Store(
            self._bucket,
            prefix=self._prefix or None,
            config=config,
            client_options={
                "allow_http": self.endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=10),
                "read_timeout": timedelta(seconds=_SILENCE_S),
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)},
        )

    def list(self) -> tuple[StoredObject, ...]:
        """The objects of the weights, sorted, without hidden ones. Raises DownloadFailed where there are none."""
        import obstore

        found = []
        with self._in_plain_words(self.where):
            for page in obstore.list(self._store):
                found += [
                    StoredObject(item["path"], item["size"], item["e_tag"] or "")
                    for item in page
                    if not any(part.startswith(".") for part in item["path"].split("/"))
                ]
        if not found:
            raise DownloadFailed(f"{self.where}: no object has this prefix; correct the path, or upload the weights")
        return tuple(sorted(found))

    def read(self, item: StoredObject, offset: int) -> Generator[memoryview, None, None]:
        """Chunks of an object from an offset on. Raises DownloadFailed where the object has changed."""
        import obstore

        with self._in_plain_words(f"{self.where}: {item.path}"):
            options: obstore.GetOptions = {"range": (offset, item.size_bytes)}
            if item.etag:
                options["if_match"] = item.etag
            for chunk in obstore.get(self._store, item.path, options=options).stream(min_chunk_size=CHUNK_BYTES):
                yield memoryview(chunk)

    @contextmanager
    def _in_plain_words(self, what: str) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except exceptions.PreconditionError as error:
            raise DownloadFailed(
                f"{what}: changed while it was read; wait until the upload is complete; the next try fetches it again"
            ) from error
        except (exceptions.BaseError, FileNotFoundError) as error:
            raise DownloadFailed(f"{what}: {self._cause(error)}") from error

    def _cause(self, error: Exception) -> str:
        text = str(error)
        code_match, message_match = _ERROR_CODE.search(text), _ERROR_MESSAGE.search(text)
        code = code_match[1] if code_match else ""
        said = f"the store says {code}" + (f" ({message_match[1].rstrip('.')})" if message_match else "")
        if code == "NoSuchBucket":
            return f"there is no bucket {self._bucket}; correct the address"
        if code in _REFUSED_KEYS:
            return f"{said}: the store refuses the credentials; correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if code == "AccessDenied" or "403 Forbidden" in text:
            return (
                f"{said if code else 'the store says 403'}: the credentials lack a permission; grant "
                f"s3:ListBucket on {self._bucket} and s3:GetObject on its objects"
            )
        if isinstance(error, FileNotFoundError):
            return "the object was listed and is now missing; do not change the weights during the download"
        if code:
            return said
        return f"no answer: {_innermost(text)}; check endpoint, DNS, NetworkPolicy and certificates"


def _innermost(text: str) -> str:
    """The innermost cause of an error: what a resolver, a socket or TLS said."""
    said = [quoted or name for quoted, name in _SAID.findall(text)]
    return said[-1] if said else " ".join(text.split("\n\n", 1)[0].split())[-200:]
