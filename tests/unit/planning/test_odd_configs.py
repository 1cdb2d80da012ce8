"""Whatever a config.json holds, there is a plan or an error of ours that names the field; never another exception."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conclave.api.modeldeployment import SpeculativeMethod
from conclave.catalogue.facts import read_config
from conclave.errors import ConclaveError
from conclave.planning.inventory import Inventory, Node
from conclave.planning.plan import make_plan
from conclave.planning.request import PlanRequest
from conclave.planning.settings import EngineSettings, Speculation

TINY: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "serving" / "tiny_configs.yaml").read_text()
)
GENERAL = ("command_r_35b", "granite_3.1_1b_a400m", "glm4_9b", "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "gemma3")
UNKNOWN = [
    json.loads((Path(__file__).parents[2] / "data" / "architectures" / f"{name}.json").read_text("utf-8"))
    for name in GENERAL
]
"""Of architectures that no reader knows."""
DRAFTS = [None, *(Speculation(method=method, tokens=2) for method in SpeculativeMethod)]
INVENTORY = Inventory(
    nodes=(Node(name="a", accelerator="NVIDIA-H100-80GB-HBM3", memory_bytes=80 * 2**30, gpus=2, free_gpus=2),)
)
NUMBERS = [
    0,
    1,
    -1,
    3,
    17,
    127,
    2**27,
    2**27 + 1,
    2**63,
    10**30,
    -0.5,
    1e-9,
    0.5,
    1e9,
    1e300,
    float("nan"),
    float("inf"),
]
PATTERNS = ["", "128", "re:(", "re:(a+)+$", "re:" + "(.*)*" * 8 + "x", "*" * 60 + "x", "[", "sliding_attention"]
QUANTIZATIONS: list[dict[str, Any]] = [
    {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "awq", "w_bit": 4, "q_group_size": 128},
    {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "static"},
    {"quant_method": "mxfp4", "modules_to_not_convert": ["re:.*self_attn.*"]},
    {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head*"]},
    {
        "quant_method": "compressed-tensors",
        "ignore": ["lm_head"],
        "kv_cache_scheme": {"num_bits": 8},
        "config_groups": {
            "group_0": {
                "weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": False},
                "input_activations": {"dynamic": True},
            }
        },
    },
]
ROTARY: list[dict[str, Any]] = [
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    {"type": "linear", "factor": 2.0},
    {"type": "dynamic", "factor": 2.0},
    {"type": "longrope", "original_max_position_embeddings": 128},
    {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "linear", "factor": 8.0}},
]

odd_values = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from([None, True, [], {}, {"factor": {}}, *PATTERNS]),
    st.lists(st.sampled_from([None, *NUMBERS, *PATTERNS, {}]), max_size=3),
    st.lists(st.sampled_from([0, 8]), min_size=1, max_size=4),
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A tiny config of any architecture, with a quantization and a rotary scaling, and up to two fields gone odd."""
    config: dict[str, Any] = draw(st.sampled_from([*TINY.values(), *UNKNOWN])) | {
        "quantization_config": draw(st.sampled_from([None, *QUANTIZATIONS])),
        draw(st.sampled_from(["rope_scaling", "rope_parameters"])): draw(st.sampled_from([None, *ROTARY])),
    }
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(places(config)))
        config = replaced(config, place, draw(odd_values), gone=draw(st.integers(0, 9)) == 0)
    return config


def places(value: Any) -> list[tuple[str, ...]]:
    """Paths of all fields but the architecture, which selects the reader."""
    if not isinstance(value, dict):
        return []
    return [(name, *rest) for name in value if name != "architectures" for rest in [(), *places(value[name])]]


def replaced(config: dict[str, Any], place: tuple[str, ...], value: Any, *, gone: bool) -> dict[str, Any]:
    name, *rest = place
    if rest:
        return config | {name: replaced(config[name], tuple(rest), value, gone=gone)}
    return {key: kept for key, kept in config.items() if key != name} | ({} if gone else {name: value})


@settings(deadline=None, max_examples=300)
@given(configs(), st.sampled_from(DRAFTS))
def test_a_config_gives_a_plan_or_an_error_of_ours(config: dict[str, Any], drafts: Speculation | None) -> None:
    try:
        facts = read_config(config)
    except ConclaveError as error:
        message = str(error)
    else:
        outcome = make_plan(PlanRequest(facts=facts, inventory=INVENTORY, settings=EngineSettings(speculation=drafts)))
        message = "" if outcome.plan else outcome.explanation
    assert message.startswith(("config.json: ", "No layout fits. TP=")) or not message
