"""What a spec may add to pods: labels, annotations, devices and the size of /dev/shm, and how the chart lists them.

Which of them a cluster allows is a question of its lists (`conclave.policy.runtime_lists`). What no list can allow is
refused here, by the API server.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.formats import DNS_1123_SUBDOMAIN, LABEL_KEY, LABEL_NAME, LabelValue
from conclave.api.rules import Checked, EntryRule, Format

OWN_DOMAINS = ("conclave.dev", "ray.io", "app.kubernetes.io")
"""Conclave, KubeRay, Services and NetworkPolicies tell a model's pods from others by keys below these domains."""
OWN_KEY = Format(f"([^/]*[.])?({'|'.join(domain.replace('.', '[.]') for domain in OWN_DOMAINS)})/.*", "")
_KEYS = Checked(
    (
        LABEL_KEY.keys_rule(),
        EntryRule(
            f"!{OWN_KEY.expression('key')}",
            lambda key, _: not OWN_KEY.matches(key),
            f"{{key}} is refused: the model's pods are found by keys below {', '.join(OWN_DOMAINS)}",
            f"a key is below {', '.join(OWN_DOMAINS)}, by which the model's pods are found",
        ),
    )
)
PodLabels = Annotated[dict[str, LabelValue], Field(max_length=16), _KEYS]
PodAnnotations = Annotated[dict[str, Annotated[str, Field(max_length=2048)]], Field(max_length=16), _KEYS]
PodKeyPattern = Annotated[
    str,
    Field(max_length=317),
    Format(
        rf"({DNS_1123_SUBDOMAIN}/)?{LABEL_NAME}|{DNS_1123_SUBDOMAIN}/\*",
        "the key of a label or annotation, or PREFIX/* for all keys with this prefix",
    ),
]

PLANNED_DEVICE = Format("[^/]*/(.*gpu([.].*)?|mig-.*)", "")
"""GPUs and parts of them. Ray and KubeRay count a resource that ends in `gpu`, or is a MIG profile, as a pod's GPUs."""
KUBERNETES_RESOURCE = Format("(requests[.]|([^/]*[.])?kubernetes[.]io/).*", "")
"""What the API server takes for a resource of its own, or for a quota."""
DEVICE_NAME = Format(
    f"{DNS_1123_SUBDOMAIN}/{LABEL_NAME}",
    "an extended resource: a DNS prefix, a slash and a name, such as rdma/hca_shared_devices_a",
)
_DEVICES = Checked(
    (
        DEVICE_NAME.keys_rule(),
        EntryRule(
            f"!{PLANNED_DEVICE.expression('key')}",
            lambda key, _: not PLANNED_DEVICE.matches(key),
            "{key} is refused: the plan says how many GPUs a pod has",
            "a name is one of GPUs, and the plan says how many of them a pod has",
        ),
        EntryRule(
            f"!{KUBERNETES_RESOURCE.expression('key')}",
            lambda key, _: not KUBERNETES_RESOURCE.matches(key),
            "{key} is refused: Kubernetes keeps this name for itself",
            "a name is one that Kubernetes keeps for itself",
        ),
    )
)
Devices = Annotated[dict[str, Annotated[int, Field(ge=1, le=256)]], Field(max_length=8), _DEVICES]
DevicePattern = Annotated[
    str,
    Field(max_length=317),
    Format(
        rf"{DNS_1123_SUBDOMAIN}/({LABEL_NAME}|\*)",
        "an extended resource, or PREFIX/* for all resources with this prefix",
    ),
]
SharedMemorySize = Annotated[
    str, Field(max_length=16), Format("([2-9]|[1-9][0-9]{1,3})Gi", "a size in whole Gi, from 2Gi to 9999Gi")
]
