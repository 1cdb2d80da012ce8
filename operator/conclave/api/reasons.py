"""Types and reasons of the conditions of a ModelDeployment. A reason names one fact."""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """All conditions are always set. Stalled and Reconciling follow kstatus: True is abnormal."""

    READY = "Ready"
    """Whether the model answers with the spec of this generation."""
    PLAN_READY = "PlanReady"
    """Whether there is a plan for this generation."""
    WEIGHTS_READY = "WeightsReady"
    """Whether the weights exist and match the digest."""
    PROVISIONED = "Provisioned"
    """Whether all pods run that should run."""
    SERVING = "Serving"
    """Whether at least one replica answers, of this or an older generation."""
    SCALED = "Scaled"
    """Whether as many replicas answer as are wanted. Does not affect Ready."""
    EGRESS_ENFORCED = "EgressEnforced"
    """Whether the cluster enforces the NetworkPolicy of worker pods. Does not affect Ready."""
    WITHIN_POLICY = "WithinPolicy"
    """Whether the operator's lists and rules allow what runs and what is recorded. Does not affect Ready."""
    UPDATE_AVAILABLE = "UpdateAvailable"
    """Whether a refresh would change the running pods."""
    RECONCILING = "Reconciling"
    """Whether the operator or the cluster is still working towards the spec."""
    STALLED = "Stalled"
    """Whether somebody must act before the operator can continue."""


class Reason(StrEnum):
    """Reasons of conditions, of refusals and of root causes."""

    # As it should be.
    AS_WANTED = "AsWanted"
    PLANNED = "Planned"
    MOUNTED = "Mounted"
    VERIFIED = "Verified"
    DOWNLOADED = "Downloaded"
    PODS_READY = "PodsReady"
    SERVING = "Serving"
    UP_TO_DATE = "UpToDate"
    BUILDER_CHANGED = "BuilderChanged"
    SUSPENDED = "Suspended"
    SCALED_TO_ZERO = "ScaledToZero"

    # The plan.
    INVALID_SPEC = "InvalidSpec"
    MODEL_REFUSED = "ModelRefused"
    DATA_CLASS_UNKNOWN = "DataClassUnknown"
    CONFIG_MISSING = "ConfigMissing"
    CONFIG_INVALID = "ConfigInvalid"
    INSPECTING = "Inspecting"
    INSPECTION_FAILED = "InspectionFailed"
    NOTHING_FITS = "NothingFits"

    # The operator's own lists and rules.
    IMAGE_NOT_ALLOWED = "ImageNotAllowed"
    SERVICE_ACCOUNT_NOT_ALLOWED = "ServiceAccountNotAllowed"
    HUB_NOT_ALLOWED = "HubNotAllowed"
    POD_KEY_NOT_ALLOWED = "PodKeyNotAllowed"
    DEVICE_NOT_ALLOWED = "DeviceNotAllowed"
    RECORD_REFUSED = "RecordRefused"
    RECORD_TOO_NEW = "RecordTooNew"

    # What the cluster must have or allow.
    DEPENDENCY_MISSING = "DependencyMissing"
    DEPENDENCY_OUTDATED = "DependencyOutdated"
    FORBIDDEN = "Forbidden"
    FOREIGN_OWNER = "ForeignOwner"
    WRITE_REJECTED = "WriteRejected"
    API_SERVER_UNREACHABLE = "ApiServerUnreachable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_REJECTED = "PodRejected"
    CLUSTER_REJECTED = "ClusterRejected"

    # The operator itself.
    INTERNAL_ERROR = "InternalError"

    # Weights.
    CLAIM_MISSING = "ClaimMissing"
    CLAIM_PENDING = "ClaimPending"
    CLAIM_LOST = "ClaimLost"
    WEIGHTS_MISSING = "WeightsMissing"
    DOWNLOADING = "Downloading"
    DOWNLOAD_FAILED = "DownloadFailed"
    DIGEST_MISMATCH = "DigestMismatch"
    WEIGHTS_CORRUPT = "WeightsCorrupt"
    WEIGHTS_UNREADABLE = "WeightsUnreadable"
    VERIFYING = "Verifying"

    # Pods.
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason
    VOLUME_NOT_MOUNTED = "VolumeNotMounted"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_NOT_PULLED = "ImageNotPulled"
    CONTAINER_NOT_CREATED = "ContainerNotCreated"
    POD_EVICTED = "PodEvicted"
    OUT_OF_MEMORY = "OutOfMemory"
    CONTAINER_CRASHED = "ContainerCrashed"
    HEAD_REPLACED = "HeadReplaced"
    HEAD_UNREACHABLE = "HeadUnreachable"
    PODS_MISSING = "PodsMissing"
    PODS_STARTING = "PodsStarting"

    # The network.
    EGRESS_CLOSED = "EgressClosed"
    EGRESS_OPEN = "EgressOpen"
    EGRESS_ALLOWED = "EgressAllowed"
    EGRESS_UNTESTED = "EgressUntested"

    # The engine.
    GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
    KV_CACHE_TOO_SMALL = "KvCacheTooSmall"
    IMAGE_INCOMPLETE = "ImageIncomplete"
    DRIVER_UNFIT = "DriverUnfit"
    REMOTE_CODE_REFUSED = "RemoteCodeRefused"
    COLLECTIVES_FAILED = "CollectivesFailed"
    ENGINE_FAILED = "EngineFailed"
    ENGINE_STARTING = "EngineStarting"
    ROLLING_OUT = "RollingOut"


REFUSALS = (
    Reason.INVALID_SPEC,
    Reason.MODEL_REFUSED,
    Reason.DATA_CLASS_UNKNOWN,
    Reason.CONFIG_MISSING,
    Reason.CONFIG_INVALID,
    Reason.WEIGHTS_CORRUPT,
    Reason.WEIGHTS_UNREADABLE,
    Reason.NOTHING_FITS,
    Reason.IMAGE_NOT_ALLOWED,
    Reason.SERVICE_ACCOUNT_NOT_ALLOWED,
    Reason.HUB_NOT_ALLOWED,
    Reason.POD_KEY_NOT_ALLOWED,
    Reason.DEVICE_NOT_ALLOWED,
    Reason.RECORD_REFUSED,
    Reason.RECORD_TOO_NEW,
)
"""Reasons of PlanReady that refuse a spec. Its other reasons name what the plan waits for."""
