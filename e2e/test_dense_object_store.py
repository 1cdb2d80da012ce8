"""Weights that the operator's Job fetched from an S3 server in a pod, once for all replicas; an adapter from a hub."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from e2e.bed.dense import ADAPTER, ADAPTER_COMMIT, ADAPTER_REPOSITORY, Dense
from e2e.bed.models import Model
from e2e.bed.references import Continuations
from e2e.bed.site import RESTRICTED


def test_the_weights_are_in_the_cache_and_are_those_of_the_digest(dense: Dense, dense_model: Model) -> None:
    condition = dense_model.condition("WeightsReady")
    assert (condition["status"], condition["reason"]) == ("True", "Verified")
    assert dense.manifest()["spec"]["model"]["digest"] in condition["message"]


def test_progress_was_in_the_status(dense_model: Model) -> None:
    said = dense_model.said("WeightsReady")
    assert [words for words in said if re.search(r"of \d+\.\d GiB \(\d+ %\) are downloaded", words)], said


def test_one_job_fetched_them(dense_model: Model) -> None:
    kubectl = dense_model.site.kubectl
    jobs = kubectl.list("jobs", RESTRICTED, f"conclave.dev/model-deployment={dense_model.name}")
    (job,) = (job for job in jobs if "weights" in job["metadata"]["name"])
    assert job["status"]["succeeded"] == 1
    assert "failed" not in job["status"]


def test_the_adapter_came_from_the_hub_with_the_hashes_that_it_names(dense: Dense, dense_model: Model) -> None:
    """By the same Job; its large file from the CDN, another address than the hub's."""
    (marker,) = (
        found
        for path in (dense.site.weights.parent / "e2e-cache").glob("*/.conclave-weights.json")
        if (found := json.loads(path.read_text()))["source"].startswith("hf://")
    )
    assert marker["source"] == f"hf://{ADAPTER_REPOSITORY}@{ADAPTER_COMMIT}"
    tensors = (dense.adapter / "adapter_model.safetensors").read_bytes()
    etags = {item["path"]: item["etag"] for item in marker["objects"]}
    assert etags["adapter_model.safetensors"] == hashlib.sha256(tensors).hexdigest()
    kubectl = dense_model.site.kubectl
    (pod,) = kubectl.list("pods", RESTRICTED, f"conclave.dev/weights-of={dense_model.name}")
    ended = {status["name"]: status["state"]["terminated"] for status in pod["status"]["initContainerStatuses"]}
    assert ended["download-adapter-1"]["exitCode"] == 0
    report = json.loads(ended["download-adapter-1"]["message"])
    assert report["doneBytes"] == report["totalBytes"] > len(tensors)


def test_the_tokens_are_those_of_bare_vllm(
    dense: Dense, dense_model: Model, bare_vllm: dict[Path, Continuations]
) -> None:
    assert dense_model.greedy_tokens() == bare_vllm[dense.checkpoint]


def test_the_adapters_tokens_are_those_of_bare_vllm_with_it(
    dense: Dense, dense_model: Model, bare_vllm: dict[Path, Continuations]
) -> None:
    assert bare_vllm[dense.adapter] != bare_vllm[dense.checkpoint]
    assert dense_model.greedy_tokens(ADAPTER) == bare_vllm[dense.adapter]
