"""Grok-1's configuration. Transformers does not know `grok-1`, and the code of the weights' repository is never run."""

from __future__ import annotations

from transformers import PretrainedConfig


class Grok1Config(PretrainedConfig):
    """Fields of hpcai-tech/grok-1's config.json; the defaults are the released model (xai-org/grok-1, run.py)."""

    model_type = "grok-1"

    vocab_size: int = 131072
    hidden_size: int = 6144
    intermediate_size: int = 32768
    num_hidden_layers: int = 64
    num_attention_heads: int = 48
    num_key_value_heads: int = 8
    head_dim: int | None = None
    """None: hidden_size / num_attention_heads."""
    num_experts: int = 8
    num_experts_per_tok: int = 2
    max_position_embeddings: int = 8192
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    attn_output_multiplier: float = 0.08838834764831845
    max_attn_value: float = 30.0
    embedding_multiplier_scale: float = 78.38367176906169
    output_multiplier_scale: float = 0.5773502691896257
    tie_word_embeddings: bool = True
