"""The Serve configs that versions of the operator write, as types: a Serve config can name any function of any module.

Read by `check`, as `recorded` is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conclave import names
from conclave.api.modeldeployment import METHODS_WITH_DRAFT
from conclave.engine.arguments import ServingArguments, SpeculativeArguments
from conclave.engine.load_bounds import ENGINE, INGRESS
from conclave.engine.serve_config import IMPORT_PATH
from conclave.modeldeployment.records.recorded import first_difference
from conclave.policy.arguments import engine_argument_list, environment_list

_COMPILATION = {"mode": 2, "backend": "eager"}
"""`compilation_config` where builders set it themselves. It can name any function of any module as the compiler."""

_LONGEST_INTEGER_BITS = 64
_PLANNED = "kv_cache_memory_bytes"
"""Where there is no GPU, builders set it to what the plan says, be it less than a spec may ask for."""


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


class _Loader(yaml.SafeLoader):
    """Without aliases, which builders do not write: merged ones make gigabytes of a few lines."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


@lru_cache(maxsize=256)
def serve_config_difference(text: str, name: str) -> str:
    """What no build would have written for a deployment of this name, empty where there is nothing.

    Remembered, since reading YAML takes a while and records do not change.
    """
    try:
        config = _ServeConfig.model_validate(yaml.load(text, _Loader))  # noqa: S506 - a SafeLoader that takes less
    except ValidationError as error:
        return first_difference(error)
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        return f"it cannot be read as YAML ({type(error).__name__})"
    (application,) = config.applications
    arguments = application.args
    draft = arguments.engine.speculative_config
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
        "draft path": (draft.model if draft else None, _draft_path(draft)),
        "deployments": ([deployment.name for deployment in application.deployments], [ENGINE, INGRESS]),
        "engine arguments outside the allowlist": (sorted(_outside(arguments.engine.extra)), []),
        "environment outside the allowlist": (environment_list().problems(arguments.env), []),
    }
    return next((f"{part}: {seen}, expected {wanted}" for part, (seen, wanted) in pairs.items() if seen != wanted), "")


def _draft_path(draft: SpeculativeArguments | None) -> str | None:
    """Where builders have the files of a draft that has files."""
    return names.DRAFT_PATH if draft and draft.method in METHODS_WITH_DRAFT else None


def _outside(arguments: dict[str, object]) -> Iterator[str]:
    """Names of arguments that no spec can set to their values."""
    allowed = engine_argument_list().allowed
    for name, value in arguments.items():
        if (name == "compilation_config" and value == _COMPILATION) or (name == _PLANNED and isinstance(value, int)):
            continue
        setting, text = allowed.get(name), _spelled(value)
        if setting is None or text is None or not setting.accepts(text) or setting.typed(text) != value:
            yield name


def _spelled(value: object) -> str | None:
    """As a spec has it; None of what no spec can hold."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if value.bit_length() < _LONGEST_INTEGER_BITS else None
    if isinstance(value, float):
        return f"{value:f}"
    return value if isinstance(value, str) else None
