"""The contract between the builders and `conclave_serving.app:build`: what the Serve config's `args` hold.

The builders write it, the Serve application validates it again on arrival. It carries paths of secrets, never secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

RAY_ENVIRONMENT: Mapping[str, str] = {
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "conclave_serving.proxy.middlewares",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment of every Ray process, from its start: what a Serve config cannot say, since it reaches replicas only."""

TOKEN_FILE_VARIABLE = "CONCLAVE_TOKEN_FILE"  # noqa: S105 - a variable's name
"""The file with the endpoint's token, for Serve's proxies; the ingress has `token_path`."""
CONNECTIONS_PER_ADDRESS_VARIABLE = "CONCLAVE_CONNECTIONS_PER_ADDRESS"
CONNECTIONS_EXEMPT_VARIABLE = "CONCLAVE_CONNECTIONS_EXEMPT_CIDRS"
"""Networks with spaces between them, whose addresses have no bound of their own."""


class _Arguments(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SpeculativeArguments(_Arguments):
    """vLLM's speculative_config; names are vLLM's own. What is unset is left out."""

    method: Literal["ngram", "eagle", "eagle3", "mtp"]
    num_speculative_tokens: int = Field(ge=1)
    prompt_lookup_max: int | None = Field(default=None, exclude_if=lambda tokens: tokens is None)
    prompt_lookup_min: int | None = Field(default=None, exclude_if=lambda tokens: tokens is None)
    model: str | None = Field(default=None, exclude_if=lambda path: path is None)
    """Directory of the draft's files on every pod (or on this machine)."""


class EngineArguments(_Arguments):
    """What vLLM is started with; names are vLLM's own."""

    tensor_parallel_size: int = Field(ge=1)
    pipeline_parallel_size: int = Field(ge=1)
    enable_expert_parallel: bool = False
    max_model_len: int = Field(ge=1)
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    speculative_config: SpeculativeArguments | None = Field(default=None, exclude_if=lambda config: config is None)
    """Left out where nothing is drafted, as older serving images expect."""
    extra: dict[str, object] = Field(default_factory=dict)
    """Allowlisted extra engine arguments, already typed, names with underscores."""


class AdapterArguments(_Arguments):
    """A LoRA adapter that every replica loads."""

    name: str
    """The model name that clients send."""
    path: str
    """Directory of its files on every pod (or on this machine)."""
    max_rank: int = Field(ge=1)
    """Of the ranks that vLLM has kernels for, one that is at least the adapter's."""


class PlacementArguments(_Arguments):
    """The placement group of one replica: one bundle a rank."""

    device: Literal["gpu", "cpu"]
    bundles: int = Field(ge=1)
    """tensor x pipeline one-device bundles."""
    strategy: Literal["PACK", "STRICT_PACK", "STRICT_SPREAD"]


class AutoscalingArguments(_Arguments):
    """Ray Serve autoscaling, for the engine and (from the same figures) the ingress."""

    min_replicas: int = Field(ge=0)
    max_replicas: int = Field(ge=1)
    target_ongoing_requests: int = Field(ge=1)
    """Requests in flight that one engine replica should carry."""
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0


class QueueArguments(_Arguments):
    """A bounded queue: further requests get 503 with Retry-After."""

    max_ongoing_requests: int = Field(ge=1)
    """Requests in flight that one engine replica accepts."""
    max_queued_requests: int = Field(ge=1)
    """Requests that wait at the ingress for an engine replica."""
    retry_after_s: int = Field(default=5, ge=1)


class ServingArguments(_Arguments):
    """The arguments of one deployment's Serve application."""

    deployment: str
    """metadata.name: the Serve application and deployment names are made of it."""
    served_name: str
    """The model name that clients send."""
    model_path: str
    """Directory of the weights on every pod (or on this machine)."""
    token_path: str
    """File that holds the endpoint's bearer token; read at start, never logged."""
    engine: EngineArguments
    placement: PlacementArguments
    autoscaling: AutoscalingArguments = AutoscalingArguments(min_replicas=1, max_replicas=1, target_ongoing_requests=1)
    queue: QueueArguments = QueueArguments(max_ongoing_requests=1, max_queued_requests=1)
    """Both are left out of a Serve config, which has them as options of its deployments (`load_bounds`)."""
    adapters: tuple[AdapterArguments, ...] = Field(default=(), exclude_if=lambda adapters: not adapters)
    """Left out where there are none, as older serving images expect."""
    traces_url: str | None = Field(default=None, exclude_if=lambda url: url is None)
    """Where spans are sent, which the environment says to Ray's processes and this to vLLM; left out where nowhere."""
    env: dict[str, str] = Field(default_factory=dict)
    """Allowlisted environment of the engine's processes."""

    @property
    def models(self) -> tuple[str, ...]:
        """The model names that clients may send, the base model's first."""
        return (self.served_name, *(adapter.name for adapter in self.adapters))
