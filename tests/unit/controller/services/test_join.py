"""Machines that come without a certificate that counts: who is let in, who is not and why; over real TLS."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller.enrolment.attempts import Attempts
from nodeagent.joining import Issued, JoiningRefused, Pinned, Waiting, believe, enrol, recover
from souverix.federation.v1 import federation_service_pb2, federation_service_pb2_grpc
from souverix.trust.v1 import (
    enrolment_pb2,
    join_service_pb2,
    join_service_pb2_grpc,
    revocation_pb2,
    revocation_service_pb2,
)
from souverix.trust.v1 import enrolment_service_pb2 as people
from tests.unit.controller.enrolling import DOMAIN, RELAY, Enrolling, enrolling, kept, laid_out
from tests.unit.controller.live_controllers import until
from tests.unit.controller.services.served import refusal
from trust.authority import new_request
from trust.certificates import fingerprint, identity_of, to_der, to_pem
from trust.channels import ClientTls, open_channel
from trust.files import Credentials, TrustFiles
from trust.identity import Kind
from trust.keys import new_tls_key
from trust.renewal import sign


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Enrolling]:
    async with enrolling(laid_out(tmp_path / "federation")) as running:
        yield running


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    code, info, _ = await refusal(call)
    return code, info.reason


async def test_a_token_is_good_for_one_certificate_that_openssl_takes(
    zone: Enrolling, tmp_path: Path
) -> None:
    token, key = await zone.token(node="edge-7"), new_tls_key()
    issued = await enrol(await zone.believed(), token, "edge-7", key)

    assert isinstance(issued, Issued)
    assert str(identity_of(issued.certificates[0])).endswith("/global/node/edge-7")
    directory = kept(tmp_path / "edge-7", key, issued)
    TrustFiles.in_directory(directory).read().verified(datetime.now(UTC))
    (tmp_path / "leaf.pem").write_bytes(to_pem(issued.certificates[:1]))
    (tmp_path / "between.pem").write_bytes(to_pem(issued.certificates[1:]))
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient"]
    verify += ["-CAfile", str(directory / "roots.pem")]
    verify += ["-untrusted", str(tmp_path / "between.pem"), str(tmp_path / "leaf.pem")]
    judged = await asyncio.to_thread(subprocess.run, verify, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stderr

    again = await enrol(await zone.believed(), token, "edge-7", key)
    assert isinstance(again, Issued)
    assert again.certificates == issued.certificates
    code = await refused(zone.enrol(token, "edge-7", new_tls_key()))
    assert code == (grpc.StatusCode.PERMISSION_DENIED, "ENROLMENT_TOKEN_USED")
    (record,) = zone.audited("certificate.enrolled")
    assert record.details["fingerprint"] == fingerprint(issued.certificates[0])
    assert record.principal == f"token:{token.split('.')[1]}"


async def test_each_wrong_attempt_has_its_own_reason_and_is_audited(zone: Enrolling) -> None:
    token, key = await zone.token(node="edge-7"), new_tls_key()
    domain, token_id, secret = token.split(".")
    good = new_request(key)
    damaged = good[:-4] + bytes(4)
    attempts = {
        "ENROLMENT_TOKEN_UNKNOWN": (f"{domain}.{token_id}.{'0' * 64}", "edge-7", good),
        "ENROLMENT_TOKEN_FOREIGN": (f"elsewhere.{token_id}.{secret}", "edge-7", good),
        "ENROLMENT_NODE_MISMATCH": (token, "edge-8", good),
        "INVALID_WRITE": (token, "Edge 7", good),
        "CERTIFICATE_MALFORMED": (token, "edge-7", b"no request"),
        "CERTIFICATE_KEY_UNFIT": (token, "edge-7", damaged),
        "CERTIFICATE_TOO_LARGE": (token, "edge-7", bytes(20_000)),
    }
    for reason, (shown, node, request) in attempts.items():
        call = zone.join.Enrol(
            join_service_pb2.EnrolRequest(token=shown, node=node, request=request)
        )
        _, info, text = await refusal(call)
        assert info.reason == reason, text
        assert secret not in text
    await until(lambda: set(attempts) <= set(zone.refused()), "every refusal in the audit log")
    assert (await zone.enrol(token, "edge-7", key)).HasField("issued")


async def test_a_token_that_is_over_or_taken_back_lets_nobody_in(zone: Enrolling) -> None:
    soon = enrolment_pb2.EnrolmentTokenSpec().expire_time
    soon.FromDatetime(datetime.now(UTC) + timedelta(seconds=0.3))
    short = await zone.token(expire_time=soon)
    await asyncio.sleep(0.4)
    reason = await refused(zone.enrol(short, "edge-7", new_tls_key()))
    assert reason == (grpc.StatusCode.PERMISSION_DENIED, "ENROLMENT_TOKEN_EXPIRED")
    back = await zone.token()
    name = f"domains/{DOMAIN}/enrolment-tokens/{back.split('.')[1]}"
    reply = await zone.people.RevokeEnrolmentToken(people.RevokeEnrolmentTokenRequest(name=name))
    assert reply.token.state == enrolment_pb2.ENROLMENT_TOKEN_STATE_REVOKED
    reason = await refused(zone.enrol(back, "edge-7", new_tls_key()))
    assert reason == (grpc.StatusCode.PERMISSION_DENIED, "ENROLMENT_TOKEN_REVOKED")
    listed = await zone.people.ListEnrolmentTokens(
        people.ListEnrolmentTokensRequest(open_only=True)
    )
    assert not listed.tokens


async def test_of_many_that_come_with_one_token_at_once_one_is_let_in(zone: Enrolling) -> None:
    token = await zone.token()
    outcomes = await asyncio.gather(
        *(zone.enrol(token, f"edge-{n}", new_tls_key()) for n in range(8)), return_exceptions=True
    )
    let_in = [each for each in outcomes if not isinstance(each, BaseException)]
    assert len(let_in) == 1
    assert len(zone.audited("certificate.enrolled")) == 1


async def test_the_log_knows_what_was_used_up_when_another_master_reads_it(tmp_path: Path) -> None:
    federation, key = laid_out(tmp_path / "federation"), new_tls_key()
    async with enrolling(federation) as first:
        used, left = await first.token(), await first.token()
        issued = await first.enrol(used, "edge-7", key)
    async with enrolling(federation) as second:
        assert await second.enrol(used, "edge-7", key) == issued
        reason = await refused(second.enrol(used, "edge-8", new_tls_key()))
        assert reason == (grpc.StatusCode.PERMISSION_DENIED, "ENROLMENT_TOKEN_USED")
        assert (await second.enrol(left, "edge-8", new_tls_key())).HasField("issued")


async def test_a_token_for_any_node_lets_nobody_be_one_that_is_there(zone: Enrolling) -> None:
    first = await zone.token()
    assert (await zone.enrol(first, "edge-7", new_tls_key())).HasField("issued")
    second = await zone.token()
    reason = await refused(zone.enrol(second, "edge-7", new_tls_key()))
    assert reason == (grpc.StatusCode.PERMISSION_DENIED, "ENROLMENT_NAME_TAKEN")
    bound = await zone.token(node="edge-7")
    assert (await zone.enrol(bound, "edge-7", new_tls_key())).HasField("issued")


async def test_who_needs_approval_waits_and_is_let_in_by_a_person(zone: Enrolling) -> None:
    token, key = await zone.token(kind=RELAY, needs_approval=True), new_tls_key()
    believed = await zone.believed()
    assert isinstance(await enrol(believed, token, "relay-7", key), Waiting)
    assert isinstance(await enrol(believed, token, "relay-7", key), Waiting)
    listed = await zone.people.ListEnrolments(people.ListEnrolmentsRequest(pending_only=True))
    (waiting,) = listed.enrolments
    assert (waiting.node, waiting.stage) == ("relay-7", enrolment_pb2.ENROLMENT_STAGE_PENDING)
    approval = people.ApproveEnrolmentRequest(name=waiting.name, etag=waiting.etag, reason="mine")
    approved = (await zone.people.ApproveEnrolment(approval)).enrolment
    assert (approved.decided_by, approved.reason) == ("user:operator", "mine")
    issued = await enrol(believed, token, "relay-7", key)
    assert isinstance(issued, Issued)
    assert identity_of(issued.certificates[0]).kind is Kind.RELAY
    code, info, _ = await refusal(zone.people.ApproveEnrolment(approval))
    assert (code, info.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")


async def test_who_is_rejected_is_told_why(zone: Enrolling) -> None:
    token, key = await zone.token(needs_approval=True), new_tls_key()
    assert (await zone.enrol(token, "edge-7", key)).HasField("pending")
    rejection = people.RejectEnrolmentRequest(
        name=f"domains/{DOMAIN}/enrolments/edge-7", reason="not one of ours"
    )
    await zone.people.RejectEnrolment(rejection)
    _, info, text = await refusal(zone.enrol(token, "edge-7", key))
    assert info.reason == "ENROLMENT_REJECTED"
    assert "not one of ours" in text


async def test_who_fails_too_often_has_to_wait(zone: Enrolling) -> None:
    token = f"{DOMAIN}.aaaaaaaaaa.{'0' * 64}"
    reasons = [(await refused(zone.enrol(token, "edge-7", new_tls_key()))) for _ in range(11)]
    assert reasons[:10] == [(grpc.StatusCode.PERMISSION_DENIED, "ENROLMENT_TOKEN_UNKNOWN")] * 10
    assert reasons[10] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ENROLMENT_ATTEMPTS_EXCEEDED")


async def test_a_token_is_shown_to_nobody_but_its_domains_controller(zone: Enrolling) -> None:
    with pytest.raises(JoiningRefused, match="no root there has the fingerprint"):
        await believe(zone.address, DOMAIN, Pinned(fingerprint="0" * 64))
    with pytest.raises(JoiningRefused, match="not the controller of elsewhere"):
        await believe(zone.address, "elsewhere", zone.pinned)
    later = datetime.now(UTC) + timedelta(days=30)
    with pytest.raises(JoiningRefused, match="was valid until"):
        await believe(zone.address, DOMAIN, zone.pinned, lambda: later)
    files = zone.federation.certificates.leaf(DOMAIN, Kind.NODE, "n1")
    roots = Pinned(roots=TrustFiles.in_directory(files).read().roots)
    assert (await believe(zone.address, DOMAIN, roots)).roots == roots.roots


async def test_what_it_serves_is_for_newcomers_alone(zone: Enrolling) -> None:
    """No other service on the enrolment listener, and JoinService nowhere else."""
    mine = zone.federation.client_tls(DOMAIN)
    assert mine is not None
    async with open_channel(zone.address, (), mine) as channel:
        stub = federation_service_pb2_grpc.FederationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(federation_service_pb2.GetStatusRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    main = zone.federation.address(DOMAIN)
    async with open_channel(main, (), mine) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await join_service_pb2_grpc.JoinServiceStub(channel).GetTrustAnchors(
                join_service_pb2.GetTrustAnchorsRequest(), timeout=10
            )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    bare = ClientTls(mine.roots_pem, mine.server_name)
    async with open_channel(main, (), bare) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await federation_service_pb2_grpc.FederationServiceStub(channel).GetStatus(
                federation_service_pb2.GetStatusRequest(), timeout=10
            )
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


# Recovery.


def expired(zone: Enrolling, name: str, days: float, kind: Kind = Kind.NODE) -> Credentials:
    """Credentials that ended so many days ago."""
    begun = datetime.now(UTC) - timedelta(days=days, hours=1)
    directory = zone.federation.certificates.issue(
        DOMAIN, kind, name, at=begun, life=timedelta(hours=1)
    )
    return TrustFiles.in_directory(directory).read()


async def test_a_machine_that_was_away_too_long_for_its_certificate_comes_back(
    zone: Enrolling,
) -> None:
    old, key = expired(zone, "edge-7", days=60), new_tls_key()
    issued = await recover(await zone.believed(), old, key)
    leaf = issued.certificates[0]
    assert (identity_of(leaf), leaf.public_key()) == (old.identity, key.public_key())
    (record,) = zone.audited("certificate.recovered")
    assert record.principal == "node:edge-7"
    assert record.details["replaces"] == fingerprint(old.leaf)


async def test_a_recovery_must_be_proven_and_in_time(zone: Enrolling) -> None:
    old, late = expired(zone, "edge-7", days=1), expired(zone, "edge-8", days=91)
    person = expired(zone, "alice", days=1, kind=Kind.USER)
    stranger = expired(zone, "edge-9", days=1)

    async def attempt(shown: Credentials, signer: Any, nonce: bytes | None = None) -> str:
        begun = await zone.join.BeginRecovery(join_service_pb2.BeginRecoveryRequest())
        used = begun.nonce if nonce is None else nonce
        request = new_request(new_tls_key())
        call = zone.join.RecoverCertificate(
            join_service_pb2.RecoverCertificateRequest(
                certificate=to_der(shown.leaf),
                request=request,
                nonce=used,
                signature=sign(signer, used, request),
            )
        )
        return (await refused(call))[1]

    assert await attempt(old, stranger.key) == "RENEWAL_PROOF_WRONG"
    assert await attempt(old, old.key, bytes(32)) == "RECOVERY_NONCE_UNKNOWN"
    assert await attempt(late, late.key) == "RECOVERY_TOO_LATE"
    assert await attempt(person, person.key) == "RENEWAL_NOT_A_MACHINE"
    assert not zone.audited("certificate.recovered")
    await until(lambda: "RECOVERY_TOO_LATE" in zone.refused(), "the refusals in the audit log")


async def test_a_machine_that_was_replaced_gets_nothing_for_its_old_key(zone: Enrolling) -> None:
    old = expired(zone, "edge-7", days=1)
    key = new_tls_key()
    assert (await zone.enrol(await zone.token(node="edge-7"), "edge-7", key)).HasField("issued")
    with pytest.raises(JoiningRefused, match="RENEWAL_SUPERSEDED"):
        await recover(await zone.believed(), old, new_tls_key())


async def test_what_was_revoked_is_not_recovered_and_a_token_brings_its_node_back(
    zone: Enrolling,
) -> None:
    old = expired(zone, "edge-7", days=1)
    await zone.revocations.RevokeCertificate(
        revocation_service_pb2.RevokeCertificateRequest(
            identity=revocation_pb2.RevokedIdentity(principal="node:edge-7"), reason="stolen"
        )
    )
    with pytest.raises(JoiningRefused, match="CERTIFICATE_REVOKED"):
        await recover(await zone.believed(), old, new_tls_key())
    # What was issued in the very second of the revocation is revoked, too.
    await asyncio.sleep(1.1)
    token = await zone.token(node="edge-7")
    assert (await zone.enrol(token, "edge-7", new_tls_key())).HasField("issued")


async def test_a_certificate_stays_revoked_when_it_has_ended(zone: Enrolling) -> None:
    old = expired(zone, "edge-7", days=1)
    # It is over by the time at which the certificate is shown, as one would be that was stated while it was good.
    await zone.revocations.RevokeCertificate(
        revocation_service_pb2.RevokeCertificateRequest(
            certificate=to_der(old.leaf), reason="stolen"
        )
    )
    with pytest.raises(JoiningRefused, match="CERTIFICATE_REVOKED"):
        await recover(await zone.believed(), old, new_tls_key())
    other = expired(zone, "edge-8", days=1)
    assert (await recover(await zone.believed(), other, new_tls_key())).certificates


async def test_a_nonce_is_good_once(zone: Enrolling) -> None:
    old = expired(zone, "edge-7", days=1)
    begun = await zone.join.BeginRecovery(join_service_pb2.BeginRecoveryRequest())
    request = new_request(new_tls_key())
    recovery = join_service_pb2.RecoverCertificateRequest(
        certificate=to_der(old.leaf),
        request=request,
        nonce=begun.nonce,
        signature=sign(old.key, begun.nonce, request),
    )
    await zone.join.RecoverCertificate(recovery)
    assert (await refused(zone.join.RecoverCertificate(recovery)))[1] == "RECOVERY_NONCE_UNKNOWN"


# Whatever is sent.

CLEAN = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
}
MUTATIONS = 300


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut off, repeated or put in."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) or 1)
        match chance.randrange(4):
            case 0 if changed:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + chance.randint(1, 40)]
            case 2:
                changed[at:at] = changed[at : at + chance.randint(1, 400)]
            case _:
                changed[at:at] = chance.randbytes(chance.randint(1, 40))
    return bytes(changed) if changed != data else data + b"\0"


async def test_whatever_is_sent_a_clean_status_comes_back(
    zone: Enrolling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests near to good ones: nothing takes effect, and the good one does afterwards."""
    monkeypatch.setattr(Attempts, "wait_s", lambda *_: 0.0)
    chance, token, key = random.Random(1), await zone.token(node="edge-7"), new_tls_key()
    old = expired(zone, "edge-8", days=1)
    for _ in range(MUTATIONS):
        begun = await zone.join.BeginRecovery(join_service_pb2.BeginRecoveryRequest())
        request = new_request(new_tls_key())
        recovery: dict[str, Any] = {
            "certificate": to_der(old.leaf),
            "request": request,
            "nonce": begun.nonce,
            "signature": sign(old.key, begun.nonce, request),
        }
        spoilt = chance.choice(sorted(recovery))
        recovery[spoilt] = mutated(chance, recovery[spoilt])
        damaged = mutated(chance, new_request(key))
        for call in (
            zone.join.RecoverCertificate(join_service_pb2.RecoverCertificateRequest(**recovery)),
            zone.join.Enrol(
                join_service_pb2.EnrolRequest(token=token, node="edge-7", request=damaged)
            ),
        ):
            code, _, text = await refusal(call)
            assert code in CLEAN, text
    assert not zone.audited("certificate.recovered")
    assert not zone.audited("certificate.enrolled")
    assert (await zone.enrol(token, "edge-7", key)).HasField("issued")
