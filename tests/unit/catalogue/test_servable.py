"""Which models are refused, in the words that the CLI and the operator share."""

import pytest

from conclave.catalogue.servable import check_servable, not_yet_served, to_be_inspected

REFUSED = [
    ("MM1 was never released", "apple/MM1", None, ["never released", "Llama-4-Scout", "multimodal"]),
    ("MM1 by its size", "apple/MM1-30B", None, ["never released"]),
    ("GPT by its family", "openai/gpt-4-turbo", None, ["a ModelDeployment cannot serve this model", "ModelProvider"]),
    ("GPT without its organisation", "gpt-4o", None, ["a ModelDeployment cannot serve this model"]),
    ("an o model", "o1-mini", None, ["a ModelDeployment cannot serve this model"]),
    ("Claude", "claude-3-opus-20240229", None, ["a ModelDeployment cannot serve this model"]),
    (
        "Claude with its organisation",
        "anthropic/claude-3-5-sonnet",
        None,
        ["a ModelDeployment cannot serve this model"],
    ),
    ("Gemini", "google/gemini-1.5-pro", None, ["a ModelDeployment cannot serve this model"]),
    ("an unknown model", "nobody/knows-this", None, ["not in the catalogue", "config.json"]),
    (
        "a licence that is not plainly open",
        "databricks/dbrx-instruct",
        None,
        [
            "databricks-open-model-license",
            "was not accepted and has conditions",
            "licence: {accepted: databricks-open-model-license}",
        ],
    ),
    ("a gated licence", "google/gemma-7b-it", None, ["gemma-terms-of-use"]),
    (
        "another model's licence",
        "meta-llama/Llama-3.1-8B",
        "llama-3-community-license",
        ["llama-3-community-license", "llama-3.1-community-license"],
    ),
    (
        "a licence that an open model does not have",
        "mistralai/Mixtral-8x7B-v0.1",
        "mit",
        ["apache-2.0", "remove spec.model.licence"],
    ),
]


@pytest.mark.parametrize(
    ("model_id", "accepted", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused_with_reason_and_remedy(model_id: str, accepted: str | None, words: list[str]) -> None:
    problems = check_servable(model_id, accepted, has_config=False)
    assert len(problems) == 1
    assert model_id in problems[0]
    for word in words:
        assert word in problems[0]


ALLOWED = [
    ("an open licence needs no word", "mistralai/Mixtral-8x7B-v0.1", None, False),
    ("an open licence may be named", "mistralai/Mixtral-8x7B-v0.1", "apache-2.0", False),
    ("an accepted licence", "databricks/dbrx-instruct", "databricks-open-model-license", False),
    ("a licence by the hub's name", "google/gemma-7b", "gemma", False),
    ("the open GPT", "openai/gpt-oss-120b", None, False),
    ("a fine-tune with its config.json", "acme/our-fine-tune", None, True),
]


@pytest.mark.parametrize(
    ("model_id", "accepted", "has_config"), [row[1:] for row in ALLOWED], ids=[row[0] for row in ALLOWED]
)
def test_not_refused(model_id: str, accepted: str | None, has_config: bool) -> None:
    assert check_servable(model_id, accepted, has_config) == ()


def test_a_config_makes_no_provider_model_servable() -> None:
    assert check_servable("gpt-4o", None, has_config=True)
    assert check_servable("apple/mm1", None, has_config=True)


def test_only_an_unknown_model_is_left_to_the_cluster() -> None:
    assert "did you mean databricks/dbrx-instruct" in str(to_be_inspected("databricks/dbrx-instrukt"))
    assert to_be_inspected("databricks/dbrx-instruct") is None
    assert to_be_inspected("openai/gpt-4o") is None


def test_what_the_engine_cannot_serve_yet_says_so_by_id_and_by_architecture() -> None:
    assert "Conclave has one for Grok-1 only" in str(not_yet_served("xai-org/grok-2"))
    assert "this release plans this model and does not serve it yet" in str(
        not_yet_served("acme/tuned-grok-2", "Grok1ForCausalLM")
    )
    assert "fp8_per_tensor" in str(not_yet_served("amd/dbrx-instruct-FP8-KV"))


SERVED = [
    ("mistralai/Mixtral-8x7B-v0.1", "MixtralForCausalLM"),
    ("databricks/dbrx-instruct", "DbrxForCausalLM"),
    ("hpcai-tech/grok-1", "Grok1ModelForCausalLM"),
    ("microsoft/Phi-3.5-MoE-instruct", "PhiMoEForCausalLM"),
]


@pytest.mark.parametrize(("model_id", "architecture"), SERVED, ids=[row[0] for row in SERVED])
def test_what_is_served_is_so_by_id_and_by_architecture(model_id: str, architecture: str) -> None:
    assert not_yet_served(model_id) is None
    assert not_yet_served("acme/tuned", architecture) is None
