"""The metadata of an object, as far as Conclave reads it."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from conclave.api.base import ApiModel
from conclave.api.formats import Dns1035Name, NamespaceName


class ObjectMeta(ApiModel):
    """The fields of metadata that Conclave reads. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    name: Dns1035Name
    namespace: NamespaceName = "default"
    uid: str = ""
    generation: int = 0
    annotations: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    deletion_timestamp: str | None = None
