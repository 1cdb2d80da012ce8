"""`conclave up --draft PATH`: the head of the manifest gets a directory, and a manifest without a head gets none."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from conclave.api.modeldeployment import ModelDeployment
from conclave.errors import InvalidInput
from conclave_cli.local.checks import read_draft
from conclave_weights.errors import WeightsUnfit


def deployment(**speculative: Any) -> ModelDeployment:
    return ModelDeployment.model_validate(
        {
            "apiVersion": "conclave.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "llama"},
            "spec": {
                "model": {
                    "id": "meta-llama/Meta-Llama-3-8B",
                    "source": {"persistentVolumeClaim": {"claimName": "weights"}},
                },
                "engine": {"speculative": speculative} if speculative else {},
                "access": {"dataClass": "internal"},
            },
        }
    )


HEAD = deployment(
    method="eagle", numSpeculativeTokens=2, draft={"source": {"persistentVolumeClaim": {"claimName": "heads"}}}
)


@pytest.fixture
def head(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    header = json.dumps({"fc.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return tmp_path


def test_a_head_gets_its_directory(head: Path) -> None:
    assert read_draft(HEAD, head) == head.resolve()


def test_a_directory_without_tensors_is_no_head(head: Path) -> None:
    (head / "model.safetensors").unlink()
    with pytest.raises(WeightsUnfit):
        read_draft(HEAD, head)


def test_a_manifest_without_drafts_needs_none() -> None:
    assert read_draft(deployment(), None) is None
    assert read_draft(deployment(method="ngram", numSpeculativeTokens=2), None) is None


@pytest.mark.parametrize(
    ("wanted", "is_given", "message"),
    [
        (HEAD, False, "spec.engine.speculative.draft: the head needs a directory on this machine"),
        (deployment(), True, "spec.engine.speculative has no draft; remove --draft"),
        (deployment(method="ngram", numSpeculativeTokens=2), True, "spec.engine.speculative has no draft"),
    ],
    ids=["a head left out", "a head for no drafts", "a head for drafts of the own text"],
)
def test_what_does_not_match_the_manifest_is_refused(
    wanted: ModelDeployment, is_given: bool, message: str, head: Path
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        read_draft(wanted, head if is_given else None)
    assert message in str(refusal.value)
