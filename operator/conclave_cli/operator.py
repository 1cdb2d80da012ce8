"""`conclave operator run`: the process that turns ModelDeployments into RayServices."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from conclave.errors import EnvironmentUnfit, InvalidInput
from conclave.policy.admission import explain
from conclave.policy.data_classes import read_data_classes
from conclave.settings import OperatorSettings
from conclave_cli.manifest_files import Document, read_object

app = typer.Typer(no_args_is_help=True, help="Run the operator.")


@app.callback()
def root() -> None:
    """Run the operator."""


@app.command()
def run(
    namespace: Annotated[
        list[str] | None, typer.Option(help="Namespace to watch; repeat for several. By default all namespaces.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with the operator's settings (image, data_classes, …).")
    ] = None,
    default_image: Annotated[
        str | None, typer.Option(help="Serving image for ModelDeployments that name none; overrides --config.")
    ] = None,
    data_classes: Annotated[
        str | None,
        typer.Option(help="Data classes, the least confidential first, separated by commas; overrides --config."),
    ] = None,
    kubeconfig: Annotated[
        str | None,
        typer.Option(
            help=(
                "Kubeconfig file; by default the pod's service account, or outside of a pod "
                "$KUBECONFIG or ~/.kube/config."
            )
        ),
    ] = None,
    lease: Annotated[
        str, typer.Option(help="Name of the Lease; only the process that holds it writes.")
    ] = "conclave-operator",
    lease_namespace: Annotated[
        str | None, typer.Option(help="Namespace of the Lease; by default the pod's own.")
    ] = None,
    http_port: Annotated[
        int,
        typer.Option("--http-port", "--metrics-port", min=0, max=65535, help="Port of /metrics, /healthz and /readyz."),
    ] = 8080,
    resync_seconds: Annotated[
        float, typer.Option(min=1, help="Seconds after which each ModelDeployment is reconciled without an event.")
    ] = 60.0,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Log lines for people or for machines.")] = "text",
) -> None:
    """Run the operator: serve ModelDeployments while this process holds the Lease, wait while another holds it."""
    settings = load_settings(config, default_image, data_classes)
    try:
        from conclave_operator.logs import set_up_logs
        from conclave_operator.process import ProcessOptions, own_namespace, run_operator
        from conclave_operator.tracing import set_up_tracing
    except ModuleNotFoundError as error:
        raise EnvironmentUnfit(
            f"the operator needs {error.name}, which is not installed: pip install 'conclave-inference[operator]'"
        ) from error
    set_up_logs(log_format)
    set_up_tracing()
    options = ProcessOptions(
        namespaces=tuple(namespace or ()),
        kubeconfig=kubeconfig,
        lease_name=lease,
        lease_namespace=lease_namespace or own_namespace(),
        http_port=http_port,
        resync_s=resync_seconds,
    )
    try:
        asyncio.run(run_operator(options, settings))
    except asyncio.CancelledError:
        return  # a signal


def load_settings(config: Path | None, default_image: str | None, data_classes: str | None) -> OperatorSettings:
    """The settings of the file, overridden by the options. Raises InvalidInput, which names file and line."""
    given: dict[str, object] = {}
    document: Document | None = None
    if config is not None:
        given, document = read_object(str(config))
    if default_image is not None:
        given["image"] = default_image
    if data_classes is not None:
        given["data_classes"] = read_data_classes(data_classes).names
    try:
        return OperatorSettings.model_validate(given)
    except ValidationError as error:
        problems = explain(error, OperatorSettings)
        if document is None:
            (missing,) = problems
            raise InvalidInput(f"the operator's settings: {missing} Give --default-image or --config FILE.") from error
        raise InvalidInput("\n".join(document.located(problem) for problem in problems)) from error
