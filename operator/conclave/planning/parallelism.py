"""Which parallel sizes vLLM accepts for a model, and why it refuses others.

Follows the checks of `vllm/model_executor/models/*.py`, `layers/{linear,vocab_parallel_embedding}.py` and
`layers/quantization`. Knows nothing of hardware.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from conclave.catalogue.modules import layer_formats
from conclave.catalogue.shapes import (
    ExpertMlp,
    GroupedAttention,
    LatentAttention,
    Matrix,
    MatrixFormat,
    ModelFacts,
    WeightFormat,
)
from conclave.planning.layout import Layout
from conclave.planning.weights import padded_vocabulary

_LARGEST_SHOWN = 16
_WITH_GROUPS = ("awq", "gptq", "packed")


def refusals(facts: ModelFacts, layout: Layout, weights: WeightFormat | None) -> tuple[str, ...]:
    """Every reason why vLLM would not start with this layout, the simplest first."""
    return tuple(dict.fromkeys(_refusals(facts, layout, weights)))


def tensor_sizes(facts: ModelFacts, largest: int = _LARGEST_SHOWN) -> tuple[int, ...]:
    """Tensor-parallel sizes that vLLM accepts."""
    return tuple(
        size for size in range(1, largest + 1) if not refusals(facts, Layout(tensor=size), facts.weight_format)
    )


def _refusals(facts: ModelFacts, layout: Layout, weights: WeightFormat | None) -> Iterator[str]:
    tensor = layout.tensor
    layers = {(layer, tuple(formats.items())): formats for layer, formats in layer_formats(facts, weights)}
    for (layer, _), formats in layers.items():
        if layer.attention is not None:
            yield from _heads(layer.attention, tensor, formats)
    if tensor > 1 and not facts.tensor:
        yield f"vLLM's {facts.architecture} has no tensor parallelism"
    for size in facts.sliced:
        if size % tensor:
            yield f"{size} groups of attention heads do not divide by {tensor}"
    vocabulary = padded_vocabulary(facts.vocab)
    if vocabulary % tensor:
        yield f"the vocabulary, padded to {vocabulary}, does not divide by {tensor}"
    for (layer, _), formats in layers.items():
        if layer.recurrence is not None and any(size % tensor for size in layer.recurrence.sliced):
            sizes = " or ".join(map(str, dict.fromkeys(layer.recurrence.sliced)))
            yield f"heads or groups of a layer that keeps a state, {sizes}, do not divide by {tensor}"
        if layer.dense is not None:
            yield from _mlp(layer.dense.intermediate, "feed-forward", tensor, formats["gate_up"], formats["down"])
        if layer.moe is not None:
            yield from _experts(layer.moe, layout, formats)
    if facts.vision is not None and facts.vision.heads % tensor:
        yield f"{facts.vision.heads} attention heads of the vision encoder do not divide by {tensor}"
    for encoder in facts.encoders:
        if encoder.heads is not None and encoder.heads % tensor:
            yield f"{encoder.heads} attention heads of the encoder in {encoder.name} do not divide by {tensor}"
    if facts.tensor_divides_intermediate and facts.moe is not None and facts.moe.intermediate % layout.gpus:
        yield f"the experts' width of {facts.moe.intermediate} does not divide by {layout.gpus} GPUs"
    if facts.tensor_within_experts and facts.moe is not None and tensor > facts.moe.experts:
        yield f"TP={tensor} is more than {facts.moe.experts} experts, which vLLM's {facts.architecture} refuses"
    if layout.pipeline > 1 and not facts.pipeline:
        yield f"vLLM's {facts.architecture} has no pipeline parallelism"
    if layout.pipeline > len(facts.layers):
        yield f"{layout.pipeline} pipeline stages are more than the model's {len(facts.layers)} layers"
    if layout.expert_parallel and facts.moe is None:
        yield "expert parallelism needs a mixture of experts, and this model is dense"


_Formats = Mapping[Matrix, MatrixFormat | None]


def _heads(attention: GroupedAttention | LatentAttention, tensor: int, formats: _Formats) -> Iterator[str]:
    if attention.heads % tensor:
        yield f"{attention.heads} attention heads do not divide by {tensor}"
    if isinstance(attention, LatentAttention):
        return
    kv_heads, matrices = attention.kv_heads, formats["qkv"]
    if kv_heads % tensor and tensor % kv_heads:
        yield f"{kv_heads} key-value heads do not divide by {tensor}"
    elif matrices is not None and matrices.block:
        share = max(1, kv_heads // tensor) * attention.head_dim
        if share % matrices.block[0]:
            yield f"a key share of {share} is no multiple of the fp8 block of {matrices.block[0]}"


def _mlp(width: int, name: str, tensor: int, gate_up: MatrixFormat | None, down: MatrixFormat | None) -> Iterator[str]:
    if width % tensor:
        yield f"the {name} width of {width} does not divide by {tensor}"
        return
    share = width // tensor
    if gate_up is not None and gate_up.block and share % gate_up.block[0]:
        yield f"a {name} share of {share} is no multiple of the fp8 block of {gate_up.block[0]}"
    # The groups lie along the inputs, of which only those of the down matrix are cut.
    if tensor > 1 and down is not None and down.method in _WITH_GROUPS and down.group and share % down.group:
        yield f"a {name} share of {share} is no multiple of the quantization group of {down.group}"


def _experts(moe: ExpertMlp, layout: Layout, formats: _Formats) -> Iterator[str]:
    tensor, slices, matrices = layout.tensor, layout.expert_slices, formats["experts"]
    if moe.intermediate % slices:
        yield f"the experts' width of {moe.intermediate} does not divide by {slices}"
    elif matrices is not None and slices > 1:
        share = moe.intermediate // slices
        if matrices.block and share % 32:
            yield f"an expert's share of {share} is no multiple of 32, the smallest fp8 block"
        if matrices.method in _WITH_GROUPS and matrices.group and share % matrices.group:
            yield f"an expert's share of {share} is no multiple of the quantization group of {matrices.group}"
    if layout.expert_parallel and layout.expert_ranks > moe.experts:
        yield f"{layout.expert_ranks} expert-parallel ranks are more than {moe.experts} experts"
    if moe.shared_intermediate:
        shared = formats["shared_gate_up"], formats["shared_down"]
        yield from _mlp(moe.shared_intermediate, "shared expert", tensor, *shared)
