"""The released checkpoint of Grok-1: which file holds which tensor, and what the conversion makes of it.

The source is github.com/xai-org/grok-1 at 7050ed2. `checkpoint.py` reads one pickle, `tensorNNNNN_000`, for each leaf
of the parameters. JAX flattens their mapping in the order of its sorted keys: decoder_layer_10 comes before
decoder_layer_2. Names and shapes are those of the Haiku modules of `model.py`: matrices are [in, out], experts first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conclave.catalogue.facts import read_config
from conclave.catalogue.models import find_model
from conclave_weights.convert.arrays import QuantizedArray, StoredArray, find_arrays
from conclave_weights.errors import WeightsUnfit
from conclave_weights.inspection.layouts import Shape, expected_tensors

_BEFORE_LAYERS = (
    ("language_model/in_out_embed/embeddings", "model.embed_tokens.weight"),
    ("language_model/rms_norm/scale", "model.norm.scale"),
)
_LAYER = (
    ("moe/linear/w", "moe_block.experts.{expert}.linear.weight"),
    ("moe/linear_1/w", "moe_block.experts.{expert}.linear_1.weight"),
    ("moe/linear_v/w", "moe_block.experts.{expert}.linear_v.weight"),
    ("multi_head_attention/key/w", "attn.k_proj.weight"),
    ("multi_head_attention/linear/w", "attn.o_proj.weight"),
    ("multi_head_attention/query/w", "attn.q_proj.weight"),
    ("multi_head_attention/value/w", "attn.v_proj.weight"),
    ("rms_norm/scale", "pre_attn_norm.scale"),
    ("rms_norm_1/scale", "post_attn_norm.scale"),
    ("rms_norm_2/scale", "pre_moe_norm.scale"),
    ("rms_norm_3/scale", "post_moe_norm.scale"),
    ("router/w", "moe_block.gate.weight"),
)
"""The modules in JAX's order, which is sorted, and their tensors of the Hugging Face layout below `model.layers.N.`."""
_REMEDY = "give the release of Grok-1 as it was published"
KEPT_IN_FLOAT32 = (".scale", ".gate.weight")
"""The release computes norms and router in float32."""


@dataclass(frozen=True)
class Conversion:
    """A tensor of the target, and its source: a whole file, or one of the experts in a file."""

    name: str
    shape: Shape
    source: StoredArray | QuantizedArray
    expert: int | None
    transposed: bool


def grok_1_config() -> dict[str, object]:
    """The config.json of the released model (xai-org/grok-1, run.py)."""
    entry = find_model("hpcai-tech/grok-1")
    if entry is None:
        raise LookupError("hpcai-tech/grok-1 is not in the catalogue")
    return {**entry.config, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "pad_token_id": 0, "eos_token_id": 2}


def release_directory(source: Path) -> Path:
    """The directory of the tensor files: SOURCE, or ckpt-0 in it."""
    for directory in (source, source / "ckpt-0"):
        if any(directory.glob("tensor?????_???")):
            return directory
    raise WeightsUnfit(
        f"{source}: no tensor00000_000, and no ckpt-0 with it; give the released checkpoint of Grok-1 (xai-org/grok-1)"
    )


def read_release(source: Path, config: Mapping[str, object]) -> tuple[Conversion, ...]:
    """Every tensor that `config` implies, in the order of the target: embedding, layers, last norm.

    Opens every file and reads no contents. Raises WeightsUnfit where a file is missing, too many, not a plain
    array, or of another shape.
    """
    directory = release_directory(source)
    facts = read_config(config)
    expected = expected_tensors("Grok1ModelForCausalLM", config, facts)
    if expected is None or facts.moe is None:
        raise WeightsUnfit(f"config.json: {facts.architecture} is not Grok-1; give Grok-1's config.json")
    modules = _modules(len(facts.layers))
    _check_files(directory, len(modules))
    conversions: dict[str, Conversion] = {}
    for index, (module, template) in enumerate(modules):
        stored = find_arrays(directory / _file_name(index))
        experts = range(facts.moe.experts) if "{expert}" in template else None
        shape = expected.required[template.format(expert=0)]
        transposed = module.endswith("/w")
        wanted = shape[::-1] if transposed else shape
        _check_shape(stored, module, wanted if experts is None else (len(experts), *wanted), transposed)
        for expert in experts or [None]:
            name = template.format(expert=expert)
            conversions[name] = Conversion(name, shape, stored, expert, transposed)
    return tuple(conversions[name] for name in sorted(conversions, key=_target_order))


def _modules(layers: int) -> list[tuple[str, str]]:
    by_layer = [
        (f"transformer/decoder_layer_{layer}/{module}", f"model.layers.{layer}.{name}")
        for layer in sorted(range(layers), key=str)
        for module, name in _LAYER
    ]
    return [*_BEFORE_LAYERS, *by_layer]


def _file_name(index: int) -> str:
    return f"tensor{index:05d}_000"


def _check_files(directory: Path, count: int) -> None:
    wanted = {_file_name(index) for index in range(count)}
    seen = {path.name for path in directory.glob("tensor*")}
    if missing := sorted(wanted - seen):
        raise WeightsUnfit(
            f"weights {directory}: {len(missing)} of {count} files are missing: {', '.join(missing[:5])}; download them"
        )
    if extra := sorted(seen - wanted):
        raise WeightsUnfit(
            f"weights {directory}: {', '.join(extra[:5])}: not part of the release, which has {count} files; remove "
            "them"
        )


def _check_shape(stored: StoredArray | QuantizedArray, module: str, wanted: Shape, may_be_quantized: bool) -> None:
    weight = stored.weight if isinstance(stored, QuantizedArray) else stored
    is_of_kind = may_be_quantized if isinstance(stored, QuantizedArray) else stored.dtype != "int8"
    if weight.shape != wanted or not is_of_kind:
        raise WeightsUnfit(
            f"weights file {weight.path}: {module} is {list(weight.shape)} of {weight.dtype}, expected {list(wanted)} "
            f"of float32, bfloat16{' or quantised int8' if may_be_quantized else ''}; {_REMEDY}"
        )
    if isinstance(stored, QuantizedArray):
        *lead, rows, columns = wanted
        scales = stored.scales.shape
        groups = scales[-2] if len(scales) == len(wanted) else 0
        if not groups or rows % groups or scales != (*lead, groups, columns):
            raise WeightsUnfit(
                f"weights file {weight.path}: scales of {module} are {list(scales)}, expected "
                f"{[*lead, f'a divisor of {rows}', columns]}; {_REMEDY}"
            )


def _target_order(name: str) -> tuple[int, int, str]:
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    if layer:
        return 1, int(layer[1]), name
    return (2 if name == "model.norm.scale" else 0), 0, name
