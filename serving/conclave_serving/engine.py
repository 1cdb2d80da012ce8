"""The engine deployment: Ray Serve LLM's server, warm before Serve calls it RUNNING, streaming in few messages.

`app.py` builds it. Its exceptions reach logs and the ingress, so no exception holds content of a request.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import CompletionRequest, ErrorResponse

from conclave import names
from conclave_openai.limits.request import load_limits
from conclave_openai.logs.content_free import place_of
from conclave_serving.coalescing import coalesce
from conclave_serving.grammar_gate import GrammarGate, RefusedGrammar
from conclave_serving.template_reading import read_template
from conclave_serving.warm_up import Rehearsal, rehearsals
from conclave_weights.verify.adapter import check_adapter

MESSAGES_PER_S = 160
"""All streams of a replica together should send at most about so many messages a second."""
MIN_INTERVAL_S, MAX_INTERVAL_S = 0.05, 0.1
"""The time between two messages of one stream after its first message. A reader does not notice it."""

logger = logging.getLogger("ray.serve")


class EngineError(Exception):
    """The engine failed. The message names only the type of the failure."""


class Engine(LLMServer):
    """One replica of the model."""

    async def start(self) -> None:
        """Start vLLM and answer the rehearsals. Serve calls the replica RUNNING after that."""
        self._streams = 0
        arguments = self._llm_config.engine_kwargs
        adapters = arguments.get("lora_modules", ())
        for adapter in adapters:
            check_adapter(adapter.name, Path(adapter.path), arguments["max_lora_rank"])
        # Every node has the weights in a directory. Ray's download task would only import the engine once more.
        cast(Any, self._llm_config.get_or_create_callback()).ctx.run_init_node = False
        self._grammars = GrammarGate(load_limits().schema_.trial)
        await self._grammars.begin()
        await super().start()  # type: ignore[no-untyped-call]  # Ray's annotation is missing
        client = cast(Any, self.engine)._engine_client
        await self._grammars.guard(client)
        self._template = read_template(client.vllm_config)
        first, *further = rehearsals(int(arguments["max_model_len"]))
        for model in (self._llm_config.model_id, *(adapter.name for adapter in adapters)):
            await self._rehearse(first, model)
        for rehearsal in further:
            await self._rehearse(rehearsal, self._llm_config.model_id)
        _announce()

    async def _start_engine(self) -> None:
        """Ray's own start without its telemetry actor, because nothing is reported."""
        await cast(Any, self.engine).start()

    async def _rehearse(self, rehearsal: Rehearsal, model: str) -> None:
        began = time.monotonic()
        request = CompletionRequest(model=model, **rehearsal.request)
        async for answer in await self.completions(request):
            error = next((part for part in _parts(answer) if isinstance(part, ErrorResponse)), None)
            if error is None:
                continue
            message = f"warm-up '{rehearsal.name}' was refused by the engine: {error.error.message}"
            if rehearsal.required:
                raise EngineError(message)
            logger.warning(message)
            return
        logger.info("warm-up '%s' answered in %.1f s", rehearsal.name, time.monotonic() - began)

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]:
        """A chat completion: one object, or lists of server-sent events."""
        self._template.fit(request)
        return await self._answers(super().chat, request, raw_request_info)

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]:
        """A text completion: one object, or lists of server-sent events."""
        return await self._answers(super().completions, request, raw_request_info)

    async def _answers(self, answer: Any, request: Any, raw_request_info: Any) -> AsyncGenerator[Any, None]:
        """The guarded answers of Ray's method, or the refusal of a grammar that the engine must not compile."""
        try:
            await self._grammars.check(request)
            answers = await answer(request, _traced(raw_request_info))
        except RefusedGrammar as refusal:
            return _refused(refusal)
        except Exception as error:  # noqa: BLE001 - raised again, without its message
            raise _failed(error) from None
        return self._guarded(answers, streams=bool(request.stream))

    async def _guarded(self, answers: AsyncGenerator[Any, None], *, streams: bool) -> AsyncGenerator[Any, None]:
        """The same answers. A failure is logged by its place in the code and raised again without its message."""
        self._streams += streams
        try:
            async with aclosing(coalesce(answers, self._interval_s) if streams else answers) as paced:
                async for answer in paced:
                    yield answer
        except Exception as error:  # noqa: BLE001 - raised again, without its message
            raise _failed(error) from None
        finally:
            self._streams -= streams

    def _interval_s(self) -> float:
        return min(MAX_INTERVAL_S, max(MIN_INTERVAL_S, self._streams / MESSAGES_PER_S))


def _failed(error: Exception) -> EngineError:
    """Log the place of a failure. The returned error names only the type of the failure."""
    logger.error("request failed: %s", place_of(error))
    return EngineError(f"the engine failed with {type(error).__name__}")


async def _refused(refusal: RefusedGrammar) -> AsyncGenerator[Any, None]:
    error = {"message": str(refusal), "type": "invalid_request_error", "code": refusal.status}
    yield ErrorResponse.model_validate({"error": error})


def _announce() -> None:
    """Write the process id where the readiness probe of a worker pod reads it."""
    if path := os.environ.get(names.ENGINE_PID_VARIABLE):
        Path(path).write_text(str(os.getpid()))


def _traced(raw_request_info: Any) -> Any:
    """The request info with this replica's span as the parent, so that vLLM's span becomes its child."""
    if raw_request_info is None:
        return None
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return replace(raw_request_info, headers=headers)


def _parts(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer]
