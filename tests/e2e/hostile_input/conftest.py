"""Two controllers under attack, and a child of theirs that the tests play. After each test here the controllers still
serve, and nothing was changed but a bounded number of audit entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from controller.signing import Ed25519Signer
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.federation.v1 import federation_service_pb2
from tests.e2e.clients import DEADLINE_S, Clients
from tests.e2e.hostile_input.played_child import Forger, HostileChild

ROOT = "region-a"
HOSTILE = "edge-zone-h1"
HOSTILE_CONTROL = f"{HOSTILE}-control"


@dataclass
class Attacked:
    """The controllers under attack; one of the three is played by the tests."""

    federation: LocalFederation
    root: Clients
    zone: Clients

    @property
    def address(self) -> str:
        return self.root.address

    def positions(self) -> dict[tuple[str, str, str], int]:
        """(domain, controller, lane) -> events in effect at the root, but for the audit and the played child's own
        domain.
        """
        found = {}
        for domain in (ROOT, "edge-zone-a1"):
            request = federation_service_pb2.ListStreamsRequest(domain=domain)
            for held in self.root.federation.ListStreams(request, timeout=DEADLINE_S).streams:
                if held.lane != "audit":
                    found[domain, held.controller, held.lane] = held.applied
        return found

    def audit_entries(self) -> int:
        """Audit entries the root made for its own domain."""
        request = federation_service_pb2.ListStreamsRequest(domain=ROOT)
        held = self.root.federation.ListStreams(request, timeout=DEADLINE_S).streams
        return sum(s.received for s in held if s.lane == "audit")

    def forger(self, incarnation: int = 1) -> Forger:
        """Makes runs with the key the root pins for the played child."""
        key = Ed25519Signer.load(self.federation.directory / f"{HOSTILE_CONTROL}.pem")
        return Forger(HOSTILE_CONTROL, HOSTILE, key, incarnation)

    def child(self) -> HostileChild:
        """A stream as the played child."""
        return HostileChild(self.address, HOSTILE_CONTROL, HOSTILE)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    plans = [
        DomainPlan(ROOT, kind="global", level="global", log="sqlite"),
        DomainPlan("edge-zone-a1", ROOT, log="sqlite"),
        DomainPlan(HOSTILE, ROOT, log="sqlite"),
    ]
    with LocalFederation(tmp_path_factory.mktemp("federation"), plans) as federation:
        for domain in (ROOT, "edge-zone-a1"):
            federation.start_controller(domain)
        for domain in (ROOT, "edge-zone-a1"):
            federation.wait_for_master(domain)
            federation.wait_for_authority(domain)
        with (
            Clients(federation.address(ROOT)) as root,
            Clients(federation.address("edge-zone-a1")) as zone,
        ):
            zone.create_policy("edge-zone-a1", "standing", "v1")
            root.wait_for_policy("edge-zone-a1", "standing", "v1")
            yield Attacked(federation, root, zone)


@pytest.fixture(autouse=True)
def _unchanged(attacked: Attacked) -> Iterator[None]:
    """After every test the controllers still serve, and nothing but audit entries was written."""
    before = attacked.positions()
    yield
    for domain in (ROOT, "edge-zone-a1"):
        assert attacked.federation.processes[f"{domain}/r1"].process.poll() is None
    attacked.root.create_policy(ROOT, "alive", "v1", validate_only=True)
    assert attacked.positions() == before
