"""The catalogue's data files: complete, consistent, and readable by the readers that fine-tunes go through too."""

import re

import pytest

from conclave.catalogue.accelerators import all_accelerators, find_accelerator
from conclave.catalogue.facts import read_config
from conclave.catalogue.licences import all_licences, find_licence
from conclave.catalogue.models import ModelEntry, all_models, find_model, suggest_models
from conclave.planning.kv_cache import kv_bytes_per_token
from conclave.planning.parallelism import tensor_sizes
from conclave.planning.weights import parameters
from conclave.policy.arguments import engine_argument_list
from conclave_models import CLASSES

WITH_WEIGHTS = [entry for entry in all_models() if entry.has_weights]

EVERYBODY_ASKS_FOR = [
    "mistralai/Mixtral-8x7B-v0.1",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "mistralai/Mixtral-8x22B-v0.1",
    "databricks/dbrx-base",
    "databricks/dbrx-instruct",
    "hpcai-tech/grok-1",
    "xai-org/grok-2",
    "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3-70B",
    "meta-llama/Llama-3.1-70B",
    "meta-llama/Llama-3.3-70B-Instruct",
    "meta-llama/Llama-3.1-405B",
    "google/gemma-2b",
    "google/gemma-7b",
    "microsoft/Phi-3-mini-4k-instruct",
    "microsoft/Phi-3-mini-128k-instruct",
    "microsoft/Phi-3-medium-4k-instruct",
    "microsoft/Phi-3-medium-128k-instruct",
    "microsoft/Phi-3.5-MoE-instruct",
    "google/gemma-2-9b",
    "google/gemma-2-27b",
    "deepseek-ai/DeepSeek-V3",
    "deepseek-ai/DeepSeek-R1",
    "Qwen/Qwen3-235B-A22B",
    "openai/gpt-oss-20b",
    "openai/gpt-oss-120b",
    "zai-org/GLM-4.5",
    "zai-org/GLM-4.5-Air",
    "MiniMaxAI/MiniMax-M2",
    "moonshotai/Kimi-K2-Instruct",
    "meta-llama/Llama-4-Scout-17B-16E",
    "meta-llama/Llama-4-Maverick-17B-128E",
]


@pytest.mark.parametrize("model_id", EVERYBODY_ASKS_FOR)
def test_a_model_that_users_ask_for_has_an_entry_with_weights(model_id: str) -> None:
    entry = find_model(model_id)
    assert entry is not None
    assert entry.id == model_id or model_id in entry.aliases
    assert entry.has_weights


@pytest.mark.parametrize("entry", WITH_WEIGHTS, ids=lambda entry: entry.id)
def test_the_parameters_counted_from_the_config_are_the_published_ones(entry: ModelEntry) -> None:
    counted = parameters(read_config(entry.config))
    assert entry.parameters is not None
    assert counted == pytest.approx(entry.parameters.total, rel=0.01)
    assert entry.parameters.active <= entry.parameters.total


@pytest.mark.parametrize("entry", WITH_WEIGHTS, ids=lambda entry: entry.id)
def test_an_entry_with_weights_names_licence_class_and_source(entry: ModelEntry) -> None:
    assert entry.terms is not None, entry.licence
    assert entry.served.engine_class == entry.config["architectures"][0]  # type: ignore[index]
    assert entry.served.by in ("vllm", "conclave", "not-yet")
    assert (entry.served.reason is None) == (entry.served.by == "vllm")
    assert entry.source


def test_what_is_served_by_a_class_of_ours_has_one_and_nothing_else_has() -> None:
    by_class = {(entry.served.by, entry.served.engine_class) for entry in WITH_WEIGHTS}
    assert {name for by, name in by_class if by == "conclave"} <= CLASSES.keys()
    assert {name for by, name in by_class if by == "vllm"}.isdisjoint(CLASSES)


@pytest.mark.parametrize(
    "entry", [entry for entry in all_models() if not entry.has_weights], ids=lambda entry: entry.id
)
def test_a_family_without_weights_says_why_and_points_only_to_models_that_are_there(entry: ModelEntry) -> None:
    assert entry.served.by in ("provider", "nobody")
    assert entry.served.reason
    assert entry.patterns
    for instead in entry.served.instead:
        alternative = find_model(instead)
        assert alternative is not None
        assert alternative.multimodal
        assert alternative.served.by == "vllm"


def test_the_parsers_are_those_that_a_deployment_may_name() -> None:
    """tests/unit/policy/test_allowlists.py holds the list to vLLM's registries."""
    allowed = engine_argument_list().allowed
    for entry in WITH_WEIGHTS:
        for name, value in entry.chat.engine_arguments.items():
            assert allowed[name].accepts(value if isinstance(value, str) else str(value).lower()), (entry.id, name)


def test_a_model_that_can_leave_its_thoughts_out_has_a_parser_for_them() -> None:
    assert [
        entry.id for entry in WITH_WEIGHTS if (entry.chat.thinking is None) != (entry.chat.reasoning_parser is None)
    ] == []


@pytest.mark.parametrize("entry", [entry for entry in WITH_WEIGHTS if "Base" in entry.id], ids=lambda entry: entry.id)
def test_a_base_model_has_no_parsers(entry: ModelEntry) -> None:
    assert entry.chat.engine_arguments == {}


def test_no_two_entries_answer_to_one_name() -> None:
    names = [name for entry in all_models() for name in entry.names]
    assert len(names) == len(set(names))


def test_no_model_with_weights_is_taken_for_a_family_without() -> None:
    patterns = [pattern for entry in all_models() for pattern in entry.patterns]
    for entry in WITH_WEIGHTS:
        for name in entry.names:
            assert not [pattern for pattern in patterns if re.fullmatch(pattern, name, re.IGNORECASE)], name


def test_every_licence_is_told_apart_and_fits_the_field_that_accepts_it() -> None:
    names = [name for licence in all_licences() for name in (licence.id, *licence.aliases)]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name)
        assert len(name) <= 64
    assert find_licence("no-such-licence") is None


TENSOR_SIZES = [
    ("Phi-3 medium stops at two GPUs", "microsoft/Phi-3-medium-4k-instruct", (1, 2)),
    ("Gemma 2B has eight heads", "google/gemma-2b", (1, 2, 4, 8)),
    ("Llama 4 Scout has 40 heads over 8 key-value heads", "meta-llama/Llama-4-Scout-17B-16E", (1, 2, 4, 8)),
    ("Mixtral replicates its key-value heads at 16", "mistralai/Mixtral-8x7B-v0.1", (1, 2, 4, 8, 16)),
    ("Grok-1 goes to 16", "hpcai-tech/grok-1", (1, 2, 4, 8, 16)),
]


@pytest.mark.parametrize(("model_id", "sizes"), [row[1:] for row in TENSOR_SIZES], ids=[row[0] for row in TENSOR_SIZES])
def test_tensor_sizes_follow_from_the_config(model_id: str, sizes: tuple[int, ...]) -> None:
    entry = find_model(model_id)
    assert entry is not None
    assert tensor_sizes(read_config(entry.config)) == sizes


KV_KIB_PER_TOKEN = [
    ("mistralai/Mixtral-8x7B-v0.1", 128),
    ("mistralai/Mixtral-8x22B-v0.1", 224),
    ("databricks/dbrx-base", 160),
    ("hpcai-tech/grok-1", 256),
    ("xai-org/grok-2", 256),
    ("meta-llama/Llama-3.1-405B", 504),
    ("google/gemma-2b", 18),
    ("google/gemma-7b", 448),
    ("microsoft/Phi-3-mini-4k-instruct", 384),
    ("microsoft/Phi-3-medium-4k-instruct", 200),
    ("microsoft/Phi-3.5-MoE-instruct", 128),
    ("deepseek-ai/DeepSeek-V3", 68.625),
    ("Qwen/Qwen3-235B-A22B", 188),
]


@pytest.mark.parametrize(("model_id", "kib"), KV_KIB_PER_TOKEN)
def test_kv_cache_of_a_token_follows_from_the_config(model_id: str, kib: float) -> None:
    entry = find_model(model_id)
    assert entry is not None
    assert kv_bytes_per_token(read_config(entry.config)) == kib * 1024


SUGGESTIONS = [
    ("another case", "mistralai/mixtral-8x7b-instruct-V0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    ("a missing organisation", "Mixtral-8x22B-v0.1", "mistralai/Mixtral-8x22B-v0.1"),
    ("a slip of the key", "databricks/dbrx-instrct", "databricks/dbrx-instruct"),
    ("the wrong organisation", "meta/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"),
]


@pytest.mark.parametrize(("wrong", "right"), [row[1:] for row in SUGGESTIONS], ids=[row[0] for row in SUGGESTIONS])
def test_a_wrong_id_is_not_found_and_the_right_one_suggested(wrong: str, right: str) -> None:
    assert find_model(wrong) is None
    assert right in suggest_models(wrong)


PRODUCTS = [
    ("an A10 is no A100", "NVIDIA-A10", "A10", None, False),
    ("an A10G is no A10", "NVIDIA-A10G", "A10G", None, False),
    ("an L4 is no L40", "NVIDIA-L4", "L4", None, False),
    ("an L40S is no L40", "NVIDIA-L40S", "L40S", None, False),
    ("the driver's spelling with spaces", "NVIDIA H100 80GB HBM3", "H100", None, False),
    ("a short name", "h200", "H200", None, False),
    ("the bridge variant is its own", "NVIDIA-H200-NVL", "H200-NVL", None, False),
    ("time-slicing is told", "NVIDIA-A10G-SHARED", "A10G", None, True),
    ("a MIG slice is told", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "A100-40GB", "1g.5gb", False),
    ("a MIG slice with media engines", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me", "H100", "1g.10gb.me", False),
    ("AMD's label", "AMD_Instinct_MI300X_OAM", "MI300X", None, False),
]


@pytest.mark.parametrize(
    ("product", "name", "mig", "shared"), [row[1:] for row in PRODUCTS], ids=[row[0] for row in PRODUCTS]
)
def test_a_product_label_names_one_accelerator(product: str, name: str, mig: str | None, shared: bool) -> None:
    match = find_accelerator(product)
    assert match is not None
    assert (match.accelerator.name, match.mig_profile, match.shared) == (name, mig, shared)
    assert match.memory_bytes <= match.accelerator.memory_bytes
    assert (match.memory_bytes < match.accelerator.memory_bytes) == (mig is not None)


@pytest.mark.parametrize("product", ["", "NVIDIA", "NVIDIA-H1000", "TPU-v5e", "cpu"])
def test_an_unknown_product_is_not_guessed(product: str) -> None:
    assert find_accelerator(product) is None


def test_a_process_never_gets_more_than_the_label_says() -> None:
    for accelerator in all_accelerators():
        if accelerator.label_mib is not None:
            assert 0.93 * accelerator.label_mib * 2**20 < accelerator.memory_bytes < accelerator.label_mib * 2**20
