"""The API server and Python find the same problems in 3,080 generated objects and updates: verdict, place and message.

Every rule of the CRD must have been held and broken several times. Everything is sent as a dry run.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import pytest
from tests.eventually import eventually
from tests.generated_manifests import SCHEMA as CRD_SCHEMA
from tests.generated_manifests import Manifests, places
from tests.integration.testbed.helm import CRDS
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.requests import Answer, send
from tests.manifest_table import BASE, merge

from conclave.api.formats import DNS_1035
from conclave.api.modeldeployment import API_VERSION, KIND, ModelDeployment
from conclave.api.occurrences import find_occurrences, without_checks
from conclave.api.rules import EntryRule, Rule
from conclave.policy.admission import Problem, read_deployment, value_at
from conclave.policy.arguments import admission_rules

PATH = "/apis/conclave.dev/v1alpha1/namespaces/default/modeldeployments"
NEW_OBJECTS = 2600
UPDATES = 480
LEAST = 3
"""How often at least each rule is held, and how often it is broken."""
WORKERS = 8

UNCHECKED = "some validation rules were not checked"
"""What the API server says beside a wrong type, a missing field, a choice that is none or a value that is too long: it
has then evaluated no rule. Python says more at once."""
NOT_OURS = (
    "accessor error",
    "must be an object for an array of list-type map",
    "Checked value must be of type integer with format int64",
    "should be a non-negative integer",
)
"""What the API server says a second time about a value of the wrong type, and about the scale's number of replicas."""
SCHEMA = ("Invalid value: ", "Unsupported value: ", "Required value", "Too long: ", "Too many: ", "Duplicate value: ")
"""How a message of the schema begins; a message of a rule begins otherwise."""


_REPEATED = re.compile(r'(Invalid value: (("([^"\\]|\\.)*"|-?[0-9]+): )?)?')
"""What the API server says before a rule's sentence: the value, unless it is an object or the rule lists entries."""


class Compared(NamedTuple):
    """One request, what the server said and what Python says."""

    manifest: dict[str, Any]
    before: ModelDeployment | None
    """What an update replaces."""
    answer: Answer
    problems: tuple[Problem, ...]


@pytest.fixture(scope="module")
def compared(kube: Kube) -> Iterator[list[Compared]]:
    """All requests with their answers, in a fixed order."""
    kube.install_crds(*CRDS.glob("*.yaml"))
    stored = {name: _store(kube, name, change) for name, change in STORED.items()}
    manifests = Manifests(seed=13)
    new = list(islice(manifests, NEW_OBJECTS))
    names = [name for name in STORED for _ in range(UPDATES // len(STORED))]
    updates = [manifests.manifest(name) for name in names]
    with ThreadPoolExecutor(WORKERS) as pool:
        created = pool.map(lambda manifest: _create(kube, manifest), new)
        updated = pool.map(lambda manifest: _update(kube, manifest, stored[manifest["metadata"]["name"]]), updates)
        yield [*created, *updated]
    for name in STORED:
        kube.delete(API_VERSION, KIND, name, "default")


MAPS = {path for path, field in places(CRD_SCHEMA) if "additionalProperties" in field}
STORED: dict[str, dict[str, Any]] = {
    "unnamed": {},
    "named": {"spec": {"model": {"servedName": "chat"}}},
    "named-after-itself": {"spec": {"model": {"servedName": "named-after-itself"}}},
}


def _store(kube: Kube, name: str, change: Mapping[str, Any]) -> dict[str, Any]:
    manifest = merge(merge(BASE, change), {"metadata": {"name": name}})
    eventually(lambda: send(kube, "POST", PATH, "application/json", manifest).status in (201, 409))  # once it is served
    return send(kube, "GET", f"{PATH}/{name}", "application/json", None).body


def _create(kube: Kube, manifest: dict[str, Any]) -> Compared:
    answer = send(kube, "POST", f"{PATH}?dryRun=All&fieldValidation=Strict", "application/json", manifest)
    return Compared(manifest, None, answer, read_deployment(manifest)[1])


def _update(kube: Kube, manifest: dict[str, Any], stored: Mapping[str, Any]) -> Compared:
    metadata = {**manifest["metadata"], "resourceVersion": stored["metadata"]["resourceVersion"]}
    body = {**manifest, "metadata": metadata}
    path = f"{PATH}/{metadata['name']}?dryRun=All&fieldValidation=Strict"
    answer = send(kube, "PUT", path, "application/json", body)
    before = ModelDeployment.model_validate(stored)
    return Compared(manifest, before, answer, read_deployment(body, before)[1])


def test_both_come_to_the_same_verdict(compared: list[Compared]) -> None:
    answers = Counter(each.answer.status for each in compared)
    assert [each for each in compared if (each.answer.status >= 400) != bool(each.problems)] == []
    assert answers.keys() <= {200, 201, 400, 422}
    assert min(answers[200], answers[201], answers[422]) >= 30  # of updates taken, objects taken, refusals


def test_the_server_says_nothing_that_python_does_not_say(compared: list[Compared]) -> None:
    unsaid = [
        (field, sentence, each.problems)
        for each in compared
        for field, sentence in _said(each.answer)
        if not any(_is_same(problem, field, sentence) for problem in each.problems)
        if not (sentence.startswith(("Too many: ", "Duplicate value: ")) and _is_broken_inside(field, each.problems))
    ]
    assert unsaid == []


def test_python_says_nothing_that_the_server_does_not_say(compared: list[Compared]) -> None:
    unsaid = [
        (str(problem), each.answer.message)
        for each in compared
        for problem in each.problems
        if _was_looked_at(problem, each.answer)
        if not any(_is_same(problem, field, sentence) for field, sentence in _said(each.answer))
    ]
    assert unsaid == []


def test_every_rule_of_the_crd_was_held_and_broken(compared: list[Compared]) -> None:
    held, broken = Counter[str](), Counter[str]()
    for each in compared:
        for label, is_broken in _rules_applied(each):
            (broken if is_broken else held)[label] += 1
    rules = {
        _label(path, item["rule"])
        for path, field in places(CRD_SCHEMA)
        if path[:1] != ("status",)
        for item in field.get("x-kubernetes-validations", [])
    }
    assert len(rules) > 60
    assert {rule: (held[rule], broken[rule]) for rule in rules if min(held[rule], broken[rule]) < LEAST} == {}


def _said(answer: Answer) -> list[tuple[str, str]]:
    """Field and sentence of each problem that the API server names; a rule of entries lists several sentences."""
    if answer.status == 400:
        return [(field, "field not declared") for field in re.findall(r'unknown field "([^"]+)"', answer.message)]
    found = []
    for cause in answer.body.get("details", {}).get("causes", []) if answer.status == 422 else []:
        field, message = cause["field"].replace("<nil>", ""), cause["message"]
        if UNCHECKED in message or any(words in message for words in NOT_OURS):
            continue
        is_list = message.startswith('Invalid value: ["') and message.endswith('"]')
        sentences = ast.literal_eval(message.removeprefix("Invalid value: ")) if is_list else [message]
        found += [(field, sentence) for sentence in sentences]
    return found


def _is_same(problem: Problem, field: str, sentence: str) -> bool:
    """The API server repeats the value before a rule's sentence, and has the rule of metadata.name at the object."""
    if problem.message.startswith("field not declared"):
        return (problem.field, "field not declared") == (field, sentence)
    if problem.field == "metadata.name":
        return field == "" and sentence == f"Invalid value: metadata.name {problem.message}"
    if problem.message.startswith("Required value"):  # Python adds the field's meaning
        return _is_at(problem, field) and sentence == "Required value"
    before = sentence.removesuffix(problem.message)
    return _is_at(problem, field) and before != sentence and _REPEATED.fullmatch(before) is not None


def _is_at(problem: Problem, field: str) -> bool:
    """The API server writes map[key], names the map where Python names the entry, and the entry that is a duplicate."""
    found = tuple(step for step in re.split(r"[.\[\]]+", field) if step)
    own = tuple(step for step in re.split(r"[.\[\]]+", problem.field) if step)
    if found == own:
        return True
    is_entry = problem.path[:2] == ("spec", "engine") and len(problem.path) == 4 and own[:3] == found
    is_duplicate = problem.message.startswith("Duplicate value") and found[:-1] == own
    return is_entry or is_duplicate


def _is_broken_inside(field: str, problems: tuple[Problem, ...]) -> bool:
    """pydantic counts a list, and compares its items, when all items are right."""
    return any(problem.field.startswith(f"{field.partition('[')[0]}[") for problem in problems)


def _was_looked_at(problem: Problem, answer: Answer) -> bool:
    if answer.status == 400:
        return problem.message.startswith("field not declared")
    return problem.message.startswith(SCHEMA) or UNCHECKED not in answer.message


def _rules_applied(each: Compared) -> Iterator[tuple[str, bool]]:
    """Every rule that both sides have evaluated, and whether it was broken."""
    if each.answer.status == 400 or UNCHECKED in each.answer.message:
        return
    deployment = without_checks(ModelDeployment, each.manifest)
    for found in find_occurrences(deployment):
        if isinstance(found.rule, Rule | EntryRule):
            yield _label(found.path, str(found.rule.cel()["rule"])), bool(found.messages)
    name = DNS_1035.field_rule("metadata.name")["rule"]
    yield _label((), str(name)), not DNS_1035.matches(each.manifest["metadata"]["name"])
    for path, rules in admission_rules().items():
        value = each.manifest["spec"].get("engine", {}).get(path[-1], {})
        yield from ((_label(path, str(rule.cel()["rule"])), bool(rule.violations(value))) for rule in rules)
    for path, changes in ModelDeployment.change_rules.items():
        for change in changes:
            was, is_ = (value_at(path, before) for before in (each.before, deployment))
            yield _label(path, str(change.cel()["rule"])), bool(change.violations(was, is_))


def _label(path: Iterable[str | int], rule: str) -> str:
    """Path and rule; * stands for each item of a list and each value of a map."""
    steps = tuple("*" if isinstance(step, int) else step for step in path)
    if steps[:-1] in MAPS:
        steps = (*steps[:-1], "*")
    return f"{'.'.join(steps)}: {rule}"
