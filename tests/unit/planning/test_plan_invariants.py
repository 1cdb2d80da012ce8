"""What holds for every plan: same input, same plan; more memory never hurts; bundles and bytes add up."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conclave.api.modeldeployment import KvCacheDtype, Quantization
from conclave.catalogue.facts import read_config
from conclave.catalogue.shapes import ModelFacts
from conclave.planning.evaluate import Device, Fit, evaluate
from conclave.planning.inventory import Inventory, Node
from conclave.planning.layout import Layout
from conclave.planning.plan import make_plan
from conclave.planning.request import PlanRequest
from conclave.planning.settings import EngineSettings

GIB = 2**30
H100 = "NVIDIA-H100-80GB-HBM3"


@st.composite
def models(draw: st.DrawFn) -> ModelFacts:
    """Llama-like and Mixtral-like models of any shape."""
    kv_heads = draw(st.sampled_from([1, 2, 4, 6, 8, 10]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 4, 5]))
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": heads * 128,
        "intermediate_size": draw(st.sampled_from([1024, 11008, 14336, 17920])),
        "num_hidden_layers": draw(st.integers(1, 96)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "vocab_size": draw(st.sampled_from([32000, 32064, 128256, 151936])),
        "max_position_embeddings": draw(st.sampled_from([2048, 8192, 131072])),
        "tie_word_embeddings": draw(st.booleans()),
        "torch_dtype": draw(st.sampled_from(["bfloat16", "float16", "float32"])),
    }
    if draw(st.booleans()):
        experts = draw(st.sampled_from([4, 8, 16]))
        config |= {"architectures": ["MixtralForCausalLM"], "num_local_experts": experts, "num_experts_per_tok": 2}
    return read_config(config)


@st.composite
def requests(draw: st.DrawFn) -> PlanRequest:
    """A model on one to three nodes of two kinds."""
    machines = tuple(
        Node(
            name=f"node-{index}",
            accelerator=draw(st.sampled_from([H100, "NVIDIA-A100-SXM4-40GB", "NVIDIA-L4"])),
            memory_bytes=draw(st.integers(8, 90)) * GIB,
            gpus=(gpus := draw(st.sampled_from([1, 2, 4, 8]))),
            free_gpus=draw(st.integers(0, gpus)),
        )
        for index in range(draw(st.integers(0, 3)))
    )
    return PlanRequest(
        facts=draw(models()),
        inventory=Inventory(nodes=machines),
        max_gpus=draw(st.sampled_from([1, 4, 8, 16])),
        tensor=draw(st.sampled_from([None, None, 1, 2, 8])),
        expert_parallel=draw(st.sampled_from([None, False, True])),
        settings=EngineSettings(
            quantization=draw(st.sampled_from([Quantization.NONE, Quantization.FP8])),
            kv_cache_dtype=draw(st.sampled_from(list(KvCacheDtype))),
            max_model_len=draw(st.sampled_from([None, 1024, 8192])),
        ),
    )


@settings(deadline=None, max_examples=60)
@given(requests())
def test_a_plan_is_deterministic_and_does_not_depend_on_the_order_of_nodes(request: PlanRequest) -> None:
    turned = Inventory(nodes=tuple(reversed(request.inventory.nodes)))
    assert make_plan(request) == make_plan(request)
    assert make_plan(request) == make_plan(request.model_copy(update={"inventory": turned}))


@settings(deadline=None, max_examples=60)
@given(requests())
def test_sizes_and_bytes_of_a_plan_add_up(request: PlanRequest) -> None:
    made = make_plan(request).plan
    assume(made is not None)
    assert made is not None
    plan = made.flat()
    memory = plan.memory
    parts = memory.weights + memory.kv_cache + memory.activations + memory.graphs + memory.overhead + memory.free
    assert parts == memory.total
    assert memory.free >= 0
    assert plan.gpus_per_replica == plan.tensor * plan.pipeline * plan.data <= request.max_gpus
    assert plan.nodes_per_replica * plan.gpus_per_node == plan.gpus_per_replica
    assert plan.max_model_len <= plan.longest_context_tokens <= request.facts.context_tokens
    assert plan.max_concurrency >= 1
    assert plan.because


@settings(deadline=None, max_examples=60)
@given(requests())
def test_a_plan_that_is_planned_again_stays(request: PlanRequest) -> None:
    plan = make_plan(request).plan
    assume(plan is not None)
    assert plan is not None
    again = make_plan(request.model_copy(update={"previous": plan})).plan
    assert again is not None
    differences = {"because", "rejected"}
    assert again.model_dump(exclude=differences) == plan.model_dump(exclude=differences)


@settings(deadline=None, max_examples=100)
@given(
    models(),
    st.integers(1, 180),
    st.integers(0, 60),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([None, 4096]),
)
def test_more_memory_never_makes_a_fitting_plan_unfit(
    facts: ModelFacts, gib: int, more_gib: int, tensor: int, pipeline: int, length: int | None
) -> None:
    """The batch is pinned: vLLM's own defaults take larger ones from 70 and from 160 GiB on."""
    layout = Layout(tensor=tensor, pipeline=pipeline)
    wanted = EngineSettings(max_model_len=length, max_num_seqs=256, max_num_batched_tokens=2048)
    product = "an unknown accelerator"
    small = evaluate(facts, wanted, Device.of(product, gib * GIB), layout)
    assume(isinstance(small, Fit))
    assert isinstance(small, Fit)
    large = evaluate(facts, wanted, Device.of(product, (gib + more_gib) * GIB), layout)
    assert isinstance(large, Fit)
    assert large.longest_context_tokens >= small.longest_context_tokens
