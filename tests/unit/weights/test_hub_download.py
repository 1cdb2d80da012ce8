"""Downloads from a small hub over real sockets: whole, killed and gone on with, broken, refused, changed meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import Result
from tests.hub.server import Answer, Content, Seen, TestHub, failure
from tools.tiny_checkpoint import make_checkpoint
from typer.testing import CliRunner

from conclave.errors import InvalidInput
from conclave_cli.main import app
from conclave_weights.errors import DigestMismatch, DownloadFailed, WeightsUnfit
from conclave_weights.transfer import hub as hub_module
from conclave_weights.transfer.download import MARKER, Download, download
from conclave_weights.transfer.hub import Hub
from conclave_weights.transfer.hub_address import read_address
from conclave_weights.transfer.hub_client import HubClient
from conclave_weights.verify.digest import digest_of, hash_files

MIB = 2**20
REPOSITORY, COMMIT, OTHER = "acme/tiny-mixtral", "0123456789abcdef0123456789abcdef01234567", "f" * 40
URI = f"hf://{REPOSITORY}@{COMMIT}"
TOKEN = "hf_a-token-of-the-tests"
LARGE = "model-00001-of-00002.safetensors"
SLACK_BYTES = 2 * MIB
"""What a broken connection may have held back."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint in two shards, one large file, and what nobody should download."""
    root = make_checkpoint("mixtral", tmp_path_factory.mktemp("weights") / "tiny", shards=2)
    (root / "vocab.txt").write_bytes(os.urandom(12 * MIB))
    (root / "empty.txt").touch()
    for name in (
        ".gitattributes",
        "modeling.py",
        "pytorch_model.bin",
        "original/params.json",
        "consolidated.safetensors",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no part of the weights")
    return root


@pytest.fixture
def hub(weights: Path) -> Iterator[TestHub]:
    with TestHub() as hub:
        hub.add(REPOSITORY, COMMIT, weights)
        yield hub


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights"


def source(hub: TestHub, uri: str = URI, *, token: str = "", **options: Any) -> Hub:
    environment = {"HF_TOKEN": token} if token else {}
    return Hub(uri, **{"endpoint": hub.url, "environment": environment, "retry_s": 0.01, "silence_s": 20.0} | options)


def visible(root: Path) -> dict[str, bytes]:
    """What a digest counts."""
    paths = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


UNWANTED = ("modeling.py", "pytorch_model.bin", "original/params.json", "consolidated.safetensors")


def wanted(weights: Path) -> dict[str, bytes]:
    return {path: data for path, data in visible(weights).items() if path not in UNWANTED}


def size_bytes(files: dict[str, bytes]) -> int:
    return sum(map(len, files.values()))


def run(hub: TestHub, target: Path, *arguments: str, token: str = TOKEN) -> subprocess.Popen[str]:
    """What the download Job's container runs."""
    command = [sys.executable, "-m", "conclave_weights", "download", "--endpoint", hub.url, *arguments]
    return subprocess.Popen(
        [*command, URI, str(target)],
        env={**os.environ, "HF_TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def refusal(hub: TestHub, target: Path, **options: Any) -> str:
    with pytest.raises(DownloadFailed) as failed:
        download(source(hub, **options), target)
    assert not target.exists()
    assert TOKEN not in str(failed.value)
    assert "X-Signature" not in str(failed.value)
    return str(failed.value)


def test_the_files_that_an_engine_reads_arrive_whole_under_a_marker(hub: TestHub, weights: Path, target: Path) -> None:
    files = wanted(weights)
    digest = digest_of(hash_files_of(files, target.parent.parent))
    done = download(source(hub), target, digest)
    assert done == Download(size_bytes(files), size_bytes(files), size_bytes(files), is_whole=True)
    assert visible(target) == files
    marker = json.loads((target / MARKER).read_text())
    assert (marker["source"], marker["endpoint"], marker["digest"]) == (URI, hub.url, digest)
    assert {item["path"] for item in marker["objects"]} == files.keys()


def hash_files_of(files: dict[str, bytes], scratch: Path) -> Any:
    copy = scratch / "copy"
    for path, data in files.items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(data)
    return hash_files(copy)


def test_a_second_download_asks_the_hub_for_nothing(hub: TestHub, target: Path) -> None:
    download(source(hub), target)
    hub.seen.clear()
    assert download(source(hub), target).fetched_bytes == 0
    assert hub.seen == []


def test_the_token_goes_to_the_hub_and_to_no_host_that_it_names(hub: TestHub, target: Path) -> None:
    """Redirects of files, and links to the next page of a listing."""
    hub.token, hub.page = TOKEN, 4
    with TestHub() as stranger:
        stranger.repositories, stranger.page = hub.repositories, hub.page

        def elsewhere(seen: Seen) -> Answer | None:
            if "/tree/" not in seen.path or "cursor" in seen.path:
                return None
            page = stranger.answer(Seen("hub", "GET", seen.path, {}))
            return Answer(200, page.headers, page.body)

        hub.override = elsewhere
        download(source(hub, token=TOKEN), target)
        assert hub.tokens("hub") == {f"Bearer {TOKEN}"}
        assert hub.tokens("cdn") == {None}
        assert stranger.tokens("hub") == {None}
        assert len(stranger.seen) >= 1
    assert TOKEN not in (target / MARKER).read_text()


def test_a_token_that_a_person_has_stored_is_not_sent(
    hub: TestHub, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    (tmp_path / "token").write_text("hf_stored")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_of-the-process")
    hub.has_tree = hub.has_blobs = False
    download(source(hub), target)
    assert hub.tokens("hub") == {None}


ORIGINS: dict[str, tuple[str, str, bool]] = {
    "the endpoint": ("https://hub.example/mirror", "https://hub.example/a/b", True),
    "its port, spelled out": ("https://hub.example", "https://hub.example:443/a", True),
    "another port of the host": ("https://hub.example", "https://hub.example:8443/a", False),
    "the same host with TLS": ("http://hub.example", "https://hub.example/a", True),
    "a host below it": ("https://hub.example", "https://cdn.hub.example/a", False),
    "a host that begins so": ("https://hub.example", "https://hub.example.evil/a", False),
    "the official hub": ("https://hub.example", "https://huggingface.co/a", False),
    "a user that looks like the host": ("https://hub.example", "https://hub.example@evil.example/a", False),
}


@pytest.mark.parametrize(("endpoint", "url", "gets_token"), ORIGINS.values(), ids=ORIGINS)
def test_who_gets_the_token(endpoint: str, url: str, gets_token: bool) -> None:
    request = httpx2.Request("GET", url, headers={"Authorization": f"Bearer {TOKEN}"})
    HubClient(read_address(URI, endpoint), 7.0, has_token=True).before_request(request)
    assert ("Authorization" in request.headers) is gets_token
    assert request.extensions["timeout"]["read"] == 7.0


def test_a_redirect_from_tls_to_none_is_refused() -> None:
    request = httpx2.Request("GET", "http://cdn.example/a")
    with pytest.raises(DownloadFailed, match=r"redirects to http://cdn\.example, expected https; use another endpoint"):
        HubClient(read_address(URI, ""), 7.0, has_token=True).before_request(request)


@pytest.mark.parametrize("after_bytes", [200_000, 5 * MIB])
def test_a_killed_download_has_no_name_and_goes_on_where_it_was(
    hub: TestHub, weights: Path, target: Path, after_bytes: int
) -> None:
    files = wanted(weights)
    hub.stall_after = after_bytes
    process = run(hub, target)
    assert hub.stalled.wait(60)
    process.send_signal(signal.SIGKILL)
    assert finished(process)[0] == -signal.SIGKILL
    assert not target.exists()
    partial = target.with_name("weights.partial")
    assert visible(partial) == {}
    kept_bytes = sum(path.stat().st_size for path in partial.rglob(".*") if path.is_file())
    hub.stall_after, hub.sent_bytes = None, 0
    code, stdout, stderr = finished(run(hub, target))
    assert (code, stderr) == (0, "")
    assert hub.sent_bytes < size_bytes(files) - kept_bytes + MIB  # a chunk of the killed one may still be counted
    assert f"{size_bytes(files) - kept_bytes} bytes fetched by this run" in stdout
    assert visible(target) == files


def test_a_connection_that_breaks_is_opened_again_where_it_broke(hub: TestHub, weights: Path, target: Path) -> None:
    hub.break_after = 6 * MIB
    done = download(source(hub), target)
    assert done.fetched_bytes == size_bytes(wanted(weights))
    assert hub.sent_bytes < done.fetched_bytes + SLACK_BYTES
    assert visible(target) == wanted(weights)


def test_it_stops_at_the_wished_percents_and_reports_them(
    hub: TestHub, weights: Path, target: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    total_bytes = size_bytes(wanted(weights))
    for percent in (50, 100):
        code, _, stderr = finished(run(hub, target, "--until-percent", str(percent), "--report", str(report)))
        assert (code, stderr) == (0, "")
        told = json.loads(report.read_text())
        assert told["totalBytes"] == total_bytes
        assert total_bytes * percent / 100 <= told["doneBytes"] <= total_bytes
        assert target.exists() == (percent == 100)


def test_a_hub_that_knows_no_ranges_is_read_from_the_start(hub: TestHub, weights: Path, target: Path) -> None:
    download(source(hub), target, until_percent=60)
    hub.has_ranges = False
    download(source(hub), target)
    assert visible(target) == wanted(weights)


@pytest.mark.parametrize("has_blobs", [True, False], ids=["sizes in its list of names", "names only"])
def test_a_mirror_without_a_listing_of_trees_is_asked_for_each_file(
    hub: TestHub, weights: Path, target: Path, has_blobs: bool
) -> None:
    hub.has_tree, hub.has_blobs = False, has_blobs
    download(source(hub), target)
    assert visible(target) == wanted(weights)
    heads = [seen.path for seen in hub.seen if seen.method == "HEAD"]
    assert len(heads) == (0 if has_blobs else len(wanted(weights)))
    marked = json.loads((target / MARKER).read_text())["objects"]
    hashes = {path: content.etag for path, content in hub.repositories[REPOSITORY, COMMIT].items()}
    assert {item["path"]: item["etag"] for item in marked}.items() <= hashes.items()


def test_a_mirror_that_says_neither_commit_nor_hash_is_read_and_the_note_says_what_was_not_compared(
    hub: TestHub, weights: Path, target: Path
) -> None:
    """As proxies do that cache files by their address."""
    hub.has_tree = hub.has_blobs = False

    def bare(seen: Seen) -> Answer | None:
        if "/resolve/" not in seen.path:
            return None
        content = hub.repositories[REPOSITORY, COMMIT][seen.path.rpartition("/")[2]]
        return Answer(200, {"ETag": '"of-our-own"'}, content.data)

    hub.override = bare
    done = download(source(hub), target)
    assert visible(target) == wanted(weights)
    count = len(wanted(weights))
    assert done.notes == (
        f"{count} of {count} objects were compared by size only, since the hub has no checksum of their content; give "
        "a digest to compare it",
    )


PATTERNS: dict[str, tuple[dict[str, list[str]], set[str]]] = {
    "one file": ({"include": ["config.json"]}, {"config.json"}),
    "a directory": ({"include": ["original/"]}, {"original/params.json"}),
    "all of a kind, in all directories": (
        {"include": ["*.json"], "exclude": ["tok*", "model*"]},
        {"config.json", "generation_config.json", "special_tokens_map.json", "original/params.json"},
    ),
    "a code file, asked for by name": ({"include": ["*.py", "config.json"]}, {"config.json", "modeling.py"}),
    "a hidden file, never": ({"include": [".gitattributes", "config.json"]}, {"config.json"}),
}


@pytest.mark.parametrize(("options", "paths"), PATTERNS.values(), ids=PATTERNS)
def test_patterns_choose_the_files(hub: TestHub, options: dict[str, list[str]], paths: set[str]) -> None:
    chosen = {item.path for item in source(hub, **options).list()}
    known = {item.path for item in source(hub, include=["*"]).list()}
    assert chosen == paths & known
    assert chosen


def test_excluded_files_are_left_out_of_the_default_choice(hub: TestHub, weights: Path) -> None:
    chosen = {item.path for item in source(hub, exclude=["*.txt"]).list()}
    assert chosen == {path for path in wanted(weights) if not path.endswith(".txt")}


def test_other_patterns_are_other_files_for_the_same_target(hub: TestHub, target: Path) -> None:
    download(source(hub), target)
    with pytest.raises(DownloadFailed, match="exists and was not downloaded from hf://"):
        download(source(hub, exclude=["vocab.txt"]), target)
    assert download(source(hub, exclude=["vocab.txt"]), target, keep=[]).is_whole
    assert not (target / "vocab.txt").exists()


def test_another_commit_is_not_taken_for_the_one_that_is_there(hub: TestHub, weights: Path, target: Path) -> None:
    files = hub.add(REPOSITORY, OTHER, weights)
    files["config.json"].data += b" "
    download(source(hub), target)
    other = f"hf://{REPOSITORY}@{OTHER}"
    with pytest.raises(DownloadFailed, match=re.escape(f"exists and was not downloaded from {other}")):
        download(source(hub, other), target)
    done = download(source(hub, other), target, keep=[])
    assert done.notes == (f"{target}: had other weights; downloaded again",)
    assert (target / "config.json").read_bytes().endswith(b" ")


def test_files_of_a_begun_download_that_changed_are_fetched_anew(hub: TestHub, weights: Path, target: Path) -> None:
    """As where a hub forgets a commit and makes another of its name."""
    download(source(hub), target, until_percent=60)
    for content in hub.repositories[REPOSITORY, COMMIT].values():
        if not content.data.startswith(b"no part") and not content.is_lfs:
            content.data += b" "
    download(source(hub), target)
    assert visible(target).keys() == wanted(weights).keys()
    assert visible(target)["config.json"] == wanted(weights)["config.json"] + b" "


def test_bytes_that_arrived_wrong_get_no_name_and_are_fetched_anew(hub: TestHub, weights: Path, target: Path) -> None:
    download(source(hub), target, until_percent=99)
    (part,) = target.with_name("weights.partial").glob(".config.json.*")
    part.write_bytes(b"?" * part.stat().st_size)
    with pytest.raises(DownloadFailed, match=r"config\.json: the bytes that arrived do not match the hub's SHA-1"):
        download(source(hub), target)
    assert not target.exists()
    download(source(hub), target)
    assert visible(target) == wanted(weights)


def corrupt(hub: TestHub, path: str) -> str:
    """The hub sends other bytes of the same length than it lists."""
    content = hub.repositories[REPOSITORY, COMMIT][path]
    honest = content.etag
    false = Content(content.data[:-1] + bytes([content.data[-1] ^ 1]), content.is_lfs)

    def sent(seen: Seen) -> Answer | None:
        is_file = seen.server == "cdn" and seen.path.split("?")[0].endswith(honest)
        if is_file or (not content.is_lfs and seen.path.endswith(f"/resolve/{COMMIT}/{path}")):
            return hub._ranged(false, {}, seen)
        return None

    hub.override = sent
    return honest


@pytest.mark.parametrize("path", ["config.json", LARGE])
@pytest.mark.parametrize("has_digest", [True, False], ids=["with a digest", "without a digest"])
def test_a_hub_that_sends_other_bytes_than_it_lists_is_found_out(
    hub: TestHub, weights: Path, target: Path, tmp_path: Path, path: str, has_digest: bool
) -> None:
    digest = digest_of(hash_files_of(wanted(weights), tmp_path)) if has_digest else None
    honest = corrupt(hub, path)
    with pytest.raises(DownloadFailed) as failed:
        download(source(hub), target, digest)
    assert f"{URI} at {hub.url}: {path}: the bytes that arrived do not match the hub's SHA-" in str(failed.value)
    assert f"expected {honest}); the next try fetches them again" in str(failed.value)
    assert not target.exists()


def test_other_weights_than_the_digests_get_no_name(hub: TestHub, target: Path) -> None:
    with pytest.raises(DigestMismatch, match=r"name the revision that has these files, or correct spec\.model\.digest"):
        download(source(hub), target, "sha256:" + "ab" * 32)
    assert not target.exists()


def only(part: str, answer: Answer, server: str = "hub") -> Callable[[Seen], Answer | None]:
    return lambda seen: answer if part in seen.path and seen.server == server else None


REFUSED: dict[str, tuple[Callable[[TestHub], Callable[[Seen], Answer | None]], dict[str, Any], str]] = {
    "a gated repository, without a token": (
        lambda hub: only("/resolve/", failure(401, "GatedRepo", "Access to model is restricted")),
        {},
        rf"says 401 GatedRepo .*the repository is gated and no token was sent: accept its licence on http:.*/"
        rf"{REPOSITORY}, and set HF_TOKEN .*key HF_TOKEN of the Secret",
    ),
    "a gated repository, with a token that has no access": (
        lambda hub: only("/resolve/", failure(403, "GatedRepo", "You are not in the authorized list")),
        {"token": TOKEN},
        r"127\.0\.0\.1 says 403 GatedRepo \(You are not in the authorized list\): the repository is gated and the "
        r"token has no access: accept its licence on http",
    ),
    "a token that the hub does not know": (
        lambda hub: only("/api/", Answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})),
        {"token": TOKEN},
        r"says 401 \(Invalid credentials in Authorization header\): the hub refuses the token: set HF_TOKEN to a token",
    ),
    "a token without a right": (
        lambda hub: only("/resolve/", Answer(403, {"X-Error-Message": "fine-grained token lacks a scope"})),
        {"token": TOKEN},
        r"says 403 \(.*lacks a scope.*\): access is refused \(the token of HF_TOKEN\); look at .* accept its licence",
    ),
    "an absent repository": (
        lambda hub: lambda seen: None,
        {"uri": f"hf://acme/none@{COMMIT}"},
        r"says 401 RepoNotFound .*there is no repository acme/none, or it is private and no token was sent; correct "
        r"the repository, or set HF_TOKEN",
    ),
    "an absent commit": (
        lambda hub: lambda seen: None,
        {"uri": f"hf://{REPOSITORY}@{OTHER}"},
        rf"says 404 RevisionNotFound .*the repository has no commit {OTHER}; copy one from http.*/commits/main",
    ),
    "a file that is gone": (
        lambda hub: only("/config.json", failure(404, "EntryNotFound", "Entry not found")),
        {},
        r"config\.json: 127\.0\.0\.1 says 404 EntryNotFound .*the file was listed and is now missing; .* try again",
    ),
    "a disabled repository": (
        lambda hub: only("/api/", Answer(403, {"X-Error-Message": "Access to this resource is disabled."})),
        {},
        "the hub has disabled the repository; use another one",
    ),
    "too many requests, for an hour": (
        lambda hub: only("/api/", Answer(429, {"Retry-After": "3600"})),
        {},
        "says 429 and asks to wait 3600 s: too many requests from this address or token; try again then, or set "
        r"HF_TOKEN \(in a cluster",
    ),
    "too many requests, by the hub's own header": (
        lambda hub: only("/resolve/", Answer(429, {"RateLimit": '"resolvers";r=0;t=290'})),
        {"token": TOKEN},
        "says 429 and asks to wait 290 s: .*; try again then$",
    ),
    "a CDN that refuses its link": (
        lambda hub: only("", Answer(403, {}, b"<Error>AccessDenied</Error>"), server="cdn"),
        {},
        r"safetensors: 127\.0\.0\.1 says 403 .*this host does not send what the hub links to; try again",
    ),
    "a mirror that leads to a hub that wants a token": (
        lambda hub: (
            lambda seen: (
                failure(401, "GatedRepo", "restricted")
                if seen.server == "cdn"
                else Answer(308, {"Location": hub.cdn_url + seen.path})
            )
        ),
        {"token": TOKEN},
        r"says 401 GatedRepo .*the hub redirects to this host, which gets no token; use 127\.0\.0\.1 as the endpoint",
    ),
    "redirects without end": (
        lambda hub: only("/resolve/", Answer(302, {"Location": "/a/resolve/b/c"})),
        {},
        "the hub redirects without end; use another endpoint",
    ),
    "another commit than the one asked for": (
        lambda hub: only("/config.json", Answer(206, {"X-Repo-Commit": OTHER, "Content-Range": "bytes 0-1/2"}, b"{}")),
        {},
        rf"config\.json: the hub answers with commit {OTHER}, expected {COMMIT}; it does not keep revisions apart",
    ),
    "another hash than the one listed": (
        lambda hub: only("/config.json", Answer(206, {"X-Linked-Etag": f'"{"0" * 64}"'}, b"{}")),
        {},
        r"config\.json: the hub sends 0{64} of \d+ bytes, expected [0-9a-f]{40} of \d+ bytes as it listed; try again",
    ),
    "another size than the one listed": (
        lambda hub: only("/config.json", Answer(206, {"X-Linked-Size": "7"}, b"{}")),
        {},
        r"config\.json: the hub sends [0-9a-f]{40} of 7 bytes, expected [0-9a-f]{40} of \d+ bytes as it listed",
    ),
    "another range than the one asked for": (
        lambda hub: only("/config.json", Answer(206, {"Content-Range": "bytes 5-9/100"}, b"x")),
        {},
        r'config\.json: the hub sends the range "bytes 5-9/100", expected bytes from 0 on; use another endpoint',
    ),
    "a file that is shorter than listed": (
        lambda hub: only("/config.json", Answer(416, {"Content-Range": "bytes */1"})),
        {},
        r"config\.json: .* says 416.*: the file is shorter than the hub lists; try again",
    ),
    "an empty body": (
        lambda hub: only("/config.json", Answer(200, {}, b"")),
        {},
        r"config\.json: the hub sent 0 bytes, expected \d+; the download continues from there",
    ),
    "a body without end": (
        lambda hub: only("/config.json", Answer(200, {}, b" " * 10_000_000)),
        {},
        r"config\.json: the hub sent more than the \d+ bytes that it lists; use another endpoint",
    ),
    "a body that always breaks": (
        lambda hub: only("/config.json", Answer(200, {"Content-Length": "9999"}, b"")),
        {},
        r"config\.json: no answer from 127\.0\.0\.1:\d+: .*; check endpoint, DNS, proxy, NetworkPolicy",
    ),
    "an answer of no hub": (
        lambda hub: only("/api/", Answer(200, {"Content-Type": "text/html"}, b"<html>a portal</html>")),
        {},
        r"127\.0\.0\.1 does not answer as a hub does \(JSONDecodeError: .*\); correct the endpoint",
    ),
    "a listing of another shape": (
        lambda hub: only("/api/", Answer(200, {}, b'[{"type": "file", "path": "config.json"}]')),
        {},
        r"127\.0\.0\.1 does not answer as a hub does \(KeyError: 'size'\); correct the endpoint",
    ),
    "a size that is none": (
        lambda hub: only("/api/", Answer(200, {}, b'[{"type": "file", "path": "a.json", "size": -1, "oid": "x"}]')),
        {},
        r"does not answer as a hub does \(TypeError: a file 'a\.json' of size -1",
    ),
    "a token with a line break": (
        lambda hub: lambda seen: None,
        {"token": f"{TOKEN}\n"},
        "HF_TOKEN has a space, a line break or another character that no token has, expected printable ASCII; "
        "set HF_TOKEN again",
    ),
    "patterns that leave nothing": (
        lambda hub: lambda seen: None,
        {"include": ["*.gguf"]},
        r"the patterns leave no file of the repository: it has \.gitattributes, .* and \d+ more; correct allowPatterns "
        r"\(--include\) and ignorePatterns",
    ),
}


@pytest.mark.parametrize(("override", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_the_hub_refuses_is_told_with_file_and_remedy(
    hub: TestHub,
    target: Path,
    override: Callable[[TestHub], Callable[[Seen], Answer | None]],
    options: dict[str, Any],
    message: str,
) -> None:
    hub.override = override(hub)
    told = refusal(hub, target, **options)
    assert told.startswith(f"{options.get('uri', URI)} at {hub.url}: ")
    assert re.search(message, told), told


def test_nobody_at_the_endpoint_is_told(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    unreachable = Hub(URI, endpoint="http://127.0.0.1:1", environment={})
    with pytest.raises(DownloadFailed, match=r"no answer from 127\.0\.0\.1:1: .*refused; check endpoint, DNS, proxy"):
        download(unreachable, target)


def test_a_hub_that_falls_silent_is_told_and_what_arrived_is_kept(hub: TestHub, target: Path) -> None:
    hub.stall_after = 4 * MIB
    with pytest.raises(DownloadFailed, match=r"no answer from 127\.0\.0\.1:\d+: nothing for 1 s; check endpoint"):
        download(source(hub, silence_s=1.0), target)
    partial = target.with_name("weights.partial")
    assert sum(path.stat().st_size for path in partial.rglob(".*") if path.is_file()) > 0


def test_a_hub_that_asks_to_wait_a_moment_is_waited_for(hub: TestHub, weights: Path, target: Path) -> None:
    answers = {"/tree/": 1, "/config.json": 1}

    def busy(seen: Seen) -> Answer | None:
        part = next((part for part in answers if part in seen.path), None)
        if part is None or not answers[part]:
            return None
        answers[part] -= 1
        return Answer(429, {"Retry-After": "0"})

    hub.override = busy
    download(source(hub), target)
    assert visible(target) == wanted(weights)


NAMES: dict[str, tuple[str, str]] = {
    "a path that leads up": ("../x.safetensors", "leads out of the directory; nothing was written"),
    "a path that leads up later": ("a/../../x.json", "leads out of the directory"),
    "a path of its own": ("/etc/x.json", "leads out of the directory"),
    "an empty part": ("a//x.json", "leads out of the directory"),
    "a line break": ("a\nb.json", "expected a printable name"),
    "an escape": ("a\x1b[2J.json", "expected a printable name"),
    "half a character": ("a\ud800.json", "expected a printable name"),
    "a name that no file system takes": (f"{'a' * 300}.json", "expected a printable name of at most 200 bytes"),
}


@pytest.mark.parametrize(("path", "message"), NAMES.values(), ids=NAMES)
def test_a_name_that_is_no_name_of_a_file_is_refused(hub: TestHub, target: Path, path: str, message: str) -> None:
    hub.extra_entries = [{"type": "file", "path": path, "size": 1, "oid": "0" * 40}]
    told = refusal(hub, target)
    assert message in told
    assert told.isprintable()
    assert not target.parent.exists() or [entry.name for entry in target.parent.iterdir()] == ["weights.partial"]


def test_a_file_and_a_directory_of_one_name_are_told(hub: TestHub, target: Path) -> None:
    hub.extra_entries = [
        {"type": "file", "path": path, "size": 0, "oid": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}
        for path in ("config.json/x.json",)
    ]
    with pytest.raises(DownloadFailed, match=r"config\.json"):
        download(source(hub, include=["*.json"]), target)
    assert not target.exists()


def test_a_long_listing_is_read_page_by_page(hub: TestHub, weights: Path, target: Path) -> None:
    hub.extra_entries = [
        {"type": "file", "path": f"images/{number}.png", "size": 1, "oid": "0" * 40} for number in range(5000)
    ]
    download(source(hub), target)
    assert visible(target) == wanted(weights)
    assert sum("cursor" in seen.path for seen in hub.seen) == 5


def test_a_listing_without_end_is_refused(hub: TestHub, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MOST_FILES", 2000)
    hub.extra_entries = [
        {"type": "file", "path": f"{number}.json", "size": 1, "oid": "0" * 40} for number in range(9000)
    ]
    assert "more than 2000 files, expected those of one model" in refusal(hub, target)
    assert sum("/tree/" in seen.path for seen in hub.seen) == 3


def test_links_in_the_place_of_files_lead_no_download_elsewhere(
    hub: TestHub, weights: Path, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("kept")
    download(source(hub), target, until_percent=60)
    partial = target.with_name("weights.partial")
    for path in list(partial.glob(".*.*")):
        if not path.name.startswith(".conclave"):
            path.unlink()
            path.symlink_to(outside / "mine")
    download(source(hub), target)
    assert visible(target) == wanted(weights)
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("mine", "kept")]


def pickled(tmp_path: Path) -> Path:
    root = tmp_path / "pickled"
    root.mkdir()
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin", "training_args.bin", "README.md", "model.py"):
        (root / name).write_bytes(b'{"architectures": ["LlamaForCausalLM"]}')
    return root


def test_pickles_are_chosen_only_where_they_are_the_only_weights(hub: TestHub, tmp_path: Path) -> None:
    hub.add("acme/pickled", COMMIT, pickled(tmp_path))
    chosen = [item.path for item in source(hub, f"hf://acme/pickled@{COMMIT}").list()]
    assert chosen == ["README.md", "config.json", "pytorch_model.bin", "tokenizer.json"]


def test_pickles_are_downloaded_by_a_person_and_the_message_says_how_to_convert_them(
    hub: TestHub, tmp_path: Path, target: Path
) -> None:
    hub.add("acme/pickled", COMMIT, pickled(tmp_path))
    with pytest.raises(WeightsUnfit, match=f"only pickled weights .*conclave weights convert {target}.partial TARGET"):
        download(source(hub, f"hf://acme/pickled@{COMMIT}"), target)


def test_a_job_refuses_pickles_before_the_first_byte(hub: TestHub, tmp_path: Path, target: Path) -> None:
    hub.add("acme/pickled", COMMIT, pickled(tmp_path))
    with pytest.raises(
        WeightsUnfit, match=r"only pickled weights \(pytorch_model\.bin\), .*`conclave weights convert`"
    ):
        download(source(hub, f"hf://acme/pickled@{COMMIT}", for_engine=True), target, keep=[])
    assert hub.sent_bytes == 0


def test_a_repository_without_weights_is_told(hub: TestHub, tmp_path: Path, target: Path) -> None:
    (tmp_path / "gguf").mkdir()
    for name in ("config.json", "tiny.Q4_K_M.gguf"):
        (tmp_path / "gguf" / name).write_text("{}")
    hub.add("acme/gguf", COMMIT, tmp_path / "gguf")
    told = refusal(hub, target, uri=f"hf://acme/gguf@{COMMIT}")
    assert "no *.safetensors in the top directory of the repository: it has config.json, tiny.Q4_K_M.gguf; name" in told


def test_a_begun_download_of_another_directory_that_is_kept_stays(hub: TestHub, target: Path) -> None:
    """The Job's container of an adapter runs before that of the model."""
    beside = target.with_name("model")
    download(source(hub), beside, until_percent=40, keep=["weights"])
    kept = sorted(path.name for path in beside.with_name("model.partial").iterdir())
    download(source(hub), target, keep=["model"])
    assert sorted(path.name for path in beside.with_name("model.partial").iterdir()) == kept
    download(source(hub), target, keep=[])
    assert not beside.with_name("model.partial").exists()


def test_the_report_of_a_failure_has_its_kind_and_no_token(hub: TestHub, target: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    hub.token = "hf_another"
    code, stdout, stderr = finished(run(hub, target, "--report", str(report)))
    assert code == WeightsUnfit.exit_code
    assert stderr.startswith(f"error: {URI} at {hub.url}: ")
    told = json.loads(report.read_text())
    assert told["error"] == "DownloadFailed"
    assert "the repository is gated and the token has no access" in told["message"]
    assert TOKEN not in stdout + stderr + report.read_text()


def command(hub: TestHub, target: Path, *arguments: str, uri: str = URI, **environment: str) -> Result:
    options = ["weights", "download", uri, str(target), "--endpoint", hub.url, *arguments]
    return CliRunner().invoke(app, options, env={"HF_TOKEN": "", **environment})


def test_the_command_downloads_with_the_token_of_the_environment(hub: TestHub, weights: Path, target: Path) -> None:
    hub.token = TOKEN
    done = command(hub, target, "--exclude", "empty.txt", HF_TOKEN=TOKEN, HF_HUB_OFFLINE="1")
    assert done.exit_code == 0, done.output
    files = {path: data for path, data in wanted(weights).items() if path != "empty.txt"}
    assert done.stdout == f"{target}: {size_bytes(files)} bytes, {size_bytes(files)} of them fetched now\n"
    assert visible(target) == files
    again = command(hub, target, "--exclude", "empty.txt")
    assert again.stdout == f"{target}: {size_bytes(files)} bytes, 0 of them fetched now\n"


WRONG: dict[str, tuple[str, list[str], str]] = {
    "no revision": (f"hf://{REPOSITORY}", [], "no revision, expected a commit of 40 hex digits .*commits/main"),
    "a branch": (f"hf://{REPOSITORY}@main", [], 'revision "main", expected a commit of 40 hex digits'),
    "a commit cut off": (f"hf://{REPOSITORY}@{COMMIT[:12]}", [], "expected a commit of 40 hex digits"),
    "a file": (f"hf://{REPOSITORY}/config.json@{COMMIT}", [], "expected hf://ORGANISATION/NAME@COMMIT"),
    "a repository that climbs": (f"hf://acme/..@{COMMIT}", [], '"acme/..*" is not a repository of a hub'),
    "a region": (URI, ["--region", "eu-west-1"], "a hub has no regions"),
    "a pattern with a space": (URI, ["--include", "a b"], '--include "a b" is not a pattern of file names'),
    "a pattern of a store": (
        "s3://bucket/x",
        ["--include", "*.json"],
        "--include and --exclude are for hf:// addresses",
    ),
}


@pytest.mark.parametrize(("uri", "arguments", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(
    hub: TestHub, target: Path, uri: str, arguments: list[str], message: str
) -> None:
    refused = command(hub, target, *arguments, uri=uri)
    assert isinstance(refused.exception, InvalidInput)
    assert re.search(message, str(refused.exception)), str(refused.exception)
    assert hub.seen == []


@pytest.mark.parametrize("endpoint", ["ftp://hub", "hub.example", "http://", "http://a:b@hub", "http://hub?x=1"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidInput, match=r"is not the base URL of a hub, expected http:// or https://, a host"):
        Hub(URI, endpoint=endpoint, environment={})
