"""What a watch delivers of the server's answers, and where it resumes."""

from __future__ import annotations

import pytest

from controller.etcd.errors import AccessRefused, Compacted, EtcdRefused
from controller.etcd.watch import Changes, _Following
from etcdrpc import etcdrpc_pb2 as pb


def following(start_revision: int) -> _Following:
    return _Following(b"key", b"", start_revision)


def resumes_at(watch: _Following) -> int:
    return watch.create_request().create_request.start_revision


def header(revision: int) -> pb.ResponseHeader:
    return pb.ResponseHeader(revision=revision)


def events(*revisions: int) -> list[pb.Event]:
    return [pb.Event(kv=pb.KeyValue(key=b"key", mod_revision=number)) for number in revisions]


def delivered(changes: list[Changes]) -> list[tuple[int, list[int]]]:
    return [(each.revision, [e.kv.mod_revision for e in each.events]) for each in changes]


def test_catching_up_resumes_behind_the_events_not_behind_the_stores_revision() -> None:
    watch = following(5)
    answer = pb.WatchResponse(header=header(900), events=events(5, 6))
    assert delivered(watch.take(answer)) == [(6, [5, 6])]
    assert resumes_at(watch) == 7


def test_from_now_is_anchored_at_the_first_creation() -> None:
    watch = following(0)
    assert watch.take(pb.WatchResponse(header=header(41), created=True)) == []
    assert watch.take(pb.WatchResponse(header=header(60), created=True)) == []
    assert resumes_at(watch) == 42


def test_events_delivered_before_are_not_delivered_again() -> None:
    watch = following(5)
    watch.take(pb.WatchResponse(header=header(6), events=events(5, 6)))
    again = pb.WatchResponse(header=header(7), events=events(6, 7))
    assert delivered(watch.take(again)) == [(7, [7])]
    assert watch.take(pb.WatchResponse(header=header(7), events=events(7))) == []


def test_a_revision_cut_into_fragments_is_delivered_whole() -> None:
    watch = following(5)
    first = pb.WatchResponse(header=header(9), events=events(5, 6, 7), fragment=True)
    assert delivered(watch.take(first)) == [(6, [5, 6])]
    last = pb.WatchResponse(header=header(9), events=events(7, 8))
    assert delivered(watch.take(last)) == [(8, [7, 7, 8])]


def test_half_a_revision_is_asked_for_again_after_a_cut() -> None:
    watch = following(5)
    watch.take(pb.WatchResponse(header=header(9), events=events(5, 6), fragment=True))
    assert resumes_at(watch) == 6
    assert delivered(watch.take(pb.WatchResponse(events=events(6, 6)))) == [(6, [6, 6])]


def test_a_progress_note_of_the_watch_moves_the_resume_point() -> None:
    watch = following(5)
    assert delivered(watch.take(pb.WatchResponse(header=header(50)))) == [(50, [])]
    assert resumes_at(watch) == 51
    assert watch.take(pb.WatchResponse(header=header(50))) == []


def test_an_answer_to_a_progress_request_is_a_sign_of_life_only() -> None:
    watch = following(5)
    assert watch.take(pb.WatchResponse(header=header(50), watch_id=-1)) == []
    assert resumes_at(watch) == 5


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (pb.WatchResponse(canceled=True, compact_revision=77), Compacted),
        (
            pb.WatchResponse(canceled=True, cancel_reason="etcdserver: permission denied"),
            AccessRefused,
        ),
        (
            pb.WatchResponse(
                canceled=True,
                cancel_reason="etcdserver: mvcc: required revision is a future revision",
            ),
            EtcdRefused,
        ),
    ],
)
def test_a_verdict_on_the_watch_ends_it(reply: pb.WatchResponse, error: type[Exception]) -> None:
    with pytest.raises(error):
        following(5).take(reply)
