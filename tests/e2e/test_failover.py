"""Two replicas of one controller over one etcd: the master dies or is paused under load, and nothing acknowledged is
lost, nothing is written twice, and nothing of the old master's takes effect afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import fleet_service_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of, wait_until

DOMAIN = "region-a"

#: What a client of a controller that changes masters meets, and answers by asking again.
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.fixture
def federation(tmp_path: Path, etcd_binary: Path) -> Iterator[LocalFederation]:
    plans = [
        DomainPlan("global", kind="global", level="global", log="sqlite"),
        DomainPlan(DOMAIN, "global", kind="region", level="regional", replicas=2),
    ]
    with LocalFederation(tmp_path, plans) as running:
        running.start_all()
        yield running


class Load:
    """Writes policies one after another through whichever replica is master, repeating each with its request_id until
    it is acknowledged.
    """

    def __init__(self, federation: LocalFederation) -> None:
        self.acknowledged: list[str] = []
        self.unexpected: list[grpc.RpcError] = []
        self._stop = threading.Event()
        self._clients = [Clients(address) for address in federation.addresses(DOMAIN)]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for client in self._clients:
            client.__exit__()
        assert not self.unexpected, self.unexpected

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            policy = f"load-{number}"
            if self._write(policy):
                self.acknowledged.append(policy)
                number += 1

    def _write(self, policy: str) -> bool:
        for client in self._clients:
            try:
                client.create_policy(DOMAIN, policy, "v1", request_id=f"request-{policy}")
            except grpc.RpcError as error:
                if error.code() not in RETRIED:
                    self.unexpected.append(error)
                    self._stop.set()
            else:
                return True
        return False


def _all_policies(client: Clients) -> list[str]:
    names = []
    token = ""
    while True:
        page = client.list_policies(DOMAIN, token)
        names += [policy.id for policy in page.policies]
        token = page.next_page_token
        if not token:
            return names


def test_the_second_replica_takes_over_from_a_killed_master_and_nothing_acknowledged_is_lost(
    federation: LocalFederation,
) -> None:
    master = federation.wait_for_master(DOMAIN)
    standby = 3 - master
    with Load(federation) as load:
        wait_until(lambda: len(load.acknowledged) > 100, "a hundred writes before the kill")
        federation.processes[f"{DOMAIN}/r{master}"].kill()
        before = len(load.acknowledged)
        assert federation.wait_for_master(DOMAIN) == standby
        wait_until(lambda: len(load.acknowledged) > before + 50, "writes after the take-over")
    with Clients(federation.address(DOMAIN, standby)) as survivor:
        stored = _all_policies(survivor)
        assert sorted(stored) == sorted(set(stored))
        assert set(load.acknowledged) <= set(stored)
        streams = survivor.streams(DOMAIN)
    with Clients(federation.address("global")) as top:
        wait_until(lambda: _same(top.streams(DOMAIN), streams), "the same streams at the top")


def _same(
    above: dict[tuple[str, str], tuple[int, str]], below: dict[tuple[str, str], tuple[int, str]]
) -> bool:
    return all(above.get(name) == position for name, position in below.items())


def test_a_master_paused_beyond_its_lease_writes_nothing_more_when_it_wakes(
    federation: LocalFederation,
) -> None:
    old = federation.wait_for_master(DOMAIN)
    new = 3 - old
    agent = federation.start_simulated_agents(DOMAIN, 1)
    with (
        Clients(federation.address(DOMAIN, old)) as at_old,
        Clients(federation.address(DOMAIN, new)) as at_new,
    ):
        wait_until(lambda: _nodes(at_old), "the node known to the old master")
        federation.processes[f"{DOMAIN}/r{old}"].pause()
        wait_until(
            lambda: _is_master(federation, new), "the other replica master after the lease ran out"
        )
        at_new.create_policy(DOMAIN, "by-the-new-master", "v1")
        _ping(at_new)
        federation.processes[f"{DOMAIN}/r{old}"].resume()
        for number in range(20):
            with pytest.raises(grpc.RpcError) as refused:
                at_old.create_policy(DOMAIN, f"by-the-old-master-{number}", "v1")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(refused.value) in ("NOT_MASTER", "OUTCOME_UNKNOWN")
        _ping(at_new)
        assert not [p for p in _all_policies(at_new) if p.startswith("by-the-old-master")]
        wait_until(
            lambda: at_old.policy_version(DOMAIN, "by-the-new-master") == "v1",
            "the woken replica follows as a standby",
        )
    assert agent.process.poll() is None


def _is_master(federation: LocalFederation, replica: int) -> bool:
    status = federation.status(DOMAIN, replica)
    return status is not None and status.master


def _nodes(client: Clients) -> int:
    request = fleet_service_pb2.ListNodesRequest(domain=DOMAIN)
    return len(client.fleet.ListNodes(request, timeout=DEADLINE_S).nodes)


def _ping(client: Clients) -> None:
    """A command through this replica to the node and back."""
    request = command_service_pb2.IssueCommandRequest(
        targets=command_pb2.Targets(domain=DOMAIN),
        action=command_pb2.Action(ping=command_pb2.Ping(payload="hello")),
    )
    issued = client.commands.IssueCommand(request, timeout=DEADLINE_S, metadata=PRINCIPAL).command
    watch = command_service_pb2.WatchCommandRequest(name=issued.name)
    states = [s.command for s in client.commands.WatchCommand(watch, timeout=DEADLINE_S)]
    assert [d.state for d in states[-1].deliveries] == [command_pb2.DELIVERY_STATE_SUCCEEDED]


def test_a_standby_answers_reads_and_names_the_master_to_writers(
    federation: LocalFederation,
) -> None:
    master = federation.wait_for_master(DOMAIN)
    with (
        Clients(federation.address(DOMAIN, master)) as at_master,
        Clients(federation.address(DOMAIN, 3 - master)) as at_standby,
    ):
        at_standby.wait_until_connected()
        at_master.create_policy(DOMAIN, "read-at-the-standby", "v1")
        at_standby.wait_for_policy(DOMAIN, "read-at-the-standby", "v1")
        with pytest.raises(grpc.RpcError) as refused:
            at_standby.create_policy(DOMAIN, "written-at-the-standby", "v1")
        assert reason_of(refused.value) == "NOT_MASTER"
        request = federation_service_pb2.GetStatusRequest()
        status = at_standby.federation.GetStatus(request, timeout=DEADLINE_S)
        assert not status.master
        assert federation.address(DOMAIN, master) in status.current_master


def test_writes_go_on_after_etcd_was_killed_and_restarted(federation: LocalFederation) -> None:
    with Load(federation) as load:
        wait_until(lambda: len(load.acknowledged) > 50, "writes before the kill")
        federation.processes[f"{DOMAIN}/etcd"].kill()
        before = len(load.acknowledged)
        federation.start_etcd(DOMAIN)
        wait_until(lambda: len(load.acknowledged) > before + 50, "writes after the restart")
    master = federation.wait_for_master(DOMAIN)
    with Clients(federation.address(DOMAIN, master)) as client:
        assert set(load.acknowledged) <= set(_all_policies(client))
