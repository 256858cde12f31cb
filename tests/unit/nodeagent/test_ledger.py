from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.clock import US_PER_S
from nodeagent.ledger import PURGE_SKEW_S, EntryState, Ledger, outcome
from souverix.command.v1 import command_pb2
from tests.unit.nodeagent.made_up import LATER_US, NODE, NOW_US, command, database

SUCCEEDED = command_pb2.DELIVERY_STATE_SUCCEEDED
PURGED_FROM_US = LATER_US + PURGE_SKEW_S * US_PER_S + 1


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(database(tmp_path), NODE)


def record(ledger: Ledger, *command_ids: str) -> None:
    for command_id in command_ids:
        ledger.record(command(command_id), NOW_US, LATER_US)


def finish(ledger: Ledger, command_id: str) -> None:
    assert ledger.begin(command_id)
    assert ledger.finish(command_id, EntryState.BEGUN, outcome(command_id, SUCCEEDED, NOW_US))


def test_commands_wait_in_the_order_they_came(ledger: Ledger) -> None:
    record(ledger, "b", "a")
    first = ledger.next_pending()
    assert first is not None
    assert (first.command_id, first.action, first.expire_us) == ("b", command("b").action, LATER_US)
    finish(ledger, "b")
    second = ledger.next_pending()
    assert second is not None
    assert second.command_id == "a"
    assert ledger.open_commands() == 1


def test_a_command_is_begun_once_only(ledger: Ledger) -> None:
    record(ledger, "c")
    assert ledger.begin("c")
    assert not ledger.begin("c")
    assert [entry.command_id for entry in ledger.begun()] == ["c"]


def test_a_result_is_recorded_once_only(ledger: Ledger) -> None:
    record(ledger, "c")
    finish(ledger, "c")
    other = outcome("c", command_pb2.DELIVERY_STATE_FAILED, NOW_US, "too late")
    assert not ledger.finish("c", EntryState.BEGUN, other)
    assert not ledger.finish("c", EntryState.PENDING, other)
    assert ledger.result("c") == outcome("c", SUCCEEDED, NOW_US)


def test_a_move_without_an_edge_is_a_mistake(ledger: Ledger) -> None:
    record(ledger, "c")
    finish(ledger, "c")
    with pytest.raises(ValueError, match="no transition from FINISHED"):
        ledger.finish("c", EntryState.FINISHED, outcome("c", SUCCEEDED, NOW_US))


def test_results_wait_until_they_are_acknowledged(ledger: Ledger) -> None:
    record(ledger, "a", "b", "c")
    finish(ledger, "a")
    finish(ledger, "b")
    assert ledger.unacknowledged() == ["a", "b"]
    ledger.acknowledge("a")
    ledger.acknowledge("c")
    finish(ledger, "c")
    assert ledger.unacknowledged() == ["b", "c"]
    assert ledger.knows("a")


def test_entries_go_after_expiry_and_skew_when_the_controller_has_the_result(
    ledger: Ledger,
) -> None:
    record(ledger, "confirmed", "unconfirmed", "waiting")
    finish(ledger, "confirmed")
    finish(ledger, "unconfirmed")
    ledger.acknowledge("confirmed")
    assert ledger.purge(PURGED_FROM_US - 2) == 0
    assert ledger.purge(PURGED_FROM_US) == 1
    assert [ledger.knows(name) for name in ("confirmed", "unconfirmed", "waiting")] == [
        False,
        True,
        True,
    ]


def test_a_full_ledger_makes_room_of_what_is_past_its_time_only(tmp_path: Path) -> None:
    ledger = Ledger(database(tmp_path), NODE, max_entries=2)
    record(ledger, "a", "b")
    finish(ledger, "a")
    assert not ledger.has_room(NOW_US)
    assert ledger.has_room(PURGED_FROM_US)
    assert not ledger.knows("a")
    assert ledger.knows("b")
