"""What `conclave up` refuses before anything is started, each with a message of its own."""

from __future__ import annotations

import socket
from pathlib import Path

from conclave.api.modeldeployment import ModelDeployment
from conclave.catalogue.models import find_model
from conclave.catalogue.servable import check_servable
from conclave.catalogue.shapes import ModelFacts
from conclave.errors import EnvironmentUnfit, InvalidInput
from conclave.planning.checks import check_shape
from conclave.planning.plan import facts_for
from conclave_weights.errors import WeightsUnfit
from conclave_weights.soundness import check_weights, read_config


def check_model(deployment: ModelDeployment, weights: Path) -> ModelFacts:
    """The model's facts from its weights; refuses what may not, or cannot, be served from them."""
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
            f"weights {weights}: config.json names {architecture}, while {model.id} is {_architecture(entry.config)}; "
            "give that model's weights, or correct spec.model.id"
        )
    facts = facts_for(model.id, config)
    if problems := check_shape(deployment, facts):
        raise InvalidInput("\n".join(problem.message for problem in problems))
    return facts


def _architecture(config: dict[str, object]) -> str:
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else "no architecture"


def check_port(port: int) -> None:
    """A port that somebody listens on is refused now, not after minutes of loading."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise EnvironmentUnfit(
                f"port {port}: {error.strerror}; choose a free one with --port, or end what listens there"
            ) from error
