"""One engine answers with the base model and with each of its LoRA adapters, token by token as merged weights do."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import openai
import pytest
import torch
from safetensors.torch import load_file
from tests.serving.llama.served import BASE, SECOND, TONE, Llama
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENS = 24
PROMPTS = ("Good morning!", "one, two, three, four, five,", "When a node fails, the remaining nodes keep serving. " * 8)


class Served:
    """A running `conclave up`, and what it is held against."""

    def __init__(self, llama: Llama) -> None:
        self.client = llama.openai()
        self.tokenizer = AutoTokenizer.from_pretrained(llama.checkpoint)
        self._checkpoint, self._adapters = llama.checkpoint, llama.adapters
        self._expected: dict[tuple[str, tuple[int, ...]], list[int]] = {}

    @cache  # noqa: B019 - one object a module
    def reference(self, model: str) -> Any:
        """Transformers in float32; of an adapter with W + alpha / r * B A in place of each W."""
        reference = AutoModelForCausalLM.from_pretrained(self._checkpoint, dtype=torch.float32).eval()
        if model != BASE:
            config = json.loads((self._adapters[model] / "adapter_config.json").read_text())
            tensors = load_file(self._adapters[model] / "adapter_model.safetensors")
            for name, down in tensors.items():
                if ".lora_A." not in name:
                    continue
                up = tensors[name.replace(".lora_A.", ".lora_B.")]
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                weight = reference.get_submodule(module).weight
                weight.data += config["lora_alpha"] / config["r"] * up @ down
        return reference

    def expected(self, model: str, prompt_ids: list[int]) -> list[int]:
        asked = (model, tuple(prompt_ids))
        if asked not in self._expected:
            self._expected[asked] = self._generated(model, prompt_ids)
        return self._expected[asked]

    def _generated(self, model: str, prompt_ids: list[int]) -> list[int]:
        with torch.inference_mode():
            said = self.reference(model).generate(
                torch.tensor([prompt_ids]),
                attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
                max_new_tokens=TOKENS,
                do_sample=False,
                eos_token_id=None,
            )
        return list(said[0, len(prompt_ids) :].tolist())

    def answered(self, model: str, prompt_ids: list[int]) -> list[int]:
        answer: Any = self.client.completions.create(
            model=model,
            prompt=prompt_ids,
            max_tokens=TOKENS,
            temperature=0,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        assert answer.model == model
        return list(answer.choices[0].token_ids)


@pytest.fixture(scope="module")
def served(llama: Llama) -> Served:
    return Served(llama)


@pytest.mark.parametrize("model", [BASE, TONE, SECOND])
def test_greedy_tokens_equal_those_of_merged_weights(served: Served, model: str) -> None:
    others = {BASE, TONE, SECOND} - {model}
    for prompt in PROMPTS:
        prompt_ids = served.tokenizer(prompt)["input_ids"]
        tokens = served.answered(model, prompt_ids)
        assert tokens == served.expected(model, prompt_ids)
        assert tokens not in [served.expected(other, prompt_ids) for other in others]


def test_requests_of_all_models_in_one_batch_get_each_their_own(served: Served) -> None:
    asked = [(model, served.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS for model in (BASE, TONE, SECOND)]
    with ThreadPoolExecutor(len(asked)) as clients:
        answers = list(clients.map(lambda pair: served.answered(*pair), asked))
    assert answers == [served.expected(model, prompt_ids) for model, prompt_ids in asked]


def test_a_chat_with_an_adapter_says_the_same_in_a_stream(served: Served) -> None:
    asked: Any = {
        "model": TONE,
        "messages": [{"role": "user", "content": "Please write a short answer about rivers."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    whole = served.client.chat.completions.create(**asked)
    chunks = list(served.client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert {whole.model, *(chunk.model for chunk in chunks)} == {TONE}
    rendered = served.tokenizer.apply_chat_template(asked["messages"], add_generation_prompt=True, return_dict=True)
    expected = served.expected(TONE, rendered["input_ids"])
    assert whole.choices[0].message.content == served.tokenizer.decode(expected)


def test_the_list_holds_the_base_and_its_adapters_with_their_parent(served: Served) -> None:
    listed: list[Any] = list(served.client.models.list().data)
    assert [(card.id, getattr(card, "parent", None)) for card in listed] == [(BASE, None), (TONE, BASE), (SECOND, BASE)]
    for card in listed:
        assert served.client.models.retrieve(card.id) == card


@pytest.mark.parametrize("model", ["support", f"{BASE}:{TONE}", "legal"])
def test_a_name_that_is_none_of_them_is_not_found(served: Served, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as refusal:
        served.client.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}], max_tokens=1)
    assert (refusal.value.status_code, refusal.value.code) == (404, "model_not_found")
