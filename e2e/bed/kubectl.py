"""kubectl against the cluster under test: whichever $KUBECONFIG or `make cluster` gave. Called by all of e2e."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tools.build_tools import program

Manifest = Mapping[str, Any]
TIMEOUT_S = 300


class KubectlError(AssertionError):
    """kubectl refused; the message is what it printed."""


class Kubectl:
    """As administrator."""

    def __init__(self, kubeconfig: Path):
        self.kubeconfig = kubeconfig

    def __call__(self, *arguments: str, stdin: str | None = None, timeout_s: float = TIMEOUT_S) -> str:
        """stdout; raises KubectlError with what kubectl said."""
        done = subprocess.run(
            [program("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def apply(self, *manifests: Manifest) -> None:
        """Server-side, unknown fields refused."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        options = ("--server-side", "--force-conflicts", "--field-manager=e2e", "--validate=strict")
        self("apply", *options, "--filename=-", stdin=text)

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """One object, or None where it does not exist."""
        text = self("get", kind, name, *_scope(namespace), "--ignore-not-found", "--output=json")
        found: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return found

    def list(self, kind: str, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
        text = self("get", kind, *_scope(namespace), f"--selector={selector}", "--output=json")
        found: list[dict[str, Any]] = json.loads(text)["items"]
        return found

    def watch(self, kind: str, name: str, namespace: str, into: IO[str]) -> subprocess.Popen[str]:
        """Each state of one object, as one JSON text after the other, until the process is ended."""
        options = (*_scope(namespace), "--watch", "--output=json")
        command = [program("kubectl"), f"--kubeconfig={self.kubeconfig}", "get", kind, name, *options]
        return subprocess.Popen(command, stdout=into, text=True)

    def delete(self, kind: str, name: str, namespace: str | None = None, timeout_s: float = 180) -> None:
        """Returns when it is gone, with what it owned."""
        options = ("--ignore-not-found", "--cascade=foreground", f"--timeout={timeout_s:.0f}s")
        self("delete", kind, name, *_scope(namespace), *options, timeout_s=timeout_s + 30)


def _scope(namespace: str | None) -> tuple[str, ...]:
    return (f"--namespace={namespace}",) if namespace else ()
