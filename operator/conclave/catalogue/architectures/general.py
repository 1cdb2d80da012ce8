"""Reader of any architecture that vLLM has a class for, by the fields that config.json files have in common.

It follows `vllm/transformers_utils/model_arch_config_convertor.py`, which reads the same names. What it cannot tell, it
counts as the larger: a bound. `facts.py` says in the evidence what the weights rest on.
"""

from __future__ import annotations

from collections.abc import Mapping

from conclave.catalogue.architectures.blocks import context_tokens, rotary
from conclave.catalogue.architectures.defaults import with_defaults
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.general_encoders import TEXT_CONFIGS, encoders
from conclave.catalogue.architectures.general_layers import is_doubled, layers_of
from conclave.catalogue.architectures.general_names import HIDDEN, PER_LAYER_EMBEDDING, SLICED, VOCABULARY
from conclave.catalogue.architectures.weight_format import read_weight_format
from conclave.catalogue.engine_classes import EngineClass, model_type_of
from conclave.catalogue.shapes import GroupedAttention, LatentAttention, ModelFacts


def read_general(config: Mapping[str, object], engine_class: EngineClass) -> ModelFacts:
    """Facts of a config, without evidence of its weights. Raises InvalidInput naming the field."""
    model_type = model_type_of(config, engine_class.name)
    fields = Fields(with_defaults({**config, "model_type": model_type} if model_type else config))
    text = _text_config(fields)
    layers = layers_of(text)
    hidden = text.size(text.spelled(HIDDEN))
    facts = ModelFacts(
        architecture=fields.architecture(),
        model_type=text.text("model_type") or fields.text("model_type"),
        hidden=hidden,
        vocab=text.size(text.spelled(VOCABULARY)),
        layers=layers,
        context_tokens=context_tokens(text),
        dtype=(fields if fields.has("dtype") or fields.has("torch_dtype") else text).dtype(),
        # The decoder's own default counts, and the outer one's not: vLLM builds the decoder from its own config.
        tied_embeddings=text.flag("tie_word_embeddings") or Fields(config).flag("tie_word_embeddings"),
        ends_on_every_stage=True,
        weight_format=read_weight_format(fields) or read_weight_format(text),
        encoders=encoders(fields, hidden, is_multimodal=engine_class.kind == "multimodal"),
        further_parameters=_per_layer_embedding(text, len(layers)),
        pipeline=engine_class.pipeline and not is_doubled(text),
        tensor=engine_class.tensor,
        sliced=tuple(text.size(name) for name in SLICED if text.has(name)),
        tensor_within_experts=True,
    )
    return facts.model_copy(update={"rotary": rotary(text, _rotated_dim(facts))})


def _rotated_dim(facts: ModelFacts) -> int:
    attention = facts.attention
    if isinstance(attention, LatentAttention):
        return attention.rope_head_dim
    return attention.head_dim if isinstance(attention, GroupedAttention) else 1


def _per_layer_embedding(text: Fields, layers: int) -> int:
    rows, width = PER_LAYER_EMBEDDING
    if not text.values.get(rows) or not text.values.get(width):
        return 0
    return text.size(rows) * text.size(width) * layers


def _text_config(fields: Fields) -> Fields:
    """The nested config of the decoder, which may be nested twice (Qwen's omni models); else the whole.

    Older configs hold the decoder's fields themselves; a nested config is then a default that only names its type.
    """
    found = [nested for name in TEXT_CONFIGS if (nested := fields.nested(name)) is not None]
    if not found:
        return fields
    nested = min(found, key=_only_names_its_type)  # the first that the file has; a default before none
    is_flat = _only_names_its_type(nested) and fields.has(fields.spelled(HIDDEN))
    values = {**fields.values, **nested.values} if is_flat else nested.values
    text = Fields(with_defaults(values), fields.path if is_flat else nested.path)
    return text if is_flat else _text_config(text)


def _only_names_its_type(nested: Fields) -> bool:
    """As a default does."""
    return nested.values.keys() <= {"model_type"}
