"""`make demo`: a tiny Mixtral, its plan, `conclave up` on this machine, one streamed chat completion, and nothing left.

Runs inside the environment that tools/environment.sh made. Every step is the one that a user takes.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
PROMPT = "Tell me how eight experts share the work."
ANSWER_TOKENS = 48
READY_TIMEOUT_S = 300.0


def main() -> int:
    from conclave_cli.local.ports import free_port

    started_s = time.monotonic()
    weights = tiny_mixtral()
    port = free_port()
    arguments = ["up", "-f", "examples/mixtral.yaml", "--weights", str(weights), "--port", str(port), "--no-logs"]
    print(f"$ conclave {shlex.join(arguments)}", flush=True)
    up = subprocess.Popen(
        [sys.executable, "-m", "conclave_cli.main", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        endpoint = read_endpoint(up)
        if endpoint is None:
            print(f"demo: conclave up ended with exit code {up.wait()} before it was ready", file=sys.stderr)
            return 1
        chat(endpoint)
    finally:
        up.send_signal(signal.SIGINT)
        exit_code = up.wait(timeout=120)
    print(f"demo: done in {time.monotonic() - started_s:.0f} s, conclave up ended with exit code {exit_code}")
    return exit_code


def tiny_mixtral() -> Path:
    """The checkpoint of the demo: Mixtral's architecture, random weights, made once."""
    from build_tools import cache_dir
    from tiny_checkpoint import make_checkpoint

    weights = cache_dir() / "demo-mixtral"
    print(f"making a tiny Mixtral (its architecture, random weights) in {weights}", flush=True)
    return make_checkpoint("mixtral", weights)


def read_endpoint(up: subprocess.Popen[str]) -> dict[str, str] | None:
    """What `conclave up` prints once it serves, as it prints it; None where it ended before."""
    endpoint: dict[str, str] = {}
    for line in up.stdout or ():
        print(line, end="", flush=True)
        label, _, value = line.strip().partition(" ")
        endpoint[label] = value.strip()
        if label == "Ctrl-C":
            return endpoint
    return None


def chat(endpoint: dict[str, str]) -> None:
    """One streamed completion by the way that a client takes."""
    from openai import OpenAI

    from conclave_cli.terminal import say_piece

    client = OpenAI(base_url=endpoint["endpoint"], api_key=endpoint["key"])
    print(f"\n> {PROMPT}\n", flush=True)
    sent_s = time.monotonic()
    stream = client.chat.completions.create(
        model=endpoint["model"],
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=ANSWER_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    first_s = 0.0
    tokens = 0
    answer = ""
    for chunk in stream:
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
        if chunk.choices and chunk.choices[0].delta.content:
            first_s = first_s or time.monotonic()
            say_piece(chunk.choices[0].delta.content, answer)
            answer += chunk.choices[0].delta.content
    ended_s = time.monotonic()
    if tokens == 0:
        raise SystemExit("demo: the answer holds no token")
    print(
        f"\n\n{tokens} tokens of a real engine (the weights are random, so the words mean nothing); first token after "
        f"{(first_s - sent_s) * 1000:.0f} ms, then {(tokens - 1) / max(ended_s - first_s, 1e-6):.0f} tokens/s\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
