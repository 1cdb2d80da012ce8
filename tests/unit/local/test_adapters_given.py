"""`conclave up --adapter NAME=PATH`: each adapter of the manifest gets a directory, once, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from conclave.api.modeldeployment import ModelDeployment
from conclave.catalogue.facts import read_config
from conclave.catalogue.models import find_model
from conclave.errors import InvalidInput
from conclave.planning.inventory import Inventory, Node
from conclave_cli.local.checks import check_adapters, read_adapters
from conclave_cli.local.localise import localise

DEPLOYMENT = ModelDeployment.model_validate(
    {
        "apiVersion": "conclave.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "mixtral"},
        "spec": {
            "model": {
                "id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
                "source": {"persistentVolumeClaim": {"claimName": "weights"}},
                "adapters": [
                    {"name": name, "source": {"persistentVolumeClaim": {"claimName": "weights", "path": name}}}
                    for name in ("tone", "acme/en")
                ],
            },
            "access": {"dataClass": "internal"},
        },
    }
)


def test_each_adapter_gets_its_directory() -> None:
    given = read_adapters(DEPLOYMENT, ["acme/en=/a=b", "tone=/tone"])
    assert given == {"tone": Path("/tone"), "acme/en": Path("/a=b")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["tone"], "--adapter tone: expected NAME=PATH"),
        (["tone="], "--adapter tone=: expected NAME=PATH"),
        (["tune=/x"], "spec.model.adapters has no adapter tune, it has: tone, acme/en"),
        (["tone=/x", "tone=/y"], "tone is already set to /x; give each adapter once"),
        (["tone=/x"], "acme/en needs a directory on this machine; give it with --adapter acme/en=PATH"),
        ([], "tone needs a directory on this machine"),
    ],
    ids=["no path", "an empty path", "a name of no adapter", "the same twice", "one left out", "all left out"],
)
def test_what_does_not_match_the_manifest_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        read_adapters(DEPLOYMENT, given)
    assert message in str(refusal.value)


def test_adapters_of_a_mixture_of_experts_need_a_gpu(tmp_path: Path) -> None:
    entry = find_model(DEPLOYMENT.spec.model.id)
    assert entry is not None
    with pytest.raises(InvalidInput, match="vLLM without GPUs runs adapters of dense models only"):
        check_adapters(DEPLOYMENT, read_config(entry.config), tmp_path, {}, on_cpu=True)


def test_the_base_model_cannot_take_an_adapters_name() -> None:
    inventory = Inventory(nodes=(Node(name="here", accelerator="cpu", memory_bytes=2**33, gpus=1, free_gpus=1),))
    with pytest.raises(InvalidInput, match=r"--model-name tone: an adapter of spec\.model\.adapters has this name"):
        localise(DEPLOYMENT, inventory, "tone")
