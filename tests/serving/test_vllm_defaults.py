"""Clients that are written with vLLM's own types send every field; a default changes nothing and must pass the edge."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from conclave_openai.errors import RequestError
from conclave_openai.limits.request import load_limits
from conclave_openai.routes import Endpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn of themselves when they are imported
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

LIMITS = load_limits()
BASE: dict[Endpoint, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    "completions": {"model": "m", "prompt": "x"},
}
DEFAULTS = [
    (endpoint, name, field.get_default(call_default_factory=False))
    for endpoint, kind in (("chat", ChatCompletionRequest), ("completions", CompletionRequest))
    for name, field in kind.model_fields.items()
    if not field.is_required() and name not in ("model", "prompt", "request_id")  # two are required; vLLM makes the id
]


@pytest.mark.parametrize(("endpoint", "name", "value"), DEFAULTS, ids=lambda value: str(value))
def test_every_default_of_vllm_may_be_sent(endpoint: Endpoint, name: str, value: Any) -> None:
    """Typed clients of vLLM send every field of its protocol."""
    if value is not None and not isinstance(value, str | int | float | list | dict):
        value = []  # of a list that pydantic makes when it is asked
    try:
        kept = LIMITS.check(endpoint, {**BASE[endpoint], name: value}, ("m",))
    except RequestError as refusal:
        pytest.fail(f"{name}={value!r}: {refusal}")
    assert kept.keys() - BASE[endpoint].keys() <= {name}
