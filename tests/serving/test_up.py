"""`conclave up` as a user runs it: a real Ray and a real engine, from the manifest to tokens and back to nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.eventually import eventually
from tests.serving.up_command import READY_TIMEOUT_S, Up
from tools.tiny_checkpoint import make_checkpoint

from conclave_cli.local.ports import free_port
from conclave_weights.verify.digest import digest_of, hash_files

ROOT = Path(__file__).parents[2]


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def leftovers() -> set[str]:
    """What a local Ray and an engine put outside of their own directories."""
    temporary = Path("/tmp")
    found = [*Path("/dev/shm").iterdir(), *temporary.glob("cv-*"), *temporary.glob("vllm*"), *temporary.glob("ray*")]
    return set(map(str, found))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mixtral"
    command = [sys.executable, str(ROOT / "tools" / "tiny_checkpoint.py"), "mixtral", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes examples/mixtral.yaml with changes to spec.model and spec.engine."""

    def write(engine: Any = None, **model: Any) -> Path:
        content = yaml.safe_load((ROOT / "examples" / "mixtral.yaml").read_text())
        content["spec"]["model"].update(model)
        content["spec"].setdefault("engine", {}).update(engine or {})
        path = tmp_path / "model.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def run(*arguments: object) -> Up:
        directory = tmp_path / f"up-{len(started)}"
        directory.mkdir()
        started.append(Up(directory, *map(str, arguments)))
        return started[-1]

    yield run
    for up in started:
        if up.process.poll() is None:
            up.end(signal.SIGTERM)


def copy_of(weights: Path, target: Path) -> Path:
    target.mkdir()
    for file in weights.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_from_manifest_to_tokens_and_back_to_nothing(
    start: Callable[..., Up], manifest: Callable[..., Path], weights: Path
) -> None:
    import openai

    before = leftovers()
    port = free_port()
    digest = digest_of(hash_files(weights))
    up = start("-f", manifest(digest=digest), "--weights", weights, "--port", port, "--model-name", "tiny")
    eventually(up.is_ready, READY_TIMEOUT_S)
    assert "verifying the weights" in up.stderr.read_text()
    (state_file,) = up.state.glob("conclave/mixtral-*/endpoint.json")
    assert stat.S_IMODE(state_file.stat().st_mode) == 0o600
    endpoint = json.loads(state_file.read_text())
    assert endpoint["url"] == f"http://127.0.0.1:{port}/v1"

    client = openai.OpenAI(base_url=endpoint["url"], api_key=endpoint["key"], max_retries=0)
    assert [model.id for model in client.models.list().data] == ["tiny"]
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Good morning!"}],
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=endpoint["url"], api_key="another", max_retries=0).models.list()

    said = subprocess.run(
        [sys.executable, "-m", "conclave_cli.main", "chat", "Good morning!", "--max-tokens", "8"],
        env={**os.environ, "XDG_STATE_HOME": str(up.state)},
        capture_output=True,
        text=True,
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.strip()

    assert any("Worker_TP1" in process for process in up.processes())
    assert up.end(signal.SIGINT) == 0, up.said()[-3000:]
    assert up.processes() == []
    assert not is_listening(port)
    assert leftovers() - before == set()
    assert list(up.state.glob("conclave/mixtral-*/logs/serve/replica_*.log"))
    assert "Traceback" not in up.stderr.read_text()


def test_an_engine_that_does_not_start_says_why_and_leaves_nothing(
    start: Callable[..., Up], manifest: Callable[..., Path], weights: Path
) -> None:
    before = leftovers()
    # vLLM without GPUs has no kernel for experts in fp8: its workers end while they build the model.
    up = start("-f", manifest(engine={"quantization": "fp8_per_tensor"}), "--weights", weights, "--port", free_port())
    assert up.process.wait(timeout=READY_TIMEOUT_S) == 1
    last_lines = up.stderr.read_text()
    assert "error: mixtral: the engine did not start: " in last_lines
    assert "Engine core initialization failed" not in last_lines
    assert "Traceback" not in last_lines
    assert up.processes() == []
    assert leftovers() - before == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_while_it_starts_leaves_nothing(
    start: Callable[..., Up], manifest: Callable[..., Path], weights: Path, number: int
) -> None:
    before = leftovers()
    up = start("-f", manifest(), "--weights", weights, "--port", free_port())
    eventually(lambda: any("gcs_server" in process for process in up.processes()), 400)
    assert up.end(number) == 130
    assert up.processes() == []
    assert leftovers() - before == set()


def test_two_at_once_do_not_get_into_each_others_way(
    start: Callable[..., Up], manifest: Callable[..., Path], weights: Path
) -> None:
    before = leftovers()
    ups = [start("-f", manifest(), "--weights", weights, "--port", free_port()) for _ in range(2)]
    for up in ups:
        eventually(lambda up=up: "building the application" in up.stderr.read_text(), 600)
    assert [up.end(signal.SIGTERM) for up in ups] == [130, 130]
    assert [up.processes() for up in ups] == [[], []]
    assert leftovers() - before == set()


def test_killed_outright_its_processes_end_by_themselves(
    start: Callable[..., Up], manifest: Callable[..., Path], weights: Path
) -> None:
    up = start("-f", manifest(), "--weights", weights, "--port", free_port())
    eventually(lambda: any("raylet" in process for process in up.processes()), 400)
    up.end(signal.SIGKILL)
    eventually(lambda: up.processes() == [], 90)


def refusal(up: Up, exit_code: int) -> str:
    """What it said on stderr; nothing was started."""
    assert up.process.wait(timeout=60) == exit_code, up.said()
    said = up.stderr.read_text()
    assert said.startswith("error: ") or "\nerror: " in said
    assert "Traceback" not in said
    assert "starting Ray" not in said
    return said


def test_a_taken_port_is_refused(start: Callable[..., Up], manifest: Callable[..., Path], weights: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        said = refusal(start("-f", manifest(), "--weights", weights, "--port", port), 3)
    assert f"port {port}: Address already in use; choose a free port with --port" in said


def test_a_port_that_is_taken_while_ray_starts_is_named(
    start: Callable[..., Up], manifest: Callable[..., Path], weights: Path
) -> None:
    port = free_port()
    up = start("-f", manifest(), "--weights", weights, "--port", port)
    eventually(lambda: "starting Ray" in up.stderr.read_text(), 400)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert up.process.wait(timeout=180) == 3, up.said()
    last_lines = up.stderr.read_text()
    assert f"error: port {port}: another program took it while Ray started; run the command again" in last_lines
    assert "Traceback" not in last_lines
    assert up.processes() == []


def test_another_digest_is_refused(start: Callable[..., Up], manifest: Callable[..., Path], weights: Path) -> None:
    wanted = "sha256:" + "0" * 64
    said = refusal(start("-f", manifest(digest=wanted), "--weights", weights, "--port", free_port()), 4)
    assert f"digest {digest_of(hash_files(weights))}, expected {wanted}" in said
    assert "model.safetensors" in said


def truncate(weights: Path) -> None:
    shard = weights / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


def of_another_shape(weights: Path) -> None:
    config = json.loads((weights / "config.json").read_text())
    (weights / "config.json").write_text(json.dumps({**config, "intermediate_size": 2 * config["intermediate_size"]}))


def with_a_layer_too_many(weights: Path) -> None:
    config = json.loads((weights / "config.json").read_text())
    (weights / "config.json").write_text(json.dumps({**config, "num_hidden_layers": config["num_hidden_layers"] + 1}))


def pickled(weights: Path) -> None:
    (weights / "model.safetensors").rename(weights / "pytorch_model.bin")


def without_tokenizer(weights: Path) -> None:
    (weights / "tokenizer.json").unlink()


def without_config(weights: Path) -> None:
    (weights / "config.json").unlink()


def of_another_architecture(weights: Path) -> None:
    config = json.loads((weights / "config.json").read_text())
    (weights / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(truncate, "model.safetensors: ", id="truncated"),
        pytest.param(of_another_shape, "w1.weight is 256x128, expected 512x128", id="shapes of another config"),
        pytest.param(with_a_layer_too_many, "tensors are missing: model.layers.2.", id="a layer that is not there"),
        pytest.param(pickled, "pytorch_model.bin", id="pickled"),
        pytest.param(without_tokenizer, "no tokenizer", id="no tokenizer"),
        pytest.param(without_config, "no config.json", id="no config.json"),
        pytest.param(
            of_another_architecture, "names LlamaForCausalLM, expected MixtralForCausalLM", id="another model's weights"
        ),
    ],
)
def test_unsound_weights_are_refused(
    start: Callable[..., Up],
    manifest: Callable[..., Path],
    weights: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    broken = copy_of(weights, tmp_path / "broken")
    damage(broken)
    assert message in refusal(start("-f", manifest(), "--weights", broken, "--port", free_port()), 4)


def test_missing_weights_are_refused(start: Callable[..., Up], manifest: Callable[..., Path], tmp_path: Path) -> None:
    said = refusal(start("-f", manifest(), "--weights", tmp_path / "absent", "--port", free_port()), 4)
    assert "no such directory" in said


def test_an_unknown_model_is_refused(
    start: Callable[..., Up], manifest: Callable[..., Path], weights: Path, tmp_path: Path
) -> None:
    unknown = copy_of(weights, tmp_path / "unknown")
    (unknown / "config.json").write_text('{"architectures": ["NobodyForCausalLM"], "model_type": "nobody"}')
    said = refusal(start("-f", manifest(id="acme/nobody"), "--weights", unknown, "--port", free_port()), 2)
    assert "NobodyForCausalLM" in said


def test_a_model_that_was_never_released_is_refused(
    start: Callable[..., Up], manifest: Callable[..., Path], weights: Path
) -> None:
    said = refusal(start("-f", manifest(id="apple/MM1"), "--weights", weights, "--port", free_port()), 2)
    assert "never released" in said


def test_more_ranks_than_cores_are_refused(start: Callable[..., Up], tmp_path: Path) -> None:
    sizes = {"layers": 64, "hidden": 64, "head_dim": 16, "intermediate": 64, "experts": 2}
    deep = make_checkpoint("mixtral", tmp_path / "deep", **sizes)
    content = yaml.safe_load((ROOT / "examples" / "mixtral.yaml").read_text())
    content["spec"]["parallelism"] = {"tensor": 4, "pipeline": 64}
    content["spec"]["hardware"] = {"maxGpusPerReplica": 256}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(content))
    said = refusal(start("-f", tmp_path / "model.yaml", "--weights", deep, "--port", free_port()), 3)
    assert "parallelism: 256 ranks need at least 256 cores" in said
    assert "lower spec.parallelism" in said
