"""The layers of any decoder: what mixes tokens in each of them, and which feed-forward network follows.

Called by `general.py`. Where a config does not tell of a layer, the layer counts as full attention with the wider
network: its cache and its weights are then at least as large as those that vLLM makes.
"""

from __future__ import annotations

from conclave.catalogue.architectures import general_names as names
from conclave.catalogue.architectures.blocks import layer_count
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.recurrences import recurrence
from conclave.catalogue.engine_classes import table
from conclave.catalogue.measured import MOST_LAYERS
from conclave.catalogue.shapes import DenseMlp, ExpertMlp, GroupedAttention, LatentAttention, Layer

_PATTERN = "hybrid_override_pattern"
"""One letter for each layer (Nemotron-H)."""
_SLIDING = frozenset({"sliding_attention", "hybrid_sliding", "local", "chunked_attention"})
_RECURRENT = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "M", "short_conv"})
_DENSE_ONLY = frozenset({"mlp", "-"})
_SPARSE_ONLY = frozenset({"moe", "E"})
_BOTH_TYPES = frozenset({"falcon_h1"})
"""Model types whose layers have attention and a recurrence side by side."""
_SHARED_TYPES = frozenset({"zamba2"})
"""Model types whose layers `hybrid` have a recurrence and attention one after the other."""
_ONE_PART_TYPES = frozenset({"nemotron_h", "nemotron_h_puzzle"})
"""Model types where a layer is either a mixer or a feed-forward network."""
_MAMBA_TYPES = frozenset({"mamba", "mamba2", "falcon_mamba"})
_UNGATED_TYPES = frozenset(
    {"gpt2", "gpt_bigcode", "gptj", "gpt_neox", "bloom", "opt", "falcon", "RefinedWeb", "RefinedWebModel", "starcoder2"}
    | {"phi", "whisper", "codegen", "mpt", "persimmon"}
)
_PARALLEL_TYPES = frozenset({"gemma4", "gemma4_text"})
"""Model types where experts stand beside a dense network in the same layer."""


def layers_of(text: Fields) -> tuple[Layer, ...]:
    """Every decoder layer. Raises InvalidInput naming the field."""
    count = _count(text)
    if is_doubled(text):
        attention, dense = _attention(text, 0, is_sliding=False), _dense(text, 0)
        first = Layer(attention=attention, dense=dense, moe=_experts(text, 0))
        return (first, Layer(attention=attention, dense=dense)) * count
    kinds = _kinds(text, count)
    sparse = _sparse_layers(text, count)
    return tuple(_layer(text, index, kind, is_sparse=sparse[index]) for index, kind in enumerate(kinds))


def is_doubled(text: Fields) -> bool:
    """Whether each layer has two attentions and two dense networks beside its experts (LongCat-Flash)."""
    return text.text("model_type") == "longcat_flash"


def _count(text: Fields) -> int:
    """Some configs list their layers, and do not count them."""
    name = text.spelled(names.LAYERS)
    listed = next((text.values[kinds] for kinds in (*names.LAYER_KINDS, _PATTERN) if text.values.get(kinds)), None)
    if not text.has(name) and isinstance(listed, list | tuple | str) and len(listed) <= MOST_LAYERS:
        return len(listed)
    return layer_count(text, name)


def _layer(text: Fields, index: int, kind: str, *, is_sparse: bool) -> Layer:
    model_type = text.text("model_type")
    is_mixer = kind not in _DENSE_ONLY | _SPARSE_ONLY
    has_both = model_type in _BOTH_TYPES or (kind == "hybrid" and model_type in _SHARED_TYPES)
    is_recurrent = kind in _RECURRENT
    attention = _attention(text, index, is_sliding=kind in _SLIDING) if is_mixer and not is_recurrent else None
    state = recurrence(text) if is_recurrent or has_both else None
    if model_type in _SHARED_TYPES and kind != "hybrid":
        return Layer(attention=attention, recurrence=state, norms=1)
    if model_type in _ONE_PART_TYPES and is_mixer:
        return Layer(attention=attention, recurrence=state, norms=1)
    if is_recurrent and not _has_width(text):  # Mamba alone
        return Layer(attention=None, recurrence=state, norms=1)
    has_experts = is_sparse and kind not in _DENSE_ONLY
    moe = _experts(text, index) if has_experts else None
    dense = None if has_experts and model_type not in _PARALLEL_TYPES else _dense(text, index)
    return Layer(attention=attention, recurrence=state, dense=dense, moe=moe, norms=4)


def _kinds(text: Fields, count: int) -> tuple[str, ...]:
    """A word for each layer; `attention` where nothing says more."""
    for name in names.LAYER_KINDS:
        kinds = text.texts(name)
        if len(kinds) >= count:
            return kinds[:count]
    if pattern := text.text(_PATTERN):
        if len(pattern) != count:
            raise text.refuse(_PATTERN, f"one letter for each of the {count} layers")
        return tuple(pattern)
    if text.sizes("hybrid_layer_pattern"):
        return tuple(
            "sliding_attention" if text.of_layer("hybrid_layer_pattern", i) else "attention" for i in range(count)
        )
    if linear := text.nested("linear_attn_config"):
        full = linear.sizes("full_attn_layers")  # counted from 1
        return tuple("attention" if index + 1 in full else "linear_attention" for index in range(count))
    if full := text.sizes("full_attn_idxs"):
        return tuple("attention" if index in full else "conv" for index in range(count))
    period, offset = _attention_period(text)
    if period:
        return tuple("attention" if index % period == offset else "linear_attention" for index in range(count))
    if text.has("sliding_window_pattern") and isinstance(text.values["sliding_window_pattern"], int):
        period = text.size("sliding_window_pattern")
        return tuple("attention" if index % period == period - 1 else "sliding_attention" for index in range(count))
    if not any(map(text.has, names.HEADS)) and any(map(text.has, ("state_size", "ssm_state_size"))):
        return ("mamba",) * count
    return ("attention",) * count


def _attention_period(text: Fields) -> tuple[int, int]:
    if text.has("attn_layer_period"):
        period = text.size("attn_layer_period")
        return period, text.size("attn_layer_offset", 0, least=0) % period
    for name in ("full_attention_interval", "layer_group_size"):
        if text.has(name):
            period = text.size(name)
            return period, period - 1
    return 0, 0


def _attention(text: Fields, index: int, *, is_sliding: bool) -> GroupedAttention | LatentAttention:
    if text.has("kv_lora_rank") and not is_sliding:
        return _latent(text)
    prefix = "swa_" if is_sliding and text.has("swa_num_attention_heads") else ""
    heads_name = f"{prefix}num_attention_heads" if prefix else text.spelled(names.HEADS)
    heads = text.of_layer(heads_name, index, least=1)
    kv_heads = _key_value_heads(text, index, heads, is_sliding=is_sliding)
    if heads % kv_heads:
        raise text.refuse(text.spelled(names.KEY_VALUE_HEADS), f"a divisor of {heads_name} ({heads})")
    head_dim = _head_dim(text, heads, is_sliding=is_sliding)
    value_name = f"{prefix}v_head_dim" if prefix else "v_head_dim"
    value_dim = text.size(value_name, 0, least=0) or None
    window = text.size("sliding_window", least=0) if is_sliding and text.has("sliding_window") else 0
    return GroupedAttention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_head_dim=value_dim if value_dim != head_dim else None,
        window_tokens=window or None,
        output_gate=_flag(text, "attn_output_gate", text.text("model_type").startswith(("qwen3_next", "qwen3_5"))),
        qkv_bias=True,
        output_bias=True,
    )


def _key_value_heads(text: Fields, index: int, heads: int, *, is_sliding: bool) -> int:
    if is_sliding and text.has("swa_num_key_value_heads"):
        return text.size("swa_num_key_value_heads")
    if not is_sliding and text.has("num_global_key_value_heads"):
        return text.size("num_global_key_value_heads")
    if _flag(text, "multi_query") and not _flag(text, "new_decoder_architecture"):  # Falcon, GPT-BigCode
        return 1
    blocks = text.values.get("block_configs")
    if isinstance(blocks, list) and index < len(blocks):
        attention = Fields(blocks[index], f"{text.path}: block_configs").nested("attention")
        if attention is not None and attention.has("n_heads_in_group"):
            return max(1, heads // attention.size("n_heads_in_group"))
    return text.of_layer(text.spelled(names.KEY_VALUE_HEADS), index, heads, least=1)


def _head_dim(text: Fields, heads: int, *, is_sliding: bool) -> int:
    if is_sliding and text.has("swa_head_dim"):
        return text.size("swa_head_dim")
    if not is_sliding and text.has("global_head_dim"):
        return text.size("global_head_dim")
    name = text.spelled(names.HEAD_DIM)
    if text.has(name) and text.size(name, least=0):
        return text.size(name)
    hidden_name = text.spelled(names.HIDDEN)
    hidden = text.size(hidden_name)
    if hidden < heads:
        raise text.refuse(hidden_name, f"at least one for each of {heads} attention heads")
    return -(-hidden // heads)


def _latent(text: Fields) -> LatentAttention:
    has_index = text.has("index_head_dim") and text.has("index_n_heads")
    return LatentAttention(
        heads=text.size(text.spelled(names.HEADS)),
        query_rank=text.optional_size("q_lora_rank"),
        kv_rank=text.size("kv_lora_rank"),
        nope_head_dim=text.size("qk_nope_head_dim"),
        rope_head_dim=max(1, text.size("qk_rope_head_dim", least=0)),
        value_head_dim=text.size("v_head_dim", text.size("qk_nope_head_dim")),
        caches_heads=text.text("model_type") not in table().latent,
        index_heads=text.size("index_n_heads") if has_index else 0,
        index_head_dim=text.size("index_head_dim") if has_index else 0,
    )


def _adjusted(text: Fields, width: int) -> int:
    """Of a gated network as wide as one without gate (`vllm/model_executor/models/lfm2.py:Lfm2MLP`)."""
    unit = text.size("block_multiple_of", 256)
    return -(-int(text.number("block_ffn_dim_multiplier", 1.0) * (2 * width // 3)) // unit) * unit


def _has_width(text: Fields) -> bool:
    of_experts = (*names.DENSE_WIDTH, *names.EXPERT_WIDTH)
    return text.text("model_type") not in _MAMBA_TYPES and any(map(text.has, of_experts))


def _dense(text: Fields, index: int) -> DenseMlp:
    hidden = text.size(text.spelled(names.HIDDEN))
    has_experts = text.has(text.spelled(names.EXPERTS))
    name = text.spelled(names.DENSE_WIDTH if has_experts else names.WIDTH)
    width = text.of_layer(name, index, 4 * hidden, least=0) or 4 * hidden
    if text.flag("use_double_wide_mlp"):
        width *= 2
    if text.text("model_type") == "lfm2" and text.flag("block_auto_adjust_ff_dim", True):
        width = _adjusted(text, text.size("block_ff_dim", width))
    return DenseMlp(intermediate=width, gated=_is_gated(text))


def _is_gated(text: Fields) -> bool:
    activation = text.text(text.spelled(names.ACTIVATION))
    return activation != "relu2" and text.text("model_type") not in _UNGATED_TYPES


def _experts(text: Fields, index: int) -> ExpertMlp:
    experts_name, top_name = text.spelled(names.EXPERTS), text.spelled(names.EXPERTS_A_TOKEN)
    experts, top_k = text.of_layer(experts_name, index, least=1), text.of_layer(top_name, index, 1, least=1)
    if top_k > experts:
        raise text.refuse(top_name, f"at most {experts_name} ({experts})")
    width = text.of_layer(text.spelled(names.EXPERT_WIDTH), index, least=1)
    count = text.of_layer(text.spelled(names.SHARED_EXPERTS), index, 0)
    shared_name = text.spelled(names.SHARED_WIDTH)
    shared = text.of_layer(shared_name, index, 0) if text.has(shared_name) else width * count
    return ExpertMlp(
        experts=experts,
        top_k=top_k,
        intermediate=width,
        shared_intermediate=shared,
        shared_gate=bool(shared),
        correction_bias=True,
        gated=_is_gated(text),
        latent=text.optional_size(text.spelled(names.EXPERT_INPUTS)),
        four_bits=text.text("expert_dtype") == "fp4",
    )


def _sparse_layers(text: Fields, count: int) -> tuple[bool, ...]:
    """Which layers have experts, where there are any."""
    name = text.spelled(names.EXPERTS)
    experts = text.values.get(name)
    if not experts or experts == 1 or not _flag(text, "enable_moe_block", True):
        return (False,) * count
    kinds = text.texts("mlp_layer_types")
    if len(kinds) >= count:
        return tuple(kind != "dense" for kind in kinds[:count])
    frequency = text.values.get("moe_layer_freq")
    if isinstance(frequency, list | tuple):
        return tuple(bool(text.of_layer("moe_layer_freq", index)) for index in range(count))
    if isinstance(numbers := text.values.get("moe_layers_enum"), str | list | tuple):
        listed = {str(number).strip() for number in (numbers.split(",") if isinstance(numbers, str) else numbers)}
        return tuple(str(index) in listed for index in range(count))
    first = text.size(text.spelled(names.FIRST_SPARSE), 0, least=0) if text.has(text.spelled(names.FIRST_SPARSE)) else 0
    step, offset = _sparse_step(text)
    dense_only = text.sizes("mlp_only_layers")
    return tuple(index >= first and index % step == offset and index not in dense_only for index in range(count))


def _sparse_step(text: Fields) -> tuple[int, int]:
    """Every how many layers there are experts, and where in such a run."""
    if text.has("expert_layer_period"):
        period = text.size("expert_layer_period")
        return period, text.size("expert_layer_offset", 0, least=0) % period
    for name in ("decoder_sparse_step", "interleave_moe_layer_step"):
        if text.has(name):
            step = max(1, text.size(name, least=0))
            return step, step - 1
    for name in ("moe_layer_freq", "moe_layer_interval"):
        if text.has(name):
            return text.size(name), 0
    return 1, 0


def _flag(text: Fields, name: str, default: bool = False) -> bool:
    """A truth value; some configs write numbers."""
    value = text.values.get(name)
    return default if value is None else bool(value)
