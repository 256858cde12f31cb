"""A federation by mutual TLS, with real certificates over real sockets: who gets in, who does not and why, and a
renewal of every certificate while writes go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import grpc
import pytest

from deploy.local_certificates import TRUST_DOMAIN
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.attention.v1 import attention_pb2, attention_service_pb2
from souverix.audit.v1 import audit_service_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import connectivity_pb2, fleet_service_pb2, node_pb2, return_pb2
from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc
from souverix.trust.v1 import revocation_service_pb2
from tests.certificates import authority_below
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of, wait_until
from trust.authority import Authority, new_root
from trust.certificates import fingerprint
from trust.channels import ClientTls, open_channel, served_certificate
from trust.files import TrustFiles, read_authority, write_identity, write_roots
from trust.identity import Kind, dns_name_of, nodes_name_of
from trust.keys import new_tls_key, to_pem

ROOT, REGION, ZONE, SIBLING = "global", "region-a", "edge-zone-a1", "edge-zone-a2"
TREE = [
    DomainPlan(ROOT, kind="global", level="global", log="sqlite"),
    DomainPlan(REGION, ROOT, kind="region", level="regional", log="sqlite"),
    # Writes at the zone are the region's to make, so that they go over the link that is renewed.
    DomainPlan(
        ZONE, REGION, log="sqlite", master_of_record="region-a-control", can_modify_policies=False
    ),
    DomainPlan(SIBLING, REGION, log="sqlite"),
]
NODE, RELAY = "n1", "relay-1"
QUICK = ("--report-interval", "0.5")

LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
STATUS = federation_service_pb2.GetStatusRequest()


@dataclass
class Secured:
    """The running federation, and its operators."""

    federation: LocalFederation
    top: Clients
    region: Clients
    zone: Clients

    def node(self, node: str) -> node_pb2.Node | None:
        request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{node}")
        try:
            found: node_pb2.Node = self.zone.fleet.GetNode(request, timeout=DEADLINE_S).node
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return found

    def is_live(self, node: str, relay: str = "") -> bool:
        twin = self.node(node)
        if twin is None:
            return False
        link = twin.connectivity.link
        return (link.mode, link.relay) == (LIVE, relay)

    def refused(self, tls: ClientTls | None) -> grpc.RpcError:
        """How a call to the zone's controller fails."""
        with (
            Clients(self.federation.address(ZONE), tls) as clients,
            pytest.raises(grpc.RpcError) as refusal,
        ):
            clients.federation.GetStatus(STATUS, timeout=DEADLINE_S)
        return refusal.value


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    federation = LocalFederation(
        tmp_path_factory.mktemp("federation"),
        TREE,
        secured=True,
        admins=["user:operator", "user:alice"],
    )
    with federation, contextlib.ExitStack() as stack:
        federation.start_all()
        top, region, zone = (
            stack.enter_context(Clients(federation.address(domain), federation.client_tls(domain)))
            for domain in (ROOT, REGION, ZONE)
        )
        federation.start_agent(ZONE, NODE, *QUICK)
        federation.start_relay(ZONE, RELAY, *QUICK)
        yield Secured(federation, top, region, zone)


def test_controllers_agents_and_relays_find_one_another(secured: Secured) -> None:
    federation = secured.federation
    federation.start_agent(ZONE, "n2", *QUICK, server=federation.relay_address(RELAY))
    wait_until(lambda: secured.is_live(NODE), "a node live")
    wait_until(lambda: secured.is_live("n2", RELAY), "a node live by the relay")
    secured.zone.create_policy(ZONE, "first", "1")
    secured.top.wait_for_policy(ZONE, "first", "1")


def test_made_up_nodes_go_by_a_relays_certificate(secured: Secured) -> None:
    secured.federation.start_simulated_agents(ZONE, 3)
    wait_until(lambda: secured.is_live(f"{ZONE}-n3"), "the third made-up node live")


def test_the_certificate_says_who_wrote_and_metadata_does_not(secured: Secured) -> None:
    secured.zone.create_policy(ZONE, "signed", "1")  # With metadata that names another.
    request = audit_service_pb2.ListAuditEntriesRequest(domain=ZONE, page_size=50)

    def authors() -> set[str]:
        page = secured.region.audit.ListAuditEntries(request, timeout=DEADLINE_S)
        return {e.record.principal for e in page.entries if "policies/signed" in e.record.resource}

    assert PRINCIPAL[0][1] == "user:tester"
    wait_until(lambda: authors() == {"user:operator"}, f"its author in the audit log: {authors()}")


def test_a_user_without_a_role_is_denied_and_says_so_in_the_audit_log(secured: Secured) -> None:
    stranger = secured.federation.client_tls(ZONE, "stranger")
    refusal = secured.refused(stranger)
    assert refusal.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "user:stranger has no role" in str(refusal.details())


def test_a_refusal_is_audited_with_whom_the_certificate_names(secured: Secured) -> None:
    with pytest.raises(grpc.RpcError):
        secured.region.update_policy(REGION, "never-made", "1")
    request = audit_service_pb2.ListAuditEntriesRequest(domain=REGION, page_size=100)

    def refused() -> set[str]:
        page = secured.region.audit.ListAuditEntries(request, timeout=DEADLINE_S)
        return {e.record.principal for e in page.entries if e.record.reason == "NOT_FOUND"}

    wait_until(lambda: refused() == {"user:operator"}, f"who was refused: {refused()}")


def test_the_command_line_asks_by_its_certificate(secured: Secured) -> None:
    federation = secured.federation
    alice = federation.certificates.leaf(REGION, Kind.USER, "alice")
    command = [sys.executable, "-m", "souverixctl.main", "--server", federation.address(REGION)]
    command += ["--tls", str(alice), "federation", "status"]
    right = ["--server-name", dns_name_of((ROOT, REGION), TRUST_DOMAIN)]
    wrong = ["--server-name", dns_name_of((ROOT,), TRUST_DOMAIN)]
    for more, code in (([], 0), (right, 0), (wrong, 6)):
        ran = subprocess.run([*command, *more], check=False, capture_output=True, text=True)
        assert ran.returncode == code, ran.stderr
        assert (f"{REGION}-control" in ran.stdout) is (code == 0)


def test_who_has_no_certificate_that_counts_does_not_get_in(
    secured: Secured, tmp_path: Path
) -> None:
    certificates = secured.federation.certificates
    good = certificates.client_tls(ZONE)
    assert secured.refused(None).code() is grpc.StatusCode.UNAVAILABLE
    unproved = ClientTls(good.roots_pem, good.server_name)
    assert secured.refused(unproved).code() is grpc.StatusCode.UNAVAILABLE
    stranger = authority_below(
        new_root(new_tls_key(), TRUST_DOMAIN, ROOT, datetime.now(UTC)), ZONE, datetime.now(UTC)
    )
    alien = issued(tmp_path / "alien", stranger)
    shown = ClientTls(good.roots_pem, good.server_name, alien.key_pem, alien.chain_pem)
    assert secured.refused(shown).code() is grpc.StatusCode.UNAVAILABLE
    now, minute = datetime.now(UTC), timedelta(minutes=1)
    for name, begins in (("past", now - 2 * minute), ("future", now + 60 * minute)):
        certificates.issue(ZONE, Kind.USER, name, at=begins, life=minute)
        refusal = secured.refused(certificates.client_tls(ZONE, name))
        assert refusal.code() is grpc.StatusCode.UNAVAILABLE, name


def issued(directory: Path, authority: Authority, name: str = "admin") -> ClientTls:
    """A user's certificate by any authority, as a client shows it."""
    key = new_tls_key()
    leaf = authority.issue(key.public_key(), Kind.USER, name, datetime.now(UTC))
    directory.mkdir()
    write_identity(directory, to_pem(key), (leaf, *authority.intermediates))
    write_roots(directory, authority.certificates[-1:])
    return ClientTls.of(TrustFiles.in_directory(directory).read(), None)


def test_a_zones_authority_cannot_name_members_of_its_sibling(
    secured: Secured, tmp_path: Path
) -> None:
    """With all keys of zone a2's authority: its chain is good to TLS, and it is not the one that is known."""
    certificates = secured.federation.certificates
    now = datetime.now(UTC)
    lost = read_authority(certificates.authority(SIBLING), None, now)
    false = issued(tmp_path / "false", authority_below(lost, ZONE, now))
    at_the_zone = ClientTls(
        false.roots_pem, certificates.client_tls(ZONE).server_name, false.key_pem, false.chain_pem
    )
    refusal = secured.refused(at_the_zone)
    assert refusal.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(refusal) == "CERTIFICATE_ISSUER_UNKNOWN"
    entries = audit_service_pb2.ListAuditEntriesRequest(domain=ZONE, page_size=100)

    def reasons() -> set[str]:
        page = secured.zone.audit.ListAuditEntries(entries, timeout=DEADLINE_S)
        return {entry.record.reason for entry in page.entries}

    wait_until(lambda: "CERTIFICATE_ISSUER_UNKNOWN" in reasons(), "the refusal in the audit log")


async def greet_as(node: str, address: str, directory: Path) -> nodelink_pb2.ConnectResponse:
    """The answer to an agent that calls itself a node, with the certificate of a directory."""
    credentials = TrustFiles.in_directory(directory).read()
    tls = ClientTls.of(credentials, nodes_name_of(credentials.controller_name()))
    hello = nodelink_pb2.AgentHello(
        node=node, source="made-up", run="made-up", public_key=bytes(32), agent_version="1"
    )
    async with open_channel(address, (), tls) as channel:
        call = nodelink_pb2_grpc.NodeLinkServiceStub(channel).Connect(timeout=DEADLINE_S)
        await call.write(nodelink_pb2.ConnectRequest(hello=hello))
        answer: nodelink_pb2.ConnectResponse = await call.read()
    return answer


def test_an_impostor_is_refused_and_the_incident_stays_with_the_node(secured: Secured) -> None:
    """An agent with another node's certificate calls itself n1, at the controller and at the relay."""
    federation = secured.federation
    wait_until(lambda: secured.is_live(NODE), "the true agent live")
    other = federation.certificates.leaf(ZONE, Kind.NODE, "n9")
    for address in (federation.address(ZONE), federation.relay_address(RELAY)):
        answer = asyncio.run(greet_as(NODE, address, other))
        assert answer.goodbye.reason == nodelink_pb2.LINK_END_IDENTITY
        assert "node:n9" in answer.goodbye.message

    def incident() -> return_pb2.ReturnIncident:
        twin = secured.node(NODE)
        assert twin is not None
        found: return_pb2.ReturnIncident = twin.return_incident
        return found

    wait_until(
        lambda: incident().kind == return_pb2.INCIDENT_KIND_WRONG_CERTIFICATE,
        "the impostor's incident",
    )
    assert "node:n9" in incident().evidence
    assert secured.is_live(NODE)


def test_a_revoked_node_is_gone_at_once_and_back_with_a_new_certificate(secured: Secured) -> None:
    """Told at the region, heard of by the zone: of a node that dials itself, and of one behind a relay."""
    federation, certificates = secured.federation, secured.federation.certificates
    federation.start_agent(ZONE, "n5", *QUICK)
    federation.start_agent(ZONE, "n6", *QUICK, server=federation.relay_address(RELAY))
    wait_until(lambda: secured.is_live("n5") and secured.is_live("n6", RELAY), "both live")
    for node in ("n5", "n6"):
        request = revocation_service_pb2.RevokeCertificateRequest(domain=ZONE, reason="stolen")
        request.identity.principal = f"node:{node}"
        made = secured.region.revocations.RevokeCertificate(request, timeout=DEADLINE_S)
        good_from_s = made.revocation.spec.certificates.identity.issued_before.seconds
    entries = audit_service_pb2.ListAuditEntriesRequest(domain=ZONE, page_size=100)

    def ended() -> set[str]:
        page = secured.zone.audit.ListAuditEntries(entries, timeout=DEADLINE_S)
        records = (entry.record for entry in page.entries)
        return {r.principal for r in records if r.reason == "CERTIFICATE_REVOKED"}

    wait_until(lambda: ended() == {"node:n5", "node:n6"}, "both streams ended")
    kinds = [attention_pb2.ATTENTION_KIND_REVOKED_CALLER]
    raised = attention_service_pb2.ListItemsRequest(kinds=kinds)

    def callers() -> set[str]:
        items = secured.zone.attention.ListItems(raised, timeout=DEADLINE_S).items
        return {item.subject for item in items}

    wait_until(lambda: "nodes/n5" in callers(), "a caller that is refused, raised")
    wait_until(lambda: time.time() >= good_from_s, "the second after the revocation")
    certificates.issue(ZONE, Kind.NODE, "n5")
    log = federation.processes[f"{ZONE}/r1"].log_path
    opened = '"message": "link opened", "node": "n5"'
    wait_until(lambda: log.read_text().count(opened) == 2, "the node let in")
    wait_until(lambda: secured.is_live("n5"), "the node live with its new certificate")
    assert secured.is_live(RELAY)


def shows(address: str, wanted: str) -> bool:
    return fingerprint(served_certificate(address)) == wanted


def says(log: Path, text: str) -> bool:
    return text in log.read_text()


def test_every_certificate_is_renewed_under_load_and_nothing_is_lost(secured: Secured) -> None:
    federation, certificates = secured.federation, secured.federation.certificates
    wait_until(lambda: secured.is_live(NODE), "the agent live")
    done, written, failures = threading.Event(), list[str](), list[str]()

    def write() -> None:
        while not done.is_set():
            name = f"load-{len(written)}"
            try:
                secured.zone.create_policy(ZONE, name, "1")
            except grpc.RpcError as error:
                failures.append(f"{name}: {error.code()} {error.details()}")
                return
            written.append(name)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(lambda: len(written) > 10 or failures, "writes under way")
        for plan in TREE:
            certificates.issue(plan.domain, Kind.CONTROLLER, plan.controller)
        certificates.issue(ZONE, Kind.NODE, NODE)
        for plan in TREE:
            leaf = TrustFiles.in_directory(
                certificates.leaf(plan.domain, Kind.CONTROLLER, plan.controller)
            )
            wanted = fingerprint(leaf.read().leaf)
            address = federation.address(plan.domain)
            wait_until(partial(shows, address, wanted), f"the new one shown by {plan.domain}")
        for domain in (REGION, ZONE, SIBLING):
            log = federation.processes[f"{domain}/r1"].log_path
            wait_until(
                partial(says, log, "changed over to the renewed certificate"),
                f"{domain} changed over",
            )
    finally:
        done.set()
        writer.join()
    assert not failures
    secured.top.wait_for_policy(ZONE, written[-1], "1")
    assert all(secured.top.policy(ZONE, name) is not None for name in written)
    wait_until(lambda: secured.is_live(NODE), "the agent live with its new certificate")
