"""`conclave status`: what the ModelDeployments of a cluster are doing, as the operator last reported it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from conclave.errors import InvalidInput
from conclave.kubernetes.objects import JsonObject
from conclave.visible_text import one_line
from conclave_cli.terminal import say, say_data, say_table

CONDITION_COLUMNS = ("Condition", "Status", "Reason", "Message")


class Output(StrEnum):
    """Formats of the answer."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; by default that of the context.")
]
KubeconfigOption = Annotated[
    str | None, typer.Option("--kubeconfig", help="Kubeconfig file; by default $KUBECONFIG or ~/.kube/config.")
]
ContextOption = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]


def status(
    name: Annotated[str | None, typer.Argument(help="Show this ModelDeployment in full.")] = None,
    namespace: NamespaceOption = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Show the ModelDeployments of all namespaces.")
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="Format of the answer.")] = Output.TABLE,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
) -> None:
    """Show the ModelDeployments of a cluster, or one of them."""
    if name and all_namespaces:
        raise InvalidInput(f"--all-namespaces with the name {name}: give --namespace instead")
    found = asyncio.run(_read(name, namespace, all_namespaces, kubeconfig, context))
    if output is Output.TABLE:
        if name:
            _show(found[0])
        elif found:
            say_table(_table(found, all_namespaces))
        else:
            say("no ModelDeployments")
        return
    shown: Any = found[0] if name else {"apiVersion": "v1", "kind": "List", "items": found}
    say_data(shown, output)


async def _read(
    name: str | None, namespace: str | None, all_namespaces: bool, kubeconfig: str | None, context: str | None
) -> list[JsonObject]:
    from conclave_cli.cluster_access import MODEL_DEPLOYMENT, open_cluster, refusal

    async with open_cluster(kubeconfig, context, namespace) as access:
        if name:
            reading = await access.cluster.get(MODEL_DEPLOYMENT, access.namespace, name)
        else:
            reading = await access.cluster.list(MODEL_DEPLOYMENT, "" if all_namespaces else access.namespace)
        if reading.failure is not None:
            raise refusal(reading.failure, access.server)
        if name and not reading.objects:
            raise InvalidInput(
                f"ModelDeployment {access.namespace}/{name}: not found in {access.server}; `conclave status -A` "
                "lists all"
            )
        return [without_ownership(item) for item in reading.objects]


def without_ownership(item: JsonObject) -> JsonObject:
    """The object without managedFields, as `kubectl get` shows it."""
    metadata = {key: value for key, value in item["metadata"].items() if key != "managedFields"}
    return {**item, "metadata": metadata}


def conditions_of(item: JsonObject) -> dict[str, JsonObject]:
    """The conditions of an object by their type."""
    return {condition["type"]: condition for condition in (item.get("status") or {}).get("conditions", [])}


def _table(found: list[JsonObject], all_namespaces: bool) -> Table:
    columns = ("Name", "Model", "Accelerator", "Parallelism", "Replicas", "Ready", "Reason", "Age")
    table = Table(*(("Namespace", *columns) if all_namespaces else columns), box=None, pad_edge=False)
    for item in sorted(found, key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"])):
        metadata, state = item["metadata"], item.get("status") or {}
        ready, plan = conditions_of(item).get("Ready", {}), state.get("plan", {})
        row = (
            metadata["name"],
            item["spec"]["model"]["id"],
            plan.get("accelerator", ""),
            plan.get("parallelism", ""),
            f"{state.get('readyReplicas', 0)}/{state.get('replicas', 0)}",
            ready.get("status", "Unknown"),
            ready.get("reason", ""),
            _age(metadata["creationTimestamp"], datetime.now(UTC)),
        )
        table.add_row(*((metadata["namespace"], *row) if all_namespaces else row))
    return table


def _show(item: JsonObject) -> None:
    metadata, state = item["metadata"], item.get("status") or {}
    say(one_line(f"ModelDeployment {metadata['namespace']}/{metadata['name']}: {item['spec']['model']['id']}"))
    plan, endpoint = state.get("plan"), state.get("endpoint")
    if plan:
        say(
            one_line(
                f"  plan      {plan.get('parallelism', '')} on {plan['gpusPerReplica']} x {plan['accelerator']}, "
                f"{plan['maxModelLen']} tokens of context"
            )
        )
    say(f"  replicas  {state.get('readyReplicas', 0)} ready of {state.get('replicas', 0)}")
    if endpoint:
        of = f"(model {endpoint['model']}, token in Secret {endpoint['tokenSecret']})"
        say(one_line(f"  endpoint  {endpoint['url']} {of}"))
    table = Table(*CONDITION_COLUMNS, box=None, pad_edge=False)
    for condition in conditions_of(item).values():
        table.add_row(condition["type"], condition["status"], condition["reason"], condition.get("message", ""))
    say_table(table)
    if conditions_of(item).get("Ready", {}).get("status") != "True":
        say(f"`conclave explain {metadata['name']} -n {metadata['namespace']}` says why it is not ready")


def _age(created: str, now: datetime) -> str:
    """As kubectl prints ages: the two greatest units at most."""
    seconds = int((now - datetime.fromisoformat(created)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{max(seconds, 0)}s"
