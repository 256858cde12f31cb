"""A zone that enrols machines by itself, with real processes: by a token, with approval, once only; a machine whose
certificate ended while it was away; a renewal through a relay.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.attention.v1 import attention_pb2, attention_service_pb2
from souverix.fleet.v1 import connectivity_pb2, fleet_service_pb2
from tests.e2e.clients import DEADLINE_S, Clients, wait_until
from trust.certificates import fingerprint
from trust.files import TrustFiles
from trust.identity import Kind, dns_name_of

ROOT, ZONE = "global", "edge-zone-a1"
TREE = [
    DomainPlan(ROOT, kind="global", level="global", log="sqlite"),
    DomainPlan(ZONE, ROOT, log="sqlite"),
]
LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
DAY = timedelta(days=1)


@dataclass
class Zone:
    """The running zone and its operator."""

    federation: LocalFederation
    clients: Clients

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `souverixctl` as the zone's operator."""
        operator = self.federation.certificates.leaf(ZONE, Kind.USER, "operator")
        name = dns_name_of((ROOT, ZONE), "souverix.local")
        command = [sys.executable, "-m", "souverixctl.main", *words]
        command += ["--server", self.federation.address(ZONE), "--server-name", name]
        return run([*command, "--tls", str(operator)])

    def token(self, *options: str) -> str:
        ran = self.ctl("enrolment", "token", "create", ZONE, *options)
        assert ran.returncode == 0, ran.stderr
        assert self.federation.certificates.root_fingerprint in ran.stdout
        found = re.search(rf"{ZONE}\.[0-9a-f]+\.[0-9a-f]{{64}}", ran.stdout)
        assert found, ran.stdout
        return found.group()

    def enrol_command(self, node: str, token: str, directory: Path) -> list[str]:
        command = [sys.executable, "-m", "nodeagent.main", "enrol", "--node", node]
        command += ["--controller", self.federation.enrolment_address(ZONE), "--token", token]
        command += ["--root-fingerprint", self.federation.certificates.root_fingerprint]
        return [*command, "--tls", str(directory), "--wait", str(DEADLINE_S)]

    def steps(self) -> list[str]:
        """What the attention queue has people do about machines that wait."""
        kind = attention_pb2.ATTENTION_KIND_ENROLMENT_PENDING
        request = attention_service_pb2.ListItemsRequest(domain=ZONE, kinds=[kind])
        found = self.clients.attention.ListItems(request, timeout=DEADLINE_S).items
        return [item.next_step for item in found]

    def is_live(self, node: str, relay: str | None = None) -> bool:
        request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{node}")
        try:
            link = self.clients.fleet.GetNode(request, timeout=DEADLINE_S).node.connectivity.link
        except grpc.RpcError:
            return False
        return link.mode == LIVE and relay in (None, link.relay)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=2 * DEADLINE_S
    )


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zone]:
    federation = LocalFederation(
        tmp_path_factory.mktemp("federation"),
        TREE,
        secured=True,
        admins=["user:operator"],
        enrolling=[ZONE],
    )
    with federation:
        federation.start_all()
        # From here on the zone is cut off from everything above, and goes on.
        federation.processes.pop(f"{ROOT}/r1").stop()
        with Clients(federation.address(ZONE), federation.client_tls(ZONE)) as clients:
            yield Zone(federation, clients)


def test_a_token_makes_a_machine_a_live_node_and_is_good_once(zone: Zone, tmp_path: Path) -> None:
    token = zone.token("--node", "edge-7")
    ran = run(zone.enrol_command("edge-7", token, tmp_path / "edge-7"))
    assert ran.returncode == 0, ran.stderr
    assert not (tmp_path / "edge-7" / "enrolling-key.pem").exists()
    zone.federation.start_agent(ZONE, "edge-7", tls=tmp_path / "edge-7")
    wait_until(lambda: zone.is_live("edge-7"), "the enrolled node live")

    again = run(zone.enrol_command("edge-7", token, tmp_path / "impostor"))
    assert again.returncode == 2
    assert "ENROLMENT_TOKEN_USED" in again.stderr
    assert not (tmp_path / "impostor" / "identity.pem").exists()


def test_a_machine_waits_until_somebody_approves(zone: Zone, tmp_path: Path) -> None:
    token = zone.token("--needs-approval")
    command = zone.enrol_command("edge-8", token, tmp_path / "edge-8")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        try:
            assert waiting.stdout is not None
            said = waiting.stdout.readline()
            key = re.search(r"[0-9a-f]{64}", said)
            assert key, said
            step = f"souverixctl enrolment show {ZONE}/edge-8"
            wait_until(lambda: zone.steps() == [step], f"the item of attention: {zone.steps()}")
            assert key.group() in zone.ctl("enrolment", "show", f"{ZONE}/edge-8").stdout
            approved = zone.ctl("enrolment", "approve", f"{ZONE}/edge-8", "--reason", "seen")
            assert approved.returncode == 0, approved.stderr
            assert waiting.wait(2 * DEADLINE_S) == 0
        finally:
            waiting.kill()
    wait_until(lambda: not zone.steps(), "nothing left to decide")
    TrustFiles.in_directory(tmp_path / "edge-8").read().verified(datetime.now(UTC))


def test_a_machine_whose_certificate_ended_while_it_was_away_comes_back(zone: Zone) -> None:
    def ended(node: str) -> Path:
        begun = datetime.now(UTC) - 30 * DAY
        return zone.federation.certificates.issue(ZONE, Kind.NODE, node, at=begun, life=DAY)

    listener = zone.federation.enrolment_address(ZONE)
    by_hand = ended("edge-9")
    command = [sys.executable, "-m", "nodeagent.main", "recover", "--controller", listener]
    ran = run([*command, "--tls", str(by_hand)])
    assert ran.returncode == 0, ran.stderr
    TrustFiles.in_directory(by_hand).read().verified(datetime.now(UTC))
    zone.federation.start_agent(ZONE, "edge-10", "--enrolment", listener, tls=ended("edge-10"))
    wait_until(lambda: zone.is_live("edge-10"), "the node live by its recovered certificate")


def test_an_agent_behind_a_relay_renews_through_it(zone: Zone) -> None:
    federation = zone.federation
    begun = datetime.now(UTC) - DAY * 0.95
    directory = federation.certificates.issue(ZONE, Kind.NODE, "edge-11", at=begun, life=DAY)
    leaf = fingerprint(TrustFiles.in_directory(directory).read().leaf)
    federation.start_relay(ZONE, "relay-1")
    relay = federation.relay_address("relay-1")
    wait_until(lambda: zone.is_live("relay-1"), "the relay live")
    federation.start_agent(ZONE, "edge-11", server=relay, tls=directory)

    def renewed() -> bool:
        return fingerprint(TrustFiles.in_directory(directory).read().leaf) != leaf

    wait_until(renewed, "the certificate renewed through the relay")
    wait_until(lambda: zone.is_live("edge-11", "relay-1"), "the node live by it")
