"""What Grok-1 and DBRX share: a decoder of grouped-query attention and fused experts, divided like vLLM's mixtral.py.

Attention, experts and head are vLLM's own layers, so tensor, pipeline and expert parallel, quantization, expert maps
and LoRA on the attention come with them. A model gives its sizes, its layer, its norm and its names of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_ep_group, get_pp_group, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.fused_moe import FusedMoEFactory, GateLinear
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.interfaces import MixtureOfExperts, SupportsLoRA, SupportsPP
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    PPMissingLayer,
    WeightsMapper,
    make_empty_intermediate_tensors_factory,
    make_layers,
    maybe_prefix,
)
from vllm.sequence import IntermediateTensors

from conclave_models.held_to_config import held_to_config

EMBEDDING_MODULES = {"embed_tokens": "input_embeddings", "lm_head": "output_embeddings"}


class ConfigFields:
    """Checked values of config.json as Transformers read it. The path `a.b` is field b of field a."""

    def __init__(self, config: PretrainedConfig) -> None:
        self._values: dict[str, Any] = config.to_dict()

    def value(self, path: str) -> Any:
        """None where the field is absent."""
        found: Any = self._values
        for name in path.split("."):
            found = (found or {}).get(name)
        return found

    def count(self, path: str) -> int:
        """Raises ValueError unless the field is a whole number above 0."""
        value = self.value(path)
        if type(value) is not int or value < 1:
            raise self.unexpected(path, "a whole number above 0")
        return value

    def number(self, path: str) -> float:
        """Raises ValueError unless the field is a number above 0."""
        value = self.value(path)
        if type(value) not in (int, float) or value <= 0:
            raise self.unexpected(path, "a number above 0")
        return float(value)

    def unexpected(self, path: str, expected: str) -> ValueError:
        return ValueError(
            f"config.json: {path} is {self.value(path)!r}, expected {expected}; use the config.json that belongs to "
            "these weights"
        )


@dataclass(frozen=True)
class Sizes:
    """A model's shape, under one set of names."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    context_tokens: int
    rope_theta: float
    experts: int
    experts_per_token: int
    intermediate: int

    def __post_init__(self) -> None:
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"config.json: {self.heads} attention heads, expected a multiple of {self.key_value_heads} "
                "key-value heads; use the config.json that belongs to these weights"
            )

    def heads_of_rank(self) -> tuple[int, int]:
        """Query and key-value heads of a tensor-parallel rank. Fewer key-value heads than ranks are replicated."""
        ranks = get_tensor_model_parallel_world_size()
        if self.heads % ranks or (self.key_value_heads % ranks and ranks % self.key_value_heads):
            raise ValueError(
                f"tensor_parallel_size is {ranks}, expected a divisor of {self.heads} attention heads that divides "
                f"or is divided by {self.key_value_heads} key-value heads"
            )
        return self.heads // ranks, max(1, self.key_value_heads // ranks)


class GroupedAttention(nn.Module):
    """Rotary grouped-query attention: [tokens, hidden] -> [tokens, hidden]."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        sizes: Sizes,
        prefix: str,
        *,
        scale: float,
        clip: float | None = None,
        soft_cap: float | None = None,
    ) -> None:
        """Queries, keys and values are clipped to +-clip. Logits become soft_cap * tanh(scale * logits / soft_cap)."""
        super().__init__()
        heads, key_value_heads = sizes.heads_of_rank()
        self.clip = clip
        self.query_size, self.key_value_size = heads * sizes.head_dim, key_value_heads * sizes.head_dim
        self.qkv_proj = QKVParallelLinear(
            sizes.hidden,
            sizes.head_dim,
            sizes.heads,
            sizes.key_value_heads,
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            sizes.heads * sizes.head_dim,
            sizes.hidden,
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.o_proj",
        )
        self.rotary_emb = get_rope(
            sizes.head_dim,
            max_position=sizes.context_tokens,
            rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
            is_neox_style=True,
        )
        self.attn = Attention(
            heads,
            sizes.head_dim,
            scale,
            num_kv_heads=key_value_heads,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            logits_soft_cap=soft_cap,
            prefix=f"{prefix}.attn",
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv: torch.Tensor
        output: torch.Tensor
        qkv, _ = self.qkv_proj(hidden_states)
        if self.clip is not None:
            qkv = qkv.clamp(min=-self.clip, max=self.clip)
        query, key, value = qkv.split([self.query_size, self.key_value_size, self.key_value_size], dim=-1)
        query, key = self.rotary_emb(positions, query, key)
        output, _ = self.o_proj(self.attn(query, key, value))
        return output


class SparseMixture(nn.Module):
    """Router and experts of one layer: [tokens, hidden] -> [tokens, hidden], summed over the ranks."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        sizes: Sizes,
        prefix: str,
        *,
        renormalize: bool,
        activation: str,
        checkpoint_names: tuple[str, str, str],
        router_in_float32: bool = False,
    ) -> None:
        """`checkpoint_names` are the checkpoint's names of gate, down and up projection."""
        super().__init__()
        parallel = vllm_config.parallel_config
        self.num_logical_experts = sizes.experts
        self.num_redundant_experts = parallel.eplb_config.num_redundant_experts
        self.num_physical_experts = sizes.experts + self.num_redundant_experts
        self.num_local_physical_experts = self.num_physical_experts // get_ep_group().device_group.size()
        router_dtype = torch.float32 if router_in_float32 else None
        self.gate = GateLinear(
            sizes.hidden,
            sizes.experts,
            out_dtype=router_dtype,
            force_fp32_compute=router_in_float32,
            prefix=f"{prefix}.gate",
        )
        self.experts = FusedMoEFactory(
            num_experts=sizes.experts,
            top_k=sizes.experts_per_token,
            hidden_size=sizes.hidden,
            intermediate_size=sizes.intermediate,
            renormalize=renormalize,
            activation=activation,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.experts",
            enable_eplb=parallel.enable_eplb,
            num_redundant_experts=self.num_redundant_experts,
            ckpt_names=checkpoint_names,
            router_logits_dtype=router_dtype,
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        router_logits, _ = self.gate(hidden_states)
        output: torch.Tensor = self.experts(hidden_states, router_logits)
        return output


# The names are given, because vLLM reads annotations as types, and here annotations are strings.
@support_torch_compile(dynamic_arg_dims={"input_ids": 0, "positions": 0, "intermediate_tensors": 0, "inputs_embeds": 0})
class Decoder(nn.Module):
    """Embedding, layers and last norm, as far as this pipeline stage holds them."""

    def __init__(
        self,
        *,
        prefix: str = "",
        sizes: Sizes,
        make_layer: Callable[[str], nn.Module],
        make_norm: Callable[[], nn.Module],
        embedding_multiplier: float,
        is_tied: bool,
    ) -> None:
        super().__init__()
        stage = get_pp_group()
        self.embedding_multiplier = embedding_multiplier
        self.embed_tokens = (
            VocabParallelEmbedding(sizes.vocabulary, sizes.hidden, prefix=f"{prefix}.embed_tokens")
            if stage.is_first_rank or (is_tied and stage.is_last_rank)
            else PPMissingLayer()
        )
        self.start_layer, self.end_layer, self.layers = make_layers(
            sizes.layers, lambda prefix: make_layer(prefix), prefix=f"{prefix}.layers"
        )
        self.norm = make_norm() if stage.is_last_rank else PPMissingLayer()
        self.make_empty_intermediate_tensors = make_empty_intermediate_tensors_factory(["hidden_states"], sizes.hidden)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.embed_tokens(input_ids)
        return embedded * self.embedding_multiplier

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:
        stage = get_pp_group()
        if not stage.is_first_rank:
            assert intermediate_tensors is not None
            hidden_states = intermediate_tensors["hidden_states"]
        elif inputs_embeds is not None:
            hidden_states = inputs_embeds
        else:
            assert input_ids is not None
            hidden_states = self.embed_input_ids(input_ids)
        for layer in islice(self.layers, self.start_layer, self.end_layer):
            hidden_states = layer(positions, hidden_states)
        if not stage.is_last_rank:
            return IntermediateTensors({"hidden_states": hidden_states})
        output: torch.Tensor = self.norm(hidden_states)
        return output


class MixtureForCausalLM(nn.Module, SupportsLoRA, SupportsPP, MixtureOfExperts):
    """The decoder with its output head, and vLLM's bookkeeping of the experts on this pipeline stage."""

    hf_to_vllm_mapper: WeightsMapper
    packed_modules_mapping: dict[str, list[str]]
    embedding_modules = EMBEDDING_MODULES

    def __init__(
        self,
        vllm_config: VllmConfig,
        prefix: str,
        sizes: Sizes,
        *,
        make_layer: Callable[[str], nn.Module],
        make_norm: Callable[[], nn.Module],
        embedding_multiplier: float = 1.0,
        logits_multiplier: float = 1.0,
        is_tied: bool = False,
    ) -> None:
        super().__init__()
        self.vllm_config = vllm_config
        self.config = vllm_config.model_config.hf_config
        self.quant_config = vllm_config.quant_config
        self.model = Decoder(
            prefix=maybe_prefix(prefix, "model"),
            sizes=sizes,
            make_layer=make_layer,
            make_norm=make_norm,
            embedding_multiplier=embedding_multiplier,
            is_tied=is_tied,
        )
        self.lm_head: nn.Module = PPMissingLayer()
        embedding = self.model.embed_tokens
        if get_pp_group().is_last_rank:
            head = ParallelLMHead(
                sizes.vocabulary,
                sizes.hidden,
                quant_config=vllm_config.quant_config,
                prefix=maybe_prefix(prefix, "lm_head"),
            )
            if is_tied and isinstance(embedding, VocabParallelEmbedding):
                head = head.tie_weights(embedding)
            self.lm_head = head
        self.logits_processor = LogitsProcessor(sizes.vocabulary, scale=logits_multiplier)
        self.make_empty_intermediate_tensors = self.model.make_empty_intermediate_tensors

        self.mixtures = [module for module in self.modules() if isinstance(module, SparseMixture)]
        self.expert_weights = []
        self.moe_layers = [mixture.experts for mixture in self.mixtures]
        self.num_moe_layers = len(self.moe_layers)
        self.num_expert_groups = 1
        self.num_shared_experts = 0
        example = self.mixtures[0]
        self.num_logical_experts = self.num_routed_experts = example.num_logical_experts
        self.num_physical_experts = example.num_physical_experts
        self.num_local_physical_experts = example.num_local_physical_experts
        self.num_redundant_experts = example.num_redundant_experts

    def update_physical_experts_metadata(self, num_physical_experts: int, num_local_physical_experts: int) -> None:
        """vLLM calls it after it has rebalanced the experts."""
        self.num_physical_experts = num_physical_experts
        self.num_local_physical_experts = num_local_physical_experts
        self.num_redundant_experts = num_physical_experts - self.num_logical_experts
        for mixture in self.mixtures:
            mixture.num_physical_experts = num_physical_experts
            mixture.num_local_physical_experts = num_local_physical_experts
            mixture.num_redundant_experts = self.num_redundant_experts
            mixture.experts.update_expert_map()

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:
        output: torch.Tensor | IntermediateTensors = self.model(
            input_ids, positions, intermediate_tensors, inputs_embeds
        )
        return output

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        logits: torch.Tensor | None = self.logits_processor(self.lm_head, hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Raises WeightsUnfit where the weights contradict config.json."""
        fit = self.rearranged(held_to_config(weights, self.vllm_config))
        return AutoWeightsLoader(self).load_weights(fit, mapper=self.hf_to_vllm_mapper)

    def rearranged(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterable[tuple[str, torch.Tensor]]:
        """The weights as vLLM's layers arrange them."""
        return weights
