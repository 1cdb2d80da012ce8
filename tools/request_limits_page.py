"""docs/request-limits.md from the limits of the OpenAI edge; called by tools/generate.py."""

from __future__ import annotations

import json
from collections.abc import Iterator

from conclave_openai.connections.limits import ConnectionLimits
from conclave_openai.grammars.schemas import SchemaLimits
from conclave_openai.limits.fields import FieldLimit, Refused, Shape
from conclave_openai.limits.request import load_limits
from conclave_openai.limits.thinking import SPELLINGS


def request_limits_page() -> str:
    """The whole page."""
    limits = load_limits()
    rows = [
        f"| `{name}` | {', '.join(limit.endpoints)} | {' or '.join(limit.types)} | {_bounds(limit)} |"
        for name, limit in limits.fields.items()
    ]
    edge_costs = "; ".join(
        f"{endpoint} {cost.cpu_ms} ms and {cost.memory_bytes} bytes" for endpoint, cost in limits.cost.items()
    )
    return "\n".join(
        [
            "# Request limits",
            "",
            "<!-- Generated from serving/conclave_openai/limits/request_limits.yaml; edit that file. -->",
            "",
            "These are the limits of one request. A request outside of them gets 400 in OpenAI's error shape, before",
            "the engine sees it. The answer names the field and never repeats its value. A field that is not listed is",
            "refused.",
            "",
            "null counts as absent, for every field and for every key of the objects below, before anything else is",
            "judged. So does a value that changes nothing: the tables say which (*like absent*).",
            "",
            f"- body: at most {limits.body_bytes} bytes (else 413), complete in {limits.body_timeout_s:g} s (else 408)",
            f"- all bodies that one ingress replica reads at a time: {limits.bodies_bytes} bytes together (else 503)",
            f"- JSON: nested at most {limits.json_depth} levels; no duplicate keys, NaN, infinity or lone surrogates",
            f"- JSON values and keys, counted before parsing: at most {limits.json_values['chat']} in a chat,"
            f" {limits.json_values['completions']} in a completion; at most {limits.json_containers} are containers;"
            " as many again in the arguments of tool calls",
            f"- CPU and memory that the costliest request takes at the edge, without its answer: {edge_costs}; shown by"
            " `.venv/bin/python -m pytest -rP tests/unit/serving/test_request_cost.py`",
            f"- sequences (prompts times `n`): at most {limits.sequences}",
            "",
            "## Fields",
            "",
            "| Field | URL | Type | Bounds |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Objects within fields",
            "",
            "A key that is not listed is refused. `arguments` of an earlier call may be an object instead of its text;",
            "a text of what is no JSON object, and no arguments, count as `{}`. A tool's name has the same pattern",
            "wherever it stands. `input_text` and `output_text` reach the model as `text`. The thoughts of an earlier",
            "answer (`thinking`, `reasoning_text`) reach it as the message's `reasoning`, unless that is there. If a",
            "model's template does not know the role `developer`, the message has the role `system`.",
            "",
            "| Object | Key | Type | Bounds |",
            "|---|---|---|---|",
            *(row for name, shape in limits.shapes.items() for row in _shape_rows(name, shape)),
            "",
            *_THINKING,
            *_schema_lines(limits.schema_),
            "## Accepted and dropped",
            "",
            "The engine never sees these fields. A request with them is answered as if it had none of them.",
            "",
            *(f"- `{name}`: {why}" for name, why in limits.ignored.items()),
            "",
            "## Refused, and why",
            "",
            *(f"- `{name}`: {_refused(refused)}" for name, refused in limits.forbidden.items()),
            "",
            *_connection_lines(ConnectionLimits()),
        ]
    )


_THINKING = (
    "## Thinking",
    "",
    "Clients turn thinking on and off, and bound it, in many spellings:",
    "",
    f"{', '.join(f'`{spelling}`' for spelling in SPELLINGS)}.",
    "",
    "All of them are read as one: whether to think (`true`, `enabled`; `false`, `disabled`, the effort `none`, a",
    "budget of 0), how much (`reasoning_effort`), and with how many tokens of thoughts. `adaptive` and `auto` leave it",
    "to the model. Two spellings that disagree get 400.",
    "",
    "A replica reads the model's chat template at its start and sets the switch that the template knows:",
    "`enable_thinking`, `thinking`, or an effort. If a template knows no switch, the model answers as it always does:",
    "a request to turn thinking off passes where nothing thinks, and a model that always thinks puts its thoughts into",
    "`reasoning`. [models.md](models.md#tools-and-thinking) says which models think. gpt-oss answers with its lowest",
    "effort instead. A budget needs a reasoning parser, and is dropped without one.",
    "",
    "Of `chat_template_kwargs` (and `chat_template_args`), only the keys in the table above are accepted, of object",
    "*template*. A template gets none that it does not read.",
    "",
)


def _refused(refused: Refused) -> str:
    return f"{refused.why}{_like_absent('; ', refused.neutral)}"


def _like_absent(before: str, neutral: tuple[object, ...]) -> str:
    return f"{before}like absent: {', '.join(f'`{json.dumps(value)}`' for value in neutral)}" if neutral else ""


def _shape_rows(name: str, shape: Shape) -> Iterator[str]:
    shown = name.replace("_", " ")
    if shape.told_by is not None:
        yield f"| {shown} | `{shape.told_by}` | string | one of {', '.join(shape.kinds)} |"
    for kind, keys in {"": shape.keys, **shape.kinds}.items():
        for key, limit in keys.items():
            of_kind = f"{shown} ({kind})" if kind else shown
            yield f"| {of_kind} | `{key}` | {' or '.join(limit.types)} | {_bounds(limit)} |"
    for key, why in shape.dropped.items():
        yield f"| {shown} | `{key}` | any | dropped: {why} |"
    for key, why in shape.refused.items():
        yield f"| {shown} | `{key}` |  | refused: {_refused(why)} |"


def _bounds(limit: FieldLimit) -> str:
    words = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "min_items": "at least {} items",
        "max_items": "at most {} items",
        "max_characters": "at most {} characters",
        "max_bytes": "at most {} bytes",
        "pattern": "matches `{}`",
        "key_pattern": "keys match `{}`",
        "item_minimum": "each at least {}",
        "item_maximum": "each at most {}",
    }
    bounds = limit.model_dump(exclude_none=True)
    given = [text.format(bounds[key]) for key, text in words.items() if key in bounds]
    if limit.choices:
        given.append(f"one of {', '.join(limit.choices)}")
    if limit.within_context:
        given.append("more than the model's context counts as the context")
    if limit.neutral:
        given.append(_like_absent("", limit.neutral))
    if limit.shape or limit.item_shape:
        shape = str(limit.shape or limit.item_shape).replace("_", " ")
        given.append(f"items: {shape}" if limit.item_shape else f"keys: {shape}")
    return ", ".join(["required", *given] if limit.required else given)


def _schema_lines(limits: SchemaLimits) -> list[str]:
    """What holds for grammars."""
    trial, keywords = limits.trial, limits.keywords
    checked = keywords.schemas | keywords.named_schemas | keywords.values
    costs = [
        f"| {name.replace('_', ' ')} | {cost:g} |"
        for name, cost in limits.costs_ms.model_dump(exclude={"formats"}).items()
    ]
    costs += [f"| format `{name}` | {cost:g} |" for name, cost in limits.costs_ms.formats.items()]
    return [
        "## JSON schemas and regular expressions",
        "",
        f"In `response_format`, `structured_outputs` ({', '.join(limits.structured_outputs)}), and those of `tools`",
        "that the engine compiles because an answer must follow them: all of them with `tool_choice` required, the",
        "named one with a named choice, otherwise those that are `strict`. Of any other tool only the depth counts:",
        "",
        f"- keywords: {_code(checked)}",
        f"- accepted without a check of the value: {_code(keywords.annotations)}, and names that begin with"
        f" `{keywords.annotation_prefix}`; every other keyword is refused",
        f"- depth at most {limits.depth}; `$ref` only to a schema inside the same schema, without `~` and `%`",
        f"- lengths and counts at most {limits.count}; `enum` at most {limits.enum_items} values;"
        f" at most {limits.properties} properties an object; other lists at most {limits.branches};"
        " no value twice in `type`, `enum` and `required`",
        f"- a pattern has at most {limits.pattern_characters} characters; braces only as `{{2}}`, `{{2,}}` or"
        " `{2,5}`, directly after the part that they repeat, once for each part; `[]` is not a class",
        f"- all schemas of a request together cost at most {limits.compile_ms} ms of CPU to compile, estimated from:",
        "",
        "| Construct | ms |",
        "|---|---|",
        *costs,
        "",
        "### What one grammar may cost",
        "",
        "xgrammar is the only compiler. A grammar that it refuses gets 400. The estimate above can be wrong, so a",
        "replica compiles each grammar once in a process of its own before vLLM sees it. At the limits below, the",
        "kernel ends that process, and the answer is 400. Other requests are answered meanwhile.",
        "",
        f"- CPU: {trial.conversion_ms} ms for the conversion, which vLLM repeats on its event loop (at most three"
        f" times for a request), and {trial.compile_ms} ms over {trial.threads} threads for the rest, which the"
        " engine repeats beside its event loop",
        f"- CPU for each token of an answer: {trial.step_ms} ms, tried with random texts of the grammar",
        f"- memory: {trial.memory_bytes} bytes above what the process has at its start; in the engine the compiled"
        " grammars stay within `VLLM_XGRAMMAR_CACHE_MB`",
        f"- time: {trial.wall_s:g} s; a grammar that got too little CPU of a busy machine gets 429",
        f"- a replica tries {trial.at_once} grammars at once and holds {trial.waiting}, with those that wait; the"
        f" next one gets 429, and so does one that has waited for {trial.turn_s:g} s",
        f"- a replica remembers {trial.remembered} results, so a schema that is sent again is not tried again",
        "- all schemas of `tools` that an answer must follow get the CPU of one conversion together; the grammar of a"
        " forced call is tried like any other",
        "",
        "The process starts and ends with the replica. While the model loads, the process takes about 6 s of CPU",
        "at a lower priority. After that it holds about 400 MB of memory (torch, transformers and the model's",
        "vocabulary), and the memory of the grammars that it tries. If memory runs out, the kernel ends those",
        "first.",
        "",
    ]


def _code(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _connection_lines(limits: ConnectionLimits) -> list[str]:
    """What holds before a request is read."""
    return [
        "## Connections",
        "",
        "<!-- Generated from serving/conclave_openai/connections/limits.py; edit that file. -->",
        "",
        "These limits apply to every connection before its token is checked. They count in each process that",
        "listens; a pod has one. A refused client gets an answer in OpenAI's error shape where HTTP has an answer",
        "for the case. Then the connection is closed.",
        "",
        "| What | Limit | Beyond it |",
        "|---|---|---|",
        f"| request line and headers; trailers; one chunk's extensions | {limits.head_bytes} bytes each | 431 |",
        f"| header lines; trailer lines | {limits.header_lines} | 431 |",
        f"| time from a request's first byte to the end of its headers | {limits.head_timeout_s:g} s | 408 |",
        f"| time from connecting to the first byte | {limits.head_timeout_s:g} s | closed |",
        "| time without a request on a connection that had one | 90 s | closed |",
        f"| time for the rest of a body after the answer was sent | {limits.leftover_timeout_s:g} s | closed |",
        "| requests at a time on one connection (pipelining) | 1 | closed after the answer |",
        f"| open connections | {limits.connections} | 503 with Retry-After |",
        f"| open connections from one address | {limits.connections_per_address} | 503 with Retry-After |",
        f"| bodies of all requests without an answer yet | {limits.waiting_bodies_bytes >> 20} MiB |"
        " 503 with Retry-After |",
        "",
        "A WebSocket is never opened: its request is answered like any other. Ray Serve never sees a request",
        "without a valid token, and no byte of its body. Only `/-/healthz` is answered without a token.",
        "",
        "Many clients behind one proxy, gateway or NAT have one address. The chart's value",
        "`network.connectionsPerAddress` sets the limit for an address. `network.connectionsExemptCidrs` lists",
        "networks without this limit. A model takes both values with its next build.",
        "",
        f"So all clients without a token together hold at most {limits.memory_bytes >> 20} MiB of one process,"
        f" {limits.memory_bytes // limits.connections >> 10} KiB a connection.",
        "One read may bring up to 256 KiB more for each, until the token is checked, which comes next.",
        f"Clients with a token hold at most {limits.waiting_bodies_bytes >> 20} MiB of bodies more, and twice that"
        " while Ray Serve copies them.",
        "",
    ]
