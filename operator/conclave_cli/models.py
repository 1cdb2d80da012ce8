"""`conclave models` and `conclave models show`: what the catalogue knows of each model.

Prints only; facts come from `conclave.catalogue`, what one GPU carries from `conclave.planning`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from conclave.catalogue.facts import ModelFacts, read_config
from conclave.catalogue.licences import LicenceTerms
from conclave.catalogue.models import ModelEntry, all_models, find_model, suggest_models
from conclave.errors import InvalidInput, UnknownModel
from conclave.planning.kv_cache import kv_bytes_per_token
from conclave.planning.parallelism import tensor_sizes
from conclave_cli.terminal import say, say_data, say_table

_SUGGESTED = 6


class _Models(TyperGroup):
    """Says which command a user meant who wrote `conclave models list` or `conclave models ID`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        if name == "list":
            raise InvalidInput("models list: no such command; `conclave models` alone lists the models")
        raise InvalidInput(f"models {name}: no such command; to show a model: conclave models show {name}")


app = typer.Typer(
    name="models",
    cls=_Models,
    invoke_without_command=True,
    rich_markup_mode=None,
    help="List the models of the catalogue, or show one.",
)

SERVED = {
    "vllm": "vLLM",
    "conclave": "Conclave's own class for vLLM",
    "not-yet": "planned only",
    "provider": "by its provider only",
    "nobody": "never released",
}


class Output(StrEnum):
    """Formats of the answer."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Format of the answer.")]


@app.callback()
def list_models(
    context: typer.Context,
    filter_text: Annotated[
        str, typer.Option("--filter", help="Show only models with this text in id, title or licence.")
    ] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """List the models of the catalogue."""
    if context.invoked_subcommand is not None:
        return
    entries = [entry for entry in all_models() if _has_text(entry, filter_text.lower())]
    if not entries:
        say(f'no model matches "{filter_text}"', err=True)
    if output is Output.TABLE:
        _print_table(entries)
        return
    say_data([_row(entry) for entry in entries], output)


@app.command()
def show(
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="Id or alias of a model.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one model: its shape, its memory, its licence and how it is served."""
    entry = find_model(model_id)
    if entry is None:
        raise UnknownModel(_unknown(model_id))
    details = _details(entry)
    if output is not Output.TABLE:
        say_data(details, output)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in details.items():
        if key != "config":
            table.add_row(key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    say_table(table)


def _unknown(model_id: str) -> str:
    text = model_id.lower().rpartition("/")[2]
    named = [name for entry in all_models() for name in entry.names if entry.has_weights and text in name.lower()]
    near = list(dict.fromkeys((*suggest_models(model_id), *named)))[:_SUGGESTED]
    meant = f" (did you mean {' or '.join(near)}?)" if near else ""
    return (
        f'model "{model_id}" is not in the catalogue{meant}. `conclave models` lists the known ids. For a model of '
        "your own: conclave plan --config config.json"
    )


def _has_text(entry: ModelEntry, text: str) -> bool:
    return any(text in part.lower() for part in (*entry.names, entry.title, entry.publisher, entry.licence or ""))


def _row(entry: ModelEntry) -> dict[str, object]:
    count = entry.parameters
    return {
        "id": entry.id,
        "title": entry.title,
        "parameters": count.total if count else None,
        "activeParameters": count.active if count else None,
        "licence": entry.licence,
        "gated": entry.gated,
        "served": entry.served.by,
    }


def _details(entry: ModelEntry) -> dict[str, object]:
    way = "a later version reaches it through a ModelProvider; " if entry.served.by == "provider" else ""
    reason = f": {way}{entry.served.reason}" if entry.served.reason else ""
    details: dict[str, object] = {
        "id": entry.id,
        "title": entry.title,
        "aliases": list(entry.aliases),
        "publisher": entry.publisher,
        "served": f"{SERVED[entry.served.by]}{reason}",
        "instead": list(entry.served.instead),
        "engineClass": entry.served.engine_class,
        "toolCallParser": entry.chat.tool_call_parser,
        "reasoningParser": entry.chat.reasoning_parser,
        "thinks": entry.chat.thinking,
        "parameters": entry.parameters and f"{entry.parameters.total / 1e9:.1f}B",
        "activeParameters": entry.parameters and f"{entry.parameters.active / 1e9:.1f}B",
        "checkpointGiB": entry.checkpoint_gib,
        "gated": entry.gated if entry.has_weights else None,
        "licence": _licence_line(entry.terms),
        "source": entry.source,
    }
    if entry.has_weights:
        details |= _shape(read_config(entry.config)) | {"config": entry.config}
    return {key: value for key, value in details.items() if value not in (None, [])}


def _licence_line(terms: LicenceTerms | None) -> str | None:
    if terms is None:
        return None
    need = "plainly open" if terms.open else f"must be accepted as {terms.id}; its conditions: {terms.obliges}"
    return f"{terms.id} ({terms.title}), {need}; {terms.url}"


def _shape(facts: ModelFacts) -> dict[str, object]:
    return {
        "layers": len(facts.layers),
        "hidden": facts.hidden,
        "heads": facts.attention and facts.attention.heads,
        "experts": facts.moe and f"{facts.moe.experts}, {facts.moe.top_k} active",
        "contextTokens": facts.context_tokens,
        "kvBytesPerToken": kv_bytes_per_token(facts),
        "tensorSizes": list(tensor_sizes(facts)),
    }


def _print_table(entries: list[ModelEntry]) -> None:
    """One line a model, never folded, so that it can be searched with other tools."""
    if not entries:
        return
    rows = [("MODEL", "PARAMETERS", "ACTIVE", "LICENCE", "SERVED")]
    for entry in sorted(entries, key=lambda entry: not entry.has_weights):
        count = entry.parameters
        rows.append(
            (
                entry.id,
                f"{count.total / 1e9:.1f}B" if count else "-",
                f"{count.active / 1e9:.1f}B" if count else "-",
                entry.licence or "-",
                SERVED[entry.served.by],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
