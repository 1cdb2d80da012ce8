"""Each architecture on real vLLM under real Ray: OpenAI's client, and greedy tokens equal to Transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from openai import APIStatusError
from tests.serving.deployed import MAX_MODEL_LEN, TENSOR_PARALLEL, Endpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from conclave_serving.warm_up import rehearsals

pytestmark = pytest.mark.parametrize("endpoint", sorted(TENSOR_PARALLEL), indirect=True)

GREEDY_TOKENS = 24
PROMPTS = (
    "Good morning!",
    "The router looks at each token and chooses two experts out of eight;",
    "one, two, three, four, five,",
    "Größe, naïve, 東京, 🙂",
    "When a node fails, the remaining nodes keep serving. " * 8,
)
PAINT = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "coats": {"type": "integer", "enum": [1, 2, 3]},
    },
    "required": ["colour", "coats"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "paint", "description": "Paints a wall.", "parameters": PAINT}}


class Reference:
    """The same checkpoint in Transformers, float32."""

    def __init__(self, checkpoint: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def greedy(self, prompt_ids: list[int]) -> tuple[list[int], list[float]]:
        """The next tokens and the log probability of each."""
        with torch.inference_mode():
            generated = self.model.generate(
                torch.tensor([prompt_ids]),
                attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
                max_new_tokens=GREEDY_TOKENS,
                do_sample=False,
                eos_token_id=None,
                output_logits=True,
                return_dict_in_generate=True,
            )
        tokens = generated.sequences[0, len(prompt_ids) :].tolist()
        log_probabilities = torch.stack(generated.logits)[:, 0].log_softmax(-1)
        return tokens, [log_probabilities[i, token].item() for i, token in enumerate(tokens)]


def test_a_replica_is_warm_before_it_runs(endpoint: Endpoint) -> None:
    expected = [rehearsal.name for rehearsal in rehearsals(MAX_MODEL_LEN)]
    said = [line for line in endpoint.log_at_start.splitlines() if f" {endpoint.architecture}_engine " in line]
    answered = [name for name in expected if any(f"warm-up '{name}' answered" in line for line in said)]
    assert answered == expected
    assert not [line for line in said if "CALL completions" in line]


def test_greedy_tokens_equal_those_of_transformers(endpoint: Endpoint) -> None:
    reference, client = Reference(endpoint.checkpoint), endpoint.openai()
    for prompt in PROMPTS:
        prompt_ids = reference.tokenizer(prompt)["input_ids"]
        answer: Any = client.completions.create(
            model=endpoint.model,
            prompt=prompt_ids,
            max_tokens=GREEDY_TOKENS,
            temperature=0,
            logprobs=1,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        tokens, log_probabilities = reference.greedy(prompt_ids)
        assert answer.choices[0].token_ids == tokens
        assert answer.choices[0].logprobs.token_logprobs == pytest.approx(log_probabilities, abs=2e-3)


def test_a_chat_equals_transformers_with_the_same_template(endpoint: Endpoint) -> None:
    reference = Reference(endpoint.checkpoint)
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the weather like in the mountains today?"},
    ]
    rendered = reference.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    prompt_ids = rendered["input_ids"]
    answer = endpoint.openai().chat.completions.create(
        model=endpoint.model,
        messages=messages,
        max_completion_tokens=GREEDY_TOKENS,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        extra_body={"ignore_eos": True},
    )
    tokens, log_probabilities = reference.greedy(prompt_ids)
    (choice,) = answer.choices
    assert choice.message.content == reference.tokenizer.decode(tokens)
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [entry.logprob for entry in choice.logprobs.content] == pytest.approx(log_probabilities, abs=2e-3)
    assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt_ids), GREEDY_TOKENS)
    assert choice.finish_reason == "length"


def test_a_stream_says_the_same_and_ends_with_usage(endpoint: Endpoint) -> None:
    client = endpoint.openai()
    asked: Any = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": "Please write a short answer about rivers."}],
        "max_tokens": 40,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert len(chunks) > 20
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 40


def test_the_list_holds_the_one_model(endpoint: Endpoint) -> None:
    client = endpoint.openai()
    (listed,) = client.models.list().data
    assert (listed.id, listed.object) == (endpoint.model, "model")
    assert client.models.retrieve(endpoint.model) == listed


def test_a_json_schema_is_kept(endpoint: Endpoint) -> None:
    answer = endpoint.openai().chat.completions.create(
        model=endpoint.model,
        messages=[{"role": "user", "content": "Which paint?"}],
        max_tokens=64,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "paint", "schema": PAINT, "strict": True}},
    )
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), PAINT)


@pytest.mark.parametrize(
    "choice",
    [{"type": "function", "function": {"name": "paint"}}, "required"],
    ids=["a named tool", "some tool"],
)
def test_a_tool_is_called_with_arguments_of_its_schema(endpoint: Endpoint, choice: Any) -> None:
    answer = endpoint.openai().chat.completions.create(
        model=endpoint.model,
        messages=[{"role": "user", "content": "Paint the wall."}],
        max_tokens=128,
        temperature=0,
        tools=[TOOL],
        tool_choice=choice,
        parallel_tool_calls=False,
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "paint"
    jsonschema.validate(json.loads(call.function.arguments), PAINT)


def test_a_prompt_over_the_context_is_refused_with_counts(endpoint: Endpoint) -> None:
    with pytest.raises(APIStatusError) as refusal:
        endpoint.openai().completions.create(model=endpoint.model, prompt=[9] * 600, max_tokens=4)
    assert refusal.value.status_code == 400
    assert refusal.value.code == "context_length_exceeded"
    assert str(MAX_MODEL_LEN) in refusal.value.message
