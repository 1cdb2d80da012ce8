"""Compares what RBAC objects grant with what the audit log shows: too little breaks, too much is a risk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.integration.testbed.audit import Request, Right


def granted(objects: Iterable[Mapping[str, Any]]) -> frozenset[Right]:
    """Rights in Roles (with their namespace) and ClusterRoles (namespace "") that bindings among the objects bind."""
    objects = list(objects)
    roles = {_key(item["kind"], item["metadata"]): item for item in objects if item["kind"].endswith("Role")}
    bound = [
        roles[_key(binding["roleRef"]["kind"], {**binding["metadata"], "name": binding["roleRef"]["name"]})]
        for binding in objects
        if binding["kind"].endswith("RoleBinding")
    ]
    return frozenset(
        Right(group, resource, verb, role["metadata"].get("namespace", ""))
        for role in bound
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )


def used(requests: Iterable[Request]) -> frozenset[Right]:
    """Rights that requests asked for, refused or not; reviews of one's own rights need none."""
    rights = {right for request in requests for right in request.rights}
    return frozenset(right for right in rights if right.group != "authorization.k8s.io")


def ungranted(used: Iterable[Right], granted: Iterable[Right]) -> list[Right]:
    """Used rights that nothing grants, in the namespace or cluster-wide."""
    grants = set(granted)
    return sorted(right for right in used if not {right, _cluster_wide(right)} & grants)


def unused(used: Iterable[Right], granted: Iterable[Right]) -> list[Right]:
    """Granted rights that no request used, in whichever namespace."""
    seen = {_cluster_wide(right) for right in used}
    return sorted({_cluster_wide(right) for right in granted} - seen)


def _cluster_wide(right: Right) -> Right:
    return Right(right.group, right.resource, right.verb)


def _key(kind: str, metadata: Mapping[str, Any]) -> tuple[str, str, str]:
    return kind, metadata["name"], "" if kind == "ClusterRole" else metadata["namespace"]
