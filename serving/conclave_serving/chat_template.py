"""What a model's chat template reads of a request, and a chat request in its terms.

`engine.py` fits each request. The edge has left one spelling of each wish (`conclave_openai/limits/thinking.py`). vLLM
gives a template the arguments that it reads, and gives the reasoning parser all of them: so a switch that the template
does not read must not reach vLLM, or the parser takes the thoughts of the model for its answer.
`template_reading.py` makes a `ChatTemplate` of a started engine. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SWITCH, EFFORT, BUDGET = "enable_thinking", "reasoning_effort", "thinking_budget"
SWITCHES = (SWITCH, "thinking")
"""The names that templates read. A request gets both, because a reasoning parser may look for the other one."""
ARGUMENTS = (
    *SWITCHES,
    *(EFFORT, BUDGET, "reasoning_budget", "clear_thinking", "preserve_thinking"),
    *("truncate_history_thinking", "force_nonempty_content", "low_effort"),
)
"""All that the edge lets through to a template."""

LEAST_EFFORTS = ("no_think", "none", "minimal", "low")


@dataclass(frozen=True)
class ChatTemplate:
    """The template of one model."""

    reads: frozenset[str] = frozenset(ARGUMENTS)
    """The arguments that change the prompt. All of them where code takes a template's place."""
    takes_arguments: bool = True
    """False: vLLM takes nothing but `reasoning_effort` of a request."""
    least_effort: str | None = None
    """The effort for an answer without thoughts, or with the fewest. None: the template knows none."""
    efforts: Mapping[str, str] | None = None
    """The model's own word for an effort, where it has fewer words than clients."""
    has_budget: bool = False
    """Whether the engine can end thoughts after a number of tokens: it needs a reasoning parser for that."""
    knows_developer: bool = True
    """Whether the template names the role `developer`. A template that does not may leave the message out."""

    def fit(self, request: Any) -> None:
        """Rewrites vLLM's chat request in place. What the template does not read is dropped."""
        given = request.chat_template_kwargs or {}
        wanted = given.get(SWITCH)
        if wanted is None and request.reasoning_effort is not None:
            wanted = True
        arguments = {name: value for name, value in given.items() if name in self.reads and name not in SWITCHES}
        effort = self._effort(request.reasoning_effort)
        if wanted is not None and not self.reads.isdisjoint(SWITCHES):
            arguments |= dict.fromkeys(SWITCHES, wanted)
        elif wanted is False and self.least_effort is not None:
            if self.takes_arguments:
                arguments[EFFORT] = self.least_effort
            else:
                effort = self.least_effort
        if request.thinking_token_budget is not None and BUDGET in self.reads:
            arguments[BUDGET] = request.thinking_token_budget
        request.chat_template_kwargs = arguments if arguments and self.takes_arguments else None
        request.reasoning_effort = effort
        if not self.has_budget:
            request.thinking_token_budget = None
        if not self.knows_developer:
            for message in request.messages:
                if message["role"] == "developer":
                    message["role"] = "system"

    def _effort(self, asked: str | None) -> str | None:
        if asked is None or EFFORT not in self.reads:
            return None
        return (self.efforts or {}).get(asked, asked)


HARMONY = ChatTemplate(
    reads=frozenset({EFFORT}),
    takes_arguments=False,
    least_effort="low",
    efforts={"minimal": "low", "xhigh": "high", "max": "high"},
)
"""gpt-oss, which always thinks, in three degrees."""
MISTRAL = ChatTemplate(reads=frozenset({EFFORT}), takes_arguments=False, least_effort="none", knows_developer=False)
"""Mistral's own tokenizer; of its versions only the newest reads an effort."""


def of_texts(texts: Mapping[str, frozenset[str]], *, has_budget: bool) -> ChatTemplate:
    """The template with these texts; each comes with the arguments that it reads."""
    if not texts:
        return ChatTemplate(has_budget=has_budget)
    reads = frozenset[str]().union(*texts.values())
    words = {word for text in texts for word in re.findall(r"""['"](\w+)['"]""", text)}
    least = next((word for word in LEAST_EFFORTS if word in words), None)
    return ChatTemplate(
        reads=reads,
        least_effort=least if EFFORT in reads else None,
        has_budget=has_budget,
        knows_developer=any("developer" in text for text in texts),
    )
