"""The tables of what nodes say: labels of clouds, and resources that are accelerators."""

from __future__ import annotations

import pytest

from conclave.catalogue.accelerators import all_accelerators, find_accelerator, least_slice_bytes, mig_profile
from conclave.catalogue.datafiles import read_rows
from conclave.catalogue.device_resources import find_other, is_accelerator, is_planned, mig_profile_of
from conclave.catalogue.node_labels import cloud_labels, product_of_labels

GIB = 2**30
INSTANCE = "node.kubernetes.io/instance-type"


def test_each_label_means_an_accelerator_of_the_catalogue() -> None:
    known = {accelerator.name for accelerator in all_accelerators()}
    meant = {name for row in read_rows("node_labels.yaml") for name in dict(row.get("accelerators", {})).values()}  # type: ignore[call-overload]
    assert meant <= known
    assert INSTANCE in cloud_labels()


@pytest.mark.parametrize(
    ("labels", "accelerator"),
    [
        ({INSTANCE: "g5.12xlarge"}, "A10G"),
        ({INSTANCE: "p5.48xlarge"}, "H100"),
        ({INSTANCE: "p5en.48xlarge"}, "H200"),
        ({INSTANCE: "Standard_NC24ads_A100_v4"}, "A100-PCIe-80GB"),
        ({INSTANCE: "Standard_ND96isr_MI300X_v5"}, "MI300X"),
        ({INSTANCE: "g6f.xlarge"}, None),
        ({INSTANCE: "g5.8xlarge.4"}, None),
        ({INSTANCE: "m5.large"}, None),
        ({INSTANCE: "p5"}, None),
        ({}, None),
        ({"karpenter.k8s.aws/instance-gpu-name": "a100"}, None),
        (
            {"karpenter.k8s.aws/instance-gpu-name": "v100", "karpenter.k8s.aws/instance-gpu-memory": "32768"},
            "V100-32GB",
        ),
        ({"karpenter.k8s.aws/instance-gpu-name": "l4", "karpenter.k8s.aws/instance-gpu-memory": "²"}, "L4"),
        ({"cloud.google.com/gke-accelerator": "", INSTANCE: "p4d.24xlarge"}, "A100-40GB"),
    ],
    ids=[
        "a size of a family of EC2",
        "the family p5",
        "a family whose name begins with another one's",
        "Azure, a PCIe card",
        "Azure, AMD",
        "a family of parts of an L4",
        "another cloud's type of that name",
        "a machine without accelerators",
        "a family without a size",
        "no label at all",
        "two products of one name, and no memory",
        "two products of one name, told apart by their memory",
        "a memory that is no number",
        "an empty label is none",
    ],
)
def test_what_the_labels_of_a_cloud_mean(labels: dict[str, str], accelerator: str | None) -> None:
    found = product_of_labels(labels)
    match = find_accelerator(found.product) if found else None
    assert (match.accelerator.name if match else None) == accelerator
    assert found is None or found.selector.items() <= labels.items()


@pytest.mark.parametrize(
    ("resource", "planned", "named"),
    [
        ("nvidia.com/gpu", True, False),
        ("amd.com/gpu", True, False),
        ("nvidia.com/mig-3g.40gb", True, False),
        ("nvidia.com/mig-1g.10gb.me", True, False),
        ("nvidia.com/mig-1g.10gb.shared", False, True),
        ("nvidia.com/mig-1c.3g.40gb", False, True),
        ("nvidia.com/gpu.shared", False, True),
        ("nvidia.com/GA102GL_A10", False, True),
        ("nvidia.com/gpumem", False, False),
        ("nvidia.com/hostdev", False, False),
        ("amd.com/cpx_nps4", False, True),
        ("habana.ai/gaudi", False, True),
        ("gpu.intel.com/i915", False, True),
        ("gpu.intel.com/i915_monitoring", False, True),
        ("google.com/tpu", False, True),
        ("aws.amazon.com/neuroncore", False, True),
        ("huawei.com/Ascend910B", False, True),
        ("volcano.sh/vgpu-number", False, True),
        ("example.com/npu", False, True),
        ("example.com/gpus", False, True),
        ("rdma/hca_shared_devices_a", False, False),
        ("devices.kubevirt.io/kvm", False, False),
        ("example.com/outputs", False, False),
        ("cpu", False, False),
        ("hugepages-2Mi", False, False),
    ],
)
def test_which_resources_are_accelerators(resource: str, planned: bool, named: bool) -> None:
    assert (is_planned(resource), find_other(resource) is not None) == (planned, named)
    assert is_accelerator(resource) is (planned or named)


# Memory of slices in GiB, as `nvidia-smi mig -lgip` lists it.
SLICES = [
    ("1g.5gb", 4.75),
    ("3g.20gb", 19.62),
    ("1g.10gb", 9.5),
    ("2g.20gb", 19.5),
    ("3g.40gb", 39.25),
    ("7g.80gb", 78.75),
    ("1g.18gb", 16.0),
    ("1g.12gb", 11.0),
]


@pytest.mark.parametrize(("profile", "gib"), SLICES, ids=[profile for profile, _ in SLICES])
def test_a_profile_s_name_never_promises_more_than_a_slice_has(profile: str, gib: float) -> None:
    assert 0.85 * gib * GIB <= least_slice_bytes(profile) <= gib * GIB


@pytest.mark.parametrize(
    ("product", "profile"),
    [
        ("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", "3g.40gb"),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb.me", "1g.10gb.me"),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb-SHARED", "1g.10gb"),
        ("NVIDIA-A100-SXM4-80GB-MIG-INVALID", None),
        ("NVIDIA-A100-SXM4-80GB", None),
        ("NVIDIA-A100-SXM4-80GB-MIG-1c.3g.40gb", None),
    ],
)
def test_a_product_s_profile(product: str, profile: str | None) -> None:
    assert mig_profile(product) == profile


def test_what_is_no_profile_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'3g' is no MIG profile, expected one such as 3g\.40gb"):
        least_slice_bytes("3g")
    assert mig_profile_of("nvidia.com/mig-3g.40gb") == "3g.40gb"
    assert mig_profile_of("nvidia.com/gpu") is None
