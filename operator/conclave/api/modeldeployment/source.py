"""Where the files of weights, adapters and drafts come from, and the volume for downloaded weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import (
    CommitHash,
    DnsName,
    FilePattern,
    HubEndpoint,
    HubRepository,
    ObjectStoreUri,
    PinnedImageReference,
    Quantity,
    RegionName,
    RelativePath,
    StoreEndpoint,
)
from conclave.api.rules import Message, Rule


class PersistentVolumeClaimSource(ApiModel):
    """Weights on a PersistentVolumeClaim of the same namespace. Pods mount it read-only."""

    claim_name: DnsName
    """Name of a PersistentVolumeClaim in the same namespace."""
    path: RelativePath = ""
    """Directory of the weights, relative to the volume's root, without `..`."""


class ImageSource(ApiModel):
    """Weights in an OCI image. Pods mount it read-only as an image volume (Kubernetes 1.33 and later)."""

    reference: PinnedImageReference
    """Reference of the image, pinned by digest: registry/repository@sha256:..."""
    path: RelativePath = ""
    """Directory of the weights, relative to the image's root, without `..`."""


class ObjectStoreSource(ApiModel):
    """Weights in an object store with the S3 API. They are downloaded once into `model.cache`, for all replicas."""

    uri: ObjectStoreUri
    """Bucket and path of the weights: s3://bucket/path. An object is not downloaded when a part of its path begins with
    a dot."""
    endpoint: StoreEndpoint | None = None
    """Base URL of an object store that is not Amazon S3, for instance https://minio.storage.svc:9000."""
    region: RegionName | None = None
    """Region of the bucket. Default: us-east-1."""
    secret_name: DnsName
    """Secret of the same namespace with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Temporary credentials
    also need the key AWS_SESSION_TOKEN."""


FilePatterns = Annotated[tuple[FilePattern, ...], Field(max_length=32)]


class HuggingFaceSource(ApiModel):
    """Weights of a model repository on the Hugging Face hub or a mirror. They are downloaded once into `model.cache`,
    for all replicas, and compared with the hub's hashes."""

    repository: HubRepository
    """The repository: ORGANISATION/NAME."""
    revision: CommitHash
    """Commit of the repository: 40 hex digits. A branch or tag can move, and is refused."""
    secret_name: DnsName | None = None
    """Secret of the same namespace with the key HF_TOKEN, for a gated or private repository. The token is sent to the
    endpoint only, never to a host that the endpoint redirects to."""
    endpoint: HubEndpoint | None = None
    """Base URL of a mirror, for instance https://hub.example/mirror. Default: https://huggingface.co. It must be in the
    chart's list `serving.allowedHubEndpoints`, which by default allows all."""
    allow_patterns: FilePatterns = ()
    """Which files are downloaded: patterns of paths, in which `*` also matches `/`. Default: files that an engine
    reads, of the repository's top directory: *.safetensors, *.json, *.txt, *.model, *.tiktoken, *.jinja and licences.
    A file is never downloaded when a part of its path begins with a dot."""
    ignore_patterns: FilePatterns = ()
    """Which of these files are not downloaded."""

    @property
    def uri(self) -> str:
        """The source as messages and commands name it: hf://ORGANISATION/NAME@COMMIT."""
        return f"hf://{self.repository}@{self.revision}"


Downloaded = ObjectStoreSource | HuggingFaceSource
"""A source that is copied into `model.cache` before it is mounted."""


class DraftSource(ApiModel):
    """Where the files of a draft are. Exactly one field must be given."""

    rules = (
        Rule(
            "has(self.persistentVolumeClaim) != has(self.image)",
            lambda source: (source.persistent_volume_claim is None) != (source.image is None),
            Message("exactly one source is needed, persistentVolumeClaim or image: none or both are given"),
        ),
    )

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    image: ImageSource | None = None


class AdapterSource(ApiModel):
    """Where the files of an adapter are. Exactly one field must be given."""

    rules = (
        Rule(
            "[has(self.persistentVolumeClaim), has(self.image), has(self.objectStore), has(self.huggingFace)]"
            ".exists_one(given, given)",
            lambda source: (
                sum(
                    given is not None
                    for given in (
                        source.persistent_volume_claim,
                        source.image,
                        source.object_store,
                        source.hugging_face,
                    )
                )
                == 1
            ),
            Message(
                "exactly one source is needed, persistentVolumeClaim, image, objectStore or huggingFace: none or "
                "several are given"
            ),
        ),
    )

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    image: ImageSource | None = None
    object_store: ObjectStoreSource | None = None
    hugging_face: HuggingFaceSource | None = None

    @property
    def downloaded(self) -> Downloaded | None:
        """The source that is downloaded into the cache; None where the files are mounted from where they are."""
        return self.object_store or self.hugging_face


class ModelSource(AdapterSource):
    """Where the weights come from. Exactly one field must be given."""


class Cache(ApiModel):
    """The volume for downloaded weights: a PersistentVolumeClaim, which the operator creates and which is deleted with
    the ModelDeployment."""

    storage_class_name: DnsName | None = None
    """Storage class of the claim. Default: the cluster's default class. It cannot change once the claim exists."""
    size: Quantity
    """Size of the claim. It must hold the weights twice if other weights are to be rolled out while these serve."""
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """Access mode of the claim. With ReadWriteOnce all pods of the ModelDeployment run on one node; use it only when
    the storage class has no other mode."""
