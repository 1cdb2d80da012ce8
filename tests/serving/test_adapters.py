"""One engine answers with the base model and with each of its LoRA adapters, token by token as merged weights do."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.eventually import eventually
from tests.serving.up_command import READY_TIMEOUT_S, Up
from tools.tiny_adapter import make_adapter
from tools.tiny_checkpoint import make_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from conclave_cli.local.ports import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "llama-3-adapter.yaml"
BASE, TONE, SECOND = "llama-3-8b", "support-tone", "acme/legal"
TOKENS = 24
PROMPTS = ("Good morning!", "one, two, three, four, five,", "When a node fails, the remaining nodes keep serving. " * 8)


class Served:
    """A running `conclave up`, and the directories that it serves."""

    def __init__(self, client: openai.OpenAI, checkpoint: Path, adapters: dict[str, Path]) -> None:
        self.client = client
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._checkpoint, self._adapters = checkpoint, adapters

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
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("up")
    checkpoint = make_checkpoint("llama-3", directory / "weights")
    adapters = {
        TONE: make_adapter(checkpoint, directory / "tone", rank=12, seed=1),
        SECOND: make_adapter(checkpoint, directory / "second", rank=4, seed=2),
    }
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["engine"] = {"dtype": "float32"}
    second = {"name": SECOND, "source": {"persistentVolumeClaim": {"claimName": "weights"}}, "maxRank": 8}
    manifest["spec"]["model"]["adapters"].append(second)
    (directory / "model.yaml").write_text(yaml.safe_dump(manifest))
    given = [argument for name, path in adapters.items() for argument in ("--adapter", f"{name}={path}")]
    up = Up(
        directory, "-f", str(directory / "model.yaml"), "--weights", str(checkpoint), "--port", str(free_port()), *given
    )
    try:
        eventually(up.is_ready, READY_TIMEOUT_S)
        (state_file,) = up.state.glob("conclave/*/endpoint.json")
        endpoint = json.loads(state_file.read_text())
        client = openai.OpenAI(base_url=endpoint["url"], api_key=endpoint["key"], max_retries=0, timeout=120)
        yield Served(client, checkpoint, adapters)
    finally:
        code = up.end(signal.SIGINT)
    assert (code, up.processes()) == (0, []), up.said()[-3000:]


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
