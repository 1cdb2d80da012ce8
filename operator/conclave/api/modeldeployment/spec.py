"""The spec of a ModelDeployment, put together from its parts, and the rules that bind several parts."""

from __future__ import annotations

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.modeldeployment.access import Access
from conclave.api.modeldeployment.engine import Engine
from conclave.api.modeldeployment.hardware import Hardware
from conclave.api.modeldeployment.model import Model
from conclave.api.modeldeployment.parallelism import Parallelism
from conclave.api.modeldeployment.runtime import Runtime
from conclave.api.modeldeployment.scaling import Scaling
from conclave.api.modeldeployment.speculative import Draft
from conclave.api.modeldeployment.telemetry import Telemetry
from conclave.api.rules import Message, Rule

READY_TIMEOUT = "VLLM_ENGINE_READY_TIMEOUT_S"
"""vLLM's variable behind `runtime.startupSeconds`."""


def _or_one(size: int | None) -> int:
    """A 0, which the schema refuses, counts as CEL counts it."""
    return 1 if size is None else size


class ModelDeploymentSpec(ApiModel):
    """One model, served."""

    rules = (
        Rule(
            "(has(self.parallelism.tensor) ? self.parallelism.tensor : 1)"
            " * (has(self.parallelism.pipeline) ? self.parallelism.pipeline : 1)"
            " * self.parallelism.data <= self.hardware.maxGpusPerReplica",
            lambda spec: (
                _or_one(spec.parallelism.tensor) * _or_one(spec.parallelism.pipeline) * spec.parallelism.data
                <= spec.hardware.max_gpus_per_replica
            ),
            Message(
                "parallelism: tensor {parallelism.tensor|1} x pipeline {parallelism.pipeline|1} x data "
                "{parallelism.data} is more than hardware.maxGpusPerReplica {hardware.maxGpusPerReplica}: "
                "raise hardware.maxGpusPerReplica, or lower a size"
            ),
        ),
        Rule(
            f"!has(self.runtime.startupSeconds) || !has(self.engine.env) || !('{READY_TIMEOUT}' in self.engine.env)",
            lambda spec: spec.runtime.startup_seconds is None or READY_TIMEOUT not in spec.engine.env,
            Message(
                f"runtime.startupSeconds {{runtime.startupSeconds|}} and engine.env {READY_TIMEOUT} say the same "
                "thing: leave one of them out"
            ),
        ),
    )

    model: Model
    """Which model is served, under which name and from which weights. `id` and `source` must be given."""
    engine: Engine = Field(default_factory=Engine)
    hardware: Hardware = Field(default_factory=Hardware)
    parallelism: Parallelism = Field(default_factory=Parallelism)
    scaling: Scaling = Field(default_factory=Scaling)
    runtime: Runtime = Field(default_factory=Runtime)
    access: Access
    """Who may call the model, and where its data may be. `dataClass` must be given."""
    telemetry: Telemetry = Field(default_factory=Telemetry)
    """What the serving processes report, and to which collector. Default: nothing. A change starts a rollout."""
    suspend: bool = False
    """True stops all pods. The object, its plan and its token stay."""

    @property
    def draft(self) -> Draft | None:
        """The head that drafts tokens, if it has files of its own."""
        return self.engine.speculative.draft if self.engine.speculative else None

    @property
    def claims(self) -> tuple[str, ...]:
        """Names of the PersistentVolumeClaims of the model, its adapters and its draft, each name once."""
        sources = (*self.model.sources, *((self.draft.source,) if self.draft else ()))
        claims = (source.persistent_volume_claim for source in sources)
        return tuple(dict.fromkeys(claim.claim_name for claim in claims if claim))
