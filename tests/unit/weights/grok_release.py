"""Writes a tiny Grok-1 twice: as xAI released it (pickled, int8 with scales), and as the tensors that must come of it.

The pickles are real ones, except that NumPy has no bfloat16: uint16 stands for it until the bytes are written.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conclave_weights.convert.release import grok_1_config

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, WIDTH, VOCAB = 11, 48, 6, 2, 16, 3, 64, 80
CONFIG = grok_1_config() | {
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "num_experts": EXPERTS,
    "vocab_size": VOCAB,
}
GROUPS = {"linear_1": 8, "multi_head_attention/linear": 8}
"""Scales per column of the matrices whose rows lay on eight devices; one for the others."""
Floats = NDArray[np.float32]


_STATE = b"\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNN"
_UINT16 = b"\x8c\x02u2" + _STATE + b"J\xff\xff\xff\xffJ\xff\xff\xff\xff"
_BFLOAT16 = b"\x8c\tml_dtypes\x94\x8c\x08bfloat16\x94\x93" + _STATE + b"K\x02K\x02"


class QuantizedWeight8bit:
    """Pickled under the name that the release has."""

    def __init__(self, weight: NDArray[np.int8], scales: NDArray[np.uint16]) -> None:
        self.weight, self.scales = weight, scales


QuantizedWeight8bit.__module__ = "__main__"
QuantizedWeight8bit.__qualname__ = "QuantizedWeight8bit"


def pickled(content: object) -> bytes:
    """As protocol 4 has it; uint16 arrays become ml_dtypes' bfloat16."""
    import __main__

    before = getattr(__main__, "QuantizedWeight8bit", None)
    __main__.QuantizedWeight8bit = QuantizedWeight8bit  # type: ignore[attr-defined]
    try:
        data = pickle.dumps(content, 4)
    finally:
        if before is None:
            del __main__.QuantizedWeight8bit  # type: ignore[attr-defined]
    # ml_dtypes writes a global name in place of the type's code, and the type's size and alignment. The name takes two
    # more places in the memo, and nothing after it refers to a later one.
    return data.replace(_UINT16, _BFLOAT16)


def bfloat16_bits(values: Floats) -> NDArray[np.uint16]:
    """The nearest bfloat16, found by comparing both neighbours: another way than the one under test."""
    low = (values.view(np.uint32) >> 16).astype(np.uint16)
    high = (low + 1).astype(np.uint16)
    below, above = np.abs(values - as_float(low)), np.abs(values - as_float(high))
    is_high = (above < below) | ((above == below) & (low % 2 == 1))
    return np.where(is_high, high, low)


def as_float(bits: NDArray[np.uint16]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_release(root: Path, *, layers: int = LAYERS, seed: int = 0) -> dict[str, Floats]:
    """Write ckpt-0 below `root`; the answer is every tensor of the Hugging Face layout in exact float32."""
    directory = root / "ckpt-0"
    directory.mkdir(parents=True)
    random = np.random.Generator(np.random.PCG64(seed))
    modules: dict[str, dict[str, object]] = {}
    wanted: dict[str, Floats] = {}

    def floats(module: str, leaf: str, name: str, *shape: int) -> None:
        modules[module] = {leaf: random.standard_normal(shape, dtype=np.float32)}
        values = modules[module][leaf]
        wanted[name] = values.T if leaf == "w" else values  # type: ignore[attr-defined]

    def quantized(module: str, names: list[str], *shape: int) -> None:
        groups = next((count for part, count in GROUPS.items() if module.endswith(part)), 1)
        weight = random.integers(-127, 128, shape, dtype=np.int8)
        bits = bfloat16_bits(random.random((*shape[:-2], groups, shape[-1]), dtype=np.float32) + np.float32(0.001))
        modules[module] = {"w": QuantizedWeight8bit(weight, bits)}
        rows = weight.astype(np.float64) * np.repeat(as_float(bits), shape[-2] // groups, axis=-2)
        matrices = rows.astype(np.float32).reshape(-1, *shape[-2:])
        assert np.array_equal(matrices.reshape(shape), rows), "the product is exact in float32"
        wanted.update({name: matrix.T for name, matrix in zip(names, matrices, strict=True)})

    floats("language_model/in_out_embed", "embeddings", "model.embed_tokens.weight", VOCAB, HIDDEN)
    floats("language_model/rms_norm", "scale", "model.norm.scale", HIDDEN)
    for layer in range(layers):
        module, name = f"transformer/decoder_layer_{layer}", f"model.layers.{layer}"
        for source, target in (("", "pre_attn"), ("_1", "post_attn"), ("_2", "pre_moe"), ("_3", "post_moe")):
            floats(f"{module}/rms_norm{source}", "scale", f"{name}.{target}_norm.scale", HIDDEN)
        floats(f"{module}/router", "w", f"{name}.moe_block.gate.weight", HIDDEN, EXPERTS)
        query, key_value = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
        for source, target, shape in (
            ("query", "q_proj", (HIDDEN, query)),
            ("key", "k_proj", (HIDDEN, key_value)),
            ("value", "v_proj", (HIDDEN, key_value)),
            ("linear", "o_proj", (query, HIDDEN)),
        ):
            quantized(f"{module}/multi_head_attention/{source}", [f"{name}.attn.{target}.weight"], *shape)
        for source, shape in (
            ("linear", (HIDDEN, WIDTH)),
            ("linear_v", (HIDDEN, WIDTH)),
            ("linear_1", (WIDTH, HIDDEN)),
        ):
            names = [f"{name}.moe_block.experts.{expert}.{source}.weight" for expert in range(EXPERTS)]
            quantized(f"{module}/moe/{source}", names, EXPERTS, *shape)
    leaves = [content for _, leaf in sorted(modules.items()) for _, content in sorted(leaf.items())]
    for index, content in enumerate(leaves):
        (directory / f"tensor{index:05d}_000").write_bytes(pickled(content))
    return wanted
