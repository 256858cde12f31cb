"""The table of the spectrum, every mode by every piece of evidence."""

from __future__ import annotations

import pytest

from controller.connectivity.spectrum import TRANSITIONS, Evidence, Mode
from souverix.fleet.v1 import connectivity_pb2

E, M = Evidence, Mode

#: Where evidence leads; what is not here changes nothing.
EXPECTED: dict[Mode, dict[Evidence, Mode]] = {
    M.UNKNOWN: {E.LINKED: M.LIVE, E.LINKED_WITH_BACKLOG: M.RETURNING},
    M.LIVE: {
        E.LINKED_WITH_BACKLOG: M.RETURNING,
        E.ROUND_TRIP_LONG: M.DELAYED,
        E.VISITS: M.EDGE_CACHED,
        E.LOST: M.AUTONOMOUS,
        E.STOPPED: M.DISCONNECTED,
    },
    M.DELAYED: {
        E.LINKED_WITH_BACKLOG: M.RETURNING,
        E.ROUND_TRIP_SHORT: M.LIVE,
        E.VISITS: M.EDGE_CACHED,
        E.LOST: M.AUTONOMOUS,
        E.STOPPED: M.DISCONNECTED,
    },
    M.EDGE_CACHED: {
        E.STEADY: M.LIVE,
        E.VISIT_OVERDUE: M.AUTONOMOUS,
        E.STOPPED: M.DISCONNECTED,
    },
    M.AUTONOMOUS: {
        E.LINKED: M.LIVE,
        E.LINKED_WITH_BACKLOG: M.RETURNING,
        E.SILENT_TOO_LONG: M.DISCONNECTED,
    },
    M.DISCONNECTED: {E.LINKED: M.LIVE, E.LINKED_WITH_BACKLOG: M.RETURNING},
    M.RETURNING: {
        E.BACKLOG_ARRIVES: M.REPLAYING,
        E.BACKLOG_REPLAYED: M.LIVE,
        E.LOST: M.AUTONOMOUS,
        E.STOPPED: M.DISCONNECTED,
    },
    M.REPLAYING: {E.BACKLOG_REPLAYED: M.LIVE, E.LOST: M.AUTONOMOUS, E.STOPPED: M.DISCONNECTED},
}


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("evidence", Evidence)
def test_every_mode_by_every_evidence(mode: Mode, evidence: Evidence) -> None:
    edge = TRANSITIONS.get((mode, evidence))
    assert (edge.to if edge else None) == EXPECTED[mode].get(evidence)


def test_every_edge_has_a_reason_word_and_says_why() -> None:
    for edge in TRANSITIONS.values():
        assert edge.reason.replace("_", "").isalpha()
        assert edge.reason.islower()
        assert edge.because


def test_modes_are_those_of_the_contract() -> None:
    words = {m.value: m.name for m in Mode if m is not Mode.UNKNOWN}
    values = connectivity_pb2.ConnectivityMode.items()
    assert words == {v: n.removeprefix("CONNECTIVITY_MODE_") for n, v in values if v}


def test_every_mode_but_unknown_can_be_reached_and_left() -> None:
    entered = {edge.to for edge in TRANSITIONS.values()}
    left = {mode for mode, _ in TRANSITIONS}
    assert entered == set(Mode) - {Mode.UNKNOWN}
    assert left == set(Mode)
