"""Which resources of nodes are accelerators: those that worker pods can ask for, and those that are only named.

Read by the cluster room, for what it keeps of nodes and pods and for what it says of a node that cannot be used.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from pydantic import BaseModel, ConfigDict

from conclave.catalogue.accelerators import MIG_PROFILE
from conclave.catalogue.datafiles import read_rows
from conclave.names import AMD, NVIDIA

_MIG_RESOURCE = re.compile(rf"{re.escape(NVIDIA.domain)}/mig-(?P<profile>{MIG_PROFILE})")
_RENAMED = ".shared"
"""What time slicing adds to a name."""
_MOST_NAMES = 1024
"""Resource names whose meaning is remembered: nodes of a cluster have the same few."""


class DeviceResource(BaseModel):
    """Accelerators that no pod of ours asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """A regular expression over the resource's whole name."""
    what: str
    """In words; empty where they are no accelerators."""
    remedy: str


def mig_profile_of(resource: str) -> str | None:
    """The profile whose slices a resource counts, for instance 3g.40gb of nvidia.com/mig-3g.40gb."""
    found = _MIG_RESOURCE.fullmatch(resource)
    return found["profile"] if found and not resource.endswith(_RENAMED) else None


def is_planned(resource: str) -> bool:
    """Whether worker pods can ask for it."""
    return resource in (NVIDIA.resource, AMD.resource) or mig_profile_of(resource) is not None


@lru_cache(_MOST_NAMES)
def find_other(resource: str) -> DeviceResource | None:
    """Accelerators that no pod of ours asks for; None for those that are planned, and for what is no accelerator."""
    if is_planned(resource) or "/" not in resource:
        return None
    found = next((row for pattern, row in _rows() if pattern.fullmatch(resource)), None)
    return found if found and found.what else None


def is_accelerator(resource: str) -> bool:
    """Whether a node's amount of it is looked at."""
    return is_planned(resource) or find_other(resource) is not None


@cache
def _rows() -> tuple[tuple[re.Pattern[str], DeviceResource], ...]:
    rows = (DeviceResource.model_validate(row) for row in read_rows("device_resources.yaml"))
    return tuple((re.compile(row.name), row) for row in rows)
