"""What the engine requires of config.json beside names and shapes: the `model_type`, and fields that its classes read.

`directory.py` calls it. Without this check a fault is found after minutes, when the engine builds the model, or never:
a class that has only one activation runs with it, whatever the config says. `conclave_models` reads the fields;
Transformers, vLLM 0.32 and our plugin register the types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from conclave.catalogue.engine_classes import engine_class
from conclave.errors import UnknownModel

MODEL_TYPES: Mapping[str, tuple[str, ...]] = {
    "DbrxForCausalLM": ("dbrx",),
    "DeepseekV2ForCausalLM": ("deepseek_v2",),
    "DeepseekV3ForCausalLM": ("deepseek_v3", "kimi_k2"),
    "Gemma2ForCausalLM": ("gemma2",),
    "Gemma3ForCausalLM": ("gemma3_text",),
    "GemmaForCausalLM": ("gemma",),
    "Glm4MoeForCausalLM": ("glm4_moe",),
    "GptOssForCausalLM": ("gpt_oss",),
    "Grok1ModelForCausalLM": ("grok-1",),
    "LLaMAForCausalLM": ("llama",),
    "Llama4ForCausalLM": ("llama4_text",),
    "Llama4ForConditionalGeneration": ("llama4",),
    "LlamaForCausalLM": ("llama", "mistral"),
    "MiniMaxM2ForCausalLM": ("minimax_m2", "minimax"),
    "MistralForCausalLM": ("mistral", "llama"),
    "MixtralForCausalLM": ("mixtral",),
    "Phi3ForCausalLM": ("phi3",),
    "PhiMoEForCausalLM": ("phimoe",),
    "PhimoeForCausalLM": ("phimoe",),
    "Qwen2ForCausalLM": ("qwen2",),
    "Qwen2MoeForCausalLM": ("qwen2_moe",),
    "Qwen3ForCausalLM": ("qwen3",),
    "Qwen3MoeForCausalLM": ("qwen3_moe",),
}
"""Each architecture, and the values of `model_type` with which the engine reads the config for it, usual first.

Two architectures of the catalogue are missing, because no engine of ours has a class for them: Grok-2
(Grok1ForCausalLM) and Phi-3-small.
"""
_ABSENT = object()
_REMEDY = "take the config.json of these weights"


@dataclass(frozen=True)
class _Field:
    path: str
    is_served: Callable[[object], bool]
    expected: str
    may_be_absent: bool = True
    """The engine has a value of its own for the field: the value of the released model."""


def _is_number_above_0(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _number(path: str, *, may_be_absent: bool = True) -> _Field:
    return _Field(path, _is_number_above_0, "a number above 0", may_be_absent)


def _grok_2s(path: str, instead: str) -> _Field:
    """A field of Grok-2. The class of Grok-1 does not read it."""
    return _Field(path, lambda value: value in (None, False), f"none: Grok-1 {instead}")


_FIELDS: Mapping[str, tuple[_Field, ...]] = {
    "DbrxForCausalLM": (
        _number("attn_config.rope_theta", may_be_absent=False),
        _Field(
            "attn_config.clip_qkv",
            lambda value: value is None or _is_number_above_0(value),
            "a number above 0, or null",
        ),
        _Field(
            "ffn_config.ffn_act_fn",
            lambda value: value is None or (isinstance(value, Mapping) and value.get("name", "silu") == "silu"),
            '{"name": "silu"}, which every released DBRX has',
        ),
        _Field(
            "ffn_config.moe_normalize_expert_weights",
            lambda value: value is None or (_is_number_above_0(value) and value == 1),
            "1 or null: no released DBRX has another",
        ),
    ),
    "Grok1ModelForCausalLM": (
        *(
            _number(path)
            for path in (
                "rope_theta",
                "rms_norm_eps",
                "attn_output_multiplier",
                "max_attn_value",
                "embedding_multiplier_scale",
                "output_multiplier_scale",
            )
        ),
        _Field(
            "hidden_act",
            lambda value: value in (None, "gelu", "gelu_new", "gelu_pytorch_tanh"),
            '"gelu", which the class computes in its tanh form, as the release does',
        ),
        _grok_2s("num_local_experts", "has num_experts"),
        _grok_2s("num_selected_experts", "has num_experts_per_tok"),
        _grok_2s("moe_intermediate_size", "has intermediate_size"),
        _grok_2s("residual_moe", "has no dense part beside its experts"),
    ),
}


def has_engine_class(architecture: str, config: Mapping[str, object]) -> bool:
    """Whether the engine has classes of its own for the model and its config, so that no code of others is needed."""
    if architecture in MODEL_TYPES:
        return config.get("model_type") in MODEL_TYPES[architecture]
    try:
        engine_class(config, architecture)
    except UnknownModel:
        return False
    return True


def config_faults(architecture: str, config: Mapping[str, object]) -> Iterator[str]:
    """One sentence for each field that the engine would refuse or ignore."""
    expected = MODEL_TYPES.get(architecture)
    if expected is not None and config.get("model_type") not in expected:
        yield (
            f"config.json: model_type is {_shown(config.get('model_type', _ABSENT))}, expected "
            f"{' or '.join(map(_shown, expected))} for {architecture}; {_REMEDY}"
        )
    for field in _FIELDS.get(architecture, ()):
        value = _value(config, field.path)
        if not (field.may_be_absent if value is _ABSENT else field.is_served(value)):
            yield f"config.json: {field.path} is {_shown(value)}, expected {field.expected}; {_REMEDY}"


def _value(config: Mapping[str, object], path: str) -> object:
    found: object = config
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return _ABSENT
        found = found[name]
    return found


def _shown(value: object) -> str:
    return "missing" if value is _ABSENT else f"{value!r:.80}"
