"""`conclave validate`: everything that admission, the catalogue and the model's shape refuse, without a cluster.

All problems of all documents at once, each with file, line, field and remedy; exit code 2 where there is any.
Objects of other kinds beside a ModelDeployment are skipped by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from conclave.api.modeldeployment import GROUP, KIND, ModelDeployment
from conclave.catalogue.servable import to_be_inspected
from conclave.errors import InvalidInput, UnknownModel
from conclave.planning.checks import Unfit, check_deployment, check_shape
from conclave.planning.request import facts_for
from conclave.policy.admission import Problem
from conclave.policy.data_classes import DEFAULT_DATA_CLASSES, DataClasses, read_data_classes
from conclave.visible_text import one_line
from conclave_cli.manifest_files import Document, UnreadableFileError, check_document, read_documents, read_model_config
from conclave_cli.terminal import say, say_data


class Output(StrEnum):
    """Formats of the answer."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def validate(
    files: Annotated[
        list[str], typer.Option("--filename", "-f", help="Manifest file, `-` for standard input; may be repeated.")
    ],
    output: Annotated[Output, typer.Option("--output", "-o", help="Format of the answer.")] = Output.TABLE,
    config: Annotated[
        str | None, typer.Option(help="config.json of the model, where spec.model.configRef names it in the cluster.")
    ] = None,
    data_classes: Annotated[
        str, typer.Option(help="The cluster's data classes, least sensitive first, separated by commas.")
    ] = ",".join(DEFAULT_DATA_CLASSES.names),
) -> None:
    """Check ModelDeployments in files as the API server and the operator will."""
    judge = Judge(read_data_classes(data_classes), read_model_config(config))
    reports = [report for file in files for report in _check_file(file, judge)]
    refused = sum(1 for report in reports if report["problems"])
    if output is Output.TABLE:
        _print_lines(reports, refused)
    else:
        say_data({"valid": not refused, "documents": reports}, output)
    if refused:
        raise typer.Exit(InvalidInput.exit_code)


@dataclass(frozen=True)
class Judge:
    """What is known besides the file."""

    data_classes: DataClasses
    config: Mapping[str, object] | None
    """The model's own config.json, where it is at hand."""

    def beyond_admission(self, deployment: ModelDeployment) -> tuple[Problem, ...]:
        """What the operator would say as PlanReady=False; a config that is only in the cluster is left to it."""
        found = [_problem(unfit) for unfit in check_deployment(deployment, self.data_classes)]
        if self.config is None and deployment.spec.model.config_ref is not None:
            return tuple(found)
        try:
            facts = facts_for(deployment.spec.model.id, self.config)
        except UnknownModel as error:
            is_told = self.config is None  # that it is not served, or that only its weights say what it is
            return tuple(found) if is_told else (*found, Problem(("spec", "model"), str(error)))
        except InvalidInput as error:
            return (*found, Problem(("spec", "model", "configRef"), str(error)))
        return (*found, *map(_problem, check_shape(deployment, facts)))

    def note(self, deployment: ModelDeployment) -> str | None:
        """What can only be judged where the weights are."""
        if self.config is not None or deployment.spec.model.config_ref is not None:
            return None
        note = to_be_inspected(deployment.spec.model.id)
        return note and f"{note}; to check it here, give --config"


def _problem(unfit: Unfit) -> Problem:
    """A condition's message names the field itself; here it stands in front."""
    problem = Problem(unfit.path, unfit.message)
    return problem._replace(message=unfit.message.removeprefix(f"{problem.field} "))


Report = dict[str, object]


def _check_file(file: str, judge: Judge) -> list[Report]:
    try:
        documents = read_documents(file)
    except UnreadableFileError as error:
        problem = {"line": error.line, "field": "", "message": error.reason}
        return [{"file": file, "line": error.line, "name": None, "problems": [problem]}]
    others = [(document, _other_kind(document)) for document in documents]
    own = [document for document, kind in others if not kind]
    for document, kind in others if own else ():
        if kind:
            say(one_line(f"{file}:{document.line}: skipped: {kind}"), err=True)
    return [_check(document, judge) for document in own or documents]


def _other_kind(document: Document) -> str:
    """Kind and name of an object that is none of Conclave's, such as a Namespace; empty for all else."""
    match document.value:
        case {"kind": str(kind), "apiVersion": str(version)} if kind == KIND or version.startswith(f"{GROUP}/"):
            return ""
        case {"kind": str(kind), "apiVersion": str(), "metadata": {"name": str(name)}}:
            return f"{kind} {name}"
        case {"kind": str(kind), "apiVersion": str()}:
            return kind
    return ""


def _check(document: Document, judge: Judge) -> Report:
    deployment, problems = check_document(document)
    if deployment is not None:
        problems = judge.beyond_admission(deployment)
        if note := judge.note(deployment):
            say(one_line(f"{document.file}:{document.line}: note: {note}"), err=True)
    return {
        "file": document.file,
        "line": document.line,
        "name": deployment.metadata.name if deployment else None,
        "problems": [
            {"line": document.line_of(problem.path), "field": problem.field, "message": problem.message}
            for problem in sorted(problems, key=lambda problem: document.line_of(problem.path))
        ],
    }


def _print_lines(reports: list[Report], refused: int) -> None:
    for report in reports:
        problems = report["problems"]
        for problem in problems if isinstance(problems, list) else []:
            field = f"{problem['field']}: " if problem["field"] else ""
            say(one_line(f"{report['file']}:{problem['line']}: {field}{problem['message']}"))
        if not problems:
            say(one_line(f"{report['file']}:{report['line']}: ModelDeployment {report['name']} is valid"))
    if refused:
        say(f"{refused} of {len(reports)} documents refused")
