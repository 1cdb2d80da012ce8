"""Chooses among the options that fit: the recorded option while it fits, otherwise the best by a fixed order."""

from __future__ import annotations

from collections.abc import Iterator

from conclave.api.plan import RejectedOption
from conclave.planning.evaluate import Fit, evaluate
from conclave.planning.explain import option_name, why_not
from conclave.planning.request import PlanRequest
from conclave.planning.search import Candidate

USEFUL_CONTEXT_TOKENS = 32768
"""Where no length is asked for, GPUs are added until a request of this many tokens (or the whole context) fits."""


def rank(request: PlanRequest, candidate: Candidate) -> tuple[object, ...]:
    """The least is the best. What comes first outweighs all that follows:

    a useful context, or else the longest; the owner's order of accelerators; a stage inside one node, because tensor
    parallelism exchanges activations twice a layer; few pipeline stages, because a token passes them one after the
    other, so that TP=8 answers sooner than TP=4, PP=2 on as many GPUs; few GPUs; experts sliced rather than spread,
    which loads all ranks alike; the smaller device, which leaves the larger to models that need it.
    """
    useful = min(request.facts.context_tokens, USEFUL_CONTEXT_TOKENS)
    layout, placement = candidate.option.layout, candidate.placement
    is_useful = request.settings.max_model_len is not None or candidate.fit.max_model_len >= useful
    wanted = [
        index
        for index, product in enumerate(request.accelerators)
        if any(node.is_meant(product) for node in candidate.option.nodes)
    ]
    return (
        not is_useful,
        0 if is_useful else -candidate.fit.max_model_len,
        min(wanted, default=0),
        placement.gpus_per_pod < layout.tensor,
        layout.pipeline,
        layout.gpus,
        layout.expert_parallel,
        candidate.option.device.memory_bytes,
        candidate.option.device.product,
    )


def kept(request: PlanRequest, candidates: list[Candidate]) -> Candidate | None:
    """The option of the recorded plan, if it still fits."""
    if request.previous is None:
        return None
    old = request.previous.role
    for candidate in candidates:
        layout = candidate.option.layout
        same = (layout.tensor, layout.pipeline, layout.data, layout.expert_parallel) == (
            old.tensor,
            old.pipeline,
            old.data,
            old.expert_parallel,
        )
        device = candidate.option.device
        is_asked_alike = (device.resource or None, device.selector.keys()) == (
            old.resource,
            (old.node_labels or {}).keys(),
        )
        if same and device.product == old.accelerator and is_asked_alike:
            return _with_length(request, candidate, old.max_model_len)
    return None


def _with_length(request: PlanRequest, candidate: Candidate, length: int) -> Candidate:
    """The recorded length as well, where none is asked for: another one would restart the engine."""
    if request.settings.max_model_len is not None:
        return candidate
    settings = request.settings.model_copy(update={"max_model_len": length})
    fit = evaluate(request.facts, settings, candidate.option.device, candidate.option.layout)
    return candidate._replace(fit=fit) if isinstance(fit, Fit) else candidate


def not_taken(best: Candidate, others: list[Candidate]) -> Iterator[RejectedOption]:
    """The candidates that fit and were not chosen, each with the reason."""
    for other in others:
        yield RejectedOption(
            option=option_name(other.option.layout, other.option.device.product),
            reason=why_not(other.option.layout, other.fit, best.option.layout, best.fit),
        )
