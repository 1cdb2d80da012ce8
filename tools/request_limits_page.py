"""docs/request-limits.md from the limits of the OpenAI edge; called by tools/generate.py."""

from __future__ import annotations

from collections.abc import Iterator

from conclave_openai.connections.limits import ConnectionLimits
from conclave_openai.grammars.schemas import SchemaLimits
from conclave_openai.limits.fields import FieldLimit, Shape
from conclave_openai.limits.request import load_limits


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
            "What one request may ask for. Whatever is outside is answered 400 in OpenAI's error shape before the",
            "engine sees it; the answer names the field, never its value. A field that is not listed is refused.",
            "",
            f"- body: at most {limits.body_bytes} bytes (413), complete within {limits.body_timeout_s:g} s (408)",
            f"- all bodies that an ingress replica reads at one time: {limits.bodies_bytes} bytes together (503)",
            f"- JSON: nested at most {limits.json_depth} levels; no duplicate keys, NaN, infinity or lone surrogates",
            f"- JSON values and keys, counted before parsing: at most {limits.json_values['chat']} in a chat,"
            f" {limits.json_values['completions']} in a completion; at most {limits.json_containers} are containers;"
            " as many again in the arguments of tool calls",
            f"- CPU and memory of a whole request at the edge, its answer included in neither: {edge_costs}; shown by"
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
            "A key that is not listed is refused; null is as good as absent. `arguments` of an earlier call that are",
            "no JSON object are read as `{}`. A tool's name is held to its pattern wherever it stands.",
            "",
            "| Object | Key | Type | Bounds |",
            "|---|---|---|---|",
            *(row for name, shape in limits.shapes.items() for row in _shape_rows(name, shape)),
            "",
            *_schema_lines(limits.schema_),
            "## Taken and dropped",
            "",
            *(f"- `{name}`: {why}" for name, why in limits.ignored.items()),
            "",
            "## Refused",
            "",
            *(f"- `{name}`: {why}" for name, why in limits.forbidden.items()),
            "",
            *_connection_lines(ConnectionLimits()),
        ]
    )


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
        yield f"| {shown} | `{key}` |  | refused: {why} |"


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
        f"In `response_format`, `structured_outputs` ({', '.join(limits.structured_outputs)}) and `tools`:",
        "",
        f"- keywords: {_code(checked)}",
        f"- taken, and not looked into: {_code(keywords.annotations)}, and what begins with"
        f" `{keywords.annotation_prefix}`; every other keyword is refused",
        f"- depth at most {limits.depth}; `$ref` only to a schema inside the same schema, without `~` and `%`",
        f"- lengths and counts at most {limits.count}; `enum` at most {limits.enum_items} values;"
        f" at most {limits.properties} properties an object; other lists at most {limits.branches};"
        " no value twice in `type`, `enum` and `required`",
        f"- a pattern at most {limits.pattern_characters} characters; braces only as `{{2}}`, `{{2,}}` and `{{2,5}}`"
        " right after what is repeated, each part repeated once; `[]` is no class",
        f"- all together at most {limits.compile_ms} ms of CPU to compile, estimated from these costs:",
        "",
        "| Construct | ms |",
        "|---|---|",
        *costs,
        "",
        "### What one grammar may cost",
        "",
        "The only compiler is xgrammar; what it declines is answered 400 and goes to no other. An estimate can be",
        "wrong, so a replica compiles each grammar once in a process of its own before vLLM sees it. The kernel",
        "ends that process at these limits, and the answer is 400; others are answered meanwhile.",
        "",
        f"- CPU: {trial.conversion_ms} ms for the conversion, which vLLM repeats on its event loop (at most three"
        f" times for a request), and {trial.compile_ms} ms over {trial.threads} threads for the rest, which the"
        " engine repeats beside its event loop",
        f"- CPU for each token of an answer: {trial.step_ms} ms, tried with random texts of the grammar",
        f"- memory: {trial.memory_bytes} bytes above what the process has at its start; in the engine the compiled"
        " grammars stay within `VLLM_XGRAMMAR_CACHE_MB`",
        f"- time: {trial.wall_s:g} s; a grammar that had too little of the machine is answered 429",
        f"- {trial.at_once} grammars of a replica at once, {trial.waiting} with those that wait; one more is"
        f" answered 429, and so is one whose turn does not come within {trial.turn_s:g} s",
        f"- {trial.remembered} verdicts are remembered, so that a schema of each request costs once",
        "- of `tools`, all schemas together get the conversion's CPU; what is compiled of them for a forced call"
        " is tried like any other grammar",
        "",
        "The process starts and ends with the replica. While the model loads it takes about 6 s of CPU, at a lower",
        "priority; then it holds about 400 MB of memory (torch, transformers and the model's vocabulary) beside",
        "what the grammars take that it tries. Where memory runs out the kernel ends those first.",
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
        "What holds for every connection before its token is checked, in each process that listens (one a pod).",
        "A refusal is an answer in OpenAI's error shape where HTTP has one; then the connection is closed.",
        "",
        "| What | Limit | Beyond it |",
        "|---|---|---|",
        f"| request line and headers; trailers; one chunk's extensions | {limits.head_bytes} bytes each | 431 |",
        f"| header lines; trailer lines | {limits.header_lines} | 431 |",
        f"| time from a request's first byte to the end of its headers | {limits.head_timeout_s:g} s | 408 |",
        f"| time from connecting to the first byte | {limits.head_timeout_s:g} s | closed |",
        "| time without a request on a connection that had one | 90 s | closed |",
        f"| time for the rest of a body whose request was answered | {limits.leftover_timeout_s:g} s | closed |",
        "| requests at a time on one connection (pipelining) | 1 | closed after the answer |",
        f"| open connections | {limits.connections} | 503 with Retry-After |",
        f"| open connections from one address | {limits.connections_per_address} | 503 with Retry-After |",
        f"| bodies of all requests without an answer yet | {limits.waiting_bodies_bytes >> 20} MiB |"
        " 503 with Retry-After |",
        "",
        "A WebSocket is never opened: its request is answered as any other. Of a request without a valid token",
        "no body is passed on, and Ray Serve never sees it; only `/-/healthz` is answered without one.",
        "",
        "Many clients behind one proxy, gateway or NAT have one address. The chart's values",
        "`network.connectionsPerAddress` and `network.connectionsExemptCidrs` set the bound and name the networks",
        "that have none. They hold from a model's next build on.",
        "",
        f"So all clients without a token together hold at most {limits.memory_bytes >> 20} MiB of one process,"
        f" {limits.memory_bytes // limits.connections >> 10} KiB a connection,",
        "besides what one read brings of each: at most 256 KiB, until the token is checked, which comes next.",
        f"Those with a token hold {limits.waiting_bodies_bytes >> 20} MiB of bodies more, twice that while Ray"
        " Serve copies them.",
        "",
    ]
