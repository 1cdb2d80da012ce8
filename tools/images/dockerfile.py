"""Reads the part of the Dockerfile language that images/Dockerfile is written in; pure.

Called by `build`. An instruction or an option outside of that part is refused by file and line: what this reads must
mean here what it means to a container engine.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass


class DockerfileError(Exception):
    """The text is outside of the part that is read, or names what is not there."""


@dataclass(frozen=True)
class Run:
    """A shell command that makes a layer; `caches` are directories that the layer does not get."""

    command: str
    caches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Copy:
    """Files of the build context, or of another stage."""

    stage: str | None
    sources: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Configure:
    """What only the image's configuration gets: `Env`, `Labels`, `User` or `Entrypoint`."""

    key: str
    value: Mapping[str, str] | str | tuple[str, ...]


Instruction = Run | Copy | Configure


@dataclass(frozen=True)
class Stage:
    """From FROM to the next one; `base` is another stage's name or a reference outside."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]


def parse(text: str, arguments: Mapping[str, str] | None = None) -> dict[str, Stage]:
    """The stages by name, in the order of the text; `arguments` win over the defaults of ARG."""
    given = dict(arguments or {})
    stages: dict[str, Stage] = {}
    declared: dict[str, str] = {}
    variables: dict[str, str] = {}
    name, base, instructions = "", "", list[Instruction]()
    for line, word, rest in _instructions(text):
        where = f"line {line}: {word}"
        match word:
            case "ARG":
                variable, equals, default = rest.partition("=")
                value = given.get(variable, default if equals else declared.get(variable))
                if value is None:
                    raise DockerfileError(f"{where} {variable} has no default and was given no value")
                (variables if name else declared)[variable] = value
            case "FROM":
                if name:
                    stages[name] = Stage(name, base, tuple(instructions))
                match_ = re.fullmatch(r"(\S+) AS ([a-z][a-z0-9-]*)", rest)
                if match_ is None:
                    raise DockerfileError(f"{where} {rest!r}; expected `BASE AS name`")
                base, name = _expanded(match_[1], declared, where), match_[2]
                if name in stages:
                    raise DockerfileError(f"{where}: there are two stages named {name}")
                variables, instructions = {}, []
            case _ if not name:
                raise DockerfileError(f"{where} before the first FROM; expected ARG or FROM")
            case "RUN":
                instructions.append(_run(rest, where))
            case "COPY":
                copy = _copy(_expanded(rest, variables, where), where)
                if copy.stage is not None and copy.stage not in stages:
                    raise DockerfileError(f"{where} --from={copy.stage}: no earlier stage has that name")
                instructions.append(copy)
            case "ENV" | "LABEL":
                pairs = _pairs(_expanded(rest, variables, where), where)
                instructions.append(Configure({"ENV": "Env", "LABEL": "Labels"}[word], pairs))
            case "USER":
                if not re.fullmatch(r"\d+:\d+", rest):
                    raise DockerfileError(
                        f"{where} {rest!r}; expected numbers, UID:GID, so that runAsNonRoot admits it"
                    )
                instructions.append(Configure("User", rest))
            case "ENTRYPOINT":
                instructions.append(Configure("Entrypoint", tuple(json.loads(rest))))
            case _:
                raise DockerfileError(f"{where} is not read here; tools/images/dockerfile.py lists what is")
    if name:
        stages[name] = Stage(name, base, tuple(instructions))
    return stages


def _instructions(text: str) -> list[tuple[int, str, str]]:
    found: list[tuple[int, str, str]] = []
    pending, first = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        first = first or number
        if line.endswith("\\"):
            pending += line[:-1].rstrip() + " "
            continue
        word, _, rest = (pending + line).partition(" ")
        found.append((first, word, rest.strip()))
        pending, first = "", 0
    if pending:
        raise DockerfileError(f"line {first}: the text ends inside of an instruction")
    return found


def _run(rest: str, where: str) -> Run:
    caches: list[str] = []
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        mount = re.fullmatch(r"--mount=type=cache,target=(/\S+)", option)
        if mount is None:
            raise DockerfileError(f"{where} {option}; expected --mount=type=cache,target=/DIRECTORY or the command")
        caches.append(mount[1])
        rest = rest.lstrip()
    return Run(rest, tuple(caches))


def _copy(rest: str, where: str) -> Copy:
    words = shlex.split(rest)
    stage = None
    if words and words[0].startswith("--from="):
        stage = words.pop(0).removeprefix("--from=")
    if len(words) < 2 or any(word.startswith("--") for word in words):
        raise DockerfileError(f"{where} {rest!r}; expected [--from=STAGE] SOURCE... TARGET")
    return Copy(stage, tuple(words[:-1]), words[-1])


def _pairs(rest: str, where: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in shlex.split(rest)]
    if not pairs or any(not equals for _, equals, _ in pairs):
        raise DockerfileError(f"{where} {rest!r}; expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _expanded(text: str, variables: Mapping[str, str], where: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in variables:
            raise DockerfileError(f"{where} uses ${name}, which no ARG before it declares")
        return variables[name]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)
