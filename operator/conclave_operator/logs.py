"""Log lines of the operator: text for people, one JSON object a line for machines. No secret and no prompt."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from conclave.visible_text import visible

LogFormat = Literal["text", "json"]
_FIELDS = ("deployment", "namespace", "result", "written", "duration_s")
"""What callers may pass as `extra`."""


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, the extra fields, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {field: getattr(record, field) for field in _FIELDS if hasattr(record, field)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """A line for people; what events, pods and specs put into it cannot steer the terminal that shows it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def set_up_logs(log_format: LogFormat, level: int = logging.INFO) -> None:
    """One handler on stderr for everything; libraries only where something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("conclave_operator", "conclave_cluster"):
        logging.getLogger(name).setLevel(level)
