"""JSON schemas and patterns at the edge: small ones that are dear to compile, and those that real clients send."""

from __future__ import annotations

import enum
import json
from contextlib import suppress
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from conclave_openai.errors import RequestError
from conclave_openai.limits.request import load_limits

LIMITS = load_limits()
CANARY = "canary-91c2"
OBJECT = "object"
COSTS = LIMITS.schema_.costs_ms


def check(schema: object, pattern: str | None = None) -> None:
    request: dict[str, Any] = {"structured_outputs": {"regex": pattern}} if pattern is not None else {}
    if schema is not None:
        request["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    LIMITS.schema_.check_request(request)


def refusal(schema: object, pattern: str | None = None) -> str:
    with pytest.raises(RequestError) as refused:
        check(schema, pattern)
    assert refused.value.status == 400
    return str(refused.value)


def names(count: int) -> dict[str, object]:
    return {f"p{i}": {} for i in range(count)}


UNREAD = {
    "spaces around a count": "a{ 20000 }",
    "a space before a count": "a{ 20000}",
    "a space after a count": "a{20000 }",
    "a space before a comma": "a{0 ,20000}",
    "a space after a comma": "a{0, 20000}",
    "a count at most only": "a{,20000}",
    "a range without end, with a space": "a{20000, }",
    "a group with an empty brace": "(?:ab){ }",
    "a group with spaces": "(?:a.){ 2000 }",
    "a tab in a brace": "a{\t20000}",
    "a no-break space in a brace": "a{\u00a020000}",
    "digits of another script": "a{\u0662\u0660}",
    "a brace of letters": "a{n}",
    "a brace first": "{20000}",
    "a brace after an alternative": "a|{20000}",
    "a brace in a group": "({20000})",
    "a count after an anchor": ".^{20000}",
    "a count after an end": ".${20000}",
    "a star after an anchor": ".^*",
    "a count of a count": "a{99}{99}{99}",
    "a count of a star": "a*{99}",
    "a star of a star": "a**",
    "a possessive plus": "a++",
    "a lazy count of a count": "a{9}?{9}",
    "a lazy option of a count": "a{9}??",
    "a class that begins with its end": "[]a{2000}]",
    "a class without end": "[a{2000}",
    "a name that is a quantifier": "(?<a{99}>.)",
}


@pytest.mark.parametrize("pattern", UNREAD.values(), ids=UNREAD)
@pytest.mark.parametrize("where", ["pattern", "patternProperties", "propertyNames", "regex", "tools"])
def test_a_pattern_that_the_estimate_may_misread_is_refused(pattern: str, where: str) -> None:
    schema: dict[str, object] | None = {
        "pattern": {"type": OBJECT, "properties": {"a": {"items": {"type": "string", "pattern": pattern}}}},
        "patternProperties": {"patternProperties": {pattern: {}}},
        "propertyNames": {"propertyNames": {"pattern": pattern}},
    }.get(where)
    if where == "tools":
        tool = {"type": "function", "function": {"name": "f", "parameters": {"pattern": pattern}}}
        with pytest.raises(RequestError) as refused:
            LIMITS.schema_.check_request({"tools": [tool], "tool_choice": "required"})
        said = str(refused.value)
    else:
        said = refusal(schema, pattern if where == "regex" else None)
    assert pattern not in said
    assert said.startswith("A regular expression ")


READ = {
    "a count": (r"a{3}", 3),
    "a range": (r"a{2,5}", 5),
    "a range without end": (r"a{3,}", 3),
    "a lazy count": (r"a{3}?", 3),
    "nested counts": (r"((a{3}){3}){3}", 27),
    "an escaped brace": (r"a\{3}", 4),
    "a brace in a class": (r"[{]", 1),
    "a closing brace": (r"a}", 2),
    "a code point in braces": (r"\u{61}{3}", 3),
    "a code point of four digits": (r"\u0061", 1),
    "a named group": (r"(?<year>a{3})", 3),
    "a named group of Python": (r"(?P<year>a{3})", 3),
    "a look-ahead": (r"(?=a{3})", 3),
    "a look-behind": (r"(?<!a{3})", 3),
    "a flag": (r"(?i)a{3}", 3),
    "a category": (r"\p{L}", 1),
    "a class that xgrammar ends at once": (r"[^]a{2000}]", 2000),
    "an empty group with a count": (r"(){3000}", 3000),
}


@pytest.mark.parametrize(("pattern", "parts"), READ.values(), ids=READ)
def test_a_pattern_costs_at_least_its_parts(pattern: str, parts: int) -> None:
    assert COSTS.of_pattern(pattern) >= 0.99 * parts * COSTS.pattern_literal


DEAR_PATTERNS = {
    "nested counts": "((((.{9}){9}){9}){9}){9}",
    "nested ranges without end": "((.{50,}){50,}){50,}",
    "counts in look-aheads": "(?=.{5000})a",
    "a wide class often": "[^a]{500}",
    "a category often": r"\p{L}{500}",
    "alternatives without number": "|".join(".." for _ in range(170)),
    "optional alternatives": "(a|b|c|d|e|f|g|h)?" * 28,
    "a count of 40 digits": "a{" + "9" * 40 + "}",
}


@pytest.mark.parametrize("pattern", DEAR_PATTERNS.values(), ids=DEAR_PATTERNS)
def test_a_dear_pattern_is_refused_with_its_cost(pattern: str) -> None:
    assert "ms of CPU" in refusal(None, pattern)
    assert "ms of CPU" in refusal({"properties": {"a": {"pattern": pattern}}})


REFUSED = {
    "one type 250 times": ({"type": [OBJECT] * 250, "properties": names(50)}, "'type'"),
    "one type twice": ({"type": ["string", "null", "string"]}, "'type' has a value twice"),
    "a type twice, deep": ({"items": {"anyOf": [{"not": {"type": [OBJECT, OBJECT]}}]}}, "'type'"),
    "a type twice in a definition": ({"definitions": {"a": {"type": ["null", "null"]}}}, "'type'"),
    "eight types": ({"type": list("abcdefgh")}, "'type' has more than 7"),
    "a required name twice": ({"required": ["a", "a"]}, "'required'"),
    "an enum value twice": ({"enum": [1, 2, 1]}, "'enum'"),
    "an enum object twice": ({"enum": [{"a": 1}, {"a": 1}]}, "'enum'"),
    "1001 enum values": ({"enum": list(range(1001))}, "'enum'"),
    "1001 definitions of old": ({"definitions": names(1001)}, "'definitions'"),
    "251 alternatives": ({"anyOf": [{}] * 251}, "'anyOf'"),
    "251 of which one": ({"oneOf": [{}] * 251}, "'oneOf'"),
    "251 that all hold": ({"allOf": [{}] * 251}, "'allOf'"),
    "251 first items": ({"prefixItems": [{}] * 251}, "'prefixItems'"),
    "an unknown keyword": ({CANARY: 1}, "keyword"),
    "an unknown keyword, deep": ({"properties": {"a": {"items": [{"additionalProperties": {CANARY: 1}}]}}}, "keyword"),
    "a dynamic reference": ({"$dynamicRef": "#a"}, "keyword"),
    "a recursive reference": ({"$recursiveRef": "#"}, "keyword"),
    "a reference to an example": ({"examples": [{"pattern": "a{9000}"}], "$ref": "#/examples/0"}, "no schema"),
    "a reference to a default": ({"default": {"a": {}}, "items": {"$ref": "#/default/a"}}, "no schema"),
    "a reference to an ignored keyword": ({"x-a": {"type": OBJECT}, "$ref": "#/x-a"}, "no schema"),
    "a reference to names": ({"properties": {"a": {}}, "$ref": "#/properties"}, "no schema"),
    "a reference with an escape": ({"x-a/b": {}, "$ref": "#/x-a~1b"}, "'$ref'"),
    "a reference with a per cent sign": ({"x-a": {}, "$ref": "#/x%2Da"}, "'$ref'"),
    "a reference that is no string": ({"$ref": {}}, "'$ref'"),
    "a reference to another host": ({"$ref": "http://169.254.169.254/x"}, "'$ref'"),
    "a pattern that is no string": ({"pattern": ["a"]}, "must be a string"),
    "an annotation of 40 levels": ({"default": json.loads("[" * 40 + "]" * 40)}, "deeper"),
}


@pytest.mark.parametrize(("schema", "said"), REFUSED.values(), ids=REFUSED)
def test_a_schema_that_multiplies_or_hides_work_is_refused(schema: object, said: str) -> None:
    message = refusal(schema)
    assert said in message
    assert CANARY not in message


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_two_constraints_on_one_answer_are_refused_before_vllm_repeats_both(kind: str) -> None:
    described = {"json_schema": {"name": "x", "schema": {"type": OBJECT}}} if kind == "json_schema" else {}
    request = {"response_format": {"type": kind, **described}, "structured_outputs": {"regex": CANARY}}
    with pytest.raises(RequestError) as refused:
        LIMITS.schema_.check_request(request)
    assert (refused.value.status, refused.value.param) == (400, "structured_outputs")
    LIMITS.schema_.check_request({**request, "response_format": {"type": "text"}})
    LIMITS.schema_.check_request({**request, "response_format": None})


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Leaf(BaseModel):
    kind: Literal["leaf"] = "leaf"
    weight: Annotated[float, Field(ge=0, le=10, description="in kilograms")]
    tags: set[str] = set()
    pair: tuple[int, str] = (1, "a")


class Node(BaseModel):
    """A tree, as pydantic describes it: definitions, a discriminator, recursion, constants and defaults."""

    kind: Literal["node"] = "node"
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$", examples=["root"])]
    colour: Colour | None = None
    children: list[Annotated[Leaf | Node, Field(discriminator="kind")]] = []
    extra: dict[str, int] = Field(default={}, deprecated=True)


@pytest.mark.parametrize("key", ["additionalProperties", "unevaluatedProperties"])
@pytest.mark.parametrize("value", [True, {}, {"type": "string"}], ids=repr)
def test_an_open_object_costs_by_the_beginnings_of_its_names(key: str, value: object) -> None:
    few, many = ({"type": OBJECT, "properties": {f"name{i}": {} for i in range(n)}, key: value} for n in (10, 400))
    check(few)
    assert "ms of CPU" in refusal(many)
    check({**many, key: False})
    tool = {"type": "function", "function": {"name": "f", "parameters": many}}
    LIMITS.schema_.check_request({"tools": [tool], "tool_choice": "auto"})
    for forced in (
        {"tool_choice": "required"},
        {"tools": [{**tool, "function": {**tool["function"], "strict": True}}]},
    ):
        with pytest.raises(RequestError):
            LIMITS.schema_.check_request({"tools": [tool], **forced})


TAKEN: dict[str, object] = {
    "pydantic's": Node.model_json_schema(),
    "pydantic's for answers": Node.model_json_schema(mode="serialization"),
    "zod's": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": OBJECT,
        "properties": {
            "user": {"type": OBJECT, "properties": {"name": {"type": "string", "minLength": 1}}},
            "author": {"$ref": "#/properties/user"},
            "when": {"type": "string", "format": "date-time"},
            "either": {"anyOf": [{"type": "string"}, {"not": {}}]},
            "type": {"type": "string", "const": "a"},
            "pattern": {"type": ["string", "null"], "default": None},
        },
        "required": ["user"],
        "additionalProperties": False,
    },
    "a tool of the Model Context Protocol": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.org/tool",
        "title": "read_file",
        "type": OBJECT,
        "properties": {"path": {"type": "string", "title": "Path", "x-order": 1}, "limit": {"type": "integer"}},
        "required": ["path"],
        "x-google-enum-descriptions": ["a"],
        "$comment": "generated",
    },
    "OpenAPI's": {
        "type": OBJECT,
        "nullable": True,
        "example": {"id": 1},
        "properties": {"id": {"type": "integer", "format": "int64", "readOnly": True, "xml": {"name": "id"}}},
        "externalDocs": {"url": "https://example.org"},
    },
    "conditions": {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": True},
    "old tuples": {"type": "array", "items": [{"type": "string"}, {"type": "number"}], "additionalItems": False},
    "a reference that leads nowhere, which the engine judges": {"$ref": "#/$defs/missing"},
    "a type of its own, which the engine judges": {"type": "any"},
    "true": True,
    "a look-ahead in a tool's pattern": {"pattern": r"^(?!\s*$).+"},
}


@pytest.mark.parametrize("schema", TAKEN.values(), ids=TAKEN)
def test_what_libraries_write_is_taken(schema: object) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    LIMITS.schema_.check_request({"tools": [tool]})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    [*sorted(LIMITS.schema_.keywords.schemas | LIMITS.schema_.keywords.values), "properties", "x-a"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_a_schema_of_any_shape_is_judged_without_a_fault(schema: object) -> None:
    with suppress(RequestError):
        check({"type": OBJECT, "properties": {"a": schema}})
