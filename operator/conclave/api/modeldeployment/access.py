"""`spec.access`: who may call a model, and where its data may be."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import DataClassName, LabelValue, NamespaceName


class Access(ApiModel):
    """Who may call the model, and where its data may be."""

    data_class: DataClassName
    """Data class of the prompts that may be sent to this model. It must be in the operator's ordered list of data
    classes, by default: public, internal, confidential, restricted."""
    regions: Annotated[tuple[LabelValue, ...], Field(max_length=16)] = ()
    """Regions that pods may run in, as the node label topology.kubernetes.io/region spells them. Default: any
    region."""
    allowed_namespaces: Annotated[tuple[NamespaceName, ...], Field(max_length=64)] = ()
    """Namespaces whose pods may reach the endpoint, besides the namespace in the chart's value
    `network.gatewayNamespace`."""
