"""What the commands say of a kubeconfig that names no cluster: never a traceback, always the file or the plugin."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from conclave.errors import EnvironmentUnfit
from conclave_cli.main import app
from conclave_cluster.client import current_namespace, load_configuration

TOKEN = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t0ken"}}


def kubeconfig(user: Any = None, cluster: Any = None, **change: Any) -> str:
    entries = {
        "clusters": [{"name": "here", "cluster": cluster or {"server": "https://127.0.0.1:9"}}],
        "users": [{"name": "me", "user": user or {}}],
        "contexts": [
            {"name": "mine", "context": {"cluster": "here", "user": "me", "namespace": "llm"}},
            {"name": "other", "context": {"cluster": "here", "user": "me"}},
        ],
        "current-context": "mine",
    }
    return json.dumps(entries | change)


def plugin(*command: str) -> dict[str, Any]:
    return {"exec": {"apiVersion": TOKEN["apiVersion"], "command": command[0], "args": list(command[1:])}}


UNFIT = {
    "an empty file": ("", "FILE is not a kubeconfig"),
    "a file of another format": ("\x7fELF\x02\x01", "FILE: unacceptable character #x007f"),
    "bytes that are no text": (b"\xff\xfe\x80\x81\x80", "FILE: "),
    "half a YAML document": ("contexts: [\n", 'FILE: while parsing a flow node.*in "FILE", line 2'),
    "text": ("hello", "FILE is not a kubeconfig"),
    "a list": ("[1, 2]", "FILE is not a kubeconfig"),
    "nesting without end": ("[" * 3000, "FILE is not a kubeconfig"),
    "contexts that are numbers": (kubeconfig(contexts=[1]), "FILE is not a kubeconfig"),
    "a context that is text": (kubeconfig(contexts=[{"name": "mine", "context": "x"}]), "FILE is not a kubeconfig"),
    "a server that is a number": (kubeconfig(cluster={"server": 5}), "FILE is not a kubeconfig"),
    "a user that is text": (kubeconfig(users=[{"name": "me", "user": "root"}]), "FILE is not a kubeconfig"),
    "no current context": ("{apiVersion: v1}", "FILE: .*Expected key current-context"),
    "a certificate that is not base64": (
        kubeconfig(cluster={"server": "https://x", "certificate-authority-data": "x"}),
        "FILE: Invalid base64",
    ),
    "a credential plugin that is not installed": (
        kubeconfig(plugin("no-such-login", "get-token")),
        "no-such-login, the kubeconfig's credential plugin, gave no credentials; it is not on PATH: install it",
    ),
    "a credential plugin that fails": (
        kubeconfig(plugin("false")),
        "false, the kubeconfig's credential plugin, gave no credentials; log in with it again",
    ),
    "a credential plugin without a command": (kubeconfig({"exec": {"args": []}}), "FILE is not a kubeconfig"),
}


@pytest.mark.parametrize("command", [["status"], ["explain", "mixtral"]], ids=["status", "explain"])
@pytest.mark.parametrize(("content", "expected"), UNFIT.values(), ids=UNFIT)
def test_a_kubeconfig_that_leads_nowhere_is_named(
    tmp_path: Path, command: list[str], content: str | bytes, expected: str
) -> None:
    file = tmp_path / "kubeconfig"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EnvironmentUnfit, match=f"^no cluster: {expected.replace('FILE', str(file))}"):
        app([*command, "--kubeconfig", str(file)], standalone_mode=False)
    assert current_namespace(str(file)) in {"default", "llm"}


def test_a_credential_plugin_that_answers_gives_the_token(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(kubeconfig(plugin("echo", json.dumps(TOKEN))), encoding="utf-8")
    configuration = asyncio.run(load_configuration(str(file)))
    assert configuration.api_key == {"BearerToken": "Bearer t0ken"}


@pytest.mark.parametrize(
    ("change", "context", "namespace"),
    [
        ({}, None, "llm"),
        ({}, "other", "default"),
        ({}, "absent", "default"),
        ({"current-context": None}, "mine", "llm"),
    ],
    ids=["the current context's", "none named", "no such context", "named without a current context"],
)
def test_the_namespace_is_the_contexts(
    tmp_path: Path, change: dict[str, Any], context: str | None, namespace: str
) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(kubeconfig(**change), encoding="utf-8")
    assert current_namespace(str(file), context) == namespace
