"""`make bench-operator`: an operator of many ModelDeployments on a real API server, before issue 13 and as it is now.

No pods run. Each side gets a control plane of its own, first with 8 nodes, then beside a crowd of nodes and of
foreign pods that hold GPUs. Prints both sides with their ratio, and where their CPU time goes (in runs of their own).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import operator_load as load
from benchmarks.operator_process import NEVER_S, ROOT, OperatorProcess, install_account, unpacked
from tests.integration.testbed.control_plane import ControlPlane
from tests.integration.testbed.helm import OperatorAccount
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.kuberay import KubeRay

from conclave_cluster.client import Client, load_configuration

Figures = dict[str, Any]
BEFORE = "eb067c3ce7aebbae1600bdb9850f445e1ec321cb"
SIDES = ("before", "now")
CROWD_NODES, CROWD_PODS = 2000, 5000
PROFILED = 200
"""Models of a run under the sampler."""
ROWS = 12


@dataclass(frozen=True)
class Options:
    count: int
    edits: int
    phase_s: float
    """The longest that one phase may take; what it has done by then is what counts."""


class Bed(NamedTuple):
    """One control plane with the CRDs of one tree, and no operator yet."""

    kube: Kube
    account: OperatorAccount
    tree: Path
    client: Client


@contextmanager
def control_plane(tree: Path) -> Iterator[tuple[Kube, OperatorAccount]]:
    with tempfile.TemporaryDirectory(prefix="conclave-bench-") as directory, ControlPlane(Path(directory)) as plane:
        kube = Kube(plane)
        KubeRay(kube).install_crds()
        kube.install_crds(*sorted((tree / "charts/conclave/files/crds").glob("*.yaml")))
        load.prepare(kube)
        yield kube, install_account(kube)


async def measure(bed: Bed, options: Options) -> Figures:
    """Created, edited, started again, resynced."""
    async with load.watching(bed.client) as watched:
        operator = OperatorProcess(*bed[:3], NEVER_S)
        try:
            figures = {"idle": {"rss_mb": operator.memory_mb("VmRSS")}}
            figures["created"] = await measure_creation(bed, operator, watched, options)
            if watched.done() < options.count:
                return figures
            figures["edits"] = await measure_edits(bed, operator, watched, options)
        finally:
            operator.stop()
    # A process that begins looks at everything once; then comes a resync, at a time that leaves it room for that.
    begun, resync_s = time.monotonic(), 20 + 1.5 * figures["created"]["seconds"]
    operator = OperatorProcess(*bed[:3], resync_s)
    try:
        at_rest = await operator.quiet(options.phase_s)
        restart = await operator.spent()
        figures["restart"] = {"seconds": at_rest - begun, "passes_each": restart.passes / options.count}
        figures["restart"] |= {"cpu_s": restart.cpu_s, "requests": restart.requests}
        figures["resync"] = await measure_resync(bed, operator, resync_s + 30)
    finally:
        operator.stop()
    return figures


async def measure_creation(bed: Bed, operator: OperatorProcess, watched: load.Watched, options: Options) -> Figures:
    before, began = await operator.spent(), time.monotonic()
    await load.create_models(bed.client, options.count)
    created_s = time.monotonic() - began
    await watched.until_done(options.count, options.phase_s)
    done = watched.done()
    seconds = watched.done_at() - began if done == options.count else time.monotonic() - began
    if done == options.count:
        await operator.quiet(options.phase_s)
    spent = (await operator.spent()).since(before)
    return {
        "objects": done,
        "seconds": seconds,
        "creating_s": created_s,
        "a_second": done / seconds,
        "passes_each": spent.passes / done,
        "written_each": spent.written / done,
        "requests_each": spent.requests / done,
        "cpu_s": spent.cpu_s,
        "control_plane_cpu_s": spent.control_plane_cpu_s,
        "rss_peak_mb": operator.memory_mb("VmHWM"),
        "rss_rest_mb": operator.memory_mb("VmRSS"),
        "requests": dict(operator.requests().most_common()),
    }


async def measure_edits(bed: Bed, operator: OperatorProcess, watched: load.Watched, options: Options) -> Figures:
    before, deadline = await operator.spent(), time.monotonic() + options.phase_s
    taken: list[float] = []
    numbers = random.Random(13)  # the same for both sides
    for round_number in range(options.edits):
        taken.append(await load.edit(bed.client, watched, numbers.randrange(options.count), 2 + round_number))
        if time.monotonic() > deadline:
            break
    await operator.quiet(options.phase_s)
    spent = (await operator.spent()).since(before)
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {
        "objects": len(taken),
        "p50_s": cuts[49],
        "p99_s": cuts[98],
        "passes_each": spent.passes / len(taken),
        "requests_each": spent.requests / len(taken),
        "cpu_ms_each": 1000 * spent.cpu_s / len(taken),
    }


async def measure_resync(bed: Bed, operator: OperatorProcess, timeout_s: float) -> Figures:
    mark, deadline = bed.kube.audit.mark(), time.monotonic() + timeout_s
    before, began = await operator.spent(), time.monotonic()
    while not await asyncio.to_thread(operator.has_listed, mark):
        if time.monotonic() > deadline:
            return {}
        before, began = await operator.spent(), time.monotonic()
        await asyncio.sleep(0.1)
    ended = await operator.quiet(timeout_s)
    spent = (await operator.spent()).since(before)
    figures = {"seconds": ended - began, "cpu_s": spent.cpu_s, "passes": spent.passes, "requests": spent.requests}
    return figures | {"rss_mb": operator.memory_mb("VmRSS")}


async def profile(bed: Bed, options: Options) -> Figures:
    """Seconds of CPU by function: while models are created, and of a start on what is there with one resync."""
    samples, figures = bed.kube.directory / "samples.json", {}
    async with load.watching(bed.client) as watched:
        operator = OperatorProcess(*bed[:3], NEVER_S, samples)
        try:
            await load.create_models(bed.client, options.count)
            await watched.until_done(options.count, options.phase_s)
            await operator.quiet(options.phase_s)
        finally:
            operator.stop()
        figures["created"] = json.loads(samples.read_text())
    resync_s = 15 + options.count / 10
    operator = OperatorProcess(*bed[:3], resync_s, samples)
    try:
        await operator.quiet(options.phase_s)
        await measure_resync(bed, operator, resync_s + 30)
    finally:
        operator.stop()
    return figures | {"started again and resynced": json.loads(samples.read_text())}


async def run(tree: Path, kube: Kube, account: OperatorAccount, options: Options, what: str) -> Figures:
    async with Client(await load_configuration(str(kube.kubeconfig))) as client:
        bed = Bed(kube, account, tree, client)
        await load.create_nodes(client, CROWD_NODES if what == "crowded" else load.NODES)
        if what == "crowded":
            await load.create_foreign_pods(client, CROWD_PODS, CROWD_NODES)
        return await (profile if what == "profile" else measure)(bed, options)


class Row(NamedTuple):
    """One line of the table: what is compared, where its figure is, and what was asked for."""

    what: str
    phase: str
    figure: str
    digits: int = 1
    goal: float | None = None
    more_is_better: bool = False


TABLE = (
    Row("planned and applied, objects", "created", "objects", 0),
    Row("until all are, s", "created", "seconds"),
    Row("  objects a second", "created", "a_second", 1, 50, True),
    Row("  full passes for each", "created", "passes_each", 2, 2),
    Row("  objects written for each", "created", "written_each", 2),
    Row("  requests that write for each", "created", "requests_each", 2),
    Row("  CPU of the operator, s", "created", "cpu_s"),
    Row("  CPU of etcd and API server, s", "created", "control_plane_cpu_s"),
    Row("memory before, MB", "idle", "rss_mb", 0),
    Row("  at the peak, MB", "created", "rss_peak_mb", 0, 150),
    Row("  at rest, MB", "created", "rss_rest_mb", 0, 150),
    Row("an edit applied, p50 s", "edits", "p50_s", 3),
    Row("  p99 s", "edits", "p99_s", 3, 0.5),
    Row("  full passes for each", "edits", "passes_each", 2),
    Row("  requests that write for each", "edits", "requests_each", 2),
    Row("  CPU of the operator, ms each", "edits", "cpu_ms_each"),
    Row("started again: until quiet, s", "restart", "seconds"),
    Row("  full passes for each", "restart", "passes_each", 2),
    Row("  CPU of the operator, s", "restart", "cpu_s"),
    Row("  requests that write", "restart", "requests", 0, 0),
    Row("a resync of all: seconds", "resync", "seconds"),
    Row("  full passes", "resync", "passes", 0),
    Row("  CPU of the operator, s", "resync", "cpu_s", 2, 5),
    Row("  requests that write", "resync", "requests", 0, 0),
    Row("  memory after it, MB", "resync", "rss_mb", 0),
)
SLOWER = 1.5
"""What the crowd may cost."""


def table(measured: Figures) -> Iterator[str]:
    for cluster in ("bare", "crowded"):
        sides = {side: measured[side][cluster] for side in SIDES if cluster in measured.get(side, {})}
        if not sides:
            continue
        yield f"{cluster + ':':<34}{''.join(f'{side:>10}' for side in sides)}{'ratio':>9}  goal"
        for row in TABLE:
            values = [figures.get(row.phase, {}).get(row.figure) for figures in sides.values()]
            shown = "".join("         -" if value is None else f"{value:>10.{row.digits}f}" for value in values)
            yield f"  {row.what:<32}{shown}{ratio(values):>9}  {verdict(row, values[-1])}".rstrip()
    for side, clusters in measured.items():
        if {"bare", "crowded"} <= clusters.keys():
            slower = clusters["bare"]["created"]["a_second"] / clusters["crowded"]["created"]["a_second"]
            yield f"{side}: the crowd makes it {slower:.2f} times slower" + (
                f" (goal: at most {SLOWER})" if side == SIDES[-1] else ""
            )


def ratio(values: list[float | None]) -> str:
    """Of the second side to the first."""
    before, now = values if len(values) == 2 else (None, None)
    return f"{now / before:.2f}" if before and now is not None else "-"


def verdict(row: Row, value: float | None) -> str:
    if row.goal is None or value is None:
        return ""
    is_met = value >= row.goal if row.more_is_better else value <= row.goal
    return f"{'at least' if row.more_is_better else 'at most'} {row.goal:g}: {'met' if is_met else 'MISSED'}"


def profile_table(side: str, phase: str, figures: Figures) -> Iterator[str]:
    yield f"{side}, {phase}: {figures['cpu_s']:.1f} s of CPU; our functions with what they call, and any by itself"
    ours = [(name, s) for name, s in figures["with_callees_s"].items() if name.startswith("conclave")]
    ours = [(name, s) for name, s in ours if s < 0.97 * figures["cpu_s"]]  # the loop around everything
    for (name, s), (alone, alone_s) in zip(ours[:ROWS], list(figures["itself_s"].items())[:ROWS], strict=False):
        share, alone_share = (100 * part / figures["cpu_s"] for part in (s, alone_s))
        yield f"  {share:5.1f} %  {name.removeprefix('conclave')[-56:]:<58}{alone_share:5.1f} %  {alone[-56:]}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="ModelDeployments (default: %(default)s)")
    parser.add_argument("--edits", type=int, default=200, help="of one model each, one after the other")
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help="what is compared with")
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=SIDES, help="measure only one of them")
    parser.add_argument("--only", choices=("bare", "crowded", "profile"), nargs="+", help="leave out the rest")
    parser.add_argument("--phase-s", type=float, default=600, help="the longest that one phase may take")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    given = parser.parse_args()
    options = Options(given.count, given.edits, given.phase_s)
    trees = {side: unpacked(given.before) if side == "before" else ROOT for side in given.sides}
    measured: Figures = {side: {} for side in trees}
    for what in given.only or ("bare", "crowded", "profile"):
        for side, tree in trees.items():
            began = time.monotonic()
            with control_plane(tree) as (kube, account):
                some = Options(min(PROFILED, options.count), options.edits, options.phase_s)
                chosen = some if what == "profile" else options
                measured[side][what] = asyncio.run(run(tree, kube, account, chosen, what))
            say(f"{side}, {what}: {time.monotonic() - began:.0f} s\n{json.dumps(measured[side][what])}")
    if given.output == "json":
        print(json.dumps({"count": options.count, "cores": os.cpu_count(), **measured}, indent=1))
        return
    print(f"{options.count} ModelDeployments, {os.cpu_count()} cores")
    print(*table(measured), sep="\n")
    for side, clusters in measured.items():
        for phase, figures in clusters.get("profile", {}).items():
            print(*profile_table(side, phase, figures), sep="\n")


if __name__ == "__main__":
    main()
