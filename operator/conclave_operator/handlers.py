"""Kopf's part: it watches our kinds and tells the fleet and the queue. No finalizers, annotations or status.

Everything else (children, nodes, KubeRay's CRD that may be absent) is watched by the cluster room's caches, since a
kopf watch cannot begin for a kind that does not exist yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import kopf

from conclave_cluster.client import load_configuration
from conclave_cluster.resources import Resource
from conclave_operator.fleet import Fleet
from conclave_operator.kinds import Key, key_of

IDLE_TIMEOUT_S = 0.1
"""How long kopf keeps a worker for an object after its event; ours do their work elsewhere."""
SERVER_TIMEOUT_S = 290


def build_registry(
    resources: Iterable[Resource], fleet: Fleet, changed: Callable[[Key], None], kubeconfig: str | None
) -> kopf.OperatorRegistry:
    """Handlers that only pass on what they see of these kinds."""
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

    async def saw(event: kopf.RawEvent, **_: Any) -> None:
        item: dict[str, Any] = dict(event["object"])
        if event["type"] == "DELETED":
            fleet.deleted(item)
            changed(key_of(item))
        elif fleet.watched(item):
            changed(key_of(item))

    for resource in resources:
        kopf.on.event(resource.group, resource.version, resource.plural, registry=registry)(saw)
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
