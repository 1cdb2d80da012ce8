"""What an example asks of GPUs is changed for this machine, and `conclave up` answers a chat request over two ranks."""

from __future__ import annotations

from tests.serving.llama.served import BASE, Llama


def test_an_example_for_gpus_answers_a_chat_request_over_two_ranks(llama: Llama) -> None:
    client = llama.openai()
    served, *_adapters = client.models.list().data
    assert served.id == BASE
    answer = client.chat.completions.create(
        model=served.id, messages=[{"role": "user", "content": "Good morning!"}], max_tokens=12
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12, answer
    assert answer.choices[0].message.content
    assert any("Worker_TP1" in process for process in llama.up.processes())
