"""The session's table, every state by every step, and the frames in place."""

from __future__ import annotations

import pytest

from controller.nodelink.session import (
    IN_PLACE,
    OVER,
    TRANSITIONS,
    UNLOCKED,
    Session,
    SessionState,
    Step,
)
from souverix.nodelink.v1 import nodelink_pb2, replay_service_pb2

S, T = SessionState, Step

#: Where steps lead; what is not here changes nothing.
EXPECTED: dict[SessionState, dict[Step, SessionState]] = {
    S.GREETED: {
        T.PLACE_FREE: S.CHALLENGED,
        T.NO_PLACE: S.DEFERRED,
        T.NOT_WELCOME: S.REFUSED,
        T.LOST: S.ENDED,
    },
    S.CHALLENGED: {
        T.PROVED_LEVEL: S.LIVE,
        T.PROVED_BEHIND: S.ADMITTED,
        T.PROVED_ISOLATED: S.QUARANTINED,
        T.NOT_WELCOME: S.REFUSED,
        T.LOST: S.ENDED,
    },
    S.ADMITTED: {T.TURN_CAME: S.REPLAYING, T.LOST: S.ENDED},
    S.REPLAYING: {
        T.CHUNK_STAGED: S.REPLAYING,
        T.END_VERIFIED: S.RECONCILING,
        T.VIOLATION: S.QUARANTINED,
        T.LOST: S.ENDED,
    },
    S.RECONCILING: {T.MORE_WAITS: S.ADMITTED, T.IN_EFFECT: S.LIVE, T.LOST: S.ENDED},
    S.LIVE: {T.LOST: S.ENDED},
    S.QUARANTINED: {T.RELEASED: S.ENDED, T.LOST: S.ENDED},
    S.DEFERRED: {},
    S.REFUSED: {},
    S.ENDED: {},
}


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("step", Step)
def test_every_state_by_every_step(state: SessionState, step: Step) -> None:
    session = Session(b"token")
    session.state = state
    led_to = EXPECTED[state].get(step)
    assert session.move(step) is (led_to is not None)
    assert session.state is (led_to or state)


def test_every_edge_says_why_and_nothing_leads_out_of_an_end() -> None:
    assert all(edge.because for edge in TRANSITIONS.values())
    assert {before for before, _ in TRANSITIONS} == set(SessionState) - OVER


def test_a_locked_session_is_unlocked_by_nothing_but_the_effect_of_its_backlog() -> None:
    ways = {
        (before, step)
        for (before, step), edge in TRANSITIONS.items()
        if edge.to is S.LIVE and before is not S.LIVE
    }
    assert ways == {(S.CHALLENGED, T.PROVED_LEVEL), (S.RECONCILING, T.IN_EFFECT)}
    assert frozenset({S.LIVE, S.QUARANTINED}) == UNLOCKED


@pytest.mark.parametrize("state", SessionState)
def test_reports_and_results_are_out_of_place_behind_the_lock(state: SessionState) -> None:
    session = Session(b"token")
    session.state = state
    assert session.takes("report") is (state is S.LIVE)
    assert session.takes("result") is (state in UNLOCKED)
    assert session.takes("replay_chunk") is (state in (S.REPLAYING, S.QUARANTINED))


def test_the_frames_in_place_and_the_states_are_the_contracts() -> None:
    kinds = {f.name for f in nodelink_pb2.ConnectRequest.DESCRIPTOR.oneofs[0].fields}
    assert set().union(*IN_PLACE.values()) == kinds - {"hello", "proof", "signed"}
    names = {f"SESSION_STATE_{state.name}": int(state) for state in SessionState}
    wire = dict(replay_service_pb2.SessionState.items())
    assert wire == {"SESSION_STATE_UNSPECIFIED": 0, **names}
