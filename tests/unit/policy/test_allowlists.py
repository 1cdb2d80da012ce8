"""The allowlists: what passes, with its type; what never does, in whatever spelling; and that vLLM knows the names."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conclave.errors import InvalidInput
from conclave.policy.arguments import (
    Allowlist,
    Choice,
    engine_argument_list,
    engine_arguments,
    environment_list,
    spelling,
)

LISTS = {"extraArgs": engine_argument_list(), "env": environment_list()}

TYPED = {
    "a whole number": ("max_num_seqs", "256", 256),
    "a decimal": ("gpu_memory_utilization", "0.85", 0.85),
    "a decimal without a point": ("gpu_memory_utilization", "0.9", 0.9),
    "true": ("enforce_eager", "true", True),
    "false": ("enforce_eager", "false", False),
    "the one value of a boolean": ("enable_chunked_prefill", "true", True),
    "a word": ("tool_call_parser", "hermes", "hermes"),
    "a number that is a choice": ("block_size", "32", 32),
}


@pytest.mark.parametrize(("name", "value", "typed"), TYPED.values(), ids=TYPED)
def test_an_allowed_argument_gets_its_type(name: str, value: str, typed: object) -> None:
    found = engine_arguments({name: value})[name]
    assert found == typed
    assert type(found) is type(typed)


def test_all_refused_arguments_are_named_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"host is refused.*seed is '-1'"):
        engine_arguments({"host": "x", "seed": "-1", "enforce_eager": "true"})


VALUES = {
    "an empty number": ("seed", ""),
    "a sign": ("seed", "+1"),
    "leading zeros": ("seed", "007"),
    "digits of another script": ("seed", "٣"),
    "a line break": ("seed", "1\n"),
    "a decimal for a whole number": ("seed", "1.0"),
    "infinity": ("gpu_memory_utilization", "inf"),
    "an exponent": ("gpu_memory_utilization", "9e-1"),
    "a capital": ("enforce_eager", "True"),
    "the other value of a boolean": ("enable_chunked_prefill", "false"),
    "an unlisted choice": ("attention_backend", "CUSTOM"),
    "a list of choices": ("tool_call_parser", "hermes,mistral"),
    "a path for a choice": ("generation_config", "/weights/other"),
}


@pytest.mark.parametrize(("name", "value"), VALUES.values(), ids=VALUES)
def test_a_value_of_another_type_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        engine_arguments({name: value})


def test_a_parser_of_the_catalogue_can_be_turned_off() -> None:
    off = {"tool_call_parser": "none", "reasoning_parser": "none"}
    assert engine_arguments(off) == dict.fromkeys(off)
    with pytest.raises(InvalidInput, match="expected one of"):
        engine_arguments({"generation_config": "none"})


REFUSED = [(allowlist, name) for allowlist in LISTS.values() for name in (*allowlist.denied, *allowlist.owned)]
dressings = st.sampled_from(["{}", "-{}", "--{}", "{}=", "{}=true", "--{}=1", "{}_", "_{}", "{}-"])
cases = st.sampled_from([str, str.upper, str.lower, str.title, lambda name: name.replace("_", "-")])


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


@given(which=st.sampled_from(REFUSED), dressing=dressings, case=cases, camel=st.booleans())
def test_a_refused_name_is_refused_in_any_spelling_with_its_reason(
    which: tuple[Allowlist, str], dressing: str, case: type[str], camel: bool
) -> None:
    allowlist, name = which
    disguised = dressing.format(case(_camel(name) if camel else name))
    (problem,) = allowlist.problems({disguised: "1"})
    assert problem == f"{disguised} is refused: {allowlist.reason(name)}"


@given(name=st.text(max_size=64))
def test_only_the_exact_names_pass(name: str) -> None:
    for allowlist in LISTS.values():
        assert bool(allowlist.problems({name: "1"})) or name in allowlist.allowed


@pytest.mark.parametrize("allowlist", LISTS.values(), ids=LISTS)
def test_no_name_stands_in_two_lists(allowlist: Allowlist) -> None:
    names = [*map(spelling, allowlist.allowed), *map(spelling, allowlist.owned), *map(spelling, allowlist.denied)]
    assert sorted(names) == sorted(set(names))


def _vllm() -> Path:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed here")
    return Path(found.origin).parent


def _fields(file: Path, *classes: str) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        statement.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in classes
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def _vllm_arguments() -> set[str]:
    arguments = _fields(_vllm() / "engine" / "arg_utils.py", "EngineArgs", "AsyncEngineArgs")
    frontend = _vllm() / "entrypoints" / "launchers" / "cli_args.py"
    return arguments | _fields(frontend, "BaseFrontendArgs", "FrontendArgs")


def test_vllm_knows_every_allowed_argument() -> None:
    assert set(LISTS["extraArgs"].allowed) - _vllm_arguments() == set()


def test_every_reason_for_a_refusal_is_about_an_argument_that_vllm_has() -> None:
    shorthands = {"tp", "pp", "dp", "ep"}
    listed = {*LISTS["extraArgs"].denied, *LISTS["extraArgs"].owned}
    assert listed - _vllm_arguments() - shorthands == set()


def test_vllm_knows_every_allowed_parser_and_backend() -> None:
    vllm = _vllm()
    sources = {
        "tool_call_parser": vllm / "tool_parsers" / "__init__.py",
        "reasoning_parser": vllm / "reasoning" / "__init__.py",
        "attention_backend": vllm / "v1" / "attention" / "backends" / "registry.py",
        "moe_backend": vllm / "config" / "kernel.py",
    }
    for name, file in sources.items():
        setting = LISTS["extraArgs"].allowed[name]
        assert isinstance(setting, Choice)
        text = file.read_text(encoding="utf-8")
        assert [word for word in setting.words if f'"{word}"' not in text and f" {word} = " not in text] == []


def test_vllm_reads_every_allowed_variable_of_its_own() -> None:
    text = (_vllm() / "envs.py").read_text(encoding="utf-8")
    own = [name for name in (*LISTS["env"].allowed, *LISTS["env"].denied) if name.startswith("VLLM_")]
    assert [name for name in own if f'"{name}"' not in text] == []
