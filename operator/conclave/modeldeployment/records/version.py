"""Which version of Conclave wrote a record, and what this one does with a newer version's: it leaves all as it is.

A ControllerRevision says the version in an annotation, so that no hash changes with it and 0.1.0, which wrote none,
still reads the record. Whether a record is one of ours is `records.check`'s question (docs/adr/0020).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from conclave import __version__, names
from conclave.kubernetes.objects import JsonObject

_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})\.[0-9]{1,4}([a-z+.-][a-z0-9+.-]{0,19})?")
_MOST_NAMED = 5


class NewerRecord(NamedTuple):
    """A record that a newer version of Conclave wrote."""

    namespace: str
    name: str
    version: str
    number: int


def annotated(version: str) -> dict[str, str]:
    """The annotation of a record that this version wrote; none for one that was written before there was any."""
    return {names.RECORD_VERSION: version} if version else {}


def written_by(revision: JsonObject) -> str:
    """The version that a ControllerRevision declares; empty where it declares none."""
    annotations = revision["metadata"].get("annotations") or {}
    return str(annotations.get(names.RECORD_VERSION, ""))


def is_version(text: str) -> bool:
    return _VERSION.fullmatch(text) is not None


def is_newer(version: str, than: str = __version__) -> bool:
    """Whether a version may record what the other one cannot read. Versions that differ in their last number only read
    each other's records: 0.2.0 and 0.2.7 do, 0.2.7 and 0.3.0 do not.
    """
    return _release(version) > _release(than)


def newer_records(revisions: Iterable[JsonObject]) -> tuple[NewerRecord, ...]:
    """Records of newer versions, the latest first. They are not read: their data may have any shape."""
    found = [
        NewerRecord(
            namespace=revision["metadata"].get("namespace", ""),
            name=revision["metadata"]["name"],
            version=written_by(revision),
            number=int(revision.get("revision", 0)),
        )
        for revision in revisions
        if is_newer(written_by(revision))
    ]
    return tuple(sorted(found, key=lambda record: record.number, reverse=True))


def too_new(records: tuple[NewerRecord, ...]) -> tuple[str, str]:
    """What is seen of a deployment whose latest records are these, and the remedy."""
    latest = records[0]
    listed = " ".join(record.name for record in records[:_MOST_NAMED])
    seen = (
        f"ControllerRevision {latest.namespace}/{latest.name} was written by Conclave {latest.version}, and this "
        f"operator is Conclave {__version__}, which does not read records of a newer version. The operator leaves "
        f"everything of this ModelDeployment as it is and carries out no edit of it"
    )
    remedy = (
        f"run the operator of Conclave {latest.version} or newer; or have this operator plan the model anew, which "
        f"may replace its pods: `kubectl -n {latest.namespace} delete controllerrevision {listed}`"
    )
    return seen, remedy


def _release(version: str) -> tuple[int, int]:
    """The first two numbers; (0, 0) where there is none, as in 0.1.0's records and in what is no version."""
    found = _VERSION.fullmatch(version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
