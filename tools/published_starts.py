"""Published start-ups of vLLM (tests/data/published) beside what the plan says of them.

Used by the tests that judge the plan, and by tools/generate.py, which writes the comparison to docs/plan-accuracy.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml

from conclave.api.modeldeployment import Dtype, KvCacheDtype, Quantization
from conclave.catalogue.facts import read_config
from conclave.catalogue.models import find_model
from conclave.catalogue.shapes import ModelFacts
from conclave.planning.evaluate import Device, Fit, Misfit, evaluate
from conclave.planning.layout import Layout
from conclave.planning.memory import (
    GRAMMAR_BYTES_PER_LOGIT,
    PENALTY_BYTES_PER_LOGIT,
    UNCERTAIN_SHARE,
    compile_bytes,
    forward_bytes,
    graph_bytes,
    logits_bytes,
    rotary_bytes,
    sampler_state_bytes,
)
from conclave.planning.settings import (
    EngineSettings,
    batch_sizes,
    expert_tiles,
    largest_graph_tokens,
    weight_dtype,
    weight_format,
)
from conclave.planning.weights import DTYPE_BYTES, weight_bytes

GIB = 2**30
PUBLISHED = Path(__file__).parents[1] / "tests" / "data" / "published"


class Reserve(NamedTuple):
    """What a version of vLLM sets aside beside weights and the forward pass."""

    bytes_per_logit: float
    """Peak of the sampler while vLLM profiles it."""
    counts_graphs: bool


SORTING = Reserve(38.5, counts_graphs=False)
"""Until 0.16: the sampler sorts float32 logits with their indices."""
FIRST_RUNNER = Reserve(18, counts_graphs=False)
"""From 0.17: logits in 16 bits and in float32, their probabilities, and the noise that they are divided by."""
WITH_GRAPHS = Reserve(18, counts_graphs=True)
"""From 0.21: the same, and graphs are counted."""
_SECOND_RUNNER_SINCE = {"Qwen3ForCausalLM": (0, 22), "LlamaForCausalLM": (0, 23), "MistralForCausalLM": (0, 23)}
"""When vLLM's second model runner, which is the shipped version's, became the usual one for a class. From 0.25 it was
for all dense models, from 0.29 for all."""


def reserve_of(version: tuple[int, ...], facts: ModelFacts) -> Reserve | None:
    """Of a version, by its major and minor number; None where it is today's."""
    since = _SECOND_RUNNER_SINCE.get(facts.architecture, (0, 29) if facts.moe else (0, 25))
    if not version or version >= since:
        return None
    return WITH_GRAPHS if version >= (0, 21) else FIRST_RUNNER if version >= (0, 17) else SORTING


class Start(NamedTuple):
    """One published start-up."""

    values: dict[str, Any]

    @property
    def observed(self) -> dict[str, Any]:
        observed: dict[str, Any] = self.values["observed"]
        return observed

    @property
    def is_current(self) -> bool:
        """Whether vLLM still does what the log shows; where not, the row says what changed."""
        return "changed_since" not in self.values

    @property
    def facts(self) -> ModelFacts:
        model: str = self.values["model"]
        stored = PUBLISHED / "configs" / f"{model.replace('/', '--')}.json"
        entry = find_model(model)
        if stored.exists():
            return read_config(json.loads(stored.read_text("utf-8")))
        assert entry is not None, model
        return read_config(entry.config)

    @property
    def layout(self) -> Layout:
        return Layout(
            tensor=self.values["tensor"],
            pipeline=self.values.get("pipeline", 1),
            data=self.values.get("data", 1),
            expert_parallel=self.values.get("expert_parallel", False),
        )

    @property
    def settings(self) -> EngineSettings:
        stored = self.facts.weight_format
        return EngineSettings(
            dtype=Dtype(self.values.get("dtype", "auto")),
            quantization=Quantization(self.values.get("quantization", "none")) if stored is None else Quantization.NONE,
            kv_cache_dtype=KvCacheDtype(self.values.get("kv_cache_dtype", "auto")),
            max_model_len=self.values.get("max_model_len"),
            gpu_memory_utilization=self.values["gpu_memory_utilization"],
            max_num_seqs=self.values.get("max_num_seqs"),
            max_num_batched_tokens=self.values.get("max_num_batched_tokens"),
            block_size=self.values.get("block_size"),
            enforce_eager=self.values.get("enforce_eager", False),
        )

    @property
    def device(self) -> Device | None:
        memory = int(self.values.get("gpu_memory_gib", 0) * GIB)
        product = self.values.get("accelerator")
        if product is None and not memory:
            return None
        return Device.of(product or "unnamed", memory)

    @property
    def planned_weights_gib(self) -> float:
        facts, settings, device = self.facts, self.settings, self.device
        accelerator = device.match.accelerator if device and device.match else None
        if self.values.get("mxfp4_kernel") == "marlin":
            accelerator = None
        dtype = weight_dtype(facts, settings)
        stages = weight_bytes(
            facts,
            self.layout,
            dtype,
            weight_format(facts, settings),
            expert_tiles(accelerator, on_cpu=False),
        )
        return (max(stages) + rotary_bytes(facts, DTYPE_BYTES[dtype])) / GIB

    @property
    def weights_error(self) -> float | None:
        """Planned weights against the observed ones, as a share of these."""
        observed: float | None = self.observed.get("weights_gib_per_gpu")
        return None if observed is None else self.planned_weights_gib / observed - 1

    @property
    def kv_cache_excess_gib(self) -> float | None:
        """Planned KV cache less the observed one, where it fitted there and here."""
        planned = self.planned
        observed: float | None = self.observed.get("kv_cache_gib_per_gpu")
        if self.observed["outcome"] != "fits" or observed is None or not isinstance(planned, Fit):
            return None
        return planned.memory.kv_cache / GIB - observed

    @property
    def kv_cache_error(self) -> float | None:
        """The same as a share of the observed one."""
        excess = self.kv_cache_excess_gib
        observed: float = self.observed.get("kv_cache_gib_per_gpu", 0)
        return None if excess is None else excess / observed

    @property
    def version(self) -> tuple[int, ...]:
        """Of vLLM, major and minor; nothing where it is not stated."""
        return tuple(map(int, re.findall(r"\d+", self.values["vllm_version"])[:2]))

    @property
    def planned_now(self) -> Fit | Misfit | None:
        """What the plan says of the shipped version."""
        return evaluate(self.facts, self.settings, self.device, self.layout) if self.device else None

    @property
    def planned(self) -> Fit | Misfit | None:
        """The same with what the row's version set aside, in place of what today's does."""
        if self.device is None:
            return None
        share = self.settings.gpu_memory_utilization - self._further_bytes(self.device) / self.device.memory_bytes
        settings = self.settings.model_copy(update={"gpu_memory_utilization": share})
        return evaluate(self.facts, settings, self.device, self.layout)

    def _further_bytes(self, device: Device) -> int:
        """What the row's version set aside on a GPU, less what today's does."""
        facts, settings, layout = self.facts, self.settings, self.layout
        then = reserve_of(self.version, facts)
        if then is None:
            return 0
        accelerator = device.match.accelerator if device.match else None
        tokens, sequences = batch_sizes(settings, accelerator, device.memory_bytes, layout.gpus, on_cpu=False)
        dtype_bytes = DTYPE_BYTES[weight_dtype(facts, settings, accelerator)]
        forward = forward_bytes(facts, layout, dtype_bytes, tokens)
        logits = logits_bytes(facts, layout, dtype_bytes, tokens=tokens, sequences=sequences)
        compiled = 0 if settings.enforce_eager else compile_bytes(facts, layout, dtype_bytes, tokens)
        now = max(forward, logits, compiled) + sampler_state_bytes(facts, sequences, settings.step_tokens)
        before = max(forward, int(min(sequences, tokens) * facts.vocab * then.bytes_per_logit))
        if not then.counts_graphs and not settings.enforce_eager:
            stage = len(layout.stages(len(facts.layers))[-1])
            now += graph_bytes(stage, largest_graph_tokens(settings, accelerator, tokens, sequences))
        return before - now


def read_starts() -> tuple[Start, ...]:
    """Every row, in the order of the files."""
    files = sorted(PUBLISHED.glob("*.yaml"))
    return tuple(Start(values) for path in files for values in yaml.safe_load(path.read_text("utf-8")))


def accuracy_page() -> str:
    """docs/plan-accuracy.md."""
    starts = read_starts()
    recent = [start for start in starts if start.version >= (0, 17)]
    excesses = [excess for start in starts if (excess := start.kv_cache_excess_gib or 0) > 0]
    unfit = [start for start in starts if start.observed["outcome"] == "oom"]
    refused = [start for start in starts if start.observed["outcome"] == "refused"]
    wrong = sum(isinstance(start.planned, Fit) for start in unfit)
    fitted = [start for start in starts if start.observed["outcome"] == "fits" and start.planned is not None]
    tight = sum(isinstance(start.planned, Fit) and start.planned.tight for start in starts)
    lost = sum(isinstance(start.planned, Misfit) for start in fitted)
    return "\n".join(
        [
            "# How far the plan is from published start-ups",
            "",
            "Generated by tools/generate.py from tests/data/published, which names the source of every row.",
            "",
            "Each row is the log of a start-up that somebody else has published: vLLM 0.5 to 0.26, on their hardware.",
            "The plan counts as vLLM 0.32 does; a row is judged with what its own version set aside for the sampler",
            "and for graphs. No row was left out for its error. Logs of architectures that the plan does not read are",
            "not in the data. *There* is the published start-up, *here* is the plan.",
            "",
            f"- Weights on a GPU: {_summary(starts, 'weights_error')}.",
            f"- KV cache on a GPU, where it fitted there and here: {_summary(starts, 'kv_cache_error')}.",
            f"- The same for vLLM 0.17 and later: {_summary(recent, 'kv_cache_error')}.",
            f"- The plan's KV cache is larger than the real one: {len(excesses)} rows, by at most"
            f" {max(excesses):.2f} GiB.",
            f"- Did not fit there: {len(unfit)} rows; the plan says that {wrong} of them fit.",
            f"- Fitted there: {len(fitted)} rows with known hardware; the plan says that {lost} of them do not fit.",
            f"- Tight here, that is, less than {UNCERTAIN_SHARE:.1%} of a GPU is left: {tight} rows.",
            f"- Parallel sizes refused there: {len(refused)} rows; later versions of vLLM accept"
            f" {sum(not start.is_current for start in refused)} of them.",
            "",
            f"In {sum(not start.is_current for start in starts)} rows vLLM has changed since"
            " (`changed_since` in the data says how).",
            "The plan follows today's vLLM, and is judged on the other rows.",
            "",
            "| vLLM | The sampler's part of the profile | Graphs |",
            "|---|---|---|",
            f"| until 0.16 | {SORTING.bytes_per_logit} bytes for each word and sequence: it sorts | not counted |",
            f"| 0.17 to 0.20 | {FIRST_RUNNER.bytes_per_logit} bytes | not counted |",
            f"| from 0.21, first model runner | {WITH_GRAPHS.bytes_per_logit} bytes | counted |",
            "| second model runner: Qwen3 since 0.22, Llama and Mistral since 0.23, dense models since 0.25, all since"
            f" 0.29 | the logits, and {PENALTY_BYTES_PER_LOGIT + GRAMMAR_BYTES_PER_LOGIT} bytes that stay | counted |",
            "",
            "A card of 80 GB has 1024 sequences, so that 0.32 leaves 2 to 6 GiB more KV cache than 0.16 did: the last",
            "column. A smaller `max_num_seqs` frees more. The largest errors are in KV caches below 6 GiB.",
            "",
            "A plan is tight if one request of full length leaves less KV cache than that share of a GPU. The kernels",
            "of 4-bit weights take memory that the plan does not count, so a tight plan with a fixed length is refused",
            "for them. With other weights the plan is accepted and says that it is tight. If the spec fixes no length,",
            "the plan takes a shorter one.",
            "",
            "In the table: GiB on a GPU, observed -> planned; in the last column, KV cache as planned for 0.32.",
            "",
            "| Start-up | vLLM | Parallel | Weights | Error | KV cache | Error | There | Here | 0.32 |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *_lines(starts),
            "",
        ]
    )


def _summary(starts: Sequence[Start], error: str) -> str:
    known = [start for start in starts if getattr(start, error) is not None]
    current = [start for start in known if start.is_current]
    said = _figures([getattr(start, error) for start in current])
    if len(current) == len(known):
        return said
    return (
        f"{said}; with the rows in which vLLM has changed since: {_figures([getattr(start, error) for start in known])}"
    )


def _figures(errors: Sequence[float]) -> str:
    sizes = [abs(error) for error in errors]
    return f"{len(sizes)} rows, median error {median(sizes):.1%}, largest {max(sizes):.1%}"


def _lines(starts: Sequence[Start]) -> Iterator[str]:
    for start in starts:
        observed, planned = start.observed, start.planned
        weights, pool = observed.get("weights_gib_per_gpu"), observed.get("kv_cache_gib_per_gpu")
        fit = planned if isinstance(planned, Fit) else None
        cells = [
            f"[{start.values['id']}]({_link(start.values['source'])})",
            start.values["vllm_version"],
            _sizes(start),
            "" if weights is None else f"{weights:.2f} -> {start.planned_weights_gib:.2f}",
            _percent(start.weights_error),
            "" if pool is None else f"{pool:.2f}" + (f" -> {fit.memory.kv_cache / GIB:.2f}" if fit else ""),
            _percent(start.kv_cache_error),
            observed["outcome"],
            _said(planned),
            f"{now.memory.kv_cache / GIB:.2f}" if isinstance(now := start.planned_now, Fit) else _said(now),
        ]
        yield f"| {' | '.join(cells)} |"


def _said(planned: Fit | Misfit | None) -> str:
    if isinstance(planned, Fit):
        return "tight" if planned.tight else "fits"
    return "" if planned is None else "does not fit"


def _sizes(start: Start) -> str:
    pipeline = f" PP{start.layout.pipeline}" if start.layout.pipeline > 1 else ""
    return f"TP{start.layout.tensor}{pipeline}{' EP' if start.layout.expert_parallel else ''}"


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:+.1%}"


def _link(source: str) -> str:
    repository, _, path = source.partition(": ")
    return f"https://{repository}/blob/HEAD/{path.replace(' ', '%20')}" if path else f"https://{repository}"
