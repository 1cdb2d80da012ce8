"""What released versions left on a real API server (tests/data/VERSION, made by tools/freeze), read for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

Json = dict[str, Any]
DATA = Path(__file__).parent / "data"
APPLIED = ("ControllerRevision", "NetworkPolicy", "PersistentVolumeClaim", "RayService")
"""Kinds that the operator compares with what it wants; Jobs it creates once."""


class Frozen(NamedTuple):
    """One deployment with all that belongs to it, as it stood."""

    version: str
    name: str
    objects: list[Json]
    """Owners first, the ModelDeployment before all."""

    @property
    def parent(self) -> Json:
        return self.objects[0]

    def of(self, kind: str) -> list[Json]:
        return [item for item in self.objects if item["kind"] == kind]


def versions() -> list[str]:
    return sorted(path.parent.name for path in DATA.glob("*/operator.yaml"))


def names(version: str) -> list[str]:
    return sorted(path.stem for path in (DATA / version).glob("*.yaml") if path.stem != "operator")


def read(version: str, name: str) -> Frozen:
    """RayClusters get the spec back that their RayService gives them."""
    text = (DATA / version / f"{name}.yaml").read_text(encoding="utf-8")
    objects: list[Json] = [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]
    spec = next((item["spec"]["rayClusterConfig"] for item in objects if item["kind"] == "RayService"), {})
    return Frozen(version, name, [item | {"spec": spec} if item["kind"] == "RayCluster" else item for item in objects])


def settings(version: str, image: str) -> Json:
    """The operator's settings of then, with the serving image of another version."""
    found: Json = yaml.safe_load((DATA / version / "operator.yaml").read_text(encoding="utf-8"))
    return found | {"image": image}


CASES = [(version, name) for version in versions() for name in names(version)]
IDS = [f"{version}-{name}" for version, name in CASES]
