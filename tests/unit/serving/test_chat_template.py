"""A chat request in the terms of the served model's template: switch, degree, budget, and the roles that it knows.

tests/serving/test_template_reading.py holds what is read of a template's text.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from conclave_openai.limits.request import load_limits
from conclave_serving.chat_template import ARGUMENTS, HARMONY, MISTRAL, SWITCHES, ChatTemplate, of_texts


def template(*reads: str, words: str = "", has_budget: bool = False) -> ChatTemplate:
    """Of one text that reads these arguments and has these words."""
    return of_texts({words: frozenset(reads)}, has_budget=has_budget)


QWEN3 = template("enable_thinking", has_budget=True)
DEEPSEEK_V31 = template("thinking", has_budget=True)
SEED = template("thinking_budget", words="{% if thinking_budget is defined %}")
SOLAR = template("reasoning_effort", words="{% if reasoning_effort == 'minimal' %}")
HUNYUAN = template("reasoning_effort", words='{% if reasoning_effort == "no_think" or reasoning_effort == "low" %}')
PLAIN = template(words="{{ bos_token }}{% for m in messages %}{{ m['role'] }}{% endfor %}")
THINKER = template(words="<think>", has_budget=True)
CODE = of_texts({}, has_budget=False)

BOTH = {"enable_thinking", "thinking"}


def fitted(
    known: ChatTemplate, effort: str | None = None, budget: int | None = None, **arguments: Any
) -> SimpleNamespace:
    request = SimpleNamespace(
        chat_template_kwargs=arguments or None,
        reasoning_effort=effort,
        thinking_token_budget=budget,
        messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}],
    )
    known.fit(request)
    return request


OFF = {"enable_thinking": False}
ON = {"enable_thinking": True}
SWITCHED: dict[str, tuple[SimpleNamespace, dict[str, Any] | None, str | None]] = {
    "Qwen3, off": (fitted(QWEN3, **OFF), dict.fromkeys(SWITCHES, False), None),
    "Qwen3, on": (fitted(QWEN3, **ON), dict.fromkeys(SWITCHES, True), None),
    "Qwen3, left to it": (fitted(QWEN3), None, None),
    "Qwen3, an effort asks for thoughts": (fitted(QWEN3, "low"), dict.fromkeys(SWITCHES, True), None),
    "Qwen3, off whatever the effort": (fitted(QWEN3, "low", **OFF), dict.fromkeys(SWITCHES, False), None),
    "DeepSeek-V3.1, on": (fitted(DEEPSEEK_V31, **ON), dict.fromkeys(SWITCHES, True), None),
    "DeepSeek-V3.1, an effort asks for thoughts": (fitted(DEEPSEEK_V31, "high"), dict.fromkeys(SWITCHES, True), None),
    "Solar, off is its least effort": (fitted(SOLAR, **OFF), {"reasoning_effort": "minimal"}, None),
    "Solar, an effort": (fitted(SOLAR, "high"), None, "high"),
    "Hunyuan, off has a word of its own": (fitted(HUNYUAN, **OFF), {"reasoning_effort": "no_think"}, None),
    "gpt-oss, off is its least effort": (fitted(HARMONY, **OFF), None, "low"),
    "gpt-oss, an effort": (fitted(HARMONY, "medium"), None, "medium"),
    "gpt-oss, an effort that it has no word for": (fitted(HARMONY, "xhigh"), None, "high"),
    "gpt-oss, the least that clients know": (fitted(HARMONY, "minimal"), None, "low"),
    "gpt-oss, on": (fitted(HARMONY, **ON), None, None),
    "Mistral, off": (fitted(MISTRAL, **OFF), None, "none"),
    "Mistral, on": (fitted(MISTRAL, **ON), None, None),
    "a model that does not think, off": (fitted(PLAIN, **OFF), None, None),
    "a model that does not think, on": (fitted(PLAIN, **ON), None, None),
    "a model that does not think, an effort": (fitted(PLAIN, "high"), None, None),
    "a model that always thinks, off": (fitted(THINKER, **OFF), None, None),
    "code in a template's place, off": (fitted(CODE, **OFF), dict.fromkeys(SWITCHES, False), None),
    "code in a template's place, an effort": (fitted(CODE, "max"), dict.fromkeys(SWITCHES, True), "max"),
    "an argument that the template reads": (
        fitted(template("clear_thinking", "enable_thinking"), clear_thinking=True),
        {"clear_thinking": True},
        None,
    ),
    "an argument that the template does not read": (fitted(QWEN3, clear_thinking=True), None, None),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_thinking_reaches_the_template_under_its_own_name(name: str) -> None:
    request, arguments, effort = SWITCHED[name]
    assert (request.chat_template_kwargs, request.reasoning_effort) == (arguments, effort)


@pytest.mark.parametrize(
    ("known", "arguments", "budget"),
    [
        pytest.param(QWEN3, None, 100, id="the engine counts thoughts"),
        pytest.param(PLAIN, None, None, id="nobody counts thoughts"),
        pytest.param(SEED, {"thinking_budget": 100}, None, id="the template asks for it"),
    ],
)
def test_a_budget_goes_to_who_keeps_it(
    known: ChatTemplate, arguments: dict[str, Any] | None, budget: int | None
) -> None:
    request = fitted(known, budget=100)
    assert (request.chat_template_kwargs, request.thinking_token_budget) == (arguments, budget)


@pytest.mark.parametrize(
    ("known", "role"),
    [
        pytest.param(PLAIN, "system", id="a template that does not name the role"),
        pytest.param(MISTRAL, "system", id="Mistral"),
        pytest.param(template(words="{% if m.role == 'developer' %}"), "developer", id="a template that names it"),
        pytest.param(HARMONY, "developer", id="gpt-oss"),
        pytest.param(CODE, "developer", id="code in a template's place"),
    ],
)
def test_what_a_developer_says_is_not_lost(known: ChatTemplate, role: str) -> None:
    assert [message["role"] for message in fitted(known).messages] == [role, "user"]


def test_the_edge_lets_through_what_a_template_may_read_and_nothing_else() -> None:
    assert {*ARGUMENTS} == {*load_limits().shapes["template"].keys}
