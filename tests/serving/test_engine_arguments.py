"""vLLM itself takes the closed engine arguments, and those of the allowlist at their bounds and with each choice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tools.tiny_checkpoint import make_checkpoint

from conclave.engine.arguments import SpeculativeArguments
from conclave.policy.arguments import Boolean, Choice, Decimal, Integer, Setting, engine_argument_list, engine_arguments

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray, vLLM and torch warn of themselves when they are imported
    from conclave_serving.app import CLOSED_ARGUMENTS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PROGRAM = Path(__file__).parent / "accepted_arguments.py"
BESIDE = {
    "max_num_seqs": {"max_num_batched_tokens": 1_048_576},
    "max_num_batched_tokens": {"max_num_seqs": 1},
}
"""What else has to be set for a bound to make sense."""
BOUND_BY_THE_MODEL = {
    "long_prefill_token_threshold": "at most the model's context",
    "reasoning_parser": "needs the tokens of its model; tests/unit/policy holds the names to vLLM's registry",
}


DRAFTS = (
    SpeculativeArguments(method="ngram", num_speculative_tokens=1),
    SpeculativeArguments(method="ngram", num_speculative_tokens=32, prompt_lookup_min=1, prompt_lookup_max=64),
)


def _values(setting: Setting) -> list[str]:
    match setting:
        case Integer() | Decimal():
            return [str(setting.minimum), str(setting.maximum)]
        case Boolean() | Choice():
            return setting.words
    return [setting.example]


def test_vllm_takes_every_allowed_argument(tmp_path: Path) -> None:
    checkpoint = tmp_path / "mixtral"
    make_checkpoint("mixtral", checkpoint)
    arguments = [
        {**BESIDE.get(name, {}), **engine_arguments({name: value})}
        for name, setting in engine_argument_list().allowed.items()
        if name not in BOUND_BY_THE_MODEL
        for value in _values(setting)
    ]
    arguments += [{"speculative_config": drafts.model_dump()} for drafts in DRAFTS]
    arguments.append(dict(CLOSED_ARGUMENTS))  # a model of text takes what closes the others
    assert len(arguments) > 100
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(checkpoint)],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environment, "VLLM_LOGGING_LEVEL": "ERROR"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {}
