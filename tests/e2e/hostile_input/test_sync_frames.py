"""Whatever a child sends over its sync stream, it is sent away with the reason, or what it sent has no effect."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from federation.clock import stamp_of
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.sync.v1 import sync_pb2
from tests.e2e.clients import DEADLINE_S, wait_until
from tests.e2e.hostile_input.conftest import HOSTILE, HOSTILE_CONTROL, ROOT, Attacked
from tests.e2e.hostile_input.played_child import HostileChild, changed


def _goodbye(child: HostileChild, reason: sync_pb2.GoodbyeReason) -> str:
    """Waits to be sent away for this reason; the message."""
    said = child.wait_for("goodbye").goodbye
    assert said.reason == reason, said
    assert list(child.frames()) == []
    return str(said.message)


def test_a_frame_before_the_greeting_ends_the_session(attacked: Attacked) -> None:
    for frame in (
        {"runs": sync_pb2.Runs()},
        {"ack": sync_pb2.Ack()},
        {"forward": sync_pb2.Forward()},
        {"chunk": sync_pb2.Chunk()},
        {},
    ):
        with attacked.child() as child:
            child.send(**frame)
            assert _goodbye(child, sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"controller": "nobody-control"}, sync_pb2.GOODBYE_REASON_UNKNOWN_PEER),
        ({"controller": "../../etc"}, sync_pb2.GOODBYE_REASON_UNKNOWN_PEER),
        ({"controller": ""}, sync_pb2.GOODBYE_REASON_UNKNOWN_PEER),
        ({"domain": ROOT}, sync_pb2.GOODBYE_REASON_UNKNOWN_PEER),
        ({"versions": []}, sync_pb2.GOODBYE_REASON_VERSION),
        ({"versions": [99]}, sync_pb2.GOODBYE_REASON_VERSION),
    ],
)
def test_who_is_no_child_is_sent_away(
    attacked: Attacked, fields: dict[str, Any], reason: sync_pb2.GoodbyeReason
) -> None:
    with attacked.child() as child:
        child.greet(**fields)
        assert _goodbye(child, reason)


def _break_chain(run: event_pb2.Run) -> None:
    run.seal.chain_hash = bytes(32)


def _break_signature(run: event_pb2.Run) -> None:
    run.seal.signature = bytes(64)


def _change_event(run: event_pb2.Run) -> None:
    run.events[0] = run.events[0] + b"\x00"


def _garble_event(run: event_pb2.Run) -> None:
    run.events[0] = b"\xff\xff\xff"


def _leave_out_events(run: event_pb2.Run) -> None:
    del run.events[:]


def _skip_ahead(run: event_pb2.Run) -> None:
    run.first_sequence += 5
    run.seal.sequence += 5


@pytest.mark.parametrize(
    "change",
    [
        _break_chain,
        _break_signature,
        _change_event,
        _garble_event,
        _leave_out_events,
        _skip_ahead,
    ],
)
def test_a_run_that_is_not_what_its_origin_sealed_has_no_effect(
    attacked: Attacked, change: Callable[[event_pb2.Run], None]
) -> None:
    forged = changed(attacked.forger().run(HOSTILE, "forged"), change)
    with attacked.child() as child:
        child.begin()
        child.send_runs(forged)
        frame = child.wait_for("goodbye" if change in (_leave_out_events, _skip_ahead) else "ack")
        assert not any(ack.sequence for ack in frame.ack.streams)
    assert attacked.root.policy(HOSTILE, "forged") is None


def test_a_run_of_a_domain_out_of_reach_ends_the_session(attacked: Attacked) -> None:
    forger = attacked.forger()
    for domain in (ROOT, "edge-zone-a1"):
        with attacked.child() as child:
            child.begin()
            child.send_runs(forger.run(domain, "forged"))
            assert domain in _goodbye(child, sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR)
        assert attacked.root.policy(domain, "forged") is None


def test_replayed_runs_are_acknowledged_and_taken_once(attacked: Attacked) -> None:
    forger = attacked.forger()
    run = forger.run(HOSTILE, "replayed")
    held = []
    for _ in range(3):
        with attacked.child() as child:
            child.begin()
            child.send_runs(run)
            assert child.wait_for("ack").ack.streams[0].sequence == 2
        held.append(attacked.root.streams(HOSTILE)[HOSTILE_CONTROL, "control"])
    assert held == [held[0]] * 3
    assert held[0][0] == 2
    assert attacked.root.policy_version(HOSTILE, "replayed") == "forged"
    # The same number again, with other contents: a fork. It has no effect, and the first stands.
    fork = attacked.forger().run(HOSTILE, "forked")
    with attacked.child() as child:
        child.begin()
        child.send_runs(fork)
        next(child.frames())
    assert attacked.root.policy(HOSTILE, "forked") is None
    assert attacked.root.streams(HOSTILE)[HOSTILE_CONTROL, "control"] == held[0]


def test_a_stamp_from_the_far_future_moves_no_clock_and_ranks_as_of_its_arrival(
    attacked: Attacked,
) -> None:
    year_ms = 365 * 24 * 3600 * 1000
    now_ms = time.time_ns() // 1_000_000

    def written_by_root() -> int:
        return attacked.root.streams(HOSTILE)[f"{ROOT}-control", "control"][0]

    before = written_by_root()
    run = attacked.forger(2).run(HOSTILE, "early", stamp=stamp_of(now_ms + year_ms))
    with attacked.child() as child:
        child.begin()
        child.send_runs(run)
        child.wait_for("ack")
    found = attacked.root.policy(HOSTILE, "early")
    assert found is not None
    status = attacked.root.federation.GetStatus(
        federation_service_pb2.GetStatusRequest(), timeout=DEADLINE_S
    )
    assert abs(status.clock.ToMilliseconds() - now_ms) < 60_000
    wait_until(lambda: written_by_root() > before, "the admission of the event")
    attacked.root.update_policy(HOSTILE, "early", "v2")
    assert attacked.root.policy_version(HOSTILE, "early") == "v2"
