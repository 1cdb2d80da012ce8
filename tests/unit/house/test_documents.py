"""The documents are true: what commands print, where links lead, which make targets, paths and messages there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from tests.golden.differences import whole
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from conclave.api.reasons import Reason
from conclave.errors import ConclaveError
from conclave_cli.main import app

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/**/*.md"), *ROOT.glob("images/**/*.md")]
)
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
ELIDED = "…"
FORBIDDEN = {"operator/__init__.py"}
"""Named since it must not be there."""


class Shown(NamedTuple):
    """A command in a document with the output that the document shows for it."""

    document: str
    command: str
    output: str


def shown(path: Path) -> Iterator[Shown]:
    """From blocks marked `console`: a line `$ conclave …`, and below it what the command prints."""
    for block in re.findall(r"^```console\n(.*?)^```$", path.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield Shown(path.name, command, output)


SHOWN = list(chain.from_iterable(map(shown, DOCUMENTS)))


@pytest.mark.parametrize("each", SHOWN, ids=[f"{each.document}: {each.command}" for each in SHOWN])
def test_a_command_prints_what_the_document_shows(each: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of `…` stands for any lines."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    program, *arguments = shlex.split(each.command)
    assert program == "conclave"
    result = CliRunner().invoke(app, arguments)
    printed = result.output
    if isinstance(result.exception, ConclaveError):
        printed += f"error: {result.exception}\n"
    lines = [line.rstrip() for line in printed.strip().splitlines()]
    pattern = "".join(r"(?:.*\n)*" if line == ELIDED else f"{re.escape(line)}\n" for line in each.output.splitlines())
    assert re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)), printed


EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def commands(path: Path) -> Iterator[list[str]]:
    """The arguments of each `conclave …` in a block of code of a document, or in a comment of an example."""
    text = path.read_text("utf-8").replace("\\\n", "")
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE) if path.suffix == ".md" else [text]
    for line in "\n".join(blocks).splitlines():
        if found := re.match(r"(?:\$ |#.*? )?(?:\.venv/bin/)?conclave ([a-z].*)", line):
            yield shlex.split(re.split(r"\s{2,}#", found[1])[0])


@pytest.mark.parametrize("path", [*DOCUMENTS, *EXAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_in_a_document_is_one_that_there_is(path: Path) -> None:
    """Its options and arguments are parsed; nothing is run."""
    for arguments in commands(path):
        command, left = get_command(app), arguments
        context = command.make_context("conclave", [], resilient_parsing=True)
        while isinstance(command, TyperGroup) and not (command.invoke_without_command and not left):
            _, found, left = command.resolve_command(context, left)
            assert found is not None, arguments
            command = found
        command.make_context("conclave", list(left), parent=context)


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_a_value_of_the_chart_in_a_document_is_one_that_there_is(document: Path) -> None:
    for name in re.findall(r"--set(?:-json|-string)? '?([a-zA-Z.]+)=", document.read_text("utf-8")):
        values = yaml.safe_load((ROOT / "charts" / "conclave" / "values.yaml").read_text("utf-8"))
        for part in name.split("."):
            assert part in values, name
            values = values[part]


def prose(path: Path) -> str:
    """Without the blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(path: Path) -> frozenset[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_what_a_document_names_is_in_the_repository(document: Path) -> None:
    """Targets of make, and paths that begin with one of our directories. CHANGELOG.md names what was."""
    if document.name == "CHANGELOG.md":
        return
    text = document.read_text("utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = re.findall(r"(?:`|^)(make [a-z0-9- ]+)", text, re.MULTILINE)
    assert {word for line in named for word in line.split()[1:]} <= targets
    directories = r"(?:benchmarks|charts|docs|e2e|examples|images|operator|requirements|serving|tests|tools)"
    for path in re.findall(rf"(?<![\w/.-])({directories}/[\w/.-]+\w)", text):
        assert (ROOT / path).exists() or path in FORBIDDEN, path


def test_the_worked_example_shows_reasons_and_messages_that_there_are() -> None:
    """Its table: where a message is quoted, it is that of a golden status."""
    said = {
        (condition["reason"], condition["message"])
        for path in (ROOT / "tests" / "golden").glob("*/status.diff")
        for condition in whole(path.parent, "status")["conditions"]
        if condition["type"] == "Ready"
    }
    rows = re.findall(
        r"^\|[^|]*\| (?:True|False) \| `(\w+)` \| (.+) \|$",
        (ROOT / "docs" / "how-it-works.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) >= 6
    for reason, message in rows:
        assert reason in set(Reason)
        assert (reason, message) in said or message.startswith(("names ", "says ")), message
