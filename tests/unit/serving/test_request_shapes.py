"""The exact keys of the objects in a request: what real clients send passes, every other key is refused by place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import chat as types
from openai.types.shared_params import (
    FunctionDefinition,
    ResponseFormatJSONObject,
    ResponseFormatJSONSchema,
    ResponseFormatText,
)

from conclave_openai.errors import RequestError
from conclave_openai.limits.request import load_limits

LIMITS = load_limits()
CANARY = "canary-7f3a"
KEY_OF_NOBODY = "canary_key_7f3a"
MODEL = "tiny/mixtral"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Berlin"}'}}


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": list(messages) or [{"role": "user", "content": "hi"}], **fields}


def check(request: dict[str, Any]) -> dict[str, Any]:
    return LIMITS.check("chat", request, (MODEL,))


WHOLE = chat(
    {"role": "system", "content": [{"type": "text", "text": "be brief"}], "name": "rules"},
    {"role": "developer", "content": "be kind"},
    {"role": "user", "content": [{"type": "text", "text": "Weather?"}], "name": "Jo Doe"},
    {
        "role": "assistant",
        "content": [{"type": "text", "text": "Let me see."}, {"type": "refusal", "refusal": "no"}],
        "refusal": "no",
        "reasoning": "hm",
        "reasoning_content": "hm",
        "name": "helper",
        "tool_calls": [CALL],
    },
    {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": [{"type": "text", "text": "rain"}]},
    tools=[
        {
            "type": "function",
            "defer_loading": False,
            "function": {
                "name": "get_weather",
                "description": "Says the weather.",
                "parameters": SCHEMA,
                "strict": True,
                "defer_loading": False,
            },
        }
    ],
    tool_choice={"type": "function", "function": {"name": "get_weather"}},
    response_format={
        "type": "json_schema",
        "json_schema": {"name": "answer", "description": "An answer.", "strict": True, "schema": SCHEMA},
    },
    stream=True,
    stream_options={"include_usage": True, "continuous_usage_stats": True},
    logit_bias={"17": 5, "4000": -100},
)
"""Every object of a chat with every key that is passed on; its schemas are the compiler's, with rules of their own."""


def objects_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of the objects below the request, without those inside of schemas."""
    if path and path[-1] in ("parameters", "schema", "logit_bias"):
        return []
    found = [path] if path and isinstance(value, dict) else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [inner for key, item in items for inner in objects_of(item, (*path, key))]


PATHS = objects_of(WHOLE)
MEDIA = [
    *("audio_embeds", "audio_url", "data", "file", "image_embeds", "image_pil", "image_url", "input_audio"),
    *("input_file", "input_image", "prompt_embeds", "tool_reference", "uuid", "video_embeds", "video_url"),
]
"""What vLLM reads of a part, whatever its type; tests/serving/test_message_keys.py takes the names from vLLM."""


def with_key(path: tuple[Any, ...], key: str, value: Any) -> dict[str, Any]:
    request = copy.deepcopy(WHOLE)
    place: Any = request
    for step in path:
        place = place[step]
    place[key] = value
    return request


def test_every_key_that_is_passed_on_arrives() -> None:
    assert check(copy.deepcopy(WHOLE)) == WHOLE
    assert len(PATHS) == 19


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("key", [*MEDIA, KEY_OF_NOBODY, "content_type", "Role", "text ", "", "role\x00"])
def test_a_key_that_is_not_listed_is_refused_wherever_it_stands(path: tuple[Any, ...], key: str) -> None:
    for value in ("http://169.254.169.254/x", {"url": "file:///etc/passwd"}, [[]], 0, ""):
        with pytest.raises(RequestError) as refused:
            check(with_key(path, key, value))
        assert (refused.value.status, refused.value.param) == (400, path[0])
        assert KEY_OF_NOBODY not in refused.value.body().decode()
        assert "169.254" not in str(refused.value)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_key_that_is_not_listed_and_null_goes_no_further(path: tuple[Any, ...]) -> None:
    assert check(with_key(path, "image_url", None)) == WHOLE


@pytest.mark.parametrize("name", LIMITS.shapes)
def test_a_dropped_key_goes_no_further_whatever_it_holds(name: str) -> None:
    shape = LIMITS.shapes[name]
    kinds: list[str | None] = [*shape.kinds] or [None]
    for kind in kinds:
        whole = sample_of(name, kind)
        assert whole is not None, f"no sample of {name}, {kind}"
        for key in shape.dropped:
            for value in (None, CANARY, [[[]]], {"a": 1}):
                assert shape.kept("x", {**whole, key: value}, LIMITS.shapes) == whole
        for key in shape.refused:
            with pytest.raises(RequestError) as refused:
                shape.kept("x", {**whole, key: CANARY}, LIMITS.shapes)
            assert refused.value.code == "unsupported_parameter"


def sample_of(name: str, kind: str | None) -> dict[str, Any] | None:
    samples: dict[str, list[dict[str, Any]]] = {
        "message": WHOLE["messages"],
        "content_part": [*WHOLE["messages"][3]["content"], *TEXTS],
        "answer_part": [*WHOLE["messages"][3]["content"], *TEXTS, *THOUGHTS],
        "thought": TEXTS,
        "thinking": [{"type": kind} for kind in ("enabled", "disabled", "adaptive", "auto")],
        "reasoning": [{"effort": "low"}],
        "template": [{"enable_thinking": True}],
        "tool_call": [CALL],
        "called_function": [CALL["function"]],  # type: ignore[list-item]
        "tool": WHOLE["tools"],
        "tool_function": [WHOLE["tools"][0]["function"]],
        "tool_choice": [WHOLE["tool_choice"]],
        "chosen_function": [WHOLE["tool_choice"]["function"]],
        "response_format": [WHOLE["response_format"], {"type": "text"}, {"type": "json_object"}],
        "json_schema": [WHOLE["response_format"]["json_schema"]],
        "stream_options": [WHOLE["stream_options"]],
        "structured_outputs": [{"regex": "a"}],
    }
    told_by = LIMITS.shapes[name].told_by
    return next((sample for sample in samples[name] if told_by is None or sample[told_by] == kind), None)


TEXTS = [{"type": kind, "text": "x"} for kind in ("text", "input_text", "output_text")]
THOUGHTS = [
    {"type": "thinking", "thinking": "x"},
    {"type": "reasoning_text", "text": "x"},
    {"type": "redacted_thinking"},
]
ASSISTANT_NULLS = dict.fromkeys(
    [
        "refusal",
        "annotations",
        "audio",
        "function_call",
        "tool_calls",
        "reasoning",
        "reasoning_content",
        "name",
        "parsed",
    ]
)

REAL: dict[str, dict[str, Any]] = {
    "openai-python, an answer sent back whole": chat({"role": "assistant", "content": "hi", **ASSISTANT_NULLS}),
    "vLLM, an answer sent back whole": chat(
        {**ASSISTANT_NULLS, "role": "assistant", "content": "hi", "tool_calls": [], "reasoning": "hm"}
    ),
    "openai-python, an answer that was parsed": chat(
        {
            "role": "assistant",
            "content": None,
            "parsed": {"a": 1},
            "tool_calls": [{**CALL, "function": {**CALL["function"], "parsed_arguments": {"city": "Berlin"}}}],  # type: ignore[dict-item]
        }
    ),
    "openai-node, annotations that are an empty array": chat(
        {"role": "assistant", "content": "hi", "refusal": None, "annotations": []}
    ),
    "LangChain, content that is an empty string beside calls": chat(
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
    ),
    "LangChain, blocks with an index": chat(
        {"role": "assistant", "content": [{"type": "text", "text": "hi", "index": 0, "annotations": [], "id": "x"}]}
    ),
    "LlamaIndex and Open WebUI, calls as they were streamed": chat(
        {"role": "assistant", "content": "", "tool_calls": [{**CALL, "index": 0}]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1", "name": "get_weather"},
    ),
    "Vercel's AI SDK, reasoning sent back": chat(
        {"role": "assistant", "content": "hi", "reasoning_content": "hm", "tool_calls": [{**CALL, "extra_content": {}}]}
    ),
    "Cline and aider, marks for another service's cache": chat(
        {
            "role": "user",
            "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "cache_control": {"type": "ephemeral"},
        }
    ),
    "Cline by way of OpenRouter": chat({"role": "assistant", "content": "hi", "reasoning_details": [{"text": "hm"}]}),
    "LiteLLM, an answer sent back": chat(
        {"role": "assistant", "content": "hi", "provider_specific_fields": {"refusal": None}, "thinking_blocks": []}
    ),
    "Mistral's client": chat({"role": "assistant", "content": "hi", "prefix": False}),
    "CodeCompanion, which numbers messages": chat(
        {"role": "user", "content": "hi", "id": 1947269257, "opts": {"visible": False}}
    ),
    "Semantic Kernel, one class for all roles": chat(
        {"role": "user", "content": "hi", "name": None, "tool_calls": None, "tool_call_id": None, "refusal": None}
    ),
    "a class for all roles with an empty list": chat({"role": "user", "content": "hi", "tool_calls": []}),
    "an assistant message without content": chat({"role": "assistant", "tool_calls": [CALL]}),
    "a call without a type": chat(
        {"role": "assistant", "tool_calls": [{k: v for k, v in CALL.items() if k != "type"}]}
    ),
    "Transformers' description of a function": chat(
        tools=[{"type": "function", "function": {"name": "f", "parameters": SCHEMA, "return": {"type": "string"}}}]
    ),
    "Continue, a tool that is null but for its name": chat(
        tools=[{"type": "function", "function": {"name": "f", "description": None, "parameters": None, "strict": None}}]
    ),
    "an option of Claude's tools": chat(
        tools=[{"type": "function", "function": {"name": "f"}, "cache_control": {}, "eager_input_streaming": True}]
    ),
    "a tool of an MCP server": chat(tools=[{"type": "function", "function": {"name": "mcp__git-hub__issues.list"}}]),
    "openai, an answer without padding": chat(
        stream=True, stream_options={"include_usage": True, "include_obfuscation": False}
    ),
    "typed clients, options that are null": chat(stream=True, stream_options={"include_usage": None}),
    "a format of text with a schema that is null": chat(response_format={"type": "text", "json_schema": None}),
}


@pytest.mark.parametrize("name", REAL)
def test_what_real_clients_send_gets_through(name: str) -> None:
    kept = check(copy.deepcopy(REAL[name]))
    dropped = {key for shape in LIMITS.shapes.values() for key in shape.dropped} - {"id"}  # a call's id is kept
    left = json.dumps(kept)
    assert not [key for key in dropped if f'"{key}":' in left]
    assert [message["role"] for message in kept["messages"]] == [m["role"] for m in REAL[name]["messages"]]
    calls = [call for message in kept["messages"] for call in message.get("tool_calls") or ()]
    assert {call["type"] for call in calls} <= {"function"}  # vLLM refuses a call without a type


OPENAI: dict[str, tuple[Any, ...]] = {
    "message": (
        types.ChatCompletionSystemMessageParam,
        types.ChatCompletionDeveloperMessageParam,
        types.ChatCompletionUserMessageParam,
        types.ChatCompletionAssistantMessageParam,
        types.ChatCompletionToolMessageParam,
    ),
    "content_part": (types.ChatCompletionContentPartTextParam, types.ChatCompletionContentPartRefusalParam),
    "tool_call": (types.ChatCompletionMessageFunctionToolCallParam,),
    "tool": (types.ChatCompletionFunctionToolParam,),
    "tool_function": (FunctionDefinition,),
    "tool_choice": (types.ChatCompletionNamedToolChoiceParam,),
    "stream_options": (types.ChatCompletionStreamOptionsParam,),
    "response_format": (ResponseFormatText, ResponseFormatJSONObject, ResponseFormatJSONSchema),
}


@pytest.mark.parametrize("name", OPENAI)
def test_every_key_of_openais_own_library_has_been_judged(name: str) -> None:
    shape = LIMITS.shapes[name]
    judged = {shape.told_by, *shape.keys, *shape.dropped, *shape.refused}
    judged |= {key for keys in shape.kinds.values() for key in keys}
    sent = {key for kind in OPENAI[name] for key in kind.__required_keys__ | kind.__optional_keys__}
    assert sent <= judged


@given(st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True))
def test_a_tools_name_of_64_plain_characters_passes_everywhere(name: str) -> None:
    for build in NAMED.values():
        check(build(name))


NAMED: dict[str, Callable[[str], dict[str, Any]]] = {
    "tools": lambda name: chat(tools=[{"type": "function", "function": {"name": name}}]),
    "tool_choice": lambda name: chat(
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice={"type": "function", "function": {"name": name}},
    ),
    "an earlier call": lambda name: chat(
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": name, "arguments": "{}"}}]}
    ),
    "a tool's answer": lambda name: chat({"role": "tool", "content": "x", "name": name}),
}


@pytest.mark.parametrize("where", NAMED)
@pytest.mark.parametrize(
    "name",
    ["", " ", f"{CANARY} x", "a" * 65, "a\n", "\n", "a/b", "f\u00fc", "a\x00", "<|im_end|>", "a:b", "\u0660"],
    ids=repr,
)
def test_every_other_name_is_refused_without_echo(where: str, name: str) -> None:
    with pytest.raises(RequestError) as refused:
        check(NAMED[where](name))
    assert "[A-Za-z0-9_.-]{1,64}" in str(refused.value)
    assert CANARY not in str(refused.value)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a part with media beside its text": (
        chat({"role": "user", "content": [{"type": "text", "text": "hi", "uuid": "1", "image_url": "http://x"}]}),
        "'messages[0].content[0]' has a key that is not accepted here; it takes type, text.",
    ),
    "a part without a type": (
        chat({"role": "user", "content": [{"image_url": "http://x"}]}),
        "'messages[0].content[0].type' must be one of text, input_text, output_text, refusal.",
    ),
    "a part whose type is a list": (
        chat({"role": "user", "content": [{"type": ["text"], "text": "x"}]}),
        "'messages[0].content[0].type' must be one of text, input_text, output_text, refusal.",
    ),
    "a part that is a string": (
        chat({"role": "user", "content": ["hi"]}),
        "'messages[0].content[0]' must be of type object.",
    ),
    "a text that is null": (
        chat({"role": "user", "content": [{"type": "text", "text": None}]}),
        "'messages[0].content[0].text' is required.",
    ),
    "a call by a user": (
        chat({"role": "user", "content": "x", "tool_calls": [CALL]}),
        "'messages[0].tool_calls' has more than 0 items.",
    ),
    "tools of a developer message": (
        chat({"role": "developer", "content": "x", "tools": [{"type": "function"}]}),
        "'messages[0].tools' is not accepted: they belong into 'tools' of the request.",
    ),
    "a function call of the old kind": (
        chat({"role": "assistant", "content": "x", "function_call": {"name": "f", "arguments": "{}"}}),
        "'messages[0].function_call' is not accepted: tool_calls has taken its place.",
    ),
    "a custom call": (
        chat(
            {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "f", "input": "x"}}]}
        ),
        "'messages[0].tool_calls[0].type' must be one of function.",
    ),
    "a tool choice of another service": (
        chat(tool_choice="any"),
        "'tool_choice' must be one of none, auto, required.",
    ),
    "a schema in the wrong place": (
        chat(response_format={"type": "json_object", "schema": SCHEMA}),
        "'response_format.schema' is not accepted: a schema is sent as {type json_schema, json_schema {name, schema}}.",
    ),
    "an empty schema": (
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x"}}),
        "'response_format.json_schema.schema' is required.",
    ),
    "a choice that is no string": (
        chat(structured_outputs={"choice": ["a", [[]]]}),
        "'structured_outputs.choice' must be of type string.",
    ),
    "a bias of no token": (
        chat(logit_bias={CANARY: 1}),
        "'logit_bias' has a key that does not match [0-9]{1,8}.",
    ),
    "1025 parts": (
        chat({"role": "user", "content": [{"type": "text", "text": "x"}] * 1025}),
        "'messages[0].content' has more than 1024 items.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_refusal_names_the_place_and_the_rule(name: str) -> None:
    request, message = BAD[name]
    with pytest.raises(RequestError) as refused:
        check(request)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param([1, True], id="a boolean"),
        pytest.param([1, "a"], id="a string"),
        pytest.param([1, None], id="null"),
        pytest.param([-1], id="a negative id"),
        pytest.param([2**64], id="an id of 65 bits"),
        pytest.param([[1, 10**300]], id="a huge id in a list"),
        pytest.param([[1], [[1]]], id="a list too deep"),
        pytest.param([1.0], id="a fraction"),
        pytest.param(["a", {"prompt_embeds": "x"}], id="an object"),
    ],
)
def test_a_prompt_holds_token_ids_or_strings_only(prompt: Any) -> None:
    with pytest.raises(RequestError) as refused:
        LIMITS.check("completions", {"model": MODEL, "prompt": prompt}, (MODEL,))
    assert refused.value.param == "prompt"
