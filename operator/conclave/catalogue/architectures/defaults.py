"""What a config.json leaves out, as Transformers, and so vLLM, fills it in: from data/config_defaults.yaml.

Called by `conclave.catalogue.facts` before a reader sees the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from conclave.catalogue.datafiles import read_rows


class _ConfigClass(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: str
    aliases: dict[str, str] = Field(default_factory=dict)
    fields: dict[str, object]


def with_defaults(config: Mapping[str, object]) -> Mapping[str, object]:
    """The config with what its `model_type` has for absent fields; unchanged where that type is not in the table."""
    model_type = config.get("model_type")
    known = _classes().get(model_type) if isinstance(model_type, str) else None
    if known is None:
        return config
    given = {known.aliases.get(name, name): value for name, value in config.items()}
    defaults = dict(known.fields)
    if given.get("rope_scaling") is not None:  # the older name of rope_parameters
        defaults.pop("rope_parameters", None)
    return _merged(defaults, given)


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
    return {row.model_type: row for row in rows}
