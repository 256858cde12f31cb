"""Whatever is sent to a controller, it answers with a clean status or a goodbye that says why, stays up, and changes
nothing but a bounded number of audit entries.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory, struct_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from controller.signing import Ed25519Signer
from deploy.local_federation import DomainPlan, LocalFederation
from federation.clock import stamp_of
from souverix.audit.v1 import audit_service_pb2
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import fleet_service_pb2, node_pb2
from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from souverix.sync.v1 import sync_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of, wait_until
from tests.e2e.hostile import Forger, HostileChild, changed

ROOT = "region-a"
HOSTILE = "edge-zone-h1"
HOSTILE_CONTROL = f"{HOSTILE}-control"

METHODS = [
    method
    for module in (
        fleet_service_pb2,
        policy_service_pb2,
        command_service_pb2,
        federation_service_pb2,
        audit_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]

#: What a caller may be told. Never UNKNOWN, INTERNAL or UNAVAILABLE, nor silence.
CLEAN = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

#: These begin with what is there, which may be nothing.
WATCHES = ("WatchConflicts", "WatchAuditEntries")

#: A stream that said nothing for so long, and was not refused, was taken.
QUIET_S = 1.0

BAD_TEXTS = (
    "../../etc/passwd",
    "nodes/../nope",
    "domains/nope/policies/nope",
    "nodes/nope",
    "commands/nope",
    "conflicts/nope",
    "a\x00\x1b[31m",
    "x" * 100_000,
)

#: An event of this many bytes is too large whatever it is of.
TOO_LARGE = 300 * 1024


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


def _call(attacked: Attacked, method: MethodDescriptor, data: bytes) -> grpc.RpcError | None:
    """Sends bytes to a method; the refusal, or None when it answered."""
    with grpc.insecure_channel(
        attacked.address, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:
            if method.server_streaming:
                stream = channel.unary_stream(path, _as_it_is, _as_it_is)(data, timeout=QUIET_S)
                next(iter(stream), None)
                stream.cancel()
            else:
                channel.unary_unary(path, _as_it_is, _as_it_is)(data, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            is_quiet = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return None if is_quiet and method.name in WATCHES else error
    return None


def _as_it_is(data: bytes) -> bytes:
    return data


def _requests(method: MethodDescriptor) -> Iterator[Message]:
    """Requests of a method with one field that is wrong; writes are only to be checked."""
    kind = message_factory.GetMessageClass(method.input_type)

    def request() -> Any:
        made: Any = kind()
        if "validate_only" in kind.DESCRIPTOR.fields_by_name:
            made.validate_only = True
        return made

    yield request()
    for field in kind.DESCRIPTOR.fields:
        for value in _bad_values(field):
            made = request()
            if isinstance(value, Message):
                getattr(made, field.name).CopyFrom(value)
            elif field.is_repeated:
                getattr(made, field.name).append(value)
            else:
                setattr(made, field.name, value)
            yield made


def _bad_values(field: Any) -> list[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        return list(BAD_TEXTS)
    if field.type == FieldDescriptor.TYPE_INT32:
        return [-1, -(2**31)]
    if field.type == FieldDescriptor.TYPE_UINT64:
        return [2**64 - 1]
    if field.type == FieldDescriptor.TYPE_ENUM:
        return [99]
    if field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated:
        kind = message_factory.GetMessageClass(field.message_type)
        name = field.message_type.full_name
        if name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            return [kind(seconds=2**62), kind(seconds=-(2**62)), kind(nanos=-5)]
        if name == "google.protobuf.FieldMask":
            return [kind(paths=["no.such.field"]), kind(paths=["../etc"]), kind(paths=[""])]
    return []


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_answers_nonsense_with_a_clean_status(
    attacked: Attacked, method: MethodDescriptor
) -> None:
    refused = _call(attacked, method, b"\xff\xff\xff")
    assert refused is not None
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(refused) == "MALFORMED"
    refused = _call(attacked, method, bytes(4 * 1024 * 1024 + 1))
    assert refused is not None
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for request in _requests(method):
        refused = _call(attacked, method, request.SerializeToString())
        if refused is not None:
            assert refused.code() in CLEAN, (str(request)[:200], refused)
            assert reason_of(refused), (str(request)[:200], refused)
            assert len(refused.details() or "") > 10


def _issue(**fields: Any) -> command_service_pb2.IssueCommandRequest:
    right: dict[str, Any] = {
        "targets": command_pb2.Targets(domain=ROOT),
        "action": command_pb2.Action(ping=command_pb2.Ping()),
    }
    return command_service_pb2.IssueCommandRequest(**{**right, **fields})


def _expiry(seconds: int) -> command_pb2.Expiry:
    expiry = command_pb2.Expiry()
    expiry.ttl.seconds = seconds
    return expiry


def _document(size: int) -> struct_pb2.Struct:
    document = struct_pb2.Struct()
    document.update({"text": "x" * size})
    return document


def _nested(levels: int) -> struct_pb2.Struct:
    document = struct_pb2.Struct()
    inner = document
    for _ in range(levels):
        inner = inner.fields["n"].struct_value
    inner.fields["end"].bool_value = True
    return document


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("commands.IssueCommand", _issue(expiry=_expiry(-1))),
        ("commands.IssueCommand", _issue(expiry=_expiry(0))),
        ("commands.IssueCommand", _issue(expiry=_expiry(365 * 24 * 3600))),
        ("commands.IssueCommand", _issue(expiry=_expiry(2**62))),
        ("commands.IssueCommand", _issue(action=command_pb2.Action())),
        ("commands.IssueCommand", _issue(targets=command_pb2.Targets())),
        ("commands.IssueCommand", _issue(targets=command_pb2.Targets(domain="no-such-domain"))),
        ("commands.IssueCommand", _issue(targets=command_pb2.Targets(nodes=["../x"]))),
        ("commands.IssueCommand", _issue(targets=command_pb2.Targets(nodes=["no-such-node"]))),
        (
            "commands.IssueCommand",
            _issue(action=command_pb2.Action(ping=command_pb2.Ping(payload="x" * 70_000))),
        ),
        (
            "commands.IssueCommand",
            _issue(
                action=command_pb2.Action(
                    apply_config=command_pb2.ApplyConfig(document=_document(70_000))
                )
            ),
        ),
        (
            "policies.CreatePolicy",
            policy_service_pb2.CreatePolicyRequest(
                domain=ROOT,
                policy_id="large",
                spec=policy_pb2.PolicySpec(configuration=_document(TOO_LARGE)),
            ),
        ),
        (
            "policies.CreatePolicy",
            policy_service_pb2.CreatePolicyRequest(
                domain=ROOT, policy_id="../large", spec=policy_pb2.PolicySpec(version="v1")
            ),
        ),
        (
            "policies.CreatePolicy",
            policy_service_pb2.CreatePolicyRequest(
                domain=ROOT, policy_id="deep", spec=policy_pb2.PolicySpec(configuration=_nested(28))
            ),
        ),
        (
            "fleet.CreateNode",
            fleet_service_pb2.CreateNodeRequest(
                domain=ROOT, spec=node_pb2.NodeSpec(display_name="x" * TOO_LARGE)
            ),
        ),
        (
            "fleet.BatchCreateNodes",
            fleet_service_pb2.BatchCreateNodesRequest(
                items=[fleet_service_pb2.NodeCreation(domain=ROOT)] * 501
            ),
        ),
    ],
)
def test_input_beyond_its_bounds_is_refused_with_the_cause(
    attacked: Attacked, method: str, request_: Message
) -> None:
    service, _, name = method.partition(".")
    stub = getattr(getattr(attacked.root, service), name)
    with pytest.raises(grpc.RpcError) as refused:
        stub(request_, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert reason_of(refused.value)


@pytest.mark.parametrize(
    "principal", ["nobody", "user:", "user:a b", "USER:a", "user:" + "x" * 200]
)
def test_a_malformed_principal_is_refused(attacked: Attacked, principal: str) -> None:
    for policy in ("p1", "../p1"):
        request = policy_service_pb2.CreatePolicyRequest(domain=ROOT, policy_id=policy)
        with pytest.raises(grpc.RpcError) as refused:
            attacked.root.policies.CreatePolicy(
                request, timeout=DEADLINE_S, metadata=(("souverix-principal", principal),)
            )
        assert refused.value.code() in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.INVALID_ARGUMENT,
        )


def test_a_flood_of_refusals_writes_a_bounded_number_of_audit_entries(attacked: Attacked) -> None:
    before = attacked.audit_entries()
    for number in range(300):
        with pytest.raises(grpc.RpcError):
            attacked.root.update_policy(ROOT, f"no-such-policy-{number}", "v1")
    assert attacked.audit_entries() - before < 100


# Sync.


def _goodbye(child: HostileChild, reason: sync_pb2.GoodbyeReason) -> str:
    """Waits to be sent away for this reason; the message."""
    said = child.wait_for("goodbye").goodbye
    assert said.reason == reason, said
    assert list(child.frames()) == []
    return str(said.message)


def test_a_frame_before_the_greeting_ends_the_session(attacked: Attacked) -> None:
    for frame in (
        {"runs": sync_pb2.Runs()},
        {"ack": sync_pb2.Ack()},
        {"forward": sync_pb2.Forward()},
        {"chunk": sync_pb2.Chunk()},
        {},
    ):
        with attacked.child() as child:
            child.send(**frame)
            assert _goodbye(child, sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"controller": "nobody-control"}, sync_pb2.GOODBYE_REASON_UNKNOWN_PEER),
        ({"controller": "../../etc"}, sync_pb2.GOODBYE_REASON_UNKNOWN_PEER),
        ({"controller": ""}, sync_pb2.GOODBYE_REASON_UNKNOWN_PEER),
        ({"domain": ROOT}, sync_pb2.GOODBYE_REASON_UNKNOWN_PEER),
        ({"versions": []}, sync_pb2.GOODBYE_REASON_VERSION),
        ({"versions": [99]}, sync_pb2.GOODBYE_REASON_VERSION),
    ],
)
def test_who_is_no_child_is_sent_away(
    attacked: Attacked, fields: dict[str, Any], reason: sync_pb2.GoodbyeReason
) -> None:
    with attacked.child() as child:
        child.greet(**fields)
        assert _goodbye(child, reason)


def test_bytes_that_are_no_frame_end_the_call(attacked: Attacked) -> None:
    with grpc.insecure_channel(attacked.address) as channel:
        for service in ("souverix.sync.v1.SyncService", "souverix.nodelink.v1.NodeLinkService"):
            call = channel.stream_stream(f"/{service}/Connect", _as_it_is, _as_it_is)
            answers = call(iter([b"\xff\xff\xff"]), timeout=DEADLINE_S)
            try:
                assert len(list(answers)) <= 1
            except grpc.RpcError as error:
                assert error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017 either end will do


def _break_chain(run: event_pb2.Run) -> None:
    run.seal.chain_hash = bytes(32)


def _break_signature(run: event_pb2.Run) -> None:
    run.seal.signature = bytes(64)


def _change_event(run: event_pb2.Run) -> None:
    run.events[0] = run.events[0] + b"\x00"


def _garble_event(run: event_pb2.Run) -> None:
    run.events[0] = b"\xff\xff\xff"


def _leave_out_events(run: event_pb2.Run) -> None:
    del run.events[:]


def _skip_ahead(run: event_pb2.Run) -> None:
    run.first_sequence += 5
    run.seal.sequence += 5


@pytest.mark.parametrize(
    "change",
    [
        _break_chain,
        _break_signature,
        _change_event,
        _garble_event,
        _leave_out_events,
        _skip_ahead,
    ],
)
def test_a_run_that_is_not_what_its_origin_sealed_has_no_effect(
    attacked: Attacked, change: Callable[[event_pb2.Run], None]
) -> None:
    forged = changed(attacked.forger().run(HOSTILE, "forged"), change)
    with attacked.child() as child:
        child.begin()
        child.send_runs(forged)
        frame = child.wait_for("goodbye" if change in (_leave_out_events, _skip_ahead) else "ack")
        assert not any(ack.sequence for ack in frame.ack.streams)
    assert attacked.root.policy(HOSTILE, "forged") is None


def test_a_run_of_a_domain_out_of_reach_ends_the_session(attacked: Attacked) -> None:
    forger = attacked.forger()
    for domain in (ROOT, "edge-zone-a1"):
        with attacked.child() as child:
            child.begin()
            child.send_runs(forger.run(domain, "forged"))
            assert domain in _goodbye(child, sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR)
        assert attacked.root.policy(domain, "forged") is None


def test_replayed_runs_are_acknowledged_and_taken_once(attacked: Attacked) -> None:
    forger = attacked.forger()
    run = forger.run(HOSTILE, "replayed")
    held = []
    for _ in range(3):
        with attacked.child() as child:
            child.begin()
            child.send_runs(run)
            assert child.wait_for("ack").ack.streams[0].sequence == 2
        held.append(attacked.root.streams(HOSTILE)[HOSTILE_CONTROL, "control"])
    assert held == [held[0]] * 3
    assert held[0][0] == 2
    assert attacked.root.policy_version(HOSTILE, "replayed") == "forged"
    # The same number again, with other contents: a fork. It has no effect, and the first stands.
    fork = attacked.forger().run(HOSTILE, "forked")
    with attacked.child() as child:
        child.begin()
        child.send_runs(fork)
        next(child.frames())
    assert attacked.root.policy(HOSTILE, "forked") is None
    assert attacked.root.streams(HOSTILE)[HOSTILE_CONTROL, "control"] == held[0]


def test_a_stamp_from_the_far_future_moves_no_clock_and_ranks_as_of_its_arrival(
    attacked: Attacked,
) -> None:
    year_ms = 365 * 24 * 3600 * 1000
    now_ms = time.time_ns() // 1_000_000

    def written_by_root() -> int:
        return attacked.root.streams(HOSTILE)[f"{ROOT}-control", "control"][0]

    before = written_by_root()
    run = attacked.forger(2).run(HOSTILE, "early", stamp=stamp_of(now_ms + year_ms))
    with attacked.child() as child:
        child.begin()
        child.send_runs(run)
        child.wait_for("ack")
    found = attacked.root.policy(HOSTILE, "early")
    assert found is not None
    status = attacked.root.federation.GetStatus(
        federation_service_pb2.GetStatusRequest(), timeout=DEADLINE_S
    )
    assert abs(status.clock.ToMilliseconds() - now_ms) < 60_000
    wait_until(lambda: written_by_root() > before, "the admission of the event")
    attacked.root.update_policy(HOSTILE, "early", "v2")
    assert attacked.root.policy_version(HOSTILE, "early") == "v2"


# Agents.


def _link(attacked: Attacked, *requests: nodelink_pb2.ConnectRequest) -> nodelink_pb2.LinkGoodbye:
    """Sends these frames as an agent; the goodbye that ends the stream."""
    with grpc.insecure_channel(attacked.address) as channel:
        stub = nodelink_pb2_grpc.NodeLinkServiceStub(channel)
        answers = list(stub.Connect(iter(requests), timeout=DEADLINE_S))
    assert answers
    last: nodelink_pb2.ConnectResponse = answers[-1]
    assert last.WhichOneof("kind") == "goodbye"
    return last.goodbye


def _hello(node: str, **fields: Any) -> nodelink_pb2.ConnectRequest:
    hello = nodelink_pb2.AgentHello(node=node, agent_version="0", source=uuid.uuid4().hex, **fields)
    return nodelink_pb2.ConnectRequest(hello=hello)


@pytest.mark.parametrize("node", ["", "../../etc", "a\x00b", "x" * 100_000, "UPPER", "nodes/n1"])
def test_an_agent_with_an_impossible_name_is_sent_away(attacked: Attacked, node: str) -> None:
    goodbye = _link(attacked, _hello(node, spec=node_pb2.NodeSpec()))
    assert goodbye.reason in (
        nodelink_pb2.LINK_END_PROTOCOL_ERROR,
        nodelink_pb2.LINK_END_UNKNOWN_NODE,
    )
    assert goodbye.message


def test_an_agent_that_does_not_greet_is_sent_away(attacked: Attacked) -> None:
    for request in (
        nodelink_pb2.ConnectRequest(),
        nodelink_pb2.ConnectRequest(heartbeat=nodelink_pb2.AgentHeartbeat()),
        nodelink_pb2.ConnectRequest(report=nodelink_pb2.Report(sequence=1)),
        nodelink_pb2.ConnectRequest(chunk=nodelink_pb2.ValueChunk(digest="../x", data=b"x")),
    ):
        goodbye = _link(attacked, request)
        assert goodbye.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR
        assert goodbye.message
