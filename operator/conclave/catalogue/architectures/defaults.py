"""What a config.json leaves out, as Transformers, and so vLLM, fills it in.

Types that a reader knows are in data/config_defaults.yaml; all others, with the fields that the general reader takes,
in data/engine_classes.json. Called by `conclave.catalogue.facts` before a reader sees the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from conclave.catalogue.architectures.general_names import KINDS_OTHERWISE, LAYER_KINDS, LAYERS, SYNONYMS
from conclave.catalogue.datafiles import read_rows
from conclave.catalogue.engine_classes import table
from conclave.catalogue.measured import MOST_LAYERS


class _ConfigClass(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: str
    aliases: dict[str, str] = Field(default_factory=dict)
    fields: dict[str, object]
    cycles: dict[str, tuple[str | int | bool, ...]] = Field(default_factory=dict)
    """Lists for each layer that repeat these entries."""


def with_defaults(config: Mapping[str, object]) -> Mapping[str, object]:
    """The config with what its `model_type` has for absent fields; unchanged where that type is not in the table."""
    model_type = config.get("model_type")
    known = _classes().get(model_type) if isinstance(model_type, str) else None
    if known is None:
        return config
    given = {known.aliases.get(name, name): value for name, value in config.items()}
    given |= {name: config[name] for name in known.aliases.values() if config.get(name) is not None}
    defaults = dict(known.fields)
    if given.get("rope_scaling") is not None:  # the older name of rope_parameters
        defaults.pop("rope_parameters", None)
    for names in SYNONYMS:
        if any(given.get(name) is not None for name in names):
            defaults = {name: value for name, value in defaults.items() if name not in names or name in given}
    cycles = dict(known.cycles)
    if any(given.get(name) is not None for name in KINDS_OTHERWISE):
        for name in LAYER_KINDS:
            defaults.pop(name, None)
            cycles.pop(name, None)
    merged = _merged(defaults, given)
    return merged | {name: _repeated(cycle, merged) for name, cycle in cycles.items() if given.get(name) is None}


def _repeated(cycle: tuple[object, ...], config: Mapping[str, object]) -> list[object]:
    """The entries of a cycle for as many layers as the config has; none where that is no number of layers."""
    count = next((config[name] for name in LAYERS if config.get(name) is not None), 0)
    if not isinstance(count, int) or not 0 < count <= MOST_LAYERS:
        return []
    return [cycle[index % len(cycle)] for index in range(count)]


def _merged(defaults: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """A given null stays, except for a nested object, which is then all defaults."""
    merged = {**defaults, **given}
    for name, default in defaults.items():
        nested = merged[name]
        if isinstance(default, Mapping) and (nested is None or isinstance(nested, Mapping)):
            merged[name] = _merged(default, nested or {})
    return merged


@cache
def _classes() -> dict[str, _ConfigClass]:
    rows = map(_ConfigClass.model_validate, read_rows("config_defaults.yaml"))
    known = {row.model_type: row for row in rows}
    others = {
        name: _ConfigClass(model_type=name, aliases=row.aliases, fields=row.fields, cycles=row.cycles)
        for name, row in table().configs.items()
    }
    return others | known
