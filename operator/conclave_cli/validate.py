"""`conclave validate`: finds, without a cluster, what admission, the catalogue or the model's shape will refuse.

Prints all problems of all documents at once, each with file, line, field and remedy. Objects of other kinds are
skipped by name when some document is a ModelDeployment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from conclave_cli.manifest_files import (
    Document,
    EmptyFileError,
    UnreadableFileError,
    check_document,
    read_documents,
    read_model_config,
)
from conclave_cli.manifest_paths import ManifestFile, find_files
from conclave_cli.terminal import say, say_data


class Output(StrEnum):
    """Formats of the answer."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def validate(
    names: Annotated[
        list[str],
        typer.Option(
            "--filename",
            "-f",
            help="File, directory (its .json, .yaml and .yml files), quoted pattern, or - for standard input. "
            "May be repeated.",
        ),
    ],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-R", help="Read the subdirectories of a directory too.")
    ] = False,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, or all documents with their problems as json or yaml.")
    ] = Output.TABLE,
    config: Annotated[
        str | None,
        typer.Option(help="config.json of the model. Needed to check a model whose spec.model.configRef names it."),
    ] = None,
    data_classes: Annotated[
        str, typer.Option(help="Data classes of the cluster, least sensitive first, separated by commas.")
    ] = ",".join(DEFAULT_DATA_CLASSES.names),
) -> None:
    """Check ModelDeployments in files as the API server and the operator will, without a cluster.

    Prints every problem with file, line, field and what to do. Objects of other kinds are skipped, with a line on
    standard error. Exits 0 when all ModelDeployments are valid and 2 when any is refused.

    \b
    conclave validate -f model.yaml
    conclave validate -f deploy/ -R -o json
    kustomize build deploy | conclave validate -f -
    """
    if names.count("-") > 1:
        raise InvalidInput("-f - is given twice, and standard input can be read once: give it once")
    judge = Judge(read_data_classes(data_classes), read_model_config(config))
    sources = [source for name in names for source in _read_sources(name, recursive=recursive)]
    reports = [report for source in _without_other_kinds(sources) for report in _check_source(source, judge)]
    refused = sum(1 for report in reports if report["problems"])
    if output is Output.TABLE:
        _print_lines(reports, refused)
    else:
        say_data({"valid": not refused, "documents": reports}, output)
    if refused:
        raise typer.Exit(InvalidInput.exit_code)


@dataclass(frozen=True)
class Judge:
    """What is known besides the files."""

    data_classes: DataClasses
    config: Mapping[str, object] | None
    """The model's own config.json, when --config names it."""

    def beyond_admission(self, deployment: ModelDeployment) -> tuple[Problem, ...]:
        """Problems that the operator would report as PlanReady=False.

        A config that only the cluster has is not checked.
        """
        found = [_problem(unfit) for unfit in check_deployment(deployment, self.data_classes)]
        if self.config is None and deployment.spec.model.config_ref is not None:
            return tuple(found)
        try:
            facts = facts_for(deployment.spec.model.id, self.config)
        except UnknownModel as error:
            if self.config is None:  # check_deployment has said so, or only the weights can tell what the model is
                return tuple(found)
            return (*found, Problem(("spec", "model"), str(error)))
        except InvalidInput as error:
            return (*found, Problem(("spec", "model", "configRef"), str(error)))
        return (*found, *map(_problem, check_shape(deployment, facts)))

    def note(self, deployment: ModelDeployment) -> str | None:
        """A remark when only the weights can tell what the model is."""
        if self.config is not None or deployment.spec.model.config_ref is not None:
            return None
        note = to_be_inspected(deployment.spec.model.id)
        return note and f"{note}; to check the model here, give --config"


def _problem(unfit: Unfit) -> Problem:
    """A condition's message begins with the field's name, which is printed in front here."""
    problem = Problem(unfit.path, unfit.message)
    return problem._replace(message=unfit.message.removeprefix(f"{problem.field} "))


Report = dict[str, object]


@dataclass(frozen=True)
class Source:
    """The documents of one file, or why there are none."""

    documents: tuple[Document, ...] = ()
    unreadable: UnreadableFileError | None = None


def _read_sources(name: str, *, recursive: bool) -> list[Source]:
    """One source for each file that a `-f` names."""
    try:
        files = find_files(name, recursive=recursive)
    except UnreadableFileError as error:
        return [Source(unreadable=error)]
    sources = [source for file in files if (source := _read_source(file)) is not None]
    return sources or [Source(unreadable=EmptyFileError(name))]


def _read_source(file: ManifestFile) -> Source | None:
    """None for a file without documents that was found and not named, which kubectl passes over too."""
    try:
        return Source(read_documents(file.path))
    except EmptyFileError as error:
        if file.is_found:
            say(one_line(f"{file.path}:1: skipped: holds no document"), err=True)
            return None
        return Source(unreadable=error)
    except UnreadableFileError as error:
        return Source(unreadable=error)


def _without_other_kinds(sources: list[Source]) -> list[Source]:
    """Without the documents of other kinds, unless all documents are: then something else was meant to be checked."""
    documents = [document for source in sources for document in source.documents]
    if all(map(_other_kind, documents)) and not any(source.unreadable for source in sources):
        return sources
    for document in documents:
        if kind := _other_kind(document):
            say(one_line(f"{document.file}:{document.line}: skipped: {kind}"), err=True)
    return [
        replace(source, documents=tuple(document for document in source.documents if not _other_kind(document)))
        for source in sources
    ]


def _check_source(source: Source, judge: Judge) -> list[Report]:
    if (error := source.unreadable) is not None:
        problem = {"line": error.line, "field": "", "message": error.reason}
        return [{"file": error.file, "line": error.line, "name": None, "problems": [problem]}]
    return [_check(document, judge) for document in source.documents]


def _other_kind(document: Document) -> str:
    """Kind and name of an object that is not Conclave's, such as a Namespace; empty for any other document."""
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
