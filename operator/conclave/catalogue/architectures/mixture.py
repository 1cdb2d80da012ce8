"""Readers of mixtures of experts with grouped attention.

What each vLLM class adds is in `vllm/model_executor/models/{mixtral,phimoe,qwen2_moe,qwen3_moe,gpt_oss,glm4_moe,
minimax_m2}.py`; most of them build embedding and head on every pipeline stage. DBRX is `conclave_models.dbrx`.
"""

from __future__ import annotations

from collections.abc import Callable

from conclave.catalogue.architectures.blocks import (
    context_tokens,
    decoder,
    grouped_attention,
    layer_count,
    rotary,
    windows,
)
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.weight_format import read_weight_format
from conclave.catalogue.shapes import DenseMlp, ExpertMlp, GroupedAttention, Layer, ModelFacts, Rotary
from conclave.errors import InvalidInput


def _experts(fields: Fields, names: str, **traits: object) -> ExpertMlp:
    experts = fields.size(names)
    top_k = fields.size("num_experts_per_tok")
    if top_k > experts:
        raise fields.refuse("num_experts_per_tok", f"at most {names} ({experts})")
    return ExpertMlp(**{"experts": experts, "top_k": top_k, "intermediate": 1} | traits)


def _mixtral(fields: Fields) -> ModelFacts:
    moe = _experts(fields, "num_local_experts", intermediate=fields.size("intermediate_size"))
    layers = tuple(
        Layer(attention=grouped_attention(fields, window_tokens=window), moe=moe)
        for window in windows(fields, default_pattern=(True,))
    )
    return decoder(
        fields,
        "MixtralForCausalLM",
        layers,
        rotary=rotary(fields, grouped_attention(fields).head_dim),
        ends_on_every_stage=True,
    )


def _phimoe(fields: Fields) -> ModelFacts:
    """vLLM's own class always has biases in attention, layer norms with bias and a bias on the head."""
    moe = _experts(fields, "num_local_experts", intermediate=fields.size("intermediate_size"))
    layers = tuple(
        Layer(
            attention=grouped_attention(fields, window_tokens=window, qkv_bias=True, output_bias=True),
            moe=moe,
            norm_bias=True,
        )
        for window in windows(fields, default_pattern=(True,))
    )
    return decoder(
        fields,
        "PhiMoEForCausalLM",
        layers,
        rotary=rotary(fields, grouped_attention(fields).head_dim),
        tied_embeddings=False,
        ends_on_every_stage=True,
        head_bias=True,
        final_norm_bias=True,
    )


def _dbrx(fields: Fields) -> ModelFacts:
    attention, ffn = fields.required("attn_config"), fields.required("ffn_config")
    if fields.flag("tie_word_embeddings"):
        raise fields.refuse("tie_word_embeddings", "false: no DBRX has tied embeddings")
    heads, kv_heads = fields.size("n_heads"), attention.size("kv_n_heads")
    if heads % kv_heads:
        raise attention.refuse("kv_n_heads", f"a divisor of n_heads ({heads})")
    experts, top_k = ffn.size("moe_num_experts"), ffn.size("moe_top_k")
    if top_k > experts:
        raise ffn.refuse("moe_top_k", f"at most moe_num_experts ({experts})")
    head_dim, positions = fields.divided("d_model", "n_heads"), fields.size("max_seq_len")
    layer = Layer(
        attention=GroupedAttention(heads=heads, kv_heads=kv_heads, head_dim=head_dim),
        moe=ExpertMlp(experts=experts, top_k=top_k, intermediate=ffn.size("ffn_hidden_size")),
    )
    return ModelFacts(
        architecture="DbrxForCausalLM",
        model_type=fields.text("model_type"),
        hidden=fields.size("d_model"),
        vocab=fields.size("vocab_size"),
        layers=(layer,) * layer_count(fields, "n_layers"),
        context_tokens=context_tokens(fields),
        dtype=fields.dtype(),
        rotary=(Rotary(positions=positions, dim=head_dim),),
        weight_format=read_weight_format(fields),
    )


def _qwen2_moe(fields: Fields) -> ModelFacts:
    moe = _experts(
        fields,
        "num_experts",
        intermediate=fields.size("moe_intermediate_size"),
        shared_intermediate=fields.size("shared_expert_intermediate_size", 5632, least=0),
        shared_gate=True,
    )
    return _sparse_qwen(fields, "Qwen2MoeForCausalLM", moe, bias=fields.flag("qkv_bias", True), qk_norm="none")


def _qwen3_moe(fields: Fields) -> ModelFacts:
    moe = _experts(fields, "num_experts", intermediate=fields.size("moe_intermediate_size"))
    bias = fields.flag("attention_bias")
    return _sparse_qwen(fields, "Qwen3MoeForCausalLM", moe, bias=bias, qk_norm="per_head")


def _sparse_qwen(fields: Fields, architecture: str, moe: ExpertMlp, *, bias: bool, qk_norm: str) -> ModelFacts:
    if fields.flag("use_sliding_window"):
        raise fields.refuse("use_sliding_window", "false: the planner does not model it for Qwen's mixtures")
    step, dense_only = fields.size("decoder_sparse_step", 1), fields.sizes("mlp_only_layers")
    attention = grouped_attention(fields, qkv_bias=bias, qk_norm=qk_norm)
    dense = Layer(attention=attention, dense=DenseMlp(intermediate=fields.size("intermediate_size")))
    sparse = Layer(attention=attention, moe=moe)
    layers = tuple(
        sparse if (index + 1) % step == 0 and index not in dense_only else dense for index in range(layer_count(fields))
    )
    return decoder(
        fields,
        architecture,
        layers,
        rotary=rotary(fields, attention.head_dim),
        ends_on_every_stage=True,
        tensor_within_experts=True,
    )


def _gpt_oss(fields: Fields) -> ModelFacts:
    """Every matrix has a bias; windows alternate; the rotary table is float32."""
    moe = _experts(
        fields,
        "num_local_experts",
        intermediate=fields.size("intermediate_size"),
        bias=True,
        router_bias=True,
    )
    layers = tuple(
        Layer(
            attention=grouped_attention(fields, window_tokens=window, qkv_bias=True, output_bias=True, sinks=True),
            moe=moe,
        )
        for window in windows(fields, default_pattern=(True, False))
    )
    head_dim = grouped_attention(fields).head_dim
    return decoder(
        fields,
        "GptOssForCausalLM",
        layers,
        rotary=tuple(table.model_copy(update={"dtype": "float32"}) for table in rotary(fields, head_dim)),
        tied_embeddings=False,
        ends_on_every_stage=True,
        tensor_divides_intermediate=True,
    )


def _glm4_moe(fields: Fields) -> ModelFacts:
    width = fields.size("moe_intermediate_size")
    moe = _experts(
        fields,
        "n_routed_experts",
        intermediate=width,
        router_dtype="float32",
        correction_bias=True,
        shared_intermediate=width * fields.size("n_shared_experts", 1, least=0),
    )
    attention = grouped_attention(
        fields,
        qkv_bias=fields.flag("attention_bias"),
        qk_norm="per_head" if fields.flag("use_qk_norm") else "none",
    )
    dense = Layer(attention=attention, dense=DenseMlp(intermediate=fields.size("intermediate_size")))
    first = fields.size("first_k_dense_replace", 1, least=0)
    layers = tuple(
        dense if index < first else Layer(attention=attention, moe=moe) for index in range(layer_count(fields))
    )
    return decoder(
        fields,
        "Glm4MoeForCausalLM",
        layers,
        rotary=rotary(fields, attention.head_dim, rotated_share=0.5),
        drafting_layers=fields.size("num_nextn_predict_layers", 0, least=0),
    )


def _minimax_m2(fields: Fields) -> ModelFacts:
    moe = _experts(
        fields,
        "num_local_experts",
        intermediate=fields.size("intermediate_size"),
        router_dtype="float32",
        correction_bias=fields.flag("use_routing_bias"),
    )
    attention = grouped_attention(fields, qkv_bias=fields.flag("attention_bias"), qk_norm="all_heads")
    return decoder(
        fields,
        "MiniMaxM2ForCausalLM",
        (Layer(attention=attention, moe=moe),) * layer_count(fields),
        rotary=rotary(fields, attention.head_dim),
        tensor_within_experts=True,
    )


def _phi_small(fields: Fields) -> ModelFacts:
    raise InvalidInput(f"config.json: architectures is {fields.architecture()!r}, which vLLM dropped after 0.9.2")


READERS: dict[str, Callable[[Fields], ModelFacts]] = {
    "MixtralForCausalLM": _mixtral,
    "PhiMoEForCausalLM": _phimoe,
    "PhimoeForCausalLM": _phimoe,
    "DbrxForCausalLM": _dbrx,
    "Qwen2MoeForCausalLM": _qwen2_moe,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "GptOssForCausalLM": _gpt_oss,
    "Glm4MoeForCausalLM": _glm4_moe,
    "MiniMaxM2ForCausalLM": _minimax_m2,
    "Phi3SmallForCausalLM": _phi_small,
}
