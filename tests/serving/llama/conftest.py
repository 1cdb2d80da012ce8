"""The one engine of this folder; it ends with the folder's last test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.serving.llama.served import Llama, running_llama


@pytest.fixture(scope="package")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    with running_llama(tmp_path_factory.mktemp("up")) as running:
        yield running
