"""What `spec.runtime` may name of images, accounts, devices and keys of labels, and the hubs: lists of who installs.

Whoever may create ModelDeployments would otherwise run pods with any image, as any account of the namespace, on any
device and network of the node. Read by `planning.checks` for specs and by `records.check` for what is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from conclave import names
from conclave.api.formats import HubEndpointPattern, ImagePattern, ServiceAccountPattern
from conclave.api.modeldeployment import HuggingFaceSource
from conclave.api.pod_formats import KUBERNETES_RESOURCE, OWN_KEY, PLANNED_DEVICE, DevicePattern, PodKeyPattern
from conclave.policy.pod_keys import reserved_keys

IMAGES_VALUE = "serving.allowedImages"
ACCOUNTS_VALUE = "serving.allowedServiceAccounts"
HUBS_VALUE = "serving.allowedHubEndpoints"
POD_KEYS_VALUE = "serving.allowedPodKeys"
DEVICES_VALUE = "serving.allowedDevices"
"""The chart's values that hold the lists."""
EVERY_HUB = "*"
"""Entry for all hubs, where no token is sent: whoever may name an endpoint would otherwise read any Secret's token."""
DEFAULT_HUBS = (names.OFFICIAL_HUB, EVERY_HUB)
DEFAULT_DEVICES: tuple[DevicePattern, ...] = ("rdma/*", "vpc.amazonaws.com/efa")
"""Shared RDMA adapters, as NVIDIA's network operator names them by default, and those of AWS."""


class ImageName(NamedTuple):
    """A reference in its parts; registry and repository are one part, which is only ever compared as a whole."""

    repository: str
    tag: str
    """`latest` where there is none, as runtimes read it."""
    digest: str
    """Empty where there is none."""


def parse_image(reference: str) -> ImageName:
    """A colon before the last slash belongs to the registry's port."""
    name, _, digest = reference.partition("@")
    path, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return ImageName(f"{path}{slash}{last}", tag or "latest", digest)


def matches(pattern: str, reference: str) -> bool:
    """Whether a reference is the one of the pattern, has any tag (`:*`), or has any digest (`@sha256:*`).

    Registry and repository are equal letter by letter: `registry.example/a` is neither `registry.example/a-evil` nor
    `registry.example.evil/a`. A runtime pulls by the digest where there is one and ignores the tag, and so a pattern of
    tags matches no reference with a digest, and one of digests ignores tags.
    """
    wanted, found = parse_image(pattern), parse_image(reference)
    if wanted.repository != found.repository:
        return False
    if wanted.digest:
        return bool(found.digest) and wanted.digest in ("sha256:*", found.digest)
    return not found.digest and wanted.tag in ("*", found.tag)


def is_listed(patterns: Iterable[str], name: str) -> bool:
    """Whether a name with a prefix is one of the patterns, or has the prefix of a PREFIX/* exactly."""
    prefix, slash, _ = name.rpartition("/")
    return not {name, f"{prefix}/*" if slash else name}.isdisjoint(patterns)


class RuntimeLists(BaseModel):
    """Closed by default: the operator's own serving image, no account, a token for the official hub only, and no device
    but adapters for RDMA."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_image: str
    """The image of pods whose deployment names none."""
    images: tuple[ImagePattern, ...] = ()
    service_accounts: tuple[ServiceAccountPattern, ...] = ()
    hub_endpoints: tuple[HubEndpointPattern, ...] = DEFAULT_HUBS
    pod_keys: tuple[PodKeyPattern, ...] = ()
    devices: tuple[DevicePattern, ...] = DEFAULT_DEVICES

    def allows_image(self, reference: str) -> bool:
        """Whether `spec.runtime.image` may be this."""
        return reference == self.default_image or any(matches(pattern, reference) for pattern in self.images)

    def allows_account(self, namespace: str, name: str) -> bool:
        """Whether `spec.runtime.serviceAccountName` may be this in that namespace."""
        return not {name, f"{namespace}/{name}"}.isdisjoint(self.service_accounts)

    def allows_pod_key(self, key: str) -> bool:
        """Whether `spec.runtime.podLabels` and `podAnnotations` may have this key."""
        return not OWN_KEY.matches(key) and (reserved_keys().reason(key) is None or is_listed(self.pod_keys, key))

    def allows_device(self, name: str) -> bool:
        """Whether a worker pod may ask for this extended resource."""
        is_spared = PLANNED_DEVICE.matches(name) or KUBERNETES_RESOURCE.matches(name)
        return not is_spared and is_listed(self.devices, name)

    def image_problem(self, reference: str | None) -> str | None:
        """Why an image cannot be used; None if it can, or if the spec names none."""
        if reference is None or self.allows_image(reference):
            return None
        return (
            f'spec.runtime.image "{reference}" is not one of {", ".join((self.default_image, *self.images))}: the '
            "operator creates no pods with it. Remove the field, name one of these, or add the image to the "
            f"chart's value {IMAGES_VALUE}"
        )

    def account_problem(self, namespace: str, name: str | None) -> str | None:
        """Why an account cannot be used; None if it can, or if the spec names none."""
        if name is None or self.allows_account(namespace, name):
            return None
        listed = ", ".join(self.service_accounts)
        seen = f"not one of {listed}" if listed else "not on the operator's list, which is empty"
        return (
            f'spec.runtime.serviceAccountName "{name}" is {seen}: the operator creates no pods with it. Remove '
            f"the field, or add {namespace}/{name} to the chart's value {ACCOUNTS_VALUE}"
        )

    def hub_problem(self, field: str, source: HuggingFaceSource) -> str | None:
        """Why weights cannot be fetched from the hub of the source at this field; None if they can."""
        endpoint = source.endpoint or names.OFFICIAL_HUB
        if endpoint in self.hub_endpoints or (EVERY_HUB in self.hub_endpoints and source.secret_name is None):
            return None
        listed = ", ".join(self.hub_endpoints)
        seen = f"not one of {listed}" if listed else "not on the operator's list, which is empty"
        if EVERY_HUB in self.hub_endpoints:
            seen = f"not one of {listed}, and {EVERY_HUB} allows no Secret, whose token this hub would see"
        return (
            f'{field}: the hub "{endpoint}" is {seen}: the operator fetches nothing from there. Name another source, '
            f"or add {endpoint} to the chart's value {HUBS_VALUE}"
        )

    def pod_key_problem(self, field: str, key: str) -> str | None:
        """Why a key of a label or annotation cannot be used; None if it can."""
        if self.allows_pod_key(key):
            return None
        prefix, slash, _ = key.rpartition("/")
        every = f", or {prefix}/* for all keys with its prefix" if slash else ""
        return (
            f'spec.runtime.{field} has the key "{key}": {reserved_keys().reason(key)}. The operator creates no pods '
            f"with it. Remove the key, or add it to the chart's value {POD_KEYS_VALUE}{every}"
        )

    def device_problem(self, name: str) -> str | None:
        """Why an extended resource cannot be used; None if it can."""
        if self.allows_device(name):
            return None
        listed = (
            f"not one of {', '.join(self.devices)}" if self.devices else "not on the operator's list, which is empty"
        )
        return (
            f'spec.runtime.resources.worker.devices has "{name}", which is {listed}: the operator creates no pods with '
            f"it. Remove it, or add it to the chart's value {DEVICES_VALUE}"
        )
