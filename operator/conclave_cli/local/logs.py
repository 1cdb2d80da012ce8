"""Reads the logs of a local Ray as they grow: the engine's and Serve's, not those of Ray's own machinery."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PATTERNS = ("worker-*.out", "worker-*.err")
ANSI = re.compile(r"\x1b\[[0-9;]*m")

STAGES = (
    (re.compile(r"Initializing a V\d LLM engine|Starting engine|Initializing engine"), "starting the engine"),
    (re.compile(r"rank \d+ in world size|world_size=\d+"), "joining the ranks"),
    (re.compile(r"Starting to load model|Loading safetensors|Loading weights with"), "loading weights"),
    (re.compile(r"Loading weights took|Model loading took"), "weights loaded"),
    (re.compile(r"Dynamo bytecode|Compiling a graph|Warming up model"), "compiling"),
    (re.compile(r"KV cache size|KV cache memory"), "KV cache allocated"),
    (re.compile(r"Capturing CUDA graph|Graph capturing"), "capturing CUDA graphs"),
    (re.compile(r"init engine \(profile"), "the engine runs, answering the first requests to warm up"),
)


class LogFollower:
    """Remembers how far each file was read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read_bytes: dict[Path, int] = {}

    def new_lines(self) -> Iterator[str]:
        """Complete lines that were added since the last call."""
        for pattern in PATTERNS:
            for path in sorted(self._directory.glob(pattern)):
                with path.open("rb") as file:
                    file.seek(self._read_bytes.get(path, 0))
                    text = file.read()
                complete = text[: text.rfind(b"\n") + 1]
                self._read_bytes[path] = self._read_bytes.get(path, 0) + len(complete)
                for line in complete.decode(errors="replace").splitlines():
                    yield ANSI.sub("", line)

    def texts(self) -> Iterator[str]:
        """The whole text of each file, the engine's own output first."""
        for pattern in reversed(PATTERNS):
            for path in sorted(self._directory.glob(pattern)):
                yield path.read_text(errors="replace")


def stage_of(line: str) -> str | None:
    """The stage of the engine's start that a log line announces."""
    return next((stage for pattern, stage in STAGES if pattern.search(line)), None)
