"""Program: generates with real vLLM from several checkpoints, one after the other; one process for each rank.

Started by `engines.py`. The engine lives in this process, so that its long imports are paid once; vLLM's
`external_launcher` lets ranks that we started find each other.
"""

from __future__ import annotations

import gc
import json
import sys
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    """Arguments: tensor size, pipeline size, file of jobs, file for the answers."""
    tensor, pipeline = map(int, sys.argv[1:3])
    answers: dict[str, dict[str, Any]] = {}
    for job in json.loads(Path(sys.argv[3]).read_text()):
        try:
            given = answers[job["follows"]]["sequences"] if job["follows"] else None
            sequences, accepted = generate(job, given, tensor, pipeline)
            answers[job["name"]] = {"sequences": sequences, "error": None, "accepted": accepted}
        except Exception as error:  # noqa: BLE001 - what a user would see is an answer too
            traceback.print_exc()
            answers[job["name"]] = {"sequences": [], "error": f"{type(error).__name__}: {error}"}
        release()
    Path(sys.argv[4]).write_text(json.dumps(answers))


ACCEPTED = "vllm:spec_decode_num_accepted_tokens"
Sequence = list[tuple[int, float]]


def generate(
    job: dict[str, Any], given: list[Sequence] | None, tensor: int, pipeline: int
) -> tuple[list[Sequence], int]:
    """Chosen tokens and their log-probabilities, of each prompt, or those of the tokens `given`; and how many tokens
    were drafted and taken.
    """
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.lora.request import LoRARequest

    drafts = "speculative_config" in job["options"]
    engine = LLM(
        model=job["checkpoint"],
        dtype=job["dtype"],
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        distributed_executor_backend="external_launcher" if tensor * pipeline > 1 else "uni",
        max_model_len=512,
        max_num_seqs=8,
        enable_prefix_caching=False,
        disable_log_stats=not drafts,
        # Eager execution on CPU leaves out what pipeline stages need; tracing without a compiler is quick.
        **({"compilation_config": {"mode": 2, "backend": "eager"}} if pipeline > 1 else {"enforce_eager": True}),
        **job["options"],
    )
    continuations = [[token for token, _ in sequence] for sequence in given or [[] for _ in job["prompts"]]]
    outputs = engine.generate(
        [
            TokensPrompt(prompt_token_ids=[*prompt, *continuation])
            for prompt, continuation in zip(job["prompts"], continuations, strict=True)
        ],
        SamplingParams(
            temperature=0,
            max_tokens=1 if given else job["tokens"],
            ignore_eos=True,
            detokenize=False,
            logprobs=0,
            prompt_logprobs=0 if given else None,
        ),
        use_tqdm=False,
        lora_request=LoRARequest("adapter", 1, job["adapter"]) if job["adapter"] else None,
    )
    if given:
        chosen = continuations
        logprobs = [output.prompt_logprobs[-job["tokens"] :] for output in outputs]
    else:
        chosen = [output.outputs[0].token_ids for output in outputs]
        logprobs = [output.outputs[0].logprobs for output in outputs]
    sequences = [
        [(token, entry[token].logprob) for token, entry in zip(tokens, entries, strict=True)]
        for tokens, entries in zip(chosen, logprobs, strict=True)
    ]
    counters = engine.get_metrics() if drafts else []
    return sequences, sum(int(counter.value) for counter in counters if counter.name == ACCEPTED)


def release() -> None:
    """End the engine's groups, so that the next one starts as if it were the first."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()
