"""`spec.model`: which model is served, under which name, from which weights and with which adapters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import CommitHash, DnsName, LicenceId, ModelId, OwnNames, ServedName, Sha256Digest
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
    """Where the adapter's files are: `persistentVolumeClaim` or `image`. The claim of the model may hold them too."""
    max_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
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
            "has(self.source.objectStore) == has(self.cache)",
            lambda model: (model.source.object_store is None) == (model.cache is None),
            Message(
                "cache is needed with source.objectStore, whose weights are downloaded into it, "
                "and is refused with another source"
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
    them."""
    source: ModelSource
    """Where the weights come from: `persistentVolumeClaim`, `image` or `objectStore`."""
    cache: Cache | None = None
    """Volume for downloaded weights, which all replicas share. Needed with `source.objectStore`, and refused with other
    sources."""
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
    def claims(self) -> tuple[str, ...]:
        """Names of the PersistentVolumeClaims of the model and its adapters, each name once."""
        sources: tuple[ModelSource | AdapterSource, ...] = (self.source, *(adapter.source for adapter in self.adapters))
        claims = (source.persistent_volume_claim for source in sources)
        return tuple(dict.fromkeys(claim.claim_name for claim in claims if claim))
