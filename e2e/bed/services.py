"""Servers that models talk to, in pods of namespaces of their own: an S3 server (MinIO), a hub, Jaeger.

MinIO and Jaeger are built from their Go modules by tools/build_tools.py and run in images that hold nothing but the one
program. The hub is tests/hub/server.py, with the Python of the serving image.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import obstore
from e2e.bed.kubectl import Kubectl
from e2e.bed.site import Site
from obstore.store import S3Store
from tests.eventually import eventually
from tools.build_tools import build, cache_dir, program
from tools.cluster.images import docker_archive, import_archive
from tools.cluster.layout import layout_of

USER, PASSWORD = "conclave-tests", "conclave-tests-only"
STORAGE, TELEMETRY = "storage", "telemetry"
BUCKET = "models"
S3_PORT, OTLP_PORT, QUERY_PORT = 9000, 4318, 16686
HUB_PORT, CDN_PORT = 8080, 8081
HUB_SERVER = Path(__file__).parents[2] / "tests" / "hub" / "server.py"


class ObjectStore:
    """MinIO behind the Service `minio` of namespace `storage`; what it holds goes with its pod."""

    url = f"http://minio.{STORAGE}.svc.cluster.local:{S3_PORT}"

    def __init__(self, site: Site):
        self.kubectl = site.kubectl
        environment = {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "MINIO_BROWSER": "off", "HOME": "/tmp"}
        arguments = ["server", "/tmp/data", f"--address=:{S3_PORT}"]
        _serve(site, STORAGE, "minio", arguments, [S3_PORT], "/minio/health/ready", environment, f"/tmp/data/{BUCKET}")

    def upload(self, root: Path, prefix: str) -> None:
        """Every file below a directory."""
        with forwarded(self.kubectl, STORAGE, "minio", S3_PORT) as url:
            store = S3Store(
                BUCKET,
                config={"access_key_id": USER, "secret_access_key": PASSWORD, "endpoint": url, "region": "us-east-1"},
                client_options={"allow_http": True},
            )
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                obstore.put(store, f"{prefix}/{path.relative_to(root).as_posix()}", path)


class Hub:
    """The tests' hub behind the Service `hub` of namespace `storage`; large files come from its CDN, another port.

    `repositories` is a folder that every node sees: ORGANISATION/NAME/COMMIT/files.
    """

    url = f"http://hub.{STORAGE}.svc.cluster.local:{HUB_PORT}"

    def __init__(self, site: Site, repositories: Path):
        source = {"server.py": HUB_SERVER.read_text(encoding="utf-8")}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hub", "namespace": STORAGE}}
        site.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STORAGE}})
        site.kubectl.apply({**config, "data": source})
        command = [
            "/usr/bin/python3",
            "/server/server.py",
            "--root=/repositories",
            f"--host=hub.{STORAGE}.svc.cluster.local",
        ]
        (commit, *_) = sorted(repositories.glob("*/*/*"))
        _serve(
            site,
            STORAGE,
            "hub",
            [*command, f"--port={HUB_PORT}", f"--cdn-port={CDN_PORT}"],
            [CDN_PORT, HUB_PORT],
            f"/api/models/{commit.parent.relative_to(repositories)}/revision/{commit.name}",
            {},
            image=site.serving_image,
            volumes={
                "/server": {"configMap": {"name": "hub"}},
                "/repositories": {"hostPath": {"path": str(repositories), "type": "Directory"}},
            },
        )


class TraceBackend:
    """Jaeger, which keeps spans in memory; the Service `jaeger` of namespace `telemetry` takes OTLP over HTTP."""

    url = f"http://jaeger.{TELEMETRY}.svc:{OTLP_PORT}"

    def __init__(self, site: Site):
        self.kubectl, self._site = site.kubectl, site
        self.start()

    def stop(self) -> None:
        """It is gone, with all that it kept."""
        self.kubectl.delete("pod", "jaeger", TELEMETRY)

    def start(self) -> None:
        """Empty."""
        arguments = [f"--collector.otlp.http.host-port=:{OTLP_PORT}", f"--query.http-server.host-port=:{QUERY_PORT}"]
        environment = {"SPAN_STORAGE_TYPE": "memory", "COLLECTOR_OTLP_ENABLED": "true"}
        _serve(self._site, TELEMETRY, "jaeger", arguments, [OTLP_PORT, QUERY_PORT], "/", environment)

    def trace(self, trace_id: str) -> dict[str, Any]:
        """As Jaeger's query API has it; empty where it has none."""
        with forwarded(self.kubectl, TELEMETRY, "jaeger", QUERY_PORT) as url:
            try:
                with urllib.request.urlopen(f"{url}/api/traces/{trace_id}", timeout=30) as answer:
                    found: list[dict[str, Any]] = json.load(answer)["data"]
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return {}
                raise
        return found[0] if found else {}

    def everything(self) -> list[dict[str, Any]]:
        """The traces that it keeps of all services, but for its own."""
        with forwarded(self.kubectl, TELEMETRY, "jaeger", QUERY_PORT) as url:
            with urllib.request.urlopen(f"{url}/api/services", timeout=30) as answer:
                services = [name for name in json.load(answer)["data"] or [] if name != "jaeger-all-in-one"]
            found: dict[str, dict[str, Any]] = {}
            for service in services:
                with urllib.request.urlopen(f"{url}/api/traces?service={service}&limit=1000", timeout=60) as answer:
                    found |= {trace["traceID"]: trace for trace in json.load(answer)["data"]}
        return list(found.values())


@contextlib.contextmanager
def forwarded(kubectl: Kubectl, namespace: str, pod: str, port: int) -> Iterator[str]:
    """`http://127.0.0.1:N` of a pod's port, by `kubectl port-forward`."""
    command = [program("kubectl"), f"--kubeconfig={kubectl.kubeconfig}", "port-forward", f"--namespace={namespace}"]
    process = subprocess.Popen([*command, f"pod/{pod}", f":{port}"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found, f"kubectl port-forward to {namespace}/{pod}: {line!r}, expected the address that it listens on"
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.kill()
        process.communicate()


def _serve(
    site: Site,
    namespace: str,
    name: str,
    arguments: Sequence[str],
    ports: Sequence[int],
    health: str,
    environment: Mapping[str, str],
    directory: str = "/tmp",
    *,
    image: str | None = None,
    volumes: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> None:
    """A restricted pod with a Service; returns when it is ready. The last port answers for its health.

    The directory is made first; a directory below MinIO's is a bucket. With an image, the arguments begin with the
    program. `volumes` are read-only, by the path where they are mounted.
    """
    labels = {"app": name}
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    first = {
        "name": "directory",
        "image": site.serving_image,
        "command": ["mkdir", "-p", directory],
        "volumeMounts": mounts,
        "securityContext": security,
    }
    container = {
        "name": name,
        "image": image or _image(name),
        "imagePullPolicy": "IfNotPresent",
        "command" if image else "args": list(arguments),
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "768Mi"}},
        "readinessProbe": {"httpGet": {"path": health, "port": ports[-1]}, "periodSeconds": 1, "timeoutSeconds": 5},
        "volumeMounts": [*mounts, *({"name": path[1:], "mountPath": path, "readOnly": True} for path in volumes)],
        "securityContext": security,
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "fsGroup": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [first],
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *({"name": path[1:], **volumes[path]} for path in volumes)],
    }
    metadata = {"name": name, "namespace": namespace}
    service = {"selector": labels, "ports": [{"name": f"port-{port}", "port": port} for port in ports]}
    site.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    eventually(lambda: site.kubectl.get("serviceaccount", "default", namespace))
    site.kubectl.delete("pod", name, namespace)
    site.kubectl.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "labels": labels}, "spec": spec},
    )
    site.kubectl("wait", f"--namespace={namespace}", "pod", name, "--for=condition=Ready", "--timeout=90s")


def _image(name: str) -> str:
    """Of the one static program, in both nodes of the local cluster."""
    home = build(name)
    reference = f"localhost/conclave-e2e/{name}:{home.name.rpartition('-')[2]}"
    archive = cache_dir() / "images" / f"{home.name}.tar"
    stamp = layout_of(None).state / "imported" / archive.name
    if not stamp.is_file():
        content = docker_archive(reference, {name: Path(program(name)).read_bytes()}, [f"/{name}"])
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.write_bytes(content)
        import_archive(layout_of(None), archive)
        archive.unlink()
        stamp.parent.mkdir(exist_ok=True)
        stamp.touch()
    return reference
