"""`enrolment …`: what is asked for and shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from souverix.receipt.v1 import receipt_pb2
from souverix.trust.v1 import enrolment_pb2
from souverix.trust.v1 import enrolment_service_pb2 as service
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import ScriptedController, ctl

SECRET = f"zone-1.t1.{'5a' * 32}"
RECEIPT = receipt_pb2.WriteReceipt(controller="c", domain="zone-1")


async def test_a_token_is_shown_once_with_the_root_to_believe(
    serve: Serve, controller: ScriptedController
) -> None:
    reply = service.CreateEnrolmentTokenResponse(
        token=enrolment_pb2.EnrolmentToken(id="t1", domain="zone-1"),
        secret=SECRET,
        root_fingerprint="ab" * 32,
        receipt=RECEIPT,
    )
    controller.on(service.CreateEnrolmentTokenRequest, reply)
    ran = await ctl(
        "enrolment", "token", "create", "zone-1", "--node", "edge-7", "--relay", "--needs-approval",
        "--valid-for", "2h", "--reason", "rack 12", "--server", await serve(controller),
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK, ran.err
    assert SECRET in ran.out
    assert "ab" * 32 in ran.out
    (request,) = controller.requests(service.CreateEnrolmentTokenRequest)
    spec = request.spec
    assert (request.domain, spec.node, spec.reason) == ("zone-1", "edge-7", "rack 12")
    assert (spec.kind, spec.needs_approval) == (enrolment_pb2.ENROLMENT_KIND_RELAY, True)
    left = spec.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(hours=1, minutes=55) < left <= timedelta(hours=2)
    assert request.request_id


async def test_who_waits_is_listed_with_its_key(
    serve: Serve, controller: ScriptedController
) -> None:
    waiting = enrolment_pb2.Enrolment(
        node="edge-7",
        domain="zone-1",
        kind=enrolment_pb2.ENROLMENT_KIND_NODE,
        stage=enrolment_pb2.ENROLMENT_STAGE_PENDING,
        key_fingerprint="0123456789abcdef" * 4,
    )
    reply = service.ListEnrolmentsResponse(enrolments=[waiting])
    controller.on(service.ListEnrolmentsRequest, reply)
    ran = await ctl("enrolment", "list", "--pending", "--server", await serve(controller))
    for shown in ("zone-1/edge-7", "PENDING", "0123456789abcdef"):
        assert shown in ran.out
    (request,) = controller.requests(service.ListEnrolmentsRequest)
    assert request.pending_only


async def test_a_decision_names_the_machine_and_says_why(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(
        service.ApproveEnrolmentRequest, service.ApproveEnrolmentResponse(receipt=RECEIPT)
    )
    controller.on(service.RejectEnrolmentRequest, service.RejectEnrolmentResponse(receipt=RECEIPT))
    server = await serve(controller)
    for verb in ("approve", "reject"):
        ran = await ctl(
            "enrolment",
            verb,
            "zone-1/edge-7",
            "--reason",
            "seen",
            "--etag",
            "e1",
            "--server",
            server,
        )
        assert ran.exit_code == ExitCode.OK, ran.err
    for kind in (service.ApproveEnrolmentRequest, service.RejectEnrolmentRequest):
        (request,) = controller.requests(kind)
        assert request.name == "domains/zone-1/enrolments/edge-7"
        assert (request.reason, request.etag) == ("seen", "e1")


@pytest.mark.parametrize("name", ["edge-7", "zone-1/", "a/b/c"])
async def test_what_names_nothing_is_not_sent(
    serve: Serve, controller: ScriptedController, name: str
) -> None:
    ran = await ctl("enrolment", "token", "revoke", name, "--server", await serve(controller))
    assert ran.exit_code != ExitCode.OK
    assert "DOMAIN/ID" in ran.err
