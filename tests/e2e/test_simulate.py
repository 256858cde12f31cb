"""The fleet generator against a real controller: nodes by streams and through relays, cut off, upgraded, unruly."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from nodeagent.simulated_temper import LABEL, SCENARIOS, temper_of
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.fleet.v1 import connectivity_pb2, fleet_service_pb2, node_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, wait_until

ZONE = "edge-zone"
LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE


@dataclass
class Controller:
    """A running controller."""

    federation: LocalFederation
    zone: Clients

    @contextmanager
    def fleet(self, prefix: str, *options: str) -> Iterator[subprocess.Popen[str]]:
        """A made-up fleet that lives while the block runs."""
        command = [sys.executable, "-m", "nodeagent.main", "simulate", "--prefix", prefix]
        process = subprocess.Popen(
            [*command, "--controller", self.federation.server(ZONE), "--register", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def nodes(self, prefix: str) -> list[node_pb2.Node]:
        """The twins whose ids begin with the prefix."""
        request = fleet_service_pb2.ListNodesRequest(page_size=1000)
        found = self.zone.fleet.ListNodes(request, timeout=DEADLINE_S).nodes
        return [node for node in found if node.id.startswith(prefix)]

    def live(self, prefix: str) -> list[node_pb2.Node]:
        return [n for n in self.nodes(prefix) if n.connectivity.link.mode == LIVE]

    def ping(self, nodes: list[str]) -> str:
        request = command_service_pb2.IssueCommandRequest(
            targets=command_pb2.Targets(nodes=nodes),
            action=command_pb2.Action(ping=command_pb2.Ping(payload="hello")),
        )
        request.expiry.ttl.FromSeconds(60)
        issued = self.zone.commands.IssueCommand(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
        return str(issued.command.name)

    def succeeded(self, command: str) -> int:
        request = command_service_pb2.GetCommandRequest(name=command)
        found = self.zone.commands.GetCommand(request, timeout=DEADLINE_S).command
        done = command_pb2.DELIVERY_STATE_SUCCEEDED
        return sum(delivery.state == done for delivery in found.deliveries)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    plans = [DomainPlan(ZONE, kind="global", level="global", log="sqlite")]
    federation = LocalFederation(tmp_path_factory.mktemp("federation"), plans)
    with federation, Clients(federation.address(ZONE)) as zone:
        path = federation.config_path(ZONE)
        path.write_text(path.read_text() + "[connectivity]\nautonomous_after_s = 1.0\n")
        federation.start_all()
        yield Controller(federation, zone)


@pytest.mark.parametrize(("way", "relays"), [(("--relays", "3"), 3), (("--streams",), 0)])
def test_two_hundred_nodes_are_live_report_and_carry_out_a_command(
    controller: Controller, way: tuple[str, ...], relays: int
) -> None:
    prefix = f"fleet{relays}-"
    with controller.fleet(prefix, "--nodes", "200", *way) as fleet:
        wait_until(lambda: len(controller.live(prefix)) == 200, "all nodes live")
        nodes = controller.nodes(prefix)
        through = {node.connectivity.link.relay for node in nodes}
        assert through == ({f"fleet{relays}-relay-{n}" for n in (1, 2, 3)} if relays else {""})
        wait_until(
            lambda: all(n.actual_state.reported_version for n in controller.nodes(prefix)),
            "a version of each",
        )
        ids = [node.id for node in nodes[::10]]
        command = controller.ping(ids)
        wait_until(lambda: controller.succeeded(command) == len(ids), "the command done")
        fleet.terminate()
        told, _ = fleet.communicate(timeout=DEADLINE_S)
        assert fleet.returncode == 0
        assert "linked 200/200" in told
        assert "400 reports" in told


def test_nodes_are_cut_off_and_come_back_as_the_seed_says(controller: Controller) -> None:
    ids = [f"cut-{number:02}" for number in range(1, 31)]
    fleets = {n: [temper_of(SCENARIOS["outages"], n, node) for node in ids] for n in range(20)}
    seed = min(
        fleets, key=lambda n: min(t.cut_at_s + t.cut_for_s for t in fleets[n] if t.cut_every_s)
    )
    tempers = dict(zip(ids, fleets[seed], strict=True))
    cut = {node for node, temper in tempers.items() if temper.cut_every_s}
    assert 5 < len(cut) < 25
    options = ("--nodes", "30", "--seed", str(seed), "--scenario", "outages", "--relays", "1")
    with controller.fleet("cut-", *options):
        wait_until(lambda: len(controller.live("cut-")) >= 25, "most nodes live")
        away = wait_until(lambda: _away(controller.nodes("cut-")), "a node cut off")
        assert away <= cut
        wait_until(
            lambda: away & {node.id for node in controller.live("cut-")},
            "one of them back",
            2 * DEADLINE_S,
        )


def _away(nodes: list[node_pb2.Node]) -> set[str]:
    autonomous = connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS
    return {node.id for node in nodes if node.connectivity.link.mode == autonomous}


def test_a_declared_version_comes_into_force(controller: Controller) -> None:
    ids = [f"up-{number:02}" for number in range(1, 21)]
    tempers = {node: temper_of(SCENARIOS["upgrades"], 1, node) for node in ids}
    quick, *others = sorted(ids, key=lambda node: tempers[node].upgrade_after_s or DEADLINE_S)
    with controller.fleet("up-", "--nodes", "20", "--seed", "1", "--scenario", "upgrades"):
        wait_until(lambda: len(controller.live("up-")) == 20, "all nodes live")
        request = fleet_service_pb2.SetDesiredStateRequest(
            name=f"nodes/{quick}",
            desired_state=node_pb2.DesiredState(target_version="souverix-rempart-9.9.9"),
        )
        controller.zone.fleet.SetDesiredState(request, timeout=DEADLINE_S, metadata=PRINCIPAL)

        def versions() -> dict[str, str]:
            return {n.id: n.actual_state.reported_version for n in controller.nodes("up-")}

        wait_until(lambda: versions()[quick] == "souverix-rempart-9.9.9", "the new version")
        assert "souverix-rempart-9.9.9" not in {versions()[node] for node in others}


@pytest.mark.parametrize("way", [("--relays", "1"), ("--streams",)])
def test_unruly_nodes_are_labelled_and_harm_nobody_else(
    controller: Controller, way: tuple[str, ...]
) -> None:
    prefix = f"unruly{len(way)}-"
    options = ("--nodes", "60", "--seed", "5", "--scenario", "unruly", "--report-interval", "0.5")
    with controller.fleet(prefix, *options, *way) as fleet:
        wait_until(lambda: len(controller.live(prefix)) >= 50, "the orderly nodes live")
        labelled = [n for n in controller.nodes(prefix) if LABEL in n.spec.labels]
        assert 0 < len(labelled) < 20
        orderly = [n.id for n in controller.nodes(prefix) if LABEL not in n.spec.labels]
        command = controller.ping(orderly)
        wait_until(lambda: controller.succeeded(command) == len(orderly), "the command done")
        fleet.terminate()
        told, _ = fleet.communicate(timeout=DEADLINE_S)
        assert "misdeeds" in told
        assert "sent away" in told
        assert fleet.returncode == 0


def test_help_teaches() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "nodeagent.main", "simulate", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    ).stdout
    for scenario in SCENARIOS:
        assert f"  {scenario} " in shown
    assert "souverix-node simulate --nodes 100 --seed 7" in shown
