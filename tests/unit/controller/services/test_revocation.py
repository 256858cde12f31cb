"""Revocations by calls: what is written, listed and refused, and what follows for a node that leaves service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from controller.config import AccessSection
from controller.services import revocation as revocation_service
from souverix.attention.v1 import attention_pb2
from souverix.attention.v1 import attention_service_pb2 as attention
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import lifecycle_pb2, node_pb2
from souverix.trust.v1 import access_service_pb2 as access
from souverix.trust.v1 import revocation_pb2
from souverix.trust.v1 import revocation_service_pb2 as service
from souverix.trust.v1 import role_binding_pb2 as roles
from tests.certificates import CertificateTree
from tests.federation_fixture import ROOT
from tests.unit.controller.live_controllers import until
from tests.unit.controller.services.served import (
    DEADLINE_S,
    Served,
    refusal,
    root_served,
    zone_served,
)
from trust.authority import MAX_LEAF_LIFE
from trust.certificates import fingerprint, to_der, to_pem
from trust.files import ReloadedCredentials
from trust.identity import Kind

ALICE: Any = {"metadata": (("souverix-principal", "user:alice"),)}
ADMIN: Any = {"metadata": (("souverix-principal", "user:admin"),)}
ONE = "a1" * 32


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Served]:
    """The root's controller, with region-a below it."""
    async with root_served(tmp_path / "root", AccessSection("enforce", ("user:admin",))) as served:
        creation = fleet.CreateDomainRequest(domain_id="region-a")
        creation.spec.parent = ROOT
        await served.fleet.CreateDomain(creation, **ADMIN)
        yield served


def revoking(**fields: Any) -> service.RevokeCertificateRequest:
    return service.RevokeCertificateRequest(**{"reason": "lost", "domain": "region-a", **fields})


def of_node(name: str = "n1", **fields: Any) -> service.RevokeCertificateRequest:
    request = revoking(**fields)
    request.identity.principal = f"node:{name}"
    return request


async def revoke(served: Served, request: service.RevokeCertificateRequest) -> Any:
    return (await served.revocations.RevokeCertificate(request, **ADMIN)).revocation


async def test_a_certificate_itself_says_whose_it_is_and_until_when(
    controller: Served, certificate_tree: CertificateTree
) -> None:
    leaf = certificate_tree.leaf("region-a", Kind.USER, "bob").read().leaf
    for data in (to_pem([leaf]), to_der(leaf)):
        made = await revoke(controller, revoking(certificate=data))
        assert made.name == f"domains/region-a/revocations/sha256-{fingerprint(leaf)}"
        assert (made.last_writer, made.last_controller) == ("user:admin", "global-control")
        assert made.spec.expire_time.ToDatetime() == leaf.not_valid_after_utc.replace(tzinfo=None)
    code, info, text = await refusal(
        controller.revocations.RevokeCertificate(
            revoking(certificate=to_der(leaf), domain=ROOT), **ADMIN
        )
    )
    assert (code, info.metadata["domain"]) == (grpc.StatusCode.INVALID_ARGUMENT, "region-a")
    assert "not of global" in text


async def test_an_authority_is_revoked_where_it_was_issued_and_the_root_nowhere(
    controller: Served, certificate_tree: CertificateTree
) -> None:
    region = to_der(certificate_tree.authorities["region-a"].certificate)
    code, info, _ = await refusal(
        controller.revocations.RevokeCertificate(revoking(certificate=region), **ADMIN)
    )
    assert (code, info.metadata["domain"]) == (grpc.StatusCode.INVALID_ARGUMENT, ROOT)
    made = await revoke(controller, revoking(certificate=region, domain=""))
    assert made.domain == ROOT
    top = to_der(certificate_tree.authorities[ROOT].certificate)
    assert (await revoke(controller, revoking(certificate=top, domain=ROOT))).domain == ROOT
    root = to_der(certificate_tree.root.certificate)
    code, _, text = await refusal(
        controller.revocations.RevokeCertificate(revoking(certificate=root, domain=ROOT), **ADMIN)
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "it is replaced, not revoked" in text


async def test_of_an_identity_the_latest_time_counts(controller: Served) -> None:
    before_s = time.time()
    first = await revoke(controller, of_node())
    revoked_s = first.spec.certificates.identity.issued_before.seconds
    assert before_s <= revoked_s <= time.time() + 1
    ends_s = first.spec.expire_time.seconds
    assert ends_s == revoked_s + MAX_LEAF_LIFE.total_seconds()
    earlier = of_node(etag=first.etag)
    earlier.identity.issued_before.seconds = revoked_s - 1000
    second = await revoke(controller, earlier)
    assert second.spec.certificates.identity.issued_before.seconds == revoked_s
    assert second.etag != first.etag
    code, info, _ = await refusal(
        controller.revocations.RevokeCertificate(of_node(etag=first.etag), **ADMIN)
    )
    assert (code, info.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    future = of_node()
    future.identity.issued_before.seconds = int(time.time()) + 3600
    code, _, _ = await refusal(controller.revocations.RevokeCertificate(future, **ADMIN))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_lists_show_what_is_in_force(controller: Served) -> None:
    now_s = int(time.time())
    await revoke(controller, of_node("n1"))
    await revoke(controller, of_node("n2", domain=ROOT))
    short = revoking(fingerprint=ONE, certificate_expire_time=Timestamp(seconds=now_s + 1))
    named = await revoke(controller, short)

    async def ids(**fields: Any) -> list[str]:
        request = service.ListRevocationsRequest(**fields)
        reply = await controller.revocations.ListRevocations(request, **ADMIN)
        return [each.id for each in reply.revocations]

    both = [f"identity-node-{name}" for name in ("n2", "n1")]
    await until(lambda: time.time() >= now_s + 1)
    assert await ids() == both
    assert await ids(domain=ROOT) == ["identity-node-n2"]
    assert await ids(domain=ROOT, include_subtree=True, principal="node:n1") == ["identity-node-n1"]
    assert await ids(domain="region-a", show_expired=True) == ["identity-node-n1", f"sha256-{ONE}"]
    request = service.GetRevocationRequest(name=named.name)
    assert (await controller.revocations.GetRevocation(request, **ADMIN)).revocation.expired
    for name, code in (
        ("domains/region-a/revocations/serial-1f", grpc.StatusCode.NOT_FOUND),
        ("domains/region-a/bindings/b1", grpc.StatusCode.INVALID_ARGUMENT),
        ("domains/region-a/revocations/other", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        request = service.GetRevocationRequest(name=name)
        found, _, _ = await refusal(controller.revocations.GetRevocation(request, **ADMIN))
        assert found is code


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"fingerprint": ONE, "reason": " "}, "reason"),
        ({"fingerprint": "12"}, "fingerprint"),
        ({"serial_number": "xyz"}, "serial_number"),
        ({"certificate": b"none"}, "certificate"),
        (
            {"certificate": b"", "certificate_expire_time": Timestamp(seconds=1)},
            "certificate_expire_time",
        ),
    ],
)
async def test_what_cannot_be_revoked_is_refused(
    controller: Served, fields: dict[str, Any], field: str
) -> None:
    request = revoking(**fields)
    code, info, _ = await refusal(controller.revocations.RevokeCertificate(request, **ADMIN))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_nothing_is_written_to_try_out_or_of_what_has_expired(controller: Served) -> None:
    tried = await controller.revocations.RevokeCertificate(of_node(validate_only=True), **ADMIN)
    assert tried.revocation.id == "identity-node-n1"
    assert not tried.receipt.domain
    over = revoking(fingerprint=ONE, certificate_expire_time=Timestamp(seconds=1000))
    code, _, _ = await refusal(controller.revocations.RevokeCertificate(over, **ADMIN))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    listed = await controller.revocations.ListRevocations(service.ListRevocationsRequest(), **ADMIN)
    assert not listed.revocations


async def test_a_repeat_of_a_request_is_the_first_once_more(controller: Served) -> None:
    request = of_node(request_id="r1")
    first = await controller.revocations.RevokeCertificate(request, **ADMIN)
    again = await controller.revocations.RevokeCertificate(request, **ADMIN)
    assert again.receipt.repeated_request
    assert again.revocation == first.revocation


async def test_only_who_runs_the_domain_may_revoke(controller: Served) -> None:
    code, info, _ = await refusal(controller.revocations.RevokeCertificate(of_node(), **ALICE))
    assert (code, info.metadata["role"]) == (grpc.StatusCode.PERMISSION_DENIED, "domain-admin")
    spec = roles.RoleBindingSpec(role=roles.ROLE_DOMAIN_ADMIN, members=["user:alice"])
    await controller.access.CreateRoleBinding(
        access.CreateRoleBindingRequest(domain="region-a", binding_id="b1", spec=spec), **ADMIN
    )
    await controller.revocations.RevokeCertificate(of_node(), **ALICE)
    code, _, _ = await refusal(
        controller.revocations.RevokeCertificate(of_node(domain=ROOT), **ALICE)
    )
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_domain_holds_so_many_and_what_is_revoked_can_be_again(
    controller: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation_service, "MAX_IN_FORCE", 2)
    for name in ("n1", "n2"):
        await revoke(controller, of_node(name))
    code, info, _ = await refusal(controller.revocations.RevokeCertificate(of_node("n3"), **ADMIN))
    assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "REVOCATIONS_FULL")
    await revoke(controller, of_node("n1"))
    await revoke(controller, of_node("n3", domain=ROOT))


async def test_a_zone_that_is_cut_off_revokes_its_own_and_not_what_is_above(tmp_path: Path) -> None:
    """It is not even master of its domain, and has no autonomy: what is lost there is told there."""
    async with zone_served(tmp_path, authority_pb2.Autonomy(), "global-control") as (zone, _):
        made = await zone.revocations.RevokeCertificate(of_node(domain=""))
        assert made.revocation.domain == "edge-a1"
        assert not made.receipt.optimistic
        code, info, _ = await refusal(zone.revocations.RevokeCertificate(of_node(domain=ROOT)))
        assert (code, info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "DOMAIN_OUT_OF_REACH")


async def test_who_goes_on_calling_is_raised(controller: Served) -> None:
    controller.replica.knocks.take("region-a", "controller:region-a-control", "it was revoked")
    kind = attention_pb2.ATTENTION_KIND_REVOKED_CALLER
    watch = controller.attention.WatchItems(attention.WatchItemsRequest(kinds=[kind]), **ADMIN)
    async with asyncio.timeout(DEADLINE_S):
        while (frame := await watch.read()).HasField("bookmark"):
            pass
    item = frame.changed if frame.HasField("changed") else frame.existing
    assert (item.subject, item.domain) == ("controllers/region-a-control", ROOT)
    assert "controller:region-a-control goes on calling" in item.cause


@pytest.mark.parametrize(
    ("node_kind", "principal"),
    [(node_pb2.NODE_KIND_UNSPECIFIED, "node:n1"), (node_pb2.NODE_KIND_RELAY, "relay:n1")],
)
async def test_a_node_that_leaves_service_has_its_certificates_revoked_first(
    controller: Served,
    certificate_tree: CertificateTree,
    node_kind: node_pb2.NodeKind,
    principal: str,
) -> None:
    """A relay's agent has the relay's certificate, so that is what is revoked."""
    spec = node_pb2.NodeSpec(kind=node_kind)
    await controller.fleet.CreateNode(fleet.CreateNodeRequest(node_id="n1", spec=spec), **ADMIN)

    async def move(transition: str, **fields: Any) -> Any:
        request = fleet.TransitionNodeRequest(
            name="nodes/n1", transition=f"LIFECYCLE_TRANSITION_{transition}", **fields
        )
        return await controller.fleet.TransitionNode(request, **ADMIN)

    confirm = {"step": lifecycle_pb2.DECOMMISSION_STEP_CERTIFICATES_REVOKED}
    controller.replica.credentials = ReloadedCredentials(certificate_tree.controller(ROOT))
    identity = revocation_pb2.RevokedIdentity(principal=principal)
    old = revoking(domain=ROOT, identity=identity)
    old.identity.issued_before.seconds = int(time.time() - timedelta(days=1).total_seconds())
    await revoke(controller, old)
    for transition in ("ENROL", "ACTIVATE"):
        await move(transition)
    await move("BEGIN_DECOMMISSION", reason="end of life")
    with pytest.raises(grpc.aio.AioRpcError, match=f"souverixctl certificate revoke {principal}"):
        await move("CONFIRM_DECOMMISSION_STEP", **confirm)
    await revoke(controller, revoking(domain=ROOT, identity=identity))
    await move("CONFIRM_DECOMMISSION_STEP", step=lifecycle_pb2.DECOMMISSION_STEP_DATA_EXPORTED)
    done = await move("CONFIRM_DECOMMISSION_STEP", **confirm)
    assert (
        lifecycle_pb2.DECOMMISSION_STEP_CERTIFICATES_REVOKED in done.node.lifecycle.completed_steps
    )
    audited = [
        item.write.body()
        for item in controller.replica.state.audits
        if item.write.body().action.endswith("RevokeCertificate")
    ]
    assert [record.principal for record in audited] == ["user:admin"] * 2
    assert (
        audited[0].resource == f"domains/{ROOT}/revocations/identity-{principal.replace(':', '-')}"
    )
