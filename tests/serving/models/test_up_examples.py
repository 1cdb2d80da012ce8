"""`conclave up` answers a chat request with models that examples/ names, over two ranks and random weights.

Those with a class of our own. examples/mixtral.yaml is that of tests/serving/test_up.py, those of Llama 3 are in
tests/serving/llama; an engine of Gemma and of Phi-3 answers in tests/serving/test_architectures.py.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import openai
import pytest
import yaml
from tests.eventually import eventually
from tests.serving.up_command import READY_TIMEOUT_S, Up
from tools.tiny_checkpoint import make_checkpoint

from conclave_cli.local.ports import free_port

EXAMPLES = Path(__file__).parents[3] / "examples"
MODELS = ["dbrx", "grok-1", "phi-3.5-moe"]


class Examples:
    """`conclave up` of each model in turn; the next one starts while one is tested, so that no core is idle."""

    def __init__(self, directory: Path, order: Sequence[str]) -> None:
        self._directory, self._order = directory, order
        self._ups: dict[str, Up] = {}

    def up(self, model: str) -> Up:
        """That of the model; it may still be starting."""
        position = self._order.index(model)
        for each in self._order[position : position + 2]:
            if each not in self._ups:
                self._ups[each] = self._started(each)
        return self._ups[model]

    def end(self) -> None:
        """Those that no test has ended."""
        for up in self._ups.values():
            if up.process.poll() is None:
                up.end(signal.SIGTERM)

    def _started(self, model: str) -> Up:
        directory = self._directory / model
        weights = make_checkpoint(model, directory / "weights")
        manifest = yaml.safe_load((EXAMPLES / f"{model}.yaml").read_text())
        # Most leave it to the plan, which takes one rank where one is enough.
        manifest["spec"]["parallelism"] = {"tensor": 2}
        # Left out, it is up to 4 GiB for each rank: too much for two engines on a machine that tests.
        manifest["spec"]["engine"] = {"extraArgs": {"kv_cache_memory_bytes": str(2**28)}}
        (directory / "model.yaml").write_text(yaml.safe_dump(manifest))
        arguments = ["-f", directory / "model.yaml", "--weights", weights, "--port", free_port()]
        return Up(directory, *map(str, arguments))


@pytest.fixture(scope="module")
def examples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examples]:
    """Of the models that this session's tests ask for."""
    asked = [item.callspec.params["model"] for item in request.session.items if item.path == request.path]
    examples = Examples(tmp_path_factory.mktemp("examples"), asked)
    yield examples
    examples.end()


@pytest.mark.parametrize("model", MODELS)
def test_an_example_answers_a_chat_request_over_two_ranks(model: str, examples: Examples) -> None:
    up = examples.up(model)
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
