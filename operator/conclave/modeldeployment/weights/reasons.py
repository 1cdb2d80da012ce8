"""Reasons of conditions by the error that `conclave_weights` reports of files."""

from __future__ import annotations

from conclave.api.reasons import Reason

REASONS_OF_WEIGHTS = {
    "DigestMismatch": Reason.DIGEST_MISMATCH,
    "WeightsUnfit": Reason.WEIGHTS_CORRUPT,
    "WeightsUnreadable": Reason.WEIGHTS_UNREADABLE,
}
