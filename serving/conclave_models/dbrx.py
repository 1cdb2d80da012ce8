"""DBRX for vLLM, whose own class fails to load since 0.29. It loads the weights as Databricks published them.

The definition is databricks/dbrx's modeling code in Transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.models.utils import WeightsMapper

from conclave_models.decoder import ConfigFields, GroupedAttention, MixtureForCausalLM, Sizes, SparseMixture

EXPERT_MATRICES = {"w1": "w1", "v1": "w3", "w2": "w2"}
"""Gate, up and down projection, each stored as [experts * ffn, hidden], and vLLM's names for them."""


class DbrxBlock(nn.Module):
    """Attention, then experts. Each follows a norm without bias and is added to the residual."""

    def __init__(self, vllm_config: VllmConfig, sizes: Sizes, fields: ConfigFields, prefix: str) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(sizes.hidden, bias=False)
        self.attn = GroupedAttention(
            vllm_config,
            sizes,
            f"{prefix}.attn",
            scale=sizes.head_dim**-0.5,
            clip=None if fields.value("attn_config.clip_qkv") is None else fields.number("attn_config.clip_qkv"),
        )
        self.norm_2 = nn.LayerNorm(sizes.hidden, bias=False)
        self.ffn = SparseMixture(
            vllm_config,
            sizes,
            f"{prefix}.ffn",
            renormalize=normalises_experts(fields),
            activation=activation_of(fields),
            checkpoint_names=("w1", "w2", "w3"),
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        attended: torch.Tensor = self.attn(positions, self.norm_1(hidden_states))
        hidden_states = hidden_states + attended
        mixed: torch.Tensor = self.ffn(self.norm_2(hidden_states))
        return hidden_states + mixed


class DbrxForCausalLM(MixtureForCausalLM):
    """DBRX, whose output head is never tied."""

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_substr={
            "transformer.wte.": "model.embed_tokens.",
            "transformer.norm_f.": "model.norm.",
            "transformer.blocks.": "model.layers.",
            ".norm_attn_norm.": ".",
            ".Wqkv": ".qkv_proj",
            ".out_proj": ".o_proj",
            ".router.layer": ".gate",
        }
    )
    packed_modules_mapping = {"qkv_proj": ["qkv_proj"]}  # noqa: RUF012 - as vLLM declares it

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        fields = ConfigFields(vllm_config.model_config.hf_config)
        hidden, heads = fields.count("d_model"), fields.count("n_heads")
        sizes = Sizes(
            vocabulary=fields.count("vocab_size"),
            hidden=hidden,
            layers=fields.count("n_layers"),
            heads=heads,
            key_value_heads=fields.count("attn_config.kv_n_heads"),
            head_dim=hidden // heads,
            context_tokens=fields.count("max_seq_len"),
            rope_theta=fields.number("attn_config.rope_theta"),
            experts=fields.count("ffn_config.moe_num_experts"),
            experts_per_token=fields.count("ffn_config.moe_top_k"),
            intermediate=fields.count("ffn_config.ffn_hidden_size"),
        )
        super().__init__(
            vllm_config,
            prefix,
            sizes,
            make_layer=lambda prefix: DbrxBlock(vllm_config, sizes, fields, prefix),
            make_norm=lambda: nn.LayerNorm(sizes.hidden, bias=False),
        )

    def rearranged(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterable[tuple[str, torch.Tensor]]:
        return single_experts(weights, self.num_logical_experts)


def single_experts(weights: Iterable[tuple[str, torch.Tensor]], num_experts: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Each expert's matrices under names of their own. They are views: nothing is copied.

    `….experts.mlp.w1` [experts * ffn, hidden] becomes `….experts.E.w1.weight` [ffn, hidden], and v1 w3 likewise; w2 is
    stored transposed and becomes [hidden, ffn].
    """
    for name, tensor in weights:
        stem, _, matrix = name.rpartition(".experts.mlp.")
        if matrix not in EXPERT_MATRICES:
            yield name, tensor
            continue
        for expert, rows in enumerate(tensor.chunk(num_experts)):
            yield f"{stem}.experts.{expert}.{EXPERT_MATRICES[matrix]}.weight", rows.t() if matrix == "w2" else rows


def normalises_experts(fields: ConfigFields) -> bool:
    """Whether the weights of the chosen experts sum to 1. The config names the p of a p-norm, or none."""
    path = "ffn_config.moe_normalize_expert_weights"
    if fields.value(path) not in (None, 1):
        raise fields.unexpected(path, "1 or null: no released DBRX has another")
    return fields.value(path) is not None


def activation_of(fields: ConfigFields) -> str:
    """The experts' activation under vLLM's name."""
    path = "ffn_config.ffn_act_fn.name"
    if fields.value(path) not in (None, "silu"):
        raise fields.unexpected(path, "silu, which every released DBRX has")
    return "silu"
