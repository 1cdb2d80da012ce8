"""`make bench-models`: decode and prefill of our DBRX and Grok-1 against vLLM's Mixtral of the same shapes.

Each model has an engine of its own, all are up at once, and only one works at a time; the rounds alternate their
order. Prints ratios to Mixtral, and writes the figures of every round as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.tiny_checkpoint import FIRST_WORD_ID, VOCABULARY_TOKENS, make_checkpoint

BASELINE = "mixtral"
MODELS = (BASELINE, "dbrx", "grok-1")
SIZES = {"layers": 8, "hidden": 512, "head_dim": 64, "key_value_heads": 4, "intermediate": 1792, "experts": 8}
TOP_K = 2
WORK = {
    "prefill": {"prompts": 8, "prompt_tokens": 256, "answer_tokens": 1},
    "decode": {"prompts": 8, "prompt_tokens": 8, "answer_tokens": 96},
}
LIMIT = 0.9
"""What the issue asks for, of Mixtral's tokens a second."""


def checkpoint(model: str, directory: Path) -> Path:
    """Random weights of the common shapes."""
    path = make_checkpoint(model, directory / model, **SIZES)
    config = json.loads((path / "config.json").read_text())
    fields = config["ffn_config"] if model == "dbrx" else config
    fields["moe_top_k" if model == "dbrx" else "num_experts_per_tok"] = TOP_K
    (path / "config.json").write_text(json.dumps(config))
    return path


class Engine:
    """A child process with one model in it, which works when it is told to."""

    def __init__(self, model: str, path: Path, log: Path, *, compiled: bool) -> None:
        self.model = model
        reader, writer = os.pipe()
        command = [sys.executable, "-m", "benchmarks.models", "--engine", str(path), "--answers", str(writer)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command + ["--compiled"] * compiled,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writer],
                text=True,
            )
        os.close(writer)
        self.answers = os.fdopen(reader)
        self.log = log
        self.told()

    def told(self) -> Any:
        """The child's next answer."""
        line = self.answers.readline()
        if not line:
            sys.exit(
                f"{self.model}: the engine ended with {self.process.wait()}; its log:\n{self.log.read_text()[-3000:]}"
            )
        return json.loads(line)

    def work(self, name: str, seed: int) -> float:
        """Tokens a second of one piece of work."""
        assert self.process.stdin is not None
        print(json.dumps([name, seed]), file=self.process.stdin, flush=True)
        return float(self.told())

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.answers.close()


def serve(path: str, answers: int, *, compiled: bool) -> None:
    """The child: one line of JSON in, one out."""
    from vllm import LLM

    engine = LLM(
        model=path,
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=8,
        enable_prefix_caching=False,
        enforce_eager=not compiled,
        distributed_executor_backend="uni",
    )
    with os.fdopen(answers, "w") as channel:
        for name in WORK:
            tokens_per_s(engine, name, 0)
        print(json.dumps("ready"), file=channel, flush=True)
        for line in sys.stdin:
            name, seed = json.loads(line)
            print(json.dumps(tokens_per_s(engine, name, seed)), file=channel, flush=True)


def tokens_per_s(engine: Any, name: str, seed: int) -> float:
    """Prompt tokens a second for prefill, answered ones for decode."""
    from vllm import SamplingParams, TokensPrompt

    work, choice = WORK[name], random.Random(seed)
    prompts = [
        TokensPrompt(
            prompt_token_ids=[choice.randrange(FIRST_WORD_ID, VOCABULARY_TOKENS) for _ in range(work["prompt_tokens"])]
        )
        for _ in range(work["prompts"])
    ]
    sampling = SamplingParams(temperature=0, max_tokens=work["answer_tokens"], ignore_eos=True, detokenize=False)
    start_s = time.perf_counter()
    engine.generate(prompts, sampling, use_tqdm=False)
    tokens = work["prompts"] * (work["answer_tokens"] if work["answer_tokens"] > 1 else work["prompt_tokens"])
    return tokens / (time.perf_counter() - start_s)


def report(rounds: list[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Print and return the ratios to the baseline: the median of the rounds, the smallest and the largest."""
    summary = {}
    print(f"\n{'':10} {'':8} tokens/s  ratio to {BASELINE}: median [smallest, largest] of {len(rounds)} rounds")
    for model in MODELS:
        for name in WORK:
            speed = statistics.median(round_[f"{model} {name}"] for round_ in rounds)
            ratios = [round_[f"{model} {name}"] / round_[f"{BASELINE} {name}"] for round_ in rounds]
            median = statistics.median(ratios)
            summary[f"{model} {name}"] = {
                "tokens_per_s": speed,
                "ratio": median,
                "least": min(ratios),
                "most": max(ratios),
            }
            print(f"{model:10} {name:8} {speed:8.0f}  {median:.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="with torch.compile; the start takes minutes longer")
    parser.add_argument("--output", type=Path, default=Path("build/bench-models.json"))
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--answers", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        serve(arguments.engine, arguments.answers, compiled=arguments.compiled)
        return
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }
    engines: list[Engine] = []
    with tempfile.TemporaryDirectory(prefix="conclave-bench-") as temporary:
        try:
            for model in MODELS:
                print(f"starting {model}", flush=True)
                path = checkpoint(model, Path(temporary))
                engines.append(Engine(model, path, Path(temporary) / f"{model}.log", compiled=arguments.compiled))
            rounds = []
            for number in range(arguments.rounds):
                order = engines[number % len(engines) :] + engines[: number % len(engines)]
                rounds.append(
                    {f"{engine.model} {name}": engine.work(name, number + 1) for engine in order for name in WORK}
                )
                print(f"round {number + 1} of {arguments.rounds}", flush=True)
        finally:
            for engine in engines:
                engine.end()
    summary = report(rounds)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(
        json.dumps({"sizes": SIZES, "work": WORK, "summary": summary, "rounds": rounds}, indent=2)
    )
    slow = [name for name, figures in summary.items() if figures["ratio"] < LIMIT]
    if slow:
        sys.exit(f"below {LIMIT}: {', '.join(slow)}")
    print(f"all at least {LIMIT}")


if __name__ == "__main__":
    main()
