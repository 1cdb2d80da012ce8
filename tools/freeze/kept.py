"""What is kept of an object: what was written to it and what was reported of it, without what only the server knows."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]
OPERATOR = "conclave"
"""The operator's field manager."""
OF_THE_SERVER = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "finalizers", "generateName")


def as_stood(item: Json) -> Json:
    """All of it but what the server counts. Generations are 1, as those of the objects that a test makes anew."""
    metadata = {key: value for key, value in item["metadata"].items() if key not in OF_THE_SERVER}
    kept: Json = {**item, "metadata": metadata}
    return {key: first_generation(value) if key == "status" else value for key, value in kept.items()}


def as_written(item: Json) -> Json:
    """Only the fields that the operator wrote, with the object's UID and its status."""
    entries = [entry for entry in item["metadata"]["managedFields"] if not entry.get("subresource")]
    applied = [entry for entry in entries if (entry["manager"], entry["operation"]) == (OPERATOR, "Apply")]
    created = [entry for entry in entries if "f:labels" in entry["fieldsV1"].get("f:metadata", {})]
    (written, *_) = applied or created
    kept: Json = _owned(written["fieldsV1"], item)
    metadata = {key: item["metadata"][key] for key in ("name", "namespace", "uid")} | kept["metadata"]
    return {"apiVersion": item["apiVersion"], "kind": item["kind"]} | as_stood(
        {**kept, "metadata": metadata} | _status(item)
    )


def first_generation(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: 1 if key == "observedGeneration" else first_generation(item) for key, item in value.items()}
    return [first_generation(item) for item in value] if isinstance(value, list) else value


def _status(item: Json) -> Json:
    return {"status": item["status"]} if item.get("status") else {}


def _owned(fields: Json, live: Any) -> Any:
    """What an ownership tree (structured-merge-diff's format) names of a live value; a leaf names all below it."""
    below = {key: tree for key, tree in fields.items() if key != "."}
    if not below:
        return live
    if isinstance(live, dict):
        return {
            key.removeprefix("f:"): _owned(tree, live[key.removeprefix("f:")])
            for key, tree in below.items()
            if key.removeprefix("f:") in live
        }
    return [_owned(tree, item) for item in live for key, tree in below.items() if _names(key, item)]


def _names(key: str, item: Any) -> bool:
    kind, _, rest = key.partition(":")
    if kind == "k":
        return all(item.get(name, value) == value for name, value in json.loads(rest).items())
    return bool(json.loads(rest) == item)
