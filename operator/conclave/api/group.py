"""The API group of all of Conclave's kinds, and its version."""

from __future__ import annotations

from typing import Literal

GROUP = "conclave.dev"
VERSION = "v1alpha1"
API_VERSION: Literal["conclave.dev/v1alpha1"] = "conclave.dev/v1alpha1"
