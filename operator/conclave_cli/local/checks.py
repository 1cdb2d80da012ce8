"""The checks of `conclave up` before it starts anything; each has its own message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from conclave.api.modeldeployment import ModelDeployment
from conclave.catalogue.measured import measure
from conclave.catalogue.models import find_model
from conclave.catalogue.servable import check_servable
from conclave.catalogue.shapes import ModelFacts
from conclave.errors import InvalidInput
from conclave.planning.checks import check_shape
from conclave.planning.request import facts_for
from conclave_weights.errors import WeightsUnfit
from conclave_weights.inspection.directory import inspect_weights
from conclave_weights.verify.adapter import check_adapter, check_fits
from conclave_weights.verify.soundness import check_weights, read_config


def check_model(deployment: ModelDeployment, weights: Path) -> ModelFacts:
    """The model's facts, read from its weights. Raises if these weights may not be served, or cannot be."""
    model = deployment.spec.model
    accepted = model.licence.accepted if model.licence else None
    if refusals := check_servable(model.id, accepted, has_config=True):
        raise InvalidInput("\n".join(refusals))
    check_weights(weights)
    config = read_config(weights)
    architecture = _architecture(config)
    entry = find_model(model.id)
    if entry is not None and _architecture(entry.config) != architecture:
        raise WeightsUnfit(
            f"weights {weights}: config.json names {architecture}, expected {_architecture(entry.config)} for "
            f"{model.id}; give the weights of {model.id}, or correct spec.model.id"
        )
    facts = facts_for(model.id, config)
    inspection = inspect_weights(weights)
    if found := inspection.problems:
        more = (
            f"\n  `conclave weights inspect {weights}` lists {len(found) - 1} more problems" if len(found) > 1 else ""
        )
        raise WeightsUnfit(f"weights {weights}: {found[0]}{more}")
    if facts.evidence is not None:
        measured = measure(inspection.tensors, len(facts.layers))
        facts = facts_for(model.id, config, measured)
    if problems := check_shape(deployment, facts):
        raise InvalidInput("\n".join(problem.message for problem in problems))
    return facts


def read_adapters(deployment: ModelDeployment, given: Sequence[str]) -> dict[str, Path]:
    """The directory of each adapter by its name, from `--adapter NAME=PATH` of the command line.

    Raises InvalidInput for an adapter that the deployment does not have, and for one without a directory.
    """
    names = [adapter.name for adapter in deployment.spec.model.adapters]
    directories: dict[str, Path] = {}
    for text in given:
        name, _, path = text.partition("=")
        if not path:
            raise InvalidInput(f"--adapter {text}: expected NAME=PATH, for instance support-tone=./support-tone")
        if name not in names:
            has = ", ".join(names) or "none"
            raise InvalidInput(
                f"--adapter {text}: spec.model.adapters has no adapter {name}, it has: {has}; add "
                f"{name} to the manifest"
            )
        if name in directories:
            raise InvalidInput(
                f"--adapter {text}: {name} is already set to {directories[name]}; give each adapter once"
            )
        directories[name] = Path(path).resolve()
    for name in names:
        if name not in directories:
            raise InvalidInput(
                f"spec.model.adapters: adapter {name} needs a directory on this machine; give it with --adapter "
                f"{name}=PATH"
            )
    return directories


def read_draft(deployment: ModelDeployment, given: Path | None) -> Path | None:
    """The directory of the head that drafts, from `--draft`. Raises if one is given or missing against the manifest."""
    wanted = deployment.spec.draft
    if wanted is not None and given is None:
        raise InvalidInput(
            "spec.engine.speculative.draft: the head needs a directory on this machine; give it with --draft PATH"
        )
    if given is None:
        return None
    if wanted is None:
        raise InvalidInput(
            f"--draft {given}: spec.engine.speculative has no draft; remove --draft, or add the draft to the manifest"
        )
    check_weights(given)
    return given.resolve()


def check_adapters(
    deployment: ModelDeployment, facts: ModelFacts, weights: Path, directories: Mapping[str, Path], *, on_cpu: bool
) -> None:
    """Raises if the engine could not load an adapter, or not on this machine."""
    for adapter in deployment.spec.model.adapters:
        if on_cpu and facts.moe is not None:
            raise InvalidInput(
                f"spec.model.adapters: adapter {adapter.name} is for a mixture of experts, and vLLM without GPUs "
                "runs adapters of dense models only; remove spec.model.adapters for this machine"
            )
        tensors = check_adapter(adapter.name, directories[adapter.name], adapter.max_rank)
        check_fits(adapter.name, tensors, weights)


def _architecture(config: dict[str, object]) -> str:
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else "no architecture"
