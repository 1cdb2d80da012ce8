"""Tensors of a checkpoint are sorted by what vLLM does with them; what no name tells counts whole on every rank."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conclave.catalogue.measured import Amount, MeasuredWeights, measure
from conclave_weights.files.headers import DTYPE_BITS, TensorHeader

WIDE, TALL = (2048, 2048), (4096, 2048)


def tensors(*named: tuple[str, str, tuple[int, ...]]) -> dict[str, TensorHeader]:
    return {name: TensorHeader(dtype, shape, math.prod(shape) * DTYPE_BITS[dtype] // 8) for name, dtype, shape in named}


LAYERS = [(f"model.layers.{layer}.self_attn.o_proj.weight", "BF16", WIDE) for layer in range(2)]
PLACES = [
    ("a projection of queries is cut", "model.layers.0.self_attn.q_proj.weight", "BF16", WIDE, "matrices"),
    ("keys may be repeated", "model.layers.0.self_attn.k_proj.weight", "BF16", WIDE, "keys_values"),
    ("Falcon's fused matrix", "model.layers.0.self_attention.query_key_value.weight", "BF16", WIDE, "fused"),
    (
        "a down-projection of latent attention",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "BF16",
        WIDE,
        "whole",
    ),
    ("a large router", "model.layers.0.mlp.gate.weight", "BF16", WIDE, "whole"),
    ("a gate projection is no router", "model.layers.0.mlp.gate_proj.weight", "BF16", WIDE, "matrices"),
    ("one of many experts", "model.layers.0.mlp.experts.7.up_proj.weight", "BF16", (64, 64), "experts"),
    ("stacked experts by their shape", "model.layers.0.moe.up_proj.weight", "BF16", (8, 1024, 1024), "experts"),
    ("a shared expert is no expert", "model.layers.0.mlp.shared_experts.up_proj.weight", "BF16", WIDE, "matrices"),
    ("a norm", "model.layers.0.input_layernorm.weight", "BF16", (2048,), "whole"),
    ("a small matrix", "model.layers.0.mixer.conv1d.weight", "BF16", (4096, 1, 4), "whole"),
]


@pytest.mark.parametrize(("name", "dtype", "shape", "part"), [row[1:] for row in PLACES], ids=[r[0] for r in PLACES])
def test_a_tensor_of_a_layer_has_its_part(name: str, dtype: str, shape: tuple[int, ...], part: str) -> None:
    first = measure(tensors(*LAYERS, (name, dtype, shape)), 2).layers[0]
    without = measure(tensors(*LAYERS), 2).layers[0]
    grown = {key for key in type(first).model_fields if getattr(first, key) != getattr(without, key)}
    assert grown == {part}
    assert getattr(first, part).floats - getattr(without, part).floats == math.prod(shape)


ENDS = [
    ("an embedding", "model.embed_tokens.weight", "embedding"),
    ("GPT-2's embedding", "transformer.wte.weight", "embedding"),
    ("a table of positions is whole", "transformer.wpe.weight", "whole"),
    ("a head", "lm_head.weight", "head"),
    ("a vision tower", "visual.blocks.0.attn.qkv.weight", "encoders"),
    ("a projector", "multi_modal_projector.linear_1.weight", "encoders"),
    ("the embedding of an encoder", "vision_tower.embeddings.patch_embedding.weight", "encoders"),
    ("what no name tells", "model.altup_projections.weight", "whole"),
    ("another stack of numbered parts", "model.shared.0.mlp.weight", "whole"),
]


@pytest.mark.parametrize(("name", "part"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
def test_a_tensor_outside_of_the_layers_has_its_part(name: str, part: str) -> None:
    measured = measure(tensors(*LAYERS, (name, "BF16", WIDE)), 2)
    sums = {key: getattr(measured, key) for key in ("embedding", "head", "whole", "encoders")}
    assert {key for key, amount in sums.items() if amount != Amount()} == {part}


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.2.mlp.up_proj.weight",
        "mtp.layers.0.mlp.up_proj.weight",
        "talker.model.layers.0.mlp.up_proj.weight",
    ],
    ids=["a layer beyond the last", "multi-token prediction", "the voice of an omni model"],
)
def test_what_is_not_loaded_does_not_count(name: str) -> None:
    assert measure(tensors(*LAYERS, (name, "BF16", TALL)), 2) == measure(tensors(*LAYERS), 2).model_copy(
        update={"tensors": 3}
    )


def test_the_decoder_is_the_stack_with_as_many_layers_as_the_config_whatever_its_name() -> None:
    """ChatGLM's decoder is called an encoder, and its encoder of images has more layers."""
    decoder = [(f"transformer.encoder.layers.{n}.mlp.dense_h_to_4h.weight", "BF16", WIDE) for n in range(2)]
    vision = [(f"transformer.vision.transformer.layers.{n}.mlp.fc1.weight", "BF16", TALL) for n in range(3)]
    measured = measure(tensors(*decoder, *vision), 2)
    assert [layer.matrices.floats for layer in measured.layers] == [math.prod(WIDE)] * 2
    assert measured.encoders.floats == 3 * math.prod(TALL)


def test_few_float32_tensors_stay_as_they_are_and_a_float32_checkpoint_is_served_in_16_bits() -> None:
    scale = ("model.layers.0.self_attn.o_proj.weight_scale_inv", "F32", (16, 16))
    fp8 = [(name, "F8_E4M3", shape) for name, _, shape in LAYERS]
    assert measure(tensors(*fp8, scale), 2).layers[0].whole == Amount(other_bytes=4 * 256)
    whole = measure(tensors(*((name, "F32", shape) for name, _, shape in LAYERS)), 2)
    assert whole.layers[0].matrices == Amount(floats=math.prod(WIDE))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["model.layers.0.", "model.layers.1.", "model.layers.5.", "visual.", "", "a.9.b.", "x"]),
            st.sampled_from(["experts.1.w", "q_proj.weight", "gate", "embed.weight", "lm_head.weight", "1.2", "é"]),
            st.sampled_from(sorted(DTYPE_BITS)),
            st.lists(st.integers(0, 4096), max_size=3),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_no_byte_is_counted_twice_and_none_is_lost_but_those_of_further_layers(
    rows: list[tuple[str, str, str, list[int]]],
) -> None:
    stored = tensors(*((prefix + name, dtype, tuple(shape)) for prefix, name, dtype, shape in rows))
    measured = measure(stored, 2)
    sizes = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
    parts = [measured.embedding, measured.head, measured.whole, measured.encoders]
    parts += [getattr(layer, name) for layer in measured.layers for name in type(layer).model_fields]
    counted = sum(part.floats + part.other_bytes for part in parts)
    most = sum(max(header.elements, header.size_bytes) for header in stored.values())
    assert counted <= most
    kept = {name: header for name, header in stored.items() if not name.startswith("model.layers.5.")}
    least = sum(header.elements if header.dtype in sizes else header.size_bytes for header in kept.values())
    if not any(name.startswith(("a.9.", "model.layers.5.")) for name in stored):
        assert counted >= least
    assert MeasuredWeights.model_validate_json(measured.model_dump_json()) == measured
