"""The edge in memory: what is refused before the engine, in which shape, and what gets through."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conclave_openai.authorization import BearerToken
from conclave_openai.bodies.reading import BodyMemory, read_body
from conclave_openai.edge import REQUEST, REQUEST_ID, Edge
from conclave_openai.errors import RequestError, overloaded
from conclave_openai.limits.request import load_limits
from conclave_serving.engine_refusals import engine_refusal

LIMITS = load_limits()
TOKEN = "a-token-of-sufficient-length"
CANARY = "canary-7f3a"
MODELS = ("tiny/mixtral", "support-tone")
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])


class Application:
    """Stands where the ingress stands; remembers the scope it was called with."""

    def __init__(self, failure: Exception | None = None, *, fails_after: bytes | None = None) -> None:
        self.scope: dict[str, Any] | None = None
        self._failure = failure
        self._fails_after = fails_after

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        if self._failure is not None and self._fails_after is None:
            raise self._failure
        kind = b"text/event-stream" if self._fails_after is not None else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": self._fails_after or b"{}", "more_body": True})
        if self._failure is not None:
            raise self._failure
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def token_path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@dataclass
class Client:
    token_path: Path
    application: Application = field(default_factory=Application)
    received: int = 0

    def __post_init__(self) -> None:
        self.edge = Edge(self.application, models=MODELS, authorization=BearerToken(self.token_path), limits=LIMITS)

    def send(
        self,
        method: str,
        path: str,
        body: object = b"",
        *,
        headers: Iterable[tuple[str, str]] = (
            ("authorization", f"Bearer {TOKEN}"),
            ("content-type", "application/json"),
        ),
        chunks: int = 1,
    ) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        size = max(1, -(-len(raw) // chunks))
        pieces = [raw[i : i + size] for i in range(0, len(raw), size)] or [b""]
        answer = Answer()

        async def receive() -> dict[str, Any]:
            self.received += 1
            if not pieces:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                answer.body += message["body"]

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers],
        }
        asyncio.run(self.edge(scope, receive, send))
        return answer


@pytest.fixture
def client(token_path: Path) -> Client:
    return Client(token_path)


def chat(**fields: object) -> dict[str, object]:
    return {"model": "tiny/mixtral", "messages": [{"role": "user", "content": "hello"}], **fields}


def completion(**fields: object) -> dict[str, object]:
    return {"model": "tiny/mixtral", "prompt": "hello", **fields}


def schema(node: object) -> dict[str, object]:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": node}})


def strings(count: int, **keywords: object) -> dict[str, object]:
    """A schema of so many strings; a callable keyword is asked for each."""
    return properties(
        count, lambda i: {"type": "string", **{k: v(i) if callable(v) else v for k, v in keywords.items()}}
    )


def properties(count: int, build: Callable[[int], object]) -> dict[str, object]:
    return {"type": "object", "properties": {f"p{i}": build(i) for i in range(count)}}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="no header"),
        pytest.param([("authorization", "")], id="an empty header"),
        pytest.param([("authorization", f"Basic {TOKEN}")], id="another scheme"),
        pytest.param([("authorization", "Bearer wrong")], id="a wrong token"),
        pytest.param([("authorization", f"Bearer {TOKEN}x")], id="the token with a tail"),
        pytest.param([("authorization", f"Bearer {TOKEN[:-1]}")], id="the token cut short"),
        pytest.param([("authorization", f"Bearer {TOKEN.upper()}")], id="the token in capitals"),
        pytest.param([("authorization", "Bearer tok\u00e9n")], id="bytes beyond ASCII"),
        pytest.param([("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer x")], id="two headers"),
        pytest.param([("x-api-key", TOKEN)], id="the token in another header"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/metrics"])
def test_without_the_token_nothing_is_read(client: Client, path: str, headers: list[tuple[str, str]]) -> None:
    answer = client.send("POST", path, chat(), headers=headers)
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert client.received == 0
    assert client.application.scope is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("POST", path, id=path)
        for path in (
            "/",
            "/docs",
            "/openapi.json",
            "/redoc",
            "/metrics",
            "/health",
            "/ping",
            "/version",
            "/load",
            "/invocations",
            "/pooling",
            "/classify",
            "/score",
            "/v1/score",
            "/rerank",
            "/v1/rerank",
            "/tokenize",
            "/detokenize",
            "/pause",
            "/resume",
            "/sleep",
            "/wake_up",
            "/update_weights",
            "/collective_rpc",
            "/scale_elastic_ep",
            "/reset_prefix_cache",
            "/server_info",
            "/start_profile",
            "/abort_requests",
            "/v1/load_lora_adapter",
            "/v1/unload_lora_adapter",
            "/v1/responses",
            "/v1/messages",
            "/v1/embeddings",
            "/v1/audio/transcriptions",
            "/V1/chat/completions",
            "//v1/chat/completions",
            "/v1//chat/completions",
            "/v1/chat/completions/",
            "/v1/chat/completions/render",
            "//v1/../pause",
            "/v1/%2e%2e/pause",
            "/v1/chat%2fcompletions",
            "/v1/chat/completions;x",
            "/v1/chat/completions%00",
            "/%76%31/chat/completions",
        )
    ],
)
def test_every_other_path_is_unknown(client: Client, method: str, path: str) -> None:
    answer = client.send(method, path, chat())
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
    assert client.application.scope is None


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", CHAT, "POST"), ("PUT", COMPLETIONS, "POST"), ("OPTIONS", CHAT, "POST"), ("POST", "/v1/models", "GET")],
)
def test_a_wrong_method_names_the_right_one(client: Client, method: str, path: str, allowed: str) -> None:
    answer = client.send(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models", 200),
        ("/v1/models/tiny/mixtral", 200),
        ("/v1/models/tiny%2Fmixtral", 200),
        ("/v1/models/support-tone", 200),
        ("/v1/models/other", 404),
        ("/v1/models/", 404),
    ],
)
def test_the_model_list_knows_the_model_and_its_adapter(client: Client, path: str, status: int) -> None:
    assert client.send("GET", path).status == status


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(CHAT, chat(), id="a chat"),
        pytest.param(CHAT, chat(model="support-tone"), id="a chat with the adapter"),
        pytest.param(CHAT, chat(max_tokens=None, n=None, tools=None), id="nulls for optional fields"),
        pytest.param(CHAT, chat(temperature=0, top_p=1, n=16, seed=-1, stop=["a"] * 16), id="values at their bounds"),
        pytest.param(CHAT, chat(stream=True, stream_options={"include_usage": True}), id="a stream"),
        pytest.param(CHAT, chat(logprobs=True, top_logprobs=20), id="log probabilities"),
        pytest.param(CHAT, chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}]), id="parts"),
        pytest.param(CHAT, schema({"type": "object", "properties": {"a": {"type": "string"}}}), id="a schema"),
        pytest.param(
            CHAT,
            chat(
                messages=[
                    {"role": "user", "content": "x", "name": "a"},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                    },
                    {"role": "tool", "tool_call_id": "1", "content": "y"},
                ]
            ),
            id="a conversation with a tool",
        ),
        pytest.param(COMPLETIONS, completion(logprobs=5), id="a completion"),
        pytest.param(COMPLETIONS, completion(prompt=[1, 2, 3] * 100), id="one prompt of token ids"),
        pytest.param(COMPLETIONS, completion(prompt=["a"] * 16), id="16 prompts"),
        pytest.param(COMPLETIONS, completion(echo=True), id="echo alone"),
        pytest.param(COMPLETIONS, completion(structured_outputs={"regex": "a{1,100}"}), id="a small pattern"),
    ],
)
def test_a_sound_request_gets_through_whole(client: Client, path: str, body: dict[str, object]) -> None:
    assert client.send("POST", path, body, chunks=7).status == 200
    assert client.application.scope is not None
    assert client.application.scope[REQUEST] == without_nulls(body)


def without_nulls(value: object) -> object:
    """The value without the keys that are null, and so count as absent."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(strings(10, pattern=UUID), id="UUIDs"),
        pytest.param(strings(10, pattern=r"^\+?[1-9]\d{1,14}$"), id="telephone numbers"),
        pytest.param(strings(5, pattern=r"^(?:[a-z0-9-]+\.){1,10}[a-z]{2,}$"), id="host names"),
        pytest.param(strings(100, maxLength=255), id="one length for all"),
        pytest.param(strings(4, maxLength=lambda i: [10, 20, 50, 100][i]), id="four lengths"),
        pytest.param(strings(40, format="date-time"), id="dates"),
        pytest.param(properties(200, lambda i: {"minimum": 0, "maximum": 100}), id="small numbers"),
        pytest.param(properties(20, lambda i: {"enum": [f"value-{j}" for j in range(20)]}), id="enumerations"),
        pytest.param(
            {"$defs": {"n": properties(200, lambda i: {"$ref": "#/$defs/n"})}, "$ref": "#/$defs/n"}, id="a recursion"
        ),
    ],
)
def test_schemas_of_everyday_use_are_within_the_budget(client: Client, node: dict[str, object]) -> None:
    assert client.send("POST", CHAT, schema(node)).status == 200


def test_the_refusal_of_a_dear_grammar_says_what_it_costs_and_what_helps(client: Client) -> None:
    message = client.send("POST", CHAT, schema(strings(200, format="email"))).error["message"]
    for said in ("'response_format'", "8490 ms", f"at most {LIMITS.schema_.compile_ms} ms", "Use fewer"):
        assert said in message


def test_what_names_an_identity_is_dropped(client: Client) -> None:
    headers = [
        ("Authorization", f"bearer {TOKEN}"),
        ("content-type", "application/json; charset=utf-8"),
        ("x-request-id", "theirs"),
        ("x-tenant", "forged"),
        ("cookie", "a=b"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]
    body = chat(user="forged", metadata={"tenant": "forged"}, store=True)
    assert client.send("POST", CHAT, body, headers=headers).status == 200
    scope = client.application.scope
    assert scope is not None
    assert scope["headers"] == []
    assert scope[REQUEST] == chat()
    assert scope[REQUEST_ID] != "theirs"


DEAR_SCHEMAS: dict[str, object] = {
    "600 bounded numbers": properties(
        600, lambda i: {"type": "number", "minimum": -1e14 / (i + 3), "maximum": 1e14 / 3}
    ),
    "600 integers of 19 digits": properties(600, lambda i: {"minimum": -(10**18) - i, "maximum": 10**18 + i}),
    "numbers of 300 digits": properties(100, lambda i: {"type": "number", "maximum": 1.7e300 / (i + 1)}),
    "900 patterns": strings(900, pattern=lambda i: f"^[a-z]+{i}$"),
    "900 patterns of names": {"patternProperties": {f"^x{i}.*$": {} for i in range(900)}},
    "200 e-mail addresses": strings(200, format="email"),
    "20 lengths": strings(20, maxLength=lambda i: 100 + i),
    "20 least lengths": strings(20, minLength=lambda i: 100 + i),
    "pairs of lengths": strings(20, minLength=lambda i: i, maxLength=lambda i: 300),
    "1000 optional properties": properties(1000, lambda i: {}),
    "counted properties": {**properties(200, lambda i: {}), "maxProperties": 100},
    "a long constant": {"const": "x" * 60_000},
    "long values": {"enum": ["x" * 10_000] * 6},
    "many array bounds": properties(600, lambda i: {"type": "array", "minItems": i, "maxItems": 5000}),
}

BAD_BODIES: dict[str, tuple[object, str | None]] = {
    "no body": (b"", None),
    "not JSON": (b"{", None),
    "an array": (b"[]", None),
    "not UTF-8": (b'{"model": "\xff"}', None),
    "UTF-16": ('{"model": "x"}'.encode("utf-16"), None),
    "a key twice": (b'{"model": "a", "model": "b"}', None),
    "a nested key twice": (b'{"messages": [{"role": "a", "role": "b"}]}', None),
    "NaN": (b'{"temperature": NaN}', None),
    "infinity": (b'{"temperature": -Infinity}', None),
    "a number beyond double": (b'{"temperature": 1e999}', None),
    "a number of a million digits": (b'{"seed": ' + b"9" * 1_000_000 + b"}", None),
    "a lone surrogate": (b'{"prompt": "\\ud800"}', None),
    "10^5 levels": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, None),
    "10^5 open brackets": (b"[" * 100_000, None),
    "65 levels": (b'{"a":' * 65 + b"1" + b"}" * 65, None),
    "no model": ({"messages": [{"role": "user", "content": "x"}]}, "model"),
    "model null": (chat(model=None), "model"),
    "model an array": (chat(model=["tiny/mixtral"]), "model"),
    "model of 1 MB": (chat(model="x" * 1_000_000), "model"),
    "no messages": ({"model": "tiny/mixtral"}, "messages"),
    "empty messages": (chat(messages=[]), "messages"),
    "messages a string": (chat(messages="hi"), "messages"),
    "a message a string": (chat(messages=["hi"]), "messages"),
    "an unknown role": (chat(messages=[{"role": CANARY, "content": "x"}]), "messages"),
    "content a number": (chat(messages=[{"role": "user", "content": 5}]), "messages"),
    "a text that is a number": (
        chat(messages=[{"role": "user", "content": [{"type": "text", "text": 5}]}]),
        "messages",
    ),
    "a name that is an object": (chat(messages=[{"role": "user", "content": "x", "name": {}}]), "messages"),
    "tool calls that are a string": (chat(messages=[{"role": "assistant", "tool_calls": CANARY}]), "messages"),
    "a tool call without a name": (
        chat(messages=[{"role": "assistant", "tool_calls": [{"function": {"arguments": CANARY}}]}]),
        "messages",
    ),
    "5000 messages": (chat(messages=[{"role": "user", "content": "x"}] * 5000), "messages"),
    "n a billion": (chat(n=10**9), "n"),
    "n zero": (chat(n=0), "n"),
    "n true": (chat(n=True), "n"),
    "max_tokens -1": (chat(max_tokens=-1), "max_tokens"),
    "max_tokens 0": (chat(max_tokens=0), "max_tokens"),
    "max_tokens a string": (chat(max_tokens="5"), "max_tokens"),
    "max_tokens a fraction": (chat(max_tokens=1.5), "max_tokens"),
    "temperature 3": (chat(temperature=3), "temperature"),
    "temperature a string": (chat(temperature="0"), "temperature"),
    "top_p 2": (chat(top_p=2), "top_p"),
    "65 stops": (chat(stop=["a"] * 65), "stop"),
    "a stop of 1 MB": (chat(stop="a" * 1_000_000), "stop"),
    "a stop not a string": (chat(stop=[1]), "stop"),
    "logit_bias of 10^4": (chat(logit_bias={str(i): 1 for i in range(10_000)}), "logit_bias"),
    "logit_bias of 101": (chat(logit_bias={"1": 101}), "logit_bias"),
    "top_logprobs 10^4": (chat(logprobs=True, top_logprobs=10_000), "top_logprobs"),
    "seed beyond 64 bits": (chat(seed=2**64), "seed"),
    "129 tools": (chat(tools=[{"type": "function", "function": {"name": "f"}}] * 129), "tools"),
    "tools of 300 kB": (
        chat(tools=[{"type": "function", "function": {"name": "f", "description": "x" * 300_000}}]),
        "tools",
    ),
    "a tool that is no function": (chat(tools=[{"type": "web"}]), "tools"),
    "an image": (
        chat(
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.1.1"}}]}]
        ),
        "messages",
    ),
    "an image from a file": (
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]),
        "messages",
    ),
    "a schema of 100 kB": (schema({"description": "x" * 100_000}), "response_format"),
    "a schema of 40 levels": (schema(json.loads('{"items":' * 40 + "{}" + "}" * 40)), "response_format"),
    "a schema from elsewhere": (schema({"$ref": "http://169.254.169.254/x"}), "response_format"),
    "a schema of huge counts": (schema({"type": "string", "maxLength": 10**9}), "response_format"),
    "a schema with a huge enum": (schema({"enum": list(range(2000))}), "response_format"),
    "a schema with a huge pattern": (schema({"pattern": "a" * 1000}), "response_format"),
    "a tool with a huge pattern": (
        chat(
            tools=[{"type": "function", "function": {"name": "f", "parameters": {"pattern": "(a{99}){99}"}}}],
            tool_choice="required",
        ),
        "tools",
    ),
    **{f"a grammar of {name}": (schema(node), "response_format") for name, node in DEAR_SCHEMAS.items()},
    "tools that are dear together": (
        chat(
            tools=[{"type": "function", "function": {"name": "f", "parameters": strings(40, format="email")}}] * 4,
            tool_choice="required",
        ),
        "tools",
    ),
    "a format and tools that are dear together": (
        {
            **chat(
                tools=[
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": strings(70, format="uri"), "strict": True},
                    }
                ]
            ),
            **schema(strings(70, format="uri")),
        },
        "tools",
    ),
    "a choice of 60 kB": (chat(structured_outputs={"choice": ["x" * 60] * 1000}), "structured_outputs"),
    "a pattern of many wildcards": (chat(structured_outputs={"regex": ".*" * 40}), "structured_outputs"),
    "a pattern of many optional groups": (chat(structured_outputs={"regex": "(.|)" * 60}), "structured_outputs"),
    "a pattern of optional classes": (chat(structured_outputs={"regex": "[ -~]?" * 40}), "structured_outputs"),
    "a pattern of optional words": (chat(structured_outputs={"regex": "[A-Za-z ]?" * 40}), "structured_outputs"),
    "a pattern of endless digits": (
        chat(structured_outputs={"regex": "(" * 9 + "a" + "){99999999999999999999}" * 9}),
        "structured_outputs",
    ),
    "an unknown format": (chat(response_format={"type": "structural_tag"}), "response_format"),
    "a pattern of a million": (chat(structured_outputs={"regex": "(a{1000}){1000}"}), "structured_outputs"),
    "a grammar": (chat(structured_outputs={"grammar": "root ::= root"}), "structured_outputs"),
    "prompt_embeds": (chat(prompt_embeds=CANARY), "prompt_embeds"),
    "kv_transfer_params": (chat(kv_transfer_params={"x": CANARY}), "kv_transfer_params"),
    "chat_template": (chat(chat_template=CANARY), "chat_template"),
    "chat_template_kwargs": (chat(chat_template_kwargs={"x": CANARY}), "chat_template_kwargs"),
    "media_io_kwargs": (chat(media_io_kwargs={"x": {}}), "media_io_kwargs"),
    "cache_salt": (chat(cache_salt=CANARY), "cache_salt"),
    "vllm_xargs": (chat(vllm_xargs={"x": CANARY}), "vllm_xargs"),
    "request_id": (chat(request_id=CANARY), "request_id"),
    "priority": (chat(priority=-1), "priority"),
    "an unknown field": (chat(frobnicate=1), "frobnicate"),
    "a field name that is content": (chat(**{f"{CANARY} {CANARY}": 1}), None),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_refused_without_echo(client: Client, name: str) -> None:
    body, param = BAD_BODIES[name]
    answer = client.send("POST", CHAT, body)
    assert answer.status == 400
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert (answer.error["type"], answer.error["param"]) == ("invalid_request_error", param)
    assert CANARY not in answer.body.decode()
    assert len(answer.body) < 500
    assert client.application.scope is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param(completion(prompt=[]), "prompt", id="no prompts"),
        pytest.param(completion(prompt=["a"] * 17), "n", id="17 prompts"),
        pytest.param(completion(prompt=["a"] * 4, n=5), "n", id="20 sequences"),
        pytest.param(completion(prompt=[{"a": 1}]), "prompt", id="a prompt that is an object"),
        pytest.param(completion(echo=True, logprobs=1), "echo", id="log probabilities of the prompt"),
        pytest.param(completion(prompt_logprobs=1), "prompt_logprobs", id="the same under another name"),
        pytest.param(completion(messages=[]), "messages", id="a field of the other URL"),
    ],
)
def test_a_bad_completion_is_refused(client: Client, body: dict[str, object], param: str) -> None:
    answer = client.send("POST", COMPLETIONS, body)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_another_model_is_unknown(client: Client) -> None:
    answer = client.send("POST", CHAT, chat(model=CANARY))
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert CANARY not in answer.body.decode()


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_body_over_the_limit_is_not_read_to_its_end(client: Client, announced: bool) -> None:
    body = b" " * (4 * LIMITS.body_bytes)
    headers = [("authorization", f"Bearer {TOKEN}"), ("content-type", "application/json")]
    if announced:
        headers.append(("content-length", str(len(body))))
    answer = client.send("POST", CHAT, body, headers=headers, chunks=40)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert client.received <= (0 if announced else 11)


def test_another_content_type_is_refused(client: Client) -> None:
    headers = [("authorization", f"Bearer {TOKEN}"), ("content-type", "text/plain")]
    assert client.send("POST", CHAT, chat(), headers=headers).status == 415


def test_a_body_that_does_not_come_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(RequestError) as refusal:
        asyncio.run(read_body([], receive, lambda _count: None, limit_bytes=10, timeout_s=0.01))
    assert refusal.value.status == 408


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(CHAT, chat(messages=[{"role": "user", "content": ",[{" * 2_000_000}]), id="a text of brackets"),
        pytest.param(CHAT, chat(messages=[{"role": "user", "content": "x"}] * 4096), id="4096 messages"),
        pytest.param(COMPLETIONS, completion(prompt=list(range(100_000, 100_000 + 1_048_576))), id="a million tokens"),
    ],
)
def test_a_large_request_gets_through(client: Client, path: str, body: dict[str, object]) -> None:
    raw = json.dumps(body, separators=(",", ":")).encode()
    assert LIMITS.inline_bytes < len(raw) < LIMITS.body_bytes
    assert client.send("POST", path, raw).status == 200
    assert client.application.scope is not None
    assert client.application.scope[REQUEST] == body


@pytest.mark.parametrize(
    ("path", "key"), [(CHAT, "x"), (CHAT, "messages"), (COMPLETIONS, "prompt"), (COMPLETIONS, "x")], ids=str
)
@pytest.mark.parametrize("item", [b"[]", b"{}", b"1", b'""', b'{"":[]}', b'{"a":1}'], ids=bytes.decode)
def test_a_body_of_many_small_values_is_refused_before_it_is_parsed(
    client: Client, path: str, key: str, item: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conclave_openai.bodies.strict_json.decode", lambda _text: pytest.fail("it was parsed"))
    body = b'{"%s":[%s]}' % (key.encode(), b",".join([item] * min(1_200_000, 7_000_000 // (len(item) + 1))))
    answer = client.send("POST", path, body)
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")
    assert answer.error["message"].startswith("The request body holds more than ")


def test_a_large_body_is_checked_beside_the_event_loop(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, str] = {}
    check = client.edge._check

    def noting(endpoint: Any, body: bytes, models: Any) -> dict[str, Any]:
        threads["large" if len(body) > LIMITS.inline_bytes else "small"] = threading.current_thread().name
        return check(endpoint, body, models)

    monkeypatch.setattr(client.edge, "_check", noting)
    for length in (10, LIMITS.inline_bytes):
        assert client.send("POST", CHAT, chat(messages=[{"role": "user", "content": "x" * length}])).status == 200
    assert client.send("POST", CHAT, chat(stop=["x" * LIMITS.inline_bytes])).error["param"] == "stop"
    assert threads["small"] == threading.current_thread().name
    assert threads["large"].startswith("request-check")


def test_bodies_that_are_read_at_one_time_share_their_memory() -> None:
    """Two requests of 60 bytes under a limit of 100: the second is refused until the first has ended."""
    memory = BodyMemory(100)

    async def read(pieces: list[bytes], gate: asyncio.Event | None = None) -> bytes:
        async def receive() -> dict[str, Any]:
            piece = pieces.pop(0)
            if gate is not None and not pieces:
                await gate.wait()
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        with memory.share() as take:
            return await read_body([], receive, take, limit_bytes=80, timeout_s=60)

    async def run() -> None:
        gate = asyncio.Event()
        first = asyncio.create_task(read([b"x" * 59, b"x"], gate))
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as refused:
            await read([b"y" * 30, b"y" * 30])
        assert (refused.value.status, refused.value.code) == (503, "overloaded")
        assert (b"retry-after", b"1") in refused.value.headers
        gate.set()
        assert len(await first) == 60
        with pytest.raises(RequestError) as refused:
            await read([b"y" * 81])
        assert refused.value.status == 413
        assert await read([b"y" * 30, b"y" * 30]) == b"y" * 60

    asyncio.run(run())


def test_a_full_memory_for_bodies_is_503_with_retry_after(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.edge, "_body_memory", BodyMemory(20))
    answer = client.send("POST", CHAT, chat(), chunks=10)
    assert (answer.status, answer.headers["retry-after"], answer.error["code"]) == (503, "1", "overloaded")


def test_malformed_arguments_of_an_earlier_call_reach_the_engine_as_an_empty_object(client: Client) -> None:
    def call(arguments: str) -> dict[str, object]:
        return {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}

    sent = [call('{"city": "Ber'), call('{"city": "Berlin"}')]
    body = chat(messages=[{"role": "assistant", "content": None, "tool_calls": sent}, {"role": "user", "content": "?"}])
    assert client.send("POST", CHAT, body).status == 200
    assert client.application.scope is not None
    assert client.application.scope[REQUEST]["messages"][0]["tool_calls"] == [call("{}"), call('{"city": "Berlin"}')]


def test_a_client_that_goes_away_is_not_answered(client: Client) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    headers = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers}
    asyncio.run(client.edge(scope, receive, send))
    assert client.application.scope is None


def test_a_websocket_is_closed(client: Client) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    asyncio.run(client.edge({"type": "websocket", "path": CHAT, "headers": []}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_overload_says_when_to_come_again(token_path: Path) -> None:
    answer = Client(token_path, Application(overloaded(7))).send("POST", CHAT, chat())
    assert (answer.status, answer.headers["retry-after"], answer.error["code"]) == (503, "7", "overloaded")


def test_a_fault_of_ours_is_logged_by_its_type_and_hidden_from_the_client(
    token_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = Client(token_path, Application(ValueError(CANARY))).send("POST", CHAT, chat())
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert "request failed: ValueError at" in caplog.text
    assert CANARY not in answer.body.decode() + caplog.text


def test_a_stream_that_breaks_ends_in_an_error_event(token_path: Path) -> None:
    event = b'data: {"x": 1}\n\n'
    answer = Client(token_path, Application(ValueError(CANARY), fails_after=event)).send("POST", CHAT, chat())
    assert answer.status == 200
    first, last, end = answer.body.decode().split("\n\n")
    assert first + "\n\n" == event.decode()
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert end == ""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "This model's maximum context length is 512 tokens. However, your prompt has 513 tokens.",
            "This model's maximum context length is 512 tokens. However, your prompt has 513 tokens.",
        ),
        (f"Invalid grammar: {CANARY}", None),
        ("n must be 1 when using greedy sampling, got 2.", "n must be 1 when using greedy sampling, got 2."),
        (
            f'tool_choice=function "{CANARY}" requires --tool-call-parser to be set',
            "Tool calls need the engine argument tool_call_parser, which is not set for this model.",
        ),
        (f"This model's maximum context length is 512 tokens, not '{CANARY}'", None),
        (
            f"top_k must be -1 or at least 1, got -5. (parameter=top_k, value={CANARY})",
            "top_k must be -1 or at least 1, got -5.",
        ),
        (" " * 1_000_000 + "x", None),  # minutes, where each space begins a search
    ],
)
def test_only_known_messages_of_the_engine_are_passed_on(said: str, told: str | None) -> None:
    refusal = engine_refusal(422, said)
    assert refusal.status == 400
    assert CANARY not in refusal.body().decode()
    assert told is None or str(refusal) == told


def test_a_grammar_that_had_no_turn_may_be_asked_again_later() -> None:
    refusal = engine_refusal(429, "Too many new grammars are being compiled.")
    assert (refusal.status, refusal.kind, refusal.code) == (429, "overloaded_error", "overloaded")
    assert dict(refusal.headers)[b"retry-after"].isdigit()
