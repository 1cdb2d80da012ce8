"""`conclave validate`: all problems of all files at once, the catalogue's included, in three formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tests.manifest_table import BASE, merge
from typer.testing import CliRunner

from conclave.errors import InvalidInput
from conclave_cli.validate import validate

APP = typer.Typer()
APP.command()(validate)


def _run(*arguments: str, stdin: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(APP, [*arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def _model(change: dict[str, Any]) -> str:
    return yaml.safe_dump(merge(BASE, {"spec": change}))


BEYOND_ADMISSION = {
    "a licence that was not accepted": (
        {"model": {"id": "databricks/dbrx-instruct"}},
        "its licence databricks-open-model-license",
    ),
    "another licence": (
        {"model": {"id": "meta-llama/Meta-Llama-3-8B", "licence": {"accepted": "mit"}}},
        "spec.model.licence.accepted is mit, but its licence is",
    ),
    "a model that is planned only": (
        {"model": {"id": "xai-org/grok-2", "licence": {"accepted": "grok-2-community-license"}}},
        "this release plans this model and does not serve it yet: vLLM has had no class for Grok-2 since 0.24, "
        "and Conclave has one for Grok-1 only",
    ),
    "a model that was never released": ({"model": {"id": "apple/mm1"}}, "never released"),
    "a model that only its provider serves": (
        {"model": {"id": "openai/gpt-4o"}},
        "a ModelDeployment cannot serve this model",
    ),
    "a tensor size that the heads forbid": (
        {"model": {"id": "microsoft/Phi-3-medium-4k-instruct"}, "parallelism": {"tensor": 4}},
        "spec.parallelism: TP=4: 10 key-value heads do not divide by 4; "
        "tensor sizes that microsoft/Phi-3-medium-4k-instruct takes: 1, 2",
    ),
    "expert parallelism of a dense model": (
        {"model": {"id": "microsoft/Phi-3-mini-4k-instruct"}, "parallelism": {"expertParallel": True}},
        "expert parallelism needs a mixture of experts, and this model is dense",
    ),
    "more context than the model has": (
        {"engine": {"maxModelLen": 65536}},
        "spec.engine.maxModelLen: 65536 is more than the 32768 tokens of the model's context: at most 32768 is allowed",
    ),
    "a data class that the cluster does not have": (
        {"access": {"dataClass": "cosmic"}},
        'spec.access.dataClass: "cosmic" is not one of public < internal < confidential < restricted',
    ),
}


@pytest.mark.parametrize(("change", "expected"), BEYOND_ADMISSION.values(), ids=BEYOND_ADMISSION)
def test_what_the_operator_would_refuse_is_refused_here(change: dict[str, Any], expected: str) -> None:
    code, output = _run("-f", "-", stdin=_model(change))
    assert code == 2
    assert expected in output


def test_a_good_file_is_valid() -> None:
    assert _run("-f", "-", stdin=_model({})) == (0, "-:1: ModelDeployment mixtral is valid\n")


def test_every_file_and_document_is_judged_and_every_problem_told_with_its_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [\n", encoding="utf-8")
    models = tmp_path / "models.yaml"
    models.write_text(
        "apiVersion: conclave.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: a}\nspec:\n"
        "  model:\n    id: microsoft/Phi-3-medium-4k-instruct\n"
        "    source:\n      persistentVolumeClaim: {claimName: w}\n"
        "  parallelism:\n    tensor: 4\n  access:\n    dataClass: cosmic\n---\n" + _model({}),
        encoding="utf-8",
    )
    code, output = _run("-f", str(broken), "-f", str(models))
    assert code == 2
    places = [line.split(": ")[0] for line in output.splitlines()]
    assert places == [f"{broken}:2", f"{models}:9", f"{models}:12", f"{models}:14", "2 of 3 documents refused"]


NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: llm}\n"


def test_objects_of_other_kinds_beside_a_model_are_skipped_by_name() -> None:
    text = f"{NAMESPACE}---\napiVersion: v1\nkind: List\nitems: []\n---\n{_model({})}"
    result = CliRunner().invoke(APP, ["-f", "-"], input=text)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == ["-:1: skipped: Namespace llm", "-:5: skipped: List"]
    assert result.stdout == "-:9: ModelDeployment mixtral is valid\n"
    answer = CliRunner().invoke(APP, ["-f", "-", "-o", "json"], input=text)
    assert [document["name"] for document in json.loads(answer.stdout)["documents"]] == ["mixtral"]


@pytest.mark.parametrize(
    "text",
    [
        NAMESPACE,
        f"{NAMESPACE}---\n{_model({'suspend': 'yes'})}",
        f"{_model({})}---\n{_model({}).replace('v1alpha1', 'v9')}",
        f"{_model({})}---\n{_model({}).replace('ModelDeployment', 'ModelDeploymnet')}",
        f"{_model({})}---\n{_model({}).replace('conclave.dev', 'conclave.example')}",
        f"{_model({})}---\nkind: Namespace\n",
        f"{_model({})}---\n- Namespace\n",
    ],
    ids=[
        "no ModelDeployment at all",
        "a bad ModelDeployment beside a Namespace",
        "a version that does not exist",
        "a kind that is misspelt",
        "a group that is misspelt",
        "no apiVersion",
        "no object",
    ],
)
def test_nothing_else_is_skipped(text: str) -> None:
    code, output = _run("-f", "-", stdin=text)
    assert code == 2
    assert "1 of " in output.splitlines()[-1]


@pytest.mark.parametrize(("form", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)], ids=["JSON", "YAML"])
def test_the_answer_for_programs(form: str, parse: Any) -> None:
    code, output = _run("-f", "-", "-o", form, stdin=_model({"suspend": "yes"}))
    assert code == 2
    assert parse(output) == {
        "valid": False,
        "documents": [
            {
                "file": "-",
                "line": 1,
                "name": None,
                "problems": [
                    {
                        "line": 14,
                        "field": "spec.suspend",
                        "message": 'Invalid value: "string": spec.suspend in body must be of type boolean: "string"',
                    }
                ],
            }
        ],
    }


def test_a_model_of_ones_own_is_judged_by_its_config(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "hidden_size": 384,
                "intermediate_size": 512,
                "num_hidden_layers": 2,
                "num_attention_heads": 6,
                "num_key_value_heads": 6,
                "vocab_size": 32000,
                "max_position_embeddings": 2048,
                "torch_dtype": "bfloat16",
            }
        ),
        encoding="utf-8",
    )
    text = _model({"model": {"id": "acme/own", "configRef": {"name": "own"}}, "parallelism": {"tensor": 4}})
    assert _run("-f", "-", stdin=text)[0] == 0
    code, output = _run("-f", "-", "--config", str(config), stdin=text)
    assert code == 2
    assert "6 attention heads do not divide by 4" in output


def test_a_model_that_only_the_cluster_can_judge_is_valid_with_a_note(tmp_path: Path) -> None:
    text = _model({"model": {"id": "mistralai/Mixtral-8x7B-Instruct"}})
    result = CliRunner().invoke(APP, ["-f", "-"], input=text)
    assert (result.exit_code, result.stdout) == (0, "-:1: ModelDeployment mixtral is valid\n")
    assert result.stderr.startswith(
        "-:1: note: model mistralai/Mixtral-8x7B-Instruct: not in the catalogue; did you mean "
    )
    assert "In a cluster, a Job of the operator first reads config.json beside the weights" in result.stderr
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["Nobody"]}', encoding="utf-8")
    code, output = _run("-f", "-", "--config", str(config), stdin=text)
    assert code == 2
    assert f"spec.model: {config}: architectures is 'Nobody': vLLM 0.32 has no such class" in output
    assert "note" not in output


def test_the_clusters_own_data_classes_are_asked() -> None:
    text = _model({"access": {"dataClass": "secret"}})
    assert _run("-f", "-", "--data-classes", "open,secret", stdin=text)[0] == 0
    with pytest.raises(InvalidInput, match=r'--data-classes "a,a": a data class is listed twice in a, a; give'):
        _run("-f", "-", "--data-classes", "a,a", stdin=text)


def test_what_was_not_read_is_no_refused_document() -> None:
    assert _run("-f", "nope.yaml") == (2, "nope.yaml: no such file; correct the path\n1 file not read\n")


EXPECTED = "expected apiVersion: conclave.dev/v1alpha1 and kind: ModelDeployment"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nnodes: []\n", f"-:2: no apiVersion and no kind; {EXPECTED}"),
        (NAMESPACE, f"-:1: Namespace llm is not a ModelDeployment, and no other document is one; {EXPECTED}"),
        ("", "-:1: standard input is empty, expected a ModelDeployment"),
    ],
    ids=["no object of Kubernetes", "a Namespace alone", "nothing on standard input"],
)
def test_a_file_without_a_model_says_what_was_expected(text: str, said: str) -> None:
    code, output = _run("-f", "-", stdin=text)
    assert (code, output.splitlines()[0]) == (2, said)


def test_a_name_that_is_given_twice_is_noted() -> None:
    result = CliRunner().invoke(APP, ["-f", "-"], input=f"{_model({})}---\n{_model({})}")
    assert result.exit_code == 0
    assert "in two documents; the later one replaces the first" in result.stderr
