"""Which classes of vLLM work with an EAGLE-3 head: the plan's lists are what the installed vLLM's source says.

Read as text, since importing vLLM's models takes minutes. A class inherits what its bases have.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from conclave.catalogue.engine_classes import takes_eagle3
from conclave.catalogue.facts import known_architectures
from conclave.planning.speculation import EAGLE3_OVER_STAGES

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
OURS = {"DbrxForCausalLM": "dbrx", "Grok1ForCausalLM": "grok1", "PhiMoEForCausalLM": "phimoe"}
"""Modules of conclave_models, whose classes vLLM uses in place of its own."""
SPELLINGS = {"LLaMAForCausalLM", "PhimoeForCausalLM", "Grok1ModelForCausalLM", "Phi3SmallForCausalLM"}
"""Further names of a config.json for the same classes, and one that is refused."""


@cache
def models() -> Path:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model_executor" / "models"


@cache
def classes_of(path: Path) -> dict[str, ast.ClassDef]:
    found = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name: node for node in found if isinstance(node, ast.ClassDef)}


@cache
def all_classes() -> dict[str, tuple[Path, ast.ClassDef]]:
    """Those of heads have the names of the models'."""
    paths = [path for path in sorted(models().glob("*.py")) if not re.search("eagle|mtp", path.stem)]
    return {name: (path, node) for path in paths for name, node in classes_of(path).items()}


@cache
def registry() -> dict[str, str]:
    """The class of each architecture."""
    text = (models() / "registry.py").read_text(encoding="utf-8")
    return dict(re.findall(r'"(\w+)":\s*\(\s*"[\w.]+",\s*"(\w+)"', text))


def lineage(name: str) -> Iterator[ast.ClassDef]:
    """A class and all that it inherits from."""
    if name in all_classes():
        node = all_classes()[name][1]
        yield node
        for base in node.bases:
            yield from lineage(ast.unparse(base).split("[")[0].split(".")[-1])


def bases(name: str) -> set[str]:
    return {ast.unparse(base).split("[")[0] for node in lineage(name) for base in node.bases}


def decoders(name: str) -> set[str]:
    """Names of the classes that hold the layers, in the module of a class or else of what it inherits from."""
    path, node = all_classes()[name]
    here = {other for other in classes_of(path) if other.endswith("Model")}
    return here or {found for base in node.bases for found in decoders(ast.unparse(base))}


def hands_states_on(name: str) -> bool:
    return any(
        isinstance(line, ast.Assign) and ast.unparse(line) == "supports_aux_hidden_states_over_pp = True"
        for decoder in decoders(name)
        for node in lineage(decoder)
        for line in node.body
    )


def architectures() -> list[str]:
    return [name for name in known_architectures() if name not in SPELLINGS]


@pytest.mark.parametrize("architecture", architectures())
def test_a_class_with_eagle3_is_listed(architecture: str) -> None:
    if architecture in OURS:
        ours = Path(__file__).parents[3] / "serving" / "conclave_models" / f"{OURS[architecture]}.py"
        assert "SupportsEagle3" not in ours.read_text(encoding="utf-8")
        assert not takes_eagle3(architecture)
    else:
        assert ("SupportsEagle3" in bases(registry()[architecture])) == takes_eagle3(architecture)


@pytest.mark.parametrize("architecture", sorted(filter(takes_eagle3, architectures())))
def test_a_class_that_hands_hidden_states_on_over_stages_is_listed(architecture: str) -> None:
    language = {"Llama4ForConditionalGeneration": "Llama4ForCausalLM"}.get(architecture, architecture)
    assert hands_states_on(registry()[language]) == (architecture in EAGLE3_OVER_STAGES)
