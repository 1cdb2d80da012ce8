"""All output of the commands. Text from elsewhere cannot steer the terminal.

`say` for lines, `say_piece` for a model's answer as it arrives, `say_table`, `say_data` for programs, and live lines.
No text is read as markup. A test of the house refuses a command that writes any other way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from conclave.visible_text import visible, visible_prose

_ANY_WIDTH = 2**20


def say(text: str = "", *, err: bool = False) -> None:
    """Lines of text, on stdout or stderr."""
    typer.echo(_encodable(visible(text), err=err), err=err)


def say_piece(text: str, before: str) -> None:
    """A piece of a model's answer; `before` is the part that was printed already."""
    typer.echo(_encodable(visible_prose(text, before[-1:]), err=False), nl=False)


def say_data(value: Any, output: str) -> None:
    """An answer for programs. It is exact: JSON and YAML escape by themselves what is not plain ASCII."""
    text = json.dumps(value, indent=2) if output == "json" else yaml.safe_dump(value, sort_keys=False).rstrip()
    typer.echo(text)


def say_table(table: Table) -> None:
    """A table, its cells strings or `styled`. Without a terminal no cell is folded and no line is padded."""
    console = _VisibleConsole()
    if console.is_terminal:
        console.print(table)
        return
    console.width = _ANY_WIDTH
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        typer.echo(_encodable(line.rstrip(" "), err=False))


def say_styled(text: Text) -> None:
    """One line of `styled` parts, however long it is."""
    _VisibleConsole().print(text, soft_wrap=True)


def styled(*parts: tuple[str, str]) -> Text:
    """Text in several styles: (text, style)."""
    return Text.assemble(*((visible(text), style) for text, style in parts))


class LiveLine:
    """Lines on stderr, below them on a terminal one line that changes; elsewhere only the lines."""

    def __init__(self) -> None:
        self._console = _VisibleConsole(stderr=True)
        self._status = self._console.status("")

    def __enter__(self) -> LiveLine:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def update(self, text: str) -> None:
        self._status.update(styled((text, "")))

    def say(self, text: str, *, dim: bool = False) -> None:
        """Lines that stay."""
        self._console.print(text, style="dim" if dim else None, soft_wrap=True)

    def stop(self) -> None:
        """The changing line goes; what is said afterwards stays as before."""
        self._status.stop()


@contextmanager
def progress_bar(verb: str, total_bytes: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr while the block runs, moved by a count of bytes; None where stderr is no terminal."""
    console = _VisibleConsole(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn(verb, markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=total_bytes)
        yield lambda count_bytes: progress.advance(task, count_bytes)


class _VisibleConsole(Console):
    """Rich's console; every string, in a cell of a table too, becomes text by `render_str`."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


def _encodable(text: str, *, err: bool) -> str:
    """What the stream's encoding lacks is spelled out too, instead of ending the command."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
