"""What can be wrong with a directory of weights.

WeightsUnfit            the directory cannot be served as it is; names the file and the remedy
    DigestMismatch      complete and readable, but not the weights that the digest names
    DownloadFailed      an object store did not give them, or they found no room
"""

from __future__ import annotations

from conclave.errors import ConclaveError


class WeightsUnfit(ConclaveError):
    """The weights are missing, damaged or of a kind that is not loaded; nothing was started."""

    exit_code = 4


class DigestMismatch(WeightsUnfit):
    """The files are not those that the digest names."""


class DownloadFailed(WeightsUnfit):
    """They did not arrive whole; what did arrive is kept, and the next try goes on from there."""
