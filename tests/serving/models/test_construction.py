"""What shows without an engine: expert parallel, fp8 and LoRA reach our classes as they reach vLLM's own Mixtral.

And weights stream into them, the router of Grok-1 is float32, and key-value heads are replicated where they are few.

vLLM's CPU build has no kernels for the first three, so the models are built, not run; where GPUs are, `gpu` tests run
them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.serving.models.adapters import make_adapter
from tests.serving.models.engines import ENVIRONMENT
from tools.tiny_checkpoint import ARCHITECTURES, Sizes, make_checkpoint

from conclave_cli.local.ports import free_port

RANKS = 2
MODELS = ("mixtral", "dbrx", "grok-1", "phi-3.5-moe")


@pytest.fixture(scope="module")
def built(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks built, by model and way."""
    directory = tmp_path_factory.mktemp("construction")
    paths = {
        model: dict.fromkeys(("expert parallel", "fp8", "lora", "loaded"), str(checkpoints[model]))
        | {"one key-value head": str(make_checkpoint(model, directory / f"{model}-one-head", key_value_heads=1))}
        | {"adapter": str(make_adapter(model, directory / model))}
        for model in MODELS
    }
    (directory / "checkpoints.json").write_text(json.dumps(paths))
    port, program = str(free_port()), Path(__file__).with_name("construction.py")
    workers = []
    for rank in range(RANKS):
        command = [sys.executable, program, str(rank), str(RANKS), port, "checkpoints.json", f"{rank}.json"]
        with (directory / f"{rank}.log").open("w") as log:
            workers.append(
                subprocess.Popen(
                    command, cwd=directory, env=os.environ | ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT
                )
            )
    try:
        codes = [worker.wait(timeout=900) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert codes == [0] * RANKS, (directory / "0.log").read_text()[-4000:]
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("model", MODELS)
def test_each_expert_is_whole_on_one_rank(model: str, built: list[dict[str, Any]]) -> None:
    sizes: Sizes = ARCHITECTURES[model].sizes
    layers = list(zip(*(rank[model]["expert parallel"] for rank in built), strict=True))
    assert len(layers) == sizes.layers
    for ranks in layers:
        assert sorted(expert for rank in ranks for expert in rank["experts"]) == list(range(sizes.experts))
        for rank in ranks:
            assert rank["w13"] == [sizes.experts // RANKS, 2 * sizes.intermediate, sizes.hidden]
            assert rank["w2"] == [sizes.experts // RANKS, sizes.hidden, sizes.intermediate]


@pytest.mark.parametrize("model", MODELS)
def test_fp8_quantizes_attention_and_experts_and_leaves_the_router(model: str, built: list[dict[str, Any]]) -> None:
    for rank in built:
        methods = rank[model]["fp8"]
        assert methods == rank["mixtral"]["fp8"]
        assert {name for name, (method,) in methods.items() if "Fp8" in method} == {
            "qkv_proj",
            "o_proj",
            "routed_experts",
        }


@pytest.mark.parametrize("model", MODELS)
def test_an_adapter_with_the_names_of_the_checkpoint_reaches_every_projection(
    model: str, built: list[dict[str, Any]]
) -> None:
    parent = "self_attn" if model in ("mixtral", "phi-3.5-moe") else "attn"
    expected = {
        f"model.layers.{layer}.{parent}.{projection}"
        for layer in range(ARCHITECTURES[model].sizes.layers)
        for projection in ("qkv_proj", "o_proj")
    }
    for rank in built:
        assert set(rank[model]["lora"]) == expected


@pytest.mark.parametrize("model", MODELS)
def test_weights_stream_and_are_never_held_twice(model: str, built: list[dict[str, Any]]) -> None:
    for rank in built:
        memory = rank[model]["loaded"]["memory"]
        assert memory["tensors"] > 25
        # The one that is being read, and those that two loops of the loader still name.
        assert memory["tensors at once"] <= 3
        assert memory["bytes at once"] <= 3 * memory["largest"] < memory["bytes"] / 2
        assert memory["left over"] == 0


def test_the_router_of_grok_1_is_float32_in_a_bfloat16_model(built: list[dict[str, Any]]) -> None:
    for rank in built:
        routers = rank["grok-1"]["loaded"]["routers"]
        assert len(routers) == ARCHITECTURES["grok-1"].sizes.layers
        for router in routers:
            assert (router["weights"], router["logits"]) == ("torch.float32", "torch.float32")
            assert router["error"] < router["rounding"] / 100
        assert {router["logits"] for router in rank["dbrx"]["loaded"]["routers"]} == {"torch.bfloat16"}


@pytest.mark.parametrize("model", MODELS)
def test_one_key_value_head_is_whole_on_each_of_two_ranks(model: str, built: list[dict[str, Any]]) -> None:
    sizes: Sizes = ARCHITECTURES[model].sizes
    heads = sizes.heads // RANKS
    expected = {"heads": heads, "key-value heads": 1, "rows": heads + 2, "is the checkpoint's": True}
    for rank in built:
        assert rank[model]["one key-value head"] == [expected] * sizes.layers
