"""The gate before the engine for grammars of clients: another process tries each grammar before vLLM reads it.

`engine.py` calls the gate. vLLM converts a grammar on the event loop of its frontend, in several places, and compiles
it in the engine's own process. A grammar that passes the gate stays within the limits of a trial in both.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from vllm.config import VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend, has_xgrammar_unsupported_json_features
from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

from conclave_openai.grammars.schemas import is_compiled
from conclave_openai.grammars.trials import (
    GrammarTrials,
    Kind,
    Overfull,
    TrialLimits,
    TrialsUnavailable,
    Verdict,
)

REFUSALS = {
    Verdict.DECLINED: "The grammar of the request is malformed or uses what xgrammar does not support.",
    Verdict.TOO_DEAR: "The grammar of the request takes more CPU or memory than a grammar is given, to compile or for"
    " each token.",
    Verdict.LATE: "The grammar of the request could not be compiled in time; retry later.",
}
BUSY = "Too many new grammars are being compiled; retry later."
UNAVAILABLE = "Grammars cannot be compiled at the moment; retry later."

_PASSED: ContextVar[frozenset[tuple[Kind, str]]] = ContextVar(
    "grammars of this request that passed", default=frozenset()
)
"""vLLM hands a request's grammar to `generate` after `check` has judged it; it is not judged again there."""


class RefusedGrammar(VLLMValidationError):
    """A grammar that does not reach the engine. `status` is the HTTP status of the refusal."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class GrammarGate:
    """The gate of one replica. It asks for trials and raises refusals."""

    def __init__(self, limits: TrialLimits) -> None:
        self._trials = GrammarTrials(limits, logger=logging.getLogger("ray.serve"))

    async def begin(self) -> None:
        """Start the process of the trials while the engine starts."""
        await self._trials.begin()

    async def guard(self, engine: Any) -> None:
        """Let a started AsyncLLM generate only with grammars that were tried, whichever code made the grammar."""
        config = engine.vllm_config
        any_whitespace = not config.structured_outputs_config.disable_any_whitespace
        vocabulary = await asyncio.to_thread(_vocabulary, config)
        self._trials.set_vocabulary(vocabulary, any_whitespace=any_whitespace)
        generate = engine.generate

        def guarded(prompt: Any, sampling_params: Any, *others: Any, **named: Any) -> AsyncGenerator[Any, None]:
            if sampling_params.structured_outputs is None:
                outputs: AsyncGenerator[Any, None] = generate(prompt, sampling_params, *others, **named)
                return outputs
            return self._tried(generate, prompt, sampling_params, *others, **named)

        engine.generate = guarded

    async def _tried(
        self, generate: Any, prompt: Any, sampling_params: Any, *others: Any, **named: Any
    ) -> AsyncGenerator[Any, None]:
        await self.require(sampling_params.structured_outputs)
        async with aclosing(generate(prompt, sampling_params, *others, **named)) as outputs:
            async for output in outputs:
                yield output

    async def check(self, request: Any) -> None:
        """Raise RefusedGrammar where a chat or completion request has a grammar that does not pass.

        Tools that an answer must follow have to stay within the limits of a conversion, which vLLM does before it
        hands their grammar to `generate`. The schema of any other tool is never compiled.
        """
        _PASSED.set(frozenset())
        if schemas := _compiled_tools(request):
            await self._require("tools", schemas)
        await self.require(request.extract_structured_outputs())

    async def require(self, params: StructuredOutputsParams | None) -> None:
        """Raise RefusedGrammar where one of the grammars does not pass."""
        if params is None:
            return
        if params.json is not None:
            text = params.json if isinstance(params.json, str) else json.dumps(params.json)
            if ("json", text) not in _PASSED.get():
                schema = params.json if isinstance(params.json, dict) else json.loads(text)
                if has_xgrammar_unsupported_json_features(schema):
                    raise RefusedGrammar(REFUSALS[Verdict.DECLINED])
            await self._require("json", text)
        if params.regex is not None:
            await self._require("regex", params.regex)
        if params.choice:
            await self._require("ebnf", choice_as_grammar(params.choice))
        if params.grammar is not None:
            await self._require("lark" if grammar_is_likely_lark(params.grammar) else "ebnf", params.grammar)
        if params.structural_tag is not None:
            await self._require("structural_tag", params.structural_tag)

    async def _require(self, kind: Kind, grammar: Any) -> None:
        is_text = isinstance(grammar, str)
        if is_text and (kind, grammar) in _PASSED.get():
            return
        try:
            verdict = await self._trials.judge(kind, grammar)
        except Overfull:
            raise RefusedGrammar(BUSY, 429) from None
        except TrialsUnavailable:
            raise RefusedGrammar(UNAVAILABLE, 429) from None
        if verdict is not Verdict.ACCEPTED:
            raise RefusedGrammar(REFUSALS[verdict], 429 if verdict is Verdict.LATE else 400)
        if is_text:
            _PASSED.set(_PASSED.get() | {(kind, grammar)})


def _compiled_tools(request: Any) -> list[Any]:
    choice = getattr(request, "tool_choice", None)
    called = getattr(getattr(choice, "function", None), "name", None)
    functions = [tool.function for tool in getattr(request, "tools", None) or ()]
    return [
        function.parameters
        for function in functions
        if function.parameters and is_compiled(function.name, function.strict, choice, called)
    ]


def _vocabulary(config: VllmConfig) -> str:
    """The vocabulary as vLLM itself gives it to xgrammar."""
    tokenizer = cached_tokenizer_from_config(model_config=config.model_config)
    backend = XgrammarBackend(config, tokenizer=tokenizer, vocab_size=config.model_config.get_vocab_size())
    return str(backend.compiler.compile_grammar('root ::= "a"').tokenizer_info.serialize_json())
