"""`spec.runtime`: image, service account, resources, labels, probes and container runtime of the pods that serve."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import DnsName, ImageReference, NodeSelector, Quantity
from conclave.api.modeldeployment.hardware import Toleration
from conclave.api.pod_formats import Devices, PodAnnotations, PodLabels, SharedMemorySize


class PodResources(ApiModel):
    """CPU, memory and disk of a pod, as request and as limit. GPUs come from the plan."""

    cpu: Quantity | None = None
    memory: Quantity | None = None
    ephemeral_storage: Quantity | None = None
    """Disk of the node for logs, compiled kernels and temporary files. The kubelet evicts a pod that uses more.
    Default: no request, and 40Gi at most in the pod's scratch volumes."""
    shared_memory: SharedMemorySize | None = None
    """Most that the pod may hold in /dev/shm; what it holds there counts as memory. Default: 2Gi for the head, 2Gi and
    1Gi for each GPU for a worker."""


class WorkerResources(PodResources):
    """CPU, memory, disk and network devices of a worker pod, as request and as limit. GPUs come from the plan."""

    devices: Devices = Field(default_factory=dict)
    """Extended resources besides GPUs, such as `rdma/hca_shared_devices_a: 1` or `vpc.amazonaws.com/efa: 4`. Each name
    must be in the chart's list `serving.allowedDevices`, by default `rdma/*` and `vpc.amazonaws.com/efa`."""


class RuntimeResources(ApiModel):
    """Resources of the head pod and of each worker pod."""

    head: PodResources = Field(default_factory=PodResources)
    worker: WorkerResources = Field(default_factory=WorkerResources)


class HeadPlacement(ApiModel):
    """Which nodes the Ray head may run on. It has no GPU, so `spec.hardware` says nothing about it."""

    node_selector: NodeSelector = Field(default_factory=dict)
    """Labels that the head's node must have. Default: any node of `access.regions`."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that the head tolerates. Default: none."""


class Probes(ApiModel):
    """How often the kubelet asks the head and worker pods, and how long it waits before it restarts one."""

    period_seconds: Annotated[int, Field(ge=5, le=60)] = 10
    """Seconds between two probes. A worker that does not answer leaves the Service after 60 seconds in any case."""
    timeout_seconds: Annotated[int, Field(ge=1, le=60)] = 10
    """Seconds that an answer may take."""
    liveness_failure_threshold: Annotated[int, Field(ge=3, le=360)] = 30
    """Probes in a row that Ray's agent may fail before the kubelet ends the container, also while Ray starts."""


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
    runtime_class_name: DnsName | None = None
    """RuntimeClass of the worker pods, which hold the GPUs; for instance `nvidia` where that is not the nodes' default.
    The head and the Jobs run with the default."""
    pod_labels: PodLabels = Field(default_factory=dict)
    """Further labels of the head and worker pods and of the pods of Jobs. Keys that other components act upon must be
    in the chart's list `serving.allowedPodKeys` (docs/pods.md)."""
    pod_annotations: PodAnnotations = Field(default_factory=dict)
    """Further annotations of the head and worker pods, with the same list of keys."""
    head: HeadPlacement | None = None
    resources: RuntimeResources = Field(default_factory=RuntimeResources)
    probes: Probes | None = None
    startup_seconds: Annotated[int, Field(ge=60, le=14_400)] | None = None
    """Seconds that an engine may take to load the weights and to compile. Raise it for slow storage. Default: vLLM's
    own, 600."""

    # Without a default in the CRD, which the API server would write into every stored object: an older operator, to
    # which somebody rolls back, reads no object with a field that it does not know.

    @property
    def head_placement(self) -> HeadPlacement:
        """Of the head, where the spec says nothing too."""
        return self.head or HeadPlacement()

    @property
    def probe_times(self) -> Probes:
        """Of the probes, where the spec says nothing too."""
        return self.probes or Probes()
