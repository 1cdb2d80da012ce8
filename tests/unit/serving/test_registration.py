"""The plugin of vLLM: found in a wheel, harmless when repeated, silent where there is no vLLM. No engine is started."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from vllm import ModelRegistry
from vllm.transformers_utils.config import _CONFIG_REGISTRY

from conclave_models import CLASSES, register
from conclave_models.dbrx_config import DbrxMixtureConfig
from conclave_models.grok1_config import Grok1Config
from conclave_weights.inspection.engine_config import MODEL_TYPES

ROOT = Path(__file__).parents[3]


def registered() -> dict[str, object]:
    """What the plugin writes into: vLLM's table of classes, by architecture, and Transformers' of configurations."""
    models = {name: (known.module_name, known.class_name) for name, known in ModelRegistry.models.items()}
    return models | {name: CONFIG_MAPPING[name] for name in ("dbrx", "grok-1")}


def test_registering_twice_is_registering_once() -> None:
    register()
    once = registered()
    register()
    assert registered() == once
    assert {name: ":".join(once[name]) for name in CLASSES} == CLASSES  # type: ignore[arg-type]
    assert (once["dbrx"], once["grok-1"]) == (DbrxMixtureConfig, Grok1Config)


@pytest.mark.parametrize("model_type", sorted(set().union(*MODEL_TYPES.values())))
def test_the_engine_knows_each_model_type_that_is_called_sound(model_type: str) -> None:
    """vLLM looks among its own configurations first, then among those of Transformers."""
    register()
    assert model_type in _CONFIG_REGISTRY or model_type in CONFIG_MAPPING


def test_the_engine_has_a_class_for_each_architecture_that_is_called_sound() -> None:
    register()
    assert MODEL_TYPES.keys() <= set(ModelRegistry.get_supported_archs())


WITHOUT_VLLM = """
import sys
sys.modules["vllm"] = None
import conclave_models
import conclave_cli.main
print(len(conclave_models.CLASSES))
"""


def test_nothing_is_said_where_vllm_is_not_installed() -> None:
    """Only vLLM calls `register`; what is imported before that needs no vLLM."""
    command = [sys.executable, "-W", "error", "-c", WITHOUT_VLLM]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, f"{len(CLASSES)}\n", "")


def test_the_wheel_names_the_plugin_and_holds_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        groups = ConfigParser()
        groups.optionxform = str  # type: ignore[assignment, method-assign]
        groups.read_string(archive.read(entry_points).decode())
    assert dict(groups["vllm.general_plugins"]) == {"conclave": "conclave_models:register"}
    files = {target.partition(":")[0].replace(".", "/") for target in CLASSES.values()}
    assert {f"{file}.py" for file in files} | {"conclave_models/__init__.py"} <= names
    assert {"conclave_openai/edge.py", "conclave_openai/limits/request_limits.yaml"} <= names
