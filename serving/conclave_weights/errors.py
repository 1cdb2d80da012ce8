"""What can be wrong with a directory of weights.

WeightsUnfit            the directory cannot be served as it is; names the file and the remedy
    DigestMismatch      complete and readable, but not the weights that the digest names
    WeightsUnreadable   nothing is known of them: rights, a broken mount, an input/output error
    DownloadFailed      an object store did not give them, or they found no room
    ConfigMissing       there is no config.json
    ConfigInvalid       config.json is none of a model that can be planned
    ArchitectureUnknown config.json names an architecture that is not served
"""

from __future__ import annotations

from conclave.errors import ConclaveError


class WeightsUnfit(ConclaveError):
    """The weights are missing, damaged or of a kind that is not loaded; nothing was started."""

    exit_code = 4


class DigestMismatch(WeightsUnfit):
    """The files are not those that the digest names."""


class WeightsUnreadable(WeightsUnfit):
    """The file system does not let them be read."""


class DownloadFailed(WeightsUnfit):
    """They did not arrive whole; what did arrive is kept, and the next try goes on from there."""


class ConfigMissing(WeightsUnfit):
    """No config.json lies beside the weights."""


class ConfigInvalid(WeightsUnfit):
    """config.json is no JSON, or contradicts itself or the engine."""


class ArchitectureUnknown(WeightsUnfit):
    """config.json is of a model that nobody here serves."""
