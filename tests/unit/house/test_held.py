"""What a review found to hold, so that it keeps holding: hashes, private files, loopback, no secret in arguments.

What a running engine shows of the same is in tests/serving/test_endpoint.py.
"""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.golden.differences import whole

from conclave_cli.local.ray_head import RayHead, ray_environment

ROOT = Path(__file__).parents[3]
PYTHON = sorted(path for room in ("operator", "serving", "tools") for path in (ROOT / room).rglob("*.py"))
SCRIPTS = [
    ROOT / "Makefile",
    ROOT / ".ci/run",
    *sorted((ROOT / "tools").glob("*.sh")),
    ROOT / "images/Dockerfile",
    ROOT / "e2e/Dockerfile",
]
GOLDEN = sorted((ROOT / "tests/golden").glob("*/objects.diff"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_packages_are_installed_by_hash(script: Path) -> None:
    for command in re.split(r"\n|&&", script.read_text().replace("\\\n", " ")):
        if re.search(r"\bpip[3\"']? install\b", command) and "echo" not in command:
            own = "--no-deps" in command and re.search(r"\.whl|--editable \.", command)
            assert "--require-hashes" in command or own, command


def test_a_program_that_installs_asks_for_hashes() -> None:
    """Lists of arguments in Python, as tools/build_tools.py has them."""
    installing = [path for path in PYTHON if re.search(r'"-m", "pip"', path.read_text())]
    assert installing == [ROOT / "tools/build_tools.py"]
    assert "--require-hashes" in installing[0].read_text()


def test_go_programs_are_built_from_sums() -> None:
    modules = sorted((ROOT / "tools").rglob("go.mod"))
    assert modules
    assert [module.parent.name for module in modules if not (module.parent / "go.sum").stat().st_size] == []


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_temporary_files_are_made_private_and_under_names_that_nobody_guesses(path: Path) -> None:
    for name, call in calls(ast.parse(path.read_text())):
        assert name not in {"tempfile.mktemp", "mktemp", "os.tmpnam", "os.tempnam"}
        if name.rpartition(".")[2] in {"open", "mkdir", "write_text", "write_bytes", "touch"}:
            text = ast.unparse(call)
            assert not re.search(r"['\"]/(var/)?tmp/|gettempdir", text), f"{path}:{call.lineno}: {text}"


def test_the_directory_of_a_local_ray_is_private_before_anything_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RayHead, "_command", lambda _self, _ranks: [sys.executable, "-c", "pass"])
    before = os.umask(0)
    try:
        head = RayHead({}, 1)
    finally:
        os.umask(before)
    try:
        found = head.directory.lstat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.getuid())
    finally:
        head._process.wait()
        (head.directory / "ray.log").unlink()
        head.directory.rmdir()


def test_the_arguments_of_a_local_ray_hold_no_secret_and_name_the_loopback_interface() -> None:
    head = object.__new__(RayHead)
    head.token, head.url, head.directory = "the-token-of-ray", "http://127.0.0.1:8265", Path("/tmp/cv-x")
    command = head._command(2)
    assert not [argument for argument in command if head.token in argument]
    assert {"--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"} <= set(command)
    assert ray_environment({}, {}, head.token)["RAY_AUTH_TOKEN"] == head.token


def test_ray_keeps_the_loopback_address_as_its_nodes() -> None:
    """Ray's own function: left to itself it takes the machine's address instead, and all its servers listen there."""
    code = "from ray._private.services import resolve_ip_for_localhost as resolve; print(resolve('127.0.0.1'))"
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=ray_environment(os.environ, {}, "x"),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert ended.stdout.split() == ["127.0.0.1"]


def containers(node: Any) -> Iterator[dict[str, Any]]:
    """Everything in an object that has a command, arguments or variables."""
    if isinstance(node, dict):
        if {"command", "args", "env"} & node.keys() and "image" in node:
            yield node
        for value in node.values():
            yield from containers(value)
    elif isinstance(node, list):
        for value in node:
            yield from containers(value)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parent.name)
def test_pods_take_secrets_by_reference_and_never_in_an_argument(path: Path) -> None:
    objects = whole(path.parent, "objects")
    secret_values = {
        value
        for item in objects["create"]
        if item["kind"] == "Secret"
        for value in {**item.get("data", {}), **item.get("stringData", {})}.values()
    }
    found = list(containers(objects))
    assert found
    for container in found:
        variables = container.get("env", [])
        secret = {each["name"] for each in variables if "secretKeyRef" in each.get("valueFrom", {})}
        arguments = " ".join(map(str, [*container.get("command", []), *container.get("args", [])]))
        for name in secret:
            assert not re.search(rf"\$[({{]?{name}\b", arguments), f"{container['name']}: {name} is expanded"
        literal = " ".join([arguments, *(str(each.get("value", "")) for each in variables)])
        assert not [value for value in secret_values if value in literal]
        for each in variables:
            is_secret = re.search(r"TOKEN$|SECRET|PASSWORD|_KEY$", each["name"])
            assert not is_secret or "valueFrom" in each, f"{container['name']}: {each['name']} is written out"
