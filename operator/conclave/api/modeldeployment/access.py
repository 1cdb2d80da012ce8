"""`spec.access`: who may call a model, and where its data may be."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import DataClassName, LabelValue, NamespaceName


class Access(ApiModel):
    """Who may call, and where the data may be."""

    data_class: DataClassName
    """Data class of the prompts that may be sent here; one of the operator's ordered list
    (public, internal, confidential, restricted where nothing else is configured)."""
    regions: Annotated[tuple[LabelValue, ...], Field(max_length=16)] = ()
    """Regions (topology.kubernetes.io/region) that pods may run in; any where empty."""
    allowed_namespaces: Annotated[tuple[NamespaceName, ...], Field(max_length=64)] = ()
    """Namespaces whose pods may reach the endpoint, besides the deployment's own gateway."""
