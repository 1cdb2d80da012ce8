"""What all objects share: an owner, metadata, a canonical hash, and JSON without empty parts."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

JsonObject = dict[str, Any]
"""An object as the Kubernetes API gives it."""


class Owner(NamedTuple):
    """The object that others are made for. They carry its reference, and go when it goes."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    def reference(self) -> JsonObject:
        """For `metadata.ownerReferences`: the garbage collector follows it; there is no finalizer."""
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


def metadata(owner: Owner, name: str, labels: dict[str, str], annotations: dict[str, str] | None = None) -> JsonObject:
    """Metadata of an object in its owner's namespace."""
    return without_empty(
        {
            "name": name,
            "namespace": owner.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner.reference()],
        }
    )


def controller(item: JsonObject) -> JsonObject:
    """The owner reference of the object's controller; empty without a controller."""
    owners: list[JsonObject] = item["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def controller_uid(item: JsonObject) -> str:
    """UID of the object's controller; empty without a controller."""
    return str(controller(item).get("uid", ""))


def is_owned_by(item: JsonObject, uid: str) -> bool:
    """Whether the object of this UID is among the owners, controller or not."""
    owners: list[JsonObject] = item["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == uid for owner in owners)


def content_hash(content: object) -> str:
    """Hex digest of the canonical JSON of some content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def without_empty(json_object: JsonObject) -> JsonObject:
    """Without keys whose value is None, "", [] or {}: server-side apply would own them for nothing."""
    return {key: value for key, value in json_object.items() if value not in (None, "", [], {}, ())}
