from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from nodeagent.errors import StateDirUnusable, StateUnavailable
from nodeagent.identity import Identity
from nodeagent.statedir import StateDir, open_to_read
from tests.unit.nodeagent.made_up import NODE


def test_a_directory_serves_one_agent_at_a_time(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path)
    with pytest.raises(StateDirUnusable, match="in use by another agent"):
        StateDir.open(tmp_path)
    state.close()
    StateDir.open(tmp_path).close()


def test_it_is_durable_by_its_settings_and_private(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "new")
    assert state.database.number("PRAGMA synchronous") == 2
    row = state.database.row("PRAGMA journal_mode")
    assert row is not None
    assert row[0] == "wal"
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    state.close()


def test_a_directory_of_another_version_or_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateDirUnusable, match=r"holds no agent\.db"):
        open_to_read(tmp_path)
    connection = sqlite3.connect(tmp_path / "agent.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateDirUnusable, match="schema version 99"):
        StateDir.open(tmp_path)
    with pytest.raises(StateDirUnusable, match="schema version 99"):
        open_to_read(tmp_path)


@pytest.mark.parametrize("version", [1, 2])
def test_a_directory_of_an_earlier_version_goes_on(tmp_path: Path, version: int) -> None:
    added = {
        1: ("private_key", "policy_bundle", "policy_version"),
        2: ("policy_bundle", "policy_version"),
    }
    state = StateDir.open(tmp_path)
    Identity(state.database, NODE).keep_domain("a1")
    for column in added[version]:
        state.database.write(f"ALTER TABLE node DROP COLUMN {column}")
    state.database.write(f"PRAGMA user_version = {version}")
    state.close()
    state = StateDir.open(tmp_path)
    row = state.database.row("SELECT * FROM node")
    assert row is not None
    assert row["domain"] == "a1"
    assert set(added[version]) <= set(row.keys())
    state.close()


def test_a_file_that_is_no_database_is_told_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "agent.db").write_text("something else, and long enough to be looked at" * 100)
    with pytest.raises(StateDirUnusable, match="move it away to begin anew"):
        StateDir.open(tmp_path)


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path)
    identity = Identity(state.database, NODE)

    def interrupted() -> None:
        with state.database.transaction():
            identity.keep_domain("gone")
            state.database.write("INSERT INTO no_such_table VALUES (1)")

    with pytest.raises(StateUnavailable):
        interrupted()
    assert Identity(state.database, NODE).domain == ""
    with state.database.transaction():
        identity.count_refused_frame()
    assert state.database.number("SELECT frames_refused FROM node") == 1
    state.close()
