"""Log lines: one event each, readable by people and by programs.

Owns their form: `time level event key=value …`, values quoted when they need it. Decides nothing.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from telemetry.context import current

LOGGER_NAME = "souverix.node"


class EventLines(logging.Formatter):
    """Writes a record as one line: time, level, event, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for one record; an exception follows as a quoted field."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        trace = current()
        if trace is not None:
            fields["trace_id"] = f"{trace.trace_id:032x}"
            fields["span_id"] = f"{trace.span_id:016x}"
        words = [time.replace("+00:00", "Z"), record.levelname.lower(), record.getMessage()]
        words += [f"{key}={_value(value)}" for key, value in fields.items()]
        return " ".join(words)


class EventLog:
    """Logs events of one node (or of the whole process when `node` is empty)."""

    def __init__(self, node: str = "") -> None:
        self._node = node
        self._logger = logging.getLogger(LOGGER_NAME)

    def info(self, event: str, **fields: object) -> None:
        """Something that is part of normal life."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something that should not happen often, and that the agent copes with."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Something that a person should look at."""
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        named = {"node": self._node, **fields} if self._node else fields
        self._logger.log(level, event, extra={"fields": named})


def set_up_logs(level: str) -> None:
    """Send log lines of `level` and above ("info", "warning", "error") to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventLines())
    logger = logging.getLogger(LOGGER_NAME)
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())


def _value(value: object) -> str:
    text = str(value)
    plain = text and all(letter.isprintable() and letter not in ' "=' for letter in text)
    return text if plain else json.dumps(text, ensure_ascii=False)
