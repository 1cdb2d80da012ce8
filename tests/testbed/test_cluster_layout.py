"""Names, paths and parameters of the cluster."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from tools.cluster import configs
from tools.cluster.__main__ import per_node
from tools.cluster.images import archive_names
from tools.cluster.layout import ClusterError, layout_of
from tools.cluster.objects import Gpus, gpu_labels, gpu_status

NODES = ("node-1", "node-2")


def test_kubelets_of_one_machine_share_no_cgroup_no_folder_and_no_port(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    first, second = (json.loads(configs.kubelet(layout, node)) for node in layout.nodes)
    own = {"cgroupRoot", "podLogsDir", "volumePluginDir", "containerRuntimeEndpoint", "port", "healthzPort"}
    own |= {"tlsCertFile", "tlsPrivateKeyFile"}
    assert {key for key in first if first[key] != second[key]} == own
    assert first["cgroupRoot"] != "/"


def test_all_that_a_containerd_writes_lies_in_the_folder_of_its_node(tmp_path: Path) -> None:
    import tomllib

    for node in layout_of(tmp_path).nodes:
        config = tomllib.loads(configs.containerd(node))
        plugins = config["plugins"]
        runtime = plugins["io.containerd.cri.v1.runtime"]
        written = [config["root"], config["state"], config["grpc"]["address"]]
        written += [plugins["io.containerd.internal.v1.opt"]["path"], runtime["cni"]["conf_dir"]]
        written += [runtime["containerd"]["runtimes"]["runc"]["options"]["Root"]]
        written += [json.loads(configs.cni(node))["plugins"][0]["ipam"]["dataDir"]]
        assert [path for path in written if not Path(path).is_relative_to(node.directory)] == []
        assert runtime["netns_mounts_under_state_dir"] is True


def test_a_state_folder_with_too_long_a_path_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"would have paths of \d+ bytes, Linux takes 107; choose a shorter one"):
        layout_of(tmp_path / ("long" * 20))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("2", {"node-1": "2", "node-2": "2"}), ("8,1", {"node-1": "8", "node-2": "1"})],
    ids=["one value is every node's", "one for each"],
)
def test_a_parameter_is_given_once_or_for_each_node(value: str, expected: dict[str, str]) -> None:
    assert per_node("--gpus", value, NODES) == expected


def test_another_number_of_values_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"--gpus 1,2,3: 3 values; expected one, or one for each of node-1, node-2"):
        per_node("--gpus", "1,2,3", NODES)


def test_a_node_without_gpus_loses_the_labels_of_one_that_had_some() -> None:
    labels = gpu_labels(Gpus(0, "NVIDIA-L4", 23034), "eu-west-1")
    assert {name for name, value in labels.items() if value is not None} == {"topology.kubernetes.io/region"}
    assert gpu_status(Gpus(0, "NVIDIA-L4", 23034))["status"]["capacity"] == {"nvidia.com/gpu": None}


def test_an_archive_tells_its_names(tmp_path: Path) -> None:
    manifest = json.dumps([{"RepoTags": ["conclave/serving:e2e"]}, {"RepoTags": None}]).encode()
    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        info = tarfile.TarInfo("manifest.json")
        info.size = len(manifest)
        tar.addfile(info, io.BytesIO(manifest))
    assert archive_names(tmp_path / "image.tar") == ("conclave/serving:e2e",)


@pytest.mark.parametrize("content", [b"", b"not a tar", None], ids=["empty", "not a tar", "not there"])
def test_what_is_no_image_is_refused_before_any_node_gets_it(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "image.tar").write_bytes(content)
    with pytest.raises(ClusterError, match=r"image.tar: .*; expected a docker-archive tar"):
        archive_names(tmp_path / "image.tar")
