"""Public config.json files are planned with the right weights, context and KV cache, or refused for the true reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from conclave.catalogue.facts import read_config
from conclave.catalogue.modules import formats_in_use
from conclave.catalogue.quantization_file import QUANTIZATION_FILE
from conclave.errors import InvalidInput
from conclave.planning.layout import Layout
from conclave.planning.settings import EngineSettings, kv_cache_type
from conclave.planning.weights import weight_bytes
from conclave_cli.manifest_files import read_model_config

PUBLIC = Path(__file__).parents[2] / "data" / "public_configs"
CASES: list[dict[str, Any]] = yaml.safe_load((PUBLIC / "cases.yaml").read_text("utf-8"))
PLANNED = [case for case in CASES if "refused" not in case]
REFUSED = [case for case in CASES if "refused" in case]
GIB = 2**30


def config_of(case: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The config as `--config` reads it, with the file that lies beside it."""
    name: str = case["config"]
    shutil.copy(PUBLIC / f"{name}.json", directory / "config.json")
    beside = PUBLIC / f"{name}.{QUANTIZATION_FILE}"
    if beside.exists():
        shutil.copy(beside, directory / QUANTIZATION_FILE)
    config = read_model_config(str(directory / "config.json"))
    assert config is not None
    return config


@pytest.mark.parametrize("case", PLANNED, ids=[case["config"] for case in PLANNED])
def test_a_public_config_is_planned(case: dict[str, Any], tmp_path: Path) -> None:
    facts = read_config(config_of(case, tmp_path))
    weights = sum(weight_bytes(facts, Layout(), facts.dtype, facts.weight_format))
    assert weights / GIB == pytest.approx(case["weights_gib"], rel=0.002)
    assert facts.context_tokens == case["context"]
    formats = sorted({matrices.method for matrices in formats_in_use(facts, facts.weight_format)})
    assert formats == case.get("formats", [])
    assert kv_cache_type(facts, EngineSettings()) == case.get("kv_cache", "auto")


@pytest.mark.parametrize("case", REFUSED, ids=[case["config"] for case in REFUSED])
def test_a_public_config_is_refused_for_the_true_reason(case: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refusal:
        read_config(config_of(case, tmp_path))
    assert case["refused"] in str(refusal.value)


def test_every_file_has_a_row() -> None:
    files = {path.name.removesuffix(".json") for path in PUBLIC.glob("*.json") if QUANTIZATION_FILE not in path.name}
    assert files == {case["config"] for case in CASES}
    assert all(json.loads(path.read_text("utf-8")) for path in PUBLIC.glob("*.json"))
