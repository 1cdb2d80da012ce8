"""`conclave weights inspect`: its tables are those of the published models, and it names every fault at once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tools.tiny_checkpoint import ARCHITECTURES, make_checkpoint
from typer.testing import CliRunner

from conclave.catalogue.facts import read_config
from conclave.catalogue.models import ModelEntry, all_models
from conclave_cli.main import app
from conclave_weights.files.headers import write_header
from conclave_weights.inspection.directory import Inspection, inspect_weights
from conclave_weights.inspection.layouts import expected_tensors

TABLES = [
    entry
    for entry in all_models()
    if entry.config
    and entry.parameters
    and expected_tensors(entry.config["architectures"][0], entry.config, read_config(entry.config))  # type: ignore[index]
]


@pytest.mark.parametrize("entry", TABLES, ids=lambda entry: entry.id)
def test_the_table_has_as_many_parameters_as_the_publisher_says(entry: ModelEntry) -> None:
    architecture = read_config(entry.config).architecture
    expected = expected_tensors(architecture, entry.config, read_config(entry.config))
    assert expected is not None
    assert entry.parameters is not None
    assert sum(map(math.prod, expected.required.values())) == pytest.approx(entry.parameters.total, rel=6e-4)


def test_the_models_of_the_project_have_tables() -> None:
    assert {read_config(entry.config).architecture for entry in TABLES} >= {
        "MixtralForCausalLM",
        "LlamaForCausalLM",
        "GemmaForCausalLM",
        "Phi3ForCausalLM",
        "PhiMoEForCausalLM",
        "DbrxForCausalLM",
        "Grok1ModelForCausalLM",
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_as_transformers_writes_it_is_sound(architecture: str, tmp_path: Path) -> None:
    inspection = inspect_weights(make_checkpoint(architecture, tmp_path))
    # Of the tiny checkpoints only Grok-1 has an auto_map, for only its repository has one.
    assert inspection.problems == []
    assert [note.partition(":")[2][:15] for note in inspection.notes] == [" auto_map names"] * (
        architecture == "grok-1"
    )
    assert inspection.compared_with.startswith(f"the {inspection.total.tensors} tensors that config.json implies")


EXPERTS, HIDDEN, WIDTH = 4, 64, 96
MODELOPT_FILE = {"producer": {"name": "modelopt", "version": "0.23.0"}, "quantization": {"quant_algo": "FP8"}}
CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "vocab_size": 128,
    "torch_dtype": "bfloat16",
}
FIRST = {
    "model.embed_tokens.weight": (128, HIDDEN),
    "model.layers.0.input_layernorm.weight": (HIDDEN,),
    "model.layers.0.post_attention_layernorm.weight": (HIDDEN,),
    "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "model.layers.0.self_attn.k_proj.weight": (32, HIDDEN),
    "model.layers.0.self_attn.v_proj.weight": (32, HIDDEN),
    "model.layers.0.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
}
SECOND = {
    "model.layers.0.block_sparse_moe.gate.weight": (EXPERTS, HIDDEN),
    **{
        f"model.layers.0.block_sparse_moe.experts.{expert}.{name}.weight": shape
        for expert in range(EXPERTS)
        for name, shape in (("w1", (WIDTH, HIDDEN)), ("w2", (HIDDEN, WIDTH)), ("w3", (WIDTH, HIDDEN)))
    },
    "model.norm.weight": (HIDDEN,),
    "lm_head.weight": (128, HIDDEN),
}
Shapes = dict[str, tuple[int, ...]]


def write_shard(path: Path, shapes: Shapes, dtype: str = "BF16") -> None:
    bits = {"BF16": 16, "F32": 32}[dtype]
    header = write_header({name: (dtype, shape) for name, shape in shapes.items()})
    path.write_bytes(header + bytes(sum(map(math.prod, shapes.values())) * bits // 8))


def write_index(root: Path, **changes: str | None) -> None:
    weight_map = dict.fromkeys(FIRST, "one.safetensors") | dict.fromkeys(SECOND, "two.safetensors") | changes
    kept = {tensor: shard for tensor, shard in weight_map.items() if shard is not None}
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": kept}))


def write_config(root: Path, **changes: object) -> None:
    (root / "config.json").write_text(json.dumps(CONFIG | changes))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_config(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    write_shard(tmp_path / "one.safetensors", FIRST)
    write_shard(tmp_path / "two.safetensors", SECOND)
    write_index(tmp_path)
    return tmp_path


def test_the_facts(weights: Path) -> None:
    inspection = inspect_weights(weights)
    parameters = sum(math.prod(shape) for shape in (FIRST | SECOND).values())
    assert (inspection.architecture, inspection.config_dtype, inspection.shards) == (
        "MixtralForCausalLM",
        "bfloat16",
        2,
    )
    assert (inspection.total.tensors, inspection.total.parameters, inspection.total.size_bytes) == (
        len(FIRST | SECOND),
        parameters,
        2 * parameters,
    )
    assert (inspection.problems, inspection.notes) == ([], [])


def without(shapes: Shapes, *names: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if name not in names}


def missing_norm(root: Path) -> None:
    write_shard(root / "two.safetensors", without(SECOND, "model.norm.weight"))
    write_index(root, **{"model.norm.weight": None})


def wrong_shape(root: Path) -> None:
    write_shard(root / "one.safetensors", FIRST | {"model.layers.0.self_attn.k_proj.weight": (16, HIDDEN)})


def duplicate(root: Path) -> None:
    write_shard(root / "one.safetensors", FIRST | {"model.norm.weight": (HIDDEN,)})


def moved(root: Path) -> None:
    write_index(root, **{"model.norm.weight": "one.safetensors"})


def unexpected(root: Path) -> None:
    write_shard(root / "one.safetensors", FIRST | {"model.layers.1.self_attn.q_proj.weight": (HIDDEN, HIDDEN)})


def truncated(root: Path) -> None:
    shard = root / "two.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text(content) and None


def config(**changes: object) -> Callable[[Path], None]:
    return lambda root: write_config(root, **changes)


def unlink(*names: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for name in names:
            (root / name).unlink()

    return change


def only_pickles(root: Path) -> None:
    unlink("one.safetensors", "two.safetensors", "model.safetensors.index.json")(root)
    (root / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def only_the_release(root: Path) -> None:
    unlink("one.safetensors", "two.safetensors", "model.safetensors.index.json")(root)
    (root / "ckpt-0").mkdir()
    (root / "ckpt-0" / "tensor00000_000").write_bytes(b"\x80\x04.")


def foreign_tokenizer(root: Path) -> None:
    (root / "tokenizer.json").rename(root / "tokenizer.model")
    (root / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tiktoken.Wrapper", null]}}')


def code_in_a_directory(root: Path) -> None:
    (root / "layers").mkdir()
    (root / "layers" / "attention.py").write_text("import os")


def without_field(name: str) -> dict[str, object]:
    return {field: value for field, value in CONFIG.items() if field != name}


PROBLEMS = [
    pytest.param(missing_norm, "1 tensors are missing: model.norm.weight; copy", id="a tensor missing"),
    pytest.param(
        wrong_shape,
        "1 shapes differ from config.json: model.layers.0.self_attn.k_proj.weight is 16x64, expected 32x64",
        id="a shape against the config",
    ),
    pytest.param(
        config(num_key_value_heads=4),
        "2 shapes differ from config.json: model.layers.0.self_attn.k_proj.weight is 32x64, expected 64x64; "
        "model.layers.0.self_attn.v_proj.weight is 32x64, expected 64x64",
        id="a config against the shapes",
    ),
    pytest.param(
        config(num_local_experts=6), "6 tensors are missing: model.layers.0.block_sparse_moe", id="experts missing"
    ),
    pytest.param(config(num_local_experts=10**8), "100000000 experts a layer", id="absurdly many experts"),
    pytest.param(config(hidden_size="x"), "hidden_size is 'x'", id="nonsense in the config"),
    pytest.param(unexpected, "1 tensors are unexpected: model.layers.1.self_attn.q_proj.weight", id="one more layer"),
    pytest.param(
        duplicate,
        "model.norm.weight is in one.safetensors and two.safetensors, expected in one",
        id="a tensor in two shards",
    ),
    pytest.param(
        moved,
        "1 tensors are not in the file that the index names: model.norm.weight is in two.safetensors, the index "
        "says one.safetensors",
        id="index mistaken",
    ),
    pytest.param(
        lambda root: write_index(root, ghost="two.safetensors"),
        "1 tensors of the index are in no file: ghost",
        id="an index entry without tensor",
    ),
    pytest.param(
        unlink("two.safetensors"), "1 of 2 files of model.safetensors.index.json are missing: two", id="a shard missing"
    ),
    pytest.param(truncated, "two.safetensors: 166183 bytes, its header says 166184: truncated", id="a shard truncated"),
    pytest.param(unlink("tokenizer.json"), "no tokenizer", id="no tokenizer"),
    pytest.param(unlink("config.json"), "no config.json", id="no config"),
    pytest.param(
        text("config.json", '{"architectures": "Mixtral"}'),
        "architectures is 'Mixtral', expected a list",
        id="architectures is a string",
    ),
    pytest.param(only_pickles, "only pickled weights (pytorch_model.bin)", id="pickles only"),
    pytest.param(only_the_release, "conclave weights convert", id="the released checkpoint of Grok-1"),
    pytest.param(
        config(architectures=["MyModel"], auto_map={"AutoModel": "my.Model"}),
        "auto_map names code for MyModel, which is never run",
        id="an architecture that is code only",
    ),
    pytest.param(
        config(model_type="mixtral_of_mine", auto_map={"AutoConfig": "my.Config"}),
        "auto_map names code for MixtralForCausalLM, which is never run; use a model whose arch",
        id="a config that is code only",
    ),
    pytest.param(
        text("modeling.py", "import os"), "modeling.py: Python code among the weights, expected none", id="code"
    ),
    pytest.param(code_in_a_directory, "layers/attention.py: Python code", id="code in a directory"),
    pytest.param(
        config(model_type="mixtral_of_mine"),
        "config.json: model_type is 'mixtral_of_mine', expected 'mixtral' for MixtralForCausalLM; take the config.json",
        id="an unknown model_type",
    ),
    pytest.param(
        config(architectures=["DeepseekV3ForCausalLM"], model_type=["deepseek_v3"]),
        "model_type is ['deepseek_v3'], expected 'deepseek_v3' or 'kimi_k2' for DeepseekV3ForCausalLM",
        id="a model_type that is a list",
    ),
    pytest.param(
        lambda root: (root / "config.json").write_text(json.dumps(without_field("model_type"))),
        "model_type is missing, expected 'mixtral' for MixtralForCausalLM",
        id="no model_type",
    ),
    pytest.param(foreign_tokenizer, "tokenizer_config.json: auto_map", id="a tokenizer that is code only"),
]


@pytest.mark.parametrize(("change", "message"), PROBLEMS)
def test_a_problem_is_named(weights: Path, change: Callable[[Path], None], message: str) -> None:
    change(weights)
    problems = inspect_weights(weights).problems
    assert [problem for problem in problems if message in problem], problems


def test_a_damaged_shard_is_one_problem_and_not_all_its_tensors(weights: Path) -> None:
    truncated(weights)
    assert len(inspect_weights(weights).problems) == 1


NOTES = [
    pytest.param(
        config(auto_map={"AutoModel": "m.M"}), "the engine uses classes of its own", id="auto_map of a known model"
    ),
    pytest.param(text("consolidated.00.pth", "x"), "consolidated.00.pth: pickles", id="pickles beside safetensors"),
    pytest.param(
        lambda root: write_shard(root / "three.safetensors", {"a": (1,)}),
        "three.safetensors: not in the index",
        id="a shard that nobody reads",
    ),
    pytest.param(config(torch_dtype="float16"), "config.json says float16, the files hold BF16", id="another type"),
]


@pytest.mark.parametrize(("change", "message"), NOTES)
def test_a_note_is_no_problem(weights: Path, change: Callable[[Path], None], message: str) -> None:
    change(weights)
    inspection = inspect_weights(weights)
    assert [note for note in inspection.notes if message in note], inspection.notes
    assert inspection.problems == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            config(architectures=["Grok1ForCausalLM"]),
            "nothing: Conclave has no table of tensor names for Grok1ForCausalLM",
            id="an architecture without a table",
        ),
        pytest.param(
            config(architectures=["MyModel"]),
            "nothing: config.json: architectures is 'MyModel': vLLM 0.32 has no such class",
            id="an architecture that the engine lacks",
        ),
        pytest.param(
            config(quantization_config={"quant_method": "fp8", "activation_scheme": "dynamic"}),
            "nothing: weights quantised by fp8",
            id="quantised weights",
        ),
        pytest.param(
            text("hf_quant_config.json", json.dumps(MODELOPT_FILE)),
            "nothing: weights quantised by modelopt",
            id="weights quantised as a file beside config.json says",
        ),
        pytest.param(
            config(quantization_config={"quant_method": "torchao"}),
            "nothing: no reader knows the quantization of these weights",
            id="quantised weights that no reader knows",
        ),
    ],
)
def test_what_is_not_compared_is_said(weights: Path, change: Callable[[Path], None], reason: str) -> None:
    change(weights)
    inspection = inspect_weights(weights)
    assert inspection.compared_with.startswith(reason)
    assert inspection.problems == []


def test_weights_whose_tensors_only_the_file_beside_config_json_explains_are_sound(weights: Path) -> None:
    scale = "model.layers.0.self_attn.q_proj.weight_scale"
    shard = json.loads((weights / "model.safetensors.index.json").read_text())["weight_map"]
    shapes = dict(FIRST) | {scale: ()}
    write_shard(weights / shard["model.embed_tokens.weight"], shapes)
    write_index(weights, **{scale: shard["model.embed_tokens.weight"]})
    unexplained = inspect_weights(weights).problems
    assert any("1 tensors are unexpected" in problem for problem in unexplained), unexplained
    (weights / "hf_quant_config.json").write_text(json.dumps(MODELOPT_FILE))
    assert inspect_weights(weights).problems == []


def test_weights_that_the_engine_refuses_are_not_sound(weights: Path) -> None:
    config(quantization_config={"quant_method": "fbgemm_fp8"})(weights)
    (problem,) = inspect_weights(weights).problems
    assert problem.startswith("config.json: quantization_config: vLLM 0.32 refuses this checkpoint: ")
    assert problem.endswith("; use another checkpoint of the model, such as the unquantized one")


def test_hidden_files_are_no_part_of_the_weights(weights: Path) -> None:
    (weights / ".cache").mkdir()
    (weights / ".cache" / "modeling.py").write_text("import os")
    inspection = inspect_weights(weights)
    assert (inspection.problems, inspection.notes) == ([], [])


def test_a_redundant_head_of_tied_embeddings_is_sound(weights: Path) -> None:
    write_config(weights, tie_word_embeddings=True)
    assert inspect_weights(weights).problems == []
    write_shard(weights / "two.safetensors", without(SECOND, "lm_head.weight"))
    write_index(weights, **{"lm_head.weight": None})
    assert inspect_weights(weights).problems == []


def test_several_faults_are_told_at_once(weights: Path) -> None:
    for change in (wrong_shape, missing_norm, unlink("tokenizer.json")):
        change(weights)
    assert len(inspect_weights(weights).problems) == 3


def run(root: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["weights", "inspect", str(root), *options])
    return result.exit_code, result.stdout


def test_the_command_exits_0_when_sound_and_4_when_not(weights: Path) -> None:
    assert run(weights) == (0, run(weights)[1])
    assert run(weights)[1].endswith("\nsound\n")
    missing_norm(weights)
    code, told = run(weights)
    assert (code, told.endswith("\nunsound\n")) == (4, True)
    assert "problem       1 tensors are missing: model.norm.weight" in told


def test_json_and_yaml_say_the_same(weights: Path) -> None:
    as_json = json.loads(run(weights, "-o", "json")[1])
    assert as_json == yaml.safe_load(run(weights, "-o", "yaml")[1])
    assert as_json["dtypes"] == {"BF16": {key: as_json[key] for key in ("tensors", "parameters", "bytes")}}
    assert as_json["sound"] is True


def test_an_inspection_without_files_counts_nothing() -> None:
    assert Inspection("x").total.tensors == 0
