"""`conclave` (and `kubectl conclave`): registers the commands and turns Conclave's errors into messages and exit codes.

A command lives in a module of its own beside this one and imports what is heavy inside its function.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from conclave import __version__
from conclave.errors import ConclaveError
from conclave_cli import chat, explain, models, operator, plan, status, up, validate, weights
from conclave_cli.manifest_files import FileCommand
from conclave_cli.terminal import say

app = typer.Typer(
    name="conclave",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Plan, run and explain large mixture-of-experts models on your own hardware.",
)


app.add_typer(operator.app, name="operator")
app.add_typer(weights.app, name="weights")
app.command(cls=FileCommand)(up.up)
app.command()(chat.chat)
app.command(cls=FileCommand)(plan.plan)
app.command(cls=FileCommand)(validate.validate)
app.add_typer(models.app, name="models")
app.command()(status.status)
app.command()(explain.explain)


@app.command()
def version() -> None:
    """Print the version."""
    say(f"conclave {__version__}")


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Plan, run and explain large mixture-of-experts models on your own hardware."""


def main() -> None:
    """Entry point. An expected error becomes one message on stderr and an exit code of its own, never a traceback."""
    try:
        app()
    except ConclaveError as error:
        say(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception:  # noqa: BLE001 - a bug of ours: Python would print its message, which may be foreign, as it is
        say(traceback.format_exc(), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
