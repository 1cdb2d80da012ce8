"""`python -m tools.cluster up|down|status|import|snapshot|compare`: a real Kubernetes on this one machine.

Called by `make cluster` and `make cluster-down`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.build_tools import BuildError
from tools.cluster.down import down
from tools.cluster.images import import_archive
from tools.cluster.layout import ClusterError, Layout, layout_of
from tools.cluster.objects import Gpus
from tools.cluster.snapshot import differences, snapshot
from tools.cluster.status import status
from tools.cluster.up import MARK, up


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except (ClusterError, BuildError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1


def _up(options: argparse.Namespace) -> None:
    from conclave_cli.local.ports import free_port

    layout = layout_of(options.state)
    names = [node.name for node in layout.nodes]
    counts = per_node("--gpus", options.gpus, names)
    products = per_node("--gpu-product", options.gpu_product, names)
    memories = per_node("--gpu-memory-mib", options.gpu_memory_mib, names)
    gpus = {name: Gpus(int(counts[name]), products[name], int(memories[name])) for name in names}
    with _alone(layout):
        up(layout, gpus, per_node("--region", options.region, names), options.audit, free_port)
    print(f"export KUBECONFIG={layout.kubeconfig}")


def _down(options: argparse.Namespace) -> None:
    layout = layout_of(options.state)
    if not (layout.state / MARK).is_file():
        print(f"cluster: none in {layout.state}", file=sys.stderr)
        return
    start = time.monotonic()
    with _alone(layout):
        down(layout)
    print(f"cluster: down in {time.monotonic() - start:.1f} s, nothing is left", file=sys.stderr)


def _status(options: argparse.Namespace) -> int:
    table, whole = status(layout_of(options.state))
    print(table)
    return 0 if whole else 1


def _import(options: argparse.Namespace) -> None:
    for archive in options.archives:
        print("\n".join(import_archive(layout_of(options.state), archive.absolute())))


def _snapshot(options: argparse.Namespace) -> None:
    options.file.write_text(json.dumps(snapshot(), indent=1))


def _compare(options: argparse.Namespace) -> None:
    found = differences(json.loads(options.file.read_text()), snapshot())
    if found:
        raise ClusterError(
            f"the machine is not what it was at {options.file}:\n" + "\n".join(f"  {line}" for line in found)
        )
    print(f"cluster: the machine is what it was at {options.file}", file=sys.stderr)


def per_node(option: str, value: str, names: Sequence[str]) -> dict[str, str]:
    """One value for all nodes, or one for each, with commas between. Raises ClusterError on another number."""
    values = value.split(",")
    if len(values) not in (1, len(names)):
        raise ClusterError(
            f"{option} {value}: {len(values)} values; expected one, or one for each of {', '.join(names)}"
        )
    return dict(zip(names, values if len(values) > 1 else values * len(names), strict=True))


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    layout.lock.parent.mkdir(parents=True, exist_ok=True)
    with layout.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.cluster", description=__doc__)
    parser.add_argument("--state", type=Path, help="the state folder; $CONCLAVE_CACHE/cluster where it is not given")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    start = commands.add_parser("up", help="bring it up, or what of it is not there")
    start.add_argument("--gpus", default="2", help="fake GPUs of each node, as 2 or 8,1 (default: %(default)s)")
    start.add_argument("--gpu-product", default="NVIDIA-H100-80GB-HBM3", help="(default: %(default)s)")
    start.add_argument("--gpu-memory-mib", default="81559", help="(default: %(default)s)")
    start.add_argument("--region", default="eu-west-1", help="(default: %(default)s)")
    start.add_argument("--audit", action="store_true", help="write an audit log into the state folder")
    start.set_defaults(run=_up)
    commands.add_parser("down", help="end it and check that nothing is left").set_defaults(run=_down)
    commands.add_parser("status", help="a table of processes and nodes").set_defaults(run=_status)
    images = commands.add_parser("import", help="docker-archive files into both nodes")
    images.add_argument("archives", nargs="+", type=Path)
    images.set_defaults(run=_import)
    for name, run, words in (
        ("snapshot", _snapshot, "write what of the machine a cluster could change"),
        ("compare", _compare, "fail where the machine differs from a snapshot"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("file", type=Path)
        command.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
