"""Where vLLM, xgrammar and our Ray application write what a client sent, and the guard over it.

vLLM's plugin (`conclave_models.register`) calls both functions in the replica, the engine core and each worker; the
ingress calls `guard_logs`. The messages of a failed start stay whole, because `conclave explain` reads the root cause
from them, and no client has sent anything by then.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from conclave_openai.logs import content_free
from conclave_openai.logs.content_free import RequestCode

REQUEST_LOGGERS = (
    "asyncio",  # repeats the exception of a task in its message
    "vllm.entrypoints",
    "vllm.inputs",
    "vllm.logging_utils.dump_input",  # the scheduler's output, when a step of the engine fails
    "vllm.multimodal",
    "vllm.outputs",
    "vllm.parser",
    "vllm.reasoning",
    "vllm.renderers",
    "vllm.sampling_params",
    "vllm.tokenizers",
    "vllm.tool_parsers",
    "vllm.v1.core.sched",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.detokenizer",
    "vllm.v1.engine.input_processor",
    "vllm.v1.engine.output_processor",
    "vllm.v1.engine.parallel_sampling",
    "vllm.v1.request",
    "vllm.v1.structured_output",
)
"""Loggers, and the loggers below them, of code that handles requests and answers."""

REQUEST_FUNCTIONS = frozenset(
    {
        # The ingress and the replica.
        *("answer_chat", "answer_completions", "_guarded", "create_chat_completion", "create_completion"),
        *("generate", "output_handler"),
        # The engine core; its threads for input and for grammars.
        *("run_busy_loop", "process_input_sockets", "_create_grammar"),
        # A worker. A worker's start calls neither: profiling runs the model without requests.
        *("execute_model", "sample_tokens"),
    }
)
"""Functions that every request passes, and that no start passes. An exception that passed one may hold content."""

TELLING = re.compile(
    r"(OutOfMemoryError|AcceleratorError|DistBackendError|EngineDeadError|TimeoutError): |"
    r"RuntimeError: (CUDA|HIP|NCCL|RCCL|Triton|cuDNN|CUBLAS|HIPBLAS)[ _]"
)
"""Exceptions whose messages hold the engine's own numbers and names only; `conclave explain` reads them."""

REQUEST_CODE = RequestCode(REQUEST_LOGGERS, REQUEST_FUNCTIONS, ("conclave_serving.", "vllm."), TELLING)


def guard_logs() -> None:
    """Take content out of every log record and every uncaught exception of this process; harmless when repeated."""
    content_free.guard_logs(REQUEST_CODE)


class _StandardError:
    """C++'s `std::cerr` of this process, which can be made to drop what is written to it.

    File descriptor 2 is not touched, so that Python's log and the last words of a crash are never lost.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL("libstdc++.so.6")
        stream = ctypes.addressof(ctypes.c_char.in_dll(library, "_ZSt4cerr"))
        # Itanium C++ ABI: the offset of the virtual base `std::ios` stands three words before the virtual table.
        table = ctypes.c_void_p.from_address(stream).value or 0
        offset = ctypes.c_ssize_t.from_address(table - 3 * ctypes.sizeof(ctypes.c_void_p)).value
        self._ios = ctypes.c_void_p(stream + offset)
        # std::streambuf *std::ios::rdbuf(std::streambuf *)
        self._exchange = library._ZNSt9basic_iosIcSt11char_traitsIcEE5rdbufEPSt15basic_streambufIcS1_E
        self._exchange.restype = ctypes.c_void_p
        self._exchange.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._lock = threading.Lock()
        self._calls = 0
        self._buffer: int | None = None

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """Drop what C++ code writes, until the last of all calls that overlap has ended."""
        with self._lock:
            self._calls += 1
            if self._calls == 1:
                self._buffer = self._exchange(self._ios, None)
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                if self._calls == 0:
                    self._exchange(self._ios, self._buffer)


def silence_grammar_warnings() -> None:
    """Drop xgrammar's warnings: they repeat the pattern or schema, on `std::cerr`, and have no level to set."""
    from xgrammar import Grammar, GrammarCompiler

    if getattr(silence_grammar_warnings, "is_done", False):
        return
    silence_grammar_warnings.is_done = True  # type: ignore[attr-defined]
    standard_error = _StandardError()
    for owner in (Grammar, GrammarCompiler):
        for name, method in list(vars(owner).items()):
            if not name.startswith(("from_", "compile_")):
                continue
            is_static = isinstance(method, staticmethod)
            silent = standard_error.dropped()(method.__func__ if is_static else method)
            setattr(owner, name, staticmethod(silent) if is_static else silent)
