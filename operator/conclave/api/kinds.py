"""The table of Conclave's kinds. A kind that stands here has a CRD; tools/generate.py writes one file for each."""

from __future__ import annotations

from conclave.api.kind import Kind
from conclave.api.modeldeployment.resource import MODEL_DEPLOYMENT

KINDS: tuple[Kind, ...] = (MODEL_DEPLOYMENT,)
