"""The error tree of Conclave, from which the CLI takes messages and exit codes.

ConclaveError
    InvalidInput          what the user gave is refused before anything changes
        NotServed         it is well-formed, and the engine or this release cannot serve it: no correction helps
            NotPlanned    the engine serves it, and this release cannot plan it
    UnknownModel          neither the catalogue nor a config.json describes the model
    NothingFits           no plan exists; carries the reasons and what would help
    EnvironmentUnfit      this machine or cluster cannot do it; carries the remedy
"""

from __future__ import annotations


class ConclaveError(Exception):
    """An error whose message names the object, the value seen, the value expected and the remedy."""

    exit_code = 1


class InvalidInput(ConclaveError):
    """What the user gave is refused; nothing was changed."""

    exit_code = 2


class NotServed(InvalidInput):
    """What the user gave is well-formed, and the engine or this release cannot serve it."""


class NotPlanned(NotServed):
    """The engine serves what the user gave, and this release cannot plan it."""


ANOTHER_CHECKPOINT = "use another checkpoint of the model, such as the unquantized one"
"""What to do about NotServed, where nothing else is said."""


class UnknownModel(InvalidInput):
    """Neither the catalogue nor a config.json describes the model."""


class NothingFits(ConclaveError):
    """No plan exists for this model on this inventory."""

    exit_code = 2


class EnvironmentUnfit(ConclaveError):
    """This machine or cluster lacks something; the message names the remedy."""

    exit_code = 3
