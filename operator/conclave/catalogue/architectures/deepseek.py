"""Reader of DeepSeek V2 and V3 and what is built as them (R1, Kimi K2): latent attention, shared experts.

After `vllm/model_executor/models/deepseek_v2.py`. The multi-token-prediction layers are loaded only for
speculative decoding.
"""

from __future__ import annotations

from collections.abc import Callable

from conclave.catalogue.architectures.blocks import decoder, layer_count, rotary
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.shapes import DenseMlp, ExpertMlp, LatentAttention, Layer, ModelFacts


def _deepseek(fields: Fields) -> ModelFacts:
    attention = LatentAttention(
        heads=fields.size("num_attention_heads"),
        query_rank=fields.optional_size("q_lora_rank"),
        kv_rank=fields.size("kv_lora_rank"),
        nope_head_dim=fields.size("qk_nope_head_dim"),
        rope_head_dim=fields.size("qk_rope_head_dim"),
        value_head_dim=fields.size("v_head_dim"),
    )
    width, experts = fields.size("moe_intermediate_size"), fields.size("n_routed_experts")
    top_k = fields.size("num_experts_per_tok")
    if top_k > experts:
        raise fields.refuse("num_experts_per_tok", f"at most n_routed_experts ({experts})")
    moe = ExpertMlp(
        experts=experts,
        top_k=top_k,
        intermediate=width,
        correction_bias=fields.text("topk_method") == "noaux_tc",
        shared_intermediate=width * fields.size("n_shared_experts", 0, least=0),
    )
    dense = Layer(attention=attention, dense=DenseMlp(intermediate=fields.size("intermediate_size")))
    sparse = Layer(attention=attention, moe=moe)
    first, step = fields.size("first_k_dense_replace", 0, least=0), fields.size("moe_layer_freq", 1)
    layers = tuple(sparse if index >= first and index % step == 0 else dense for index in range(layer_count(fields)))
    return decoder(
        fields,
        fields.architecture(),
        layers,
        rotary=rotary(fields, attention.rope_head_dim),
        drafting_layers=_drafting_layers(fields),
    )


def _drafting_layers(fields: Fields) -> int:
    """vLLM drafts with those of V3 only (`vllm/config/speculative.py:hf_config_override`)."""
    layers = fields.size("num_nextn_predict_layers", 0, least=0)
    return layers if fields.text("model_type") == "deepseek_v3" else 0


READERS: dict[str, Callable[[Fields], ModelFacts]] = {
    "DeepseekV2ForCausalLM": _deepseek,
    "DeepseekV3ForCausalLM": _deepseek,
}
