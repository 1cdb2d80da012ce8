"""The accelerators that Conclave knows, found by the product name that a node label carries.

Read by the plan, the operator and the CLI. What a node says about its own memory wins over this table.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from conclave.catalogue.datafiles import read_rows

_GIB = 2**30
_VENDOR_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
MIG_PROFILE = r"[0-9]{1,2}g\.(?P<gigabytes>[0-9]{1,4})gb(\.[a-z][a-z.]*)?"
"""For instance 3g.40gb, or 1g.10gb.me, which GPU feature discovery writes for 1g.10gb+me."""
SHARED = "-SHARED"
"""What GPU feature discovery adds to a product whose GPUs several pods get at a time."""
_MIG = re.compile(rf"-MIG-(?P<profile>{MIG_PROFILE})(?=-|$)", re.IGNORECASE)
_SHARED = re.compile(rf"{SHARED}(-|$)", re.IGNORECASE)
_LEAST_OF_A_PROFILE = 0.95
"""Share of the gigabytes (10^9 bytes) in a MIG profile's name that a slice has at least. The profile 1g.18gb of an H200
has the least, 16.00 GiB (`nvidia-smi mig -lgip`)."""


class Accelerator(BaseModel):
    """One product."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Short name, for instance H100."""
    aliases: tuple[str, ...] = ()
    vendor: Literal["nvidia", "amd"]
    products: tuple[str, ...] = Field(min_length=1)
    """Node label values that mean this product; the first is the usual spelling."""
    label_mib: int | None = None
    """Memory as the nvidia.com/gpu.memory label gives it."""
    memory_gib: float = Field(gt=0)
    """Memory that a process can get, as CUDA or HIP reports it to vLLM."""
    bandwidth_gbps: int
    """Memory bandwidth in gigabytes per second."""
    link: str
    """What joins the accelerators of a node."""
    link_gbps: int
    """Gigabytes per second and direction of that link."""
    compute: str
    """CUDA compute capability, or AMD's architecture."""
    fp8: Literal["native", "weights", "none"]
    """`weights`: fp8 weights are held and unpacked by a kernel, at no gain in compute."""

    @property
    def memory_bytes(self) -> int:
        """Memory that a process can get."""
        return int(self.memory_gib * _GIB)

    @property
    def resource(self) -> str:
        """The extended resource that pods ask for."""
        return _VENDOR_RESOURCES[self.vendor]


class AcceleratorMatch(BaseModel):
    """What a product label says: which accelerator, and whether a pod gets all of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accelerator: Accelerator
    mig_profile: str | None = None
    """For instance 3g.40gb: pods get a slice, which cannot join others in tensor parallelism."""
    shared: bool = False
    """Time-slicing: several pods share the memory, so no share of it can be counted on."""

    @property
    def memory_bytes(self) -> int:
        """Memory that one device of the label gives; of a MIG slice the least that its profile's name means."""
        if self.mig_profile is None:
            return self.accelerator.memory_bytes
        return min(least_slice_bytes(self.mig_profile), self.accelerator.memory_bytes)


@cache
def all_accelerators() -> tuple[Accelerator, ...]:
    """Every accelerator, in the order of the data file."""
    return tuple(Accelerator.model_validate(row) for row in read_rows("accelerators.yaml"))


def find_accelerator(product: str) -> AcceleratorMatch | None:
    """What a node label's product name, or a short name such as H100, stands for.

    A label matches a product when it is equal to it or goes on after a dash; the longest product wins, so that
    NVIDIA-A10 is never taken for NVIDIA-A100-SXM4-80GB. MIG and time-slicing suffixes are told apart.
    """
    wanted = folded(product)
    matches = [
        (len(spelling), accelerator)
        for accelerator in all_accelerators()
        for spelling in (*accelerator.products, accelerator.name, *accelerator.aliases)
        if wanted == spelling.lower() or wanted.startswith(f"{spelling.lower()}-")
    ]
    if not matches:
        return None
    return AcceleratorMatch(
        accelerator=max(matches, key=lambda match: match[0])[1],
        mig_profile=mig_profile(product),
        shared=is_shared(product),
    )


def mig_profile(product: str) -> str | None:
    """The MIG profile that a product's name ends with, None where it names a whole GPU or a profile that is none."""
    found = _MIG.search(product)
    return found["profile"] if found else None


def least_slice_bytes(profile: str) -> int:
    """The least memory that a slice of a MIG profile has, where no label gives it. Raises ValueError where the profile
    is none."""
    found = re.fullmatch(MIG_PROFILE, profile, re.IGNORECASE)
    if found is None:
        raise ValueError(f"{profile!r} is no MIG profile, expected one such as 3g.40gb")
    return int(int(found["gigabytes"]) * 10**9 * _LEAST_OF_A_PROFILE)


def is_shared(product: str) -> bool:
    """Whether several pods get a GPU of this product at a time."""
    return _SHARED.search(product) is not None


def is_product(product: str, wanted: str) -> bool:
    """Whether a name that an owner wrote means this product: a prefix of it, in any case, with spaces or hyphens.

    For instance `NVIDIA H100` and `nvidia-h100` both mean `NVIDIA-H100-80GB-HBM3`. An empty name means every product.
    """
    return folded(product).startswith(folded(wanted))


def folded(name: str) -> str:
    """A product's name as names are compared: in lower case, with hyphens for spaces."""
    return name.strip().lower().replace(" ", "-")
