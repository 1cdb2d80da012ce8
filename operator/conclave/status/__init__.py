"""Pure status: conditions from what was observed and done, and the root cause of what is not as it should be."""

from conclave.status.derive import derive_status
from conclave.status.finding import Finding
from conclave.status.root_cause import explain

__all__ = ["Finding", "derive_status", "explain"]
