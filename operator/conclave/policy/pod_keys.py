"""Which keys of pod labels and annotations a cluster's owner has to list first, and why. Data in pod_keys.yaml."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from itertools import chain

import yaml
from pydantic import BaseModel, ConfigDict


class ReservedKeys(BaseModel):
    """Keys that change what runs in a pod, whom it reaches or what it may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domains: dict[str, str]
    """What keys do, by the domain that their prefix is or is below. A key without a prefix may be such a domain."""
    beginnings: dict[str, str]
    """The same by how a key begins."""
    open: tuple[str, ...]
    """Keys of these domains that need no listing."""

    def reason(self, key: str) -> str | None:
        """What the key does that has to be listed; None where it needs no listing."""
        if key in self.open:
            return None
        domain = key.rpartition("/")[0] or key  # such as cpu-quota.crio.io
        by_beginning = (why for beginning, why in self.beginnings.items() if key.startswith(beginning))
        by_domain = (why for name, why in self.domains.items() if f".{domain}".endswith(f".{name}"))
        return next(chain(by_beginning, by_domain), None)


@cache
def reserved_keys() -> ReservedKeys:
    """The keys of pod_keys.yaml."""
    text = (files("conclave.policy") / "pod_keys.yaml").read_text(encoding="utf-8")
    return ReservedKeys.model_validate(yaml.safe_load(text))
