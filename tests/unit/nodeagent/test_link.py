from __future__ import annotations

from typing import Any

import pytest

from nodeagent.clock import duration
from nodeagent.dialling import DialPlan
from nodeagent.fence import Fence
from nodeagent.link import (
    CLOSING_TIMEOUT_S,
    GREETING_TIMEOUT_S,
    MAX_WANTED_CHUNKS,
    REPORT_WINDOW,
    STEADY_LINK_S,
    TRANSITIONS,
    Link,
    LinkState,
)
from nodeagent.link_effects import (
    AttestationAsked,
    CommandArrived,
    Dial,
    FrameRefused,
    KeepFence,
    LinkLeft,
    ReportsAcknowledged,
    Send,
    SendAttestation,
    SendChunk,
    SendGoodbye,
    SendHeartbeat,
    SendHello,
    SendReport,
    SendResult,
    Trigger,
    Welcomed,
)
from souverix.nodelink.v1 import nodelink_pb2
from tests.unit.nodeagent.made_up import command

LEASE_TTL_S = 9.0
MET = Fence(1, "zone-a1", 1, 5)


def frame(token: int = 5, **kind: Any) -> nodelink_pb2.ConnectResponse:
    return nodelink_pb2.ConnectResponse(fence=Fence(1, "zone-a1", 1, token).to_message(), **kind)


def welcome(token: int = 5, reports: int = 0) -> nodelink_pb2.ConnectResponse:
    return frame(
        token,
        welcome=nodelink_pb2.Welcome(
            domain="edge-zone-a1",
            heartbeat_interval=duration(2),
            lease_ttl=duration(LEASE_TTL_S),
            reports_acknowledged=reports,
        ),
    )


def dialled(met: Fence | None = MET) -> Link:
    link = Link(DialPlan(["a"], lambda: 0.0), met, heartbeat_s=5.0)
    assert link.tick(0.0) == [Dial("a")]
    return link


def linked(reports: int = 0) -> Link:
    link = dialled()
    link.sent(SendHello(), 0.0)
    assert link.receive(welcome(reports=reports), 0.0) == [Welcomed("edge-zone-a1", reports)]
    return link


def willing(link: Link, now_s: float = 0.0) -> Send | None:
    return next(link.willing(now_s), None)


def without_heartbeat(link: Link) -> Link:
    link.sent(SendHeartbeat(0, None), 0.0)
    return link


def left(link: Link, effects: list[Any]) -> Trigger:
    assert link.state is LinkState.DISCONNECTED
    assert isinstance(effects[-1], LinkLeft)
    return effects[-1].trigger


def test_every_state_but_the_last_has_a_way_out_and_each_edge_a_reason() -> None:
    assert {state for state, _ in TRANSITIONS} == set(LinkState) - {LinkState.STOPPED}
    assert all(edge.because for edge in TRANSITIONS.values())


def test_says_hello_once_and_nothing_else_before_the_welcome() -> None:
    link = dialled()
    assert list(link.willing(0.0)) == [SendHello()]
    link.sent(SendHello(), 0.0)
    assert willing(link) is None
    assert link.state is LinkState.GREETING


def test_a_higher_fence_is_kept_before_the_frame_takes_effect() -> None:
    link = dialled()
    effects = link.receive(welcome(token=6), 0.0)
    assert effects == [KeepFence(Fence(1, "zone-a1", 1, 6)), Welcomed("edge-zone-a1", 0)]


def test_a_fence_that_could_not_be_kept_is_asked_for_again() -> None:
    link = dialled()
    higher = Fence(1, "zone-a1", 1, 6)
    assert link.receive(welcome(token=6), 0.0)[0] == KeepFence(higher)
    assert link.receive(frame(6, heartbeat_ack={}), 0.0) == [KeepFence(higher)]
    link.fence_kept(higher)
    assert link.receive(frame(6, heartbeat_ack={}), 0.0) == []


@pytest.mark.parametrize("begin", [dialled, linked])
def test_a_lower_fence_takes_no_effect_and_ends_the_stream(begin: Any) -> None:
    link = begin()
    stale = welcome(4) if link.state is LinkState.GREETING else frame(4, command=command("c"))
    effects = link.receive(stale, 0.0)
    assert left(link, effects) is Trigger.STALE_FENCE
    assert effects[0] == FrameRefused(Fence(1, "zone-a1", 1, 4), MET)
    assert len(effects) == 2


def test_another_controller_is_refused_within_one_placement() -> None:
    link = dialled()
    other = welcome()
    other.fence.controller = "zone-b1"
    assert left(link, link.receive(other, 0.0)) is Trigger.STALE_FENCE


def test_a_frame_without_a_fence_ends_the_stream() -> None:
    link = linked()
    response = nodelink_pb2.ConnectResponse(command=command("c"))
    assert left(link, link.receive(response, 0.0)) is Trigger.PROTOCOL_BROKEN


def test_only_a_welcome_may_come_first_and_only_once() -> None:
    early = dialled()
    assert left(early, early.receive(frame(command=command("c")), 0.0)) is Trigger.PROTOCOL_BROKEN
    twice = linked()
    assert left(twice, twice.receive(welcome(), 0.0)) is Trigger.PROTOCOL_BROKEN


def test_a_frame_of_a_kind_from_the_future_is_passed_over() -> None:
    link = linked()
    assert link.receive(frame(), 1.0) == []
    assert link.state is LinkState.LINKED


def test_a_goodbye_is_heard_under_any_fence_and_its_patience_honoured() -> None:
    link = dialled()
    goodbye = nodelink_pb2.LinkGoodbye(
        reason=nodelink_pb2.LINK_END_NOT_MASTER, message="ask b", retry_after=duration(7)
    )
    effects = link.receive(frame(1, goodbye=goodbye), 0.0)
    assert effects == [LinkLeft("a", Trigger.SENT_AWAY, "LINK_END_NOT_MASTER ask b", stood=False)]
    assert link.tick(6.9) == []
    assert link.tick(7.0) == [Dial("a")]


def test_silence_ends_a_stream_and_any_frame_breaks_it() -> None:
    link = linked()
    link.receive(frame(heartbeat_ack={}), 5.0)
    assert link.tick(LEASE_TTL_S + 1) == []
    assert left(link, link.tick(5.1 + LEASE_TTL_S)) is Trigger.SILENCE


def test_a_frame_after_a_lease_of_silence_is_not_looked_at() -> None:
    link = linked()
    effects = link.receive(frame(command=command("c")), LEASE_TTL_S + 0.1)
    assert left(link, effects) is Trigger.SILENCE
    assert not any(isinstance(effect, CommandArrived) for effect in effects)


def test_a_dialled_address_that_never_answers_is_given_up() -> None:
    link = dialled()
    assert link.deadline_s() == GREETING_TIMEOUT_S
    assert left(link, link.tick(GREETING_TIMEOUT_S + 0.1)) is Trigger.SILENCE


@pytest.mark.parametrize(
    ("stood_s", "pause_s"), [(STEADY_LINK_S - 1, 0.25), (STEADY_LINK_S, 0.125)]
)
def test_only_a_steady_link_ends_the_back_off(stood_s: float, pause_s: float) -> None:
    link = dialled()
    link.leave(Trigger.STREAM_ENDED, "", 0.0)
    assert link.tick(1.0) == [Dial("a")]
    link.receive(welcome(), 1.0)
    link.leave(Trigger.STREAM_ENDED, "", 1.0 + stood_s)
    assert link.deadline_s() == 1.0 + stood_s + pause_s


def test_heartbeats_fall_due_as_the_controller_wishes() -> None:
    link = linked()
    assert willing(link, 0.0) == SendHeartbeat(0, None)
    link.sent(SendHeartbeat(0, None), 0.0)
    assert willing(link, 1.9) == SendReport(0)
    link.receive(frame(heartbeat_ack=nodelink_pb2.HeartbeatAck(ping_ms=1500)), 1.75)
    assert willing(link, 2.0) == SendHeartbeat(2000, 0.25)
    assert link.heartbeat_due_s() == 2.0


def test_heartbeats_fit_into_the_lease_whatever_the_wish() -> None:
    link = dialled()
    slow = welcome()
    slow.welcome.heartbeat_interval.CopyFrom(duration(3600))
    link.receive(slow, 0.0)
    assert without_heartbeat(link).heartbeat_due_s() == LEASE_TTL_S / 3


def test_results_go_before_reports_and_reports_before_chunks() -> None:
    link = without_heartbeat(linked())
    link.receive(frame(want_values={"digests": ["d1", "d1", "d2"]}), 0.0)
    link.result_ready("c1")
    link.result_ready("c1")
    assert willing(link) == SendResult("c1")
    link.sent(SendResult("c1"), 0.0)
    assert willing(link) == SendReport(0)
    fetched = []
    for send in link.willing(0.0):
        fetched.append(send)
        link.not_there(send)
    assert fetched == [SendReport(0), SendChunk("d1"), SendChunk("d2")]


def test_reports_follow_each_other_within_the_window() -> None:
    link = without_heartbeat(linked(reports=10))
    for number in range(11, 11 + REPORT_WINDOW):
        assert willing(link) == SendReport(number - 1)
        link.sent(SendReport(number - 1), 0.0, report=number)
    assert willing(link) is None
    assert link.receive(frame(report_ack={"sequence": 11}), 0.0) == [ReportsAcknowledged(11)]
    assert willing(link) == SendReport(10 + REPORT_WINDOW)


def test_acknowledging_what_was_never_sent_ends_the_stream() -> None:
    link = linked(reports=10)
    effects = link.receive(frame(report_ack={"sequence": 11}), 0.0)
    assert left(link, effects) is Trigger.PROTOCOL_BROKEN


def test_wanting_too_many_chunks_ends_the_stream() -> None:
    link = linked()
    digests = [str(number) for number in range(MAX_WANTED_CHUNKS + 1)]
    effects = link.receive(frame(want_values={"digests": digests}), 0.0)
    assert left(link, effects) is Trigger.PROTOCOL_BROKEN


def test_stopping_says_goodbye_and_ends() -> None:
    link = linked()
    link.stop(1.0)
    assert link.receive(frame(command=command("c")), 1.0) == []
    assert list(link.willing(1.0)) == [SendGoodbye()]
    link.sent(SendGoodbye(), 1.0)
    assert link.state is LinkState.STOPPED


def test_stopping_does_not_wait_for_a_stream_that_takes_nothing() -> None:
    link = linked()
    link.stop(1.0)
    link.tick(1.1 + CLOSING_TIMEOUT_S)
    assert link.state is LinkState.STOPPED


def test_stopping_without_a_link_ends_at_once() -> None:
    link = dialled()
    link.stop(0.0)
    assert link.state is LinkState.STOPPED


NONCE = b"\x07" * 32


def challenged(nonce: bytes = NONCE) -> nodelink_pb2.ConnectResponse:
    return frame(attestation_challenge=nodelink_pb2.AttestationChallenge(nonce=nonce))


def test_a_challenge_is_answered_once_the_statement_is_there() -> None:
    link = without_heartbeat(linked())
    assert link.receive(challenged(), 0.0) == [AttestationAsked("zone-a1", NONCE)]
    assert SendAttestation(NONCE) not in list(link.willing(0.0))
    link.attested(NONCE)
    assert willing(link) == SendAttestation(NONCE)
    link.sent(SendAttestation(NONCE), 0.0)
    assert SendAttestation(NONCE) not in list(link.willing(0.0))


def test_only_the_newest_challenge_of_this_link_is_answered() -> None:
    link = without_heartbeat(linked())
    link.receive(challenged(), 0.0)
    link.receive(challenged(b"\x08" * 32), 0.0)
    link.attested(NONCE)
    assert SendAttestation(NONCE) not in list(link.willing(0.0))
    link.attested(b"\x08" * 32)
    assert willing(link) == SendAttestation(b"\x08" * 32)
    link.not_there(SendAttestation(b"\x08" * 32))
    assert not any(isinstance(send, SendAttestation) for send in link.willing(0.0))


def test_a_statement_of_an_earlier_link_is_not_sent_over_the_next() -> None:
    link = without_heartbeat(linked())
    link.receive(challenged(), 0.0)
    link.leave(Trigger.STREAM_ENDED, "cut", 1.0)
    link.tick(100.0)
    link.sent(SendHello(), 100.0)
    link.receive(welcome(), 100.0)
    link.attested(NONCE)
    assert not any(isinstance(send, SendAttestation) for send in link.willing(100.0))


def test_a_challenge_of_another_size_ends_the_stream() -> None:
    link = linked()
    effects = link.receive(challenged(b"short"), 0.0)
    assert isinstance(effects[-1], LinkLeft)
    assert effects[-1].trigger is Trigger.PROTOCOL_BROKEN
