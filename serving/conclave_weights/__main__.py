"""The commands of a model's pods: `python -m conclave_weights verify|await|download|inspect`. No Kubernetes token.

A command that fails prints one line on stderr and ends with the exit code of the error. `--report` also writes the
result as JSON, for the pod's termination message. Verification needs the standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import TextIO

from conclave.errors import InvalidInput
from conclave.visible_text import one_line
from conclave_weights.errors import DownloadFailed, WeightsUnfit
from conclave_weights.transfer.download import Download, download
from conclave_weights.transfer.hub import Hub
from conclave_weights.transfer.object_store import ObjectStore
from conclave_weights.transfer.source import Source
from conclave_weights.verify.awaiting import LOOK_EVERY_S, READ_EVERY_S, await_all, verify_or_note, verify_whole

_LONGEST_REPORT = 4000
"""Kubernetes keeps 4096 bytes of a termination message."""


def main() -> int:
    arguments = _parser().parse_args()
    # Process 1 of a container ignores what it has no handler for. Every command may end at any byte.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    run = {"verify": _verify, "await": _await, "download": _download, "inspect": _inspect}[arguments.command]
    try:
        report = run(arguments)
    except WeightsUnfit as error:
        _write(arguments.report, _failure(error))
        return error.exit_code
    _write(arguments.report, report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="conclave_weights")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("verify", help="check that the weights are complete and match the digest")
    command.add_argument("--digest", required=True)
    command.add_argument("--report", type=Path)
    command.add_argument("--notes", type=Path, help="if the weights are wrong, write why to this file, and exit 0")
    command.add_argument("path", type=Path)
    command = commands.add_parser("await", help="wait until the weights that `verify --notes` found wrong are repaired")
    command.add_argument("--look-seconds", type=float, default=LOOK_EVERY_S)
    command.add_argument(
        "--read-seconds", type=float, default=READ_EVERY_S, help="reads the files even if none has changed"
    )
    command.add_argument("--report", type=Path)
    command.add_argument("notes", type=Path)
    command = commands.add_parser(
        "download", help="fetch weights from an object store (credentials are in AWS_*) or a hub (token is in HF_TOKEN)"
    )
    command.add_argument("--endpoint", default="")
    command.add_argument("--region", default="")
    command.add_argument("--include", action="append", default=[], help="of a hub: which files, a pattern; repeatable")
    command.add_argument("--exclude", action="append", default=[], help="of a hub: which files not; repeatable")
    command.add_argument("--digest")
    command.add_argument(
        "--until-percent", type=int, default=100, help="of the bytes; only 100 compares and names them"
    )
    command.add_argument("--keep", action="append", help="the only other directory beside PATH that stays; repeatable")
    command.add_argument("--report", type=Path)
    command.add_argument("uri")
    command.add_argument("path", type=Path)
    command = commands.add_parser(
        "inspect", help="report what a plan needs to know about the weights of unknown models"
    )
    command.add_argument("--report", type=Path)
    command.add_argument("path", type=Path)
    return parser


def _verify(arguments: argparse.Namespace) -> dict[str, object]:
    try:
        if arguments.notes is None:
            files = verify_whole(arguments.path, arguments.digest)
        else:
            files = verify_or_note(arguments.path, arguments.digest, arguments.notes)
    except WeightsUnfit as error:
        if arguments.notes is None:
            raise
        return _failure(error)
    total_bytes = sum(file.size_bytes for file in files)
    _say(f"{arguments.path}: {len(files)} files, {total_bytes} bytes: {arguments.digest}")
    return {"totalBytes": total_bytes}


def _await(arguments: argparse.Namespace) -> dict[str, object]:
    await_all(
        arguments.notes,
        _say,
        look_every_s=arguments.look_seconds,
        read_every_s=arguments.read_seconds,
    )
    return {}


def _failure(error: WeightsUnfit) -> dict[str, object]:
    """The message may list every file, and names may be as long as whoever made them liked."""
    _say(f"error: {error}", sys.stderr)
    return {"error": type(error).__name__, "message": str(error)[:_LONGEST_REPORT]}


def _download(arguments: argparse.Namespace) -> dict[str, object]:
    lines = _Lines()
    try:
        source = _source(arguments)
    except InvalidInput as error:
        raise DownloadFailed(str(error)) from error
    done = download(
        source,
        arguments.path,
        arguments.digest,
        keep=arguments.keep,
        until_percent=arguments.until_percent,
        on_listed=lines.begin,
        on_progress=lines.advance,
    )
    for note in done.notes:
        _say(f"note: {note}")
    _say(f"{arguments.path}: {_state(done)}, {done.fetched_bytes} bytes fetched by this run")
    return {"doneBytes": done.done_bytes, "totalBytes": done.total_bytes, "notes": list(done.notes)}


def _source(arguments: argparse.Namespace) -> Source:
    if arguments.uri.startswith("hf:"):
        patterns = {"include": arguments.include, "exclude": arguments.exclude}
        return Hub(arguments.uri, endpoint=arguments.endpoint, for_engine=True, **patterns)
    return ObjectStore(arguments.uri, endpoint=arguments.endpoint, region=arguments.region)


def _inspect(arguments: argparse.Namespace) -> dict[str, object]:
    from conclave_weights.inspection.plan_facts import plan_facts  # it takes the catalogue, and so its libraries, along

    facts = plan_facts(arguments.path, _LONGEST_REPORT)
    _say(f"{arguments.path}: {facts.summary}")
    return facts.model_dump(mode="json", by_alias=True, exclude_none=True)


def _state(done: Download) -> str:
    return "whole" if done.is_whole else f"{done.done_bytes} of {done.total_bytes} bytes"


class _Lines:
    """A line on stdout at each percent."""

    def __init__(self) -> None:
        self._total_bytes = self._done_bytes = 0
        self._told = -1

    def begin(self, total_bytes: int, done_bytes: int) -> None:
        self._total_bytes, self._done_bytes = total_bytes, done_bytes
        self.advance(0)

    def advance(self, count_bytes: int) -> None:
        self._done_bytes += count_bytes
        percent = self._done_bytes * 100 // self._total_bytes if self._total_bytes else 100
        if percent > self._told:
            self._told = percent
            _say(f"{self._done_bytes} of {self._total_bytes} bytes ({percent} %)")


def _say(line: str, stream: TextIO | None = None) -> None:
    """Names of files, of tensors and messages of a store are foreign: a log that is read on a terminal shows them."""
    print(one_line(line), file=stream, flush=True)


def _write(report: Path | None, content: dict[str, object]) -> None:
    """The message of an error is cut, not the JSON around it."""
    if report is None:
        return
    text = json.dumps(content)
    while len(text.encode()) > _LONGEST_REPORT:
        content = {**content, "message": str(content["message"])[:-200]}
        text = json.dumps(content)
    report.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
