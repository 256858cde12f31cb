"""A real relay between real agents and a real controller: what passes through it, what it keeps while its controller
cannot be reached, what a kill leaves, and nodes that change their path.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from controller.log.stored import Chain
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import connectivity_pb2, fleet_service_pb2, node_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, wait_until
from tests.e2e.link_proxy import LinkProxy

ZONE = "edge-zone"
RELAY = "relay-1"
REPORTING = ("--report-interval", "0.2")

LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE


@dataclass
class Site:
    """A controller, and the relay that reaches it through a link which is cut at will."""

    federation: LocalFederation
    uplink: LinkProxy
    zone: Clients

    def start_relay(self) -> None:
        self.federation.start_relay(ZONE, RELAY, *REPORTING, server=self.uplink.endpoint)

    def start_agent(self, node: str, *servers: str) -> None:
        """Starts an agent that dials these addresses, the relay's where none is named."""
        relay = self.federation.relay_address(RELAY)
        self.federation.start_agent(ZONE, node, *REPORTING, server=",".join(servers or (relay,)))

    def kill(self, process: str) -> None:
        self.federation.processes[f"agent/{process}"].kill()

    def node(self, node: str) -> node_pb2.Node | None:
        request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{node}")
        try:
            found: node_pb2.Node = self.zone.fleet.GetNode(request, timeout=DEADLINE_S).node
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return found

    def is_live(self, node: str, relay: str) -> bool:
        twin = self.node(node)
        if twin is None:
            return False
        link = twin.connectivity.link
        return (link.mode, link.relay) == (LIVE, relay)

    def ping(self, node: str) -> str:
        """Issues a command; its name."""
        request = command_service_pb2.IssueCommandRequest(
            targets=command_pb2.Targets(nodes=[node]),
            action=command_pb2.Action(ping=command_pb2.Ping(payload="hello")),
        )
        request.expiry.ttl.FromSeconds(60)
        issued = self.zone.commands.IssueCommand(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
        return str(issued.command.name)

    def wait_for_success(self, command: str) -> command_pb2.Delivery:
        request = command_service_pb2.GetCommandRequest(name=command)

        def delivery() -> command_pb2.Delivery:
            found: command_pb2.Command = self.zone.commands.GetCommand(
                request, timeout=DEADLINE_S
            ).command
            return found.deliveries[0]

        wait_until(
            lambda: delivery().state == command_pb2.DELIVERY_STATE_SUCCEEDED,
            f"{command} to succeed, which was {delivery()}",
        )
        return delivery()

    def kept(self, node: str) -> int:
        """Reports of a node that the relay keeps."""
        return self._of_kept("COALESCE(SUM(reports), 0)", node)

    def kept_up_to(self, node: str) -> int:
        """Number of the last report of a node that the relay keeps."""
        return self._of_kept("MAX(last)", node)

    def _of_kept(self, what: str, node: str) -> int:
        path = self.federation.directory / f"relay-{RELAY}" / "relay.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            row = database.execute(f"SELECT {what} FROM kept WHERE node = ?", (node,)).fetchone()  # noqa: S608
        return int(row[0])

    def reports(self, node: str) -> list[int]:
        """Numbers of a node's reports in the order in which they stand in the controller's log, lane by lane."""
        path = self.federation.data_dir(ZONE) / "log.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT log_offset, stored FROM commits ORDER BY log_offset")
            chain = Chain(0)
            commits = [event_pb2.Commit.FromString(chain.take(*row)[1]) for row in rows]
        lanes: dict[int, list[int]] = {}
        for run in (run for commit in commits for run in commit.runs):
            for event in map(event_pb2.Event.FromString, run.events):
                if event.report_sequence and event.subject == f"nodes/{node}":
                    lanes.setdefault(run.stream.lane, []).append(event.report_sequence)
        assert all(numbers == sorted(numbers) for numbers in lanes.values())
        return [number for numbers in lanes.values() for number in numbers]

    def has_all_once(self, node: str) -> bool:
        """Tells whether each report from the first to the last stands there once."""
        numbers = sorted(self.reports(node))
        return numbers == list(range(1, len(numbers) + 1))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    plans = [DomainPlan(ZONE, kind="global", level="global", log="sqlite")]
    federation = LocalFederation(tmp_path_factory.mktemp("federation"), plans)
    with federation, Clients(federation.address(ZONE)) as zone:
        federation.start_all()
        with LinkProxy(federation.address(ZONE)) as uplink:
            running = Site(federation, uplink, zone)
            running.start_relay()
            yield running


def test_nodes_behind_a_relay_are_live_and_shown_with_it(site: Site) -> None:
    for node in ("n1", "n2"):
        site.start_agent(node)
    for node in ("n1", "n2"):
        wait_until(lambda node=node: site.is_live(node, RELAY), f"{node} live through the relay")  # type: ignore[misc]
    wait_until(lambda: site.is_live(RELAY, ""), "the relay's own node live")
    wait_until(lambda: _carried(site) == 3, "the relay's own word of what it carries")
    relay = site.node(RELAY)
    assert relay is not None
    assert relay.spec.kind == node_pb2.NODE_KIND_RELAY
    measured = site.node("n1")
    assert measured is not None
    wait_until(lambda: _rtt_ms(site, "n1") > 0, "a round trip measured through the relay")


def _carried(site: Site) -> int:
    twin = site.node(RELAY)
    return twin.actual_state.relay.nodes if twin is not None else 0


def _rtt_ms(site: Site, node: str) -> float:
    twin = site.node(node)
    assert twin is not None
    return twin.connectivity.quality.rtt.ToMicroseconds() / 1000


def test_a_command_goes_through_and_its_result_comes_back(site: Site) -> None:
    site.start_agent("n3")
    wait_until(lambda: site.is_live("n3", RELAY), "n3 live through the relay")
    delivery = site.wait_for_success(site.ping("n3"))
    assert delivery.output["payload"] == "hello"
    assert delivery.attempts == 1


def test_what_is_kept_while_the_controller_is_away_arrives_once_and_in_order(site: Site) -> None:
    for node in ("gone", "stays"):
        site.start_agent(node)
        wait_until(
            lambda node=node: site.is_live(node, RELAY) and site.reports(node),  # type: ignore[misc]
            f"{node} live, and reporting",
        )
    site.uplink.cut()
    for node in ("gone", "stays"):
        wait_until(lambda node=node: site.kept(node) >= 5, f"reports of {node} kept")  # type: ignore[misc]
    site.kill("gone")
    last = site.kept_up_to("gone")
    assert last > max(site.reports("gone"))
    site.uplink.heal()
    # What the agent had sent when it was killed may have reached the relay after that look.
    wait_until(lambda: max(site.reports("gone")) >= last, "the reports of an agent that is gone")
    wait_until(lambda: site.is_live("stays", RELAY), "the other live again")
    wait_until(lambda: site.kept("stays") == 0 and site.kept("gone") == 0, "nothing kept any more")
    assert site.has_all_once("gone")
    assert site.has_all_once("stays")
    site.wait_for_success(site.ping("stays"))


def test_a_killed_relay_loses_nothing_it_kept_and_nothing_acknowledged(site: Site) -> None:
    site.start_agent("n4")
    wait_until(lambda: site.is_live("n4", RELAY) and site.reports("n4"), "n4 live, and reporting")
    site.uplink.cut()
    wait_until(lambda: site.kept("n4") >= 5, "reports kept")
    site.kill(RELAY)
    last = site.kept_up_to("n4")
    site.kill("n4")
    assert last > max(site.reports("n4"))
    site.start_relay()
    site.uplink.heal()
    wait_until(lambda: max(site.reports("n4")) >= last, "what the killed relay had kept")
    site.start_agent("n4")
    wait_until(lambda: site.is_live("n4", RELAY), "n4 live again")
    site.wait_for_success(site.ping("n4"))
    assert site.has_all_once("n4")


def test_a_node_is_handed_over_from_a_relay_that_hangs_and_comes_back_to_it(site: Site) -> None:
    direct = site.federation.address(ZONE)
    site.start_agent("n5", site.federation.relay_address(RELAY), direct)
    wait_until(lambda: site.is_live("n5", RELAY), "n5 live through the relay")
    site.wait_for_success(site.ping("n5"))
    relay = site.federation.processes[f"agent/{RELAY}"]
    relay.pause()
    try:
        wait_until(lambda: site.is_live("n5", ""), "n5 live by itself")
        site.wait_for_success(site.ping("n5"))
    finally:
        relay.resume()
    site.federation.processes["agent/n5"].stop()
    site.start_agent("n5")
    wait_until(lambda: site.is_live("n5", RELAY), "n5 live through the relay again")
    site.wait_for_success(site.ping("n5"))
    assert site.has_all_once("n5")


def test_the_state_directory_of_another_relay_is_refused(site: Site, tmp_path: Path) -> None:
    directory = site.federation.directory / f"relay-{RELAY}"
    running = site.federation.start_relay(ZONE, "relay-9", "--state-dir", str(directory))
    assert running.process.wait(DEADLINE_S) == 2
    assert "in use by another agent" in running.log_path.read_text()
