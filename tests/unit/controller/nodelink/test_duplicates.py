"""Second agents of one id: a lost stream's return is none, one that goes on is, and memory is bounded."""

from __future__ import annotations

import pytest

from controller.nodelink import duplicates
from controller.nodelink.duplicates import QUIET_S, SILENCES, SecondAgents

LIMIT_S = 3.0


def test_an_agent_that_lost_its_stream_is_no_second_one() -> None:
    agents = SecondAgents(LIMIT_S)
    agents.refused("n1", "a", 100.0)
    agents.refused("n1", "a", 100.0 + LIMIT_S)
    assert agents.standing(100.0 + LIMIT_S) == {}


def test_one_that_goes_on_is_until_it_has_been_quiet() -> None:
    agents = SecondAgents(LIMIT_S)
    last_s = 100.0 + SILENCES * LIMIT_S
    agents.refused("n1", "a", 100.0)
    agents.refused("n1", "b", last_s)
    (found,) = agents.standing(last_s).values()
    assert (found.source, found.first_s, found.refusals) == ("b", 100.0, 2)
    assert agents.standing(last_s + QUIET_S)
    assert agents.standing(last_s + QUIET_S + 1) == {}


def test_no_more_ids_are_remembered_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_REMEMBERED", 2)
    agents = SecondAgents(LIMIT_S)
    for number in range(5):
        agents.refused(f"n{number}", "a", 100.0)
        agents.refused(f"n{number}", "a", 200.0)
    assert set(agents.standing(200.0)) == {"n0", "n1"}
    agents.refused("later", "a", 200.0 + QUIET_S + 1)
    agents.refused("later", "a", 300.0 + QUIET_S)
    assert set(agents.standing(300.0 + QUIET_S)) == {"later"}
