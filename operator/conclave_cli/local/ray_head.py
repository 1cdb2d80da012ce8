"""Owns the processes of a private Ray: starts the head in a session of its own, ends the whole session.

Bound to a token; everything it writes goes to one temporary directory, whose path is short because Ray puts
Unix sockets (at most 107 characters) below it. Used by `conclave up` only.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from conclave.engine.arguments import RAY_ENVIRONMENT
from conclave.errors import ConclaveError, EnvironmentUnfit
from conclave_cli.local.ports import free_port
from conclave_cli.local.shared_memory import SharedMemoryWatch, shared_memory_files

START_TIMEOUT_S = 120.0
TERMINATE_TIMEOUT_S = 3.0
TRACKER_TIMEOUT_S = 5.0
KILL_TIMEOUT_S = 15.0
OBJECT_STORE_BYTES = 200 * 1024**2
"""Requests and tokens pass between processes without it."""
LOGICAL_CPUS = 8
"""What Serve's own actors ask for; they idle, so they need no cores of their own."""
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
"""Loaded before any fork: between fork and exec nothing may be loaded."""
LOOPBACK_ONLY = {
    # Its name says less than it does: Ray keeps 127.0.0.1 as the node's address, and all its servers listen there only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The address that vLLM takes for its own has to be the node's.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
LOST_TOGETHER = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "RAY_NAMESPACE")
"""Variables that would tie this Ray to another one."""


class ProcessesLeft(ConclaveError):
    """Processes that did not end although they were killed."""


class RayHead:
    """A running Ray head; `stop` leaves neither a process nor a file of it."""

    def __init__(self, environment: Mapping[str, str], ranks: int) -> None:
        self.token = secrets.token_hex(32)
        self.directory = Path(tempfile.mkdtemp(prefix="cv-", dir=_short_directory()))
        self.url = f"http://127.0.0.1:{free_port()}"
        with (self.directory / "ray.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command(ranks),
                env=ray_environment(os.environ, {**environment, "TMPDIR": str(self.directory)}, self.token),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self._shared_memory = SharedMemoryWatch(self.processes)

    @property
    def _temp_directory(self) -> Path:
        """Ray opens its own directory to everybody (mode 0777): it lies in ours, which nobody else can enter."""
        return self.directory / "r"

    @property
    def logs(self) -> Path:
        """Ray's own directory of logs; exists once the head is up."""
        return self._temp_directory / "session_latest" / "logs"

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def start_log(self) -> str:
        """What `ray start` printed."""
        return (self.directory / "ray.log").read_text(errors="replace")

    def _command(self, ranks: int) -> list[str]:
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", "--port=0", f"--ray-client-server-port={free_port()}"),
            *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.url.rsplit(':')[-1]}"),
            *(f"--dashboard-agent-listen-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0"),
            *(f"--temp-dir={self._temp_directory}", f"--num-cpus={LOGICAL_CPUS + ranks}"),
            *(f"--object-store-memory={OBJECT_STORE_BYTES}", "--no-monitor", "--include-log-monitor=false"),
        ]

    def processes(self) -> tuple[int, ...]:
        """Ids of all live processes of this Ray: those of its session, which no process leaves."""
        return session_processes(self._process.pid)

    def stop(self, keep_logs_in: Path, drain: Callable[[], None]) -> None:
        """End every process after `drain`, keep the logs, remove all else; raises ProcessesLeft where one survives."""
        mapped = shared_memory_files(self.processes())
        if not self.has_ended:
            drain()
        mapped |= shared_memory_files(self.processes())
        _signal_all(self.processes(), signal.SIGTERM)
        if not self._gone_within(TERMINATE_TIMEOUT_S):
            # An engine may have been started meanwhile (Serve retries): its tracker takes its shared memory with it.
            _signal_all(without_trackers(self.processes()), signal.SIGKILL)
            if not self._gone_within(TRACKER_TIMEOUT_S):
                _signal_all(self.processes(), signal.SIGKILL)
        gone = self._gone_within(KILL_TIMEOUT_S)
        self._shared_memory.end()
        for file in mapped | self._shared_memory.found:
            file.unlink(missing_ok=True)
        keep_logs_in.mkdir(parents=True, exist_ok=True)
        if self.logs.is_dir():
            shutil.copytree(self.logs, keep_logs_in, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        shutil.copy(self.directory / "ray.log", keep_logs_in)
        shutil.rmtree(self.directory)
        if not gone:
            raise ProcessesLeft(
                f"processes {', '.join(map(str, self.processes()))}: still run {KILL_TIMEOUT_S:.0f} s after "
                "SIGKILL, expected none; end them yourself"
            )

    def _gone_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while True:
            # The exit status must be taken, or a zombie stays; it is there once the last thread has ended.
            if not self.processes() and self.has_ended:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)


def ray_environment(inherited: Mapping[str, str], added: Mapping[str, str], token: str) -> dict[str, str]:
    """The environment of all of Ray's processes: nothing of another Ray, byte code cached, nothing reported.

    The engine has the priority of whoever started it, as with `vllm serve`: Ray's own niceness of 15 for workers would
    leave it a twentieth of a machine on which other programs compute. A RAY_worker_niceness that was set stays.
    """
    kept = {name: value for name, value in inherited.items() if name not in LOST_TOGETHER}
    # Without cached byte code, importing the engine takes twice as long, in each of its processes.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {
        "RAY_worker_niceness": "0",
        **kept,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        **RAY_ENVIRONMENT,
        **LOOPBACK_ONLY,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **added,
    }


def session_processes(session_id: int) -> tuple[int, ...]:
    """Ids of the live processes of a session, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _parent, _group, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == session_id and state not in "ZX":
            found.append(int(entry.name))
    return tuple(sorted(found))


def without_trackers(process_ids: Iterable[int]) -> tuple[int, ...]:
    """All but Python's resource trackers: these end by themselves after the processes that they track for, and
    remove the shared memory that a killed engine left."""
    return tuple(
        process_id for process_id in process_ids if b"multiprocessing.resource_tracker" not in _command_line(process_id)
    )


def _command_line(process_id: int) -> bytes:
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _signal_all(process_ids: tuple[int, ...], number: int) -> None:
    for process_id in process_ids:
        try:
            os.kill(process_id, number)
        except ProcessLookupError:
            continue


def _end_with_parent() -> None:
    """Runs in the child: SIGTERM when `conclave up` dies, however it dies."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _short_directory() -> str:
    for directory in ("/tmp", tempfile.gettempdir()):  # noqa: S108 - mkdtemp makes a private one in it
        if len(directory) <= 18 and os.access(directory, os.W_OK):
            return directory
    raise EnvironmentUnfit(
        f"temporary directory {tempfile.gettempdir()}: the path has more than 18 characters, too many for Ray's "
        "sockets, and /tmp is not writable; set TMPDIR to a shorter path"
    )
