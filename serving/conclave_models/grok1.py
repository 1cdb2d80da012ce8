"""Grok-1 for vLLM, which removed it after 0.24. It loads the weights in the Hugging Face layout of hpcai-tech/grok-1.

The definition is the released code (github.com/xai-org/grok-1, model.py and run.py).
"""

from __future__ import annotations

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.models.utils import WeightsMapper

from conclave_models.decoder import ConfigFields, GroupedAttention, MixtureForCausalLM, Sizes, SparseMixture


class Grok1DecoderLayer(nn.Module):
    """Norms before and after both attention and experts. The residual is added after the second norm."""

    def __init__(self, vllm_config: VllmConfig, sizes: Sizes, fields: ConfigFields, prefix: str) -> None:
        super().__init__()
        eps = fields.number("rms_norm_eps")
        self.pre_attn_norm = RMSNorm(sizes.hidden, eps=eps)
        self.attn = GroupedAttention(
            vllm_config,
            sizes,
            f"{prefix}.attn",
            scale=fields.number("attn_output_multiplier"),
            soft_cap=fields.number("max_attn_value"),
        )
        self.post_attn_norm = RMSNorm(sizes.hidden, eps=eps)
        self.pre_moe_norm = RMSNorm(sizes.hidden, eps=eps)
        self.moe_block = SparseMixture(
            vllm_config,
            sizes,
            f"{prefix}.moe_block",
            renormalize=False,
            activation="gelu_tanh",
            checkpoint_names=("linear", "linear_1", "linear_v"),
            router_in_float32=True,
        )
        self.post_moe_norm = RMSNorm(sizes.hidden, eps=eps)

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        attended: torch.Tensor = self.post_attn_norm(self.attn(positions, self.pre_attn_norm(hidden_states)))
        hidden_states = hidden_states + attended
        mixed: torch.Tensor = self.post_moe_norm(self.moe_block(self.pre_moe_norm(hidden_states)))
        return hidden_states + mixed


class Grok1ModelForCausalLM(MixtureForCausalLM):
    """Grok-1. The output head is tied to the embedding unless the config says otherwise."""

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_stacked={
            ".q_proj": (".qkv_proj", "q"),
            ".k_proj": (".qkv_proj", "k"),
            ".v_proj": (".qkv_proj", "v"),
        },
        orig_to_new_suffix={"norm.scale": "norm.weight"},
    )
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}  # noqa: RUF012 - as vLLM declares it

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        fields = ConfigFields(vllm_config.model_config.hf_config)
        hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
        sizes = Sizes(
            vocabulary=fields.count("vocab_size"),
            hidden=hidden,
            layers=fields.count("num_hidden_layers"),
            heads=heads,
            key_value_heads=fields.count("num_key_value_heads"),
            head_dim=hidden // heads if fields.value("head_dim") is None else fields.count("head_dim"),
            context_tokens=fields.count("max_position_embeddings"),
            rope_theta=fields.number("rope_theta"),
            experts=fields.count("num_experts"),
            experts_per_token=fields.count("num_experts_per_tok"),
            intermediate=fields.count("intermediate_size"),
        )
        super().__init__(
            vllm_config,
            prefix,
            sizes,
            make_layer=lambda prefix: Grok1DecoderLayer(vllm_config, sizes, fields, prefix),
            make_norm=lambda: RMSNorm(sizes.hidden, eps=fields.number("rms_norm_eps")),
            embedding_multiplier=fields.number("embedding_multiplier_scale"),
            logits_multiplier=fields.number("output_multiplier_scale"),
            is_tied=bool(fields.value("tie_word_embeddings")),
        )
