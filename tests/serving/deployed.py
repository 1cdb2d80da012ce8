"""Serve applications of tiny checkpoints on a real local Ray, and clients that speak to them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

from conclave.engine.arguments import (
    AutoscalingArguments,
    EngineArguments,
    PlacementArguments,
    QueueArguments,
    ServingArguments,
)

TOKEN = "the-tests-own-token-0123456789"
MAX_MODEL_LEN = 512
ACCEPTED, QUEUED = 4, 4
TENSOR_PARALLEL = {"mixtral": 2, "llama-3": 1, "gemma": 1, "phi-3": 1}


def serving_arguments(architecture: str, checkpoint: Path, token_path: Path) -> ServingArguments:
    """One replica in float32; a queue small enough to overflow."""
    ranks = TENSOR_PARALLEL[architecture]
    return ServingArguments(
        deployment=architecture,
        served_name=f"tiny/{architecture}",
        model_path=str(checkpoint),
        token_path=str(token_path),
        engine=EngineArguments(
            tensor_parallel_size=ranks,
            pipeline_parallel_size=1,
            max_model_len=MAX_MODEL_LEN,
            dtype="float32",
            extra={
                "enforce_eager": True,
                "enable_auto_tool_choice": True,
                "tool_call_parser": "phi4_mini_json",
                # A random model would fill its budget with spaces between the members of an object.
                "structured_outputs_config": {"disable_any_whitespace": True, "backend": "xgrammar"},
            },
        ),
        placement=PlacementArguments(device="cpu", bundles=ranks, strategy="STRICT_PACK"),
        autoscaling=AutoscalingArguments(min_replicas=1, max_replicas=1, target_ongoing_requests=ACCEPTED),
        queue=QueueArguments(max_ongoing_requests=ACCEPTED, max_queued_requests=QUEUED, retry_after_s=3),
        env={
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "|".join(str(rank) for rank in range(ranks)),
        },
    )


@dataclass(frozen=True)
class Endpoint:
    """A running application, and where its logs are."""

    architecture: str
    checkpoint: Path
    port: int
    logs: Path
    log_at_start: str
    """What Ray and Serve had logged when the application became RUNNING."""

    @property
    def model(self) -> str:
        return f"tiny/{self.architecture}"

    def openai(self, token: str = TOKEN) -> OpenAI:
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=token, max_retries=0, timeout=120)

    def request(
        self,
        method: str,
        target: str,
        body: object | Iterable[bytes] = None,
        *,
        token: str | None = TOKEN,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request with the target exactly as given."""
        sent = {"content-type": "application/json", **(headers or {})}
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        raw = json.dumps(body).encode() if isinstance(body, dict) else body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, target, body=raw, headers=sent, encode_chunked=False)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def chat(self, **fields: object) -> dict[str, object]:
        return {"model": self.model, "messages": [{"role": "user", "content": "Good morning!"}], **fields}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object; fails where the answer has another shape."""
        parsed = json.loads(self.body)
        assert set(parsed) == {"error"}
        assert set(parsed["error"]) == {"message", "type", "param", "code"}
        return dict(parsed["error"])


def log_text(logs: Path) -> str:
    """Everything that Ray and Serve have written."""
    return "\n".join(path.read_text(errors="replace") for path in logs.rglob("*") if path.is_file())
