"""`conclave up` answers a chat request with models that examples/ names, over two ranks and random weights.

Those with a class of our own, and one dense model whose manifest asks for what only GPUs have. examples/mixtral.yaml is
that of tests/serving/test_up.py; an engine of Gemma and of Phi-3 answers in tests/serving/test_architectures.py.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import openai
import pytest
import yaml
from tests.eventually import eventually
from tests.serving.up_command import READY_TIMEOUT_S, Up
from tools.tiny_checkpoint import make_checkpoint

from conclave_cli.local.ports import free_port

EXAMPLES = Path(__file__).parents[3] / "examples"
MODELS = ["dbrx", "grok-1", "phi-3.5-moe", "llama-3"]


@pytest.mark.parametrize("model", MODELS)
def test_an_example_answers_a_chat_request_over_two_ranks(model: str, tmp_path: Path) -> None:
    weights = make_checkpoint(model, tmp_path / "weights")
    manifest = yaml.safe_load((EXAMPLES / f"{model}.yaml").read_text())
    manifest["spec"]["parallelism"] = {
        "tensor": 2
    }  # most leave it to the plan, which takes one rank where one is enough
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(manifest))

    up = Up(tmp_path, "-f", str(tmp_path / "model.yaml"), "--weights", str(weights), "--port", str(free_port()))
    try:
        eventually(up.is_ready, READY_TIMEOUT_S)
        (state_file,) = up.state.glob("conclave/*/endpoint.json")
        endpoint = json.loads(state_file.read_text())
        client = openai.OpenAI(base_url=endpoint["url"], api_key=endpoint["key"], max_retries=0)
        (served,) = client.models.list().data
        answer = client.chat.completions.create(
            model=served.id, messages=[{"role": "user", "content": "Good morning!"}], max_tokens=12
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 12, answer
        assert answer.choices[0].message.content
        assert any("Worker_TP1" in process for process in up.processes())
    finally:
        code = up.end(signal.SIGINT)
    assert (code, up.processes()) == (0, []), up.said()[-3000:]
