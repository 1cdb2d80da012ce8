"""What this machine offers: parsed from what the kernel and the driver print."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conclave.errors import EnvironmentUnfit
from conclave_cli.local.machine import (
    GIB,
    RANK_BYTES,
    SERVING_BYTES,
    available_memory_bytes,
    check_platform,
    cpu_node,
    gpu_nodes,
    parse_gpus,
    physical_cores,
    rank_binding,
    this_machine,
)


@pytest.mark.parametrize(
    ("cores", "ranks", "binding"),
    [
        pytest.param([0, 1], 2, "0|1", id="two cores, two ranks"),
        pytest.param([0, 1], 1, "0,1", id="two cores, one rank"),
        pytest.param([0], 1, "0", id="one core"),
        pytest.param([0, 1, 2, 3, 4, 5, 6, 7], 2, "1,2,3|4,5,6", id="one core is left for the other processes"),
        pytest.param([2, 5, 7, 9], 4, "2|5|7|9", id="numbers with gaps"),
        pytest.param([0, 1, 2, 3], 1, "1,2,3", id="one rank leaves one core"),
    ],
)
def test_rank_binding(cores: list[int], ranks: int, binding: str) -> None:
    assert rank_binding(cores, ranks) == binding


@given(st.lists(st.integers(0, 511), min_size=1, max_size=256, unique=True), st.data())
def test_ranks_get_equal_disjoint_shares_of_the_cores(cores: list[int], data: st.DataObject) -> None:
    ranks = data.draw(st.integers(1, len(cores)))
    shares = [[int(core) for core in share.split(",")] for share in rank_binding(cores, ranks).split("|")]
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    flat = [core for share in shares for core in share]
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(cores)


def test_hyperthreads_share_a_core(tmp_path: Path) -> None:
    for cpu, siblings in {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}.items():
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(siblings + "\n")
    assert physical_cores([0, 1, 4, 5], tmp_path) == (0, 1)
    assert physical_cores([0, 1, 9], tmp_path) == (0, 1, 9)


MEMINFO = "MemTotal:       24689868 kB\nMemFree:  1 kB\nMemAvailable:   20971520 kB\n"


def test_memory_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert available_memory_bytes(tmp_path / "meminfo", tmp_path / "no-cgroup") == 20 * GIB


@pytest.mark.parametrize(
    ("limit", "used", "inactive", "expected"),
    [
        pytest.param("max", 5 * GIB, 0, 20 * GIB, id="no limit"),
        pytest.param(str(8 * GIB), 5 * GIB, 0, 3 * GIB, id="what the limit leaves"),
        pytest.param(str(8 * GIB), 5 * GIB, 4 * GIB, 7 * GIB, id="page cache can be given back"),
        pytest.param(str(64 * GIB), 5 * GIB, 0, 20 * GIB, id="a limit above the machine"),
    ],
)
def test_a_cgroup_bounds_the_memory(tmp_path: Path, limit: str, used: int, inactive: int, expected: int) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")
    assert available_memory_bytes(tmp_path / "meminfo", tmp_path) == expected


def test_a_rank_gets_its_share_of_what_is_left() -> None:
    node = cpu_node(ranks=2, available_bytes=SERVING_BYTES + 2 * RANK_BYTES + 6 * GIB)
    assert (node.accelerator, node.gpus, node.free_gpus, node.memory_bytes) == ("cpu", 2, 2, 3 * GIB)


def test_too_little_memory_is_told_with_both_figures() -> None:
    with pytest.raises(
        EnvironmentUnfit, match=r"memory: 2 rank.s. need 6 GiB without the weights, and 3\.0 GiB are available"
    ):
        cpu_node(ranks=2, available_bytes=3 * GIB)


def test_more_ranks_than_cores_are_refused() -> None:
    with pytest.raises(EnvironmentUnfit, match="100000 ranks need at least 100000 cores, and this machine has"):
        this_machine(100_000, cpu_engine=True)


NVIDIA_SMI = """\
0, NVIDIA H100 80GB HBM3, 81559, 4
1, NVIDIA H100 80GB HBM3, 81559, 70000
2, NVIDIA L4, 23034, 1
"""


def test_gpus_are_grouped_by_kind_and_busy_ones_are_taken() -> None:
    gpus = parse_gpus(NVIDIA_SMI)
    assert [(gpu.index, gpu.is_free) for gpu in gpus] == [(0, True), (1, False), (2, True)]
    nodes = [(node.accelerator, node.memory_bytes, node.gpus, node.free_gpus) for node in gpu_nodes(gpus)]
    assert nodes == [("NVIDIA-H100-80GB-HBM3", 81559 * 1024**2, 2, 1), ("NVIDIA-L4", 23034 * 1024**2, 1, 1)]


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "ppc64le"), ("Windows", "AMD64")])
def test_other_platforms_are_told_what_works_there(system: str, machine: str) -> None:
    with pytest.raises(EnvironmentUnfit, match=f"platform {system} {machine}: no engine runs here.*conclave plan"):
        check_platform(system, machine)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_linux_is_served(machine: str) -> None:
    check_platform("Linux", machine)
