"""`conclave plan`: files and flags in, a table or status.plan out, exit codes and messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from conclave import __version__
from conclave.api.plan import Plan
from conclave.errors import ConclaveError
from conclave_cli.main import app

DEPLOYMENT = {
    "apiVersion": "conclave.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "mixtral", "namespace": "llm"},
    "spec": {
        "model": {
            "id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
            "source": {"persistentVolumeClaim": {"claimName": "weights"}},
        },
        "hardware": {"accelerators": ["NVIDIA-A100"]},
        "access": {"dataClass": "internal"},
    },
}
SHORT = {"nodes": [{"name": "a", "accelerator": "NVIDIA-A100-SXM4-80GB", "gpus": 8, "free": 4, "count": 2}]}
LABELS = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu.memory": "81920"}
KUBECTL = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "kind": "Node",
            "metadata": {"name": "gpu-0", "labels": LABELS},
            "status": {"allocatable": {"nvidia.com/gpu": "8"}},
        },
        {"kind": "Node", "metadata": {"name": "cpu-0", "labels": {}}, "status": {"allocatable": {"cpu": "8"}}},
        {
            "kind": "Pod",
            "metadata": {"name": "other", "uid": "1"},
            "spec": {"nodeName": "gpu-0", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "7"}}}]},
        },
    ],
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def write(directory: Path, name: str, value: object) -> str:
    path = directory / name
    path.write_text(json.dumps(value) if name.endswith("json") else yaml.safe_dump(value))
    return str(path)


def test_a_file_and_a_short_inventory_give_a_plan(tmp_path: Path) -> None:
    file = write(tmp_path, "model.yaml", DEPLOYMENT)
    result = run("-f", file, "--inventory", write(tmp_path, "nodes.yaml", SHORT), "-o", "json")
    plan = Plan.model_validate_json(result.stdout)
    assert (plan.tensor, plan.accelerator) == (2, "NVIDIA-A100-SXM4-80GB")
    assert isinstance(json.loads(result.stdout)["memory"]["weights"], int)


@pytest.mark.parametrize("name", ["nodes.yaml", "nodes.json"])
def test_what_kubectl_prints_is_an_inventory_with_its_pods_counted(tmp_path: Path, name: str) -> None:
    result = run("-f", write(tmp_path, "model.yaml", DEPLOYMENT), "--inventory", write(tmp_path, name, KUBECTL))
    assert isinstance(result.exception, ConclaveError)
    assert result.exception.exit_code == 2
    assert "1 of 8 are free" in str(result.exception)


def test_flags_give_the_same_plan_as_yaml() -> None:
    flags = ("--model", "mistralai/Mixtral-8x7B-v0.1", "--accelerator", "H100", "--gpus-per-node", "8", "--nodes", "1")
    plan = Plan.model_validate(yaml.safe_load(run(*flags, "-o", "yaml").stdout))
    assert plan.accelerator == "NVIDIA-H100-80GB-HBM3"
    assert plan.gpus_per_replica == 2


def test_the_table_shows_a_bar_of_a_gpu_and_the_reasons() -> None:
    text = run("--model", "mistralai/Mixtral-8x7B-v0.1", "--accelerator", "H100").stdout
    assert "each GPU [█" in text
    assert "because  2 GPUs are the fewest" in text
    assert "not      TP=4 on NVIDIA-H100-80GB-HBM3" in text


def test_the_version_is_an_option_as_well() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"conclave {__version__}\n")


def test_all_shows_every_option() -> None:
    flags = ("--model", "mistralai/Mixtral-8x7B-v0.1", "--accelerator", "H100", "--nodes", "4")
    assert "more with --all" in run(*flags).stdout
    assert "more with --all" not in run(*flags, "--all").stdout


OWN_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


def test_a_config_of_ones_own_is_planned(tmp_path: Path) -> None:
    result = run("--config", write(tmp_path, "config.json", OWN_CONFIG), "--accelerator", "L4", "-o", "json")
    assert json.loads(result.stdout)["memory"]["weights"] == pytest.approx(14.96 * 2**30, rel=0.001)


MIXTRAL_ON_H100 = ("--model", "mistralai/Mixtral-8x7B-v0.1", "--accelerator", "H100")
BAD = [
    ("neither a file nor a model", ("--accelerator", "H100"), "give the model with -f FILE"),
    ("both", ("-f", "x.yaml", "--model", "y", "--accelerator", "H100"), "--model and -f are both given"),
    (
        "no hardware",
        ("--model", "mistralai/Mixtral-8x7B-v0.1"),
        "give the hardware with --inventory FILE, or with --accelerator",
    ),
    ("an unknown accelerator", ("--model", "mistralai/Mixtral-8x7B-v0.1", "--accelerator", "XYZ"), "(it knows A10, "),
    (
        "a cpu without memory",
        ("--model", "google/gemma-2b", "--accelerator", "cpu"),
        "a cpu needs the memory that one rank may use (memoryGib in a file, --gpu-memory-gib here)",
    ),
    (
        "an accelerator misspelt",
        ("--model", "mistralai/Mixtral-8x7B-v0.1", "--accelerator", "NVIDIA H100"),
        "'NVIDIA H100', which is not in the catalogue (did you mean NVIDIA-H100-",
    ),
    ("a model that was never released", ("--model", "apple/MM1", "--accelerator", "H100"), "never released"),
    ("a provider's model", ("--model", "gpt-4o", "--accelerator", "H100"), "a ModelDeployment cannot serve this model"),
    ("an unknown model", ("--model", "nobody/knows", "--accelerator", "H100"), "not in the catalogue"),
    (
        "more sequences in a step than tokens",
        (*MIXTRAL_ON_H100, "--max-num-seqs", "1024", "--max-num-batched-tokens", "512"),
        "max_num_seqs 1024 is more than max_num_batched_tokens 512",
    ),
    (
        "more sequences in a step than vLLM gives it tokens",
        ("--model", "google/gemma-2b", "--accelerator", "L4", "--max-num-seqs", "4096"),
        "max_num_seqs is 4096, expected at most 2048",
    ),
    (
        "a share that a manifest may not have",
        (*MIXTRAL_ON_H100, "--gpu-memory-utilization", "0.99"),
        "gpu_memory_utilization is '0.99', expected a number from 0.1 to 0.98",
    ),
    (
        "a file that is not there",
        ("-f", "nowhere.yaml", "--accelerator", "H100"),
        "nowhere.yaml: no such file; correct the path",
    ),
    (
        "a size that vLLM refuses",
        ("--model", "microsoft/Phi-3-medium-128k-instruct", "--accelerator", "NVIDIA-A100-SXM4-80GB", "--tensor", "8"),
        "TP=8 on NVIDIA-A100-SXM4-80GB: 10 key-value heads do not divide by 8",
    ),
]


@pytest.mark.parametrize(("arguments", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_ends_with_2_and_says_why(arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, ConclaveError)
    assert result.exception.exit_code == 2
    assert words in str(result.exception)


BEYOND_MACHINES = [
    ("memory without end", "--gpu-memory-gib", "1e999"),
    ("memory that is no number", "--gpu-memory-gib", "nan"),
    ("negative memory", "--gpu-memory-gib", "-1"),
    ("no memory", "--gpu-memory-gib", "0"),
    ("a share that is no number", "--gpu-memory-utilization", "nan"),
    ("more than the whole", "--gpu-memory-utilization", "1.01"),
    ("nodes without GPUs", "--gpus-per-node", "0"),
    ("no nodes", "--nodes", "0"),
    ("no ranks", "--tensor", "0"),
]


@pytest.mark.parametrize(
    ("option", "value"), [row[1:] for row in BEYOND_MACHINES], ids=[row[0] for row in BEYOND_MACHINES]
)
def test_a_number_that_no_machine_has_is_refused_by_option(option: str, value: str) -> None:
    result = run("--model", "mistralai/Mixtral-8x7B-v0.1", "--accelerator", "H100", option, value)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr


BAD_INVENTORIES = [
    ("no nodes", {"nodes": []}, "nodes is empty, expected nodes with name, accelerator and gpus"),
    (
        "a cluster without GPUs",
        {"kind": "NodeList", "items": []},
        "no node with accelerators; the nodes need the labels",
    ),
    (
        "nodes without GPUs",
        {"nodes": [{"name": "a", "accelerator": "H100", "gpus": 0}]},
        "any accelerator: no schedulable node that this deployment may use has an accelerator; accelerators "
        "there: none",
    ),
    ("nodes that are no list", {"nodes": {"a": 1}}, "nodes is dict; expected a list"),
    ("an unknown field", {"nodes": [{"name": "a", "accelerator": "H100", "gpus": 1, "gpu": 2}]}, "nodes[0]: gpu"),
    (
        "a text for a number",
        {"nodes": [{"name": "a", "accelerator": "H100", "gpus": "8"}]},
        'nodes[0]: gpus: Invalid value: "string": gpus in body must be of type integer: "string"',
    ),
    (
        "a number for a text",
        {"nodes": [{"name": 8, "accelerator": "H100", "gpus": 8}]},
        'nodes[0]: name: Invalid value: "integer": name in body must be of type string: "integer"',
    ),
    (
        "no memory of a GPU",
        {"nodes": [{"name": "a", "accelerator": "H100", "gpus": 8, "memoryGib": 0}]},
        "nodes[0]: memoryGib: Invalid value: 0: memoryGib in body should be greater than 0",
    ),
    (
        "an empty name",
        {"nodes": [{"name": "", "accelerator": "H100", "gpus": 8}]},
        'nodes[0]: name: Invalid value: "": name in body should be at least 1 chars long',
    ),
    ("a missing accelerator", {"nodes": [{"name": "a", "gpus": 8}]}, "nodes[0]: accelerator: Required value"),
    ("a negative number", {"nodes": [{"name": "a", "accelerator": "H100", "gpus": -1}]}, "nodes[0]: gpus"),
    ("more free than there are", {"nodes": [{"name": "a", "accelerator": "H100", "gpus": 1, "free": 2}]}, "free is 2"),
    ("an unknown accelerator", {"nodes": [{"name": "a", "accelerator": "ABC", "gpus": 1}]}, "memoryGib"),
    ("a cpu without memory", {"nodes": [{"name": "a", "accelerator": "cpu", "gpus": 1}]}, "memoryGib"),
    ("another kind", {"kind": "Deployment"}, "kind is 'Deployment'"),
    ("a list", [1, 2], "expected an object"),
    (
        "a broken node",
        {"kind": "NodeList", "items": [{"kind": "Node"}]},
        "without metadata.name, expected the output of `kubectl get nodes -o yaml`",
    ),
]


@pytest.mark.parametrize(
    ("value", "words"), [row[1:] for row in BAD_INVENTORIES], ids=[row[0] for row in BAD_INVENTORIES]
)
def test_bad_inventories_are_refused_by_field(tmp_path: Path, value: object, words: str) -> None:
    file = write(tmp_path, "nodes.yaml", value)
    result = run("--model", "mistralai/Mixtral-8x7B-v0.1", "--inventory", file)
    assert isinstance(result.exception, ConclaveError)
    assert words in str(result.exception)


def test_an_empty_inventory_says_what_an_inventory_is(tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text("")
    result = run(*MIXTRAL_ON_H100[:2], "--inventory", str(tmp_path / "nodes.yaml"))
    assert "nodes.yaml: is empty, expected `nodes` or the output of `kubectl get nodes -o yaml`" in str(
        result.exception
    )


def test_the_nodes_of_a_large_cluster_are_an_inventory(tmp_path: Path) -> None:
    """A megabyte of images and conditions, as nodes have them."""
    padding = {"annotations": {f"example.com/{number}": "x" * 1000 for number in range(1200)}}
    node = KUBECTL["items"][0]
    assert isinstance(node, dict)
    large = KUBECTL | {"items": [node | {"metadata": node["metadata"] | padding}]}
    file = write(tmp_path, "nodes.json", large)
    assert Path(file).stat().st_size > 2**20
    assert "tensor 2" in run(*MIXTRAL_ON_H100[:2], "--inventory", file).stdout


def test_a_file_with_a_config_reference_is_planned_with_its_config(tmp_path: Path) -> None:
    model = {"id": "acme/own", "source": {"persistentVolumeClaim": {"claimName": "weights"}}}
    model |= {"configRef": {"name": "own"}}
    deployment = DEPLOYMENT | {"spec": {"model": model, "access": {"dataClass": "internal"}}}
    arguments = ("-f", write(tmp_path, "model.yaml", deployment), "--accelerator", "L4", "-o", "json")
    assert "config.json" in str(run(*arguments).exception)
    config = write(tmp_path, "config.json", OWN_CONFIG)
    assert json.loads(run(*arguments, "--config", config).stdout)["tensor"] == 1


MODELOPT_FILE = {
    "producer": {"name": "modelopt", "version": "0.23.0"},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
}


def test_quantization_beside_the_config_is_planned(tmp_path: Path) -> None:
    config = write(tmp_path, "config.json", OWN_CONFIG)
    arguments = ("--config", config, "--accelerator", "H100", "-o", "json")
    plain = json.loads(run(*arguments).stdout)
    write(tmp_path, "hf_quant_config.json", MODELOPT_FILE)
    quantized = json.loads(run(*arguments).stdout)
    assert "weights (fp8)" in quantized["because"][0]
    assert quantized["memory"]["weights"] < 0.6 * plain["memory"]["weights"]


PUBLIC_CONFIGS = Path(__file__).parents[2] / "data/public_configs"


def test_what_barely_fits_is_planned_with_smaller_steps_and_they_are_named(tmp_path: Path) -> None:
    """NVIDIA's 70B in FP8 on one H100. vLLM's own defaults leave 0.63 GiB beside the weights, a context of 4128."""
    for name in ("config.json", "hf_quant_config.json"):
        published = f"nvidia--Llama-3.1-70B-Instruct-FP8.{name}".replace(".config.json", ".json")
        (tmp_path / name).write_text((PUBLIC_CONFIGS / published).read_text())
    arguments = ("--config", str(tmp_path / "config.json"), "--accelerator", "H100", "--gpus-per-node", "1")
    refusal = str(run(*arguments).exception)
    assert "would help: max-num-seqs 64 and max-num-batched-tokens 2048 would fit: 1 GPU of" in refusal
    smaller = run(*arguments, "--max-num-seqs", "64", "--max-num-batched-tokens", "2048", "-o", "json")
    planned = json.loads(smaller.stdout)
    assert planned["tensor"] == 1
    assert planned["memory"]["weights"] / 2**30 == pytest.approx(67.7, abs=0.05)
    assert "weights (fp8)" in planned["because"][0]


REFUSED_CONFIGS = {
    "what vLLM refuses, with its reason": (
        {"quantization_config": {"quant_method": "fbgemm_fp8"}},
        "quantization_config: vLLM 0.32 refuses this checkpoint: The quantization method fbgemm_fp8 is deprecated and "
        "will be removed in future versions of vLLM.; use another checkpoint of the model, such as the unquantized one",
    ),
    "what vLLM serves and this release does not": (
        {"quantization_config": {"quant_method": "torchao"}},
        "quantization_config: vLLM 0.32 serves quantization method torchao; this release of Conclave does not plan it "
        "yet; use another checkpoint of the model, such as the unquantized one",
    ),
    "a mistake in the file": (
        {"quantization_config": {"quant_method": ["fp8"]}},
        "quantization_config: quant_method is ['fp8']; expected a string. Correct the file, or give",
    ),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED_CONFIGS.values(), ids=REFUSED_CONFIGS)
def test_a_refused_quantization_is_named_with_what_to_do(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    config = write(tmp_path, "config.json", OWN_CONFIG | changes)
    result = run("--config", config, "--accelerator", "H100")
    assert isinstance(result.exception, ConclaveError)
    assert f"{config}: {words}" in str(result.exception)


CACHES = {
    "fp8 on a GPU that has none": (
        "FP8",
        ("--accelerator", "T4"),
        "T4 has no fp8 KV cache, which the checkpoint asks for",
    ),
    "nvfp4, which is not planned": (
        "NVFP4",
        ("--accelerator", "B200"),
        "the checkpoint asks for an nvfp4 KV cache; vLLM 0.32 serves it; this release of Conclave does not plan it "
        "yet; set engine.kvCacheDtype to fp8",
    ),
}


@pytest.mark.parametrize(("algorithm", "hardware", "words"), CACHES.values(), ids=CACHES)
def test_a_kv_cache_that_the_checkpoint_asks_for(
    tmp_path: Path, algorithm: str, hardware: tuple[str, str], words: str
) -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": algorithm}
    config = write(tmp_path, "config.json", OWN_CONFIG | {"quantization_config": quantization})
    arguments = ("--config", config, *hardware, "--max-model-len", "1024")
    assert words in str(run(*arguments).exception)


def test_the_spec_is_above_the_kv_cache_that_the_checkpoint_asks_for(tmp_path: Path) -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"}
    config = write(tmp_path, "config.json", OWN_CONFIG | {"quantization_config": quantization})
    result = run("--config", config, "--accelerator", "B200", "--kv-cache-dtype", "fp8", "-o", "json")
    assert json.loads(result.stdout)["tensor"] == 1


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (
            "access",
            {"dataClass": "internal", "regions": ["eu-west-1"]},
            "access.regions needs nodes whose label topology.kubernetes.io/region is eu-west-1; on 2 of 2 nodes "
            "this label is unset",
        ),
        (
            "hardware",
            {"nodeSelector": {"pool": "large"}},
            "hardware.nodeSelector needs nodes whose label pool is large; on 2 of 2 nodes this label is unset",
        ),
    ],
    ids=["a region", "a selector"],
)
def test_what_leaves_nodes_out_is_named(tmp_path: Path, field: str, value: object, words: str) -> None:
    deployment = DEPLOYMENT | {"spec": {**DEPLOYMENT["spec"], field: value}}  # type: ignore[dict-item]
    file = write(tmp_path, "model.yaml", deployment)
    result = run("-f", file, "--inventory", write(tmp_path, "nodes.yaml", SHORT))
    assert words in str(result.exception)


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)], ids=["json", "yaml"])
def test_that_nothing_fits_is_data_too(output: str, read: Callable[[str], Any]) -> None:
    result = run("--model", "xai-org/grok-1", "--accelerator", "H100", "-o", output)
    assert isinstance(result.exception, ConclaveError)
    assert result.exception.exit_code == 2
    said = read(result.stdout)
    assert said.keys() == {"rejected", "remedies"}
    assert said["rejected"][0]["option"] == "TP=1 on NVIDIA-H100-80GB-HBM3"
    assert said["remedies"]


def test_each_pipeline_stage_has_a_bar() -> None:
    text = run("--model", "xai-org/grok-1", "--accelerator", "H100", "--nodes", "2").stdout
    assert [line[:22] for line in text.splitlines() if "GPU of stage" in line] == [
        "each GPU of stage 1 [█",
        "each GPU of stage 2 [█",
    ]


def test_a_size_that_was_asked_for_is_not_called_the_least() -> None:
    text = run(*MIXTRAL_ON_H100, "--tensor", "8").stdout
    assert "because  the spec sets tensor 8" in text
    assert "the fewest" not in text


HELP = {
    "a context beyond the model's": (
        (*MIXTRAL_ON_H100, "--max-model-len", "40000"),
        "engine.maxModelLen 32768 would fit (TP=2 on NVIDIA-H100-80GB-HBM3)",
    ),
    "a small share of each GPU": (
        (*MIXTRAL_ON_H100, "--gpu-memory-utilization", "0.1"),
        "gpu_memory_utilization 0.92 would fit: 2 GPUs of NVIDIA-H100-80GB-HBM3 (TP=2",
    ),
    "expert parallelism of a dense model": (
        ("--model", "meta-llama/Llama-3.1-8B", "--accelerator", "H100", "--tensor", "2", "--expert-parallel"),
        "parallelism.expertParallel left out",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), HELP.values(), ids=HELP)
def test_what_would_help_is_what_the_plan_would_be(arguments: tuple[str, ...], words: str) -> None:
    assert f"would help: {words}" in str(run(*arguments).exception)


MODEL = MIXTRAL_ON_H100[:2]


def test_a_second_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "model.yaml", DEPLOYMENT)
    for name in ("plan", "up"):
        options = ("--weights", "w") if name == "up" else ("--accelerator", "H100")
        refused = CliRunner().invoke(app, [name, "-f", file, "--filename", "b.yaml", *options])
        assert str(refused.exception) == (
            f"-f is given 2 times ({file}, b.yaml), expected once: {name} takes one ModelDeployment"
        )


@pytest.mark.parametrize("option", ["--filename", "--file", "-f"])
def test_the_file_has_the_same_names_in_every_command(tmp_path: Path, option: str) -> None:
    file = write(tmp_path, "model.yaml", DEPLOYMENT)
    assert run(option, file, "--accelerator", "NVIDIA-A100-SXM4-80GB").exit_code == 0
    assert CliRunner().invoke(app, ["validate", option, file]).exit_code == 0


@pytest.mark.parametrize(
    ("option", "value"), [("--nodes", "3"), ("--gpus-per-node", "8"), ("--gpu-memory-gib", "24")], ids=lambda text: text
)
def test_sizes_of_nodes_beside_an_inventory_are_refused(tmp_path: Path, option: str, value: str) -> None:
    nodes = write(tmp_path, "nodes.yaml", SHORT)
    refused = run(*MODEL, "--inventory", nodes, option, value)
    assert str(refused.exception) == (
        f"{option} {value} with --inventory: the inventory gives the nodes. Leave out {option}, or change {nodes}."
    )


def test_two_hardwares_are_refused() -> None:
    refused = run(*MODEL, "--accelerator", "H100", "--inventory", "nodes.yaml")
    assert str(refused.exception) == "--accelerator and --inventory are both given, expected one: leave one out"


def test_a_config_that_replaces_the_catalogues_entry_is_named(tmp_path: Path) -> None:
    config = write(tmp_path, "mx.json", OWN_CONFIG)
    shown = run(*MODEL, "--config", config, "--accelerator", "H100")
    assert shown.stderr == f"note: the model is planned from {config}, not from the catalogue's entry {MODEL[1]}\n"
    assert run("--model", "acme/own", "--config", config, "--accelerator", "H100").stderr == ""


def test_data_parallel_is_planned_with_a_note() -> None:
    shown = run(*MODEL, "--accelerator", "H100", "--data", "2")
    assert shown.stderr == "note: data parallel 2: Conclave plans this and does not serve it yet\n"


def test_a_wrong_config_is_named_as_the_user_names_it(tmp_path: Path) -> None:
    config = write(tmp_path, "wide.json", OWN_CONFIG | {"hidden_size": "wide"})
    said = str(run("--config", config, "--accelerator", "H100").exception)
    assert said.startswith(f"{config}: hidden_size is 'wide'")
    assert said.endswith("give the config.json of a model that Conclave plans.")


def test_a_table_in_a_pipe_is_neither_wrapped_nor_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = run(*MODEL, "--accelerator", "H100").stdout.splitlines()
    assert any(line.startswith("concurrency  ") and line.endswith(" tokens") for line in lines)
    assert [line for line in lines if line != line.rstrip()] == []


@pytest.mark.parametrize("name", ["plan", "up", "validate"])
def test_a_file_as_an_argument_is_answered_with_the_command_to_write(name: str) -> None:
    refused = CliRunner().invoke(app, [name, "examples/mixtral.yaml"], prog_name="conclave")
    assert str(refused.exception) == (
        f"examples/mixtral.yaml without -f; write: conclave {name} -f examples/mixtral.yaml"
    )


NODES = Path(__file__).parents[2] / "data" / "nodes"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            "gke_no_gfd",
            ("accelerator  NVIDIA-H100-80GB-HBM3", "nodes        cloud.google.com/gke-accelerator=nvidia-h100-80gb"),
        ),
        ("mig_mixed_all", ("resource     nvidia.com/mig-2g.20gb", "replica      1 GPU: 1 pod of 1")),
        ("hami_t4_10of1", ("accelerator  Tesla-T4", "node a: 10 nvidia.com/gpu are 1 GPU")),
    ],
    ids=["the label of a cloud", "a MIG slice", "more devices than GPUs"],
)
def test_what_kubectl_prints_is_read_as_the_operator_reads_it(file: str, words: tuple[str, ...]) -> None:
    result = run("--model", "meta-llama/Llama-3.2-1B", "--inventory", str(NODES / f"{file}.json"))
    assert result.exit_code == 0, result.exception
    for each in words:
        assert each in result.stdout


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("aks_sku_taint", "node aks-a: taint sku=gpu:NoSchedule is not tolerated: add hardware.tolerations"),
        ("ts_renamed", "node a: 50 nvidia.com/gpu.shared: GPUs that the device plugin shares"),
        ("gb10_no_memory", "node a: the memory of NVIDIA-GB10 is unknown"),
    ],
    ids=["a taint", "another resource", "no memory"],
)
def test_a_node_of_a_file_that_cannot_be_used_is_named(file: str, words: str) -> None:
    result = run("--model", "meta-llama/Llama-3.2-1B", "--inventory", str(NODES / f"{file}.json"))
    assert isinstance(result.exception, ConclaveError)
    assert result.exception.exit_code == 2
    assert words in str(result.exception)


def test_a_list_of_the_api_server_s_own_and_resource_slices_are_read(tmp_path: Path) -> None:
    node = {"metadata": {"name": "dra-0", "labels": {}}, "status": {"allocatable": {"cpu": "8"}}}
    device = {"name": "gpu-0", "attributes": {"productName": {"string": "NVIDIA H100 80GB HBM3"}}}
    spec = {"driver": "gpu.nvidia.com", "nodeName": "dra-0", "devices": [device] * 8}
    sliced = {"kind": "ResourceSlice", "metadata": {"name": "dra-0-gpu"}, "spec": spec}
    file = write(tmp_path, "nodes.json", {"kind": "NodeList", "items": [node, sliced]})
    result = run(*MIXTRAL_ON_H100[:2], "--inventory", file)
    assert "node dra-0: dynamic resource allocation has its accelerators (8 NVIDIA H100 80GB HBM3" in str(
        result.exception
    )
