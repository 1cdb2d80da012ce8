"""Reader of Llama 4: a text decoder with alternating experts and chunked attention, and a vision encoder.

After `vllm/model_executor/models/{llama4,mllama4}.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from conclave.catalogue.architectures.blocks import decoder, grouped_attention, layer_count, rotary
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.weight_format import read_weight_format
from conclave.catalogue.shapes import DenseMlp, ExpertMlp, Layer, ModelFacts, VisionTower

_CHUNK_TOKENS = 8192


def _text(fields: Fields) -> ModelFacts:
    width, experts = fields.size("intermediate_size"), fields.size("num_local_experts")
    top_k = fields.size("num_experts_per_tok", 1)
    if top_k > experts:
        raise fields.refuse("num_experts_per_tok", f"at most num_local_experts ({experts})")
    moe = ExpertMlp(experts=experts, top_k=top_k, intermediate=width, shared_intermediate=width)
    dense = DenseMlp(intermediate=fields.size("intermediate_size_mlp"))
    count, step = layer_count(fields), fields.size("interleave_moe_layer_step", 1, least=0)
    chunk = fields.size("attention_chunk_size", _CHUNK_TOKENS)
    rotates = fields.sizes("no_rope_layers") or tuple(int((index + 1) % 4 != 0) for index in range(count))
    if len(rotates) != count:
        raise fields.refuse("no_rope_layers", f"one entry for each of the {count} layers")
    layers = []
    for index, has_rotary in enumerate(rotates):
        attention = grouped_attention(fields, window_tokens=chunk if has_rotary else None, chunked=bool(has_rotary))
        sparse = step > 0 and (index + 1) % step == 0
        layers.append(Layer(attention=attention, moe=moe if sparse else None, dense=None if sparse else dense))
    return decoder(
        fields, "Llama4ForCausalLM", tuple(layers), rotary=rotary(fields, grouped_attention(fields).head_dim)
    )


def _multimodal(fields: Fields) -> ModelFacts:
    text, vision = fields.required("text_config"), fields.required("vision_config")
    tower = VisionTower(
        layers=vision.size("num_hidden_layers"),
        hidden=vision.size("hidden_size"),
        intermediate=vision.size("intermediate_size"),
        heads=vision.size("num_attention_heads"),
        patch=vision.size("patch_size"),
        image=vision.size("image_size"),
        channels=vision.size("num_channels", 3),
        adapter_input=vision.size("projector_input_dim"),
        adapter_output=vision.size("projector_output_dim"),
        output=vision.size("vision_output_dim"),
        pixel_shuffle_ratio=vision.number("pixel_shuffle_ratio", 0.5),
    )
    return _text(text).model_copy(
        update={
            "architecture": "Llama4ForConditionalGeneration",
            "model_type": fields.text("model_type"),
            "dtype": fields.dtype() if fields.has("torch_dtype") or fields.has("dtype") else text.dtype(),
            "vision": tower,
            "weight_format": read_weight_format(fields) or read_weight_format(text),
        }
    )


READERS: dict[str, Callable[[Fields], ModelFacts]] = {
    "Llama4ForCausalLM": _text,
    "Llama4ForConditionalGeneration": _multimodal,
}
