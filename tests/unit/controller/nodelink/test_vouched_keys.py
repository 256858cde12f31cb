"""By TLS a node's certificate vouches for its agent's key: at the controller, and end to end through relays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller.nodelink.proof import said_message
from controller.standing import BearerRefused
from federation.chain import key_id_of
from souverix.fleet.v1 import node_pb2, return_pb2
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2
from souverix.trust.v1 import revocation_pb2
from tests.certificates import CertificateTree
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import (
    Directory,
    ScriptedAgent,
    ScriptedRelay,
    Served,
    batch_of,
    key_of,
    until,
)
from trust.certificates import fingerprint
from trust.files import Credentials
from trust.identity import Kind

IDENTITY = nodelink_pb2.LINK_END_IDENTITY


@pytest.fixture
def directory(tmp_path: Path, certificate_tree: CertificateTree) -> Directory:
    return Directory(tmp_path / "controller", certificate_tree, heartbeat_interval_s=0.2)


@pytest.fixture
async def served(directory: Directory) -> AsyncIterator[Served]:
    async with directory.served() as controller:
        await controller.create_node("n1")
        yield controller


@pytest.fixture
def own(served: Served) -> Credentials:
    """The certificate of the node n1."""
    return served.leaf(Kind.NODE, "n1")


@pytest.fixture
async def relay(served: Served) -> ScriptedRelay:
    """A relay that was welcomed, by its own certificate."""
    relay = ScriptedRelay(served, shown=served.leaf(Kind.RELAY, "relay-1"))
    assert (await relay.greet()).HasField("welcome")
    return relay


def pinned(served: Served, node: str = "n1") -> Any:
    return served.body(ROOT, f"nodes/{node}", "agent_key")


def incident(served: Served, node: str = "n1") -> Any:
    return served.body(ROOT, f"nodes/{node}", "return_incident")


async def refused(served: Served, answer: Any, word: str) -> Any:
    """The incident that a refusal left."""
    assert answer.goodbye.reason == IDENTITY, answer
    assert word in answer.goodbye.message
    return await until(lambda: incident(served))


async def test_a_key_is_pinned_with_the_certificate_that_vouches_for_it(
    served: Served, own: Credentials
) -> None:
    assert (await ScriptedAgent(served, shown=own).greet()).HasField("welcome")
    key = pinned(served)
    assert key.public_key == key_of("n1").public_key
    assert key.certificate == fingerprint(own.leaf)
    assert key.certificate_identity == f"spiffe://souverix.test/{ROOT}/node/n1"


async def test_a_relay_passes_on_what_vouches_for_a_node(
    served: Served, relay: ScriptedRelay, own: Credentials
) -> None:
    assert (await relay.bring(0, "n1", vouching=own)).HasField("welcome")
    assert pinned(served).certificate == fingerprint(own.leaf)


async def test_a_relay_that_speaks_for_a_node_without_its_proof_is_refused(
    served: Served, relay: ScriptedRelay
) -> None:
    found = await refused(served, await relay.bring(0, "n1"), "VOUCHER_MISSING")
    assert (found.kind, found.reason) == (
        return_pb2.INCIDENT_KIND_VOUCHER_REFUSED,
        "VOUCHER_MISSING",
    )
    assert found.relay == "relay-1"
    assert pinned(served) is None


async def test_a_relay_cannot_vouch_for_a_node_by_its_own_certificate_or_anothers(
    served: Served, relay: ScriptedRelay
) -> None:
    for number, other in enumerate(
        (served.leaf(Kind.RELAY, "relay-1"), served.leaf(Kind.NODE, "n2"))
    ):
        answer = await relay.bring(number, "n1", vouching=other)
        found = await refused(served, answer, "WRONG_CERTIFICATE")
        assert found.kind == return_pb2.INCIDENT_KIND_WRONG_CERTIFICATE
        assert found.certificate
    assert pinned(served) is None


async def test_a_relays_own_node_is_vouched_for_by_the_relays_certificate(
    served: Served, relay: ScriptedRelay
) -> None:
    await served.create_node("relay-1")
    shown = served.leaf(Kind.RELAY, "relay-1")
    assert (await relay.bring(0, "relay-1", vouching=shown)).HasField("welcome")


async def test_a_voucher_of_another_greeting_is_worth_nothing(
    served: Served, own: Credentials
) -> None:
    """What a relay heard once: the certificate is right, and the signature is over another nonce."""
    first = ScriptedAgent(served, shown=own)
    await first.say(hello=first.hello())
    heard = first.proof(await first.hear())
    again = ScriptedAgent(served, run=first.run, shown=own)
    await again.say(hello=again.hello())
    proof = again.proof(await again.hear())
    proof.voucher.CopyFrom(heard.voucher)
    await again.say(proof=proof)
    found = await refused(served, await again.hear(), "VOUCHER_FORGED")
    assert found.reason == "VOUCHER_FORGED"


@pytest.mark.parametrize("damage", ["certificate", "signature", "both long"])
async def test_a_damaged_voucher_is_refused(served: Served, own: Credentials, damage: str) -> None:
    agent = ScriptedAgent(served, shown=own)
    await agent.say(hello=agent.hello())
    proof = agent.proof(await agent.hear())
    voucher = proof.voucher
    if damage == "both long":
        voucher.certificate, voucher.signature = bytes(200_000), bytes(200_000)
    else:
        raw = bytearray(getattr(voucher, damage))
        raw[len(raw) // 2] ^= 1
        setattr(voucher, damage, bytes(raw))
    await agent.say(proof=proof)
    await refused(served, await agent.hear(), "")
    assert pinned(served) is None


async def test_a_certificate_that_ended_or_is_of_a_stranger_vouches_for_nothing(
    served: Served, relay: ScriptedRelay, directory: Directory
) -> None:
    short = served.leaf(Kind.NODE, "n1", life=timedelta(hours=1))
    directory.later = timedelta(hours=2)
    answer = await relay.bring(0, "n1", vouching=short)
    assert (await refused(served, answer, "CERTIFICATE_EXPIRED")).reason == "CERTIFICATE_EXPIRED"
    directory.later = timedelta()
    stranger = CertificateTree(directory.path / "stranger").leaf(ROOT, Kind.NODE, "n1").read()
    answer = await relay.bring(1, "n1", vouching=stranger)
    await refused(served, answer, "CERTIFICATE_ISSUER_UNKNOWN")
    await until(lambda: incident(served).reason == "CERTIFICATE_ISSUER_UNKNOWN")
    assert pinned(served) is None


async def test_a_renewed_certificate_vouches_for_the_same_key(
    served: Served, own: Credentials
) -> None:
    agent = ScriptedAgent(served, shown=own)
    await agent.greet()
    before = pinned(served)
    agent.vanish()
    await until(lambda: not len(served.service.links))
    renewed = ScriptedAgent(served, shown=served.leaf(Kind.NODE, "n1"))
    welcome = await renewed.greet(backlog_reports=1, oldest_report=1)
    assert welcome.welcome.locked
    report = nodelink_pb2.Report(actual_state=node_pb2.ActualState(reported_version="v1"))
    await renewed.replay(1, report)
    assert (await renewed.hear("lock_released")) is not None
    assert served.body(ROOT, "nodes/n1", "actual_state").reported_version == "v1"
    assert pinned(served) == before


async def test_a_backlog_waits_for_a_renewed_certificate_and_loses_nothing(
    served: Served, relay: ScriptedRelay, directory: Directory
) -> None:
    short = served.leaf(Kind.NODE, "n1", life=timedelta(hours=1))
    assert (await relay.bring(0, "n1", vouching=short)).HasField("welcome")
    await relay.close(0)
    directory.later = timedelta(hours=2)
    away = await relay.bring(1, "n1", vouching=short, backlog_reports=2, oldest_report=1)
    assert away.goodbye.reason == IDENTITY
    renewed = ScriptedAgent(served, source="s-n1", shown=served.leaf(Kind.NODE, "n1"))
    assert (await renewed.greet(backlog_reports=2, oldest_report=1)).welcome.locked
    reports = (
        nodelink_pb2.Report(actual_state=node_pb2.ActualState(reported_version=f"v{number}"))
        for number in (1, 2)
    )
    await renewed.replay(1, *reports)
    assert (await renewed.hear("lock_released")) is not None
    assert served.body(ROOT, "nodes/n1", "actual_state").reported_version == "v2"
    assert incident(served).HasField("resolve_time") or await until(
        lambda: incident(served).HasField("resolve_time")
    )


def deposit(version: str) -> relay_pb2.Deposit:
    state = node_pb2.ActualState(reported_version=version)
    report = nodelink_pb2.Report(sequence=1, actual_state=state)
    return relay_pb2.Deposit(node="n1", source="s-n1", batch=batch_of("n1", "s-n1", report))


async def test_what_a_relay_kept_is_taken_when_a_vouched_key_has_signed_it(
    served: Served, relay: ScriptedRelay, own: Credentials
) -> None:
    assert (await relay.bring(0, "n1", vouching=own)).HasField("welcome")
    await until(lambda: served.body(ROOT, "nodes/n1", "link_state"))
    await relay.close(0)
    await relay.say(deposit=deposit("v1"))
    ack = await relay.hear_kind("deposit")
    assert (ack.sequence, ack.problem) == (1, "")
    # As if the key had been pinned in clear, and the node had not come by TLS since.
    first_use = return_pb2.AgentKey(public_key=key_of("n1").public_key)
    await served.submit(
        lambda p: p.write(ROOT, "nodes/n1", "agent_key", first_use, principal="user:test")
    )
    await relay.say(deposit=deposit("v1"))
    assert "no certificate has vouched" in (await relay.hear_kind("deposit")).problem


async def test_what_a_relay_kept_is_not_taken_once_the_nodes_certificates_are_revoked(
    served: Served, relay: ScriptedRelay, own: Credentials
) -> None:
    assert (await relay.bring(0, "n1", vouching=own)).HasField("welcome")
    await until(lambda: served.body(ROOT, "nodes/n1", "link_state"))
    await relay.close(0)
    spec = revocation_pb2.RevocationSpec(reason="stolen")
    spec.certificates.identity.principal = "node:n1"
    spec.certificates.identity.issued_before.FromDatetime(datetime.now(UTC) + timedelta(seconds=2))
    await served.submit(
        lambda p: p.write(
            ROOT, "revocations/identity-node-n1", "revocation", spec, principal="user:admin"
        )
    )
    await relay.say(deposit=deposit("v1"))
    ack = await relay.hear_kind("deposit")
    assert (ack.sequence, "was revoked" in ack.problem) == (0, True)
    assert served.body(ROOT, "nodes/n1", "actual_state") is None
    later = served.leaf(Kind.NODE, "n1", at=datetime.now(UTC) + timedelta(seconds=10))
    assert (await relay.bring(1, "n1", vouching=later)).HasField("welcome")
    assert pinned(served).certificate == fingerprint(later.leaf)


async def test_a_key_that_was_pinned_in_clear_is_vouched_for_once_there_is_tls(
    tmp_path: Path, certificate_tree: CertificateTree
) -> None:
    directory = Directory(tmp_path / "controller")
    async with directory.served() as plain:
        await plain.create_node("n1")
        await ScriptedAgent(plain).greet()
        assert pinned(plain).certificate == ""
    directory.certificates = certificate_tree
    async with directory.served() as served:
        own = served.leaf(Kind.NODE, "n1")
        assert (await ScriptedAgent(served, shown=own).greet()).HasField("welcome")
        assert pinned(served).certificate == fingerprint(own.leaf)
        assert pinned(served).public_key == key_of("n1").public_key


async def test_another_key_is_refused_though_the_nodes_certificate_vouches_for_it(
    served: Served, own: Credentials
) -> None:
    """A host that was set up anew and a stolen certificate look alike: an operator decides."""
    agent = ScriptedAgent(served, shown=own)
    await agent.greet()
    agent.vanish()
    await until(lambda: not len(served.service.links))
    other = key_of("other")
    answer = await ScriptedAgent(served, key=other, shown=own).greet()
    found = await refused(served, answer, "reset-key n1")
    assert found.kind == return_pb2.INCIDENT_KIND_WRONG_KEY
    assert found.offered_key_id == key_id_of(other.public_key)
    assert found.certificate == fingerprint(own.leaf)
    assert "vouches for the one offered" in found.evidence
    assert pinned(served).public_key == key_of("n1").public_key


async def test_a_node_behind_a_relay_is_left_when_its_certificate_ends_or_is_withdrawn(
    served: Served, relay: ScriptedRelay, directory: Directory
) -> None:
    short = served.leaf(Kind.NODE, "n1", life=timedelta(hours=1))
    assert (await relay.bring(0, "n1", vouching=short)).HasField("welcome")
    directory.later = timedelta(hours=2)
    assert (await relay.hear_node(0)).response.goodbye.reason == IDENTITY
    directory.later = timedelta()
    assert (await relay.hear_node(0)).HasField("closed")
    await relay.close(0)

    assert (await relay.bring(0, "n1", vouching=short)).HasField("welcome")
    assert served.bearers is not None
    withdrawn = fingerprint(short.leaf)

    def check(bearer: Any) -> None:
        if bearer.fingerprint == withdrawn:
            raise BearerRefused(grpc.StatusCode.UNAUTHENTICATED, "WITHDRAWN", "it was withdrawn")

    served.bearers.checks.append(check)
    served.bearers.recheck()
    assert (await relay.hear_node(0)).response.goodbye.reason == IDENTITY
    assert len(served.relays.carried()) == 1


# What a node says through a relay.


def report_of(version: str, sequence: int = 1) -> nodelink_pb2.ConnectRequest:
    state = node_pb2.ActualState(reported_version=version)
    return nodelink_pb2.ConnectRequest(
        report=nodelink_pb2.Report(sequence=sequence, actual_state=state)
    )


def signed(
    frame: nodelink_pb2.ConnectRequest, token: bytes, node: str = "n1"
) -> nodelink_pb2.SignedFrame:
    raw = frame.SerializeToString()
    signature = key_of(node).sign(said_message(token, raw))
    return nodelink_pb2.SignedFrame(frame=raw, signature=signature)


async def test_what_is_said_through_a_relay_takes_effect_when_the_agent_signed_it(
    served: Served, relay: ScriptedRelay, own: Credentials
) -> None:
    welcome = (await relay.bring(0, "n1", vouching=own)).welcome
    assert welcome.signed
    await relay.request(0, signed=signed(report_of("v1"), welcome.session_token))
    assert (await relay.hear_node(0)).response.report_ack.sequence == 1
    assert served.body(ROOT, "nodes/n1", "actual_state").reported_version == "v1"


async def test_a_statement_that_comes_through_a_relay_is_opened_as_what_it_is(
    served: Served, relay: ScriptedRelay, own: Credentials
) -> None:
    token = (await relay.bring(0, "n1", vouching=own)).welcome.session_token
    # It answers no challenge, which is no breach of the protocol: the link goes on.
    await relay.request(0, signed=signed(unsigned_statement(token), token))
    await relay.request(0, signed=signed(report_of("v1"), token))
    assert (await relay.hear_node(0)).response.report_ack.sequence == 1


async def test_nobody_who_dials_himself_is_asked_to_sign_what_he_says(
    served: Served, own: Credentials
) -> None:
    agent = ScriptedAgent(served, shown=own)
    assert not (await agent.greet()).welcome.signed
    await agent.report_version(1, "v1")
    assert (await agent.hear("report_ack")).report_ack.sequence == 1


def altered(token: bytes) -> nodelink_pb2.ConnectRequest:
    said = signed(report_of("v1"), token)
    said.frame = report_of("v9").SerializeToString()
    return nodelink_pb2.ConnectRequest(signed=said)


def forged(token: bytes) -> nodelink_pb2.ConnectRequest:
    return nodelink_pb2.ConnectRequest(signed=signed(report_of("v9"), token, "relay-1"))


def from_another_session(token: bytes) -> nodelink_pb2.ConnectRequest:
    return nodelink_pb2.ConnectRequest(signed=signed(report_of("v9"), b"another"))


def unsigned(token: bytes) -> nodelink_pb2.ConnectRequest:
    return report_of("v9")


def unsigned_result(token: bytes) -> nodelink_pb2.ConnectRequest:
    return nodelink_pb2.ConnectRequest(result=nodelink_pb2.CommandResult(command_id="c"))


def unsigned_statement(token: bytes) -> nodelink_pb2.ConnectRequest:
    return nodelink_pb2.ConnectRequest(
        attestation=nodelink_pb2.AttestationStatement(nonce=bytes(32))
    )


def no_frame(token: bytes) -> nodelink_pb2.ConnectRequest:
    raw = b"\xff\xff"
    signature = key_of("n1").sign(said_message(token, raw))
    return nodelink_pb2.ConnectRequest(
        signed=nodelink_pb2.SignedFrame(frame=raw, signature=signature)
    )


def signed_twice(token: bytes) -> nodelink_pb2.ConnectRequest:
    inner = nodelink_pb2.ConnectRequest(signed=signed(report_of("v9"), token))
    return nodelink_pb2.ConnectRequest(signed=signed(inner, token))


@pytest.mark.parametrize(
    "say",
    [
        altered,
        forged,
        from_another_session,
        unsigned,
        unsigned_result,
        unsigned_statement,
        no_frame,
        signed_twice,
    ],
)
async def test_a_relay_cannot_change_or_make_up_what_a_node_says(
    served: Served,
    relay: ScriptedRelay,
    own: Credentials,
    say: Callable[[bytes], nodelink_pb2.ConnectRequest],
) -> None:
    welcome = (await relay.bring(0, "n1", vouching=own)).welcome
    await relay.requests((0, say(welcome.session_token)))
    end = (await relay.hear_node(0)).response.goodbye
    assert end.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR
    assert served.body(ROOT, "nodes/n1", "actual_state") is None
    assert len(served.relays.carried()) == 1


async def test_in_clear_no_voucher_is_asked_for(tmp_path: Path) -> None:
    async with Directory(tmp_path / "plain").served() as plain:
        await plain.create_node("n1")
        assert (await ScriptedAgent(plain).greet()).HasField("welcome")
