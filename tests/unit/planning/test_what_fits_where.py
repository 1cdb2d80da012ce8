"""Which plan each model gets on which hardware, and in which words it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from conclave.api.plan import Plan
from conclave.catalogue.accelerators import find_accelerator
from conclave.planning import roles
from conclave.planning.inventory import Barrier, Inventory, Node
from conclave.planning.plan import make_plan
from conclave.planning.request import PlanRequest, facts_for
from conclave.planning.settings import EngineSettings

A100_40, A100 = "NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB"
H100, H200, L4 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-H200", "NVIDIA-L4"
GIB = 2**30


def nodes(product: str, gpus: int, count: int = 1, free: int | None = None) -> tuple[Node, ...]:
    match = find_accelerator(product)
    memory_bytes = match.memory_bytes if match else 4 * GIB
    return tuple(
        Node(
            name=f"{product.lower()}-{index}",
            accelerator=product,
            memory_bytes=memory_bytes,
            gpus=gpus,
            free_gpus=gpus if free is None else free,
        )
        for index in range(count)
    )


def request(model: str, machines: tuple[Node, ...], **wanted: Any) -> PlanRequest:
    settings = {name: wanted.pop(name) for name in list(wanted) if name in EngineSettings.model_fields}
    wanted.setdefault("max_gpus", max(1, sum(node.gpus for node in machines)))
    return PlanRequest(
        facts=facts_for(model, None),
        inventory=Inventory(nodes=machines),
        settings=EngineSettings(**settings),
        **wanted,
    )


def plan(model: str, machines: tuple[Node, ...], **wanted: Any) -> Plan:
    outcome = make_plan(request(model, machines, **wanted))
    assert outcome.plan is not None, outcome.explanation
    return outcome.plan.flat()


FITS = [
    ("Mixtral 8x7B takes two A100 of 80 GB", "mistralai/Mixtral-8x7B-v0.1", nodes(A100, 8), {}, (2, 1, False, 32768)),
    ("Mixtral 8x22B takes four H200", "mistralai/Mixtral-8x22B-v0.1", nodes(H200, 8), {}, (4, 1, False, 65536)),
    ("DBRX takes four cards of 80 GB", "databricks/dbrx-instruct", nodes(A100, 8), {}, (4, 1, False, 32768)),
    ("DBRX takes eight cards of 40 GB", "databricks/dbrx-instruct", nodes(A100_40, 8), {}, (8, 1, False, 32768)),
    (
        "Grok-1 takes eight cards of 80 GB in fp8",
        "hpcai-tech/grok-1",
        nodes(H100, 8),
        {"quantization": "fp8"},
        (8, 1, False, 8192),
    ),
    (
        "Grok-1 takes two nodes unquantized",
        "hpcai-tech/grok-1",
        nodes(H100, 8, count=2),
        {},
        (8, 2, False, 8192),
    ),
    ("Phi-3 medium takes one card", "microsoft/Phi-3-medium-128k-instruct", nodes(A100, 8), {}, (1, 1, False, 131072)),
    (
        "Phi-3 medium on 24 GB cards takes two, the most it can",
        "microsoft/Phi-3-medium-4k-instruct",
        nodes(L4, 8),
        {},
        (2, 1, False, 4096),
    ),
    (
        "Llama 3.1 405B takes two nodes in a pipeline",
        "meta-llama/Llama-3.1-405B",
        nodes(H100, 8, count=2),
        {},
        (8, 2, False, 131072),
    ),
    ("DeepSeek V3 takes a node of H200", "deepseek-ai/DeepSeek-V3", nodes(H200, 8), {}, (8, 1, False, 163840)),
    (
        "Qwen3 235B in fp8 keeps experts whole where slices would cut its blocks",
        "Qwen/Qwen3-235B-A22B-FP8",
        nodes(H100, 8),
        {"tensor": 8},
        (8, 1, True, 40960),
    ),
    (
        "a tensor size larger than a node is shared out evenly",
        "mistralai/Mixtral-8x22B-v0.1",
        nodes(H100, 4, count=2),
        {"tensor": 8, "pipeline": 1},
        (8, 1, False, 65536),
    ),
    ("Llama 3 8B takes one L4", "meta-llama/Meta-Llama-3-8B", nodes(L4, 4), {}, (1, 1, False, 8192)),
]


@pytest.mark.parametrize(
    ("model", "machines", "wanted", "expected"), [row[1:] for row in FITS], ids=[row[0] for row in FITS]
)
def test_fits(
    model: str, machines: tuple[Node, ...], wanted: dict[str, Any], expected: tuple[int, int, bool, int]
) -> None:
    chosen = plan(model, machines, **wanted)
    assert (chosen.tensor, chosen.pipeline, chosen.expert_parallel, chosen.max_model_len) == expected


SAID = [
    (
        "DBRX on four cards of 80 GB has its whole context, seven times",
        "databricks/dbrx-instruct",
        nodes(A100, 4),
        {},
        ("weights (unquantized) take 61.3 GiB", "the model's whole context of 32768 tokens fits"),
        7,
    ),
    (
        "DBRX on eight cards of 40 GB has its whole context, five times",
        "databricks/dbrx-instruct",
        nodes(A100_40, 8),
        {},
        ("weights (unquantized) take 30.7 GiB", "the model's whole context of 32768 tokens fits"),
        5,
    ),
    (
        "Grok-1 in fp8 on eight cards of 80 GB has its whole context, often",
        "hpcai-tech/grok-1",
        nodes(H100, 8),
        {"quantization": "fp8_per_tensor"},
        ("weights (fp8 made at load) take 36.9 GiB", "the model's whole context of 8192 tokens fits"),
        125,
    ),
    (
        "Phi-3.5 MoE on two cards of 80 GB has its whole context",
        "microsoft/Phi-3.5-MoE-instruct",
        nodes(A100, 2),
        {},
        ("weights (unquantized) take 39.0 GiB", "the model's whole context of 131072 tokens fits"),
        4,
    ),
]


@pytest.mark.parametrize(
    ("model", "machines", "wanted", "words", "concurrency"), [row[1:] for row in SAID], ids=[row[0] for row in SAID]
)
def test_says_what_fits_with_what_context(
    model: str, machines: tuple[Node, ...], wanted: dict[str, Any], words: tuple[str, ...], concurrency: int
) -> None:
    chosen = plan(model, machines, **wanted)
    assert [word for word in words if not any(word in reason for reason in chosen.because)] == []
    assert chosen.max_concurrency == concurrency


REFUSED = [
    (
        "Phi-3 medium over eight cards",
        "microsoft/Phi-3-medium-128k-instruct",
        nodes(A100, 8),
        {"tensor": 8},
        ("TP=8 on NVIDIA-A100-SXM4-80GB", "10 key-value heads do not divide by 8"),
        "tensor sizes that vLLM takes for this model: 1, 2",
    ),
    (
        "a vocabulary that five does not divide",
        "microsoft/Phi-3-medium-128k-instruct",
        nodes(A100, 8),
        {"tensor": 5},
        ("TP=5 on NVIDIA-A100-SXM4-80GB", "the vocabulary, padded to 32064, does not divide by 5"),
        "tensor sizes",
    ),
    (
        "Grok-1 unquantized on eight cards of 80 GB",
        "hpcai-tech/grok-1",
        nodes(H100, 8),
        {},
        ("TP=8 on NVIDIA-H100-80GB-HBM3", "73.5 GiB for weights"),
        "engine.quantization fp8_per_tensor would fit: 8 GPUs",
    ),
    (
        "Llama 3.1 405B on one node",
        "meta-llama/Llama-3.1-405B",
        nodes(H100, 8),
        {},
        ("TP=8 on NVIDIA-H100-80GB-HBM3", "94.5 GiB for weights"),
        "16 GPUs of NVIDIA-H100-80GB-HBM3",
    ),
    (
        "a context longer than the model's",
        "mistralai/Mixtral-8x7B-v0.1",
        nodes(H100, 8),
        {"max_model_len": 65536},
        ("TP=1 on NVIDIA-H100-80GB-HBM3", "engine.maxModelLen is 65536, and the model's context is 32768 tokens"),
        "engine.maxModelLen 32768 would fit",
    ),
    (
        "a context longer than the KV cache",
        "meta-llama/Llama-3.1-8B",
        nodes(L4, 1),
        {"max_model_len": 131072},
        ("TP=1 on NVIDIA-L4", "one request of 131072 tokens needs 16.0 GiB of KV cache on each GPU"),
        "engine.maxModelLen",
    ),
    (
        "GPUs that others hold",
        "mistralai/Mixtral-8x7B-v0.1",
        nodes(A100, 8, free=1),
        {},
        (
            "TP=2 on NVIDIA-A100-SXM4-80GB",
            "needs 2 GPUs, in tensor-parallel groups of 2; 1 of 8 are free, at most 1 on one node",
        ),
        "2 GPUs of NVIDIA-A100-SXM4-80GB",
    ),
    (
        "an accelerator that no node has",
        "mistralai/Mixtral-8x7B-v0.1",
        nodes(A100, 8),
        {"accelerators": (H200,)},
        (
            H200,
            "no schedulable node that this deployment may use has this accelerator; accelerators there: "
            "NVIDIA-A100-SXM4-80GB",
        ),
        "",
    ),
    (
        "no node at all",
        "mistralai/Mixtral-8x7B-v0.1",
        (),
        {"max_gpus": 8},
        ("any accelerator", "accelerators there: none"),
        "GPUs of NVIDIA-A100-SXM4-80GB",
    ),
    (
        "expert parallelism without experts",
        "meta-llama/Llama-3.1-8B",
        nodes(H100, 2),
        {"tensor": 2, "expert_parallel": True},
        ("TP=2, EP on NVIDIA-H100-80GB-HBM3", "expert parallelism needs a mixture of experts"),
        "",
    ),
    (
        "a quantization that the weights do not have",
        "deepseek-ai/DeepSeek-V3",
        nodes(H200, 8),
        {"quantization": "awq"},
        ("TP=8 on NVIDIA-H200", "engine.quantization is awq, but the checkpoint's weights are fp8"),
        "",
    ),
    (
        "fp8 weights on a card without a kernel for them",
        "Qwen/Qwen3-235B-A22B-FP8",
        nodes("Tesla-V100-SXM2-32GB", 8),
        {"tensor": 8},
        (
            "TP=8, EP on Tesla-V100-SXM2-32GB",
            "V100-32GB has no kernel for fp8 weights, which need compute capability 7.5: it has 7.0",
        ),
        "",
    ),
    (
        "more GPUs than the owner allows",
        "mistralai/Mixtral-8x7B-v0.1",
        nodes(H100, 8),
        {"tensor": 8, "pipeline": 1, "max_gpus": 4},
        ("TP=8 on NVIDIA-H100-80GB-HBM3", "takes 8 GPUs, more than hardware.maxGpusPerReplica 4"),
        "",
    ),
    (
        "more stages than layers",
        "mistralai/Mixtral-8x7B-v0.1",
        nodes(H100, 8),
        {"pipeline": 33, "max_gpus": None},
        (
            "TP=1, PP=33 on NVIDIA-H100-80GB-HBM3",
            "33 pipeline stages are more than the model's 32 layers; needs 33 GPUs; 8 of 8 are free",
        ),
        "at most 32 pipeline stages, one for each layer",
    ),
    (
        "a million data-parallel ranks of experts",
        "mistralai/Mixtral-8x7B-v0.1",
        nodes(H100, 8),
        {"data": 1000000, "max_gpus": None},
        (
            "TP=1, DP=1000000 on NVIDIA-H100-80GB-HBM3",
            "the experts' width of 14336 does not divide by 1000000; needs 1000000 GPUs",
        ),
        "data sizes that vLLM takes for this model: 1, 2, 4, 7, 8, 14, 16",
    ),
    (
        "a million data-parallel ranks of a dense model",
        "meta-llama/Meta-Llama-3-8B",
        nodes(H100, 8),
        {"data": 1000000, "max_gpus": 8},
        ("TP=1, DP=1000000 on NVIDIA-H100-80GB-HBM3", "takes 1000000 GPUs, more than hardware.maxGpusPerReplica 8"),
        "hardware.maxGpusPerReplica is 8",
    ),
    (
        "a tensor size beyond every machine",
        "mistralai/Mixtral-8x7B-v0.1",
        nodes(H100, 8),
        {"tensor": 10**9, "max_gpus": None},
        ("TP=1000000000 on NVIDIA-H100-80GB-HBM3", "32 attention heads do not divide by 1000000000"),
        "tensor sizes that vLLM takes for this model: 1, 2, 4, 8, 16",
    ),
    (
        "a tensor size that takes more nodes than there are",
        "mistralai/Mixtral-8x7B-v0.1",
        nodes(H100, 8),
        {"tensor": 16, "max_gpus": None},
        ("TP=16 on NVIDIA-H100-80GB-HBM3", "needs 16 GPUs, in tensor-parallel groups of 16; 8 of 8 are free"),
        "16 GPUs of NVIDIA-H100-80GB-HBM3",
    ),
]


@pytest.mark.parametrize(
    ("model", "machines", "wanted", "rejection", "remedy"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_refused_with_reason_and_remedy(
    model: str, machines: tuple[Node, ...], wanted: dict[str, Any], rejection: tuple[str, str], remedy: str
) -> None:
    outcome = make_plan(request(model, machines, **wanted))
    assert outcome.plan is None
    option, reason = rejection
    reasons = [rejected.reason for rejected in outcome.rejected if rejected.option == option]
    assert any(reason in given for given in reasons), outcome.rejected
    assert any(remedy in given for given in outcome.remedies) if remedy else True, outcome.remedies
    assert len(outcome.explanation) <= 4096
    assert outcome.explanation.startswith("No layout fits.")


def test_the_order_of_accelerators_is_kept() -> None:
    machines = (*nodes(A100, 8), *nodes(H100, 8))
    assert plan("mistralai/Mixtral-8x7B-v0.1", machines, accelerators=(H100, A100)).accelerator == H100
    assert plan("mistralai/Mixtral-8x7B-v0.1", machines, accelerators=(A100, H100)).accelerator == A100


SPELLINGS = ("NVIDIA-A100", "NVIDIA A100", "nvidia a100", " NVIDIA-A100-SXM4-80GB ", "nvidia-a100 sxm4")


@pytest.mark.parametrize("wanted", SPELLINGS)
def test_an_accelerator_is_matched_by_prefix_however_it_is_spelt(wanted: str) -> None:
    assert plan("mistralai/Mixtral-8x7B-v0.1", nodes(A100, 8), accelerators=(wanted,)).accelerator == A100


@pytest.mark.parametrize("wanted", SPELLINGS)
def test_every_spelling_of_an_accelerator_gives_the_same_remedies(wanted: str) -> None:
    machines = (*nodes(A100, 1), *nodes(H100, 8))
    asked, usual = (
        make_plan(request("mistralai/Mixtral-8x7B-v0.1", machines, max_gpus=1, accelerators=(spelt,)))
        for spelt in (wanted, A100)
    )
    assert asked.plan is None
    assert asked.remedies == usual.remedies
    assert any(A100 in remedy for remedy in asked.remedies)


def test_a_worker_pod_holds_one_pipeline_stage() -> None:
    chosen = plan("meta-llama/Llama-3.1-405B", nodes(H100, 8, count=2))
    assert (chosen.nodes_per_replica, chosen.gpus_per_node, chosen.gpus_per_replica) == (2, 8, 16)


def test_a_stage_larger_than_a_node_is_shared_out_and_says_so() -> None:
    chosen = plan("mistralai/Mixtral-8x22B-v0.1", nodes(H100, 4, count=2), tensor=8, pipeline=1)
    assert (chosen.nodes_per_replica, chosen.gpus_per_node) == (2, 4)
    assert "a stage of 8 GPUs is larger than a node, so 2 pods hold 4 each" in chosen.because


def test_a_recorded_plan_is_kept_though_another_would_be_chosen() -> None:
    machines = nodes(A100, 8)
    old = plan("mistralai/Mixtral-8x7B-v0.1", machines, tensor=8, pipeline=1)
    kept = plan("mistralai/Mixtral-8x7B-v0.1", machines, previous=roles.Plan.of_flat(old))
    assert (kept.tensor, kept.max_model_len) == (8, old.max_model_len)
    assert kept.because[0] == "the recorded plan is still valid and is kept"


def test_a_recorded_context_is_kept_where_more_memory_appears() -> None:
    small = plan("meta-llama/Llama-3.1-8B", nodes(L4, 1), tensor=1)
    large = tuple(node.model_copy(update={"memory_bytes": node.memory_bytes}) for node in nodes(L4, 1))
    kept = plan("meta-llama/Llama-3.1-8B", large, gpu_memory_utilization=0.95, previous=roles.Plan.of_flat(small))
    assert kept.max_model_len == small.max_model_len < kept.longest_context_tokens


def test_a_recorded_plan_gives_way_where_its_gpus_are_gone() -> None:
    old = plan("mistralai/Mixtral-8x7B-v0.1", nodes(A100, 8), tensor=8, pipeline=1)
    assert plan("mistralai/Mixtral-8x7B-v0.1", nodes(A100, 4), previous=roles.Plan.of_flat(old)).tensor == 2


def test_a_shorter_context_is_planned_where_the_whole_does_not_fit() -> None:
    chosen = plan("meta-llama/Llama-3.1-8B", nodes(L4, 1))
    assert 8192 < chosen.max_model_len < 131072
    assert chosen.max_model_len <= chosen.longest_context_tokens
    assert any("of the model's 131072 tokens" in reason for reason in chosen.because)


def test_replicated_key_value_heads_are_explained() -> None:
    chosen = plan("google/gemma-2b", nodes(L4, 8), tensor=4)
    assert "1 key-value heads on 4 ranks: each is held 4 times" in chosen.because


def test_a_laptop_without_gpus_runs_a_small_model_over_two_ranks() -> None:
    machine = (Node(name="laptop", accelerator="cpu", memory_bytes=40 * GIB, gpus=2, free_gpus=2),)
    chosen = plan("google/gemma-2b", machine, tensor=2, max_model_len=2048)
    assert (chosen.accelerator, chosen.tensor, chosen.nodes_per_replica) == ("cpu", 2, 1)
    assert chosen.memory.graphs == 0
    assert 8 <= chosen.max_concurrency <= 9


def test_pinned_kv_cache_bytes_are_what_the_cache_gets() -> None:
    chosen = plan("mistralai/Mixtral-8x7B-v0.1", nodes(A100, 8), kv_cache_memory_bytes=8 * GIB)
    assert 8 * GIB - 2**20 < chosen.memory.kv_cache <= 8 * GIB


def test_unschedulable_nodes_are_left_out() -> None:
    cordon = Barrier(seen="cordoned", remedy="uncordon it")
    machines = tuple(node.model_copy(update={"barriers": (cordon,)}) for node in nodes(A100, 8))
    assert make_plan(request("mistralai/Mixtral-8x7B-v0.1", machines)).plan is None


def test_slices_of_a_gpu_cannot_join() -> None:
    machine = (Node(name="mig", accelerator=f"{A100}-MIG-3g.40gb", memory_bytes=40 * GIB, gpus=8, free_gpus=8),)
    outcome = make_plan(request("mistralai/Mixtral-8x7B-v0.1", machine, tensor=4))
    assert outcome.plan is None
    assert "MIG slices cannot join in tensor or pipeline parallelism" in outcome.explanation


def test_the_older_name_of_fp8_at_load_gives_the_same_plan() -> None:
    old, new = (
        plan("mistralai/Mixtral-8x7B-v0.1", nodes(H100, 8), quantization=name) for name in ("fp8", "fp8_per_tensor")
    )
    assert old.memory == new.memory
    assert any("weights (fp8 made at load)" in reason for reason in new.because)


def test_fp8_at_load_is_refused_for_a_checkpoint_that_is_fp8_already() -> None:
    outcome = make_plan(request("Qwen/Qwen3-235B-A22B-FP8", nodes(H100, 8), quantization="fp8_per_tensor"))
    assert (
        "engine.quantization is fp8_per_tensor, but the checkpoint's weights are fp8; remove engine.quantization"
        in outcome.explanation
    )
