"""Kopf's part: it watches ModelDeployments and tells the fleet and the queue. No finalizers, annotations or status.

Everything else (children, nodes, KubeRay's CRD that may be absent) is watched by the cluster room's caches, since a
kopf watch cannot begin for a kind that does not exist yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from conclave.api.modeldeployment import GROUP, PLURAL, VERSION
from conclave_cluster.client import load_configuration
from conclave_operator.fleet import Fleet, Key, key_of

IDLE_TIMEOUT_S = 0.1
"""How long kopf keeps a worker for an object after its event; ours do their work elsewhere."""
SERVER_TIMEOUT_S = 290


def build_registry(fleet: Fleet, changed: Callable[[Key], None], kubeconfig: str | None) -> kopf.OperatorRegistry:
    """Handlers that only pass on what they see."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        configuration = await load_configuration(kubeconfig)
        scheme, _space, token = configuration.api_key.get("BearerToken", "").partition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=scheme or None,
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            trust_env=True,
        )

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def saw_model_deployment(event: kopf.RawEvent, **_: Any) -> None:
        item: dict[str, Any] = dict(event["object"])
        if event["type"] == "DELETED":
            fleet.deleted(item)
        else:
            fleet.watched(item)
        changed(key_of(item))

    return registry


def build_settings() -> kopf.OperatorSettings:
    """Kopf does nothing that we do ourselves: no peering, no events, no scanning, no state in objects."""
    settings = kopf.OperatorSettings()
    settings.queueing.idle_timeout = IDLE_TIMEOUT_S
    settings.watching.server_timeout = SERVER_TIMEOUT_S
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    return settings
