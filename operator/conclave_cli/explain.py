"""`conclave explain NAME`: why a ModelDeployment is not ready, root cause first, with evidence and remedy.

Reads pods, events and the RayService itself, with the user's rights: they may have changed since the last status.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from conclave.api.modeldeployment import ModelDeployment
from conclave.errors import InvalidInput
from conclave.finding import Finding
from conclave.kubernetes.failures import ApiFailure
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.root_cause import explain as find_causes
from conclave.visible_text import one_line
from conclave_cli.status import ContextOption, KubeconfigOption, NamespaceOption, conditions_of
from conclave_cli.terminal import say, say_data


class Output(StrEnum):
    """Formats of the answer."""

    TEXT = "text"
    JSON = "json"


def explain(
    name: Annotated[str, typer.Argument(help="The ModelDeployment.")],
    namespace: NamespaceOption = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Format of the answer.")] = Output.TEXT,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
) -> None:
    """Show why a ModelDeployment is not ready: the root cause first, then what follows from it."""
    item, causes, unseen = asyncio.run(_look(name, namespace, kubeconfig, context))
    ready = conditions_of(item).get("Ready", {})
    reported = _only_reported(ready, causes)
    if output is Output.JSON:
        found = [cause.model_dump(mode="json") for cause in causes]
        answer = {"ready": ready, "reported": reported, "causes": found, "unseen": [_name(one) for one in unseen]}
        say_data(answer, output)
        return
    metadata = item["metadata"]
    title = f"ModelDeployment {metadata['namespace']}/{metadata['name']}"
    if ready.get("status") == "True" and not causes:
        say(one_line(f"{title} is ready: {ready['message']}"))
    else:
        why = reported or (causes[0].reason if causes else "the operator has reported nothing yet")
        say(one_line(f"{title} is not ready: {why}"))
    for text in _lag(item):
        say(f"  {text}")
    if reported:
        say(f"\nthe operator reports: {one_line(reported)}\n  {_hanging(ready['message'], 2)}")
    for number, cause in enumerate(causes, start=1):
        _print(number, cause)
    for failure in unseen:
        say(f"\nnot checked: {_name(failure)} could not be read ({one_line(failure.message or failure.reason)})")


async def _look(
    name: str, namespace: str | None, kubeconfig: str | None, context: str | None
) -> tuple[JsonObject, tuple[Finding, ...], tuple[ApiFailure, ...]]:
    from conclave_cli.cluster_access import MODEL_DEPLOYMENT, open_cluster, refusal
    from conclave_cluster.observe import observe

    async with open_cluster(kubeconfig, context, namespace) as access:
        reading = await access.cluster.get(MODEL_DEPLOYMENT, access.namespace, name)
        if reading.failure is not None:
            raise refusal(reading.failure, access.server)
        if not reading.objects:
            raise InvalidInput(
                f"ModelDeployment {access.namespace}/{name}: not found in {access.server}; `conclave status -A` "
                "lists all"
            )
        item = reading.objects[0]
        deployment = ModelDeployment.model_validate(item)
        observed = await observe(access.cluster, deployment)
    # What the user may not read is no trouble of the deployment's.
    causes = find_causes(deployment, observed.model_copy(update={"failures": ()}), datetime.now(UTC))
    return item, causes, observed.failures


def _only_reported(ready: JsonObject, causes: tuple[Finding, ...]) -> str:
    """The reason that only the operator can know, such as a write that was refused to it."""
    reason = ready.get("reason", "")
    is_known = ready.get("status", "True") == "True" or any(cause.reason == reason for cause in causes)
    return "" if is_known else str(reason)


def _lag(item: JsonObject) -> list[str]:
    generation = item["metadata"].get("generation", 0)
    seen = (item.get("status") or {}).get("observedGeneration", 0)
    if seen == generation:
        return []
    return [
        (
            f"the status is of generation {seen}, and the object is at generation {generation}: the operator has not "
            "handled the last change yet; if this does not change, check that the operator runs and watches this "
            "namespace"
        )
    ]


def _print(number: int, cause: Finding) -> None:
    role = "root cause" if number == 1 else "also" if cause.is_stalled else "meanwhile"
    say(f"\n{number}. {role}: {cause.reason} ({cause.condition} is not true)")
    say(f"   {_hanging(cause.fact, 3)}")
    for line in cause.evidence:
        say(f"   seen in  {_hanging(line, 12)}")
    if cause.remedy:
        say(f"   remedy   {_hanging(cause.remedy, 12)}")


def _hanging(text: str, margin: int) -> str:
    """Foreign text of several lines: none of them begins where a line of ours does."""
    return text.replace("\n", f"\n{' ' * margin}")


def _name(failure: ApiFailure) -> str:
    return f"{failure.resource}.{failure.group}" if failure.group else failure.resource
