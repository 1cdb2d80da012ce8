"""Grok-1 in plain PyTorch and float32, written from the definition that xAI released: what vLLM's answers are held to.

No KV cache, no fused kernels, every expert on every token. Each feature can be changed (`Definition`): a comparison
that such a mutant passes proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import gelu, linear

Norm = Literal["pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm"]


@dataclass(frozen=True)
class Definition:
    """Grok-1 as released; a field changed is another model. None is what config.json says."""

    has_softcap: bool = True
    has_embedding_multiplier: bool = True
    has_output_multiplier: bool = True
    skipped_norm: Norm | None = None
    has_experts_swapped: bool = False
    """`linear` and `linear_v` in each other's place."""
    top_k: int | None = None
    has_renormalised_router: bool = False
    """Neutral but for a norm's eps: the gates are scaled by one factor, and a norm follows at once."""
    gelu: Literal["tanh", "none"] = "tanh"
    """The approximation, in PyTorch's word; `none` is the erf form."""
    rope_theta: float | None = None
    rotary: Literal["neox", "interleaved"] = "neox"
    has_random_head: bool = False
    attention_scale: float | None = None


@dataclass(frozen=True)
class Token:
    """One greedily chosen token and its natural log-probability."""

    id: int
    logprob: float


class Grok1:
    """A checkpoint in the Hugging Face layout of hpcai-tech/grok-1."""

    def __init__(self, checkpoint: Path, definition: Definition = Definition()) -> None:
        self._definition = definition
        self._config = json.loads((checkpoint / "config.json").read_text())
        self._weights: dict[str, Tensor] = {}
        for shard in sorted(checkpoint.glob("*.safetensors")):
            self._weights |= {name: tensor.float() for name, tensor in load_file(shard).items()}
        self._heads = self._config["num_attention_heads"]
        self._head_dim = self._config.get("head_dim") or self._config["hidden_size"] // self._heads

    def generate(self, prompt: Sequence[int], tokens: int) -> list[Token]:
        """The `tokens` likeliest continuations of `prompt`, one after the other."""
        chosen: list[Token] = []
        for _ in range(tokens):
            last = self.logprobs([*prompt, *(token.id for token in chosen)])[-1]
            best = int(last.argmax())
            chosen.append(Token(best, float(last[best])))
        return chosen

    @torch.inference_mode()
    def logprobs(self, tokens: Sequence[int]) -> Tensor:
        """[len(tokens), vocabulary]: log-probabilities of what follows each token."""
        definition, config = self._definition, self._config
        hidden = self._weights["model.embed_tokens.weight"][torch.tensor(tokens)]
        if definition.has_embedding_multiplier:
            hidden = hidden * config["embedding_multiplier_scale"]
        for index in range(config["num_hidden_layers"]):
            layer = f"model.layers.{index}"
            attention = self._attention(f"{layer}.attn", self._norm(f"{layer}.pre_attn_norm", hidden))
            hidden = hidden + self._norm(f"{layer}.post_attn_norm", attention)
            experts = self._experts(f"{layer}.moe_block", self._norm(f"{layer}.pre_moe_norm", hidden))
            hidden = hidden + self._norm(f"{layer}.post_moe_norm", experts)
        logits = linear(self._norm("model.norm", hidden), self._head())
        if definition.has_output_multiplier:
            logits = logits * config["output_multiplier_scale"]
        return logits.log_softmax(-1)

    def _norm(self, name: str, hidden: Tensor) -> Tensor:
        if self._definition.skipped_norm and name.endswith(self._definition.skipped_norm):
            return hidden
        mean_square = hidden.square().mean(-1, keepdim=True)
        eps = self._config.get("rms_norm_eps", 1e-5)
        return hidden * torch.rsqrt(mean_square + eps) * self._weights[f"{name}.scale"]

    def _attention(self, name: str, hidden: Tensor) -> Tensor:
        """Causal attention with grouped key-value heads, [tokens, hidden] to the same."""
        length, definition = len(hidden), self._definition
        query, key, value = (
            linear(hidden, self._weights[f"{name}.{part}_proj.weight"]).view(length, -1, self._head_dim).transpose(0, 1)
            for part in "qkv"
        )
        query, key = self._rotate(query), self._rotate(key)
        key, value = (part.repeat_interleave(self._heads // len(part), dim=0) for part in (key, value))
        scale = definition.attention_scale or self._config["attn_output_multiplier"]
        scores = query @ key.transpose(1, 2) * scale
        if definition.has_softcap:
            cap = self._config["max_attn_value"]
            scores = cap * torch.tanh(scores / cap)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ value
        return linear(mixed.transpose(0, 1).reshape(length, -1), self._weights[f"{name}.o_proj.weight"])

    def _rotate(self, heads: Tensor) -> Tensor:
        """Rotary positions of [heads, tokens, head_dim]: pairs are a half apart (neox) or neighbours (interleaved)."""
        theta = self._definition.rope_theta or self._config.get("rope_theta", 10000.0)
        frequencies = theta ** -(torch.arange(0, self._head_dim, 2, dtype=torch.float32) / self._head_dim)
        angles = torch.outer(torch.arange(heads.shape[1], dtype=torch.float32), frequencies)
        is_neox = self._definition.rotary == "neox"
        first, second = heads.chunk(2, dim=-1) if is_neox else (heads[..., 0::2], heads[..., 1::2])
        turned = (
            first * angles.cos() - second * angles.sin(),
            second * angles.cos() + first * angles.sin(),
        )
        return torch.cat(turned, dim=-1) if is_neox else torch.stack(turned, dim=-1).flatten(-2)

    def _experts(self, name: str, hidden: Tensor) -> Tensor:
        """The gated sum of the experts that the router chooses for each token."""
        definition = self._definition
        probabilities = linear(hidden, self._weights[f"{name}.gate.weight"]).softmax(-1)
        top = probabilities.topk(definition.top_k or self._config["num_experts_per_tok"], dim=-1)
        chosen = top.values / top.values.sum(-1, keepdim=True) if definition.has_renormalised_router else top.values
        gates = torch.zeros_like(probabilities).scatter(-1, top.indices, chosen)
        gate, up = ("linear_v", "linear") if definition.has_experts_swapped else ("linear", "linear_v")
        total = torch.zeros_like(hidden)
        for index in range(probabilities.shape[-1]):
            expert = f"{name}.experts.{index}"
            inner = gelu(linear(hidden, self._weights[f"{expert}.{gate}.weight"]), approximate=definition.gelu)
            inner = inner * linear(hidden, self._weights[f"{expert}.{up}.weight"])
            total += gates[:, index, None] * linear(inner, self._weights[f"{expert}.linear_1.weight"])
        return total

    def _head(self) -> Tensor:
        embeddings = self._weights["model.embed_tokens.weight"]
        if self._definition.has_random_head:
            random = torch.Generator().manual_seed(314159)
            return torch.randn(embeddings.shape, generator=random) * embeddings.std()
        is_tied = self._config.get("tie_word_embeddings", True)
        return embeddings if is_tied else self._weights["lm_head.weight"]
