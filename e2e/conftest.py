"""One site for the whole session; its cluster ends with it, unless $CONCLAVE_E2E_KEEP leaves it to the next."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from e2e.bed.dense import Dense, Expected
from e2e.bed.models import Model, Running
from e2e.bed.site import Site, end_cluster, make_site, weights_folder


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    site = make_site(weights_folder())
    yield site
    if site.is_ours and not os.environ.get("CONCLAVE_E2E_KEEP"):
        end_cluster()


@pytest.fixture(scope="session")
def running(site: Site) -> Iterator[Running]:
    """The one model that runs; the modules that share one stand side by side in the alphabet."""
    running = Running(site)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def dense(site: Site) -> Dense:
    return Dense(site)


@pytest.fixture(scope="session")
def dense_expected(dense: Dense, running: Running) -> Expected:
    """While no pods of a model take the memory."""
    running.stop()
    return dense.expected()


@pytest.fixture(scope="module")
def dense_model(dense: Dense, dense_expected: Expected, running: Running) -> Model:  # noqa: ARG001 - made first
    manifest = dense.manifest()
    model = running.only(manifest, gpus=[1, 1], prepare=dense.prepare)
    model.wait_until_ready()
    return model
