"""One site for the whole session, on a cluster that begins and ends with it.

$CONCLAVE_E2E_KEEP takes what cluster there is and leaves it to the next session; $CONCLAVE_E2E_KUBECONFIG is another's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.bed.dense import Dense
from e2e.bed.models import Model, Running
from e2e.bed.references import Continuations, greedy_tokens
from e2e.bed.site import Site, end_cluster, make_site, weights_folder


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    has_own_cluster = not any(map(os.environ.get, ("CONCLAVE_E2E_KUBECONFIG", "CONCLAVE_E2E_KEEP")))
    if has_own_cluster:
        end_cluster()  # of a session that was cut off: its models, and pods that started anew, are not this one's
    try:
        site = make_site(weights_folder())
        yield site
        restarts = site.operator_restarts()
        assert not restarts, "\n".join(restarts)
    finally:
        if has_own_cluster:
            end_cluster()


@pytest.fixture(scope="session")
def local_site(site: Site) -> Site:
    """For what brings images of its own into the nodes; skips on a given cluster."""
    if not site.is_ours:
        pytest.skip("brings images of its own into the nodes: on the cluster of `make cluster` only")
    return site


@pytest.fixture(scope="session")
def running(site: Site) -> Iterator[Running]:
    """The one model that runs; the modules that share one stand side by side in the alphabet."""
    running = Running(site)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def dense(local_site: Site) -> Dense:
    return Dense(local_site)


@pytest.fixture(scope="session")
def bare_vllm(site: Site, running: Running) -> dict[Path, Continuations]:
    """What bare vLLM says for each checkpoint and adapter; made before the first model of a module that asks for it."""
    running.stop()  # its pods would take the memory
    checkpoints = [site.checkpoint(name) for name in ("mixtral", "dbrx", "grok-1", "llama-3")]
    return greedy_tokens(checkpoints, {site.adapter("llama-3"): site.checkpoint("llama-3")})


@pytest.fixture(scope="module")
def dense_model(
    request: pytest.FixtureRequest,
    local_site: Site,  # noqa: ARG001 - skips before anything is made
    dense: Dense,
    running: Running,
) -> Model:
    if any("bare_vllm" in item.fixturenames for item in request.session.items):
        request.getfixturevalue("bare_vllm")  # first: it ends the model that runs
    model = running.only(dense.manifest(), gpus=[1, 1], prepare=dense.prepare)
    model.wait_until_ready()
    return model
