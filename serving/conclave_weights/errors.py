"""What can be wrong with a directory of weights.

WeightsUnfit            the directory cannot be served as it is; names the file and the remedy
    DigestMismatch      complete and readable, but not the weights that the digest names
    WeightsUnreadable   the files cannot be read: rights, a broken mount, an input/output error
    DownloadFailed      an object store or a hub did not send the weights, or the disk has no room
    ConfigMissing       there is no config.json
    ConfigInvalid       config.json does not describe a model that can be planned
    ArchitectureUnknown config.json describes a model that is not served
"""

from __future__ import annotations

from conclave.errors import ConclaveError


class WeightsUnfit(ConclaveError):
    """The weights are missing, damaged or of a kind that is not loaded; nothing was started."""

    exit_code = 4


class DigestMismatch(WeightsUnfit):
    """The files are not the files that the digest names."""


class WeightsUnreadable(WeightsUnfit):
    """The file system does not let the files be read."""


class DownloadFailed(WeightsUnfit):
    """The weights did not arrive whole. What arrived is kept, and the next download continues there."""


class ConfigMissing(WeightsUnfit):
    """The directory has no config.json."""


class ConfigInvalid(WeightsUnfit):
    """config.json is not JSON, or contradicts itself or the engine."""


class ArchitectureUnknown(WeightsUnfit):
    """config.json describes a model that Conclave or its engine does not serve."""
