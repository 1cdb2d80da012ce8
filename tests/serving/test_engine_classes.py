"""The table of the engine's classes is that of the installed vLLM and Transformers."""

from __future__ import annotations

import json

import pytest
from tools.engine_classes import TABLE, table, text

from conclave.catalogue.engine_classes import OUR_CLASSES, engine_class
from conclave.catalogue.facts import known_architectures

pytestmark = pytest.mark.filterwarnings("ignore")  # of vLLM, torch and config classes while they are imported
OUR_OWN = OUR_CLASSES | {"PhimoeForCausalLM"}
NOT_SERVED = {"Grok1ForCausalLM", "Phi3SmallForCausalLM"}


def test_the_table_is_current() -> None:
    """`python -m tools.engine_classes` makes it anew."""
    assert json.loads(TABLE.read_text(encoding="utf-8")) == json.loads(text(table()))


@pytest.mark.parametrize("architecture", sorted({*known_architectures()} - OUR_OWN - NOT_SERVED))
def test_a_class_that_a_reader_knows_is_one_that_answers(architecture: str) -> None:
    assert engine_class({"model_type": "llama"}, architecture).kind in ("text", "multimodal")
