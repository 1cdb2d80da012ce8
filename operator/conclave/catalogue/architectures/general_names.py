"""The names that config.json files have for the same thing; the usual one is the first.

`tools/engine_classes.py` keeps the defaults of these fields, and of no others.
"""

from __future__ import annotations

from conclave.catalogue.architectures.blocks import CONTEXT_FIELDS

HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model", "model_dim", "dim")
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads")
KEY_VALUE_HEADS = (
    "num_key_value_heads",
    "n_head_kv",
    "num_kv_heads",
    "multi_query_group_num",
    "num_attention_groups",
    "n_kv_heads",
)
HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels", "hidden_size_per_head")
VOCABULARY = ("padded_vocab_size", "vocab_size")
WIDTH = (
    "intermediate_size",
    "ffn_hidden_size",
    "n_inner",
    "ffn_dim",
    "decoder_ffn_dim",
    "intermediate_size_mlp",
)
DENSE_WIDTH = ("dense_intermediate_size", "prefix_dense_intermediate_size", "intermediate_size_mlp", *WIDTH)
EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
EXPERTS_A_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_top_k",
    "moe_k",
)
EXPERT_WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size", *WIDTH)
EXPERT_INPUTS = ("moe_latent_size", "routed_expert_hidden_size")
SHARED_EXPERTS = (
    "n_shared_experts",
    "num_shared_experts",
    "num_shared_expert",
    "moe_num_shared_experts",
)
SHARED_WIDTH = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
    "share_expert_dim",
)
FIRST_SPARSE = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
ACTIVATION = ("hidden_act", "mlp_hidden_act", "activation_function", "activation", "hidden_activation")
LAYER_KINDS = ("layer_types", "layers_block_type")
KINDS_OTHERWISE = (
    "hybrid_override_pattern",
    "hybrid_layer_pattern",
    "linear_attn_config",
    "full_attn_idxs",
    "attn_layer_period",
    "full_attention_interval",
    "layer_group_size",
    "sliding_window_pattern",
)
"""Other ways to say what the layers are; a config that uses one of them means it, and not the default of a list."""
STATES = (
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_conv_kernel_dim",
    "linear_num_heads",
    "linear_head_dim",
    "linear_attn_config",
    "mamba_num_heads",
    "mamba_n_heads",
    "n_mamba_heads",
    "num_heads",
    "mamba_head_dim",
    "mamba_d_head",
    "mamba_headdim",
    "mamba_d_ssm",
    "ssm_state_size",
    "mamba_d_state",
    "state_size",
    "n_groups",
    "mamba_n_groups",
    "mamba_ngroups",
    "conv_kernel",
    "mamba_d_conv",
    "conv_kernel_size",
    "mamba_expand",
    "expand",
    "mamba_dt_rank",
    "time_step_rank",
    "conv_L_cache",
    "conv_dim",
    "layer_group_size",
    "short_conv_kernel_size",
)
SLICED = ("o_groups",)
PER_LAYER_EMBEDDING = ("vocab_size_per_layer_input", "hidden_size_per_layer_input")
_OTHERS = (
    "attn_layer_offset",
    "attn_layer_period",
    "attn_output_gate",
    "decoder_sparse_step",
    "enable_moe_block",
    "expert_dtype",
    "expert_layer_offset",
    "expert_layer_period",
    "full_attention_interval",
    "full_attn_idxs",
    "global_head_dim",
    "hybrid_layer_pattern",
    "hybrid_override_pattern",
    "index_head_dim",
    "index_n_heads",
    "interleave_moe_layer_step",
    "kv_lora_rank",
    "mlp_layer_types",
    "mlp_only_layers",
    "moe_layer_freq",
    "moe_layer_interval",
    "moe_layers_enum",
    "multi_query",
    "new_decoder_architecture",
    "num_global_key_value_heads",
    "partial_rotary_factor",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "sliding_window",
    "swa_head_dim",
    "swa_num_attention_heads",
    "swa_num_key_value_heads",
    "swa_v_head_dim",
    "tie_word_embeddings",
    "use_sliding_window",
    "v_head_dim",
)
ENCODER_HIDDEN = ("embed_dim", *HIDDEN, "width", "vt_hidden_size", "encoder_dim", "vision_dim")
ENCODER_LAYERS = ("depth", *LAYERS, "layers", "encoder_layers", "vt_num_hidden_layers")
ENCODER_WIDTH = (*WIDTH, "encoder_ffn_dim", "vt_intermediate_size", "mlp_dim")
ENCODER_HEADS = (*HEADS, "num_heads", "heads", "encoder_attention_heads", "vt_num_attention_heads")
_OF_ENCODERS = (
    "mlp_ratio",
    "patch_size",
    "image_size",
    "spatial_merge_size",
    "merge_kernel_size",
    "temporal_patch_size",
    "out_hidden_size",
    "deepstack_visual_indexes",
)
SYNONYMS = (
    HIDDEN,
    LAYERS,
    HEADS,
    KEY_VALUE_HEADS,
    HEAD_DIM,
    VOCABULARY,
    WIDTH,
    EXPERTS,
    EXPERTS_A_TOKEN,
    SHARED_EXPERTS,
    SHARED_WIDTH,
    FIRST_SPARSE,
    tuple(name for name in CONTEXT_FIELDS if name != "model_max_length"),  # which stands above all others
)
"""Names of one thing: where a config gives one of them, the defaults of the others say nothing."""
GENERAL_FIELDS = frozenset(
    (
        *HIDDEN,
        *LAYERS,
        *HEADS,
        *KEY_VALUE_HEADS,
        *HEAD_DIM,
        *VOCABULARY,
        *DENSE_WIDTH,
        *EXPERTS,
        *EXPERTS_A_TOKEN,
        *EXPERT_WIDTH,
        *EXPERT_INPUTS,
        *SHARED_EXPERTS,
        *SHARED_WIDTH,
        *FIRST_SPARSE,
        *CONTEXT_FIELDS,
        *ACTIVATION,
        *LAYER_KINDS,
        *STATES,
        *SLICED,
        *PER_LAYER_EMBEDDING,
        *_OTHERS,
        *ENCODER_HIDDEN,
        *ENCODER_LAYERS,
        *ENCODER_WIDTH,
        *ENCODER_HEADS,
        *_OF_ENCODERS,
    )
)
"""Every field whose default the table of classes keeps."""
