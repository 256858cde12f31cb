from __future__ import annotations

import pytest

from federation.causality import Context
from federation.codec import (
    ASPECTS,
    BACKLOG_KINDS,
    EventDecoder,
    Write,
    dot_to_message,
    encode_event,
    stream_from_message,
    stream_to_message,
)
from federation.errors import InvalidWrite
from federation.identifiers import Dot, Lane, Origin, StreamId
from souverix.event.v1 import event_pb2
from souverix.policy.v1 import policy_pb2

STREAM = StreamId("edge-a1", Origin("edge-a1-control", 2), Lane.CONTROL)


def policy_event(**fields: object) -> event_pb2.Event:
    return event_pb2.Event(
        stamp=7,
        subject="policies/p1",
        policy=policy_pb2.PolicySpec(version="v1"),
        **fields,  # type: ignore[arg-type]
    )


def test_every_body_of_an_event_is_an_aspect_with_its_rule() -> None:
    bodies = {f.name for f in event_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields}
    assert set(ASPECTS) == bodies


def test_rules_name_known_backlog_kinds() -> None:
    assert {rule.backlog_kind for rule in ASPECTS.values()} <= set(BACKLOG_KINDS)


def test_lanes_are_those_of_the_wire() -> None:
    numbers = {f"LANE_{lane.name}": int(lane) for lane in Lane}
    assert numbers == {v.name: v.number for v in event_pb2.Lane.DESCRIPTOR.values if v.number}


def test_decoded_write_carries_the_events_fields_and_its_very_bytes() -> None:
    dot = Dot(Origin("region-a-control", 1), 4)
    raw = policy_event(
        context=[dot_to_message(dot)],
        resolves=[dot_to_message(dot)],
        term=[1, 2],
        request_id="r1",
        principal="user:alice",
        optimistic=True,
    ).SerializeToString()

    write = EventDecoder().decode(STREAM, 9, raw)

    assert write is not None
    assert (write.dot, write.stamp, write.subject, write.aspect) == (
        Dot(STREAM.origin, 9),
        7,
        "policies/p1",
        "policy",
    )
    assert (write.context, write.resolves, write.term) == ((dot,), (dot,), (1, 2))
    assert (write.request_id, write.principal, write.optimistic) == ("r1", "user:alice", True)
    assert write.raw is raw
    assert write.body().version == "v1"


@pytest.mark.parametrize(
    "context",
    [
        (),
        (Dot(STREAM.origin, 3),),
        (Dot(Origin("a-control", 1), 9),),
        (Dot(Origin("a-control", 1), 9), Dot(STREAM.origin, 3), Dot(Origin("z-control", 4), 1)),
        (Dot(STREAM.origin._replace(incarnation=1), 8), Dot(STREAM.origin, 3)),
    ],
)
def test_encoded_event_is_decoded_to_what_was_written(context: Context) -> None:
    body = policy_pb2.PolicySpec(display_name="x" * 300, version="v1")
    moved_from = event_pb2.MovedFrom(domain="edge-b1", dot=dot_to_message(Dot(STREAM.origin, 5)))
    raw = encode_event(
        STREAM.origin,
        "policies/p1",
        "policy",
        body,
        stamp=7,
        context=context,
        term=(1, 2),
        request_id="r1",
        principal="user:alice",
        optimistic=True,
        resolves=context,
        report=("source", 12),
        moved_from=moved_from,
    )
    write = EventDecoder().decode(STREAM, 9, raw)
    assert write == Write(
        STREAM.origin,
        9,
        7,
        "policies/p1",
        "policy",
        context,
        (1, 2),
        "r1",
        "user:alice",
        True,
        context,
        raw,
    )
    assert write.body() == body
    assert write.event().moved_from == moved_from
    assert (write.event().report_source, write.event().report_sequence) == ("source", 12)


def test_event_names_its_own_origin_by_number_alone() -> None:
    raw = encode_event(
        STREAM.origin,
        "policies/p1",
        "policy",
        policy_pb2.PolicySpec(),
        stamp=7,
        context=(Dot(STREAM.origin, 3),),
        term=(),
        request_id="",
        principal="user:alice",
        optimistic=False,
        resolves=(),
        report=None,
        moved_from=None,
    )
    event = event_pb2.Event.FromString(raw)
    assert (event.own_seen, list(event.context)) == (3, [])


def test_body_of_a_newer_version_is_no_error() -> None:
    unknown = b"\xfa\x3f\x02hi"  # field 1023, bytes
    raw = event_pb2.Event(stamp=7, subject="x").SerializeToString() + unknown
    assert EventDecoder().decode(STREAM, 1, raw) is None


def test_bytes_that_are_no_event_are_refused() -> None:
    with pytest.raises(InvalidWrite, match="not a protobuf Event"):
        EventDecoder().decode(STREAM, 1, b"\xff\xff\xff")


def test_aspect_in_a_foreign_lane_is_refused() -> None:
    with pytest.raises(InvalidWrite, match="belongs in lane CONTROL"):
        EventDecoder().decode(
            STREAM._replace(lane=Lane.STATE), 1, policy_event().SerializeToString()
        )


def run_of(events: list[bytes]) -> event_pb2.Run:
    return event_pb2.Run(stream=stream_to_message(STREAM), first_sequence=9, events=events)


def each(run: event_pb2.Run) -> list[Write | None]:
    decode = EventDecoder().decode
    return [decode(STREAM, number, raw) for number, raw in enumerate(run.events, 9)]


@pytest.mark.parametrize("count", [1, 3, 4, 50])
def test_a_run_is_decoded_as_its_events_are(count: int) -> None:
    unknown = event_pb2.Event(stamp=7).SerializeToString() + b"\xfa\x3f\x02hi"
    events = [policy_event(term=[1, n]).SerializeToString() for n in range(count)]
    events[count // 2] = unknown
    run = run_of(events)
    found = EventDecoder().decode_run(STREAM, run, events)
    assert found == each(run)
    assert found[count // 2] is None


@pytest.mark.parametrize("broken", [b"\xff\xff\xff", b"\x12\x05ab", b"\x08"])
def test_a_run_with_bytes_that_are_no_event_is_refused(broken: bytes) -> None:
    events = [policy_event().SerializeToString()] * 6
    events[3] = broken
    with pytest.raises(InvalidWrite, match=r"event 12 of .* is not a protobuf Event"):
        EventDecoder().decode_run(STREAM, run_of(events), events)


def test_stream_names_survive_the_wire() -> None:
    assert stream_from_message(stream_to_message(STREAM)) == STREAM


@pytest.mark.parametrize(
    "broken",
    [
        {"domain": ""},
        {"controller": ""},
        {"incarnation": 0},
        {"lane": 0},
        {"lane": 99},
    ],
)
def test_incomplete_stream_name_is_refused(broken: dict[str, object]) -> None:
    message = stream_to_message(STREAM)
    for field, value in broken.items():
        setattr(message, field, value)
    with pytest.raises(InvalidWrite):
        stream_from_message(message)
