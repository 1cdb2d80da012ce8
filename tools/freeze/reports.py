"""Termination messages as the programs of a version's pods write them, on a tiny real checkpoint.

Each program is run from the tree of its version, as a kubelet runs it in a pod; only paths and addresses are exchanged
for those of a pod.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import obstore
from tests.integration.testbed.minio import Minio
from tools.released import environment
from tools.tiny_checkpoint import make_checkpoint

from conclave_cli.local.ports import free_port

OTHER_DIGEST = "sha256:" + "0" * 64
BUCKET, PREFIX = "models", "mixtral"
MODEL_PATH, CACHE_PATH = "/models/weights", "/cache/weights"
LARGE_BYTES, PART_BYTES = 2**26, 2**23
API_SERVER = "10.96.0.1:443"


class Reports(NamedTuple):
    """What containers of a version leave behind."""

    digest: str
    """Of the checkpoint."""
    verified: str
    """By verify-weights of whole files."""
    mismatch: str
    """By verify-weights of files that have another digest."""
    awaited: str
    """By await-weights when nothing is to be waited for."""
    inspected: str
    """By the inspection Job's container."""
    half: str
    """By a step of the download."""
    downloaded: str
    """By the last step of the download."""
    refused: str
    """By a step of the download that the store refused."""
    closed: str
    """By the egress canary where nothing can be reached."""
    opened: str
    """By the egress canary that reached the API server."""


def make_reports(tree: Path, scratch: Path, api_server_port: int) -> Reports:
    """Runs them all; takes half a minute."""
    weights = make_checkpoint("mixtral", scratch / "weights")
    with Minio(scratch / "minio") as minio:
        minio.make_bucket(BUCKET)
        minio.upload(weights, BUCKET, PREFIX)
        obstore.put(minio.store(BUCKET), "large/model.safetensors", bytes(LARGE_BYTES), chunk_size=PART_BYTES)
        programs = _Programs(tree, scratch, {str(weights): MODEL_PATH, str(scratch / "cache"): CACHE_PATH})
        digest = programs.digest(weights)
        verify = ("verify", "--notes", scratch / "notes.json")
        store = ("--endpoint", minio.url)
        cache = scratch / "cache"
        return Reports(
            digest=digest,
            verified=programs.weights(*verify, "--digest", digest, weights),
            awaited=programs.weights("await", scratch / "notes.json"),
            mismatch=programs.weights(*verify, "--digest", OTHER_DIGEST, weights),
            inspected=programs.weights("inspect", weights),
            half=programs.download(minio, *store, "--until-percent", "50", f"s3://{BUCKET}/large", scratch / "large"),
            downloaded=programs.download(minio, *store, "--digest", digest, f"s3://{BUCKET}/{PREFIX}", cache),
            refused=programs.download(minio, *store, f"s3://{BUCKET}/absent", scratch / "absent"),
            closed=programs.canary(free_port()),
            opened=programs.canary(api_server_port),
        )


class _Programs:
    def __init__(self, tree: Path, scratch: Path, exchanged: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment(tree)}
        self._report = scratch / "termination-log"
        self._exchanged = exchanged

    def digest(self, weights: Path) -> str:
        said = self._run("conclave_cli.main", "weights", "digest", weights).stdout
        return next(word for word in said.split() if word.startswith("sha256:"))

    def weights(self, *arguments: str | Path, **more: str) -> str:
        command, *rest = arguments
        self._run("conclave_weights", command, "--report", self._report, *rest, **more)
        return self._written()

    def download(self, minio: Minio, *arguments: str | Path) -> str:
        return self.weights("download", *arguments, **minio.environment).replace(minio.url, "http://minio.storage:9000")

    def canary(self, port: int) -> str:
        target = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
        self._run("conclave_serving.egress_canary", self._report, **target)
        return self._written().replace(f"127.0.0.1:{port}", API_SERVER)

    def _run(self, module: str, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.run(command, env={**self._environment, **more}, capture_output=True, text=True, timeout=120)

    def _written(self) -> str:
        text = self._report.read_text(encoding="utf-8")
        self._report.unlink()
        for path, shown in self._exchanged.items():
            text = text.replace(path, shown)
        return text
