"""Bounds on what structured output compiles: JSON schemas and regular expressions (request_limits.yaml, `schema`).

Pure; called by `request_limits.py`. The engine compiles a grammar before it answers, so its size is cost. What passes
here is still compiled by a process of its own before the engine sees it (`grammar_gate.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from conclave_serving.errors import invalid
from conclave_serving.grammar_costs import GrammarCosts, UnreadPattern
from conclave_serving.grammar_trials import TrialLimits

COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains")
TYPES = 7
"""A `type` can list so many different names."""


class SchemaKeywords(BaseModel):
    """What an object of a JSON schema may have as keys, by what their values are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schemas: frozenset[str]
    """One schema, or an array of schemas."""
    named_schemas: frozenset[str]
    """An object whose values are schemas."""
    values: frozenset[str]
    annotations: frozenset[str]
    """Say nothing about which values are valid: taken, and not looked into."""
    annotation_prefix: str

    def is_known(self, key: str) -> bool:
        """Whether a schema may have this key."""
        known = self.schemas | self.named_schemas | self.values | self.annotations
        return key in known or key.startswith(self.annotation_prefix)

    def children(self, node: dict[str, Any]) -> Iterator[object]:
        """The schemas directly below one."""
        for key, value in node.items():
            if key in self.named_schemas and isinstance(value, dict):
                yield from value.values()
            elif key in self.schemas:
                yield from value if isinstance(value, list) else (value,)


class _Bill:
    """What the grammars of one request cost; a pair of lengths is compiled once, however often it is used."""

    def __init__(self, costs: GrammarCosts) -> None:
        self.costs = costs
        self.ms = 0.0
        self.forced = True
        """Whether what is added is compiled, or is a tool that no answer is held to."""
        self._lengths: set[tuple[int, int]] = set()

    def add_node(self, node: dict[str, Any]) -> None:
        """One object of a JSON schema, without its children."""
        self.ms += self.costs.of_node(node)
        if self.forced:
            self.ms += self.costs.of_open_names(node)
        lengths = (_length(node.get("minLength")), _length(node.get("maxLength")))
        if lengths not in self._lengths:
            self._lengths.add(lengths)
            self.ms += self.costs.of_length(max(lengths))


def _length(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


class SchemaLimits(BaseModel):
    """The largest grammar that a request may bring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: int
    count: int
    enum_items: int
    properties: int
    branches: int
    pattern_characters: int
    structured_outputs: tuple[str, ...]
    keywords: SchemaKeywords
    compile_ms: int
    costs_ms: GrammarCosts
    trial: TrialLimits

    def page_lines(self) -> list[str]:
        """The section of docs/request-limits.md."""
        trial, keywords = self.trial, self.keywords
        checked = keywords.schemas | keywords.named_schemas | keywords.values
        costs = [
            f"| {name.replace('_', ' ')} | {cost:g} |"
            for name, cost in self.costs_ms.model_dump(exclude={"formats"}).items()
        ]
        costs += [f"| format `{name}` | {cost:g} |" for name, cost in self.costs_ms.formats.items()]
        return [
            "## JSON schemas and regular expressions",
            "",
            f"In `response_format`, `structured_outputs` ({', '.join(self.structured_outputs)}) and `tools`:",
            "",
            f"- keywords: {_code(checked)}",
            f"- accepted without a check of the value: {_code(keywords.annotations)}, and names that begin with"
            f" `{keywords.annotation_prefix}`; every other keyword is refused",
            f"- depth at most {self.depth}; `$ref` only to a schema inside the same schema, without `~` and `%`",
            f"- lengths and counts at most {self.count}; `enum` at most {self.enum_items} values;"
            f" at most {self.properties} properties an object; other lists at most {self.branches};"
            " no value twice in `type`, `enum` and `required`",
            f"- a pattern has at most {self.pattern_characters} characters; braces only as `{{2}}`, `{{2,}}` or"
            " `{2,5}`, directly after the part that they repeat, once for each part; `[]` is not a class",
            f"- all schemas of a request together cost at most {self.compile_ms} ms of CPU to compile, estimated from:",
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
            "- all schemas of `tools` together get the CPU of one conversion; the grammar of a forced call is tried"
            " like any other",
            "",
            "The process starts and ends with the replica. While the model loads, the process takes about 6 s of CPU",
            "at a lower priority. After that it holds about 400 MB of memory (torch, transformers and the model's",
            "vocabulary), and the memory of the grammars that it tries. If memory runs out, the kernel ends those",
            "first.",
            "",
        ]

    def check_request(self, request: dict[str, Any]) -> None:
        """Check every schema and pattern of a request, and what they cost together."""
        bill = _Bill(self.costs_ms)
        response_format = request.get("response_format")
        if response_format is not None:
            self._check_response_format(response_format, bill)
        structured = request.get("structured_outputs")
        if structured is not None:
            if response_format is not None and response_format["type"] != "text":
                raise invalid(
                    "The request has both 'response_format' and 'structured_outputs'; send one of them.",
                    "structured_outputs",
                )
            self._check_structured_outputs(structured, bill)
        bill.forced = _forces_tools(request)
        for tool in request.get("tools") or ():
            function = tool.get("function")
            if tool.get("type") != "function" or not isinstance(function, dict):
                raise invalid("Each of 'tools' must be of type 'function'.", "tools")
            self._check_schema(function.get("parameters"), "tools", bill)

    def _check_response_format(self, response_format: dict[str, Any], bill: _Bill) -> None:
        kind = response_format.get("type")
        if kind not in ("text", "json_object", "json_schema"):
            raise invalid("'response_format.type' must be text, json_object or json_schema.", "response_format")
        if kind == "json_schema":
            described = response_format.get("json_schema")
            if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
                raise invalid("'response_format.json_schema.schema' must be an object.", "response_format")
            self._check_schema(described["schema"], "response_format", bill)

    def _check_structured_outputs(self, structured: dict[str, Any], bill: _Bill) -> None:
        param = "structured_outputs"
        for key, value in structured.items():
            if key not in self.structured_outputs:
                raise invalid(f"'{param}' takes {', '.join(self.structured_outputs)} only.", param)
            if key == "regex":
                bill.ms += self._cost_of_pattern(value, param)
            elif key == "json":
                if not isinstance(value, dict):
                    raise invalid(f"'{param}.json' must be an object.", param)
                self._check_schema(value, param, bill)
            elif key == "choice":
                if not isinstance(value, list) or len(value) > self.enum_items:
                    raise invalid(f"'{param}.choice' must be an array of at most {self.enum_items}.", param)
                bill.ms += self.costs_ms.of_values(value)
        self._check_bill(bill, param)

    def _check_schema(self, schema: object, param: str, bill: _Bill) -> None:
        self._check_depth(schema, param, 0)
        seen: dict[int, dict[str, Any]] = {}
        self._check_node(schema, param, bill, seen)
        for node in seen.values():
            reference = node.get("$ref")
            if isinstance(reference, str):
                target = _target(schema, reference)
                if isinstance(target, dict) and id(target) not in seen:
                    raise invalid("A JSON schema's '$ref' leads to what is no schema.", param)
        self._check_bill(bill, param)

    def _check_bill(self, bill: _Bill, param: str) -> None:
        if bill.ms > self.compile_ms:
            raise invalid(
                f"The grammars of the request, up to and with '{param}', would take about {bill.ms:.0f} ms of CPU to"
                f" compile; at most {self.compile_ms} ms are given. Use fewer or simpler patterns, formats, number"
                " bounds, enum values and properties, and fewer different string lengths.",
                param,
            )

    def _check_depth(self, value: object, param: str, depth: int) -> None:
        if depth > self.depth:
            raise invalid(f"A JSON schema is nested deeper than {self.depth} levels.", param)
        if isinstance(value, list | dict):
            for item in value.values() if isinstance(value, dict) else value:
                self._check_depth(item, param, depth + 1)

    def _check_node(self, node: object, param: str, bill: _Bill, seen: dict[int, dict[str, Any]]) -> None:
        if not isinstance(node, dict):
            return
        seen[id(node)] = node
        for key, value in node.items():
            self._check_keyword(key, value, param)
        for pattern in _patterns(node):
            bill.ms += self._cost_of_pattern(pattern, param)
        bill.add_node(node)
        for child in self.keywords.children(node):
            self._check_node(child, param, bill, seen)

    def _check_keyword(self, key: str, value: object, param: str) -> None:
        if not self.keywords.is_known(key):
            raise invalid(
                "A JSON schema has a keyword that is not accepted here; the list of those that are is in"
                f" docs/request-limits.md. Keywords that begin with '{self.keywords.annotation_prefix}' are ignored.",
                param,
            )
        if key in COUNTS and isinstance(value, int | float) and not 0 <= value <= self.count:
            raise invalid(f"A JSON schema's '{key}' must be between 0 and {self.count}.", param)
        if isinstance(value, list):
            self._check_list(key, value, param)
        if key in self.keywords.named_schemas and isinstance(value, dict) and len(value) > self.properties:
            raise invalid(f"A JSON schema's '{key}' has more than {self.properties} members.", param)
        if key == "$ref" and (not isinstance(value, str) or not value.startswith("#") or "~" in value or "%" in value):
            raise invalid("A JSON schema's '$ref' must stay inside the schema ('#...') and be written plainly.", param)

    def _check_list(self, key: str, value: list[Any], param: str) -> None:
        if key in self.keywords.annotations or key.startswith(self.keywords.annotation_prefix):
            return
        most = {"type": TYPES, "enum": self.enum_items, "required": self.properties}.get(key, self.branches)
        if len(value) > most:
            raise invalid(f"A JSON schema's '{key}' has more than {most} values.", param)
        if key in ("type", "enum", "required") and len({json.dumps(item) for item in value}) < len(value):
            raise invalid(f"A JSON schema's '{key}' has a value twice.", param)

    def _cost_of_pattern(self, pattern: object, param: str) -> float:
        if not isinstance(pattern, str):
            raise invalid("A regular expression must be a string.", param, "invalid_type")
        if len(pattern) > self.pattern_characters:
            raise invalid(f"A regular expression is longer than {self.pattern_characters} characters.", param)
        try:
            return self.costs_ms.of_pattern(pattern)
        except UnreadPattern as unread:
            raise invalid(f"A regular expression {unread}.", param) from None


def _forces_tools(request: dict[str, Any]) -> bool:
    """Whether calls are held to the schemas of the tools; by the model's parser others may be, which the trial sees."""
    functions = [tool.get("function") for tool in request.get("tools") or () if isinstance(tool, dict)]
    strict = any(isinstance(function, dict) and function.get("strict") for function in functions)
    return strict or request.get("tool_choice") not in (None, "auto", "none")


def _code(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _patterns(node: dict[str, Any]) -> Iterator[object]:
    """The regular expressions of one object of a JSON schema."""
    if isinstance(node.get("patternProperties"), dict):
        yield from node["patternProperties"]
    if "pattern" in node:
        yield node["pattern"]


def _target(schema: object, reference: str) -> object:
    """What a `$ref` leads to, by the names in its path; None where there is nothing."""
    found = schema
    for part in filter(None, reference[1:].split("/")):
        if isinstance(found, dict):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and len(part) < 6 and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found
