"""`python -m tools.cluster status`: what runs, how large it is, and the nodes as Kubernetes sees them."""

from __future__ import annotations

import os
from pathlib import Path

from tools.cluster.components import NAMES
from tools.cluster.layout import ClusterError, Layout
from tools.cluster.processes import Record, recorded
from tools.cluster.up import kubectl


def status(layout: Layout) -> tuple[str, bool]:
    """The table, and whether everything runs."""
    records = {name: recorded(layout, name) for name in NAMES}
    rows = [("PROCESS", "PID", "STATE", "MIB", "LOG"), *(_row(name, record) for name, record in records.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    whole = all(record is not None and record.running for record in records.values())
    try:
        nodes = kubectl(
            layout, "get", "nodes", "-L=nvidia.com/gpu.product,nvidia.com/gpu.count,topology.kubernetes.io/region"
        )
    except ClusterError as error:
        return f"{table}\n\nnodes: {error}", False
    return f"{table}\n\n{nodes}", whole


def _row(name: str, record: Record | None) -> tuple[str, str, str, str, str]:
    if record is None:
        return name, "-", "not started", "-", "-"
    if not record.running:
        return name, str(record.pid), "ended", "-", record.log
    return name, str(record.pid), "runs", f"{resident_mib(record.pid):.0f}", record.log


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
