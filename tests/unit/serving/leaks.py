"""What vLLM, xgrammar and Python write of a request, provoked twice in this process: as they are, then guarded.

`python -m tests.unit.serving.leaks`, a child of test_content_free_logs.py; a line `== when: leak` precedes each.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

CANARY = "canary-77b1"
ID = "chatcmpl-0a1b"

Leak = Callable[[], None]


def _raise() -> None:
    raise ValueError(f"odd value {CANARY}")


def _passed(module: str, function: str) -> Callable[[], None]:
    """A function of this name in this module that fails with content in the message."""
    scope: dict[str, Any] = {"__name__": module, "fail": _raise}
    exec(f"def {function}():\n    fail()", scope)
    found: Callable[[], None] = scope[function]
    return found


busy_loop = _passed("vllm.v1.engine.core", "run_busy_loop")


def failed_step() -> None:
    from vllm import SamplingParams
    from vllm.logging_utils.dump_input import dump_engine_exception
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput
    from vllm.v1.metrics.stats import SchedulerStats

    asked = SamplingParams(
        stop=[f"stop-{CANARY}"], structured_outputs=StructuredOutputsParams(regex=CANARY), extra_args={CANARY: CANARY}
    )
    asked.bad_words = [CANARY]
    new = NewRequestData(ID, [1, 2], [], asked, None, ([1],), 0, None)
    cached = CachedRequestData.make_empty()
    output = SchedulerOutput([new], cached, {ID: 2}, 2, {}, {}, set(), [])
    dump_engine_exception(SimpleNamespace(), output, SchedulerStats())  # type: ignore[arg-type]


def earlier_tool_call() -> None:
    from vllm.renderers.chat_utils import _postprocess_messages

    for arguments in ("{", "[]"):
        call = {"type": "function", "id": "1", "function": {"name": CANARY, "arguments": arguments}}
        _postprocess_messages([{"role": "assistant", "tool_calls": [call]}])  # type: ignore[list-item]


def answered_tool_call() -> None:
    logging.getLogger("vllm.tool_parsers.xlam_tool_parser").error(f"Error in streaming tool calls: {CANARY}")


def refused_grammar() -> None:
    import xgrammar
    from vllm.v1.structured_output import StructuredOutputManager

    compiled = SimpleNamespace(
        compile_grammar=lambda _kind, spec, stop_token_ids: xgrammar.Grammar.from_json_schema(spec)
    )
    request = SimpleNamespace(
        request_id=ID,
        sampling_params=None,
        structured_output_request=SimpleNamespace(structured_output_key=("json", f'{{"type": "{CANARY}"}}')),
    )
    try:
        StructuredOutputManager._create_grammar(SimpleNamespace(backend=compiled), request)  # type: ignore[arg-type]
    except RuntimeError:
        return


def warned_pattern() -> None:
    import xgrammar

    xgrammar.Grammar.from_json_schema(f'{{"type": "string", "minLength": 5, "pattern": "(?={CANARY})a"}}')


def forgotten_task() -> None:
    async def forget() -> None:
        async def fail() -> None:
            _raise()

        task = asyncio.create_task(fail())
        await asyncio.sleep(0.01)
        del task
        gc.collect()

    asyncio.run(forget())


def logged_by_anybody() -> None:
    try:
        busy_loop()
    except ValueError:
        logging.getLogger("vllm.v1.engine.core").exception("EngineCore encountered a fatal error.")


def uncaught_in_a_child() -> None:
    try:
        busy_loop()
    except ValueError:
        traceback.print_exc()


def uncaught_in_a_thread() -> None:
    thread = threading.Thread(target=busy_loop)
    thread.start()
    thread.join()


def uncaught() -> None:
    try:
        busy_loop()
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)


def behind_another() -> None:
    try:
        try:
            busy_loop()
        except ValueError as error:
            raise RuntimeError(f"step failed: {error}") from error
    except RuntimeError:
        logging.getLogger("somebody.else").exception("it failed")


def out_of_memory() -> None:
    """No leak: its message is torch's own, and names what to change."""
    import torch

    def execute_model() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    scope: dict[str, Any] = {"__name__": "vllm.v1.worker.gpu_worker", "fail": execute_model}
    exec("def execute_model():\n    fail()", scope)
    try:
        scope["execute_model"]()
    except torch.OutOfMemoryError:
        logging.getLogger("vllm.v1.executor.multiproc_executor").exception("WorkerProc hit an exception.")


def failed_start() -> None:
    """No leak: no client has sent anything yet."""
    try:
        raise ValueError("No available memory for the cache blocks")
    except ValueError:
        logging.getLogger("vllm.v1.engine.core").exception("EngineCore failed to start.")


def settings() -> None:
    """No leak: what an engine says of itself while it starts."""
    logging.getLogger("vllm.v1.engine.core").info("with config: %s", {"model": "tiny"})
    logging.getLogger("vllm.entrypoints.logger").info("words of the code, and %d of %s", 5, None)


LEAKS: tuple[Leak, ...] = (
    failed_step,
    earlier_tool_call,
    answered_tool_call,
    refused_grammar,
    warned_pattern,
    forgotten_task,
    logged_by_anybody,
    uncaught_in_a_child,
    uncaught_in_a_thread,
    uncaught,
    behind_another,
)
OTHERS: tuple[Leak, ...] = (out_of_memory, failed_start, settings)


def main() -> None:
    from vllm.config.logging import LoggingConfig
    from vllm.logger import configure_logging

    configure_logging(LoggingConfig())
    logging.basicConfig(stream=sys.stderr)
    for when in ("bare", "guarded"):
        if when == "guarded":
            from conclave_models import register

            register()
            register()
        for leak in (*LEAKS, *OTHERS):
            sys.stderr.flush()
            os.write(2, f"\n== {when}: {leak.__name__}\n".encode())
            leak()


if __name__ == "__main__":
    main()
