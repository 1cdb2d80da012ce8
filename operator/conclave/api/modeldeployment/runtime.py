"""`spec.runtime`: image, service account and resources of the pods that serve."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import DnsName, ImageReference, Quantity


class PodResources(ApiModel):
    """CPU and memory of a pod, as request and as limit. GPUs come from the plan."""

    cpu: Quantity | None = None
    memory: Quantity | None = None


class RuntimeResources(ApiModel):
    """Resources of the head pod and of each worker pod."""

    head: PodResources = Field(default_factory=PodResources)
    worker: PodResources = Field(default_factory=PodResources)


class Runtime(ApiModel):
    """The pods that serve."""

    image: ImageReference | None = None
    """Serving image. Default: the operator's serving image. Another image must be in the chart's list
    `serving.allowedImages`."""
    image_pull_secrets: Annotated[tuple[DnsName, ...], Field(max_length=8)] = ()
    """Names of image pull Secrets of the same namespace."""
    priority_class_name: DnsName | None = None
    service_account_name: DnsName | None = None
    """Service account of the pods. Default: KubeRay creates one. Another account must be in the chart's list
    `serving.allowedServiceAccounts`. Only the autoscaler of the head pod has the account's token."""
    resources: RuntimeResources = Field(default_factory=RuntimeResources)
