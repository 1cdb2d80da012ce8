"""Which arguments are read of a template's text, in the ways in which model families write it; no engine starts."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn of themselves when they are imported
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    from conclave_serving import template_reading
    from conclave_serving.chat_template import HARMONY, MISTRAL, ChatTemplate, of_texts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Tokenizer:
    """The part of a tokenizer that has a template, or two."""

    def __init__(self, default: str, tool_use: str | None = None) -> None:
        self.default, self.tool_use = default, tool_use or default

    def apply_chat_template(self, conversation: object, **kwargs: object) -> str:
        raise AssertionError


FAMILIES: dict[str, tuple[str, set[str]]] = {
    "Qwen3": (
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}",
        {"enable_thinking"},
    ),
    "DeepSeek-V3.1, which sets what is not defined": (
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if thinking %}<think>{% else %}</think>{% endif %}",
        {"thinking"},
    ),
    "Granite": ("{%- if thinking %}Respond with <think></think>.{%- endif %}", {"thinking"}),
    "GLM-4.5": (
        "{{ '/nothink' if (enable_thinking is defined and not enable_thinking) else '' }}{{ clear_thinking }}",
        {"enable_thinking", "clear_thinking"},
    ),
    "an effort": ("{% if reasoning_effort == 'none' %}{% endif %}", {"reasoning_effort"}),
    "Seed-OSS": ("{%- if thinking_budget is defined %}{{ thinking_budget }}{% endif %}", {"thinking_budget"}),
    "a message's thoughts are no switch": (
        "{% for m in messages %}{{ m.thinking }}{{ m['enable_thinking'] }}{% endfor %}<thinking>",
        set(),
    ),
    "a loop with a break, and marks of training": (
        "{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% break %}{% endfor %}{{ enable_thinking }}",
        {"enable_thinking"},
    ),
    "no template's text": ("{% if", set()),
}


def read(monkeypatch: pytest.MonkeyPatch, tokenizer: Any, model_type: str = "llama", **config: Any) -> ChatTemplate:
    """Of a tokenizer that vLLM has found; tests/serving/test_clients.py reads the template of a running engine."""

    def found(tokenizer: Tokenizer, _: None, tools: object, *, model_config: object) -> str:
        return tokenizer.tool_use if tools else tokenizer.default

    monkeypatch.setattr(template_reading, "cached_tokenizer_from_config", lambda model_config: tokenizer)
    monkeypatch.setattr(template_reading, "resolve_chat_template", found)
    model = SimpleNamespace(hf_config=SimpleNamespace(model_type=model_type))
    return template_reading.read_template(SimpleNamespace(model_config=model, **config))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_arguments_that_a_template_reads_are_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, wanted = FAMILIES[name]
    assert read(monkeypatch, Tokenizer(default=text), reasoning_config=None).reads == wanted


def test_the_template_for_tools_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(default="{{ enable_thinking }}", tool_use="{{ thinking_budget }} developer")
    found = read(monkeypatch, tokenizer, reasoning_config=SimpleNamespace(enabled=True))
    assert found.reads == {"enable_thinking", "thinking_budget"}
    assert (found.has_budget, found.knows_developer) == (True, True)


def test_gpt_oss_has_no_template_but_its_own_format(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, Tokenizer(default=""), "gpt_oss", reasoning_config=None) == HARMONY


def test_mistrals_tokenizer_takes_no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_reading, "is_mistral_tokenizer", lambda _: True)
    assert read(monkeypatch, Tokenizer(default=""), reasoning_config=None) == MISTRAL


MESSAGES = [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}]


@pytest.mark.parametrize(
    ("known", "fields", "given"),
    [
        pytest.param(
            of_texts({"": frozenset({"thinking"})}, has_budget=False),
            {"reasoning_effort": "high"},
            {"thinking": True, "enable_thinking": True},
            id="vLLM adds a switch of one name only",
        ),
        pytest.param(
            of_texts({"": frozenset()}, has_budget=False),
            {"reasoning_effort": "none"},
            {},
            id="vLLM tells the parser of a switch that the template has not",
        ),
        pytest.param(
            of_texts({"": frozenset({"enable_thinking"})}, has_budget=False),
            {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"},
            {"enable_thinking": False, "thinking": False},
            id="off, whatever the effort",
        ),
    ],
)
def test_template_and_parser_hear_the_same(known: ChatTemplate, fields: dict[str, Any], given: dict[str, Any]) -> None:
    request = ChatCompletionRequest.model_validate({"model": "m", "messages": MESSAGES, **fields})
    known.fit(request)
    arguments = request.build_chat_params(None, "auto").chat_template_kwargs
    assert {name: value for name, value in arguments.items() if "thinking" in name} == given
