"""Encoders of images and sound beside a decoder, by the nested objects of config.json; sizes are estimates.

Called by `general.py`. vLLM builds most of them whole on each rank, so that they count so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from conclave.catalogue.architectures import general_names as names
from conclave.catalogue.architectures.defaults import with_defaults
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.shapes import Encoder

TEXT_CONFIGS = ("thinker_config", "text_config", "llm_config", "language_config")
"""Nested objects that describe the decoder, the outer ones first."""
_OTHERS = re.compile(r"quant|rope|talker|code2wav|token2wav|generation|processor|tokenizer|mtp|decod|auto_map|hf_quant")
_SENSES = re.compile(r"vis(?:ion|ual)|vit|image|video|audio|speech|whisper|sound|encoder|perceiver|resampler")
_GATED = frozenset({"silu", "swiglu"})
_UNKNOWN_PARAMETERS = 10**9
"""Of an encoder that config.json does not describe; the encoders of published models have 0.1 to 6 billion."""
_LARGER = 1.1
"""Projectors, position tables and the like beside the layers."""


def encoders(fields: Fields, hidden: int, *, is_multimodal: bool) -> tuple[Encoder, ...]:
    """The encoders that the config describes; of a multimodal class without any, one of a size that is assumed."""
    found = tuple(_encoder(name, nested, hidden) for name, nested in _nested(fields))
    if found or not is_multimodal:
        return found
    return (Encoder(name="no field of it", parameters=_UNKNOWN_PARAMETERS),)


def _nested(fields: Fields) -> Iterator[tuple[str, Fields]]:
    for name, value in fields.values.items():
        if not isinstance(value, Mapping) or _OTHERS.search(name):
            continue
        nested = Fields(with_defaults(value), f"{fields.path}: {name}")
        if name in TEXT_CONFIGS:
            if name == "thinker_config":
                yield from _nested(nested)
        elif _SENSES.search(name):
            yield name, nested


def _encoder(name: str, nested: Fields, decoder_hidden: int) -> Encoder:
    hidden_name, layers_name = nested.spelled(names.ENCODER_HIDDEN), nested.spelled(names.ENCODER_LAYERS)
    if not _is_size(nested, hidden_name) or not _is_size(nested, layers_name):
        return Encoder(name=name, parameters=_UNKNOWN_PARAMETERS)
    hidden, layers = nested.size(hidden_name), nested.size(layers_name)
    width_name = nested.spelled(names.ENCODER_WIDTH)
    ratio = nested.number("mlp_ratio", 4.0)
    width = nested.size(width_name) if _is_size(nested, width_name) else int(hidden * ratio)
    matrices = 3 if nested.text(nested.spelled(names.ACTIVATION)) in _GATED else 2
    merged = nested.size("spatial_merge_size", 1) if _is_size(nested, "spatial_merge_size") else 1
    out = nested.size("out_hidden_size") if _is_size(nested, "out_hidden_size") else decoder_hidden
    mergers = 1 + len(nested.sizes("deepstack_visual_indexes"))
    joined = hidden * merged**2
    parameters = layers * (4 * hidden**2 + matrices * hidden * width) + mergers * (joined**2 + joined * out + out**2)
    heads_name = nested.spelled(names.ENCODER_HEADS)
    return Encoder(
        name=name,
        parameters=int(parameters * _LARGER),
        heads=nested.size(heads_name) if _is_size(nested, heads_name) else None,
        inputs_per_token=max(merged**2, 1),
        elements_per_input=4 * hidden + matrices * width,
    )


def _is_size(fields: Fields, name: str) -> bool:
    value = fields.values.get(name)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
