"""The modes of syncing with real processes: when sessions are open, how a missing parent is waited for, and what
restarts and late connections do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import fleet_service_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, wait_until
from tests.e2e.link_proxy import LinkProxy
from tests.processes import free_port

ZONE = "edge-zone-a1"
REGION = "region-a"


@dataclass
class Pair:
    """A region and a zone below it, with a link that a test can break."""

    federation: LocalFederation
    link: LinkProxy
    region: Clients
    zone: Clients

    def peer(self, side: Clients) -> federation_service_pb2.Peer:
        request = federation_service_pb2.ListPeersRequest()
        response = side.federation.ListPeers(request, timeout=DEADLINE_S)
        peer: federation_service_pb2.Peer = response.peers[0]
        return peer

    def connected(self) -> bool:
        """Tells whether the zone has a session now."""
        return self.peer(self.zone).state != federation_service_pb2.PEER_STATE_DISCONNECTED

    def sync_now(self, timeout_s: int) -> list[federation_service_pb2.SyncNowResponse]:
        request = federation_service_pb2.SyncNowRequest()
        request.timeout.FromSeconds(timeout_s)
        return list(self.zone.federation.SyncNow(request, timeout=DEADLINE_S, metadata=PRINCIPAL))


@contextmanager
def pair_in(
    directory: Path, mode: str, frequency_s: float = 0.0, *, dead_address_first: bool = False
) -> Iterator[Pair]:
    plans = [
        DomainPlan(REGION, kind="global", level="global", log="sqlite"),
        DomainPlan(ZONE, REGION, sync_mode=mode, sync_frequency_s=frequency_s, log="sqlite"),
    ]
    federation = LocalFederation(directory, plans)
    with LinkProxy(federation.address(REGION)) as link:
        dead = [f"127.0.0.1:{free_port()}"] if dead_address_first else []
        federation.parent_addresses[f"{ZONE}-control"] = [*dead, link.endpoint]
        with (
            federation as running,
            Clients(running.address(REGION)) as region,
            Clients(running.address(ZONE)) as zone,
        ):
            running.start_all()
            yield Pair(running, link, region, zone)


def create_nodes(client: Clients, prefix: str, count: int) -> None:
    request = fleet_service_pb2.BatchCreateNodesRequest(
        items=[
            fleet_service_pb2.NodeCreation(domain=ZONE, node_id=f"{prefix}-{n}")
            for n in range(count)
        ]
    )
    response = client.fleet.BatchCreateNodes(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert [r.status.code for r in response.results] == [0] * count


def level(pair: Pair) -> bool:
    """Tells whether the region holds all the zone's streams as the zone does."""
    there = pair.region.streams(ZONE)
    return all(there.get(stream) == at for stream, at in pair.zone.streams(ZONE).items())


def test_periodic_sessions_level_both_sides_and_close(tmp_path: Path) -> None:
    with pair_in(tmp_path, "periodic", 1.0) as pair:
        for number in range(2):
            pair.zone.create_policy(ZONE, f"below-{number}", "v1")
            pair.region.create_policy(REGION, f"above-{number}", "v1")
            pair.region.wait_for_policy(ZONE, f"below-{number}", "v1")
            pair.zone.wait_for_policy(REGION, f"above-{number}", "v1")
            wait_until(lambda: not pair.connected(), "the end of the session")
        ended = pair.peer(pair.zone).last_error
        assert "level" in ended, ended
        assert "level" in pair.peer(pair.region).last_error


def test_an_opportunistic_link_levels_when_it_appears_and_closes(tmp_path: Path) -> None:
    with pair_in(tmp_path, "opportunistic", 1.0) as pair:
        wait_until(lambda: "level" in pair.peer(pair.zone).last_error, "the first levelling")
        pair.link.cut()
        pair.zone.create_policy(ZONE, "while-away", "v1")
        wait_until(lambda: pair.peer(pair.zone).HasField("next_attempt_time"), "a failed attempt")
        assert not pair.region.policy_version(ZONE, "while-away")
        pair.link.heal()
        pair.region.wait_for_policy(ZONE, "while-away", "v1")
        wait_until(lambda: "level" in pair.peer(pair.zone).last_error, "the end by level")


def test_a_manual_link_waits_for_the_operator_and_ends_level(tmp_path: Path) -> None:
    with pair_in(tmp_path, "manual") as pair:
        wait_until(lambda: not pair.connected(), "the end of the first contact")
        assert pair.sync_now(20)[-1].level
        pair.zone.create_policy(ZONE, "kept-back", "v1")
        wait_until(lambda: not pair.connected(), "the end of the session")
        # Any other mode would have brought it while these are asked.
        for _ in range(200):
            assert not pair.connected()
        assert not pair.region.policy_version(ZONE, "kept-back")

        create_nodes(pair.zone, "n", 500)
        steps = pair.sync_now(20)
        assert steps[-1].level
        assert any(step.debt.backlog_events > 0 for step in steps)
        assert steps[-1].debt.backlog_events == 0
        assert pair.region.policy_version(ZONE, "kept-back") == "v1"
        wait_until(lambda: not pair.connected(), "the end of the session")


def test_an_operators_sync_says_that_it_did_not_come_about_and_tries_again_meanwhile(
    tmp_path: Path,
) -> None:
    with pair_in(tmp_path, "manual") as pair:
        assert pair.sync_now(20)[-1].level
        pair.link.cut()
        pair.zone.create_policy(ZONE, "kept-back", "v1")
        assert not pair.sync_now(1)[-1].level
        request = federation_service_pb2.SyncNowRequest()
        request.timeout.FromSeconds(25)
        stream = pair.zone.federation.SyncNow(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
        assert not next(stream).level
        pair.link.heal()
        assert list(stream)[-1].level
        assert pair.region.policy_version(ZONE, "kept-back") == "v1"


def test_a_continuous_link_stays_and_finds_its_parent_again_with_growing_pauses(
    tmp_path: Path,
) -> None:
    with pair_in(tmp_path, "continuous") as pair:
        wait_until(pair.connected, "the link")
        pair.federation.processes[f"{REGION}/r1"].kill()
        seen: dict[int, float] = {}

        def note() -> bool:
            peer = pair.peer(pair.zone)
            if peer.HasField("next_attempt_time"):
                due = peer.next_attempt_time.ToMilliseconds()
                seen.setdefault(due, due - time.time() * 1000)
            return len(seen) >= 5

        wait_until(note, "five attempts")
        pauses = [seen[due] for due in sorted(seen)]
        assert pauses[-1] > 2 * max(pauses[0], 1), pauses
        pair.federation.start_controller(REGION)
        pair.federation.wait_for_master(REGION)
        pair.zone.create_policy(ZONE, "after", "v1")
        pair.region.wait_for_policy(ZONE, "after", "v1")


def test_the_second_address_of_the_parent_is_tried_when_the_first_is_dead(tmp_path: Path) -> None:
    with pair_in(tmp_path, "continuous", dead_address_first=True) as pair:
        pair.zone.create_policy(ZONE, "p", "v1")
        pair.region.wait_for_policy(ZONE, "p", "v1")
        assert pair.peer(pair.zone).address == pair.link.endpoint


@pytest.mark.timeout(180)
def test_a_child_killed_in_the_middle_of_catching_up_loses_and_repeats_nothing(
    tmp_path: Path,
) -> None:
    batches = 14  # of 500 nodes with three events each: 21,000 events
    with pair_in(tmp_path, "continuous") as pair:
        wait_until(pair.connected, "the link")
        pair.link.cut()
        for number in range(batches):
            create_nodes(pair.zone, f"b{number}", 500)
        # Stalled once some of it has arrived, so that the child dies in the middle.
        before = sum(at for at, _ in pair.region.streams(ZONE).values())
        pair.link.heal()
        wait_until(
            lambda: sum(at for at, _ in pair.region.streams(ZONE).values()) > before,
            "the beginning of the catch-up",
        )
        pair.federation.processes[f"{ZONE}/r1"].kill()
        pair.federation.start_controller(ZONE)
        pair.federation.wait_for_master(ZONE)
        wait_until(lambda: level(pair), "equal streams", timeout_s=90)
        total = sum(at for at, _ in pair.region.streams(ZONE).values())
        assert total >= 20_000
        request = federation_service_pb2.ListStreamsRequest(domain=ZONE)
        response = pair.region.federation.ListStreams(request, timeout=DEADLINE_S)
        assert sum(s.quarantined_runs for s in response.streams) == 0


def test_what_a_stalled_connection_still_held_does_no_harm_after_a_newer_one(
    tmp_path: Path,
) -> None:
    with pair_in(tmp_path, "continuous") as pair:
        wait_until(pair.connected, "the link")
        pair.link.stall()
        for number in range(20):
            pair.zone.create_policy(ZONE, f"held-{number}", "v1")
        with LinkProxy(pair.federation.address(REGION)) as other:
            pair.federation.processes[f"{ZONE}/r1"].kill()
            pair.federation.parent_addresses[f"{ZONE}-control"] = [other.endpoint]
            path = pair.federation.config_path(ZONE)
            path.write_text(path.read_text().replace(pair.link.endpoint, other.endpoint))
            pair.federation.start_controller(ZONE)
            pair.federation.wait_for_master(ZONE)
            pair.region.wait_for_policy(ZONE, "held-19", "v1")
            pair.zone.update_policy(ZONE, "held-0", "v2")
            pair.link.heal()
            pair.region.wait_for_policy(ZONE, "held-0", "v2")
            wait_until(lambda: pair.link.connections == 0, "the end of the old connection")
            wait_until(lambda: level(pair), "equal streams")
            request = federation_service_pb2.ListConflictsRequest()
            assert not pair.region.federation.ListConflicts(request, timeout=DEADLINE_S).conflicts
