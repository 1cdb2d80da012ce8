"""The catalogue's table of what the installed vLLM and Transformers know: `python -m tools.engine_classes`.

It imports vLLM, so `make verify` does not run it; tests/serving/test_engine_classes.py compares the table with what is
installed. Classes come from vLLM's registry; defaults of config.json from the config classes themselves.
"""

from __future__ import annotations

import ast
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conclave.catalogue.architectures.general_names import EXPERTS, HEADS, HIDDEN, LAYERS

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "operator/conclave/catalogue/data/engine_classes.json"

KINDS = {
    "_SPECULATIVE_DECODING_MODELS": "draft",
    "_EMBEDDING_MODELS": "embedding",
    "_LATE_INTERACTION_MODELS": "embedding",
    "_REWARD_MODELS": "reward",
    "_TOKEN_CLASSIFICATION_MODELS": "classification",
    "_SEQUENCE_CLASSIFICATION_MODELS": "classification",
    "_TRANSFORMERS_SUPPORTED_MODELS": "text",
    "_TEXT_GENERATION_MODELS": "text",
    "_MULTIMODAL_MODELS": "multimodal",
}
"""vLLM's own sections; a name that is in several counts as the last, because a model that can answer is served so."""
_MULTIMODAL_BACKEND = "TransformersMultiModalForCausalLM"
_LONGEST_LIST = 512


def table() -> dict[str, Any]:
    """The whole table, in an order that does not depend on the machine."""
    import transformers
    import vllm
    from huggingface_hub import constants
    from vllm.transformers_utils.config import _ARCHITECTURE_TO_MODEL_TYPE

    constants.HF_HUB_OFFLINE = True  # some config classes ask a hub for more
    kinds, removed, plugins = classes()
    answering = kinds["text"] | kinds["multimodal"]
    return {
        "vllm": vllm.__version__,
        "transformers": transformers.__version__,
        "kinds": {kind: sorted(names) for kind, names in sorted(kinds.items())},
        "without_pipeline": sorted({*_without(answering, "SupportsPP"), *_without_plan("pp")}),
        "without_tensor": sorted(_without_plan("tp")),
        "without_lora": sorted(_without(answering, "SupportsLoRA")),
        "eagle3": sorted(answering - {*_without(answering, "SupportsEagle3")}),
        "removed": dict(sorted(removed.items())),
        "plugins": dict(sorted(plugins.items())),
        "pooling": pooling_suffixes(),
        "latent": sorted(_latent_types()),
        "typed": dict(sorted(_ARCHITECTURE_TO_MODEL_TYPE.items())),
        "configs": dict(sorted(_configs())),
    }


def classes() -> tuple[dict[str, set[str]], dict[str, str], dict[str, str]]:
    """The names of each kind; those that vLLM dropped, with the last version; those that a plugin of others serves."""
    from vllm.model_executor.models import registry

    kind_of: dict[str, str] = {}
    for section, kind in KINDS.items():
        for name, (_, class_name) in getattr(registry, section).items():
            kind_of[name] = "multimodal" if class_name == _MULTIMODAL_BACKEND else kind
    for name in [name for name, kind in kind_of.items() if kind == "multimodal"]:
        if _transcribes_only(*registry._VLLM_MODELS[name]):
            kind_of[name] = "transcription"
    kinds: dict[str, set[str]] = {}
    for name, kind in kind_of.items():
        kinds.setdefault(kind, set()).add(name)
    return kinds, dict(registry._PREVIOUSLY_SUPPORTED_MODELS), dict(registry._OOT_SUPPORTED_MODELS)


def _transcribes_only(module: str, class_name: str) -> bool:
    """Whether the class says that it answers no chat, as Whisper's does."""
    found = _source(_path(module))
    nodes = ast.walk(found[1]) if found else ()
    return any(
        isinstance(line, ast.Assign) and ast.unparse(line) == "supports_transcription_only = True"
        for node in nodes
        if isinstance(node, ast.ClassDef) and node.name == class_name
        for line in node.body
    )


def _path(module: str) -> str:
    return module if module.startswith("vllm.") else f"vllm.model_executor.models.{module}"


def pooling_suffixes() -> dict[str, str]:
    """Endings of names for which vLLM converts a class that it has into one that pools, and what it converts to."""
    from vllm.config.model import iter_architecture_defaults

    return {suffix: convert for suffix, (runner, convert) in iter_architecture_defaults() if runner == "pooling"}


def _latent_types() -> Iterator[str]:
    """Types of config for which vLLM keeps the one compressed entry of latent attention, and not all heads."""
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

    for model_type in _config_classes():
        config: Any = SimpleNamespace(model_type=model_type, kv_lora_rank=1, model=SimpleNamespace(model_type=""))
        if ModelArchConfigConvertorBase(config, config).is_deepseek_mla():
            yield model_type


def _without(names: set[str], interface: str) -> Iterator[str]:
    """Classes that lack an interface of vLLM's, by their sources: some modules import what only a GPU machine has."""
    from vllm.model_executor.models.registry import _VLLM_MODELS

    for name in names:
        module, class_name = _VLLM_MODELS[name]
        if not _has_base(_path(module), class_name, interface):
            yield name


def _without_plan(way: str) -> Iterator[str]:
    """Classes of Transformers that vLLM runs, and that do not say how they are cut over ranks (tp) or stages (pp)."""
    import transformers
    from vllm.model_executor.models.registry import _TRANSFORMERS_SUPPORTED_MODELS

    for name in _TRANSFORMERS_SUPPORTED_MODELS:
        config_class = getattr(getattr(transformers, name, None), "config_class", None)
        if not getattr(config_class, f"base_model_{way}_plan", None):
            yield name


@cache
def _has_base(module: str, class_name: str, wanted: str) -> bool:
    """Whether a class of that module has the wanted one among its bases, or theirs."""
    found = _source(module)
    if class_name == wanted or found is None:
        return class_name == wanted
    path, tree = found
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
            return any(_has_base(module, base, wanted) for base in bases)
        if isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                source = f"{above}.{source}".removesuffix(".")
            original = next((alias.name for alias in node.names if (alias.asname or alias.name) == class_name), None)
            if original is not None and _has_base(source, original, wanted):
                return True
    return False


@cache
def _source(module: str) -> tuple[Path, ast.Module] | None:
    """The file of a module of vLLM, parsed; None of other packages."""
    import vllm

    parts = module.split(".")
    if parts[0] != "vllm":
        return None
    base = Path(vllm.__file__).parent.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path, ast.parse(path.read_text(encoding="utf-8"))
    return None


def _config_classes() -> dict[str, Any]:
    """Config classes by `model_type`; vLLM's own come before those of Transformers, and nobody else's are there."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    found: dict[str, Any] = {}
    for mapping in (CONFIG_MAPPING, _CONFIG_REGISTRY):
        for model_type in mapping:
            try:
                found[model_type] = mapping[model_type]
            except Exception as error:  # noqa: BLE001 - an optional dependency of one model
                print(f"{model_type}: {error}", file=sys.stderr)
    return {name: known for name, known in found.items() if known.__module__.split(".")[0] in ("transformers", "vllm")}


def _configs() -> Iterator[tuple[str, dict[str, Any]]]:
    """By `model_type`: the defaults of fields that the catalogue reads, other names of fields, nested configs."""
    from conclave.catalogue.architectures.general_names import GENERAL_FIELDS

    for model_type, config_class in _config_classes().items():
        yield model_type, _described(config_class, GENERAL_FIELDS)


def _described(config_class: Any, general: frozenset[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    aliases = {
        other: name for other, name in getattr(config_class, "attribute_map", {}).items() if {other, name} & general
    }
    if aliases:
        row["aliases"] = dict(sorted(aliases.items()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = config_class()
    except Exception as error:  # noqa: BLE001 - a class that cannot be made without values has no defaults
        print(f"{config_class.__name__}: no defaults: {error}", file=sys.stderr)
        return row
    values = {name: value for name, value in vars(config).items() if name in general and _is_plain(value)}
    for name in _derived(config_class, values):
        del values[name]
    layers = next((values[name] for name in LAYERS if name in values), 0)
    lists = {name: list(value) for name, value in values.items() if isinstance(value, list | tuple)}
    cycles = {name: cycle for name, value in lists.items() if len(value) == layers and (cycle := _cycle(value))}
    nested = {
        name: {"model_type": value.model_type}
        for name, value in vars(config).items()
        if not name.startswith("_") and getattr(value, "model_type", None)
    }
    fields = {name: value for name, value in values.items() if name not in lists or len(lists[name]) != layers}
    if fields | nested:
        row["fields"] = dict(sorted((fields | nested).items()))
    if cycles:
        row["cycles"] = dict(sorted(cycles.items()))
    return row


def _derived(config_class: Any, values: Mapping[str, Any]) -> set[str]:
    """Fields whose default follows another field, as the width of a head follows that of the model."""
    found = set()
    for names in (HIDDEN, HEADS, EXPERTS):
        base = next((name for name in names if isinstance(values.get(name), int)), None)
        if base is None:
            continue
        try:
            doubled = vars(config_class(**{base: 2 * values[base]}))
        except Exception:  # noqa: BLE001 - the doubled value does not fit the others
            continue
        found |= {name for name, value in values.items() if name != base and doubled.get(name) != value}
    return found


def _cycle(value: list[Any]) -> list[Any] | None:
    """The shortest run that repeats over all layers, at least twice."""
    for period in range(1, len(value) // 2 + 1):
        if all(item == value[index % period] for index, item in enumerate(value)):
            return value[:period]
    return None


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= _LONGEST_LIST and all(isinstance(item, bool | int | float | str) for item in value)
    return isinstance(value, bool | int | float | str)


def text(content: Mapping[str, Any]) -> str:
    """One line for each entry, so that a new version of vLLM is read as a difference."""
    lines = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows = ",\n".join(
                f"  {json.dumps(name)}: {json.dumps(row, ensure_ascii=False)}" for name, row in value.items()
            )
            lines.append(f"{json.dumps(key)}: {{\n{rows}\n }}")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{" + ",\n ".join(lines) + "}\n"


if __name__ == "__main__":
    TABLE.write_text(text(table()), encoding="utf-8")
