"""What the demonstration reads of an agent's disk, and that its tampering is what the controller's check finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.nodelink.staging import Staging, Violation
from deploy.demo.agent_disk import Waiting, backlog_of, tamper
from nodeagent.backlog import Backlog
from nodeagent.identity import Identity
from nodeagent.replay import Replay
from nodeagent.statedir import StateDir
from souverix.nodelink.v1 import nodelink_pb2
from tests.unit.nodeagent.made_up import NODE, state_report

REPORTS = 6


def recorded(directory: Path) -> None:
    """An agent that recorded reports, began to send them, and heard nothing but that the first arrived."""
    state = StateDir.open(directory)
    backlog = Backlog(state.database, Identity(state.database, NODE))
    for number in range(REPORTS):
        backlog.append(state_report(f"v{number}"), {})
    assert backlog.next_after(0)
    backlog.acknowledge(1)
    state.close()


def replayed(directory: Path) -> Staging:
    """What a controller makes of the replay of that agent. Raises `Violation`."""
    state = StateDir.open(directory)
    try:
        identity = Identity(state.database, NODE)
        turn = nodelink_pb2.ReplayTurn(first_sequence=2, max_reports=100)
        replay = Replay(Backlog(state.database, identity), identity, b"token", turn)
        staging = Staging(NODE, identity.source, 2)
        staging.take(replay.next_chunk())
    finally:
        state.close()
    return staging


def test_what_waits_is_read_from_the_disk(tmp_path: Path) -> None:
    recorded(tmp_path)
    waiting = backlog_of(tmp_path, NODE)
    assert waiting == Waiting(reports=REPORTS - 1, acknowledged=1, numbered=REPORTS)
    assert (waiting.handed_out, waiting.kept_back) == (REPORTS - 1, 0)


def test_an_untouched_backlog_is_taken_and_a_tampered_one_is_found_out(tmp_path: Path) -> None:
    recorded(tmp_path)
    assert len(replayed(tmp_path).reports) == REPORTS - 1
    gone = tamper(tmp_path, NODE, "forged")
    with pytest.raises(Violation, match=f"where {gone} is expected") as refused:
        replayed(tmp_path)
    assert refused.value.reason == "SEQUENCE_BROKEN"
