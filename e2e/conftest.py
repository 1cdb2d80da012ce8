"""One site for the whole session: a cluster that is up stays up for the next run (`make cluster-down` ends it)."""

from __future__ import annotations

import pytest
from e2e.bed.site import Site, make_site, weights_folder


@pytest.fixture(scope="session")
def site() -> Site:
    return make_site(weights_folder())
