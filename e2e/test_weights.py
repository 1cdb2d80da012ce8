"""Grok-1 under an id that no catalogue has, from a claim with one flipped byte: inspected, planned, refused, mended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from e2e.bed.models import Model, Running, model_deployment
from e2e.bed.references import Continuations
from e2e.bed.site import RESTRICTED, WEIGHTS_CLAIM, Site

from conclave_weights.verify.digest import digest_of, hash_files

NAME, PATH, ID = "grok", "grok-1-damaged", "acme/grok-1-tiny"
CAUSE_S = 180.0


@pytest.fixture(scope="module")
def sound(site: Site) -> Path:
    return site.checkpoint("grok-1")


@pytest.fixture(scope="module")
def damaged(site: Site, sound: Path) -> Path:
    """A copy with one bit of the last tensor turned over."""
    copy = site.weights / PATH
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(sound, copy)
    file = sorted(copy.glob("*.safetensors"))[-1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return file


@pytest.fixture(scope="module")
def model(
    bare_vllm: dict[Path, Continuations],  # noqa: ARG001 - made first
    running: Running,
    sound: Path,
    damaged: Path,  # noqa: ARG001
) -> Model:
    source = {"persistentVolumeClaim": {"claimName": WEIGHTS_CLAIM, "path": PATH}}
    digest = digest_of(hash_files(sound))
    manifest = model_deployment(RESTRICTED, NAME, ID, PATH, model={"id": ID, "source": source, "digest": digest})
    return running.only(manifest)


def test_an_unknown_model_is_planned_from_the_config_beside_its_weights(model: Model, sound: Path) -> None:
    model.eventually_says("PlanReady", "Planned", CAUSE_S)
    assert "Inspecting" in model.said("PlanReady").values()
    plan = model.status()["plan"]
    assert plan["tensor"] == 2
    assert plan["longestContextTokens"] == json.loads((sound / "config.json").read_text())["max_position_embeddings"]


def test_a_flipped_byte_is_a_digest_that_differs_and_no_engine_starts(model: Model, damaged: Path) -> None:
    condition = model.eventually_says("WeightsReady", "DigestMismatch", CAUSE_S)
    assert condition["status"] == "False"
    seen, expected = digest_of(hash_files(damaged.parent)), model.manifest["spec"]["model"]["digest"]
    assert f"digest {seen}, expected {expected}" in condition["message"]
    assert model.condition("Ready")["reason"] == "DigestMismatch"
    (worker,) = model.pods("worker")
    assert not [status for status in worker["status"]["containerStatuses"] if status["state"].get("running")]


def test_the_mended_file_is_enough_for_the_model_to_serve(
    bare_vllm: dict[Path, Continuations], model: Model, sound: Path, damaged: Path
) -> None:
    (before,) = model.pods("worker")
    damaged.write_bytes((sound / damaged.name).read_bytes())
    model.wait_until_ready()
    assert (model.condition("WeightsReady")["status"], model.condition("WeightsReady")["reason"]) == (
        "True",
        "Verified",
    )
    (after,) = model.pods("worker")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert model.greedy_tokens() == bare_vllm[sound]


def test_network_policies_hold_for_its_pods(model: Model) -> None:
    condition = model.condition("EgressEnforced")
    assert (condition["status"], condition["reason"]) == ("True", "EgressClosed"), condition
