"""Foreign text reaches a terminal by one way only: no program of ours prints past it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = ("operator", "serving", "tools/demo.py")
"""The demo prints a model's answer; other tools print what they made themselves."""
DOORS = {
    "operator/conclave_cli/terminal.py": "shows foreign text visibly",
    "serving/conclave_weights/__main__.py:_say": "the same for the commands of pods",
    "serving/conclave_serving/egress_canary.py": "prints JSON, which escapes by itself",
    "serving/conclave_openai/grammars/trial_process.py:_write": "writes to the replica's socket, never to a terminal",
    "serving/conclave_openai/logs/content_free.py": "puts tracebacks without content in the place of Python's",
    "operator/conclave_operator/logs.py": "makes the handler of all logs, whose lines are visible or JSON",
    "tools/demo.py": "its own words, and lines that `conclave up` printed",
}
PRINTERS = {"print", "breakpoint", "help"}
ATTRIBUTES = {
    "typer": {"echo", "secho", "style", "confirm", "prompt", "echo_via_pager", "get_text_stream", "get_binary_stream"},
    "click": {"echo", "secho", "style", "confirm", "prompt", "echo_via_pager", "get_text_stream", "get_binary_stream"},
    "sys": {"stdout", "stderr", "__stdout__", "__stderr__"},
    "os": {"write", "system", "popen"},
    "traceback": {"print_exc", "print_exception", "print_last", "print_stack"},
    "logging": {"StreamHandler", "basicConfig", "lastResort"},
    "warnings": {"warn"},
    "pprint": {"pprint", "pp"},
}
ONLY_RICH = {"rich.table": {"Table"}, "rich.text": {"Text"}}
"""What holds a table or a styled line and prints nothing; `Text` only in annotations (`styled` makes it)."""


def ways_past(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each call or import that reaches the terminal by itself."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in PRINTERS:
                yield node.lineno, name
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in ATTRIBUTES.get(module, ()):
                yield node.lineno, f"{module}.{name}"
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    is_rich = module == "rich" or module.startswith("rich.")
                    if (is_rich and alias.name not in ONLY_RICH.get(module, ())) or alias.name in ATTRIBUTES.get(
                        module, ()
                    ):
                        yield node.lineno, f"{module}.{alias.name}"
            case ast.Import(names=names):
                for alias in names:
                    if alias.name.partition(".")[0] == "rich" or (alias.asname and alias.name in ATTRIBUTES):
                        yield node.lineno, alias.name
            case ast.Call(func=ast.Name(id="Text")) | ast.Attribute(value=ast.Name(id="Text")):
                yield node.lineno, "rich.text.Text"


def found_in(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    if name in DOORS:
        return []
    tree = ast.parse(path.read_text())
    doors = {door.partition(":")[2] for door in DOORS if door.startswith(f"{name}:")}
    inside = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in doors
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return [f"{name}:{line}: {what}" for line, what in ways_past(tree) if line not in inside]


def files() -> list[Path]:
    found = [
        path
        for source in SOURCES
        for path in ([ROOT / source] if source.endswith(".py") else (ROOT / source).rglob("*.py"))
    ]
    assert len(found) > 100
    return sorted(found)


def test_no_program_prints_past_the_one_way() -> None:
    allowed = {
        # The stream is handed to `_say`; what `chat --key-file -` reads comes from stdin.
        "serving/conclave_weights/__main__.py: sys.stderr",
    }
    found = [line for path in files() for line in found_in(path)]
    unexpected = [line for line in found if f"{line.split(':')[0]}: {line.rsplit(': ')[-1]}" not in allowed]
    assert unexpected == []


def test_every_door_is_there() -> None:
    for door in DOORS:
        path, _, function = door.partition(":")
        text = (ROOT / path).read_text()
        assert not function or f"def {function}(" in text


@pytest.mark.parametrize(
    "source",
    [
        "print(status)",
        "import sys\nsys.stdout.write(status)",
        "import sys\nsys.stderr.buffer.write(status)",
        "import typer\ntyper.echo(status)",
        "from typer import echo",
        "from rich.console import Console",
        "from rich import print",
        "import rich",
        "import rich.console as console",
        "from rich.status import Status",
        "from rich.progress import track",
        "from rich.text import Text\nText.from_ansi(status)",
        "from rich.text import Text\nText(status)",
        "import os\nos.write(1, status)",
        "from sys import stdout",
        "import sys as system",
        "import traceback\ntraceback.print_exc()",
    ],
)
def test_a_way_past_it_is_found(source: str) -> None:
    assert list(ways_past(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "from conclave_cli.terminal import say\nsay(status)",
        "import typer\nraise typer.Exit(2)",
        "from rich.table import Table\nTable()",
    ],
)
def test_the_one_way_is_no_finding(source: str) -> None:
    assert list(ways_past(ast.parse(source))) == []
