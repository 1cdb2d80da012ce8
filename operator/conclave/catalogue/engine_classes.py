"""Which model classes the engine of this release has, of what kind, and which config types it reads without code.

The table is data/engine_classes.json, which `python -m tools.engine_classes` makes from the installed vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from conclave.catalogue.datafiles import read_table
from conclave.errors import InvalidInput, UnknownModel

OUR_CLASSES = frozenset({"DbrxForCausalLM", "Grok1ForCausalLM", "Grok1ModelForCausalLM", "PhiMoEForCausalLM"})
"""Those of conclave_models, which vLLM uses in place of its own."""

Kind = Literal["text", "multimodal", "embedding", "reward", "classification", "transcription", "draft"]

_LATER = "; this release serves models that answer, and {} comes with a later version"
_KINDS: Mapping[str, str] = {
    "embedding": f"an embedding model{_LATER.format('an endpoint for embeddings')}",
    "reward": f"a reward model{_LATER.format('an endpoint for scores')}",
    "classification": f"a classification, reranking or reward model{_LATER.format('an endpoint for scores')}",
    "transcription": "a model that writes down speech and answers no chat, which this release does not serve",
    "draft": "a draft model, which speculates for another model and answers nobody by itself",
}
_CONVERTED: Mapping[str, Kind] = {"embed": "embedding", "classify": "classification"}


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    aliases: dict[str, str] = Field(default_factory=dict)
    fields: dict[str, object] = Field(default_factory=dict)
    cycles: dict[str, tuple[str | int | bool, ...]] = Field(default_factory=dict)
    """Lists for each layer that repeat these entries."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    vllm: str
    transformers: str
    kinds: dict[Kind, tuple[str, ...]]
    without_pipeline: frozenset[str]
    without_tensor: frozenset[str]
    without_lora: frozenset[str]
    eagle3: frozenset[str]
    removed: dict[str, str]
    plugins: dict[str, str]
    pooling: dict[str, str]
    latent: frozenset[str]
    typed: dict[str, str]
    configs: dict[str, _Config]


class EngineClass(BaseModel):
    """A class that answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["text", "multimodal"]
    pipeline: bool
    """Whether it supports pipeline parallelism."""
    tensor: bool
    """Whether it supports tensor parallelism."""


@cache
def table() -> _Table:
    """What the engine knows."""
    return _Table.model_validate(read_table("engine_classes.json"))


def vllm_name() -> str:
    """For instance "vLLM 0.32", for messages."""
    return f"vLLM {table().vllm.rpartition('.')[0]}"


def engine_class(config: Mapping[str, object], architecture: str) -> EngineClass:
    """The class that serves this config. Raises UnknownModel with the reason where none does."""
    known = table()
    kind = _kind_of(architecture)
    if kind in ("text", "multimodal"):
        if problem := _needs_code(config, architecture):
            raise UnknownModel(problem)
        return EngineClass(
            name=architecture,
            kind=kind,
            pipeline=architecture not in known.without_pipeline,
            tensor=architecture not in known.without_tensor,
        )
    raise UnknownModel(f"config.json: architectures is {architecture!r:.80}: {_why_not(config, architecture, kind)}")


def model_type_of(config: Mapping[str, object], architecture: str) -> str | None:
    """That of the config; vLLM knows it of some architectures whose configs leave it out."""
    model_type = config.get("model_type")
    if model_type is not None and not isinstance(model_type, str):
        raise InvalidInput(f"config.json: model_type is {model_type!r:.80}; expected a string")
    return model_type or table().typed.get(architecture)


def takes_adapters(architecture: str) -> bool:
    """Whether its class has places for LoRA adapters."""
    return architecture not in table().without_lora - OUR_CLASSES


def takes_eagle3(architecture: str) -> bool:
    """Whether its class hands hidden states to an EAGLE-3 head."""
    return architecture in table().eagle3 - OUR_CLASSES


@cache
def _kinds() -> dict[str, Kind]:
    return {name: kind for kind, names in table().kinds.items() for name in names}


def _kind_of(architecture: str) -> Kind | None:
    """Of a name that vLLM lacks, what it converts the class before the ending to."""
    known = _kinds()
    if kind := known.get(architecture):
        return kind
    for suffix, convert in table().pooling.items():
        base = architecture.removesuffix(suffix)
        if base != architecture and any(f"{base}{ending}" in known for ending in ("ForCausalLM", "Model", "")):
            return "reward" if "Reward" in suffix else _CONVERTED[convert]
    return None


def _why_not(config: Mapping[str, object], architecture: str, kind: Kind | None) -> str:
    known, engine = table(), vllm_name()
    if kind is not None:
        return _KINDS[kind]
    model_type = model_type_of(config, architecture)
    perhaps = (
        f", though it may serve Transformers' own class of {model_type!r}, which this release does not plan"
        if model_type in known.configs
        else ""
    )
    if until := known.removed.get(architecture):
        return f"{engine} has no such class; vLLM had it until {until}{perhaps}"
    if plugin := known.plugins.get(architecture):
        return (
            f"{engine} has no such class of its own; a plugin of others has it ({plugin}), and this release takes none"
        )
    if config.get("auto_map"):
        return (
            f"{engine} has no such class, and the code that auto_map names would have to be trusted, which is never run"
        )
    return f"{engine} has no such class{perhaps}"


def _needs_code(config: Mapping[str, object], architecture: str) -> str | None:
    """Why the config cannot be read without code of the repository; None where it can."""
    known = table()
    model_type = model_type_of(config, architecture)
    if model_type in known.configs or (model_type is None and not config.get("auto_map")):
        return None
    where = "auto_map names" if config.get("auto_map") else "the model's repository has"
    return (
        f"config.json: model_type is {model_type!r:.80}: {vllm_name()} has the class {architecture}, and neither it "
        f"nor Transformers {known.transformers} can read this type of config without the code that {where}; that code "
        "would have to be trusted, and it is never run"
    )
