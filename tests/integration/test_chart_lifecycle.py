"""`helm install`, `upgrade`, `uninstall` and reinstall of the chart against the real API server.

What must hold: CRDs are current after an upgrade, stay with every ModelDeployment after an uninstall, and are taken up
again. The operator's pods never run here (no kubelet), so Helm is not asked to wait for them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.eventually import eventually
from tests.integration.testbed.helm import CHART, CRDS, Helm, HelmError
from tests.integration.testbed.kube import ApiException, Kube, KubectlError
from tests.integration.testbed.kuberay import KubeRay
from tools.released import released

from conclave import __version__
from conclave.api.modeldeployment import API_VERSION, GROUP, KIND, PLURAL

CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{PLURAL}.{GROUP}")
RELEASE, NAMESPACE = "lifecycle", "helm-lifecycle"


@pytest.fixture(autouse=True)
def no_release_before_or_after(kube: Kube, helm: Helm) -> Iterator[None]:
    """Neither the CRD nor a release is there, before and after."""
    kube.ensure_namespace(NAMESPACE)
    kube.kubectl("delete", "crd", CRD[2], "--ignore-not-found", "--timeout=60s")
    yield
    for release in (RELEASE, "other"):
        helm.run("uninstall", release, f"--namespace={NAMESPACE}", "--ignore-not-found")
    kube.kubectl("delete", "crd", CRD[2], "--ignore-not-found", "--timeout=60s")


@pytest.fixture
def older_chart(tmp_path: Path) -> Path:
    """The chart as an earlier release might have been: its CRD lacks a field, a printer column and a category."""
    older = tmp_path / "conclave"
    shutil.copytree(CHART, older)
    (path,) = (older / "files" / "crds").glob("*.yaml")
    crd = yaml.safe_load(path.read_text())
    (version,) = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["suspend"]
    version["additionalPrinterColumns"].pop()
    del crd["spec"]["names"]["categories"]
    path.write_text(yaml.safe_dump(crd))
    chart = yaml.safe_load((older / "Chart.yaml").read_text())
    (older / "Chart.yaml").write_text(yaml.safe_dump({**chart, "version": "0.0.9", "appVersion": "0.0.9"}))
    return older


def test_an_upgrade_makes_an_older_crd_current_and_keeps_the_models(kube: Kube, helm: Helm, older_chart: Path) -> None:
    _install(helm, chart=older_chart)
    assert "suspend" not in _spec_fields(kube)
    _create_model(kube)
    helm.run("upgrade", RELEASE, CHART, f"--namespace={NAMESPACE}")
    live = kube.get(*CRD)
    assert live is not None
    source = _source()
    assert live["spec"]["versions"] == source["spec"]["versions"]
    assert live["spec"]["names"]["categories"] == source["spec"]["names"]["categories"]
    assert _model(kube) is not None
    deployment = kube.get("apps/v1", "Deployment", f"{RELEASE}-conclave", NAMESPACE)
    assert deployment is not None
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == f"conclave/operator:{__version__}"


def test_an_upgrade_from_0_1_0_keeps_the_models_and_an_uninstall_after_it_too(kube: Kube, helm: Helm) -> None:
    chart = released("0.1.0") / "charts" / "conclave"
    assert yaml.safe_load((chart / "Chart.yaml").read_text())["version"] == "0.1.0"
    _install(helm, chart=chart)
    model = _create_model(kube, {"scaling": {"minReplicas": 0}})
    helm.run("upgrade", RELEASE, CHART, f"--namespace={NAMESPACE}")
    live = kube.get(*CRD)
    assert live is not None
    assert live["spec"]["versions"] == _source()["spec"]["versions"]
    kept = _model(kube)
    assert kept is not None
    assert (kept["metadata"]["uid"], kept["spec"]) == (model["metadata"]["uid"], model["spec"])
    helm.run("uninstall", RELEASE, f"--namespace={NAMESPACE}")
    eventually(lambda: kube.get("apps/v1", "Deployment", f"{RELEASE}-conclave", NAMESPACE) is None)
    assert kube.get(*CRD) is not None
    assert _model(kube) is not None
    _a_stored_floor_of_0_stays_and_no_new_one_comes(kube)


def _a_stored_floor_of_0_stays_and_no_new_one_comes(kube: Kube) -> None:
    refused = "minReplicas is 0, expected 1 or more: scaling to zero comes with a later version"

    def change(spec: dict[str, Any]) -> dict[str, Any]:
        return kube.patch(API_VERSION, KIND, "kept", {"spec": spec}, NAMESPACE)["spec"]  # type: ignore[no-any-return]

    assert change({"suspend": True})["scaling"]["minReplicas"] == 0
    assert change({"scaling": {"maxReplicas": 3}})["scaling"] == {
        **{"minReplicas": 0, "maxReplicas": 3},
        **{"targetConcurrency": "auto", "idleSeconds": 900},
    }
    stored = _model(kube)
    assert stored is not None
    kube.apply(  # as a pipeline that applies the manifest of before once more
        {
            **{key: stored[key] for key in ("apiVersion", "kind")},
            "metadata": {"name": "kept"},
            "spec": {**stored["spec"], "suspend": False},
        },
        namespace=NAMESPACE,
    )
    status = {"status": {"observedGeneration": 1, "replicas": 0}}
    kube.kubectl(
        *("patch", "mdl", "kept", f"-n={NAMESPACE}", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    )
    with pytest.raises(ApiException, match=refused):
        _create_model(kube, {"scaling": {"minReplicas": 0}}, name="new")
    assert change({"scaling": {"minReplicas": 1}})["scaling"]["minReplicas"] == 1
    with pytest.raises(ApiException, match=refused):
        change({"scaling": {"minReplicas": 0}})
    with pytest.raises(KubectlError, match=refused):
        kube.kubectl("scale", "mdl", "kept", f"-n={NAMESPACE}", "--replicas=0")


def test_an_uninstall_keeps_crd_and_models_and_a_reinstall_takes_them_up(kube: Kube, helm: Helm) -> None:
    _install(helm)
    model = _create_model(kube)
    said = helm.run("uninstall", RELEASE, f"--namespace={NAMESPACE}")
    assert CRD[2] in said
    eventually(lambda: kube.get("apps/v1", "Deployment", f"{RELEASE}-conclave", NAMESPACE) is None)
    kept = _model(kube)
    assert kept is not None
    assert kept["metadata"]["uid"] == model["metadata"]["uid"]
    assert kept["metadata"].get("deletionTimestamp") is None
    _install(helm)
    assert _owner(kube) == (RELEASE, NAMESPACE)
    again = _model(kube)
    assert again is not None
    assert again["metadata"]["uid"] == model["metadata"]["uid"]


def test_a_release_of_another_name_takes_the_crd_up_only_when_told_to(kube: Kube, helm: Helm) -> None:
    _install(helm)
    _create_model(kube)
    helm.run("uninstall", RELEASE, f"--namespace={NAMESPACE}")
    with pytest.raises(HelmError, match='must equal "other": current value is "lifecycle"'):
        _install(helm, "other")
    _install(helm, "other", "--take-ownership")
    assert _owner(kube) == ("other", NAMESPACE)
    assert _model(kube) is not None


def test_an_older_crd_that_kubectl_applied_is_taken_up_only_with_both_flags(
    kube: Kube, helm: Helm, older_chart: Path
) -> None:
    kube.install_crds(*(older_chart / "files" / "crds").glob("*.yaml"))
    _create_model(kube)
    for options in ([], ["--force-conflicts"]):
        with pytest.raises(HelmError, match="invalid ownership metadata"):
            _install(helm, RELEASE, *options)
    _install(helm, RELEASE, "--take-ownership", "--force-conflicts")
    _took_up_the_older_crd(kube)


def test_an_install_that_stopped_at_an_older_crd_is_repaired_by_an_upgrade(
    kube: Kube, helm: Helm, older_chart: Path
) -> None:
    kube.install_crds(*(older_chart / "files" / "crds").glob("*.yaml"))
    _create_model(kube)
    with pytest.raises(HelmError, match=r"conflict with \"tests\": .spec.versions"):
        _install(helm, RELEASE, "--take-ownership")
    assert "suspend" not in _spec_fields(kube)
    over = ["--take-ownership", "--force-conflicts", "--server-side=true"]
    helm.run("upgrade", "--install", RELEASE, CHART, f"--namespace={NAMESPACE}", *over)
    _took_up_the_older_crd(kube)


def test_without_its_crds_the_chart_leaves_those_of_others_alone(kube: Kube, helm: Helm) -> None:
    kube.install_crds(*CRDS.glob("*.yaml"))
    _install(helm, RELEASE, "--set=crds.install=false")
    helm.run("uninstall", RELEASE, f"--namespace={NAMESPACE}")
    assert kube.get(*CRD) is not None


def test_switching_the_crds_off_later_keeps_them(kube: Kube, helm: Helm) -> None:
    _install(helm)
    _create_model(kube)
    helm.run("upgrade", RELEASE, CHART, f"--namespace={NAMESPACE}", "--set=crds.install=false")
    assert kube.get(*CRD) is not None
    assert _model(kube) is not None


def test_an_uninstall_deletes_the_crds_where_that_is_chosen(kube: Kube, helm: Helm) -> None:
    _install(helm, RELEASE, "--set=crds.keep=false")
    helm.run("uninstall", RELEASE, f"--namespace={NAMESPACE}")
    eventually(lambda: kube.get(*CRD) is None)


def test_the_notes_say_what_is_missing_and_how_to_go_on(kuberay: KubeRay, helm: Helm) -> None:
    assert "KubeRay was not found" not in _install(helm)
    kuberay.remove_crds()
    notes = helm.run("upgrade", RELEASE, CHART, f"--namespace={NAMESPACE}")
    assert "KubeRay was not found" in notes
    assert "helm test lifecycle --namespace helm-lifecycle" in notes
    hooks = helm.run("get", "hooks", RELEASE, f"--namespace={NAMESPACE}")
    (pod,) = yaml.safe_load_all(hooks)
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"


def test_the_notes_say_when_the_heads_may_call_any_address(helm: Helm) -> None:
    assert "may open connections to\nANY address on ports 443 and 6443" in _install(helm)
    addresses = """--set-json=network.apiServerCidrs=["10.0.0.1/32"]"""
    assert "ANY" not in helm.run("upgrade", RELEASE, CHART, f"--namespace={NAMESPACE}", addresses)


def test_users_with_the_built_in_roles_handle_models(kube: Kube, helm: Helm) -> None:
    _install(helm)
    for role in ("view", "edit"):
        kube.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er", f"-n={NAMESPACE}")
    expected = {"view": {"list"}, "edit": {"list", "create", "delete"}}

    def allowed(role: str) -> set[str]:
        asked = ("list", "create", "delete")
        who = [f"{PLURAL}.{GROUP}", f"-n={NAMESPACE}", f"--as={role}er"]
        return {verb for verb in asked if kube.try_kubectl("auth", "can-i", verb, *who).returncode == 0}

    eventually(lambda: {role: allowed(role) for role in expected} == expected)
    for role in ("view", "edit"):
        kube.kubectl("delete", "rolebinding", role, f"-n={NAMESPACE}")


def _install(helm: Helm, release: str = RELEASE, *options: str, chart: Path = CHART) -> str:
    return helm.run("install", release, chart, f"--namespace={NAMESPACE}", *options)


def _took_up_the_older_crd(kube: Kube) -> None:
    assert "suspend" in _spec_fields(kube)
    assert _owner(kube) == (RELEASE, NAMESPACE)
    assert _model(kube) is not None


def _source() -> dict[str, Any]:
    (source,) = (yaml.safe_load(path.read_text()) for path in CRDS.glob("*.yaml"))
    return source  # type: ignore[no-any-return]


def _create_model(kube: Kube, further: dict[str, Any] | None = None, name: str = "kept") -> dict[str, Any]:
    waiting = ["wait", "--for=condition=Established", "--timeout=30s", "crd", CRD[2]]
    eventually(lambda: kube.try_kubectl(*waiting).returncode == 0)  # kubectl fails on a CRD without any status yet
    source = {"persistentVolumeClaim": {"claimName": "weights", "path": "mixtral"}}
    spec = {
        "model": {"id": "mistralai/Mixtral-8x7B-Instruct-v0.1", "source": source},
        "access": {"dataClass": "internal"},
        **(further or {}),
    }
    manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
    return kube.create(manifest, NAMESPACE)


def _model(kube: Kube) -> dict[str, Any] | None:
    return kube.get(API_VERSION, KIND, "kept", NAMESPACE)


def _spec_fields(kube: Kube) -> set[str]:
    crd = kube.get(*CRD)
    assert crd is not None
    (version,) = crd["spec"]["versions"]
    return set(version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])


def _owner(kube: Kube) -> tuple[str, str]:
    crd = kube.get(*CRD)
    assert crd is not None
    annotations = crd["metadata"]["annotations"]
    return annotations["meta.helm.sh/release-name"], annotations["meta.helm.sh/release-namespace"]
