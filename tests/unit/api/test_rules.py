"""A rule says the same in CEL and in Python, from one declaration."""

from __future__ import annotations

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from conclave.api import formats
from conclave.api.base import ApiModel
from conclave.api.occurrences import find_occurrences, without_checks
from conclave.api.plan import Plan, PlanMemory
from conclave.api.rules import EntryRule, Format, Message, NeverChanges, OnlyNewValues, Rule, cel_literal


class Inner(ApiModel):
    size: Annotated[int, Field(ge=0)] | None = None


class Outer(ApiModel):
    rules = (
        Rule(
            "self.most <= 4",
            lambda outer: outer.most <= 4,
            Message("100% of most {most} and inner {inner.size|none} isn't allowed"),
        ),
    )
    most: int
    inner: Inner = Inner()


MESSAGES = {
    "no field": ("plain", "'plain'"),
    "a field": ("most {most}", "'most %s'.format([string(self.most)])"),
    "a field that may be unset": (
        "size {inner.size|1}",
        "'size %s'.format([(has(self.inner.size) ? string(self.inner.size) : '1')])",
    ),
    "the value itself": ('"{self}" is wrong', "'\"%s\" is wrong'.format([string(self)])"),
    "an entry of a map": ("{extraArgs.max_num_seqs}", "'%s'.format([string(self.extraArgs.max_num_seqs)])"),
    "a percent sign and a quote": ("{most}% isn't", "'%s%% isn\\'t'.format([string(self.most)])"),
}


@pytest.mark.parametrize(("template", "cel"), MESSAGES.values(), ids=MESSAGES)
def test_a_message_as_cel(template: str, cel: str) -> None:
    assert Message(template).cel() == cel


def test_a_broken_rule_is_told_with_the_values_seen() -> None:
    with pytest.raises(ValidationError, match=r"100% of most 5 and inner none isn't allowed"):
        Outer(most=5)
    with pytest.raises(ValidationError, match=r"most 6 and inner 2 isn't"):
        Outer.model_validate({"most": 6, "inner": {"size": 2}})
    assert Outer(most=4).most == 4


TOLD = {
    "the value fits in": ("a b", '"a b" is wrong'),
    "the value has a line break": ("a\nb", '"…" is wrong'),
    "the sentence is longer than the API server says": ("é" * 2560, '"…" is wrong'),
    "the sentence is as long as the API server says": ("é" * 2554, f'"{"é" * 2554}" is wrong'),
}


@pytest.mark.parametrize(("value", "sentence"), TOLD.values(), ids=TOLD)
def test_a_message_leaves_out_a_value_where_the_api_server_does(value: str, sentence: str) -> None:
    rule = Rule("false", lambda _: False, Message('"{self}" is wrong'))
    assert rule.violations(value) == [sentence]


def test_a_value_that_never_changes() -> None:
    rule = NeverChanges("{object}.name", lambda thing: thing["name"], "it is {before} and cannot become {after}")
    assert rule.violations(None, {"name": "a"}) == rule.violations({"name": "a"}, {"name": "a"}) == []
    assert rule.violations({"name": "a"}, {"name": "b"}) == ["it is a and cannot become b"]
    assert rule.cel() == {
        "rule": "self.name == oldSelf.name",
        "message": "it is … and cannot become …",
        "messageExpression": "'it is %s and cannot become %s'.format([oldSelf.name, self.name])",
    }


def test_a_rule_of_new_values_leaves_a_stored_one_alone() -> None:
    rule = OnlyNewValues(Rule("self != 0", lambda value: value != 0, Message("it is 0")))
    assert rule.violations(None, 1) == rule.violations(0, 0) == rule.violations(0, 1) == []
    assert rule.violations(None, 0) == rule.violations(1, 0) == ["it is 0"]
    assert rule.cel() == {
        "rule": "self != 0 || (oldSelf.hasValue() && oldSelf.value() == self)",
        "optionalOldSelf": True,
        "message": "it is 0",
    }


class Holder(ApiModel):
    spelled: formats.ServedName | None = None
    labels: formats.NodeSelector = Field(default_factory=dict)
    others: tuple[Outer, ...] = ()


def test_rules_are_found_in_a_document_whatever_else_is_wrong_with_it() -> None:
    holder = without_checks(
        Holder, {"spelled": "a b", "labels": {"a b": "c", "d": "e f"}, "others": [{"most": 9, "inner": {"size": -1}}]}
    )
    broken = {found.path: found.messages for found in find_occurrences(holder) if found.messages}
    assert set(broken) == {("spelled",), ("labels",), ("labels", "d"), ("others", 0)}
    assert broken["others", 0] == ["100% of most 9 and inner -1 isn't allowed"]
    held = [found.path for found in find_occurrences(Holder(spelled="a", labels={"b": "c"}, others=(Outer(most=1),)))]
    assert held == [("spelled",), ("labels",), ("labels", "b"), ("others", 0)]


def test_the_rules_of_a_type_are_in_its_schema() -> None:
    assert Outer.model_json_schema()["x-kubernetes-validations"] == [Outer.rules[0].cel()]


def test_an_entry_rule_names_every_entry_that_breaks_it() -> None:
    rule = EntryRule(
        "key == 'a'", lambda key, _: key == "a", "{key} is {value}: {why}", "only a", {"why": ("'b'", str)}
    )
    assert rule.violations({"a": "1"}) == []
    assert rule.violations({"c": "1", "b": "2"}) == ["b is 2: b", "c is 1: c"]
    assert rule.cel() == {
        "rule": "self.all(key, key == 'a')",
        "message": "only a",
        "messageExpression": "'%s'.format([self.filter(key, !(key == 'a')).map(key, "
        "'%s is %s: %s'.format([key, self[key], 'b']))])",
    }


LITERALS = {
    "a quote": ("it's", "'it\\'s'"),
    "a backslash": ("a\\.b", "'a\\\\.b'"),
    "numbers": ([1, 2], "[1, 2]"),
    "a map": ({"a": [0.1, 1.0]}, "{'a': [0.1, 1.0]}"),
}


@pytest.mark.parametrize(("value", "cel"), LITERALS.values(), ids=LITERALS)
def test_a_cel_literal(value: object, cel: str) -> None:
    assert cel_literal(value) == cel  # type: ignore[arg-type]


FORMATS = {
    "a commit": (formats.CommitHash, ["0" * 40], ["0" * 39, "0" * 41, "G" * 40, "0" * 40 + "\n"]),
    "a path": (formats.RelativePath, ["", "a", "a/b.c", ".cache/x", "..x"], ["..", "a/..", "/", "a/", "a\\b", "a\0"]),
    "a quantity": (
        formats.Quantity,
        ["1", "1.5", "500m", "64Gi"],
        ["", "-1", "+1", "1e3", "1 Gi", "Inf", "NaN", "1gi"],
    ),
    "an image": (
        formats.ImageReference,
        ["vllm", "a.b:5000/c/d:tag", f"x/y@sha256:{'a' * 64}"],
        ["", "a b", "A/b:", "a/b@sha256:1", "-a", "a/../b"],
    ),
    "a label value": (formats.LabelValue, ["", "a", "A.b_c-1"], ["-a", "a-", "a b", "é"]),
    "a label key": (formats.LabelKey, ["a", "a.b/c", "nvidia.com/gpu.product"], ["", "/a", "a/", "a/b/c", "A.b/c"]),
    "a served name": (formats.ServedName, ["a", "org/model-1.5"], ["", "/a", "a//b", "a/../b", " a", ".a"]),
    "a namespace": (formats.NamespaceName, ["a", "0-a"], ["", "A", "a.b", "a-"]),
    "a name": (formats.Dns1035Name, ["a", "a" * 40], ["", "a" * 41, "1a", "A", "a_b", "a-"]),
    "a target": (formats.TargetConcurrency, ["auto", 1, 100_000], ["Auto", "1", 0, 100_001, True, 1.5, None]),
}


@pytest.mark.parametrize(("kind", "good", "bad"), FORMATS.values(), ids=FORMATS)
def test_a_format_takes_and_refuses(kind: type, good: list[object], bad: list[object]) -> None:
    adapter = TypeAdapter(kind)
    assert [adapter.validate_python(value) for value in good] == good
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


@given(st.text(max_size=60))
def test_no_accepted_path_leaves_its_root(text: str) -> None:
    path: Format = formats.RelativePath.__metadata__[1]  # type: ignore[attr-defined]
    if path.matches(text):
        assert not text.startswith("/")
        assert ".." not in text.split("/")


@pytest.mark.parametrize(
    ("sizes", "word"),
    [
        ({"tensor": 8, "pipeline": 1}, "TP=8"),
        ({"tensor": 8, "pipeline": 2, "expert_parallel": True}, "TP=8 PP=2 EP"),
        ({"tensor": 1, "pipeline": 1, "data": 4}, "TP=1 DP=4"),
    ],
    ids=["tensor only", "tensor, pipeline and experts", "data"],
)
def test_a_plan_says_its_sizes_in_one_word(sizes: dict[str, int], word: str) -> None:
    memory = PlanMemory(total=1, weights=0, kv_cache=0, activations=0, graphs=0, overhead=0, free=1)
    plan = Plan.model_validate(
        {
            "accelerator": "cpu",
            **sizes,
            "gpus_per_replica": 1,
            "nodes_per_replica": 1,
            "gpus_per_node": 1,
            "max_model_len": 1,
            "longest_context_tokens": 1,
            "kv_cache_tokens": 1,
            "max_concurrency": 1,
            "memory": memory,
        }
    )
    assert plan.parallelism == word
    assert Plan.model_validate(plan.to_wire()) == plan
