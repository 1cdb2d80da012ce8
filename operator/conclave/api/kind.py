"""A kind of custom resource: its names, columns and subresources. `crd.py` makes the CRD from a record of this type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from conclave.api.base import ApiModel
from conclave.api.group import GROUP


class Column(NamedTuple):
    """A column of `kubectl get`."""

    name: str
    type: str
    json_path: str


class Scale(NamedTuple):
    """The fields that `kubectl scale` and autoscalers read and write."""

    spec_replicas_path: str
    status_replicas_path: str
    label_selector_path: str


@dataclass(frozen=True)
class Kind:
    """One kind of the API group. Every kind is namespaced and has the subresource status."""

    name: str
    """The kind in manifests, for instance ModelDeployment."""
    plural: str
    model: type[ApiModel]
    """The type of the whole object: its fields, its rules and its `change_rules`."""
    short_names: tuple[str, ...]
    columns: tuple[Column, ...]
    scale: Scale | None = None

    @property
    def crd_name(self) -> str:
        """Name of the CRD, for instance modeldeployments.conclave.dev."""
        return f"{self.plural}.{GROUP}"
