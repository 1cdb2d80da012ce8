"""The table of Conclave's kinds. tools/generate.py writes a CRD for each kind in the table."""

from __future__ import annotations

from conclave.api.kind import Kind
from conclave.api.modeldeployment.resource import MODEL_DEPLOYMENT

KINDS: tuple[Kind, ...] = (MODEL_DEPLOYMENT,)
