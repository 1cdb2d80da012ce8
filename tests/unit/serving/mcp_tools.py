"""A tool set in the shape of a code forge's MCP server: ninety tools, long descriptions, bodies of 65,536 characters.

Written for these tests. The largest real set of the kind has 113 tools in 117 kB, with the same keywords.
"""

from __future__ import annotations

from typing import Any

_OWNER = {"owner": {"type": "string", "description": "Account that owns the repository; not its display name."}}
_REPOSITORY = {**_OWNER, "repo": {"type": "string", "description": "Name of the repository, without the owner."}}
_PAGE = {
    "page": {"type": "number", "description": "Page of the results, from 1.", "minimum": 1},
    "perPage": {"type": "number", "description": "Results on a page.", "minimum": 1, "maximum": 100},
    "after": {"type": "string", "description": "Cursor of the page before, for lists that are walked by cursor."},
}
_NUMBER = {"number": {"type": "number", "description": "Number within the repository."}}
_TEXT = {
    "title": {"type": "string", "maxLength": 255, "minLength": 1, "description": "One line, plain text."},
    "body": {"type": "string", "maxLength": 65536, "description": "Markdown. Mentions notify people; use few."},
}
_LABELS = {
    "labels": {
        "type": "array",
        "items": {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"name": {"type": "string"}}}]},
        "description": "Labels that exist already.",
    },
    "state": {"type": "string", "enum": ["open", "closed", "all"], "default": "open"},
}
_FILES = {
    "branch": {"type": "string", "description": "Branch that gets the commit."},
    "files": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "path": {"type": "string", "description": "Path from the root of the repository."},
                "content": {"type": "string", "maxLength": 1048576},
                "encoding": {"oneOf": [{"const": "utf-8"}, {"const": "base64"}]},
            },
            "required": ["path", "content"],
        },
    },
    "message": {"type": "string", "maxLength": 65536},
}
_RULES = {
    "rules": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "parameters": {"type": "object", "additionalProperties": True},
                "pattern": {"type": "string", "pattern": r"^(?=.{1,200}$)[\w./{}*-]+$", "format": "regex"},
            },
        },
    },
    "enforcement": {"enum": ["disabled", "active", "evaluate"], "x-order": 2, "optional": True},
}
_SUBJECTS: dict[str, dict[str, Any]] = {
    "issue": {**_REPOSITORY, **_NUMBER, **_TEXT, **_LABELS},
    "pull_request": {**_REPOSITORY, **_NUMBER, **_TEXT, **_LABELS, "draft": {"type": "boolean", "default": False}},
    "review": {**_REPOSITORY, **_NUMBER, **_TEXT, "event": {"enum": ["APPROVE", "REQUEST_CHANGES", "COMMENT"]}},
    "comment": {**_REPOSITORY, **_NUMBER, "body": _TEXT["body"]},
    "discussion": {**_REPOSITORY, **_NUMBER, **_TEXT, "category": {"type": ["string", "null"]}},
    "commit": {**_REPOSITORY, **_FILES},
    "release": {**_REPOSITORY, **_TEXT, "tag": {"type": "string", "pattern": "^v?[0-9]+(\\.[0-9]+)*"}},
    "ruleset": {**_REPOSITORY, **_RULES},
    "workflow_run": {**_REPOSITORY, "inputs": {"type": "object", "additionalProperties": {"type": "string"}}},
    "code_scanning_alert": {**_REPOSITORY, **_NUMBER, "severity": {"enum": ["low", "medium", "high", "critical"]}},
    "advisory": {**_OWNER, "id": {"type": "string", "format": "uri"}, **_TEXT},
    "project_item": {**_OWNER, **_NUMBER, "fields": {"type": "array", "items": {"$ref": "#/$defs/field"}}},
    "gist": {"files": _FILES["files"], "public": {"type": "boolean"}},
    "notification": {"since": {"type": "string", "format": "date-time"}, **_PAGE},
    "organization": {"query": {"type": "string", "minLength": 1, "maxLength": 256}, **_PAGE},
}
_VERBS = ("list", "get", "create", "update", "delete", "search")
_ADVICE = (
    " Ask for as few results as the task needs, because each one takes room in the conversation. Prefer the narrowest"
    " tool. If the answer says that there are more pages, go on with the cursor that it names. Never guess a number:"
    " look for it first. What this changes is seen by other people at once, and cannot always be taken back. If a call"
    " is refused for want of rights, tell the user which right is missing, and do not try another tool for the same."
)


def mcp_tools() -> list[dict[str, Any]]:
    """Ninety tools, as a client of MCP hands them on."""
    return [
        {
            "type": "function",
            "function": {
                "name": f"forge__{verb}_{subject}",
                "description": f"{verb.capitalize()} one {subject.replace('_', ' ')} or several.{_ADVICE}",
                "parameters": {
                    "$schema": "https://json-schema.org/draft/2020-12/schema",
                    "type": "object",
                    "properties": {**properties, **(_PAGE if verb in ("list", "search") else {})},
                    "required": [name for name in ("owner", "repo") if name in properties],
                    "additionalProperties": False,
                    "$defs": {"field": {"type": "object", "properties": {"value": {}}}},
                },
            },
        }
        for subject, properties in _SUBJECTS.items()
        for verb in _VERBS
    ]
