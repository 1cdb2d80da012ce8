"""What the caches keep of objects that an apply compares: ours whole, of others' only whose they are."""

from __future__ import annotations

from typing import Any

import pytest

from conclave_cluster.observe import LARGEST_BYTES, keep_ours, keep_record

OWNER = {"apiVersion": "conclave.dev/v1alpha1", "kind": "ModelDeployment", "name": "mixtral", "uid": "1"}
OURS = [{**OWNER, "controller": True}]


def policy(name: str, owners: list[dict[str, Any]] | None, size: int = 10) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "llm", "uid": "2", "resourceVersion": "3", "annotations": {"a": "b"}}
    return {"metadata": {**metadata, "ownerReferences": owners}, "spec": {"x": "y" * size}}


@pytest.mark.parametrize(
    ("name", "owners", "size", "is_whole"),
    [
        pytest.param("mixtral", OURS, 10, True, id="a RayService or a policy of a deployment"),
        pytest.param("mixtral.head", OURS, 10, True, id="its head's policy"),
        pytest.param("mixtral", OURS, 100_000, True, id="one that somebody else's fields made large"),
        pytest.param("mixtral", OURS, LARGEST_BYTES, False, id="one as large as no build makes it"),
        pytest.param("mixtral", None, 10, False, id="one of nobody"),
        pytest.param("mixtral", [OWNER], 10, False, id="one that it does not control"),
        pytest.param("mixtral", [{**OURS[0], "kind": "Deployment"}], 10, False, id="one of another kind"),
        pytest.param("flood-17", OURS, 10, False, id="one under a name that is never given"),
    ],
)
def test_what_is_kept_of_an_object(name: str, owners: list[dict[str, Any]] | None, size: int, is_whole: bool) -> None:
    item = policy(name, owners, size)
    kept = keep_ours(item)
    assert (kept == item) is is_whole
    assert kept["metadata"]["ownerReferences"] == owners
    assert is_whole or set(kept) == {"metadata"}
    assert is_whole or "annotations" not in kept["metadata"]


def test_a_record_of_a_deployment_is_kept_under_any_name_that_it_may_be_named() -> None:
    forged = policy("whatever", OURS)
    assert keep_record(forged) == forged
    assert set(keep_record(policy("whatever", None))) == {"metadata"}
    assert set(keep_record(policy("whatever", OURS, LARGEST_BYTES))) == {"metadata"}
