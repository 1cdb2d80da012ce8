"""Where files of weights and adapters come from, and where downloaded ones are kept."""

from __future__ import annotations

from typing import Literal

from conclave.api.base import ApiModel
from conclave.api.formats import (
    DnsName,
    ObjectStoreUri,
    PinnedImageReference,
    Quantity,
    RegionName,
    RelativePath,
    StoreEndpoint,
)
from conclave.api.rules import Message, Rule


class PersistentVolumeClaimSource(ApiModel):
    """Weights on a claim in the deployment's own namespace, mounted read-only."""

    claim_name: DnsName
    """Name of a PersistentVolumeClaim in the same namespace."""
    path: RelativePath = ""
    """Directory of the weights below the volume's root; relative, without `..`."""


class ImageSource(ApiModel):
    """Weights in an OCI image, mounted read-only as an image volume (Kubernetes 1.33 and later)."""

    reference: PinnedImageReference
    """The image's reference, pinned by digest: registry/repository@sha256:..."""
    path: RelativePath = ""
    """Directory of the weights below the image's root; relative, without `..`."""


class ObjectStoreSource(ApiModel):
    """Weights in an object store that speaks S3; downloaded once into `model.cache`, for all replicas."""

    uri: ObjectStoreUri
    """Bucket and path: s3://bucket/path. Hidden objects (a part of the path begins with a dot) are left out."""
    endpoint: StoreEndpoint | None = None
    """Base URL of another store than Amazon's, for instance https://minio.storage.svc:9000."""
    region: RegionName | None = None
    """Region of the bucket; us-east-1 where left out."""
    secret_name: DnsName
    """Secret of the same namespace with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where the credentials
    are temporary, AWS_SESSION_TOKEN."""


class AdapterSource(ApiModel):
    """Where an adapter's files are: exactly one."""

    rules = (
        Rule(
            "has(self.persistentVolumeClaim) != has(self.image)",
            lambda source: (source.persistent_volume_claim is None) != (source.image is None),
            Message("exactly one source is needed, persistentVolumeClaim or image: none or both are given"),
        ),
    )

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    image: ImageSource | None = None


class ModelSource(ApiModel):
    """Where the weights come from: exactly one."""

    rules = (
        Rule(
            "[has(self.persistentVolumeClaim), has(self.image), has(self.objectStore)].exists_one(given, given)",
            lambda source: sum(map(bool, (source.persistent_volume_claim, source.image, source.object_store))) == 1,
            Message(
                "exactly one source is needed, persistentVolumeClaim, image or objectStore: none or several are given"
            ),
        ),
    )

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    image: ImageSource | None = None
    object_store: ObjectStoreSource | None = None


class Cache(ApiModel):
    """The volume that keeps downloaded weights: one PersistentVolumeClaim, made by the operator, deleted with the
    deployment."""

    storage_class_name: DnsName | None = None
    """Storage class of the claim; the cluster's default where left out. Never changes once the claim is made."""
    size: Quantity
    """Size of the claim. The weights twice, where another digest or address is to be rolled out while these serve."""
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """ReadWriteOnce where the storage class has nothing else: all pods of the deployment then share one node."""
