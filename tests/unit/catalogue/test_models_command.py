"""`conclave models` and `conclave models show`, by the path that a user takes."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from conclave.errors import InvalidInput, UnknownModel
from conclave_cli.main import app

RUNNER = CliRunner()


def run(*arguments: str) -> str:
    result = RUNNER.invoke(app, ["models", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_list_holds_what_can_be_served_what_is_planned_only_and_what_nobody_can_serve() -> None:
    lines = run().splitlines()
    assert lines[0].split() == ["MODEL", "PARAMETERS", "ACTIVE", "LICENCE", "SERVED"]
    served = {line.split()[0]: line for line in lines[1:]}
    assert served["mistralai/Mixtral-8x7B-v0.1"].endswith("vLLM")
    assert served["databricks/dbrx-instruct"].endswith("Conclave's own class for vLLM")
    assert served["xai-org/grok-2"].endswith("planned only")
    assert served["google/gemini"].endswith("by its provider only")
    assert served["apple/MM1"].endswith("never released")


def test_a_filter_narrows_the_list_and_the_formats_agree() -> None:
    listed = json.loads(run("--filter", "apache", "-o", "json"))
    assert listed == yaml.safe_load(run("--filter", "apache", "-o", "yaml"))
    assert {entry["licence"] for entry in listed} == {"apache-2.0"}
    assert "hpcai-tech/grok-1" in [entry["id"] for entry in listed]


def test_show_gives_shape_memory_and_licence() -> None:
    shown = json.loads(run("show", "dbrx-instruct", "-o", "json"))
    assert shown["id"] == "databricks/dbrx-instruct"
    assert shown["tensorSizes"] == [1, 2, 4, 8, 16]
    assert shown["kvBytesPerToken"] == 160 * 1024
    assert "its conditions" in shown["licence"]
    assert shown["served"].startswith("Conclave's own class for vLLM: ")
    assert shown["config"]["d_model"] == 6144


def test_show_gives_the_parsers_and_when_the_model_thinks() -> None:
    shown = json.loads(run("show", "qwen3-30b", "-o", "json"))
    assert (shown["toolCallParser"], shown["reasoningParser"], shown["thinks"]) == ("hermes", "qwen3", "by default")
    assert "reasoningParser" not in json.loads(run("show", "dbrx-instruct", "-o", "json"))


def test_show_gives_the_reason_where_there_are_no_weights() -> None:
    shown = run("show", "apple/MM1-7B")
    assert "never its weights" in " ".join(shown.split())
    assert "kvBytesPerToken" not in shown


@pytest.mark.parametrize("model", ["gpt-4", "claude-3-opus", "gemini-1.5-pro"])
def test_show_says_how_to_reach_what_only_its_provider_serves(model: str) -> None:
    shown = json.loads(run("show", model, "-o", "json"))
    assert shown["served"].startswith("by its provider only: a later version reaches it through a ModelProvider; ")


def test_show_of_a_wrong_id_suggests_the_right_one() -> None:
    with pytest.raises(UnknownModel, match="did you mean databricks/dbrx-instruct"):
        RUNNER.invoke(app, ["models", "show", "databricks/dbrx-instrct"], catch_exceptions=False)


def test_show_suggests_aliases_and_only_options_that_the_command_has() -> None:
    with pytest.raises(UnknownModel) as refusal:
        RUNNER.invoke(app, ["models", "show", "mixtral"], catch_exceptions=False)
    assert "mixtral-8x7b-instruct" in str(refusal.value)
    with pytest.raises(UnknownModel) as refusal:
        RUNNER.invoke(app, ["models", "show", "nope"], catch_exceptions=False)
    assert str(refusal.value) == (
        'model "nope" is not in the catalogue. `conclave models` lists the known ids. For a model of your own: '
        "conclave plan --config config.json"
    )


@pytest.mark.parametrize(
    ("word", "said"), [("list", "`conclave models` alone lists"), ("acme/own", "conclave models show acme/own")]
)
def test_a_command_that_there_is_not_names_the_one_that_was_meant(word: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        RUNNER.invoke(app, ["models", word], catch_exceptions=False)


def test_a_filter_without_a_match_says_so() -> None:
    result = RUNNER.invoke(app, ["models", "--filter", "zzz"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", 'no model matches "zzz"\n')
