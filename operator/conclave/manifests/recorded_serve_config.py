"""What builds of ours tell Ray Serve to run, as types: a Serve config can name any function of any module.

Read by `record_check`, as `recorded` is.
"""

from __future__ import annotations

from functools import lru_cache

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conclave.manifests import names
from conclave.manifests.load_bounds import ENGINE, INGRESS
from conclave.manifests.recorded import first_difference
from conclave.manifests.serve_config import IMPORT_PATH
from conclave.manifests.serving_arguments import ServingArguments
from conclave.policy.arguments import engine_argument_list, environment_list

_OWN_ARGUMENTS = ("kv_cache_memory_bytes", "enforce_eager", "compilation_config")
"""Engine arguments that builders set themselves where there is no GPU."""


class _Recorded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _HttpOptions(_Recorded):
    host: str
    port: int


class _Scaling(_Recorded):
    """Without `policy`, which names a function."""

    min_replicas: int
    max_replicas: int
    target_ongoing_requests: int
    upscale_delay_s: float
    downscale_delay_s: float


class _Deployment(_Recorded):
    """Without `ray_actor_options`, which name a runtime environment."""

    name: str
    autoscaling_config: _Scaling
    graceful_shutdown_timeout_s: float
    max_ongoing_requests: int
    max_queued_requests: int


class _Application(_Recorded):
    """Without `runtime_env`."""

    name: str
    route_prefix: str
    import_path: str
    args: ServingArguments
    deployments: list[_Deployment]


class _ServeConfig(_Recorded):
    proxy_location: str
    http_options: _HttpOptions
    applications: list[_Application] = Field(min_length=1, max_length=1)


@lru_cache(maxsize=256)
def serve_config_difference(text: str, name: str) -> str:
    """What no build would have written for a deployment of this name, empty where there is nothing.

    Remembered, since reading YAML takes a while and records do not change.
    """
    try:
        config = _ServeConfig.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        return first_difference(error)
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        return f"it cannot be read as YAML ({type(error).__name__})"
    (application,) = config.applications
    arguments = application.args
    allowed = {*engine_argument_list().allowed, *_OWN_ARGUMENTS}
    pairs: dict[str, tuple[object, object]] = {
        "application": (application.name, name),
        "import_path": (application.import_path, IMPORT_PATH),
        "deployment": (arguments.deployment, name),
        "model_path": (arguments.model_path, names.MODEL_PATH),
        "token_path": (arguments.token_path, names.TOKEN_PATH),
        "adapter paths": (
            [adapter.path for adapter in arguments.adapters],
            [names.adapter_path(adapter.name) for adapter in arguments.adapters],
        ),
        "deployments": ([deployment.name for deployment in application.deployments], [ENGINE, INGRESS]),
        "engine arguments outside the allowlist": (sorted(arguments.engine.extra.keys() - allowed), []),
        "nested engine arguments": (_nested(arguments.engine.extra), []),
        "environment outside the allowlist": (sorted(arguments.env.keys() - environment_list().allowed.keys()), []),
    }
    return next((f"{part}: {seen}, expected {wanted}" for part, (seen, wanted) in pairs.items() if seen != wanted), "")


def _nested(arguments: dict[str, object]) -> list[str]:
    """Those whose values are no plain ones; of a dictionary, its own values."""
    plain = (str, int, float, bool)
    return sorted(
        name
        for name, value in arguments.items()
        if not all(isinstance(part, plain) for part in (value.values() if isinstance(value, dict) else (value,)))
    )
