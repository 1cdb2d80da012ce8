"""images/Dockerfile against what runs its images: the pods that the operator writes, the chart, the locks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from tools.images.__main__ import DOCKERFILES, project_version, references
from tools.images.build import MADE_HERE
from tools.images.dockerfile import Configure, Copy, DockerfileError, Run, Stage, parse

from conclave.kubernetes import hardening
from conclave.modeldeployment import pods

ROOT = Path(__file__).parents[3]
STAGES = parse("\n".join((ROOT / path).read_text() for path in DOCKERFILES), MADE_HERE)
SERVING = ["serving", "serving-cpu", "serving-e2e"]


def _whole(name: str) -> list[Run | Copy | Configure]:
    """The instructions of a stage and of those that it stands on."""
    stage = STAGES[name]
    return [*(_whole(stage.base) if stage.base in STAGES else []), *stage.instructions]


def _last(name: str, key: str) -> object:
    return [step.value for step in _whole(name) if isinstance(step, Configure) and step.key == key][-1]


def _merged(name: str, key: str) -> Mapping[str, str]:
    merged: dict[str, str] = {}
    for step in _whole(name):
        if isinstance(step, Configure) and step.key == key and isinstance(step.value, Mapping):
            merged |= step.value
    return merged


@pytest.mark.parametrize("target", SERVING)
def test_model_pods_run_as_the_user_and_in_the_home_of_their_image(target: str) -> None:
    assert _last(target, "User") == f"{hardening.USER_ID}:{hardening.USER_ID}"
    assert _merged(target, "Env")["HOME"] == pods.HOME
    assert f"--uid {hardening.USER_ID} " in next(
        step.command for step in STAGES["serving-base"].instructions if isinstance(step, Run)
    )


@pytest.mark.parametrize("target", SERVING)
def test_any_user_of_group_0_may_write_to_the_home_of_the_image(target: str) -> None:
    """As OpenShift runs it, where nothing is mounted there."""
    steps = [step.command for step in _whole(target) if isinstance(step, Run)]
    assert any(f"chgrp 0 {pods.HOME}" in step and f"chmod g=u {pods.HOME}" in step for step in steps)


def test_the_gpu_image_finds_the_driver_where_gke_mounts_it() -> None:
    """No runtime adds it there, and nobody runs ldconfig: only these variables lead to it."""
    variables = _merged("serving", "Env")
    assert variables["LD_LIBRARY_PATH"] == variables["LIBRARY_PATH"] == "/usr/local/nvidia/lib64"
    programs, others = (_merged(target, "Env")["PATH"].split(":") for target in ("serving", "serving-cpu"))
    assert [path for path in programs if path not in others] == ["/usr/local/nvidia/bin"]
    assert [path for path in programs if path in others] == others


def test_the_operators_pod_runs_as_the_user_of_its_image() -> None:
    chart = (ROOT / "charts/conclave/templates/deployment.yaml").read_text()
    user, group = (re.findall(rf"{field}: (\d+)", chart) for field in ("runAsUser", "runAsGroup"))
    assert _last("operator", "User") == f"{user[0]}:{group[0]}"
    mounts = re.findall(r"name: tmp, mountPath: (\S+?)\}", chart)
    assert [_merged("operator", "Env")["HOME"]] == mounts, "the only place that the pod may write to"


@pytest.mark.parametrize("target", references("1"))
def test_an_image_says_what_it_is(target: str) -> None:
    labels = _merged(target, "Labels")
    assert labels["org.opencontainers.image.version"] == project_version()
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.title"]


def test_references_are_those_of_the_charts_values() -> None:
    values = yaml.safe_load((ROOT / "charts/conclave/values.yaml").read_text())
    chart = yaml.safe_load((ROOT / "charts/conclave/Chart.yaml").read_text())
    named = references(project_version())
    assert named["operator"] == f"{values['image']['repository']}:{chart['appVersion']}"
    assert named["serving"] == f"{values['serving']['image']['repository']}:{chart['appVersion']}"


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_python_packages_come_by_hash_and_from_nowhere_else(stage: Stage) -> None:
    for step in stage.instructions:
        for command in re.split(r" && ", step.command) if isinstance(step, Run) else []:
            installs = re.search(r"\b(pip install|uv build)\b", command)
            own_wheel = command.endswith("/*.whl") and "--no-deps" in command
            assert not installs or "--require-hashes" in command or own_wheel, command


def test_the_base_comes_by_digest_or_by_debians_signature() -> None:
    text = (ROOT / "images/Dockerfile").read_text()
    with pytest.raises(DockerfileError, match="ARG BASE_DIGEST has no default and was given no value"):
        parse(text)
    digest = f"sha256:{'0' * 64}"
    bases = {stage.base for stage in parse(text, {"BASE_DIGEST": digest}).values()}
    assert {base for base in bases if base not in STAGES} == {f"debian:bookworm-slim@{digest}"}
    assert {stage.base for stage in STAGES.values() if stage.base not in STAGES} == {"debian:bookworm-slim@debootstrap"}
    assert '"--force-check-gpg"' in (ROOT / "tools/images/layers.py").read_text()


def test_a_docker_build_is_sent_what_is_copied() -> None:
    ignored = (ROOT / "images/Dockerfile.dockerignore").read_text().splitlines()
    copied = {
        source.split("/")[0]
        for stage in parse((ROOT / "images/Dockerfile").read_text(), MADE_HERE).values()
        for step in stage.instructions
        if isinstance(step, Copy) and step.stage is None
        for source in step.sources
    }
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored
    assert "**/__pycache__" in ignored
    assert all((ROOT / name).exists() for name in copied)
