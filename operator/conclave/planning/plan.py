"""Makes the plan of a model: which accelerator, how many GPUs, in which parallel layout, and why.

    request -> options (search) -> what fits (evaluate, place) -> the best of it (rank) -> roles, with reasons

Called by the operator, `conclave plan` and `conclave up`. Pure and deterministic: facts and inventory in, outcome out.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.plan import PlanMemory, RejectedOption
from conclave.catalogue.facts import ModelFacts
from conclave.planning.explain import because, no_such_nodes, shared_gpus
from conclave.planning.inventory import Inventory
from conclave.planning.left_out import left_out_nodes
from conclave.planning.rank import kept, not_taken, rank
from conclave.planning.remedies import remedies
from conclave.planning.request import PlanRequest, request_for
from conclave.planning.roles import Plan, Role
from conclave.planning.search import Candidate, options, try_option

_MOST_REJECTED = 64
_MOST_EXPLAINED = 12
_LONGEST_EXPLANATION = 4000


class PlanOutcome(BaseModel):
    """A plan, or why there is none and what would help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan | None
    stages: tuple[PlanMemory, ...] = ()
    """Of the plan: the fullest GPU of each pipeline stage."""
    rejected: tuple[RejectedOption, ...] = ()
    """Every option that was considered and not taken (the plan itself carries at most 64)."""
    remedies: tuple[str, ...] = ()
    """What would fit, in plain words; only where nothing does."""

    @property
    def explanation(self) -> str:
        """Reasons and remedies in one paragraph that a condition's message (4096 characters) can hold."""
        reasons = [f"{option.option}: {option.reason}" for option in self.rejected[:_MOST_EXPLAINED]]
        if len(self.rejected) > _MOST_EXPLAINED:
            reasons.append(f"and {len(self.rejected) - _MOST_EXPLAINED} more options")
        would = f"What would help: {'; '.join(self.remedies)}." if self.remedies else ""
        said = f"No layout fits. {'; '.join(reasons)}."
        return f"{said[: _LONGEST_EXPLANATION - len(would) - 1]} {would}".strip()


def plan_deployment(
    deployment: ModelDeployment, facts: ModelFacts, inventory: Inventory, previous: Plan | None = None
) -> PlanOutcome:
    """The plan of a ModelDeployment on the nodes that its selector and regions allow."""
    return make_plan(request_for(deployment, facts, inventory, previous))


def make_plan(request: PlanRequest) -> PlanOutcome:
    """The best option that vLLM would start, or the reasons why there is none."""
    candidates: list[Candidate] = []
    left_out = left_out_nodes(request)
    missing = [
        no_such_nodes(product, request.inventory, request.left_out, are_said=bool(left_out))
        for product in request.accelerators or ("",)
        if not request.nodes_of(product)
    ]
    rejected: list[RejectedOption] = []
    for option in options(request):
        outcome = try_option(request, option)
        if isinstance(outcome, Candidate):
            candidates.append(outcome)
        else:
            rejected.append(outcome)
    if not candidates:
        told = (*missing, *left_out, *shared_gpus(request.nodes_of("")), *rejected)
        return PlanOutcome(plan=None, rejected=told, remedies=remedies(request))
    recorded = kept(request, candidates)
    best = recorded or min(candidates, key=lambda candidate: rank(request, candidate))
    ranked = sorted(
        (other for other in candidates if other.option != best.option), key=lambda other: rank(request, other)
    )
    barred = left_out_nodes(request, with_others=False)
    rejected = [*not_taken(best, ranked), *missing, *barred, *rejected]
    return PlanOutcome(
        plan=_plan(request, best, tuple(rejected[:_MOST_REJECTED]), kept=recorded is not None),
        stages=best.fit.stages,
        rejected=tuple(rejected),
    )


def _plan(request: PlanRequest, best: Candidate, rejected: tuple[RejectedOption, ...], *, kept: bool) -> Plan:
    layout, fit = best.option.layout, best.fit
    reasons = because(
        request.facts,
        request.settings,
        request.weights,
        best.option.device,
        layout,
        fit,
        best.placement,
        fixed=request.fixed_sizes,
        kept=kept,
    )
    device = best.option.device
    role = Role(
        accelerator=device.product,
        resource=device.resource or None,
        node_labels=device.selector or None,
        tensor=layout.tensor,
        pipeline=layout.pipeline,
        data=layout.data,
        expert_parallel=layout.expert_parallel,
        gpus_per_replica=layout.gpus,
        nodes_per_replica=best.placement.pods,
        gpus_per_node=best.placement.gpus_per_pod,
        max_model_len=fit.max_model_len,
        longest_context_tokens=fit.longest_context_tokens,
        kv_cache_tokens=fit.kv_cache_tokens,
        max_concurrency=fit.max_concurrency,
        memory=fit.memory,
    )
    shared = (f"{entry.option}: {entry.reason}" for entry in shared_gpus(best.option.nodes))
    return Plan(roles=(role,), because=(*reasons, *shared), rejected=rejected)
