"""The golden sets of the platforms are what the real helm renders, and the real API server takes all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.golden.chart import CRD, PLATFORM_CASES, PLATFORMS
from tests.golden.differences import whole
from tests.integration.testbed.helm import CHART, Helm
from tests.integration.testbed.kube import Kube

IDS = [path.stem for path in PLATFORMS]
SCOPES = ("Job", "NetworkPolicy", "PersistentVolumeClaim", "Secret")


@pytest.mark.parametrize("values", PLATFORMS, ids=IDS)
def test_helm_lint_has_no_complaint(values: Path, helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", CHART, f"--values={values}")


@pytest.mark.parametrize(("values", "case"), list(zip(PLATFORMS, PLATFORM_CASES, strict=True)), ids=IDS)
def test_the_chart_renders_what_golden_keeps(values: Path, case: Path, helm: Helm) -> None:
    rendered = [item for item in helm.render(yaml.safe_load(values.read_text())) if item["kind"] != CRD]
    assert rendered == whole(case, "chart")["install"], "run `make golden`, and read its difference"


def test_the_base_is_the_chart_by_default(helm: Helm) -> None:
    case = PLATFORM_CASES[0].parent / "base"
    kept = [yaml.safe_load(path.read_text()) for path in case.glob("chart.*.yaml")]
    rendered = [item for item in helm.render({}) if item["kind"] != CRD]
    assert len(kept) == len(rendered)
    assert all(item in kept for item in rendered)


@pytest.mark.parametrize("case", PLATFORM_CASES, ids=IDS)
def test_the_api_server_takes_a_models_objects_and_its_pods_where_they_must_be_restricted(
    case: Path, kube: Kube, namespace: str
) -> None:
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.patch("v1", "Namespace", namespace, {"metadata": {"labels": label}})
    made = [
        item for part in ("download", "objects") for verb in ("create", "apply") for item in whole(case, part)[verb]
    ]
    objects = [_moved(item, namespace) for item in made if item["kind"] in SCOPES]
    pods = [spec for item in made for spec in _pods(item)]
    assert len(objects) >= 6
    assert len(pods) == 3
    kube.apply(*objects, dry_run=True)
    for number, spec in enumerate(pods):
        plain = {key: value for key, value in spec.items() if key not in ("serviceAccountName", "priorityClassName")}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": plain}
        kube.apply(pod, namespace=namespace, dry_run=True)


def _moved(item: dict[str, Any], namespace: str) -> dict[str, Any]:
    """Without an owner, which is not there."""
    metadata = {key: value for key, value in item["metadata"].items() if key != "ownerReferences"}
    return {**item, "metadata": metadata | {"namespace": namespace}}


def _pods(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a Job, and of a RayService's head and workers."""
    if item["kind"] == "Job":
        return [item["spec"]["template"]["spec"]]
    if item["kind"] != "RayService":
        return []
    cluster = item["spec"]["rayClusterConfig"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
