"""`spec.model`: which model is served, under which name, from which weights and with which adapters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import (
    AdapterRank,
    CommitHash,
    DnsName,
    LicenceId,
    ModelId,
    OwnNames,
    ServedName,
    Sha256Digest,
)
from conclave.api.modeldeployment.source import AdapterSource, Cache, ModelSource
from conclave.api.rules import Message, Rule


class ConfigReference(ApiModel):
    """A ConfigMap of the same namespace. Its key `config.json` has the model's config.json, and its key
    `hf_quant_config.json` the file of that name, if there is one."""

    name: DnsName


class Licence(ApiModel):
    """States that the owner of this ModelDeployment has read the licence and keeps it."""

    accepted: LicenceId
    """Id of the licence, as `conclave models show` prints it."""


class Adapter(ApiModel):
    """A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors."""

    name: ServedName
    """Model name that clients send to use this adapter. It must differ from the base model's name."""
    source: AdapterSource
    """Where the adapter's files are: `persistentVolumeClaim`, `image`, `objectStore` or `huggingFace`. The claim of the
    model may hold them too; a download goes into `model.cache`."""
    max_rank: AdapterRank = 16
    """Highest rank, at least the `r` in adapter_config.json. For each adapter, each GPU reserves memory for the highest
    maxRank of all adapters."""
    digest: Sha256Digest | None = None
    """Digest of the adapter's files, as `conclave weights digest` prints it. It is checked before the engine starts."""


class Model(ApiModel):
    """Which model, under which name, from which weights."""

    rules = (
        Rule(
            "!has(self.servedName) || !has(self.adapters)"
            " || self.adapters.all(adapter, adapter.name != self.servedName)",
            lambda model: model.served_name not in [adapter.name for adapter in model.adapters],
            Message(
                'adapters: the name "{servedName}" is the servedName of the base model: '
                "give each adapter a name of its own"
            ),
        ),
        Rule(
            "(has(self.source.objectStore) || has(self.source.huggingFace) || (has(self.adapters)"
            " && self.adapters.exists(adapter, has(adapter.source.objectStore) || has(adapter.source.huggingFace))))"
            " == has(self.cache)",
            lambda model: any(source.downloaded for source in model.sources) == (model.cache is not None),
            Message(
                "cache is needed with source.objectStore or source.huggingFace of the model or an adapter, whose files "
                "are downloaded into it, and is refused with other sources"
            ),
        ),
        Rule(
            "!has(self.revision) || !has(self.source.huggingFace) || self.revision == self.source.huggingFace.revision",
            lambda model: (
                model.revision is None
                or model.source.hugging_face is None
                or model.revision == model.source.hugging_face.revision
            ),
            Message(
                "revision {revision} is not the revision {source.huggingFace.revision} of source.huggingFace: "
                "leave revision out, or give the same commit twice"
            ),
        ),
    )

    id: ModelId
    """Id of the model, for instance `mistralai/Mixtral-8x7B-Instruct-v0.1`. If the catalogue does not know the id,
    `configRef` or the config.json beside the weights describes the model."""
    served_name: ServedName | None = None
    """Model name that clients send. Default: the object's name. It never changes."""
    revision: CommitHash | None = None
    """Commit of the hub repository that the weights were copied from. It is recorded in every object that serves
    them. Default: the revision of `source.huggingFace`."""
    source: ModelSource
    """Where the weights come from: `persistentVolumeClaim`, `image`, `objectStore` or `huggingFace`."""
    cache: Cache | None = None
    """Volume for downloaded weights, which all replicas share. Needed with `objectStore` or `huggingFace` as the source
    of the model or of an adapter, and refused with other sources."""
    config_ref: ConfigReference | None = None
    """The config.json of a fine-tuned model, or of a model that the catalogue does not know. With it, the operator does
    not need to read the config.json beside the weights. If the weights have a file hf_quant_config.json, the ConfigMap
    must have it under that key."""
    digest: Sha256Digest | None = None
    """Digest of the weights' files, as `conclave weights digest` prints it. It is checked before the engine starts."""
    licence: Licence | None = None
    adapters: Annotated[tuple[Adapter, ...], Field(max_length=16), OwnNames()] = ()
    """LoRA adapters. The replicas of the base model serve each of them under its own name."""

    @property
    def sources(self) -> tuple[AdapterSource, ...]:
        """The source of the model, then of each adapter."""
        return (self.source, *(adapter.source for adapter in self.adapters))

    @property
    def commit(self) -> str | None:
        """The commit of the hub repository that the weights are of, where it is known."""
        hub = self.source.hugging_face
        return self.revision or (hub.revision if hub else None)
