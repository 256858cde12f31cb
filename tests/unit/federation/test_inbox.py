from __future__ import annotations

import pytest

from federation.codec import stream_to_message
from federation.errors import InvalidWrite, PeerError
from federation.identifiers import Lane, Origin, StreamId
from federation.inbox import Inbox
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

STREAM = StreamId("edge-a1", Origin("edge-a1-control", 1), Lane.STATE)
OTHER = STREAM._replace(lane=Lane.CONTROL)


def anything(_: StreamId) -> bool:
    return True


def intern(index: int, stream: StreamId) -> sync_pb2.StreamIntern:
    return sync_pb2.StreamIntern(index=index, stream=stream_to_message(stream))


def run(index: int) -> sync_pb2.InternedRun:
    return sync_pb2.InternedRun(
        stream_index=index,
        first_sequence=4,
        events=[b"one", b"two"],
        seal=event_pb2.Seal(sequence=5),
    )


def test_runs_get_the_names_their_numbers_stand_for() -> None:
    inbox = Inbox(anything)
    runs = sync_pb2.Runs(interns=[intern(0, STREAM), intern(1, OTHER)], runs=[run(1)])
    [(stream, taken)] = inbox.take(runs)
    assert stream == OTHER
    assert taken.stream == stream_to_message(OTHER)
    assert (taken.first_sequence, list(taken.events), taken.seal.sequence) == (
        4,
        [b"one", b"two"],
        5,
    )


def test_numbers_hold_for_later_frames() -> None:
    inbox = Inbox(anything)
    inbox.take(sync_pb2.Runs(interns=[intern(0, STREAM)]))
    inbox.take(sync_pb2.Runs(interns=[intern(1, OTHER)]))
    assert [s for s, _ in inbox.take(sync_pb2.Runs(runs=[run(0), run(1)]))] == [STREAM, OTHER]


@pytest.mark.parametrize("index", [1, 7])
def test_numbers_are_given_one_after_the_other(index: int) -> None:
    with pytest.raises(PeerError, match="is not the next"):
        Inbox(anything).take(sync_pb2.Runs(interns=[intern(index, STREAM)]))


def test_number_is_given_once() -> None:
    inbox = Inbox(anything)
    inbox.take(sync_pb2.Runs(interns=[intern(0, STREAM)]))
    with pytest.raises(PeerError, match="is not the next"):
        inbox.take(sync_pb2.Runs(interns=[intern(0, OTHER)]))


def test_number_never_given_is_refused() -> None:
    with pytest.raises(PeerError, match="was not named"):
        Inbox(anything).take(sync_pb2.Runs(runs=[run(0)]))


def test_stream_without_a_proper_name_is_refused() -> None:
    with pytest.raises(InvalidWrite):
        Inbox(anything).take(sync_pb2.Runs(interns=[sync_pb2.StreamIntern(index=0)]))


def test_stream_the_peer_may_not_bring_is_refused() -> None:
    inbox = Inbox(lambda stream: stream is not STREAM and stream.lane is Lane.CONTROL)
    runs = sync_pb2.Runs(interns=[intern(0, STREAM)], runs=[run(0)])
    with pytest.raises(PeerError, match="edge-a1"):
        inbox.take(runs)


def test_acknowledgement_uses_the_number_where_there_is_one() -> None:
    inbox = Inbox(anything)
    inbox.take(sync_pb2.Runs(interns=[intern(0, OTHER), intern(1, STREAM)]))
    assert inbox.ack(STREAM, 9) == sync_pb2.StreamAck(stream_index=1, sequence=9)
    unnamed = STREAM._replace(domain="edge-a2")
    assert inbox.ack(unnamed, 3) == sync_pb2.StreamAck(
        stream=stream_to_message(unnamed), sequence=3
    )
