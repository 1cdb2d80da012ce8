"""`spec.model`: which model is served, under which name, from which weights and with which adapters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import CommitHash, DnsName, LicenceId, ModelId, OwnNames, ServedName, Sha256Digest
from conclave.api.modeldeployment.source import AdapterSource, Cache, ModelSource
from conclave.api.rules import Message, Rule


class ConfigReference(ApiModel):
    """A ConfigMap of the same namespace with the model's `config.json`."""

    name: DnsName


class Licence(ApiModel):
    """The owner's word that a licence was read and is kept."""

    accepted: LicenceId
    """The licence's id, as `conclave models show` prints it."""


class Adapter(ApiModel):
    """A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors."""

    name: ServedName
    """The model name that clients send to be answered with it; another one than the base model's."""
    source: AdapterSource
    """Where its files are: `persistentVolumeClaim` or `image`; the model's own claim may hold them too."""
    max_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    """At least its `r` in adapter_config.json. Each GPU sets memory for the largest of all adapters aside for each."""
    digest: Sha256Digest | None = None
    """Digest of its files, as `conclave weights digest` prints it; checked before the engine starts."""


class Model(ApiModel):
    """Which model, under which name, from which weights."""

    rules = (
        Rule(
            "!has(self.servedName) || !has(self.adapters)"
            " || self.adapters.all(adapter, adapter.name != self.servedName)",
            lambda model: model.served_name not in [adapter.name for adapter in model.adapters],
            Message('adapters: the name "{servedName}" is the servedName of the base model: give each one of its own'),
        ),
        Rule(
            "has(self.source.objectStore) == has(self.cache)",
            lambda model: (model.source.object_store is None) == (model.cache is None),
            Message("cache is needed with source.objectStore, which is downloaded into it, and with no other source"),
        ),
    )

    id: ModelId
    """A catalogue entry, for instance `mistralai/Mixtral-8x7B-Instruct-v0.1`; what another id is, the config.json
    beside its weights says, or `configRef`."""
    served_name: ServedName | None = None
    """The model name that clients send; the object's name where left out. Never changes."""
    revision: CommitHash | None = None
    """Commit of the hub repository that the weights are a copy of; recorded with every object that serves them."""
    source: ModelSource
    """Where the weights come from: `persistentVolumeClaim`, `image` or `objectStore`."""
    cache: Cache | None = None
    """Where a downloaded source is kept, shared by replicas; needed with `source.objectStore`, and only there."""
    config_ref: ConfigReference | None = None
    """`config.json` of a fine-tune, or of a model that the catalogue does not know, whose weights need not be looked at
    then."""
    digest: Sha256Digest | None = None
    """Digest of the weights' files, as `conclave weights digest` prints it; checked before the engine starts."""
    licence: Licence | None = None
    adapters: Annotated[tuple[Adapter, ...], Field(max_length=16), OwnNames()] = ()
    """LoRA adapters, each served under its own name beside the base model and by the same replicas."""

    @property
    def claims(self) -> tuple[str, ...]:
        """Names of the PersistentVolumeClaims that the spec names, of the model and its adapters, each once."""
        sources: tuple[ModelSource | AdapterSource, ...] = (self.source, *(adapter.source for adapter in self.adapters))
        claims = (source.persistent_volume_claim for source in sources)
        return tuple(dict.fromkeys(claim.claim_name for claim in claims if claim))
