"""Golden objects are kept as one base for each kind of object, and as what each case has otherwise.

A difference is a unified one without line numbers, so that an edit of the base leaves the cases' differences alone.
Base and difference give back the whole object, which is compared: nothing is left out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

GOLDEN = Path(__file__).parent
BASE = GOLDEN / "base"
CHART = "chart."
_RELEASE, _NAMESPACE = "conclave", "conclave-system"
SAME, OTHER = "as the base", "unlike the base"
CONTEXT_LINES = 1
_HEADER = re.compile(rf"(create|apply|delete|install|status)(?: (\S+?))?:(?: {SAME}| ({OTHER}))?")


class DifferenceError(ValueError):
    """A difference that does not belong to its base."""


class Item(NamedTuple):
    """One object of a case."""

    verb: str
    """create, apply or delete; install, of the chart's; or status."""
    role: str
    """Which base it has: its kind, and what of its name is not the deployment's. Example: NetworkPolicy.head.

    The chart's objects begin with `chart.`.
    """
    text: str
    """The whole object as YAML."""


def items(part: str, made: Mapping[str, Any], deployment: str) -> list[Item]:
    """Of what a case makes: its `objects` in their order, those of its `chart`, or its one `status`."""
    if part == "chart":
        return [Item("install", f"{CHART}{role_of(item, _RELEASE)}", text_of(item)) for item in made["install"]]
    if part == "status":
        return [Item("status", "", text_of(made))]
    return [
        Item(verb, role_of(item, deployment), text_of(item))
        for verb in ("create", "apply", "delete")
        for item in made[verb]
    ]


def role_of(item: Mapping[str, Any], deployment: str) -> str:
    """Kind and name, without the deployment's name and a hash at the end."""
    name = item["metadata"]["name"].removeprefix(f"{_NAMESPACE}:").removeprefix(deployment)
    return item["kind"] + re.sub(r"-[0-9a-f]{10}$", "", name)


def base_path(item: Item) -> Path:
    return BASE / f"{item.role or item.verb}.yaml"


def differences(made: Sequence[Item], bases: Mapping[Path, str]) -> str:
    """The text of a case's file."""
    return "".join(_difference_of(item, bases[base_path(item)]) for item in made)


def whole_items(difference: str, bases: Mapping[Path, str]) -> list[Item]:
    """The inverse: each object whole. Raises DifferenceError where a line is nowhere in the base."""
    found: list[Item] = []
    hunks: list[list[str]] = []
    is_alone = False
    for line in [*difference.splitlines(), ""]:
        if line.startswith("@@"):
            hunks.append([])
        elif line[:1] in (" ", "-", "+") and hunks:
            hunks[-1].append(line)
        else:
            if found:
                item = found[-1]
                base = "" if is_alone else bases[base_path(item)]
                found[-1] = item._replace(text=patched(base, hunks))
            hunks = []
            if not line:
                break
            header = _HEADER.fullmatch(line)
            if header is None:
                raise DifferenceError(f"line {line!r}: expected create, apply, delete or status, and a kind of object")
            found.append(Item(header[1], header[2] or "", ""))
            is_alone = bool(header[3])
    return found


def patched(base: str, hunks: Sequence[Sequence[str]]) -> str:
    """The text that the hunks make of the base; each belongs to the first place behind the one before where it fits."""
    lines, done, at = base.splitlines(), list[str](), 0
    for hunk in hunks:
        old = [line[1:] for line in hunk if line[0] != "+"]
        places = range(at, len(lines) - len(old) + 1)
        place = next((place for place in places if lines[place : place + len(old)] == old), None)
        if place is None:
            raise DifferenceError("\n".join(["not in the base:", *old, "run `make golden`, and read its difference"]))
        done += [*lines[at:place], *(line[1:] for line in hunk if line[0] != "-")]
        at = place + len(old)
    return "".join(f"{line}\n" for line in [*done, *lines[at:]])


def read_bases() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in sorted(BASE.glob("*.yaml"))}


def whole(case: Path, part: str) -> Any:
    """What the files say that a case makes, as data: objects by verb, or the `status`."""
    kept = whole_items((case / f"{part}.diff").read_text(encoding="utf-8"), read_bases())
    if part == "status":
        return yaml.safe_load(kept[0].text)
    verbs = ("install",) if part == "chart" else ("create", "apply", "delete")
    return {verb: [yaml.safe_load(item.text) for item in kept if item.verb == verb] for verb in verbs}


def _difference_of(item: Item, base: str) -> str:
    header = f"{item.verb} {item.role}".strip()
    if item.text == base:
        return f"{header}: {SAME}\n"
    for context in range(CONTEXT_LINES, len(base)):  # more where a place is not the first that fits
        hunks = list(_hunks(base.splitlines(), item.text.splitlines(), context))
        if patched(base, [lines for _, lines in hunks]) == item.text:
            break
    lines = [f"{header}:", *(line for heading, hunk in hunks for line in (heading, *hunk))]
    alone = [f"{header}: {OTHER}", "@@  @@", *(f"+{line}" for line in item.text.splitlines())]
    return "".join(f"{line}\n" for line in min(lines, alone, key=len))


def _hunks(old: list[str], new: list[str], context: int) -> Iterator[tuple[str, list[str]]]:
    """Each with a heading that says under which keys it stands."""
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(context):
        lines: list[str] = []
        for tag, begin, end, new_begin, new_end in group:
            if tag == "equal":
                lines += [f" {line}" for line in old[begin:end]]
            else:
                lines += [*(f"-{line}" for line in old[begin:end]), *(f"+{line}" for line in new[new_begin:new_end])]
        yield f"@@ {'.'.join(_keys_above(old, group[0][1]))} @@", lines


def _keys_above(lines: Sequence[str], index: int) -> list[str]:
    """The keys that a line of YAML stands under, outermost first."""
    if index >= len(lines):
        return []
    keys, indent = list[str](), _indent(lines[index])
    for line in reversed(lines[:index]):
        if _indent(line) < indent and line.rstrip("|").rstrip().endswith(":"):
            keys.append(line.strip().removeprefix("- ").rstrip("|").strip().rstrip(":"))
            indent = _indent(line)
    return keys[::-1]


def _indent(line: str) -> int:
    """Of its key: an item of a list stands deeper than its dash."""
    return len(line) - len(line.lstrip(" ").removeprefix("- "))


class _Readable(yaml.SafeDumper):
    """Text of many lines as a block, and no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


def text_of(made: object) -> str:
    return yaml.dump(made, Dumper=_Readable, sort_keys=True, width=118)
