from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from controller import logs
from telemetry.context import begin
from telemetry.spans import Tracer


@pytest.fixture
def logger() -> logging.Logger:
    """A logger outside the tree, so that nothing is set up for the other tests."""
    return logging.Logger("souverix.test")


def line_of(record: logging.LogRecord) -> dict[str, object]:
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    parsed: dict[str, object] = json.loads(text)
    return parsed


def test_a_record_is_one_line_with_its_extras(logger: logging.Logger) -> None:
    record = logger.makeRecord(
        "souverix.test",
        logging.WARNING,
        "x.py",
        1,
        "lost %s\nof %d",
        ("one", 2),
        None,
        extra={"peer": "zone-control", "path": object},
    )
    line = line_of(record)
    assert line["message"] == "lost one\nof 2"
    assert (line["level"], line["logger"]) == ("warning", "souverix.test")
    assert line["peer"] == "zone-control"
    assert "object" in str(line["path"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line["time"]))
    assert set(line) == {"time", "level", "logger", "message", "peer", "path"}


def test_an_exception_is_told_with_its_place(logger: logging.Logger) -> None:
    try:
        raise ValueError("the cause")
    except ValueError:
        record = logger.makeRecord("t", logging.ERROR, "x.py", 1, "failed", (), sys.exc_info())
    line = line_of(record)
    assert "ValueError: the cause" in str(line["exception"])
    assert "test_logs.py" in str(line["exception"])


def test_messages_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    try:
        logs.set_up("warning")
        logging.getLogger("souverix.quiet").info("not told")
        logging.getLogger("souverix.loud").warning("told")
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["told"]


def test_a_line_logged_in_a_span_names_its_trace() -> None:
    context = begin()
    record = logging.LogRecord("a", logging.INFO, "", 0, "hello", (), None)
    with Tracer().span("x", parent=context):
        line = json.loads(logs.JsonFormatter().format(record))
    assert line["trace_id"] == f"{context.trace_id:032x}"
    assert line["span_id"] == f"{context.span_id:016x}"
    assert "trace_id" not in json.loads(logs.JsonFormatter().format(record))
