"""Writes a tiny random checkpoint of a real architecture: config, BPE tokenizer, chat template, bfloat16 safetensors.

The same architecture, sizes and seed give the same bytes. Used by the demo, the tests and the benchmark:
`python tools/tiny_checkpoint.py mixtral PATH --seed 0`. A new architecture is a new entry of ARCHITECTURES.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import TensorSpec, serialize_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY_TOKENS = 512
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2
FIRST_WORD_ID = len(SPECIAL_TOKENS) + 256
"""Ids below are special tokens and single bytes."""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}{{ '<|system|>Tools: ' + (tools | tojson) + '<|end|>' }}{% endif %}
{%- for message in messages %}
{{- '<|' + message['role'] + '|>' + (message['content'] or '') }}
{%- for call in message['tool_calls'] or [] %}{{ call['function'] | tojson }}{% endfor %}
{{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<|quiet|>' }}{% endif %}
{%- endif %}"""

CORPUS = """
A scheduler places the shards of a large model on many machines, and every machine answers for its own part.
The router looks at each token and chooses two experts out of eight; the others rest until another token calls them.
Between the layers the ranks exchange their partial sums, so the slowest link of the network sets the pace of all.
When a node fails, the remaining nodes keep serving, the plan is made again, and nobody who asked has to ask twice.
Memory is spent on weights first, then on the cache of keys and values, and what is left decides how many may talk.
Good morning! What is the weather like in the mountains today? It is cold and clear, and the paths are dry.
Once upon a time a small engine learned to count: one, two, three, four, five, six, seven, eight, nine, ten.
Please write a short answer about rivers, forests, cities, bridges, trains, letters, music, winter and summer.
"""

ATTENTION = {
    "model.layers.{layer}.input_layernorm.weight": "hidden",
    "model.layers.{layer}.post_attention_layernorm.weight": "hidden",
    "model.layers.{layer}.self_attn.o_proj.weight": "hidden query",
}
SPLIT_ATTENTION = ATTENTION | {
    "model.layers.{layer}.self_attn.q_proj.weight": "query hidden",
    "model.layers.{layer}.self_attn.k_proj.weight": "key_value hidden",
    "model.layers.{layer}.self_attn.v_proj.weight": "key_value hidden",
}
FUSED_ATTENTION = ATTENTION | {"model.layers.{layer}.self_attn.qkv_proj.weight": "query_key_value hidden"}
DENSE = {
    "model.layers.{layer}.mlp.gate_proj.weight": "intermediate hidden",
    "model.layers.{layer}.mlp.up_proj.weight": "intermediate hidden",
    "model.layers.{layer}.mlp.down_proj.weight": "hidden intermediate",
}
FUSED_DENSE = {
    "model.layers.{layer}.mlp.gate_up_proj.weight": "gate_up hidden",
    "model.layers.{layer}.mlp.down_proj.weight": "hidden intermediate",
}
MIXTRAL_EXPERTS = {
    "model.layers.{layer}.block_sparse_moe.gate.weight": "experts hidden",
    "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight": "intermediate hidden",
    "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight": "hidden intermediate",
    "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight": "intermediate hidden",
}
BIASES = {
    f"model.layers.{{layer}}.{name}.bias": symbol
    for name, symbol in {
        "input_layernorm": "hidden",
        "post_attention_layernorm": "hidden",
        "self_attn.q_proj": "query",
        "self_attn.k_proj": "key_value",
        "self_attn.v_proj": "key_value",
        "self_attn.o_proj": "hidden",
    }.items()
}
DBRX_TENSORS = {
    "transformer.wte.weight": "vocabulary hidden",
    "transformer.blocks.{layer}.norm_attn_norm.norm_1.weight": "hidden",
    "transformer.blocks.{layer}.norm_attn_norm.attn.Wqkv.weight": "query_key_value hidden",
    "transformer.blocks.{layer}.norm_attn_norm.attn.out_proj.weight": "hidden query",
    "transformer.blocks.{layer}.norm_attn_norm.norm_2.weight": "hidden",
    "transformer.blocks.{layer}.ffn.router.layer.weight": "experts hidden",
    "transformer.blocks.{layer}.ffn.experts.mlp.w1": "experts_intermediate hidden",
    "transformer.blocks.{layer}.ffn.experts.mlp.v1": "experts_intermediate hidden",
    "transformer.blocks.{layer}.ffn.experts.mlp.w2": "experts_intermediate hidden",
    "transformer.norm_f.weight": "hidden",
    "lm_head.weight": "vocabulary hidden",
}
GROK_1_TENSORS = {
    "model.embed_tokens.weight": "vocabulary hidden",
    "model.layers.{layer}.attn.q_proj.weight": "query hidden",
    "model.layers.{layer}.attn.k_proj.weight": "key_value hidden",
    "model.layers.{layer}.attn.v_proj.weight": "key_value hidden",
    "model.layers.{layer}.attn.o_proj.weight": "hidden query",
    "model.layers.{layer}.moe_block.gate.weight": "experts hidden",
    "model.layers.{layer}.moe_block.experts.{expert}.linear.weight": "intermediate hidden",
    "model.layers.{layer}.moe_block.experts.{expert}.linear_v.weight": "intermediate hidden",
    "model.layers.{layer}.moe_block.experts.{expert}.linear_1.weight": "hidden intermediate",
    "model.layers.{layer}.pre_attn_norm.scale": "hidden",
    "model.layers.{layer}.post_attn_norm.scale": "hidden",
    "model.layers.{layer}.pre_moe_norm.scale": "hidden",
    "model.layers.{layer}.post_moe_norm.scale": "hidden",
    "model.norm.scale": "hidden",
}
TIED_ENDS = {"model.embed_tokens.weight": "vocabulary hidden", "model.norm.weight": "hidden"}
ENDS = TIED_ENDS | {"lm_head.weight": "vocabulary hidden"}


@dataclass(frozen=True)
class Sizes:
    """Sizes that a caller may choose; the others follow."""

    layers: int = 2
    hidden: int = 128
    head_dim: int = 32
    key_value_heads: int = 2
    intermediate: int = 256
    experts: int = 8

    @property
    def heads(self) -> int:
        return self.hidden // self.head_dim

    def dimensions(self) -> dict[str, int]:
        """Extent of each symbol in the tables above."""
        query, key_value = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        return {
            "hidden": self.hidden,
            "query": query,
            "key_value": key_value,
            "query_key_value": query + 2 * key_value,
            "intermediate": self.intermediate,
            "gate_up": 2 * self.intermediate,
            "experts": self.experts,
            "experts_intermediate": self.experts * self.intermediate,
            "vocabulary": VOCABULARY_TOKENS,
        }


@dataclass(frozen=True)
class Architecture:
    """What differs from one architecture to the next."""

    config: Mapping[str, object]
    tensors: Mapping[str, str]
    """Name of each tensor and the symbols of its shape."""
    sizes: Sizes = Sizes()
    norm_offset: float = 1.0
    """Centre of norm weights: 0 where the model adds 1 itself."""
    embedding_scale: float = 0.25
    """Standard deviation of embeddings and head; small where tied, or every token would only repeat itself."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """Factor of the tensors whose names end so, which makes a feature of the architecture bite."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What config.json calls a field here, `a.b` for field b of a; an empty name leaves it out."""
    shards: int = 1


ARCHITECTURES = {
    "mixtral": Architecture(
        {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "hidden_act": "silu",
            "num_experts_per_tok": 2,
            "sliding_window": None,
            "rope_theta": 1000000.0,
        },
        SPLIT_ATTENTION | MIXTRAL_EXPERTS | ENDS,
    ),
    "llama-3": Architecture(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rope_theta": 500000.0,
        },
        SPLIT_ATTENTION | DENSE | ENDS,
    ),
    "gemma": Architecture(
        {
            "architectures": ["GemmaForCausalLM"],
            "model_type": "gemma",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rope_theta": 10000.0,
        },
        SPLIT_ATTENTION | DENSE | TIED_ENDS,
        sizes=Sizes(key_value_heads=1),
        norm_offset=0.0,
        embedding_scale=0.05,
    ),
    "phi-3": Architecture(
        {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "hidden_act": "silu",
            "original_max_position_embeddings": 4096,
            "sliding_window": None,
            "rope_theta": 10000.0,
        },
        FUSED_ATTENTION | FUSED_DENSE | ENDS,
        sizes=Sizes(key_value_heads=4),
    ),
    "phi-3.5-moe": Architecture(
        {
            "architectures": ["PhiMoEForCausalLM"],
            "model_type": "phimoe",
            "hidden_act": "silu",
            "num_experts_per_tok": 2,
            "attention_bias": True,
            "lm_head_bias": True,
            "router_jitter_noise": 0.01,
            "input_jitter_noise": 0.01,
            "original_max_position_embeddings": 2048,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0 + 0.05 * pair for pair in range(16)],
                "long_factor": [1.0 + 0.5 * pair for pair in range(16)],
                "short_mscale": 1.243163121016122,
                "long_mscale": 1.243163121016122,
                "original_max_position_embeddings": 2048,
            },
            "sliding_window": None,
            "rope_theta": 10000.0,
        },
        SPLIT_ATTENTION | BIASES | MIXTRAL_EXPERTS | ENDS | {"model.norm.bias": "hidden", "lm_head.bias": "vocabulary"},
        sizes=Sizes(hidden=192, intermediate=176, experts=16),
        gains={"gate.weight": 3.0},
        shards=3,
    ),
    "dbrx": Architecture(
        {
            "architectures": ["DbrxForCausalLM"],
            "model_type": "dbrx",
            "num_experts_per_tok": 4,
            "attn_config.clip_qkv": 1.5,
            "attn_config.rope_theta": 500000,
            "ffn_config.moe_jitter_eps": 0.01,
            "ffn_config.moe_loss_weight": 0.05,
        },
        DBRX_TENSORS,
        sizes=Sizes(layers=3, hidden=192, intermediate=208, experts=16),
        gains={"router.layer.weight": 3.0},
        names={
            "hidden_size": "d_model",
            "intermediate_size": "ffn_config.ffn_hidden_size",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "num_key_value_heads": "attn_config.kv_n_heads",
            "head_dim": "",
            "max_position_embeddings": "max_seq_len",
            "rms_norm_eps": "",
            "num_local_experts": "ffn_config.moe_num_experts",
            "num_experts_per_tok": "ffn_config.moe_top_k",
        },
        shards=3,
    ),
    "grok-1": Architecture(
        {
            "architectures": ["Grok1ModelForCausalLM"],
            "model_type": "grok-1",
            # As hpcai-tech/grok-1 has it; the code that it names is not here, and is never asked for.
            "auto_map": {
                "AutoConfig": "configuration_grok1.Grok1Config",
                "AutoModel": "modeling_grok1.Grok1Model",
                "AutoModelForCausalLM": "modeling_grok1.Grok1ModelForCausalLM",
            },
            "num_experts_per_tok": 2,
            "tie_word_embeddings": True,
            "rope_theta": 10000.0,
            "attn_output_multiplier": 0.08838834764831845,
            "max_attn_value": 30.0,
            "embedding_multiplier_scale": 78.38367176906169,
            "output_multiplier_scale": 0.5773502691896257,
        },
        GROK_1_TENSORS,
        sizes=Sizes(layers=3, hidden=192, intermediate=144),
        embedding_scale=0.05,
        gains={
            "q_proj.weight": 6.0,
            "k_proj.weight": 6.0,
            "gate.weight": 3.0,
            "post_attn_norm.scale": 24.0,
            "post_moe_norm.scale": 24.0,
            "model.norm.scale": 5.0,
        },
        names={"num_local_experts": "num_experts"},
        shards=3,
    ),
}


def make_checkpoint(architecture: str, path: Path, seed: int = 0, shards: int | None = None, **sizes: int) -> Path:
    """Write the checkpoint into the directory `path` (made where missing) and return it; `sizes` as in Sizes."""
    kind = ARCHITECTURES[architecture]
    chosen = replace(kind.sizes, **sizes)
    if chosen.hidden % 32 or chosen.hidden % chosen.head_dim or chosen.heads % chosen.key_value_heads:
        raise ValueError(f"sizes {chosen}: hidden must divide by 32 and head_dim, heads by key_value_heads")
    path.mkdir(parents=True, exist_ok=True)
    _write_json(path / "config.json", _config(kind, chosen))
    _write_json(
        path / "generation_config.json", {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    )
    _write_json(path / "tokenizer_config.json", _tokenizer_config())
    (path / "tokenizer.json").write_text(_tokenizer().to_str(pretty=True) + "\n")
    _write_shards(dict(_tensors(kind, chosen, seed)), path, shards or kind.shards)
    return path


def _write_shards(tensors: Mapping[str, np.ndarray], path: Path, shards: int) -> None:
    if shards == 1:
        files = {"model.safetensors": list(tensors)}
    else:
        bounds = [len(tensors) * shard // shards for shard in range(shards + 1)]
        files = {
            f"model-{shard + 1:05}-of-{shards:05}.safetensors": list(tensors)[bounds[shard] : bounds[shard + 1]]
            for shard in range(shards)
        }
        index = {
            "metadata": {"total_size": sum(bits.nbytes for bits in tensors.values())},
            "weight_map": {name: file for file, names in files.items() for name in names},
        }
        _write_json(path / "model.safetensors.index.json", index)
    for file, names in files.items():
        specifications = {
            name: TensorSpec(
                dtype="bfloat16",
                shape=tensors[name].shape,
                data_ptr=tensors[name].ctypes.data,
                data_len=tensors[name].nbytes,
            )
            for name in names
        }
        serialize_file(specifications, str(path / file), {"format": "pt"})


def _config(kind: Architecture, sizes: Sizes) -> dict[str, object]:
    experts: dict[str, object] = {"num_local_experts": sizes.experts} if "num_experts_per_tok" in kind.config else {}
    content = {
        "vocab_size": VOCABULARY_TOKENS,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_value_heads,
        "head_dim": sizes.head_dim,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        "torch_dtype": "bfloat16",
        **experts,
        **kind.config,
    }
    config: dict[str, Any] = {}
    for common_name, value in content.items():
        *parents, name = kind.names.get(common_name, common_name).split(".")
        holder = config
        for parent in parents:
            holder = holder.setdefault(parent, {})
        if name:
            holder[name] = value
    return config


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainer)
    if tokenizer.get_vocab_size() != VOCABULARY_TOKENS:
        raise ValueError(f"the corpus gives {tokenizer.get_vocab_size()} tokens, wanted {VOCABULARY_TOKENS}")
    return tokenizer


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[BOS_ID],
        "eos_token": SPECIAL_TOKENS[EOS_ID],
        "pad_token": SPECIAL_TOKENS[PAD_ID],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    }


def _tensors(kind: Architecture, sizes: Sizes, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    random = np.random.Generator(np.random.PCG64(seed))
    extents = sizes.dimensions()
    for template, symbols in kind.tensors.items():
        shape = tuple(extents[symbol] for symbol in symbols.split())
        layers = range(sizes.layers) if "{layer}" in template else range(1)
        experts = range(sizes.experts) if "{expert}" in template else range(1)
        for layer, expert in product(layers, experts):
            name = template.format(layer=layer, expert=expert)
            gain = next((gain for ending, gain in kind.gains.items() if name.endswith(ending)), 1.0)
            yield name, _bfloat16(np.float32(gain) * _values(random, name, symbols, shape, kind))


def _values(
    random: np.random.Generator, name: str, symbols: str, shape: tuple[int, ...], kind: Architecture
) -> np.ndarray:
    values = random.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1 and not name.endswith(".bias"):
        return kind.norm_offset + 0.1 * values
    if symbols.startswith("vocabulary"):
        # Single bytes and special tokens are never the most likely: what a random model says stays readable UTF-8,
        # and it goes on to the end of its budget.
        values[:FIRST_WORD_ID] *= 0.1
        return kind.embedding_scale * values
    if len(shape) == 1:
        return np.float32(0.2) * values
    return values / np.float32(np.sqrt(shape[1]))


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("architecture", choices=sorted(ARCHITECTURES))
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=None)
    for size in fields(Sizes):
        parser.add_argument("--" + size.name.replace("_", "-"), type=int, default=None)
    arguments = vars(parser.parse_args())
    sizes = {size.name: arguments[size.name] for size in fields(Sizes) if arguments[size.name] is not None}
    shards: int | None = arguments["shards"]
    print(make_checkpoint(arguments["architecture"], arguments["path"], arguments["seed"], shards, **sizes))


if __name__ == "__main__":
    main()
