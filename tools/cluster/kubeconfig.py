"""Kubeconfig files of one cluster. Called by tools/cluster/credentials.py and by tests/integration/testbed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tools.cluster.certificates import KeyPair, file_name


def write_kubeconfig(
    directory: Path, cluster: str, url: str, authority: Path, user: str, credentials: KeyPair | str
) -> Path:
    """USER.kubeconfig in that directory, for a client certificate or a bearer token; readable by the owner only."""
    path = directory / f"{file_name(user)}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(json.dumps(kubeconfig(cluster, url, authority, user, credentials)))  # JSON is YAML
    return path


def kubeconfig(cluster: str, url: str, authority: Path, user: str, credentials: KeyPair | str) -> Mapping[str, object]:
    if isinstance(credentials, str):
        proof = {"token": credentials}
    else:
        proof = {"client-certificate": str(credentials.certificate), "client-key": str(credentials.key)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": user, "user": proof}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }
