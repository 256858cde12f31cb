"""How a controller logs: one JSON object a line on standard error. Owns the format only."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from telemetry.context import current

_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "taskName",
}


class JsonFormatter(logging.Formatter):
    """One line a record: time, level, logger, message, the span it was logged in, and what was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        seconds, milliseconds = int(record.created), int(record.msecs)
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            + f".{milliseconds:03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        trace = current()
        if trace is not None:
            line["trace_id"] = f"{trace.trace_id:032x}"
            line["span_id"] = f"{trace.span_id:016x}"
        line.update({k: v for k, v in record.__dict__.items() if k not in _STANDARD})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(level: str) -> None:
    """Sends all logging to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
