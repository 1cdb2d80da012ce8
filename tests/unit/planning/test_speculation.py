"""Drafts in a plan: their weights and KV cache are counted, and what vLLM 0.32 refuses is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from conclave.api.modeldeployment import ModelDeployment
from conclave.catalogue.facts import read_config
from conclave.catalogue.models import find_model
from conclave.catalogue.shapes import ModelFacts
from conclave.planning.checks import check_shape
from conclave.planning.evaluate import Device, Fit, Misfit, evaluate
from conclave.planning.inventory import Inventory, Node
from conclave.planning.kv_cache import kv_bytes_per_token
from conclave.planning.layout import Layout
from conclave.planning.memory import graph_bytes
from conclave.planning.plan import plan_deployment
from conclave.planning.settings import EngineSettings, Speculation, in_flight_tokens

GIB = 2**30
H100, H200 = Device.of("NVIDIA-H100-80GB-HBM3", 0), Device.of("NVIDIA-H200", 0)
LLAMA, DEEPSEEK = "meta-llama/Llama-3.1-8B", "deepseek-ai/DeepSeek-V3"
HEAD = {"source": {"persistentVolumeClaim": {"claimName": "heads"}}}


def facts(model: str) -> ModelFacts:
    entry = find_model(model)
    assert entry is not None
    return read_config(entry.config)


def fit(model: str, device: Device, layout: Layout, method: str | None = None, tokens: int = 1, **settings: Any) -> Fit:
    speculation = Speculation.model_validate({"method": method, "tokens": tokens}) if method else None
    found = evaluate(facts(model), EngineSettings(speculation=speculation, **settings), device, layout)
    assert isinstance(found, Fit), found
    return found


def deployment(model: str, tensor: int = 1, pipeline: int = 1, **speculative: Any) -> ModelDeployment:
    return ModelDeployment.model_validate(
        {
            "apiVersion": "conclave.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "drafts"},
            "spec": {
                "model": {"id": model, "source": {"persistentVolumeClaim": {"claimName": "weights"}}},
                "engine": {"speculative": speculative},
                "parallelism": {"tensor": tensor, "pipeline": pipeline},
                "access": {"dataClass": "internal"},
            },
        }
    )


def test_drafts_of_the_own_text_take_no_weights_and_the_text_of_every_sequence() -> None:
    """vLLM keeps the texts on the GPU where it looks them up there (`RequestState.all_token_ids`)."""
    without, with_drafts = fit(LLAMA, H100, Layout()), fit(LLAMA, H100, Layout(), "ngram", 3)
    assert with_drafts.memory.weights == without.memory.weights
    texts = 1024 * facts(LLAMA).context_tokens * 4
    assert with_drafts.memory.activations - without.memory.activations == pytest.approx(texts, rel=0.2)


def test_layers_of_the_model_that_draft_are_counted_as_one_more_layer() -> None:
    """Of DeepSeek V3's 61 layers, 58 have experts; the 62nd drafts, with 256 experts of its own."""
    layout = Layout(tensor=8)
    without, with_drafts = fit(DEEPSEEK, H200, layout), fit(DEEPSEEK, H200, layout, "mtp")
    experts = 256 * 3 * 7168 * 2048 / 8
    assert with_drafts.draft_bytes == with_drafts.memory.weights - without.memory.weights
    assert experts < with_drafts.draft_bytes < 1.25 * experts
    assert without.kv_cache_tokens / with_drafts.kv_cache_tokens == pytest.approx(
        (62 / 61) * (without.memory.kv_cache / with_drafts.memory.kv_cache), rel=0.001
    )


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("eagle", 2 * 4096**2),
        ("eagle3", 3 * 4096**2 + (32 + 2 * 8) * 128 * 4096 + 128256 * 4096),
    ],
    ids=["a head that shares the model's output head", "a head of its own output, which reads three hidden states"],
)
def test_a_head_is_counted_as_a_layer_and_what_joins_it_to_the_model(method: str, parameters: int) -> None:
    layer = 4096 * (32 + 2 * 8) * 128 + 4096**2 + 3 * 4096 * 14336
    found = fit(LLAMA, H100, Layout(), method, 3)
    assert found.draft_bytes == pytest.approx(2 * (layer + parameters), rel=0.001)


def test_a_head_has_a_layer_of_the_kv_cache() -> None:
    found = fit(LLAMA, H100, Layout(), "eagle", 2, max_model_len=8192)
    assert found.memory.kv_cache / found.kv_cache_tokens == pytest.approx(
        kv_bytes_per_token(facts(LLAMA)) * 33 / 32, rel=0.001
    )


def test_only_the_last_stage_holds_what_drafts() -> None:
    layout = Layout(pipeline=2)
    without, with_head = fit(LLAMA, H100, layout), fit(LLAMA, H100, layout, "eagle", 2)
    first, last = ([stages[index].weights for stages in (without.stages, with_head.stages)] for index in (0, 1))
    assert first[0] == first[1]
    assert last[1] - last[0] == with_head.draft_bytes
    alone = fit(LLAMA, H100, Layout(), "eagle", 2).draft_bytes
    assert with_head.draft_bytes - alone == 128256 * 4096 * 2, "the embedding, which only the first stage has"


def test_chunked_windows_are_kept_whole_beside_a_head() -> None:
    """vLLM has no hybrid KV cache manager for them then."""
    scout = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
    layout = Layout(tensor=8)
    without, with_head = (fit(scout, H100, layout, method, 2, max_model_len=131072) for method in (None, "eagle3"))
    assert with_head.max_concurrency < 0.5 * without.max_concurrency


@pytest.mark.parametrize(
    ("pipeline", "overlaps", "batches"),
    [(1, True, 2), (1, False, 1), (4, True, 5), (4, False, 4)],
    ids=["one more is scheduled", "none is", "a stage each and one more", "a stage each"],
)
def test_tokens_in_flight(pipeline: int, overlaps: bool, batches: int) -> None:
    assert in_flight_tokens(2048, pipeline, overlaps=overlaps) == batches * 2048


def test_drafts_of_the_own_text_end_asynchronous_scheduling() -> None:
    def overlaps(method: str) -> bool:
        return EngineSettings(speculation=Speculation.model_validate({"method": method, "tokens": 1})).overlaps_steps

    assert [overlaps(method) for method in ("ngram", "eagle", "mtp")] == [False, True, True]
    assert EngineSettings().overlaps_steps
    assert not EngineSettings(async_scheduling=False).overlaps_steps


def test_graphs_of_whole_steps_are_captured_too() -> None:
    """Steps of 3 tokens: 3, 6, 12, 24, 48 … 504; of these, every second multiple of 24 is a size anyway."""
    plain, of_three = (graph_bytes(1, 512, tokens) for tokens in (1, 3))
    assert plain == graph_bytes(1, 512)
    assert of_three > plain


REFUSED = [
    pytest.param(
        LLAMA,
        {},
        {"method": "mtp", "numSpeculativeTokens": 1},
        "engine.speculative.method is mtp, and the model has no layers that draft (num_nextn_predict_layers)",
        id="no layers that draft",
    ),
    pytest.param(
        "mistralai/Mixtral-8x7B-v0.1",
        {},
        {"method": "eagle3", "numSpeculativeTokens": 2, "draft": HEAD},
        "vLLM's MixtralForCausalLM hands no hidden states to an EAGLE-3 head; use ngram, or eagle with a head",
        id="a class without EAGLE-3",
    ),
    pytest.param(
        "openai/gpt-oss-120b",
        {"pipeline": 2},
        {"method": "eagle3", "numSpeculativeTokens": 2, "draft": HEAD},
        "vLLM's GptOssForCausalLM does not hand hidden states on over 2 pipeline stages; set parallelism.pipeline 1",
        id="a class that does not hand states on",
    ),
]


@pytest.mark.parametrize(("model", "sizes", "speculative", "message"), REFUSED)
def test_what_vllm_refuses_is_refused_by_name(
    model: str, sizes: dict[str, int], speculative: dict[str, Any], message: str
) -> None:
    wanted = deployment(model, **sizes, **speculative)
    (found,) = check_shape(wanted, facts(model))
    assert found.path == ("spec", "engine", "speculative")
    assert found.message.startswith("spec.engine.speculative.method is ")
    assert message in found.message


TAKEN = [
    (LLAMA, {"pipeline": 2}, {"method": "eagle3", "numSpeculativeTokens": 2, "draft": HEAD}),
    ("mistralai/Mixtral-8x7B-v0.1", {"pipeline": 2}, {"method": "eagle", "numSpeculativeTokens": 2, "draft": HEAD}),
    ("mistralai/Mixtral-8x7B-v0.1", {"pipeline": 2}, {"method": "ngram", "numSpeculativeTokens": 2}),
    (DEEPSEEK, {"pipeline": 2}, {"method": "mtp", "numSpeculativeTokens": 3}),
]


@pytest.mark.parametrize(
    ("model", "sizes", "speculative"),
    TAKEN,
    ids=["EAGLE-3 over stages of a Llama", "EAGLE over stages", "the own text over stages", "MTP over stages"],
)
def test_what_vllm_takes_is_taken(model: str, sizes: dict[str, int], speculative: dict[str, Any]) -> None:
    assert check_shape(deployment(model, **sizes, **speculative), facts(model)) == ()


def test_beside_adapters_a_step_has_room_for_all_drafts() -> None:
    """vLLM refuses it otherwise (`vllm/engine/arg_utils.py`)."""
    settings = {"adapters": 1, "adapter_rank": 8, "max_num_seqs": 512, "max_num_batched_tokens": 1024}
    speculation = Speculation.model_validate({"method": "ngram", "tokens": 2})
    found = evaluate(facts(LLAMA), EngineSettings(speculation=speculation, **settings), H100, Layout())
    assert isinstance(found, Misfit)
    assert found.reason.startswith("512 sequences of 3 tokens each, which engine.speculative asks for, are 1536 tokens")
    assert isinstance(fit(LLAMA, H100, Layout(), "ngram", 1, **settings), Fit)


@pytest.mark.parametrize(
    ("model", "speculative", "said"),
    [
        (LLAMA, {"method": "ngram", "numSpeculativeTokens": 4}, "ngram drafts 4 tokens a step"),
        (
            LLAMA,
            {"method": "eagle3", "numSpeculativeTokens": 3, "draft": HEAD},
            "eagle3 drafts 3 tokens a step; its head is counted as 1.5 GiB of weights and a layer of KV cache, the "
            "most that is usual for this model, since the plan does not read the head's config.json",
        ),
        (
            DEEPSEEK,
            {"method": "mtp", "numSpeculativeTokens": 1},
            "mtp drafts 1 token a step; the model's layers for that take 1.5 GiB of weights and their own KV cache",
        ),
    ],
    ids=["the own text", "a head", "the model's layers"],
)
def test_a_plan_says_what_drafts_cost(model: str, speculative: dict[str, Any], said: str) -> None:
    node = Node(name="a", accelerator=H200.product, memory_bytes=H200.memory_bytes, gpus=8, free_gpus=8)
    wanted = deployment(model, tensor=1 if model == LLAMA else 8, **speculative)
    outcome = plan_deployment(wanted, facts(model), Inventory(nodes=(node,)))
    assert outcome.plan is not None, outcome.explanation
    assert said in outcome.plan.because
