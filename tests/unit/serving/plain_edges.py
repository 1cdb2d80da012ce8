"""Two edges side by side in one plain uvicorn process, where no import of Ray, an engine or Kubernetes succeeds.

`python -m tests.unit.serving.plain_edges TOKEN_FILE` prints the two ports as JSON and serves until its standard input
ends; then it prints which barred packages it holds. The first edge has one token, the second one many keys and smaller
limits. Started by test_plain_edges.py.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
import sys
from collections.abc import Mapping
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

BARRED = frozenset(
    {"ray", "vllm", "torch", "transformers", "kubernetes", "kopf", "conclave_serving", "conclave_cluster"}
)
MODELS = ("tiny/mixtral", "support-tone")
KEYS = {"ck_all_0123456789abcdef": None, "ck_one_0123456789abcdef": ("support-tone",)}
"""Each key of the second edge, and the models that it may use."""
SMALL_BODY_BYTES = 4096
SMALL_HEAD_BYTES = 2048


class Bar(MetaPathFinder):
    """Refuses imports, as if the packages were not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] in BARRED:
            raise ImportError(f"{fullname} is barred here")


if __name__ == "__main__":
    sys.meta_path.insert(0, Bar())

import uvicorn  # noqa: E402

from conclave_openai.authorization import BearerToken, Caller, RequestHeaders, bearer_credential  # noqa: E402
from conclave_openai.connections.door import Door  # noqa: E402
from conclave_openai.connections.limits import ConnectionLimits  # noqa: E402
from conclave_openai.edge import CALLER, REQUEST, REQUEST_ID, Edge  # noqa: E402
from conclave_openai.errors import unauthorized  # noqa: E402
from conclave_openai.limits.request import load_limits  # noqa: E402


class Keys:
    """An authorization of many keys."""

    def require(self, headers: RequestHeaders) -> Caller:
        given = bearer_credential(headers)
        for number, (key, models) in enumerate(KEYS.items()):
            if hmac.compare_digest(given, key.encode()):
                return Caller(f"key {number}", models)
        raise unauthorized()


class Backends:
    """Answers with what reached it; fails or breaks a stream where the request's seed says so."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request: Mapping[str, Any] = scope.get(REQUEST, {})
        kind = b"text/event-stream" if request.get("stream") else b"application/json"
        if request.get("seed") == 500:
            raise ValueError(f"a backend failed with {request}")
        answer = {
            "edge": self._name,
            "backend": request.get("model"),
            "caller": scope[CALLER].name,
            "path": scope["path"],
            "headers": len(scope["headers"]),
            "id": len(scope[REQUEST_ID]),
        }
        body = json.dumps(answer).encode()
        headers = [(b"content-type", kind)]
        if not request.get("stream"):
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        if request.get("seed") == 501:
            raise ValueError(f"a stream broke with {request}")
        await send({"type": "http.response.body", "body": b""})


def servers(token: Path) -> list[uvicorn.Server]:
    limits = load_limits()
    small = limits.model_copy(update={"body_bytes": SMALL_BODY_BYTES, "sequences": 2})
    edges = [
        (
            Edge(Backends("one token"), models=MODELS, authorization=BearerToken(token), limits=limits),
            ConnectionLimits(),
        ),
        (
            Edge(Backends("many keys"), models=MODELS, authorization=Keys(), limits=small),
            ConnectionLimits(head_bytes=SMALL_HEAD_BYTES),
        ),
    ]
    return [
        uvicorn.Server(
            uvicorn.Config(app, http=Door(doors), ws="none", lifespan="off", access_log=False, log_config=None)  # type: ignore[arg-type]
        )
        for app, doors in edges
    ]


async def main() -> None:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    running = servers(Path(sys.argv[1]))
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener]))
        for server, listener in zip(running, listeners, strict=True)
    ]
    print(json.dumps([listener.getsockname()[1] for listener in listeners]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in running:
        server.should_exit = server.force_exit = True
    await asyncio.gather(*tasks)
    print(json.dumps(sorted(BARRED & {name.partition(".")[0] for name in sys.modules})))


if __name__ == "__main__":
    asyncio.run(main())
