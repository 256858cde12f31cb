from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import fleet as under_test
from benchmarks import fleet_log
from benchmarks.fleet import fleet
from benchmarks.fleet_log import write_fleet_log
from controller.log.sqlite_log import SqliteLog
from controller.signing import Ed25519Signer, Ed25519Verifier
from controller.twin.domain import nodes_in
from federation.proposal import Identity
from federation.state import State
from souverix.event.v1 import event_pb2

NOW_S = 1_800_000_000


def test_the_same_seed_makes_the_same_fleet() -> None:
    assert list(fleet(5, NOW_S, seed=3)) == list(fleet(5, NOW_S, seed=3))
    assert list(fleet(5, NOW_S, seed=3)) != list(fleet(5, NOW_S, seed=4))


async def test_a_fleets_log_is_read_as_its_nodes_in_their_zones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "NODES_A_ZONE", 4)
    monkeypatch.setattr(under_test, "ZONES_A_REGION", 2)
    monkeypatch.setattr(fleet_log, "NODES_A_COMMIT", 3)
    path = tmp_path / "log.sqlite"
    identity = Identity("global-control", "global", 1)
    events = await write_fleet_log(path, identity, Ed25519Signer.generate(), b"", fleet(10, NOW_S))
    assert events == 70
    state = State("global-control", Ed25519Verifier(), b"")
    log = SqliteLog(path, "read")
    await log.open(bytes(16))
    while commits := await log.read(state.next_offset, 1):
        for offset, data in commits:
            state.apply(offset, event_pb2.Commit.FromString(data))
    await log.close()
    found = {at.node_id for zone in state.authority.records for at in nodes_in(state, zone)}
    assert found == {each.node for each in fleet(10, NOW_S)}
    assert list(state.authority.children_of("region-00")) == ["zone-0000", "zone-0001"]
    assert len(list(state.subjects_of("global", "policies"))) == under_test.BUNDLES
