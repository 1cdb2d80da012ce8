"""Reads manifest files strictly: each mistake that YAML would accept silently is a problem with its line.

Called by `validate`, `plan` and `up`. Refuses duplicate keys, NaN and infinities, aliases that grow, odd tags, deep
nesting and large files. `conclave.policy.admission` checks everything else.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from typer.core import TyperCommand

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.occurrences import Path as FieldPath
from conclave.catalogue.quantization_file import QUANTIZATION_FILE, with_quantization
from conclave.errors import ANOTHER_CHECKPOINT, InvalidInput, NotServed, UnknownModel
from conclave.policy.admission import Problem, read_deployment

MAX_FILE_BYTES = 1024 * 1024
"""etcd stores no larger object."""
MAX_DEPTH = 64
MAX_VALUES = 20_000
"""Most values of one document after aliases are resolved."""
MAX_LISTING_BYTES = 64 * MAX_FILE_BYTES
MAX_LISTING_VALUES = 4_000_000
"""Most values of a listing that kubectl prints of a large cluster."""

_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
"""A JSON number that YAML 1.1 reads as a string, because its exponent has no sign."""
_INTEGERS = 2**63
"""Bound of whole numbers. Python reads larger numbers, also as 0x… and 1:59, and then cannot print them."""
_TEXT_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp", "value")}
"""Kubernetes has no timestamps and no `=` values, so the text is kept."""
_TAGS = _TEXT_TAGS | {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "null", "bool", "int", "float")}
_HALF = (
    "holds half a surrogate pair (an escape of \\ud800 to \\udfff), which is no character: write the character itself"
)


class FileCommand(TyperCommand):
    """A command whose files are options, as kubectl's; says so to a user who gives a file as an argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-"):
            raise InvalidInput(f"{args[0]} without -f; write: {ctx.command_path} -f {args[0]}")
        return super().parse_args(ctx, args)


class UnreadableFileError(InvalidInput):
    """A file that no document can be read from."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}")
        self.file = file
        self.line = line
        self.reason = reason


class NotReadError(UnreadableFileError):
    """A file of which nothing could be read, and so no line."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, 1, reason)
        self.args = (f"{file}: {reason}",)


class EmptyFileError(UnreadableFileError):
    """A file without a document, such as one of comments only."""

    def __init__(self, file: str) -> None:
        seen = "standard input is empty" if file == "-" else "holds no document"
        super().__init__(file, 1, f"{seen}, expected a ModelDeployment")


@dataclass(frozen=True)
class Document:
    """One document of a file, or one item of a List in it."""

    file: str
    line: int
    value: object = None
    lines: Mapping[FieldPath, int] = field(default_factory=dict)
    """The line of each field."""
    problems: tuple[Problem, ...] = ()
    """Mistakes that only a file can have, such as a key that is given twice."""

    def line_of(self, path: FieldPath) -> int:
        """The line of a field, or of the nearest object around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)

    def located(self, problem: Problem) -> str:
        """A problem as `file:line: field: message`."""
        return f"{self.file}:{self.line_of(problem.path)}: {problem}"


def only_file(files: Sequence[str], command: str) -> str:
    """The file of a command that takes one ModelDeployment; raises InvalidInput where -f names several."""
    if len(files) != 1:
        raise InvalidInput(
            f"-f is given {len(files)} times ({', '.join(files)}), expected once: {command} takes one ModelDeployment"
        )
    return files[0]


def read_documents(file: str) -> tuple[Document, ...]:
    """The documents of a file (`-` is standard input), a List's items in its place; raises UnreadableFileError."""
    documents = _read(file, yaml.SafeLoader, MAX_FILE_BYTES, MAX_VALUES)
    if not documents:
        raise EmptyFileError(file)
    return tuple(item for document in documents for item in _items(document))


def read_listing(file: str) -> tuple[Document, ...]:
    """The documents of a listing, which may hold all nodes and pods of a cluster; raises UnreadableFileError."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return _read(file, loader, MAX_LISTING_BYTES, MAX_LISTING_VALUES)


def _read(file: str, loader: type[yaml.SafeLoader], most_bytes: int, most_values: int) -> tuple[Document, ...]:
    text = _read_text(file, most_bytes)
    try:
        _bound_depth(file, text, loader)
        nodes = list(yaml.compose_all(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UnreadableFileError(file, line, f"not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UnreadableFileError(file, 1, f"not YAML: {' '.join(str(error).split())}") from error
    return tuple(_document(file, node, most_values) for node in nodes if not _is_empty(node))


def is_url(file: str) -> bool:
    """Whether a name is one that kubectl would fetch."""
    return file.startswith(("http://", "https://"))


def load_deployments(file: str | Path) -> tuple[ModelDeployment, ...]:
    """All ModelDeployments of a file; raises InvalidInput with all problems of all of them."""
    deployments: list[ModelDeployment] = []
    problems: list[str] = []
    for document in read_documents(str(file)):
        deployment, found = check_document(document)
        problems += [document.located(problem) for problem in found]
        if deployment is not None:
            deployments.append(deployment)
    if problems:
        raise InvalidInput("\n".join(problems))
    return tuple(deployments)


def load_deployment(file: str | Path) -> ModelDeployment:
    """The only ModelDeployment of a file; raises InvalidInput with all its problems."""
    deployments = load_deployments(file)
    if len(deployments) != 1:
        names = ", ".join(deployment.metadata.name for deployment in deployments)
        raise InvalidInput(f"{file}: holds {len(deployments)} ModelDeployments ({names}), expected exactly one")
    return deployments[0]


def read_model_config(file: str | None) -> dict[str, Any] | None:
    """The config.json of a model, read as strictly as a manifest; None when no file is given.

    A file beside it may describe the quantization of the weights.
    """
    if file is None:
        return None
    config, beside = read_object(file)[0], Path(file).with_name(QUANTIZATION_FILE)
    if file == "-" or not beside.is_file():
        return config
    return with_quantization(config, read_object(str(beside))[0])


def in_config(config: str, error: InvalidInput) -> str:
    """The message of a reader of config.json, with the file's name as the user gave it, and what to do."""
    said = str(error).removeprefix("config.json: ")
    if isinstance(error, NotServed):
        return f"{config}: {said}; {ANOTHER_CHECKPOINT}"
    if isinstance(error, UnknownModel):  # no correction makes the engine serve it
        return f"{config}: {said}"
    return f"{config}: {said}. Correct the file, or give the config.json of a model that Conclave plans."


def read_object(file: str) -> tuple[dict[str, Any], Document]:
    """The only document of a file, which must be an object, and the document with its lines; raises InvalidInput."""
    documents = read_documents(file)
    problems = [document.located(problem) for document in documents for problem in document.problems]
    if problems:
        raise InvalidInput("\n".join(problems))
    value = documents[0].value
    if len(documents) != 1 or not isinstance(value, dict):
        seen = f"{len(documents)} documents" if len(documents) != 1 else f"a {type(value).__name__}"
        raise InvalidInput(f"{file}:1: holds {seen}, expected one object (a mapping of names to values)")
    return value, documents[0]


def check_document(document: Document) -> tuple[ModelDeployment | None, tuple[Problem, ...]]:
    """The deployment and its problems. The deployment is None when there is a problem; those of the file come first."""
    if document.problems:
        return None, document.problems
    return read_deployment(document.value)


def _items(document: Document) -> tuple[Document, ...]:
    """The items of a List, as `kubectl get -o yaml` prints several objects; any other document as it is."""
    match document.value:
        case {"kind": "List", "apiVersion": "v1", "items": [_, *_] as items} if not document.problems:
            return tuple(_item(document, index, item) for index, item in enumerate(items))
    return (document,)


def _item(document: Document, index: int, value: object) -> Document:
    where = ("items", index)
    lines = {path[2:]: line for path, line in document.lines.items() if path[:2] == where}
    return Document(document.file, document.line_of(where), value, lines)


def _read_text(file: str, most_bytes: int) -> str:
    if is_url(file):
        raise UnreadableFileError(
            file, 1, f"is a URL, which is not fetched. Pipe its content: curl -fsSL {file} | conclave … -f -"
        )
    try:
        if file == "-":
            content = sys.stdin.buffer.read(most_bytes + 1)
        else:
            with Path(file).open("rb") as stream:
                content = stream.read(most_bytes + 1)
    except IsADirectoryError as error:
        raise NotReadError(file, "is a directory, expected a file: name one of its files") from error
    except FileNotFoundError as error:
        raise NotReadError(file, "no such file; correct the path") from error
    except OSError as error:
        raise NotReadError(file, f"cannot be read: {error.strerror}") from error
    if len(content) > most_bytes:
        raise UnreadableFileError(
            file, 1, f"is larger than {most_bytes} bytes, which is more than a cluster stores: split the file"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UnreadableFileError(file, line, f"byte {error.start} is not UTF-8: save the file as UTF-8") from error


def _bound_depth(file: str, text: str, loader: type[yaml.SafeLoader]) -> None:
    """Raises UnreadableFileError for deep nesting, before nodes are composed: composing recurses."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise UnreadableFileError(file, line, f"is nested deeper than {MAX_DEPTH} levels, expected a manifest")


def _is_empty(node: yaml.Node | None) -> bool:
    return node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null") and node.value == "")


def _document(file: str, node: yaml.Node, most_values: int) -> Document:
    reader = _Reader(most_values)
    value = reader.read(node, ())
    return Document(file, node.start_mark.line + 1, value, reader.lines, tuple(reader.problems))


class _Reader:
    """Turns a tree of nodes into values, and collects lines and problems."""

    def __init__(self, most_values: int) -> None:
        self._most_values = most_values
        self.lines: dict[FieldPath, int] = {}
        self.problems: list[Problem] = []
        self._constructor = yaml.constructor.SafeConstructor()
        self._values = 0

    def read(self, node: yaml.Node, path: FieldPath) -> Any:
        """The value of a node; None when the node has a problem."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._values += 1
        if self._values > self._most_values or len(path) > MAX_DEPTH:
            if not any(problem.path == () for problem in self.problems):
                self._refuse(
                    (), f"holds more than {self._most_values} values or {MAX_DEPTH} levels once aliases are resolved"
                )
            return None
        if node.tag not in _TAGS:
            return self._refuse(path, f"has the tag {node.tag}, expected a plain value: remove the tag")
        if isinstance(node, yaml.MappingNode):
            return dict(self._entries(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        raise TypeError(f"a YAML node is a mapping, a sequence or a scalar, not {type(node).__name__}")

    def _entries(self, node: yaml.MappingNode, path: FieldPath) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str":
                self._refuse(
                    path, f"line {line}: a key must be a string: put the key in quotes; merge keys (<<) are refused"
                )
                continue
            key = _whole(key_node.value)
            if key is None:
                self._refuse(path, f"line {line}: a key {_HALF}")
                continue
            where = (*path, key)
            self.lines[where] = line
            if key in seen:
                self._refuse(where, f"is given twice, in lines {seen[key]} and {line}: remove one")
                continue
            seen[key] = line
            yield key, self.read(value_node, where)

    def _scalar(self, node: yaml.ScalarNode, path: FieldPath) -> Any:
        text = _whole(node.value)
        if text is None:
            return self._refuse(path, _HALF)
        is_number = node.style is None and _NUMBER.fullmatch(text) is not None
        if node.tag in _TEXT_TAGS and not is_number:
            return text
        try:
            value = float(text) if is_number else self._constructor.construct_object(node)
        except (ValueError, OverflowError, yaml.YAMLError):
            return self._refuse(path, f"{text[:32]} is not a value of its type: correct the value, or put it in quotes")
        if isinstance(value, int) and not -_INTEGERS <= value < _INTEGERS:
            return self._refuse(
                path, f"{text[:32]} is no whole number of 64 bits: correct the value, or put it in quotes"
            )
        if isinstance(value, float) and not math.isfinite(value):
            return self._refuse(path, f"{text} is not a finite number: Kubernetes has no NaN and no infinity")
        return value

    def _refuse(self, path: FieldPath, message: str) -> None:
        self.problems.append(Problem(path, message))


def _whole(text: str) -> str | None:
    """The text with pairs of surrogates joined, as JSON escapes a character; None when half a pair stands alone."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return None
