"""One `conclave up` of a tiny Llama 3 with all that one engine can show at once: adapters, tracing, two ranks.

The manifest is examples/llama-3-adapter.yaml with a second adapter, with what examples/llama-3.yaml asks of GPUs, and
with a collector of traces.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import yaml
from tests.eventually import eventually
from tests.serving.llama.collector import Collector
from tests.serving.up_command import READY_TIMEOUT_S, Up
from tools.tiny_adapter import make_adapter
from tools.tiny_checkpoint import make_checkpoint

from conclave_cli.local.ports import free_port

EXAMPLES = Path(__file__).parents[3] / "examples"
BASE, TONE, SECOND = "llama-3-8b", "support-tone", "acme/legal"


@dataclass(frozen=True)
class Llama:
    """A running `conclave up`, and the directories that it serves."""

    up: Up
    url: str
    key: str
    logs: Path
    checkpoint: Path
    adapters: dict[str, Path]
    collector: Collector

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=120)


def manifest(collector: Collector) -> dict[str, Any]:
    """In float32: tokens are compared."""
    content: dict[str, Any] = yaml.safe_load((EXAMPLES / "llama-3-adapter.yaml").read_text())
    for_gpus = yaml.safe_load((EXAMPLES / "llama-3.yaml").read_text())["spec"]
    second = {"name": SECOND, "source": {"persistentVolumeClaim": {"claimName": "weights"}}, "maxRank": 8}
    content["spec"]["model"]["adapters"].append(second)
    content["spec"] |= {name: part for name, part in for_gpus.items() if name != "model"}
    content["spec"]["engine"] |= {"dtype": "float32", "maxModelLen": 512}
    content["spec"] |= {
        "parallelism": {"tensor": 2},
        "telemetry": {"tracing": {"endpoint": collector.endpoint, "samplingRatio": "0"}},
    }
    return content


@contextmanager
def running_llama(directory: Path) -> Iterator[Llama]:
    """Ends as a user ends it, and leaves no process."""
    collector = Collector()
    checkpoint = make_checkpoint("llama-3", directory / "weights")
    adapters = {
        TONE: make_adapter(checkpoint, directory / "tone", rank=12, seed=1),
        SECOND: make_adapter(checkpoint, directory / "second", rank=4, seed=2),
    }
    (directory / "model.yaml").write_text(yaml.safe_dump(manifest(collector)))
    arguments = ["-f", directory / "model.yaml", "--weights", checkpoint, "--port", free_port()]
    for name, path in adapters.items():
        arguments += ["--adapter", f"{name}={path}"]
    up = Up(directory, *map(str, arguments))
    try:
        eventually(up.is_ready, READY_TIMEOUT_S)
        (state,) = up.state.glob("conclave/*/endpoint.json")
        endpoint = json.loads(state.read_text())
        (logs,) = re.findall(r"(/\S+/session_latest/logs)", up.said())[:1]
        yield Llama(up, endpoint["url"], endpoint["key"], Path(logs), checkpoint, adapters, collector)
    finally:
        code = up.end(signal.SIGINT)
        collector.stop()
    assert (code, up.processes()) == (0, []), up.said()[-3000:]
