"""W3C trace contexts."""

from __future__ import annotations

import pytest

from telemetry.context import TraceContext, begin, of_metadata, parse

HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_header_is_read_and_written_as_it_was() -> None:
    context = parse(HEADER)
    assert context == TraceContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, True)
    assert str(context) == HEADER
    assert parse(HEADER.encode()) == context


def test_flags_say_whether_spans_are_recorded() -> None:
    unsampled = parse(HEADER[:-2] + "00")
    assert unsampled is not None
    assert not unsampled.sampled
    assert str(unsampled) == HEADER[:-2] + "00"


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parse("cc" + HEADER[2:] + "-what-comes") == parse(HEADER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        HEADER.upper(),
        HEADER + "-more",
        "ff" + HEADER[2:],
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        HEADER[:-1],
    ],
)
def test_what_is_no_context_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_new_trace_is_recorded_and_like_no_other() -> None:
    first, second = begin(), begin()
    assert first.sampled
    assert first.trace_id != second.trace_id
    assert parse(str(first)) == first


def test_the_context_of_a_call_is_found_in_its_metadata() -> None:
    assert of_metadata([("a", "b"), ("traceparent", HEADER)]) == parse(HEADER)
    assert of_metadata([("a", "b")]) is None
    assert of_metadata(None) is None
