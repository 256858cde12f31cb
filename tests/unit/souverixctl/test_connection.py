"""The way to a controller: addresses, fail-over, retries with one request id, exit codes."""

from __future__ import annotations

import socket

import grpc
import pytest

from souverix.federation.v1 import federation_service_pb2 as federation
from souverix.policy.v1 import policy_pb2 as policy
from souverix.policy.v1 import policy_service_pb2 as service
from souverix.receipt.v1.receipt_pb2 import WriteReceipt
from souverixctl.connection import method_of, parse_addresses
from souverixctl.errors import BadInput, ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import Fail, ScriptedController, Silence, ctl

UNAVAILABLE = Fail(grpc.StatusCode.UNAVAILABLE, "link is down")
CREATED = service.CreatePolicyResponse(
    policy=policy.Policy(id="p1", domain="a1", etag="e1"),
    receipt=WriteReceipt(domain="a1", controller="a1-control", durable_at=["a1", "region-a"]),
)
CREATE = ("create", "policy", "a1/p1", "--target-version", "2.1.0")


def unused_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    "text", ["", ",", "127.0.0.1", "127.0.0.1:", ":1", "127.0.0.1:0", "127.0.0.1:70000", "::1:x"]
)
def test_addresses_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_addresses(text)


@pytest.mark.parametrize("text", ["10.1.2.3:7400", "example.test:7400", "0.0.0.0:1", "[fe80::1]:1"])
def test_nothing_is_dialled_beyond_this_host_without_tls(text: str) -> None:
    with pytest.raises(BadInput, match="without TLS"):
        parse_addresses(text)


def test_several_loopback_addresses_are_taken_once_each_in_order() -> None:
    text = "127.0.0.1:1, [::1]:2,localhost:3,127.0.0.1:1"
    assert parse_addresses(text) == ["127.0.0.1:1", "[::1]:2", "localhost:3"]


def test_a_request_names_its_method() -> None:
    name = method_of(service.GetPolicyRequest(), service.GetPolicyResponse)
    assert name == "/souverix.policy.v1.PolicyService/GetPolicy"
    with pytest.raises(TypeError):
        method_of(service.GetPolicyRequest(), service.ListPoliciesResponse)


async def test_next_address_is_tried_when_nobody_listens(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(service.CreatePolicyRequest, CREATED)
    address = await serve(controller)
    ran = await ctl("--server", f"{unused_address()},{address}", *CREATE)
    assert ran.exit_code == ExitCode.OK
    assert f"trying {address}" in ran.err
    assert len(controller.calls) == 1


async def test_next_address_is_tried_when_the_replica_is_no_master(serve: Serve) -> None:
    standby, master = ScriptedController(), ScriptedController()
    standby.on(
        service.CreatePolicyRequest,
        Fail(grpc.StatusCode.FAILED_PRECONDITION, "standby", reason="NOT_MASTER"),
    )
    master.on(service.CreatePolicyRequest, CREATED)
    servers = f"{await serve(standby)},{await serve(master)}"
    ran = await ctl("--server", servers, *CREATE)
    assert ran.exit_code == ExitCode.OK
    assert "NOT_MASTER" in ran.err
    first, second = standby.calls[0].request, master.calls[0].request
    assert first == second


async def test_retries_of_an_unknown_outcome_share_one_request_id(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(service.CreatePolicyRequest, UNAVAILABLE, UNAVAILABLE, CREATED)
    ran = await ctl("--server", await serve(controller), *CREATE)
    assert ran.exit_code == ExitCode.OK
    ids = [each.request_id for each in controller.requests(service.CreatePolicyRequest)]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert ids[0]


async def test_two_invocations_have_two_request_ids(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(service.CreatePolicyRequest, CREATED)
    address = await serve(controller)
    await ctl("--server", address, *CREATE)
    await ctl("--server", address, *CREATE)
    first, second = controller.requests(service.CreatePolicyRequest)
    assert first.request_id != second.request_id


async def test_a_write_that_times_out_is_repeated_once_with_its_request_id(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(service.CreatePolicyRequest, Silence())
    ran = await ctl("--server", await serve(controller), "--timeout", "200ms", *CREATE)
    assert ran.exit_code == ExitCode.TIMEOUT
    first, second = controller.requests(service.CreatePolicyRequest)
    assert first.request_id == second.request_id
    assert f"--request-id {first.request_id}" in ran.err


async def test_a_read_that_times_out_is_not_repeated(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(service.GetPolicyRequest, Silence())
    address = await serve(controller)
    ran = await ctl("get", "policy", "a1/p1", "--server", address, "--timeout", "200ms")
    assert ran.exit_code == ExitCode.TIMEOUT
    assert len(controller.calls) == 1


async def test_retries_are_bounded(serve: Serve, controller: ScriptedController) -> None:
    controller.on(service.CreatePolicyRequest, UNAVAILABLE)
    ran = await ctl("--server", await serve(controller), *CREATE, "--request-id", "mine")
    assert ran.exit_code == ExitCode.UNAVAILABLE
    assert 1 < len(controller.calls) < 10
    assert {each.request_id for each in controller.requests(service.CreatePolicyRequest)} == {
        "mine"
    }
    assert "link is down" in ran.err
    assert "--request-id mine" in ran.err


async def test_a_refusal_is_not_retried(serve: Serve, controller: ScriptedController) -> None:
    controller.on(service.CreatePolicyRequest, Fail(grpc.StatusCode.ALREADY_EXISTS, "p1 is taken"))
    other = ScriptedController()
    other.on(service.CreatePolicyRequest, CREATED)
    ran = await ctl("--server", f"{await serve(controller)},{await serve(other)}", *CREATE)
    assert ran.exit_code == ExitCode.CONFLICT
    assert other.calls == []


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.ALREADY_EXISTS, 4),
        (grpc.StatusCode.ABORTED, 4),
        (grpc.StatusCode.FAILED_PRECONDITION, 4),
        (grpc.StatusCode.PERMISSION_DENIED, 5),
        (grpc.StatusCode.UNAUTHENTICATED, 5),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 6),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 7),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.UNIMPLEMENTED, 1),
    ],
)
async def test_each_status_has_its_exit_code_and_a_next_step(
    serve: Serve, controller: ScriptedController, code: grpc.StatusCode, exit_code: int
) -> None:
    controller.on(federation.ListPeersRequest, Fail(code, "as scripted"))
    ran = await ctl("get", "peers", "--server", await serve(controller))
    assert ran.exit_code == exit_code
    assert ran.out == ""
    assert f"error: {code.name}: as scripted" in ran.err
    assert "next step: " in ran.err
    assert "Traceback" not in ran.err


async def test_an_error_shows_reason_facts_violations_and_the_servers_next_step(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(
        federation.ListPeersRequest,
        Fail(
            grpc.StatusCode.FAILED_PRECONDITION,
            "region-a decides",
            reason="NOT_MASTER_OF_RECORD",
            metadata={"master": "region-a-control", "next_step": "ask region-a-control"},
            violations={"spec.version": "too long"},
            retry_after_s=7,
        ),
    )
    ran = await ctl("get", "peers", "--server", await serve(controller))
    for part in (
        "reason: NOT_MASTER_OF_RECORD",
        "master: region-a-control",
        "spec.version: too long",
        "retry after: 7s",
        "next step: ask region-a-control",
    ):
        assert part in ran.err


async def test_the_principal_travels_with_every_call(
    serve: Serve, controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.on(federation.ListPeersRequest, federation.ListPeersResponse())
    address = await serve(controller)
    monkeypatch.setenv("SOUVERIX_PRINCIPAL", "user:env")
    monkeypatch.setenv("SOUVERIX_SERVER", address)
    await ctl("get", "peers")
    await ctl("get", "peers", "--principal", "user:flag")
    await ctl("--principal", "user:first", "get", "peers")
    monkeypatch.delenv("SOUVERIX_PRINCIPAL")
    await ctl("get", "peers")
    said = [call.metadata["souverix-principal"] for call in controller.calls]
    assert said[:3] == ["user:env", "user:flag", "user:first"]
    assert said[3].startswith("user:")


@pytest.mark.parametrize("principal", ["user:ä", "user:a b", "alice", "user:", "user:" + "x" * 129])
async def test_a_principal_no_controller_believes_is_refused(principal: str) -> None:
    ran = await ctl("get", "peers", "--server", unused_address(), "--principal", principal)
    assert ran.exit_code == ExitCode.USAGE


async def test_a_user_without_a_name_is_told_to_say_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise OSError("no entry for uid")

    monkeypatch.setattr("getpass.getuser", unknown)
    ran = await ctl("get", "peers", "--server", unused_address())
    assert ran.exit_code == ExitCode.USAGE
    assert "--principal" in ran.err


async def test_without_a_server_the_run_says_how_to_name_one() -> None:
    ran = await ctl("get", "peers")
    assert ran.exit_code == ExitCode.USAGE
    assert "SOUVERIX_SERVER" in ran.err
