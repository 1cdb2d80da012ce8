"""Somebody changes downloaded weights in their claim: the next pod refuses to load them, whatever a marker says."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.bed.dense import Dense
from e2e.bed.models import Model
from e2e.bed.references import Continuations
from tests.eventually import eventually

CAUSE_S = 240.0


@pytest.fixture
def cached(dense: Dense) -> Path:
    """The file of tensors as the Job left it in the claim."""
    (file,) = (dense.site.weights.parent / "e2e-cache").rglob("model*.safetensors")
    return file


def test_a_file_that_was_swapped_in_the_claim_is_refused_until_it_is_mended(
    dense: Dense, dense_model: Model, bare_vllm: dict[Path, Continuations], cached: Path
) -> None:
    kubectl = dense.site.kubectl
    assert dense_model.condition("WeightsReady")["reason"] == "Verified"
    (worker,) = dense_model.pods("worker")
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.write_bytes(content)
    kubectl("delete", "pod", worker["metadata"]["name"], f"--namespace={dense_model.namespace}", "--wait=false")

    condition = dense_model.eventually_says("WeightsReady", "DigestMismatch", CAUSE_S)
    assert condition["status"] == "False"
    assert dense.manifest()["spec"]["model"]["digest"] in condition["message"]
    content[-1] ^= 1
    cached.write_bytes(content)
    eventually(lambda: dense_model.condition("WeightsReady")["reason"] == "Verified", timeout=CAUSE_S, every=2)
    dense_model.wait_until_ready()
    assert dense_model.greedy_tokens() == bare_vllm[dense.checkpoint]
