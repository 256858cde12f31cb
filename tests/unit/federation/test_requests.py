from __future__ import annotations

from federation.identifiers import Lane, Origin, StreamId
from federation.requests import RememberedRequests, RequestOutcome

STREAM = StreamId("edge-a1", Origin("edge-a1-control", 1), Lane.STATE)
USER = "user:a"


def note(requests: RememberedRequests, request_id: str, sequence: int) -> None:
    requests.note(USER, request_id, "nodes/n1", "node_spec", STREAM, sequence, sequence + 10)


def test_request_is_remembered_with_what_it_wrote_first() -> None:
    requests = RememberedRequests()
    note(requests, "r1", 1)
    note(requests, "r1", 2)
    assert requests.get((USER, "r1")) == RequestOutcome("nodes/n1", "node_spec", STREAM, 1, 11)
    assert (USER, "r1") in requests
    assert len(requests) == 1


def test_requests_of_others_are_other_requests() -> None:
    requests = RememberedRequests()
    note(requests, "r1", 1)
    assert requests.get(("user:b", "r1")) is None
    assert (USER, "r2") not in requests


def test_beyond_the_bound_the_oldest_are_forgotten() -> None:
    requests = RememberedRequests(bound=2)
    for number in range(1, 5):
        note(requests, f"r{number}", number)
    assert len(requests) == 2
    assert requests.forgotten == 2
    assert (USER, "r2") not in requests
    assert [outcome.sequence for _, outcome in requests.newest(5)] == [3, 4]
    assert [outcome.sequence for _, outcome in requests.newest(1)] == [4]
