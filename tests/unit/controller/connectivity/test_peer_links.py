"""Links between controllers as one end sees them: every state by every piece of evidence, hysteresis, and its bound."""

from __future__ import annotations

import pytest

from controller.connectivity.peer_links import (
    RECORDS_BURST,
    TRANSITIONS,
    Contact,
    PeerChange,
    PeerEvidence,
    PeerLinks,
    PeerLinkState,
)
from souverix.federation.v1 import peer_link_pb2

UP, DOWN = PeerLinkState.UP, PeerLinkState.DOWN
E = PeerEvidence
LIMIT_S = 10.0
CHILD = "edge-zone-a1-control"

EXPECTED = {(UP, E.LOST): DOWN, (DOWN, E.VISITED): DOWN, (DOWN, E.LEVEL): UP}


@pytest.mark.parametrize("state", PeerLinkState)
@pytest.mark.parametrize("evidence", PeerEvidence)
def test_every_state_by_every_piece_of_evidence(
    state: PeerLinkState, evidence: PeerEvidence
) -> None:
    edge = TRANSITIONS.get((state, evidence))
    assert (edge.to if edge is not None else None) == EXPECTED.get((state, evidence))


def test_numbers_are_the_wires() -> None:
    assert {s.name: int(s) for s in PeerLinkState} == {
        name.removeprefix("PEER_LINK_STATE_"): number
        for name, number in peer_link_pb2.PeerLinkState.items()
        if number
    }


def watched(state: PeerLinkState = UP, heard_s: float | None = 0.0) -> PeerLinks:
    links = PeerLinks()
    links.known(CHILD, state, heard_s, 0.0)
    return links


def linked(links: PeerLinks, now_s: float, *, level: bool = True) -> PeerChange | None:
    return links.look(CHILD, Contact(now_s, level), LIMIT_S, now_s)


def gone(links: PeerLinks, now_s: float) -> PeerChange | None:
    return links.look(CHILD, Contact(None, None), LIMIT_S, now_s)


def test_a_link_that_is_gone_for_long_is_down_since_it_was_last_heard() -> None:
    links = watched()
    assert linked(links, 1.0) is None
    assert gone(links, 2.0) is None
    assert gone(links, 11.9) is None
    change = gone(links, 12.0)
    assert change is not None
    assert (change.state, change.reason, change.heard_s) == (DOWN, "connection_lost", 1.0)
    assert "limit 10 s" in change.evidence
    assert gone(links, 50.0) is None


def test_a_session_that_no_look_found_is_lost_as_well() -> None:
    links = watched(heard_s=None)
    assert gone(links, 1.0) is None
    assert links.look(CHILD, Contact(1.5, None), LIMIT_S, 2.0) is None
    change = links.look(CHILD, Contact(1.5, None), LIMIT_S, 11.0)
    assert change is not None
    assert (change.state, change.heard_s) == (DOWN, 1.5)


def test_a_short_gap_is_no_news() -> None:
    links = watched()
    assert gone(links, 1.0) is None
    assert linked(links, 9.0) is None
    assert gone(links, 12.0) is None
    assert gone(links, 21.9) is None


def test_it_is_up_again_when_what_waited_has_arrived() -> None:
    links = watched(DOWN)
    assert linked(links, 1.0, level=False) is None
    change = linked(links, 2.0, level=True)
    assert change is not None
    assert (change.state, change.reason) == (UP, "connection_detected")


def test_a_link_that_is_never_idle_is_up_after_a_while() -> None:
    links = watched(DOWN)
    assert linked(links, 1.0, level=False) is None
    assert linked(links, 10.9, level=False) is None
    change = linked(links, 11.0, level=False)
    assert change is not None
    assert change.state is UP


def test_a_visit_too_short_to_be_a_link_moves_the_time_since_when_nothing_is_known() -> None:
    links = watched(DOWN)
    assert linked(links, 20.0, level=False) is None
    assert gone(links, 21.0) is None
    change = gone(links, 31.0)
    assert change is not None
    assert (change.state, change.reason, change.heard_s) == (DOWN, "visit_over", 20.0)
    assert gone(links, 60.0) is None


def test_a_peer_that_was_never_heard_is_not_lost() -> None:
    links = watched(heard_s=None)
    assert gone(links, 1.0) is None
    assert gone(links, 100.0) is None


def test_a_process_that_was_held_up_counts_absence_from_when_it_finds_it() -> None:
    links = watched()
    assert linked(links, 1.0) is None
    assert gone(links, 500.0) is None
    assert gone(links, 510.0) is not None


def test_a_flapping_link_is_recorded_at_a_bounded_rate_and_its_last_state_always() -> None:
    links = watched()
    now_s, records = 0.0, []
    for _ in range(100):
        for _ in range(12):
            now_s += 1.0
            records.append(gone(links, now_s))
        now_s += 1.0
        records.append(linked(links, now_s))
    told = [record for record in records if record is not None]
    assert len(told) <= RECORDS_BURST + now_s / 30 + 1
    last = told[-1].state
    for _ in range(60):
        now_s += 1.0
        change = linked(links, now_s)
        last = change.state if change is not None else last
    assert last is UP
