"""`conclave up`: a ModelDeployment on this machine, with the Serve config that the operator would write.

Checks all that it can before it starts Ray. `conclave_cli.local` owns the running processes.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from conclave.engine.arguments import TOKEN_FILE_VARIABLE
from conclave.engine.serve_config import build_serve_config
from conclave.engine.tracing import tracing_environment
from conclave.errors import NothingFits
from conclave.planning.plan import plan_deployment
from conclave_cli.local.checks import check_adapters, check_model, read_adapters, read_draft
from conclave_cli.local.endpoint import Endpoint, make_state_directory, write_endpoint, write_private
from conclave_cli.local.localise import engine_environment, has_no_gpus, localise, ranks_of
from conclave_cli.local.logs import LogFollower
from conclave_cli.local.machine import check_packages, check_platform, has_cpu_engine, this_machine
from conclave_cli.local.ports import check_port
from conclave_cli.local.progress import Progress
from conclave_cli.local.serving import LocalRun, local_ray
from conclave_cli.manifest_files import load_deployment, only_file
from conclave_cli.terminal import say
from conclave_weights.verify.digest import list_files, verify

INTERRUPTED = 130
"""What a shell expects of a program that Ctrl-C ended before it had done its work."""


def up(
    files: Annotated[
        list[str],
        typer.Option(
            "--filename", "--file", "-f", metavar="FILE", help="File with one ModelDeployment; - is standard input."
        ),
    ],
    weights: Annotated[Path, typer.Option(help="Directory of the weights, used instead of spec.model.source.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PATH: the directory of an adapter, used instead of its source. Repeat for each adapter."
        ),
    ] = None,
    draft: Annotated[
        Path | None,
        typer.Option(help="Directory of the head that drafts tokens, used instead of spec.engine.speculative.draft."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the endpoint on 127.0.0.1.")] = 8000,
    model_name: Annotated[
        str | None, typer.Option(help="Model name that clients send, used instead of servedName.")
    ] = None,
    logs: Annotated[bool, typer.Option(help="Print the engine's logs after the start.")] = True,
) -> None:
    """Run a model on this machine and answer OpenAI requests until Ctrl-C."""
    file = only_file(files, "up")
    check_platform()
    check_packages()
    deployment = load_deployment(file)
    facts = check_model(deployment, weights)
    adapters = read_adapters(deployment, adapter or ())
    drafting = read_draft(deployment, draft)
    check_port(port)
    machine = this_machine(ranks_of(deployment), has_cpu_engine())
    asked, deployment = deployment, localise(deployment, machine.inventory, model_name)
    check_adapters(deployment, facts, weights, adapters, on_cpu=has_no_gpus(machine.inventory))
    outcome = plan_deployment(deployment, facts, machine.inventory)
    if outcome.plan is None:
        raise NothingFits(f"{deployment.spec.model.id} does not fit this machine: {outcome.explanation}")
    plan = outcome.plan
    name = deployment.metadata.name
    is_ready = False
    try:
        with _ended_by_signals(), Progress() as progress:
            progress.plan(name, plan.flat())
            if deployment.spec.engine.kv_cache_dtype is not asked.spec.engine.kv_cache_dtype:
                progress.say("  engine.kvCacheDtype fp8 is ignored here: not every CPU supports it")
            model = deployment.spec.model
            digests = [(weights, model.digest), *((adapters[each.name], each.digest) for each in model.adapters)]
            if drafting is not None and deployment.spec.draft is not None:
                digests.append((drafting, deployment.spec.draft.digest))
            for place, digest in digests:
                if digest is not None:
                    _verify(place, digest, progress)
            directory = make_state_directory(name)
            endpoint = Endpoint(
                f"http://127.0.0.1:{port}/v1", secrets.token_urlsafe(32), deployment.served_name, os.getpid()
            )
            write_private(directory / "token", endpoint.key)
            config = build_serve_config(
                deployment,
                plan,
                model_path=str(weights.resolve()),
                token_path=str(directory / "token"),
                adapter_paths={name: str(path) for name, path in adapters.items()},
                draft_path=str(drafting) if drafting else None,
                http_host="127.0.0.1",
                http_port=port,
            )
            environment = {
                **engine_environment(plan.role, machine.cores, machine.free_gpus(plan.role.accelerator)),
                **tracing_environment(deployment),
                TOKEN_FILE_VARIABLE: str(directory / "token"),
            }
            with local_ray(environment, plan.gpus_per_replica, directory / "logs", progress.stage) as (head, api):
                progress.stage("starting Serve")
                api.put(config)
                run = LocalRun(name, endpoint, head, api, LogFollower(head.logs), directory / "logs")
                run.wait_until_ready(progress.stage)
                write_endpoint(directory, endpoint)
                is_ready = True
                progress.ready(endpoint, directory, head.logs)
                run.follow(progress.log if logs else lambda _line: None)
    except KeyboardInterrupt:
        if not is_ready:
            raise typer.Exit(INTERRUPTED) from None
    say("stopped: no process of the model runs any more", err=True)


def _verify(weights: Path, digest: str, progress: Progress) -> None:
    total_bytes = sum(size_bytes for _, size_bytes in list_files(weights))
    read_bytes = 0

    def on_progress(count_bytes: int) -> None:
        nonlocal read_bytes
        read_bytes += count_bytes
        progress.stage(f"verifying the weights: {100 * read_bytes // max(total_bytes, 1) // 10 * 10} %")

    verify(weights, digest, on_progress=on_progress)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does; once it is ending, further signals change nothing."""

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
