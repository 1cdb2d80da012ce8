"""Which images, service accounts and hubs a ModelDeployment may name: lists of who installs the operator.

Whoever may create ModelDeployments would otherwise run pods with any image, as any account of the namespace. Read by
`planning.checks` for specs and by `manifests.record_check` for what is recorded.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from conclave import names
from conclave.api.formats import HubEndpointPattern, ImagePattern, ServiceAccountPattern
from conclave.api.modeldeployment import HuggingFaceSource

IMAGES_VALUE = "serving.allowedImages"
ACCOUNTS_VALUE = "serving.allowedServiceAccounts"
HUBS_VALUE = "serving.allowedHubEndpoints"
"""The chart's values that hold the lists."""
EVERY_HUB = "*"
"""Entry for all hubs, where no token is sent: whoever may name an endpoint would otherwise read any Secret's token."""
DEFAULT_HUBS = (names.OFFICIAL_HUB, EVERY_HUB)


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


class RuntimeLists(BaseModel):
    """Closed by default: the operator's own serving image, no account, and a token for the official hub only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_image: str
    """The image of pods whose deployment names none."""
    images: tuple[ImagePattern, ...] = ()
    service_accounts: tuple[ServiceAccountPattern, ...] = ()
    hub_endpoints: tuple[HubEndpointPattern, ...] = DEFAULT_HUBS

    def allows_image(self, reference: str) -> bool:
        """Whether `spec.runtime.image` may be this."""
        return reference == self.default_image or any(matches(pattern, reference) for pattern in self.images)

    def allows_account(self, namespace: str, name: str) -> bool:
        """Whether `spec.runtime.serviceAccountName` may be this in that namespace."""
        return not {name, f"{namespace}/{name}"}.isdisjoint(self.service_accounts)

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
