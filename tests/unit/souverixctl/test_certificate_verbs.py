"""`certificate revoke` and `certificate revocations`: what is asked for and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from souverix.receipt.v1 import receipt_pb2
from souverix.trust.v1 import revocation_pb2
from souverix.trust.v1 import revocation_service_pb2 as service
from souverixctl.errors import ExitCode
from tests.certificates import CertificateTree
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import ScriptedController, ctl
from trust.certificates import to_der
from trust.files import AUTHORITY_FILE, write_authority
from trust.identity import Kind

WHY = ("--reason", "lost")


def revocation(**kind: object) -> revocation_pb2.Revocation:
    spec = revocation_pb2.RevocationSpec(reason="lost")
    spec.certificates.MergeFrom(revocation_pb2.RevokedCertificates(**kind))  # type: ignore[arg-type]
    return revocation_pb2.Revocation(domain="zone", spec=spec, etag="e1", last_writer="user:alice")


def identity(name: str) -> revocation_pb2.RevokedIdentity:
    found = revocation_pb2.RevokedIdentity(principal=name)
    found.issued_before.FromJsonString("2026-03-01T10:00:00Z")
    return found


@pytest.fixture
def revokes(controller: ScriptedController) -> ScriptedController:
    receipt = receipt_pb2.WriteReceipt(controller="c", domain="zone")
    reply = service.RevokeCertificateResponse(
        revocation=revocation(identity=identity("node:edge-7")), receipt=receipt
    )
    controller.on(service.RevokeCertificateRequest, reply)
    return controller


async def test_an_identity_is_revoked_and_the_time_is_said(
    serve: Serve, revokes: ScriptedController
) -> None:
    ran = await ctl(
        "certificate", "revoke", "node:edge-7", "--domain", "zone", *WHY,
        "--issued-before", "2026-03-01T10:00:00Z", "--etag", "e0", "--server", await serve(revokes),
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK
    assert "revoked in zone: node:edge-7 issued before 2026-03-01T10:00:00Z" in ran.out
    (request,) = revokes.requests(service.RevokeCertificateRequest)
    assert request.identity == identity("node:edge-7")
    assert (request.domain, request.reason, request.etag) == ("zone", "lost", "e0")
    assert request.request_id


async def test_a_certificate_says_itself_which_domain_it_is_of(
    serve: Serve, revokes: ScriptedController, certificate_tree: CertificateTree, tmp_path: Path
) -> None:
    files = certificate_tree.leaf("region-a", Kind.USER, "bob", into=tmp_path / "bob")
    der = to_der(files.read().leaf)
    (tmp_path / "bob.der").write_bytes(der)
    address = await serve(revokes)
    for path in (tmp_path / "bob", files.certificate, tmp_path / "bob.der"):
        ran = await ctl(
            "certificate", "revoke", "--certificate", str(path), *WHY, "--server", address
        )
        assert ran.exit_code == ExitCode.OK, ran.err
        request = revokes.requests(service.RevokeCertificateRequest)[-1]
        assert (request.certificate, request.domain) == (der, "region-a")


async def test_of_an_authority_the_domain_above_is_the_controllers_to_tell(
    serve: Serve, revokes: ScriptedController, certificate_tree: CertificateTree, tmp_path: Path
) -> None:
    authority = certificate_tree.authorities["region-a"]
    write_authority(tmp_path, authority.certificates, None)
    path = str(tmp_path / AUTHORITY_FILE)
    address = await serve(revokes)
    ran = await ctl("certificate", "revoke", "--certificate", path, *WHY, "--server", address)
    assert ran.exit_code == ExitCode.OK
    (request,) = revokes.requests(service.RevokeCertificateRequest)
    assert request.domain == ""


async def test_one_certificate_goes_by_its_fingerprint_or_number(
    serve: Serve, revokes: ScriptedController
) -> None:
    address = await serve(revokes)
    for option, value in (("--fingerprint", "ab" * 32), ("--serial", "1f")):
        await ctl(
            "certificate", "revoke", option, value, *WHY,
            "--expires", "2026-04-01T00:00:00Z", "--server", address,
        )  # fmt: skip
    first, second = revokes.requests(service.RevokeCertificateRequest)
    assert (first.fingerprint, second.serial_number) == ("ab" * 32, "1f")
    assert first.certificate_expire_time.ToJsonString() == "2026-04-01T00:00:00Z"


@pytest.mark.parametrize(
    "given",
    [
        (),
        ("node:n1", "--serial", "1f"),
        ("--serial", "1f", "--issued-before", "1h"),
        ("node:n1", "--expires", "1h"),
        ("--certificate", "nowhere"),
    ],
)
async def test_what_cannot_be_meant_is_not_sent(
    serve: Serve, revokes: ScriptedController, given: tuple[str, ...]
) -> None:
    ran = await ctl("certificate", "revoke", *given, *WHY, "--server", await serve(revokes))
    assert ran.exit_code not in (ExitCode.OK, 1)
    assert not revokes.requests(service.RevokeCertificateRequest)


async def test_revocations_are_listed_by_what_they_are_of(
    serve: Serve, controller: ScriptedController
) -> None:
    listed = [
        revocation(identity=identity("node:edge-7")),
        revocation(fingerprint="ab" * 32),
        revocation(serial_number="1f"),
    ]
    listed[1].spec.expire_time.FromJsonString("2026-04-01T00:00:00Z")
    controller.on(
        service.ListRevocationsRequest, service.ListRevocationsResponse(revocations=listed)
    )
    ran = await ctl(
        "certificate", "revocations", "--domain", "zone", "--subtree", "--of", "node:edge-7",
        "--expired", "--server", await serve(controller),
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK
    for words in ("node:edge-7 issued before", "sha256 abab", "serial 1f", "2026-04-01T00:00:00Z"):
        assert words in ran.out
    (request,) = controller.requests(service.ListRevocationsRequest)
    assert (request.domain, request.include_subtree) == ("zone", True)
    assert (request.principal, request.show_expired) == ("node:edge-7", True)
