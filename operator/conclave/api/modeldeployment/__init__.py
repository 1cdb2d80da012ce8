"""ModelDeployment v1alpha1: what a user writes, one module for each part of the spec.

v1alpha1 changes only by addition. A field that nothing reads does not belong here.
"""

from __future__ import annotations

from conclave.api.group import API_VERSION, GROUP, VERSION
from conclave.api.meta import ObjectMeta
from conclave.api.modeldeployment.access import Access
from conclave.api.modeldeployment.engine import Dtype, Engine, KvCacheDtype, Quantization
from conclave.api.modeldeployment.hardware import Hardware, Toleration
from conclave.api.modeldeployment.model import Adapter, ConfigReference, Licence, Model
from conclave.api.modeldeployment.parallelism import Parallelism
from conclave.api.modeldeployment.resource import KIND, MODEL_DEPLOYMENT, PLURAL, ModelDeployment
from conclave.api.modeldeployment.runtime import (
    HeadPlacement,
    PodResources,
    Probes,
    Runtime,
    RuntimeResources,
    WorkerResources,
)
from conclave.api.modeldeployment.scaling import Scaling
from conclave.api.modeldeployment.source import (
    AdapterSource,
    Cache,
    Downloaded,
    DraftSource,
    HuggingFaceSource,
    ImageSource,
    ModelSource,
    ObjectStoreSource,
    PersistentVolumeClaimSource,
)
from conclave.api.modeldeployment.spec import ModelDeploymentSpec
from conclave.api.modeldeployment.speculative import METHODS_WITH_DRAFT, Draft, Speculative, SpeculativeMethod
from conclave.api.modeldeployment.status import Condition, Endpoint, ModelDeploymentStatus
from conclave.api.modeldeployment.telemetry import Telemetry, Tracing

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "METHODS_WITH_DRAFT",
    "MODEL_DEPLOYMENT",
    "PLURAL",
    "VERSION",
    "Access",
    "Adapter",
    "AdapterSource",
    "Cache",
    "Condition",
    "ConfigReference",
    "Downloaded",
    "Draft",
    "DraftSource",
    "Dtype",
    "Endpoint",
    "Engine",
    "Hardware",
    "HeadPlacement",
    "HuggingFaceSource",
    "ImageSource",
    "KvCacheDtype",
    "Licence",
    "Model",
    "ModelDeployment",
    "ModelDeploymentSpec",
    "ModelDeploymentStatus",
    "ModelSource",
    "ObjectMeta",
    "ObjectStoreSource",
    "Parallelism",
    "PersistentVolumeClaimSource",
    "PodResources",
    "Probes",
    "Quantization",
    "Runtime",
    "RuntimeResources",
    "Scaling",
    "Speculative",
    "SpeculativeMethod",
    "Telemetry",
    "Toleration",
    "Tracing",
    "WorkerResources",
]
