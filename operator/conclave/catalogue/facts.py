"""Facts of a model from its Hugging Face `config.json`, by the reader that knows its architecture.

The one entrance for the catalogue, the plan and the CLI; the readers themselves are in `architectures`. What no reader
knows, and the engine has a class for, is read by its general fields, and by what is known of the stored weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import ValidationError

from conclave.catalogue.architectures import deepseek, dense, grok, llama4, mixture
from conclave.catalogue.architectures.defaults import with_defaults
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.general import read_general
from conclave.catalogue.engine_classes import engine_class
from conclave.catalogue.measured import MeasuredWeights, StoredTotal
from conclave.catalogue.modules import formats_in_use
from conclave.catalogue.shapes import Evidence, ModelFacts
from conclave.errors import InvalidInput

__all__ = ["ModelFacts", "has_reader", "known_architectures", "read_config"]

_READERS: dict[str, Callable[[Fields], ModelFacts]] = {
    **dense.READERS,
    **mixture.READERS,
    **deepseek.READERS,
    **llama4.READERS,
    **grok.READERS,
}
_UNCERTAIN_OF_HEADERS = 0.03
"""What a class pads, repeats or converts beside what the headers tell (docs/weights.md has the measurements)."""
_UNCERTAIN_OF_INDEX = 0.08
_UNCERTAIN_OF_CONFIG = 0.15


def known_architectures() -> tuple[str, ...]:
    """Every name of `architectures` in a config.json whose parameters are all known."""
    return tuple(sorted(_READERS))


def has_reader(architecture: str) -> bool:
    """Whether the plan needs no headers of the weights."""
    return architecture in _READERS


def read_config(config: Mapping[str, object], weights: MeasuredWeights | StoredTotal | None = None) -> ModelFacts:
    """Facts from a parsed `config.json`; an absent field is what Transformers takes it for.

    `weights` is what is known of the stored weights. It is used where no reader knows the architecture.
    Raises UnknownModel for an architecture that the engine cannot serve, InvalidInput naming the field for nonsense,
    and NotServed for a checkpoint that vLLM refuses or the planner cannot size.
    """
    architecture = Fields(config).architecture()
    reader = _READERS.get(architecture)
    try:
        if reader is not None:
            facts = reader(Fields(with_defaults(config)))
        else:
            facts = read_general(config, engine_class(config, architecture))
            facts = facts.model_copy(update={"evidence": _evidence(facts, weights)})
    except ValidationError as error:  # what only the shape as a whole can tell
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"config.json: {name} is {first['input']!r:.80}; expected: {first['msg']}") from error
    formats_in_use(facts, facts.weight_format)  # refuses a matrix of which only some parts are converted
    return facts


def _evidence(facts: ModelFacts, weights: MeasuredWeights | StoredTotal | None) -> Evidence:
    if isinstance(weights, MeasuredWeights):
        if len(weights.layers) != len(facts.layers):
            raise InvalidInput(
                f"the weights were measured as {len(weights.layers)} layers, expected the {len(facts.layers)} of "
                "config.json"
            )
        return Evidence(basis="headers", measured=weights, uncertain_share=_UNCERTAIN_OF_HEADERS)
    if weights is not None:
        return Evidence(basis="index", total_bytes=weights.size_bytes, uncertain_share=_UNCERTAIN_OF_INDEX)
    return Evidence(basis="config", uncertain_share=_UNCERTAIN_OF_CONFIG)
