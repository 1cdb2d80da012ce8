"""Which grammars of a request reach the engine, by vLLM's own types; the engine itself is not started."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from tests.serving.test_grammar_trials import GENEROUS, vocabulary

from conclave_openai.grammars.trials import Overfull, TrialsUnavailable, Verdict

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray, vLLM and torch warn of themselves when they are imported
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams

    from conclave_serving.engine_refusals import engine_refusal
    from conclave_serving.grammar_gate import BUSY, REFUSALS, UNAVAILABLE, GrammarGate, RefusedGrammar

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

DEAR = {"type": "string", "pattern": "[a-z]{0, 20000}"}
TAG = '{"type": "structural_tag", "format": {"type": "json_schema", "json_schema": %s}}'


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def gate(runner: asyncio.Runner) -> Iterator[GrammarGate]:
    gate = GrammarGate(GENEROUS)
    gate._trials.set_vocabulary(vocabulary(1000), any_whitespace=True)
    runner.run(gate.begin())
    yield gate
    runner.run(gate._trials.end())


PARAMS: dict[str, tuple[dict[str, Any], Verdict]] = {
    "any object": ({"json_object": True}, Verdict.ACCEPTED),
    "a schema": ({"json": {"type": "object"}}, Verdict.ACCEPTED),
    "a schema as text": ({"json": '{"type": "object"}'}, Verdict.ACCEPTED),
    "a pattern": ({"regex": "a{2}"}, Verdict.ACCEPTED),
    "an empty pattern": ({"regex": ""}, Verdict.ACCEPTED),
    "choices": ({"choice": ["a", 'b"c']}, Verdict.ACCEPTED),
    "a grammar": ({"grammar": 'root ::= "a"'}, Verdict.ACCEPTED),
    "a grammar of Lark": ({"grammar": 'start: "a"'}, Verdict.ACCEPTED),
    "a structural tag": ({"structural_tag": TAG % '{"type": "object"}'}, Verdict.ACCEPTED),
    "a dear schema": ({"json": DEAR}, Verdict.TOO_DEAR),
    "a dear structural tag": (
        {"structural_tag": TAG % '{"type": "string", "pattern": "[a-z]{0, 20000}"}'},
        Verdict.TOO_DEAR,
    ),
    "a keyword of other compilers": ({"json": {"type": "array", "uniqueItems": True}}, Verdict.DECLINED),
    "two schemas that both hold": ({"json": {"allOf": [{"type": "string"}, {"minLength": 1}]}}, Verdict.DECLINED),
    "a look-behind": ({"regex": "(?<=a)b"}, Verdict.DECLINED),
    "a broken grammar": ({"grammar": "root ::= ("}, Verdict.DECLINED),
}


@pytest.mark.parametrize(("fields", "verdict"), PARAMS.values(), ids=PARAMS)
def test_a_grammar_is_tried_before_the_engine_generates(
    runner: asyncio.Runner, gate: GrammarGate, fields: dict[str, Any], verdict: Verdict
) -> None:
    reached: list[str] = []

    async def generate(prompt: str, _params: SamplingParams, request_id: str) -> AsyncGenerator[str, None]:
        reached.append(request_id)
        yield prompt

    async def ask() -> list[str]:
        params = SamplingParams(structured_outputs=StructuredOutputsParams(**fields))
        return [output async for output in gate._tried(generate, "x", params, "1")]

    if verdict is Verdict.ACCEPTED:
        assert (runner.run(ask()), reached) == (["x"], ["1"])
        return
    with pytest.raises(RefusedGrammar) as refusal:
        runner.run(ask())
    assert (str(refusal.value), refusal.value.status, reached) == (REFUSALS[verdict], 400, [])


def _chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    )


def _tool(parameters: object, name: str = "f", **fields: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def _format(schema: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


REQUESTS: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing": ({}, True),
    "a format": ({"response_format": _format({"type": "object"})}, True),
    "a dear format": ({"response_format": _format(DEAR)}, False),
    "a tool": ({"tools": [_tool({"type": "object"})]}, True),
    "a tool without parameters": ({"tools": [_tool(None)]}, True),
    "a tool that xgrammar declines": ({"tools": [_tool({"type": "any"})]}, True),
    "a dear tool that need not be followed": ({"tools": [_tool({"properties": {"a": DEAR}})]}, True),
    "a dear tool": ({"tools": [_tool({}), _tool({"properties": {"a": DEAR}})], "tool_choice": "required"}, False),
    "a dear tool that is strict": ({"tools": [_tool({"properties": {"a": DEAR}}, strict=True)]}, False),
    "a dear tool that is called": ({"tools": [_tool(DEAR)], "tool_choice": {"function": {"name": "f"}}}, False),
    "a dear tool beside the one that is called": (
        {"tools": [_tool(DEAR, strict=True), _tool({}, "g")], "tool_choice": {"function": {"name": "g"}}},
        True,
    ),
    "a dear tool of which none is called": ({"tools": [_tool(DEAR)], "tool_choice": "none"}, True),
}


@pytest.mark.parametrize(("fields", "passes"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_is_tried_before_vllm_reads_it(
    runner: asyncio.Runner, gate: GrammarGate, fields: dict[str, Any], passes: bool
) -> None:
    if passes:
        runner.run(gate.check(_chat(**fields)))
        return
    with pytest.raises(RefusedGrammar):
        runner.run(gate.check(_chat(**fields)))


@pytest.mark.parametrize("failure", [Overfull, TrialsUnavailable], ids=lambda failure: failure.__name__)
def test_where_nothing_can_be_tried_the_client_may_come_again(
    runner: asyncio.Runner, failure: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = GrammarGate(GENEROUS)

    async def judge(kind: str, grammar: object) -> Verdict:
        raise failure

    monkeypatch.setattr(gate._trials, "judge", judge)
    with pytest.raises(RefusedGrammar) as refusal:
        runner.run(gate.require(StructuredOutputsParams(regex="a")))
    assert refusal.value.status == 429


@pytest.mark.parametrize("message", [*REFUSALS.values(), BUSY, UNAVAILABLE])
def test_a_refusal_reaches_the_client_as_it_is(message: str) -> None:
    assert str(engine_refusal(400, message)) == message


@pytest.mark.parametrize(
    ("checked", "generated", "judged"),
    [
        pytest.param({"type": "object"}, {"type": "object"}, 1, id="the grammar that was checked"),
        pytest.param({"type": "object"}, {"type": "string"}, 2, id="another grammar"),
    ],
)
def test_a_grammar_is_judged_once_in_a_request(
    runner: asyncio.Runner, checked: object, generated: object, judged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = GrammarGate(GENEROUS)
    kinds: list[str] = []

    async def judge(kind: str, grammar: object) -> Verdict:
        kinds.append(kind)
        return Verdict.ACCEPTED

    async def generate(prompt: str, _params: SamplingParams) -> AsyncGenerator[str, None]:
        yield prompt

    async def ask() -> None:
        await gate.check(_chat(response_format=_format(checked)))
        params = SamplingParams(structured_outputs=StructuredOutputsParams(json=generated))
        assert [output async for output in gate._tried(generate, "x", params)] == ["x"]

    monkeypatch.setattr(gate._trials, "judge", judge)
    for request in (1, 2):
        runner.run(ask())
        assert kinds == ["json"] * judged * request, "a request knows nothing of the requests before it"
