"""Facts of a model from its Hugging Face `config.json`, by the reader that knows its architecture.

The one entrance for the catalogue, the plan and the CLI; the readers themselves are in `architectures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import ValidationError

from conclave.catalogue.architectures import deepseek, dense, grok, llama4, mixture
from conclave.catalogue.architectures.defaults import with_defaults
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.modules import formats_in_use
from conclave.catalogue.shapes import ModelFacts
from conclave.errors import InvalidInput, UnknownModel

__all__ = ["ModelFacts", "known_architectures", "read_config"]

_READERS: dict[str, Callable[[Fields], ModelFacts]] = {
    **dense.READERS,
    **mixture.READERS,
    **deepseek.READERS,
    **llama4.READERS,
    **grok.READERS,
}


def known_architectures() -> tuple[str, ...]:
    """Every name of `architectures` in a config.json that can be planned."""
    return tuple(sorted(_READERS))


def read_config(config: Mapping[str, object]) -> ModelFacts:
    """Facts from a parsed `config.json`; an absent field is what Transformers takes it for.

    Raises UnknownModel for an architecture that no reader knows, InvalidInput naming the field for nonsense, and
    NotServed for a checkpoint that vLLM refuses or the planner cannot size.
    """
    fields = Fields(config)
    architecture = fields.architecture()
    reader = _READERS.get(architecture)
    if reader is None:
        raise UnknownModel(
            f"config.json: architectures is {architecture!r}, expected one of {', '.join(known_architectures())}"
        )
    try:
        facts = reader(Fields(with_defaults(config)))
    except ValidationError as error:  # what only the shape as a whole can tell
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"config.json: {name} is {first['input']!r:.80}; expected: {first['msg']}") from error
    formats_in_use(facts, facts.weight_format)  # refuses a matrix of which only some parts are converted
    return facts
