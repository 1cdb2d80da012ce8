"""Thinking in the spellings of clients, read as one:

    chat_template_kwargs.enable_thinking    whether to think
    reasoning_effort                        how much, for models that know degrees
    thinking_token_budget                   the most tokens of thoughts
    include_reasoning                       false: the answer comes without the thoughts

Pure; called by `limits/request.py`. `conclave_serving/chat_template.py` gives the model's template what it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conclave_openai.limits.fields import refusal

TEMPLATE = ("chat_template_kwargs", "chat_template_args")
SWITCH, EFFORT, BUDGET, SHOWN = "enable_thinking", "reasoning_effort", "thinking_token_budget", "include_reasoning"


def _in_template(*names: str) -> tuple[str, ...]:
    return tuple(f"{template}.{name}" for template in TEMPLATE for name in names)


SPELLINGS = (
    *(SWITCH, "thinking", "think", "thinking.type", "reasoning.enabled", *_in_template(SWITCH, "thinking")),
    *(EFFORT, "reasoning.effort", *_in_template(EFFORT)),
    *(BUDGET, "thinking_budget", "reasoning_budget", "thinking.budget_tokens", "reasoning.max_tokens"),
    *_in_template("thinking_budget", "reasoning_budget"),
    *(SHOWN, "reasoning.exclude"),
)
"""Fields of a request, and keys of the objects in them, that say something about thinking."""

NO_THOUGHTS = ("none", "no_think", "disabled")
LEFT_TO_THE_MODEL = ("adaptive", "auto", "default")
UNBOUNDED = -1


def read_thinking(request: dict[str, Any]) -> None:
    """Replaces every spelling in a checked request, in place. Raises 400 where two spellings disagree."""
    meant: dict[str, tuple[Any, str]] = {}
    for place in SPELLINGS:
        for what, value in _meaning(place, _at(request, place)):
            known, first = meant.setdefault(what, (value, place))
            if known != value:
                raise refusal(place, f"contradicts '{first}'")
    if BUDGET in meant and meant[BUDGET][1] == "thinking.budget_tokens":  # Anthropic's object, without its `type`
        meant.setdefault(SWITCH, (True, "thinking.budget_tokens"))
    said = {what: value for what, (value, _) in meant.items()}
    template = {name: value for outer in TEMPLATE for name, value in request.pop(outer, {}).items()}
    if isinstance(thinking := request.get("thinking"), dict):
        template |= {name: value for name, value in thinking.items() if name == "clear_thinking"}
    for spelling in SPELLINGS:
        outer, _, name = spelling.partition(".")
        request.pop(outer, None)
        template.pop(name, None)
    if SWITCH in said:
        template[SWITCH] = said.pop(SWITCH)
        if not template[SWITCH]:  # without thoughts there is no degree and no budget
            said = {what: value for what, value in said.items() if what == SHOWN}
    request |= said
    if template:
        request[TEMPLATE[0]] = template


def _at(request: dict[str, Any], place: str) -> Any:
    outer, _, name = place.partition(".")
    value = request.get(outer)
    if not name:
        return None if isinstance(value, dict) else value
    return value.get(name) if isinstance(value, dict) else None


def _meaning(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What is meant by a value at its place: one of the four names above, and its value there."""
    if value is None:
        return
    name = place.rpartition(".")[2]
    if name in (SHOWN, "exclude"):
        yield SHOWN, value == (name == SHOWN)
    elif isinstance(value, bool):
        yield SWITCH, value
    elif isinstance(value, int):
        if value == 0:
            yield SWITCH, False
        elif value != UNBOUNDED:
            yield BUDGET, value
    elif value in NO_THOUGHTS:
        yield SWITCH, False
    elif value == "enabled":
        yield SWITCH, True
    elif value not in LEFT_TO_THE_MODEL:
        yield EFFORT, value
