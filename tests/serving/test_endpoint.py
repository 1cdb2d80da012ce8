"""What the endpoint refuses through the real Serve proxy, and what its logs never hold."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from openai import APIStatusError
from tests.eventually import eventually
from tests.serving.addresses import listening_addresses
from tests.serving.deployed import ACCEPTED, MAX_MODEL_LEN, QUEUED, TOKEN, Endpoint, log_text
from tests.unit.serving.hostile_requests import AUTHORIZATIONS, PATHS, SMUGGLED

from conclave_cli.local.ray_head import RayHead
from conclave_cli.local.serve_api import ServeApi

pytestmark = pytest.mark.parametrize("endpoint", ["mixtral"], indirect=True)

CANARY = "canary-5d1f0c"


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1]], ids=repr)
@pytest.mark.parametrize("target", ["/v1/models", "/v1/chat/completions", "/pause"])
def test_without_the_token_the_answer_is_401(endpoint: Endpoint, target: str, token: str | None) -> None:
    answer = endpoint.request("POST", target, endpoint.chat(), token=token)
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert "www-authenticate" in answer.headers


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/metrics",
        "/health",
        "/version",
        "/load",
        "/invocations",
        "/pooling",
        "/classify",
        "/score",
        "/rerank",
        "/tokenize",
        "/detokenize",
        "/pause",
        "/resume",
        "/sleep",
        "/update_weights",
        "/collective_rpc",
        "/scale_elastic_ep",
        "/v1/load_lora_adapter",
        "/v1/responses",
        "/v1/embeddings",
        "/V1/models",
        "//v1/models",
        "//v1/../pause",
        "/v1/%2e%2e/pause",
        "/v1%2Fmodels",
        "/v1/models%00",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_other_path_is_404(endpoint: Endpoint, method: str, target: str) -> None:
    answer = endpoint.request(method, target, endpoint.chat() if method == "POST" else None)
    assert answer.status == 404
    assert answer.error["type"] == "invalid_request_error"


BAD: dict[str, tuple[dict[str, object], str]] = {
    "n a billion": ({"n": 10**9}, "n"),
    "max_tokens -1": ({"max_tokens": -1}, "max_tokens"),
    "max_tokens a string": ({"max_tokens": "5"}, "max_tokens"),
    "model an array": ({"model": ["tiny/mixtral"]}, "model"),
    "prompt_embeds": ({"prompt_embeds": CANARY}, "prompt_embeds"),
    "kv_transfer_params": ({"kv_transfer_params": {"a": CANARY}}, "kv_transfer_params"),
    "chat_template": ({"chat_template": CANARY}, "chat_template"),
    "cache_salt": ({"cache_salt": CANARY}, "cache_salt"),
    "an unknown field": ({"frobnicate": CANARY}, "frobnicate"),
    "top_logprobs without logprobs": ({"top_logprobs": 3}, "top_logprobs"),
    "a message of an odd shape": (
        {"messages": [{"role": "tool", "content": [{"type": "text", "text": 5}]}]},
        "messages",
    ),
    "a grammar of 900 patterns": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"patternProperties": {f"^{i}.*$": {} for i in range(900)}}},
            }
        },
        "response_format",
    ),
    "a quantifier that only xgrammar reads": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": "a{ 20000 }"}}}},
        "response_format",
    ),
    "a tool choice of nothing": ({"tool_choice": {"type": "function", "function": {"name": CANARY}}}, "tool_choice"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_400_without_echo(endpoint: Endpoint, name: str) -> None:
    fields, param = BAD[name]
    answer = endpoint.request("POST", "/v1/chat/completions", endpoint.chat(**fields))
    assert answer.status == 400
    assert (answer.error["type"], answer.error["param"]) == ("invalid_request_error", param)
    assert CANARY not in answer.body.decode()


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_no_address_in_a_message_is_fetched(endpoint: Endpoint, role: str) -> None:
    """vLLM reads these of any part with a `uuid`, whatever its type; a connection would come to the listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/{CANARY}"
        for key in ("image_url", "video_url", "audio_url", "input_audio", "image_embeds", "image_pil", "prompt_embeds"):
            for value in (address, {"url": address}, "file:///etc/passwd"):
                part = {"type": "text", "text": "hi", "uuid": "1", key: value}
                answer = endpoint.request(
                    "POST", "/v1/chat/completions", endpoint.chat(messages=[{"role": role, "content": [part]}])
                )
                assert (answer.status, answer.error["param"]) == (400, "messages")
                assert CANARY not in answer.body.decode()
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    "arguments",
    ['{"city": "Ber', "", "[]", CANARY, '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}', "[" * 5000],
    ids=["cut short", "nothing", "an array", "a word", "5000 digits", "half a surrogate pair", "5000 open brackets"],
)
def test_a_conversation_goes_on_after_a_call_with_malformed_arguments(endpoint: Endpoint, arguments: str) -> None:
    name = f"{CANARY}-tool"
    messages = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}],
        },
        {"role": "tool", "tool_call_id": "1", "name": name, "content": "rain"},
        {"role": "user", "content": "And tomorrow?"},
    ]
    answer = endpoint.request("POST", "/v1/chat/completions", endpoint.chat(messages=messages, max_tokens=2))
    assert answer.status == 200, answer.body
    assert name not in log_text(endpoint.logs)


def test_an_answer_can_be_sent_back_as_openais_client_keeps_it(endpoint: Endpoint) -> None:
    client = endpoint.openai()
    messages: list[Any] = [{"role": "user", "content": "Good morning!"}]
    for _ in range(2):
        answer = client.chat.completions.create(model=endpoint.model, messages=messages, max_tokens=2)
        messages += [answer.choices[0].message.model_dump(), {"role": "user", "content": "And?"}]
    assert len(messages) == 5


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"structured_outputs": {"regex": f"({CANARY}"}}, 400),
        ({"structured_outputs": {"regex": "(a+)+b"}}, 200),
        ({"structured_outputs": {"regex": "((a{10}){10}){10}"}}, 200),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": CANARY}}}}, 400),
        ({"logit_bias": {"100000": 1}}, 400),
        ({"logit_bias": {CANARY: 1}}, 400),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"}, 200),
        ({"messages": [{"role": "user", "content": f"{CANARY} " * 300}]}, 400),
        ({"stop_token_ids": [10**6]}, 400),
        ({"top_k": 0}, 200),
    ],
    ids=[
        "a broken pattern",
        "nested repeats",
        "a thousand repeats",
        "a schema of an unknown type",
        "a bias of an unknown token",
        "a bias that is no token",
        "tools of which none is called",
        "a prompt over the context",
        "a stop token outside the vocabulary",
        "no limit on candidates",
    ],
)
def test_what_only_the_engine_can_judge_ends_soon_and_leaves_it_alive(
    endpoint: Endpoint, fields: dict[str, object], status: int
) -> None:
    answer = endpoint.request("POST", "/v1/chat/completions", endpoint.chat(max_tokens=4, **fields))
    assert answer.status == status, answer.body
    assert CANARY not in answer.body.decode()
    assert endpoint.request("POST", "/v1/chat/completions", endpoint.chat(max_tokens=1)).status == 200


def test_a_recursive_schema_is_followed(endpoint: Endpoint) -> None:
    tree: dict[str, Any] = {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    }
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": tree}}
    answer = endpoint.request("POST", "/v1/chat/completions", endpoint.chat(max_tokens=8, response_format=schema))
    assert answer.status == 200, answer.body
    assert json.loads(answer.body)["choices"][0]["message"]["content"].startswith("{")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"structured_outputs": {"regex": f"({CANARY}"}}, id="a broken pattern"),
        pytest.param({"structured_outputs": {"regex": f"(?<={CANARY})b"}}, id="a look-behind"),
        pytest.param(
            {"structured_outputs": {"json": {"type": "array", "uniqueItems": True}}}, id="a keyword of others"
        ),
        pytest.param({"structured_outputs": {"json": {"$ref": f"#/$defs/{CANARY}"}}}, id="a reference to nothing"),
    ],
)
def test_what_xgrammar_declines_goes_to_no_other_compiler(
    endpoint: Endpoint, fields: dict[str, object], stream: bool
) -> None:
    answer = endpoint.request("POST", "/v1/chat/completions", endpoint.chat(stream=stream, **fields))
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert answer.error["message"].startswith("The grammar of the request")
    assert CANARY not in log_text(endpoint.logs)


def test_others_are_answered_while_a_grammar_is_compiled(endpoint: Endpoint) -> None:
    """The process that compiles is held, as a grammar without end would hold it."""
    (trials,) = _processes(endpoint, "conclave_openai.grammars.trial_process")
    hostile = endpoint.chat(max_tokens=4, structured_outputs={"regex": "(held|back)+"})
    plain = endpoint.chat(max_tokens=4)
    with ThreadPoolExecutor(2) as pool:
        os.kill(trials, signal.SIGSTOP)
        try:
            held = [pool.submit(endpoint.request, "POST", "/v1/chat/completions", hostile) for _ in range(2)]
            answers = [endpoint.request("POST", "/v1/chat/completions", plain).status for _ in range(5)]
            waiting = [not one.done() for one in held]
        finally:
            os.kill(trials, signal.SIGCONT)
    assert answers == [200] * 5
    assert waiting == [True] * 2
    assert [one.result().status for one in held] == [200] * 2


def _processes(endpoint: Endpoint, module: str) -> list[int]:
    """Of the endpoint's Ray, which gives all its processes a directory of its own, around Ray's."""
    directory = f"TMPDIR={endpoint.logs.parents[2]}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            of_module = module.encode() in (path / "cmdline").read_bytes().split(b"\0")
            if of_module and directory in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


@pytest.mark.parametrize("target", ["/-/routes", "/-/%72outes"])
def test_serves_list_of_routes_is_404(endpoint: Endpoint, target: str) -> None:
    answer = endpoint.request("GET", target, token=None)
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")


def test_the_probe_of_the_proxy_tells_no_more_than_that_it_is_well(endpoint: Endpoint) -> None:
    answer = endpoint.request("GET", "/-/healthz", token=None)
    assert (answer.status, answer.body) == (200, b"success")


def test_another_model_is_404(endpoint: Endpoint) -> None:
    with pytest.raises(APIStatusError) as refusal:
        endpoint.openai().chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    assert (refusal.value.status_code, refusal.value.code) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b'{"model": "a", "model": "b"}', 400, id="a key twice"),
        pytest.param(b'{"temperature": NaN}', 400, id="NaN"),
        pytest.param(b'{"a":' * 100_000, 400, id="10^5 levels"),
        pytest.param(b'{"prompt": "\\ud800"}', 400, id="a lone surrogate"),
        pytest.param(b'"\xff"', 400, id="not UTF-8"),
        pytest.param(b" " * 9_000_000, 413, id="9 MB"),
        pytest.param(b'{"x":[' + b"[]," * 2_500_000 + b"1]}", 400, id="5 million values"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_a_broken_body_is_refused(endpoint: Endpoint, body: bytes, status: int, chunked: bool) -> None:
    sent: object = body
    headers: dict[str, str] = {}
    if chunked:
        headers["transfer-encoding"] = "chunked"
        sent = (b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:100] or b" ", body[100:] or b" ", b""))
    answer = endpoint.request("POST", "/v1/completions", sent, headers=headers)
    assert answer.status == status
    assert answer.error["type"] == "invalid_request_error"


def raw_answer(endpoint: Endpoint, raw: bytes) -> bytes:
    """What the endpoint answers to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=120) as connection:
        connection.sendall(raw)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_no_spelling_of_the_token_or_of_a_path_gets_in(endpoint: Endpoint) -> None:
    ends = "host: x\r\nconnection: close\r\n"
    heads = dict.fromkeys(AUTHORIZATIONS, f"GET /v1/models HTTP/1.1\r\n{ends}")
    for name, lines in AUTHORIZATIONS.items():
        raw = heads[name] + "".join(f"{line}\r\n" for line in lines)
        assert raw_answer(endpoint, f"{raw}\r\n".encode("latin-1")).startswith(b"HTTP/1.1 401"), name
    for path in PATHS:
        raw = f"GET {path} HTTP/1.1\r\n{ends}authorization: Bearer {TOKEN}\r\n\r\n"
        assert raw_answer(endpoint, raw.encode()).startswith(b"HTTP/1.1 404"), path


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_request_that_two_servers_read_differently_is_refused_once(endpoint: Endpoint, name: str) -> None:
    answer = raw_answer(endpoint, SMUGGLED[name])
    assert (answer.count(b"HTTP/1.1 "), answer[:10]) == (1, b"HTTP/1.1 4")


def test_serves_proxy_has_the_door(endpoint: Endpoint) -> None:
    """Ray Serve leaves the choice of the protocol class to uvicorn: what it took shows in what it refuses."""
    answer = raw_answer(endpoint, b"GET /-/healthz HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 101 + b"\r\n")
    assert (answer[:12], b'"headers_too_large"' in answer) == (b"HTTP/1.1 431", True)
    upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n"
    assert raw_answer(endpoint, f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n".encode())[:12] == b"HTTP/1.1 401"


def test_without_the_token_no_body_is_waited_for(endpoint: Endpoint) -> None:
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 8000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=20) as connection:
        connection.sendall(head.encode() + b"{")
        assert connection.recv(12) == b"HTTP/1.1 401"


def test_a_clients_request_id_goes_nowhere(endpoint: Endpoint) -> None:
    answer = endpoint.request(
        "POST", "/v1/chat/completions", endpoint.chat(max_tokens=1), headers={"x-request-id": CANARY}
    )
    assert answer.status == 200
    assert CANARY not in answer.headers["x-request-id"]
    assert CANARY not in answer.body.decode()


def test_no_origin_is_welcomed(endpoint: Endpoint) -> None:
    answer = endpoint.request("GET", "/v1/models", headers={"origin": "https://example.org"})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_overfull_queue_is_503_with_retry_after(endpoint: Endpoint) -> None:
    body = endpoint.chat(max_tokens=MAX_MODEL_LEN - 64, ignore_eos=True)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: endpoint.request("POST", "/v1/chat/completions", body), range(24)))
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {200, 503}
    assert statuses[200] >= ACCEPTED + QUEUED
    for answer in answers:
        if answer.status == 503:
            assert (answer.error["code"], answer.headers["retry-after"]) == ("overloaded", "3")


def test_a_client_that_leaves_frees_its_place(endpoint: Endpoint) -> None:
    def leave_at_first_token() -> None:
        stream = endpoint.openai().chat.completions.create(
            model=endpoint.model,
            messages=[{"role": "user", "content": "one, two,"}],
            max_tokens=MAX_MODEL_LEN - 64,
            n=8,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        stream.close()

    def all_left() -> bool:
        """On a busy machine an answer may end before its client leaves: then they come again."""
        with ThreadPoolExecutor(ACCEPTED) as pool:
            list(pool.map(lambda _: leave_at_first_token(), range(ACCEPTED)))
        return log_text(endpoint.logs).count("CALL chat CANCELLED") >= before + ACCEPTED

    before = log_text(endpoint.logs).count("CALL chat CANCELLED")
    eventually(all_left)


def _content_fields() -> Iterator[dict[str, Any]]:
    """Canaries where a client may write what it likes, in requests that are answered and in some that are refused."""
    schema = {
        "type": "object",
        "title": CANARY,
        "description": CANARY,
        "properties": {CANARY: {"type": "string", "description": CANARY, "pattern": f"^{CANARY}(?=x)"}},
        "required": [CANARY],
    }
    function = {"name": CANARY, "description": CANARY, "parameters": schema}
    tools = [{"type": "function", "function": function}]
    for choice in ("auto", "required", {"type": "function", "function": {"name": CANARY}}):
        yield {"tools": tools, "tool_choice": choice}
    for name, arguments in (
        (CANARY, json.dumps({CANARY: CANARY})),
        (CANARY, f'{{"{CANARY}": '),
        (CANARY, f'["{CANARY}"]'),
        (f"{CANARY} \x1b[31m", "{}"),
    ):
        call = {"id": CANARY, "type": "function", "function": {"name": name, "arguments": arguments}}
        earlier = {"role": "assistant", "content": None, "tool_calls": [call]}
        answer = {"role": "tool", "tool_call_id": CANARY, "content": CANARY}
        yield {"tools": tools, "messages": [{"role": "user", "content": CANARY}, earlier, answer]}
    yield {"stop": [CANARY, f"{CANARY}\n"], "logit_bias": {CANARY: 1}}
    yield {"stop": [CANARY] * 2}
    for constraint in (
        {"regex": CANARY},
        {"regex": f"{CANARY}(?=x)"},
        {"regex": f"\\b{CANARY}[{CANARY}"},
        {"choice": [CANARY, f"{CANARY}2"]},
        {"json": schema},
        {"json": {"type": CANARY}},
        {"grammar": f'root ::= "{CANARY}" {CANARY.replace("-", "_")}'},
    ):
        yield {"structured_outputs": constraint}
    for shape in (schema, {"$ref": f"#/{CANARY}"}, {"type": CANARY}, {"enum": [CANARY]}, {"const": CANARY}):
        json_schema = {"name": "x", "description": CANARY, "schema": shape}
        yield {"response_format": {"type": "json_schema", "json_schema": json_schema}}
    yield {"response_format": {"type": CANARY}}


def _bodies_with_canary(endpoint: Endpoint) -> Iterator[dict[str, object]]:
    messages = [{"role": "system", "content": CANARY}, {"role": "user", "content": CANARY}]
    yield endpoint.chat(messages=messages, max_tokens=4)
    yield endpoint.chat(messages=messages, max_tokens=4, stream=True)
    yield endpoint.chat(messages=messages, stop=CANARY, user=CANARY, max_tokens=4)
    yield endpoint.chat(messages=[{"role": "user", "content": f"{CANARY} " * 400}])
    yield endpoint.chat(messages=[{"role": CANARY, "content": CANARY}])
    yield endpoint.chat(messages=messages, tools=[{"type": "function", "function": {"name": CANARY}}])
    yield endpoint.chat(messages=[{"role": "user", "content": "x", CANARY: CANARY}])
    call = {"id": CANARY, "type": "function", "function": {"name": CANARY, "arguments": f"{{{CANARY}"}}
    yield endpoint.chat(messages=[{"role": "assistant", "tool_calls": [call]}, *messages], max_tokens=2)
    yield endpoint.chat(messages=[{"role": "user", "content": [{"type": "text", "text": None, "x": CANARY}]}])
    yield endpoint.chat(messages=messages, structured_outputs={"regex": f"({CANARY}"})
    yield endpoint.chat(messages=messages, tool_choice={"type": CANARY})
    for fields in _content_fields():
        yield endpoint.chat(max_tokens=4, **fields)
    yield endpoint.chat(messages=messages, **{CANARY: CANARY})
    yield {"model": CANARY, "prompt": CANARY}
    yield {"model": endpoint.model, "messages": CANARY}


def test_no_log_holds_what_a_client_sent(endpoint: Endpoint) -> None:
    for body in _bodies_with_canary(endpoint):
        endpoint.request("POST", "/v1/chat/completions", body, headers={"x-request-id": CANARY, "x-tenant": CANARY})
    endpoint.request("POST", "/v1/completions", {"model": endpoint.model, "prompt": CANARY, "max_tokens": 2})
    before = log_text(endpoint.logs).count("GET 401 at the door")
    endpoint.request("GET", f"/v1/models/{CANARY}", token=CANARY)
    eventually(lambda: log_text(endpoint.logs).count("GET 401 at the door") > before)
    assert "POST /v1/chat/completions" in log_text(endpoint.logs)
    assert CANARY not in log_text(endpoint.logs)
    assert TOKEN not in log_text(endpoint.logs)
    assert json.loads(endpoint.request("GET", "/v1/models").body)["object"] == "list"


def test_everything_listens_on_the_loopback_interface(endpoint: Endpoint, ray: tuple[RayHead, ServeApi, int]) -> None:
    """But one server of each replica, which Serve binds to every interface: it answers nobody without Ray's token, and
    so reads no pickle of a stranger's."""
    head, _, port = ray
    listening = {each: set(listening_addresses([each])) for each in head.processes()}
    assert port in {address.port for addresses in listening.values() for address in addresses}
    outside = [
        (Path(f"/proc/{each}/cmdline").read_bytes().partition(b":mixtral")[0].decode(), address)
        for each, addresses in listening.items()
        for address in addresses
        if not address.host.is_loopback
    ]
    assert sorted(name for name, _ in outside) == ["ray::ServeReplica"] * 2
    for _, address in outside:
        with grpc.insecure_channel(f"127.0.0.1:{address.port}") as channel:
            for method in ("HandleRequest", "HandleRequestWithRejection"):
                call = channel.unary_unary(f"/ray.serve.ASGIService/{method}")
                with pytest.raises(grpc.RpcError) as refusal:
                    call(b"", timeout=30)
                assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_no_argument_of_a_process_holds_a_secret(endpoint: Endpoint, ray: tuple[RayHead, ServeApi, int]) -> None:
    """Every user of the machine can read them."""
    head, _, _ = ray
    commands = [Path(f"/proc/{each}/cmdline").read_bytes() for each in head.processes()]
    assert len(commands) > 5
    for secret in (TOKEN, head.token):
        assert [command for command in commands if secret.encode() in command] == []


def test_the_engine_has_the_priority_of_whoever_started_it(
    endpoint: Endpoint, ray: tuple[RayHead, ServeApi, int]
) -> None:
    """As with `vllm serve`: Ray's own niceness would leave it nearly nothing beside programs that compute."""
    head, _, _ = ray
    commands = {each: Path(f"/proc/{each}/cmdline").read_bytes() for each in head.processes()}
    trials = {each for each, command in commands.items() if b"grammars.trial_process" in command}  # give way on purpose
    assert len(trials) == 1
    niceness = {os.getpriority(os.PRIO_PROCESS, each) for each in commands.keys() - trials}
    assert niceness == {os.getpriority(os.PRIO_PROCESS, 0)}


def test_the_directories_of_a_local_run_are_private(endpoint: Endpoint, ray: tuple[RayHead, ServeApi, int]) -> None:
    """Sockets and logs lie below this one: nobody else can enter it."""
    head, _, _ = ray
    found = head.directory.stat()
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert found.st_uid == os.getuid()
    assert head.logs.resolve().is_relative_to(head.directory.resolve())
