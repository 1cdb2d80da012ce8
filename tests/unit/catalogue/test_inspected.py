"""What an inspection Job's pod may tell: as much as a config.json is, and nothing that is not checked."""

from __future__ import annotations

import base64
import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conclave.catalogue.facts import read_config
from conclave.catalogue.inspected import LONGEST_CONFIG_BYTES, read_report, write_report
from conclave.catalogue.inspected import InspectedWeights as Weights
from conclave.catalogue.models import all_models
from conclave.errors import InvalidInput
from conclave.kubernetes.reports import LONGEST_REPORT_BYTES

PUBLISHED = sorted((Path(__file__).parents[2] / "data" / "published" / "configs").glob("*.json"))
SIZES: dict[str, Any] = {"files": 3, "parameters": 2 * 10**9, "size_bytes": 4 * 10**9, "dtypes": ("BF16", "F32")}


def packed(text: bytes) -> str:
    return base64.b64encode(zlib.compress(text, 9)).decode()


def reported(**changes: Any) -> str:
    good = json.loads(write_report(Weights(config={"architectures": ["A"]}, **SIZES)))
    return json.dumps({key: value for key, value in {**good, **changes}.items() if value is not ...})


@pytest.mark.parametrize("path", PUBLISHED, ids=[path.stem for path in PUBLISHED])
def test_a_published_config_fits_whole_with_room(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    text = write_report(Weights(config=config, **SIZES))
    assert len(text.encode()) < LONGEST_REPORT_BYTES / 2
    assert read_report(text) == Weights(config=config, **SIZES)


def test_the_facts_are_those_of_the_same_config_in_the_catalogue() -> None:
    for entry in all_models():
        if entry.has_weights:
            told = read_report(write_report(Weights(config=entry.config, **SIZES)))
            assert read_config(told.config) == read_config(entry.config)


def test_a_quantised_model_of_many_layers_that_names_each_module_fits() -> None:
    modules = [f"model.layers.{layer}.{part}" for layer in range(128) for part in ("mlp.gate", "input_layernorm", "k")]
    config: dict[str, object] = {"quantization_config": {"modules_to_not_convert": modules}}
    assert len(json.dumps(config)) > 10_000
    assert len(write_report(Weights(config=config, **SIZES))) < LONGEST_REPORT_BYTES


def test_the_sizes_are_told_in_words() -> None:
    weights = Weights(config={}, **SIZES)
    assert weights.summary == "3 files of 3.7 GiB hold 2000000000 parameters in BF16, F32"


BOMB = packed(b'{"a": "' + b" " * LONGEST_CONFIG_BYTES + b'"}')
HOSTILE: dict[str, tuple[str, str]] = {
    "no JSON": ("Traceback (most recent call last):", "the report is 'Traceback"),
    "nothing": ("", "the report is ''"),
    "a list": ("[]", "the report is []; expected: "),
    "too long": (" " * 5000, "the report has 5000 bytes, expected at most 4096"),
    "no config": (reported(config=...), "the report's config is "),
    "another field": (reported(image="x"), "the report's image is 'x'; expected: Extra inputs are not permitted"),
    "a config in no base64": (reported(config="{}"), "the report's config is '{}'; expected: "),
    "a config that is not compressed": (reported(config="YWJj"), "expected a JSON object, compressed by zlib"),
    "a config that is cut off": (reported(config=packed(b'{"a": "bcdefghijklmnop"}')[:24]), "it is cut off"),
    "a config that fills memory": (reported(config=BOMB), f"of more than {LONGEST_CONFIG_BYTES} bytes"),
    "a config of no JSON": (reported(config=packed(b"{")), "compressed by zlib, in base64: Expecting"),
    "a config that is a list": (reported(config=packed(b"[]")), "the report's config is "),
    "a config of many levels": (reported(config=packed(b"[" * 200_000)), "the report's config is "),
    "a number as text": (reported(files="3"), "the report's files is '3'; expected: Input should be a valid integer"),
    "no file": (reported(files=0), "the report's files is 0; expected: Input should be greater than or equal to 1"),
    "more parameters than atoms": (reported(parameters=10**30), "the report's parameters is 1000000000"),
    "a fraction": (reported(sizeBytes=1.5), "the report's sizeBytes is 1.5"),
    "a type of another alphabet": (reported(dtypes=["<script>"]), "the report's dtypes.0 is '<script>'"),
    "a hundred types": (reported(dtypes=["F16"] * 100), "the report's dtypes is "),
}


@pytest.mark.parametrize(("text", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_report_is_refused_by_field_value_and_expectation(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_report(text)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_config_that_is_not_packed_is_as_good() -> None:
    assert read_report(reported(config={"a": 1})).config == {"a": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    *("architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("head_dim", "vocab_size", "max_position_embeddings", "dtype", "layer_types", "rope_scaling"),
    "quantization_config",
)
named = st.sampled_from(["LlamaForCausalLM", "MixtralForCausalLM", "DbrxForCausalLM", "Gemma3ForCausalLM"])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(packed) | json_values)
def test_whatever_a_pod_writes_is_read_or_refused(told: object) -> None:
    for text in (told if isinstance(told, str) else json.dumps(told), reported(config=told)):
        with suppress(InvalidInput):
            assert len(read_report(text).config) < LONGEST_CONFIG_BYTES


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=8), named)
def test_whatever_config_a_pod_packs_gives_facts_or_is_refused(config: dict[str, object], name: str) -> None:
    text = reported(config=packed(json.dumps(config | {"architectures": [name]}).encode()))
    with suppress(InvalidInput):
        assert 1 <= len(read_config(read_report(text).config).layers) <= 1024
