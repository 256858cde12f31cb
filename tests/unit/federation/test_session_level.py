"""When both sides are level, how silence is filled, and when it is taken for an end."""

from __future__ import annotations

import pytest

from federation.session_phases import Phase
from federation.session_settings import HEARTBEAT_MS
from souverix.sync.v1 import sync_pb2
from tests.federation_fixture import MemoryController, controller_below
from tests.unit.federation.session_wire import connected, exchange, opened, versions


def test_level_is_lost_with_a_commit_and_found_again_with_its_acknowledgement(
    root: MemoryController,
) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    levels = [below.session.is_level]
    region.write_policy("region-a", "v1")
    levels.append(below.session.is_level)
    below.wake()
    exchange(below, above)
    levels.append(below.session.is_level)
    assert levels == [True, False, True]
    assert above.session.peer_level


def test_peer_that_sends_runs_is_not_level_until_it_says_so_again(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    assert above.session.peer_level
    above.holds_ingests = True
    region.write_policy("region-a", "v1")
    below.wake()
    exchange(below, above)
    assert not above.session.peer_level


def test_session_that_is_not_kept_open_ends_once_both_sides_are_level(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    below, above = connected(region, root, keep_open=False)
    assert versions(root, "region-a") == {"v1"}
    for side in (below, above):
        assert side.closed is not None
        assert side.closed.reason == sync_pb2.GOODBYE_REASON_LEVEL
        assert side.session.phase is Phase.CLOSED
    assert below.session.last_level_ms == region.now_ms


def test_heartbeat_follows_a_silence_and_tells_the_skew_of_clocks(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    below.sent.clear()
    region.now_ms += HEARTBEAT_MS - 1
    below.tick()
    assert below.sent == []
    region.now_ms += 1
    below.tick()
    assert below.kinds_sent() == ["heartbeat"]
    exchange(below, above)
    assert above.session.skew_ms == HEARTBEAT_MS


def test_heartbeats_are_as_frequent_as_the_strategy_says(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, _ = connected(region, root, heartbeat_ms=100)
    below.sent.clear()
    for _ in range(5):
        region.now_ms += 100
        below.take(sync_pb2.Frame(heartbeat=sync_pb2.Heartbeat()))
        below.tick()
    assert below.kinds_sent() == ["heartbeat"] * 5


@pytest.mark.parametrize("stage", ["greeting", "syncing"])
def test_silent_peer_is_given_up(root: MemoryController, stage: str) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, _ = opened(region, root) if stage == "greeting" else connected(region, root)
    region.now_ms += 3 * HEARTBEAT_MS
    below.tick()
    assert below.closed is not None
    assert "silent" in below.closed.message
    assert below.session.phase is Phase.CLOSED
