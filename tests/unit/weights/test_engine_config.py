"""What config.json must say for the engine: the tables are those of the installed engine, and a fault is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.tiny_checkpoint import make_checkpoint

from conclave.api.modeldeployment import ModelDeployment
from conclave.catalogue.facts import known_architectures
from conclave.catalogue.models import all_models
from conclave_cli.local.checks import check_model
from conclave_weights.convert.release import grok_1_config
from conclave_weights.errors import WeightsUnfit
from conclave_weights.inspection.directory import inspect_weights
from conclave_weights.inspection.engine_config import MODEL_TYPES, config_faults

TINY = yaml.safe_load((Path(__file__).parents[2] / "serving" / "tiny_configs.yaml").read_text())
NOT_SERVED = {"Grok1ForCausalLM", "Phi3SmallForCausalLM"}


def test_every_architecture_that_can_be_planned_and_served_has_its_model_types() -> None:
    assert MODEL_TYPES.keys() == set(known_architectures()) - NOT_SERVED


CONFIGS = {entry.id: entry.config for entry in all_models() if entry.config} | TINY | {"released": grok_1_config()}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_configs_of_the_catalogue_and_of_the_engine_tests_have_no_fault(config: Mapping[str, Any]) -> None:
    assert list(config_faults(config["architectures"][0], config)) == []


Given = Mapping[str, Any]
DBRX, GROK_1 = TINY["dbrx"], TINY["grok-1"]
ABSENT = object()
FAULTS: Mapping[str, tuple[Given, str, object, str]] = {
    "no theta": (DBRX, "attn_config.rope_theta", ABSENT, "attn_config.rope_theta is missing, expected a number above"),
    "a theta of null": (DBRX, "attn_config.rope_theta", None, "attn_config.rope_theta is None, expected a number"),
    "a theta that is a text": (DBRX, "attn_config.rope_theta", "500000", "rope_theta is '500000', expected a number"),
    "a clip of zero": (
        DBRX,
        "attn_config.clip_qkv",
        0,
        "attn_config.clip_qkv is 0, expected a number above 0, or null",
    ),
    "another activation": (
        DBRX,
        "ffn_config.ffn_act_fn",
        {"name": "gelu"},
        "ffn_config.ffn_act_fn is {'name': 'gelu'}, expected {\"name\": \"silu\"}",
    ),
    "an activation without its object": (DBRX, "ffn_config.ffn_act_fn", "silu", "ffn_act_fn is 'silu', expected {"),
    "another norm of the experts' weights": (
        DBRX,
        "ffn_config.moe_normalize_expert_weights",
        2.0,
        "ffn_config.moe_normalize_expert_weights is 2.0, expected 1 or null",
    ),
    "no configuration of the attention": (DBRX, "attn_config", None, "attn_config.rope_theta is missing"),
    "Grok-1 with another activation": (GROK_1, "hidden_act", "silu", "hidden_act is 'silu', expected \"gelu\""),
    "an eps of zero": (GROK_1, "rms_norm_eps", 0.0, "rms_norm_eps is 0.0, expected a number above 0"),
    "no softcap": (GROK_1, "max_attn_value", None, "max_attn_value is None, expected a number above 0"),
    "a multiplier that is true": (GROK_1, "output_multiplier_scale", True, "output_multiplier_scale is True, expected"),
    "experts under Grok-2's name": (
        GROK_1,
        "num_local_experts",
        4,
        "num_local_experts is 4, expected none: Grok-1 has",
    ),
    "Grok-2's dense part": (GROK_1, "residual_moe", True, "residual_moe is True, expected none"),
}


def changed(config: Given, path: str, value: object) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(config))
    *parents, name = path.split(".")
    holder = copy
    for parent in parents:
        holder = holder[parent]
    holder.pop(name, None)
    if value is not ABSENT:
        holder[name] = value
    return copy


@pytest.mark.parametrize(("config", "path", "value", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_what_is_seen_and_what_is_expected(
    config: Given, path: str, value: object, message: str
) -> None:
    (fault,) = config_faults(config["architectures"][0], changed(config, path, value))
    assert fault.startswith("config.json: ")
    assert message in fault
    assert fault.endswith("; take the config.json of these weights")


@pytest.mark.parametrize(
    ("config", "path", "value"),
    [
        pytest.param(DBRX, "attn_config.clip_qkv", None, id="DBRX without a clip"),
        pytest.param(DBRX, "ffn_config.ffn_act_fn", None, id="DBRX without an activation of its own"),
        pytest.param(DBRX, "ffn_config.moe_normalize_expert_weights", None, id="DBRX without the experts' norm"),
        pytest.param(GROK_1, "hidden_act", "gelu", id="Grok-1 with its activation"),
        pytest.param(GROK_1, "max_attn_value", ABSENT, id="Grok-1 without the field of the softcap"),
    ],
)
def test_what_the_engine_fills_in_or_serves_is_no_fault(config: Given, path: str, value: object) -> None:
    assert list(config_faults(config["architectures"][0], changed(config, path, value))) == []


@pytest.mark.parametrize("model_type", [ABSENT, "dbrx_of_mine"], ids=["missing", "unknown"])
def test_up_refuses_a_model_type_that_the_engine_would_not_read(model_type: object, tmp_path: Path) -> None:
    source = {"persistentVolumeClaim": {"claimName": "weights", "path": "dbrx"}}
    licence = {"accepted": "databricks-open-model-license"}
    deployment = ModelDeployment.model_validate(
        {
            "apiVersion": "conclave.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "dbrx", "namespace": "llm"},
            "spec": {
                "model": {"id": "databricks/dbrx-instruct", "source": source, "licence": licence},
                "access": {"dataClass": "internal"},
            },
        }
    )
    config_file = make_checkpoint("dbrx", tmp_path) / "config.json"
    check_model(deployment, tmp_path)
    config_file.write_text(json.dumps(changed(json.loads(config_file.read_text()), "model_type", model_type)))
    with pytest.raises(WeightsUnfit, match=r"config\.json: model_type is .*, expected 'dbrx' for DbrxForCausalLM"):
        check_model(deployment, tmp_path)


def test_inspect_names_the_faults_of_a_whole_checkpoint(tmp_path: Path) -> None:
    config_file = make_checkpoint("dbrx", tmp_path) / "config.json"
    config = changed(json.loads(config_file.read_text()), "attn_config.rope_theta", ABSENT)
    config_file.write_text(json.dumps(config | {"model_type": "dbrx_of_mine"}))
    assert [problem[:60] for problem in inspect_weights(tmp_path).problems] == [
        "config.json: model_type is 'dbrx_of_mine', expected 'dbrx' f",
        "config.json: attn_config.rope_theta is missing, expected a n",
    ]
