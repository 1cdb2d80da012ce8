"""How many replicas each Serve deployment has, and how many requests it takes: what changes under a running engine.

The Serve config has them as options of its `deployments`, not as arguments of the application: an application whose
arguments change is a new version to Serve (`get_app_code_version` in Ray 2.60), which then starts every replica anew.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from conclave.engine.arguments import AutoscalingArguments, QueueArguments

ENGINE, INGRESS = "engine", "ingress"
"""Names of the Serve deployments."""
INGRESS_TARGET_REQUESTS = 100
"""Streams that one ingress process carries well; it only copies bytes."""
INGRESS_REFUSALS = 256
"""Requests beyond what the engine takes that one ingress process holds while it refuses them."""
IDLE_TIMEOUT_S = 120
"""How long a worker pod without a replica is kept."""
LAST_ANSWERS_S = 600
"""How long a replica that is no longer needed may work on the answers that it has begun: OpenAI's clients wait as long.

Serve's own 20 s cut longer ones off. A replica whose health check fails is not waited for (`RAY_ENVIRONMENT`); one that
was still starting is.
"""

Options = dict[str, Any]


def engine_options(autoscaling: AutoscalingArguments, queue: QueueArguments) -> Options:
    """Of the engine's deployment; the queue that fills is its own."""
    return {
        "autoscaling_config": autoscaling.model_dump(mode="json"),
        "graceful_shutdown_timeout_s": LAST_ANSWERS_S,
        "max_ongoing_requests": queue.max_ongoing_requests,
        "max_queued_requests": queue.max_queued_requests,
    }


def ingress_options(autoscaling: AutoscalingArguments, queue: QueueArguments) -> Options:
    """At least one ingress, also where the engine may go to zero: something must answer and wake it. What the engine's
    queue cannot take is refused here at once.
    """
    in_flight = queue.max_ongoing_requests * autoscaling.max_replicas
    scaling = {
        "min_replicas": 1,
        "max_replicas": ceil(in_flight / INGRESS_TARGET_REQUESTS),
        "target_ongoing_requests": INGRESS_TARGET_REQUESTS,
        "upscale_delay_s": autoscaling.upscale_delay_s,
        "downscale_delay_s": autoscaling.downscale_delay_s,
    }
    return {
        "autoscaling_config": scaling,
        "graceful_shutdown_timeout_s": LAST_ANSWERS_S,
        "max_ongoing_requests": in_flight + queue.max_queued_requests + INGRESS_REFUSALS,
        "max_queued_requests": INGRESS_REFUSALS,
    }


def load_bounds(autoscaling: AutoscalingArguments, queue: QueueArguments) -> list[Options]:
    """The `deployments` of a Serve application."""
    return [
        {"name": ENGINE, **engine_options(autoscaling, queue)},
        {"name": INGRESS, **ingress_options(autoscaling, queue)},
    ]
