"""The dense model that modules share: weights from an object store, a LoRA adapter from a hub, traced, scaled.

Replica by replica on nodes of one GPU each, so that a second one goes to another node and a third has none.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from e2e.bed.models import LICENCES, engine, model_deployment
from e2e.bed.services import PASSWORD, USER, Hub, ObjectStore, TraceBackend
from e2e.bed.site import RESTRICTED, Site, readable

from conclave_weights.verify.digest import digest_of, hash_files

NAME, ADAPTER, ID = "llama", "support-tone", "meta-llama/Meta-Llama-3-8B-Instruct"
STORAGE_CLASS, CACHE_SIZE = "e2e-cache", "16Gi"
ADAPTER_REPOSITORY, ADAPTER_COMMIT = "acme/support-tone", "0123456789abcdef0123456789abcdef01234567"
IDLE_SECONDS = 20
MAX_MODEL_LEN = 2048
POD_USER = 1000
Manifest = dict[str, Any]


class Dense:
    """Made once: the files, the store, the trace backend, the manifest."""

    def __init__(self, site: Site):
        self.site = site
        self.checkpoint = site.checkpoint("llama-3")
        self.adapter = site.adapter("llama-3")
        self.traces = TraceBackend(site)
        self._store = ObjectStore(site)
        self._store.upload(self.checkpoint, "llama-3")
        repositories = site.weights / "hub"
        shutil.rmtree(repositories, ignore_errors=True)
        shutil.copytree(self.adapter, repositories / ADAPTER_REPOSITORY / ADAPTER_COMMIT)
        self._hub = Hub(site, readable(repositories))

    def prepare(self) -> None:
        """The Secret of the store, and an empty volume for the operator's claim."""
        cache = self.site.weights.parent / "e2e-cache"
        kubectl = self.site.kubectl
        kubectl.delete("persistentvolume", f"{NAME}-cache")
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        os.chown(cache, POD_USER, POD_USER)
        kubectl.apply(_secret(), _volume(cache))

    def manifest(self) -> Manifest:
        store = {"uri": "s3://models/llama-3", "endpoint": self._store.url, "secretName": "object-store"}
        tuned = {"repository": ADAPTER_REPOSITORY, "revision": ADAPTER_COMMIT, "endpoint": self._hub.url}
        model = {
            "id": ID,
            "source": {"objectStore": store},
            "cache": {"storageClassName": STORAGE_CLASS, "size": CACHE_SIZE},
            "digest": digest_of(hash_files(self.checkpoint)),
            "licence": {"accepted": LICENCES[ID]},
            "adapters": [{"name": ADAPTER, "source": {"huggingFace": tuned}, "maxRank": 8}],
        }
        return model_deployment(
            RESTRICTED,
            NAME,
            ID,
            "",
            model=model,
            parallelism={"tensor": 1},
            scaling={"minReplicas": 1, "maxReplicas": 3, "targetConcurrency": 2, "idleSeconds": IDLE_SECONDS},
            engine=engine(MAX_MODEL_LEN),
            telemetry={"tracing": {"endpoint": self.traces.url, "samplingRatio": "0"}},
        )


def _secret() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "object-store", "namespace": RESTRICTED},
        "stringData": {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD},
    }


def _volume(directory: Path) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{NAME}-cache"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": CACHE_SIZE},
            "hostPath": {"path": str(directory), "type": "Directory"},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }
