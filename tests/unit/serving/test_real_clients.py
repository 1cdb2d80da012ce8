"""What real clients send beyond a plain turn: null, values that change nothing, thinking, tools, parts, lengths."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.serving.mcp_tools import mcp_tools
from tests.unit.serving.test_edge import CHAT, COMPLETIONS, MODELS, Client, token_path
from tests.unit.serving.test_request_shapes import CALL, WHOLE

from conclave_openai.authorization import BearerToken
from conclave_openai.edge import REQUEST, Edge
from conclave_openai.errors import RequestError
from conclave_openai.limits.fields import is_neutral
from conclave_openai.limits.request import load_limits
from conclave_openai.routes import Endpoint

__all__ = ["token_path"]

LIMITS = load_limits()
CONTEXT_TOKENS = 4096
CASES = {case["id"]: case for case in yaml.safe_load((Path(__file__).parents[2] / "data/requests.yaml").read_text())}
BASE: dict[Endpoint, dict[str, Any]] = {
    "chat": {"model": MODELS[0], "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": MODELS[0], "prompt": "hi"},
}

Outcome = dict[str, Any] | tuple[Any, ...]
"""What is sent to the engine, or the refusal."""


def outcome(body: dict[str, Any], endpoint: Endpoint = "chat", context: int | None = CONTEXT_TOKENS) -> Outcome:
    try:
        return LIMITS.check(endpoint, copy.deepcopy(body), MODELS, context)
    except RequestError as refusal:
        return refusal.status, refusal.param, refusal.code, str(refusal)


def sent(**fields: Any) -> dict[str, Any]:
    """What a chat with these fields sends to the engine beside model and messages."""
    result = outcome({**BASE["chat"], **fields})
    assert isinstance(result, dict), result
    return {name: value for name, value in result.items() if name not in ("model", "messages")}


def refusal(**fields: Any) -> tuple[Any, ...]:
    result = outcome({**BASE["chat"], **fields})
    assert isinstance(result, tuple), result
    return result


QUIET = {"chat_template_kwargs": {"enable_thinking": False}}
NOTHING: dict[str, Any] = {}
WANTED: dict[str, dict[str, Any] | tuple[str, ...]] = {
    "thinking off, Qwen's own way": QUIET,
    "thinking off, flat": QUIET,
    "thinking off, object": QUIET,
    "template argument that is none of the list": ("chat_template_kwargs", "documents"),
    "functions null": NOTHING,
    "best_of one": NOTHING,
    "suffix null": NOTHING,
    "priority zero": NOTHING,
    "beam search off": NOTHING,
    "include_usage null": {"stream": True, "stream_options": {}},
    "best_of three": ("best_of", "best_of"),
    "max_tokens of int32": {"max_tokens": CONTEXT_TOKENS},
    "the same tool, strict": ("tools", "maxLength", "10000"),
}
"""By the case's id: the fields that the engine gets, or the refusal's param and words of its message."""


def test_every_case_is_of_the_file() -> None:
    assert WANTED.keys() <= CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_real_body_gets_what_it_should(token_path: Path, name: str) -> None:
    case, client = CASES[name], Client(token_path)
    client.edge = Edge(
        client.application,
        models=MODELS,
        authorization=BearerToken(token_path),
        limits=LIMITS,
        context_tokens=CONTEXT_TOKENS,
    )
    base, path = (BASE["completions"], COMPLETIONS) if "suffix" in case["body"] else (BASE["chat"], CHAT)
    answer = client.send("POST", path, {**base, **case["body"]})
    wanted = WANTED.get(name)
    if isinstance(wanted, tuple):
        assert case["want"].startswith("400")
        assert (answer.status, answer.error["param"]) == (400, wanted[0])
        for word in wanted[1:]:
            assert word in answer.error["message"]
        return
    assert not case["want"].startswith("400")
    assert answer.status == 200, answer.error
    assert client.application.scope is not None
    if wanted is not None:
        assert client.application.scope[REQUEST] == {**base, **wanted}


# null equals absent

WHOLE_COMPLETION: dict[str, Any] = {
    **BASE["completions"],
    **{"max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}, "logprobs": 2, "echo": False},
    **{"suffix": "", "best_of": 1, "user": "x", "seed": 1, "structured_outputs": {"regex": "a"}, "stop": "b"},
}
WHOLE_CHAT: dict[str, Any] = {
    **WHOLE,
    "messages": [
        *WHOLE["messages"],
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "signature": "x"},
                {"type": "output_text", "text": "yes", "annotations": []},
            ],
            "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {"a": 1}}}],
        },
    ],
    **{"enable_thinking": True, "thinking": {"type": "enabled", "budget_tokens": 9}, "think": True, "user": "x"},
    **{"reasoning": {"effort": "low", "enabled": True, "exclude": True}, "reasoning_effort": "low"},
    **{"chat_template_kwargs": {"thinking": True, "clear_thinking": False}, "best_of": 1, "priority": 0, "n": 1},
}
SCHEMAS = ("parameters", "schema", "json", "logit_bias", "annotations", "arguments")
"""Objects of clients: a null in them is a value."""


def keys_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if path and path[-1] in SCHEMAS:
        return [path]
    found = [path] if path and isinstance(path[-1], str) else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [inner for key, item in items for inner in keys_of(item, (*path, key))]


def with_changes(body: dict[str, Any], paths: list[tuple[Any, ...]], value: Any) -> dict[str, Any]:
    """The body with null at each path; without `value`, without the keys at all."""
    changed = copy.deepcopy(body)
    for path in paths:
        place: Any = changed
        for step in path[:-1]:
            if place is None or (isinstance(place, dict) and step not in place):
                break
            place = place[step]
        else:
            if value is KEEP_NULL:
                place[path[-1]] = None
            else:
                place.pop(path[-1], None)
    return changed


KEEP_NULL = object()
BODIES: dict[Endpoint, dict[str, Any]] = {"chat": WHOLE_CHAT, "completions": WHOLE_COMPLETION}


@pytest.mark.parametrize("endpoint", BODIES)
def test_the_whole_bodies_are_accepted(endpoint: Endpoint) -> None:
    assert isinstance(outcome(BODIES[endpoint], endpoint), dict)


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [(endpoint, path) for endpoint, body in BODIES.items() for path in keys_of(body)],
    ids=lambda value: value if isinstance(value, str) else ".".join(map(str, value)),
)
def test_null_equals_absent_at_every_key(endpoint: Endpoint, path: tuple[Any, ...]) -> None:
    null, absent = (with_changes(BODIES[endpoint], [path], value) for value in (KEEP_NULL, None))
    assert outcome(null, endpoint) == outcome(absent, endpoint)


@given(st.data())
def test_null_equals_absent_at_several_keys(data: st.DataObject) -> None:
    endpoint = data.draw(st.sampled_from([*BODIES]))
    paths = data.draw(st.lists(st.sampled_from(keys_of(BODIES[endpoint])), unique=True, max_size=6))
    paths.sort(key=len, reverse=True)
    null, absent = (with_changes(BODIES[endpoint], paths, value) for value in (KEEP_NULL, None))
    assert outcome(null, endpoint) == outcome(absent, endpoint)


NAMES = sorted({*LIMITS.fields, *LIMITS.forbidden, *LIMITS.ignored, "frobnicate", "audio", "prediction"})


@given(st.sampled_from([*BODIES]), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), st.none()))
def test_null_says_nothing_for_a_field_of_any_name(endpoint: Endpoint, nulls: dict[str, None]) -> None:
    required = {name: value for name, value in BASE[endpoint].items() if name not in nulls}
    assert outcome({**required, **nulls}, endpoint) == outcome(required, endpoint)


# values that change nothing

NEUTRAL = [(name, value) for name, refused in LIMITS.forbidden.items() for value in refused.neutral]


@pytest.mark.parametrize("endpoint", BASE)
@pytest.mark.parametrize(("name", "value"), NEUTRAL, ids=[f"{name} {json.dumps(value)}" for name, value in NEUTRAL])
def test_a_refused_field_with_a_value_that_asks_for_nothing_counts_as_absent(
    endpoint: Endpoint, name: str, value: Any
) -> None:
    assert outcome({**BASE[endpoint], name: value}, endpoint) == BASE[endpoint]


@pytest.mark.parametrize("name", LIMITS.forbidden)
@pytest.mark.parametrize("value", [2, True, -1, "x", [1], {"x": 1}], ids=repr)
def test_a_refused_field_with_any_other_value_is_refused_by_name(name: str, value: Any) -> None:
    if not is_neutral(value, LIMITS.forbidden[name].neutral):
        assert refusal(**{name: value})[:3] == (400, name, "unsupported_parameter")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"echo": False}, id="echo in a chat"),
        pytest.param({"tools": []}, id="no tools"),
        pytest.param({"tools": [], "tool_choice": "auto"}, id="no tools to choose from"),
        pytest.param({"tool_choice": "none"}, id="a choice of none without tools"),
        pytest.param({"tools": None, "tool_choice": "auto", "parallel_tool_calls": True}, id="LangChain's defaults"),
        pytest.param({"structured_outputs": {}}, id="no structure"),
        pytest.param({"chat_template_kwargs": {}}, id="no argument of the template"),
        pytest.param({"reasoning": {}, "thinking": {}}, id="nothing about thinking"),
        pytest.param({"function_call": "none", "functions": []}, id="the old names of tools"),
        pytest.param({"length_penalty": 1.0, "early_stopping": False}, id="what is left of beam search"),
    ],
)
def test_a_field_that_says_nothing_goes_no_further(fields: dict[str, Any]) -> None:
    assert sent(**fields) == NOTHING


def test_options_of_a_stream_that_ask_for_nothing_may_come_without_a_stream() -> None:
    assert sent(stream_options={"include_usage": False}) == {"stream_options": {}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"tool_choice": "required"}, None, id="a call is required, and the engine refuses it"),
        pytest.param({"echo": True}, "echo", id="echo in a chat"),
        pytest.param({"priority": False}, "priority", id="false is not zero"),
        pytest.param({"best_of": True}, "best_of", id="true is not one"),
        pytest.param({"functions": [{"name": "f"}]}, "functions", id="tools under their old name"),
        pytest.param({"suffix": "}"}, "suffix", id="a text after the gap"),
    ],
)
def test_a_field_with_an_effect_is_not_swallowed(fields: dict[str, Any], param: str | None) -> None:
    if param is None:
        assert sent(**fields) == fields
    else:
        assert refusal(**fields)[:2] == (400, param)


# thinking

LOUD = {"chat_template_kwargs": {"enable_thinking": True}}
SPELLINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "off, by the other name of the template's switch": ({"chat_template_kwargs": {"thinking": False}}, QUIET),
    "off, under another name of the arguments": ({"chat_template_args": {"enable_thinking": False}}, QUIET),
    "off, Ollama's way": ({"think": False}, QUIET),
    "off, a boolean": ({"thinking": False}, QUIET),
    "off, OpenAI's way": ({"reasoning_effort": "none"}, QUIET),
    "off, OpenRouter's way": ({"reasoning": {"enabled": False}}, QUIET),
    "off, an effort in an object": ({"reasoning": {"effort": "none"}}, QUIET),
    "off, by a budget of nothing": ({"thinking_budget": 0}, QUIET),
    "off, in all spellings at once": (
        {
            **{"enable_thinking": False, "thinking": {"type": "disabled"}, "think": False, "reasoning_effort": "none"},
            **{"chat_template_kwargs": {"enable_thinking": False, "thinking": False}, "reasoning": {"effort": "none"}},
        },
        QUIET,
    ),
    "off, with an effort that a client has set once for all": (
        {"enable_thinking": False, "reasoning": {"effort": "high"}},
        QUIET,
    ),
    "off, with a budget all the same": ({"thinking": {"type": "disabled", "budget_tokens": 1024}}, QUIET),
    "off, as a word": ({"thinking": "disabled"}, QUIET),
    "on, as a word": ({"thinking": "enabled"}, LOUD),
    "on, flat": ({"enable_thinking": True}, LOUD),
    "on, Ollama's way": ({"think": True}, LOUD),
    "on, Claude's way": (
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {**LOUD, "thinking_token_budget": 1024},
    ),
    "on, without a word of how": ({"thinking": {"budget_tokens": 1024}}, {**LOUD, "thinking_token_budget": 1024}),
    "on, GLM's way": (
        {"thinking": {"type": "enabled", "clear_thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": True, "clear_thinking": False}},
    ),
    "on, Kimi's way": ({"thinking": {"type": "enabled", "keep": "all"}}, LOUD),
    "on, with an effort": ({"enable_thinking": True, "reasoning_effort": "low"}, {**LOUD, "reasoning_effort": "low"}),
    "left to the model": ({"thinking": {"type": "adaptive", "display": "summarized"}}, NOTHING),
    "left to the model, another word": ({"thinking": {"type": "auto"}}, NOTHING),
    "an effort left to the model": ({"reasoning_effort": "default"}, NOTHING),
    "a budget without bound": ({"thinking_budget": -1}, NOTHING),
    "a budget beyond the context": ({"thinking_budget": 2**40}, {"thinking_token_budget": CONTEXT_TOKENS}),
    "an effort": ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
    "an effort, Ollama's way": ({"think": "low"}, {"reasoning_effort": "low"}),
    "an effort in an object": ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
    "an effort in the template's arguments": (
        {"chat_template_kwargs": {"reasoning_effort": "low"}},
        {"reasoning_effort": "low"},
    ),
    "thoughts that are not shown": ({"reasoning": {"exclude": True}}, {"include_reasoning": False}),
    "thoughts that are not shown, OpenRouter's old way": ({"include_reasoning": False}, {"include_reasoning": False}),
    "a budget in tokens, OpenRouter's way": ({"reasoning": {"max_tokens": 500}}, {"thinking_token_budget": 500}),
    "Qwen's thoughts of earlier turns": (
        {"chat_template_kwargs": {"preserve_thinking": True}},
        {"chat_template_kwargs": {"preserve_thinking": True}},
    ),
}


def test_an_agents_many_stops_reach_the_engine() -> None:
    stops = [str(number) for number in range(64)]
    assert sent(stop=stops) == {"stop": stops}


@pytest.mark.parametrize("name", SPELLINGS)
def test_thinking_is_read_in_every_spelling(name: str) -> None:
    fields, wanted = SPELLINGS[name]
    assert sent(**fields) == wanted


@pytest.mark.parametrize(
    ("fields", "param", "named"),
    [
        pytest.param(
            {"enable_thinking": True, "thinking": {"type": "disabled"}},
            "thinking",
            "'thinking.type' contradicts 'enable_thinking'",
            id="on and off",
        ),
        pytest.param(
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            "reasoning_effort",
            "contradicts 'chat_template_kwargs.enable_thinking'",
            id="no effort, and on",
        ),
        pytest.param(
            {"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning", "contradicts", id="two"
        ),
        pytest.param({"enable_thinking": "false"}, "enable_thinking", "of type boolean", id="a text for a boolean"),
        pytest.param({"thinking": {"type": "sometimes"}}, "thinking", "one of enabled, disabled", id="an unknown type"),
        pytest.param({"thinking": {"depth": 3}}, "thinking", "'thinking.depth' is not accepted", id="an unknown key"),
        pytest.param({"reasoning": {"depth": 3}}, "reasoning", "'reasoning.depth' is not accepted", id="another"),
        pytest.param({"think": "hard"}, "think", "one of none, low", id="an unknown degree"),
        pytest.param({"thinking_budget": -2}, "thinking_budget", "at least -1", id="a budget below none"),
        pytest.param(
            {"chat_template_kwargs": {"enable_thinking": 0}},
            "chat_template_kwargs",
            "'chat_template_kwargs.enable_thinking' must be of type boolean",
            id="a number for a switch of the template",
        ),
        *(
            pytest.param(
                {"chat_template_kwargs": {name: "x"}},
                "chat_template_kwargs",
                f"'chat_template_kwargs.{name}' is not accepted",
                id=f"the template's {name}",
            )
            for name in ("messages", "tools", "documents", "add_generation_prompt", "chat_template", "bos_token")
        ),
        pytest.param(
            {"chat_template_kwargs": {"A b": 1}}, "chat_template_kwargs", "has a key", id="no parameter's name"
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(fields: dict[str, Any], param: str, named: str) -> None:
    status, seen, _, message = refusal(**fields)
    assert (status, seen) == (400, param)
    assert named in message


# parts and calls

OUT = {"type": "output_text", "text": "yes", "annotations": [], "logprobs": []}
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a question": (
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ),
    "an answer": (
        {"role": "assistant", "content": [OUT]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
    ),
    "a result": (
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "input_text", "text": "ok"}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "ok"}]},
    ),
    "thoughts of Claude": (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, OUT]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}], "reasoning": "hm"},
    ),
    "thoughts of Mistral": (
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "closed": True, "thinking": [{"type": "text", "text": t} for t in ("a", "b")]},
                {"type": "text", "text": "yes"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}], "reasoning": "a\nb"},
    ),
    "thoughts that are sealed": (
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, OUT]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
    ),
    "thoughts of Responses": (
        {"role": "assistant", "content": [{"type": "reasoning_text", "text": "hm"}], "tool_calls": [CALL]},
        {"role": "assistant", "reasoning": "hm", "tool_calls": [CALL]},
    ),
    "thoughts in two places": (
        {"role": "assistant", "reasoning_content": "hm", "content": [{"type": "thinking", "thinking": "hm"}, OUT]},
        {"role": "assistant", "reasoning_content": "hm", "content": [{"type": "text", "text": "yes"}]},
    ),
    "a refusal": (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ),
    "no content, no calls": ({"role": "assistant", "content": None, "tool_calls": []}, {"role": "assistant"}),
    "content of no parts": ({"role": "user", "content": []}, {"role": "user", "content": []}),
    "a developer": ({"role": "developer", "content": "x"}, {"role": "developer", "content": "x"}),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_message_reaches_the_engine_in_one_spelling(name: str) -> None:
    message, wanted = PARTS[name]
    result = outcome({**BASE["chat"], "messages": [message]})
    assert isinstance(result, dict), result
    assert result["messages"] == [wanted]


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
@pytest.mark.parametrize("kind", ["thinking", "reasoning_text", "redacted_thinking"])
def test_only_an_answer_has_thoughts(role: str, kind: str) -> None:
    part = {"type": kind, "thinking": "x", "text": "x"}
    assert refusal(messages=[{"role": role, "content": [part]}])[:2] == (400, "messages")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        pytest.param({"arguments": None}, "{}", id="null"),
        pytest.param({}, "{}", id="none"),
        pytest.param({"arguments": {}}, "{}", id="an empty object"),
        pytest.param({"arguments": {"a": [1, None, {"b": "ä"}]}}, '{"a":[1,null,{"b":"ä"}]}', id="an object"),
        pytest.param({"arguments": {"a": 10**300}}, f'{{"a":{10**300}}}', id="an object with a huge number"),
        pytest.param({"arguments": ""}, "{}", id="an empty text"),
        pytest.param({"arguments": '{"a": 1}'}, '{"a": 1}', id="the text of an object"),
    ],
)
def test_the_arguments_of_an_earlier_call_are_the_text_of_an_object(arguments: dict[str, Any], wanted: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", **arguments}}
    result = outcome({**BASE["chat"], "messages": [{"role": "assistant", "tool_calls": [call]}]})
    assert isinstance(result, dict), result
    assert result["messages"][0]["tool_calls"][0]["function"] == {"name": "f", "arguments": wanted}


@pytest.mark.parametrize("arguments", [[], [1], 1, True], ids=repr)
def test_arguments_that_are_neither_are_refused(arguments: object) -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": arguments}}
    assert refusal(messages=[{"role": "assistant", "tool_calls": [call]}])[1:3] == ("messages", "invalid_type")


# the length of an answer


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("asked", "wanted"),
    [(1, 1), (4096, 4096), (4097, 4096), (2**31 - 1, 4096), (10**12, 4096), (2**63, 4096)],
)
def test_a_longer_answer_than_the_context_is_the_context(name: str, asked: int, wanted: int) -> None:
    assert sent(**{name: asked}) == {name: wanted}


def test_a_completion_is_bounded_like_a_chat() -> None:
    result = outcome({**BASE["completions"], "max_tokens": 2**31 - 1}, "completions")
    assert result == {**BASE["completions"], "max_tokens": CONTEXT_TOKENS}


@pytest.mark.parametrize("asked", [0, -1, 1.5, "5", True], ids=repr)
def test_what_is_no_length_is_refused(asked: object) -> None:
    assert refusal(max_tokens=asked)[:2] == (400, "max_tokens")


# tools


@pytest.mark.parametrize(
    "choice", [{}, {"tool_choice": "auto"}, {"tool_choice": "none"}, {"tool_choice": None}], ids=repr
)
def test_a_whole_mcp_server_passes_where_nothing_is_compiled(choice: dict[str, Any]) -> None:
    tools = mcp_tools()
    assert (len(tools), len(json.dumps(tools)) > 100_000) == (90, True)
    assert sent(tools=tools, **choice)["tools"] == tools


def strict(tool: dict[str, Any]) -> dict[str, Any]:
    return {**tool, "function": {**tool["function"], "strict": True}}


def test_of_several_tools_only_those_count_that_an_answer_must_follow() -> None:
    tools = mcp_tools()
    cheap = {"type": "function", "function": {"name": "cheap", "parameters": {"type": "object"}}}
    dear = next(tool for tool in tools if tool["function"]["name"] == "forge__create_issue")
    called = {"type": "function", "function": {"name": "cheap"}}
    assert sent(tools=[*tools, strict(cheap)], tool_choice="auto")
    assert sent(tools=[*tools, cheap], tool_choice=called)
    assert sent(tools=[strict(dear), cheap], tool_choice=called)
    assert sent(tools=[strict(dear), cheap], tool_choice="none")
    for fields in (
        {"tools": [strict(dear), cheap]},
        {"tools": [strict(dear), cheap], "tool_choice": "auto"},
        {"tools": [dear, cheap], "tool_choice": "required"},
        {"tools": [dear, cheap], "tool_choice": {"function": {"name": "forge__create_issue"}}},
    ):
        status, param, _, message = refusal(**fields)
        assert (status, param) == (400, "tools")
        assert "'maxLength' must be between 0 and 10000" in message


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"$ref": "https://example.org/schema.json"}, id="a schema elsewhere"),
        pytest.param(
            {"properties": {"a": {"widget": "date", "pattern": "("}}}, id="a keyword of a form, a broken pattern"
        ),
        pytest.param({"enum": [*range(5000)]}, id="5000 values"),
        pytest.param({"type": ["string", "string"]}, id="a type twice"),
    ],
)
def test_a_schema_that_could_not_be_compiled_passes_where_it_is_not(parameters: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    assert sent(tools=[tool]) == {"tools": [tool]}
    assert refusal(tools=[strict(tool)])[:2] == (400, "tools")


def test_no_tool_is_nested_without_end() -> None:
    deep = json.loads('{"items":' * 40 + "{}" + "}" * 40)
    assert refusal(tools=[{"type": "function", "function": {"name": "f", "parameters": deep}}])[:2] == (400, "tools")


def test_calls_and_answers_without_ids_belong_together() -> None:
    """As agents of Ollama keep a conversation: arguments as an object, no id, the tool named in its answer."""
    call = {"function": {"name": "weather", "arguments": {"city": "Berlin"}}}
    request = BASE["chat"] | {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [call, call, {**call, "id": "own"}]},
            {"role": "tool", "tool_name": "weather", "content": "sunny"},
            {"role": "tool", "tool_call_id": "own", "content": "wet"},
            {"role": "tool", "content": "dry"},
        ]
    }
    _, asked, *answers = LIMITS.check("chat", request, [request["model"]])["messages"]
    assert [call["id"] for call in asked["tool_calls"]] == ["call00000", "call00001", "own"]
    assert [answer["tool_call_id"] for answer in answers] == ["call00000", "own", "call00001"]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"max_tokens": 16.0}, {"max_tokens": 16}),
        ({"top_k": 40.0, "n": 1.0, "seed": 42.0}, {"top_k": 40, "n": 1, "seed": 42}),
        (
            {
                "structured_outputs": {
                    "json": {"type": "object"},
                    "regex": None,
                    "choice": None,
                    "grammar": None,
                    "x": None,
                }
            },
            {"structured_outputs": {"json": {"type": "object"}}},
        ),
        (
            {"structured_outputs": {"json": {"type": "object"}, "disable_any_whitespace": False}},
            {"structured_outputs": {"json": {"type": "object"}}},
        ),
        ({"stop": [str(number) for number in range(20)]}, {"stop": [str(number) for number in range(20)]}),
        ({"reasoning_effort": ""}, {}),
    ],
    ids=[
        "a fraction of nothing",
        "several of them",
        "nulls beside a schema",
        "vLLM's default",
        "20 stops",
        "no effort",
    ],
)
def test_what_typed_clients_add_changes_nothing(fields: dict[str, Any], kept: dict[str, Any]) -> None:
    found = LIMITS.check("chat", BASE["chat"] | fields, [BASE["chat"]["model"]])
    assert {name: value for name, value in found.items() if name not in BASE["chat"]} == kept


def test_an_object_about_thoughts_turns_nothing_on_that_another_switch_turns_off() -> None:
    assert sent(thinking={"clear_thinking": False}, enable_thinking=False) == {
        "chat_template_kwargs": {"enable_thinking": False, "clear_thinking": False}
    }


@pytest.mark.parametrize("fields", [{"max_tokens": 16.5}, {"n": True}, {"reasoning_effort": "off"}], ids=repr)
def test_what_is_no_such_value_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        LIMITS.check("chat", BASE["chat"] | fields, [BASE["chat"]["model"]])
