"""What an accelerator cannot run whatever its memory, and which type `auto` comes to on it."""

from __future__ import annotations

from typing import Any

import pytest

from conclave.catalogue.facts import read_config
from conclave.catalogue.models import find_model
from conclave.catalogue.shapes import ModelFacts
from conclave.planning.evaluate import Device, Fit, Misfit, evaluate
from conclave.planning.layout import Layout
from conclave.planning.settings import EngineSettings

T4, V100, A100 = "Tesla-T4", "Tesla-V100-SXM2-32GB", "NVIDIA-A100-SXM4-80GB"


def facts_of(model: str) -> ModelFacts:
    entry = find_model(model)
    assert entry is not None
    return read_config(entry.config)


def outcome(model: str, product: str, **settings: Any) -> Fit | Misfit:
    return evaluate(facts_of(model), EngineSettings(max_model_len=1024, **settings), Device.of(product, 0), Layout())


REFUSED = {
    "Gemma 2 in half precision": (
        ("google/gemma-2-2b", A100, {"dtype": "float16"}),
        "engine.dtype is float16, in which gemma2 overflows; set bfloat16 or float32",
    ),
    "AWQ on Volta": (
        ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", V100, {}),
        "V100-32GB has no kernel for awq weights, which need compute capability 7.5: it has 7.0",
    ),
    "AWQ made by the owner on Volta": (
        ("google/gemma-2b", V100, {"quantization": "awq"}),
        "V100-32GB has no kernel for awq weights",
    ),
    "mxfp4 on Turing": (("openai/gpt-oss-20b", T4, {}), "T4 has no kernel for mxfp4 weights"),
    "an fp8 KV cache on Turing": (("google/gemma-2b", T4, {"kv_cache_dtype": "fp8"}), "T4 has no fp8 KV cache"),
    "bfloat16 on Turing": (
        ("google/gemma-2b", T4, {"dtype": "bfloat16"}),
        "T4 has no bfloat16; set engine.dtype to float16",
    ),
    "Gemma 2 in bfloat16 on Turing": (
        ("google/gemma-2-2b", T4, {"dtype": "bfloat16"}),
        "T4 has no bfloat16; set engine.dtype to float32",
    ),
    "Gemma 2 in fp8 on Turing, where auto is float32": (
        ("google/gemma-2-2b", T4, {"quantization": "fp8_per_tensor"}),
        "fp8 weights are not run in float32, which engine.dtype auto is on T4",
    ),
    "fp8 on CDNA 2": (
        ("google/gemma-2b", "AMD_Instinct_MI210", {"quantization": "fp8_per_tensor"}),
        "MI210 has no kernel for fp8 weights",
    ),
}


@pytest.mark.parametrize(("asked", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_kernel_is_refused(asked: tuple[str, str, dict[str, str]], reason: str) -> None:
    model, product, settings = asked
    found = outcome(model, product, **settings)
    assert isinstance(found, Misfit)
    assert found.reason.startswith(reason)


def test_fp8_weights_are_run_on_turing() -> None:
    assert isinstance(outcome("google/gemma-2b", T4, quantization="fp8_per_tensor"), Fit)


SHARES = {
    "a model that takes half precision": ("google/gemma-2b", 1.0),
    "one that does not, which is run in float32": ("google/gemma-2-2b", 2.0),
}


@pytest.mark.parametrize(("model", "share"), SHARES.values(), ids=SHARES)
def test_weights_without_bfloat16(model: str, share: float) -> None:
    old, new = outcome(model, V100), outcome(model, A100)
    assert isinstance(old, Fit)
    assert isinstance(new, Fit)
    assert old.memory.weights / new.memory.weights == pytest.approx(share, rel=0.01)
