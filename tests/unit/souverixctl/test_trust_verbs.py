"""`federation rotate-key`, `expel`, `grant-key`, `held`, `accept-run`, `discard-run`: what is asked for and shown."""

from __future__ import annotations

import pytest

from souverix.federation.v1 import authority_pb2
from souverix.federation.v1 import federation_service_pb2 as service
from souverix.receipt.v1 import receipt_pb2
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import ScriptedController, ctl

KEY = "3b" * 32


async def test_a_rotation_names_both_keys(serve: Serve, controller: ScriptedController) -> None:
    reply = service.RotateSigningKeyResponse(controller="c", old_key_id="old1", key_id="new1")
    controller.on(service.RotateSigningKeyRequest, reply)
    ran = await ctl("federation", "rotate-key", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.OK
    assert "old1" in ran.out
    assert "new1" in ran.out


async def test_an_expulsion_says_what_is_void(serve: Serve, controller: ScriptedController) -> None:
    sealed = authority_pb2.StreamSealed(streams=[authority_pb2.StreamEnd()])
    receipt = receipt_pb2.WriteReceipt(controller="c", domain="z")
    reply = service.SealStreamsResponse(sealed=sealed, voided_events=17, receipt=receipt)
    controller.on(service.SealStreamsRequest, reply)
    ran = await ctl(
        "federation", "expel", "zone-control", "--reason", "taken over",
        "--void-since", "2026-03-01T10:00:00Z", "--new-key", KEY, "--server", await serve(controller),
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK
    assert "17 events are void" in ran.out
    (request,) = controller.requests(service.SealStreamsRequest)
    assert (request.controller, request.reason) == ("zone-control", "taken over")
    assert request.void_since.ToJsonString() == "2026-03-01T10:00:00Z"
    assert request.public_key == bytes.fromhex(KEY)
    assert request.request_id


@pytest.mark.parametrize("key", ["nonsense", KEY[:-2], ""])
async def test_what_is_no_key_is_not_sent(
    serve: Serve, controller: ScriptedController, key: str
) -> None:
    ran = await ctl("federation", "grant-key", "c", key, "--server", await serve(controller))
    assert ran.exit_code != ExitCode.OK
    assert "keygen" in ran.err
    assert not controller.requests(service.GrantKeyRequest)


async def test_what_is_held_is_listed_with_its_ground(
    serve: Serve, controller: ScriptedController
) -> None:
    run = service.HeldRun(
        name="held/z/c/1/state/7/ab",
        first_sequence=5,
        last_sequence=7,
        outcome=service.HELD_OUTCOME_PENDING,
        reason="KEY_UNKNOWN",
    )
    controller.on(service.ListHeldRunsRequest, service.ListHeldRunsResponse(runs=[run]))
    ran = await ctl("federation", "held", "--domain", "z", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.OK
    for shown in (run.name, "5-7", "PENDING", "KEY_UNKNOWN"):
        assert shown in ran.out


@pytest.mark.parametrize(
    ("verb", "ruling"),
    [("accept-run", authority_pb2.RULING_ACCEPT), ("discard-run", authority_pb2.RULING_DISCARD)],
)
async def test_a_decision_carries_its_reason(
    serve: Serve, controller: ScriptedController, verb: str, ruling: int
) -> None:
    controller.on(service.DecideHeldRunRequest, service.DecideHeldRunResponse())
    name = "held/z/c/1/state/7/ab"
    ran = await ctl(
        "federation", verb, name, "--reason", "looked", "--server", await serve(controller)
    )
    assert ran.exit_code == ExitCode.OK
    (request,) = controller.requests(service.DecideHeldRunRequest)
    assert (request.name, request.ruling, request.reason) == (name, ruling, "looked")
