"""What Serve reports becomes a few words of progress, or a failure that waiting would not mend."""

from __future__ import annotations

import pytest

from conclave_cli.local.logs import LogFollower, stage_of
from conclave_cli.local.ray_head import ray_environment
from conclave_cli.local.serve_api import read_application
from conclave_cli.local.serving import failure_of, progress_of


def application(status: str = "DEPLOYING", message: str = "", **deployments: tuple[str, str]) -> object:
    return read_application(
        {
            "status": status,
            "message": message,
            "deployments": {
                name: {"status": state, "message": text, "replicas": [{"state": "STARTING"}]}
                for name, (state, text) in deployments.items()
            },
        }
    )


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        pytest.param(None, "starting Serve", id="Serve does not know it yet"),
        pytest.param(application(), "building the application", id="no deployments yet"),
        pytest.param(
            application(engine=("UPDATING", ""), ingress=("UPDATING", "")), "loading weights", id="the engine starts"
        ),
        pytest.param(
            application(engine=("HEALTHY", ""), ingress=("UPDATING", "")), "starting the ingress", id="only the ingress"
        ),
        pytest.param(application("RUNNING", engine=("HEALTHY", "")), "waiting for the first answer", id="all healthy"),
    ],
)
def test_progress(seen: object, words: str) -> None:
    assert progress_of(seen, "loading weights") == words  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "failure"),
    [
        pytest.param(application(engine=("UPDATING", "")), None, id="still starting"),
        pytest.param(application("DEPLOY_FAILED", "no such module"), "no such module", id="the build failed"),
        pytest.param(
            application(engine=("UPDATING", "The deployment failed to start 1 times in a row: boom")),
            "The deployment failed to start 1 times in a row: boom",
            id="the first failed start is enough",
        ),
        pytest.param(application("UNHEALTHY", engine=("UNHEALTHY", "died")), "died", id="the engine died"),
    ],
)
def test_failure(seen: object, failure: str | None) -> None:
    assert failure_of(seen) == failure  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("INFO [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: …", "starting the engine"),
        ("INFO [parallel_state.py:1906] world_size=2 rank=1 local_rank=1 backend=gloo", "joining the ranks"),
        ("INFO [cpu_model_runner.py:68] Starting to load model /w...", "loading weights"),
        ("INFO [kv_cache_utils.py:2327] CPU KV cache size: 4,194,304 tokens", "KV cache allocated"),
        ("INFO some other line", None),
    ],
)
def test_stages_of_the_engine(line: str, stage: str | None) -> None:
    assert stage_of(line) == stage


def test_logs_are_read_line_by_line_as_they_grow(tmp_path: object) -> None:
    from pathlib import Path

    logs = Path(str(tmp_path))
    (logs / "worker-1.out").write_text("one\ntw")
    (logs / "raylet.out").write_text("machinery\n")
    follower = LogFollower(logs)
    assert list(follower.new_lines()) == ["one"]
    with (logs / "worker-1.out").open("a") as file:
        file.write("o\nthree\n")
    assert list(follower.new_lines()) == ["two", "three"]
    assert list(follower.new_lines()) == []


def test_rays_environment_is_its_own() -> None:
    inherited = {
        "PATH": "/bin",
        "RAY_ADDRESS": "elsewhere:1",
        "RAY_AUTH_TOKEN": "theirs",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment = ray_environment(inherited, {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}, "ours")
    assert "RAY_ADDRESS" not in environment
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["RAY_AUTH_TOKEN"] == "ours"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert (environment["PATH"], environment["VLLM_CPU_OMP_THREADS_BIND"]) == ("/bin", "0|1")
