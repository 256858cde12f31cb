from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from controller.durability import Durability
from controller.errors import OUTCOME_UNKNOWN, ForwardedStatus, ServiceError
from controller.journal import Journal, JournalClosed, WriteOutcomeUnknown
from controller.log.errors import LogUnavailable, OutcomeUnknown
from controller.writes import (
    MAX_REQUEST_ID_BYTES,
    Caller,
    Draft,
    Executed,
    Forwarded,
    WriteCall,
    Writer,
)
from federation.authority import Permission
from federation.errors import (
    AuthorityError,
    EtagMismatch,
    InvalidWrite,
    OutOfReach,
    RequestIdReused,
)
from federation.identifiers import Key, Lane, StreamId
from souverix.audit.v1 import audit_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import node_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from souverix.receipt.v1 import receipt_pb2
from tests.federation_fixture import MemoryController, root_controller
from tests.unit.controller.gated_log import GatedLog, Stands

METHOD = "/souverix.policy.v1.PolicyService/UpdatePolicy"
MAY_WRITE_POLICIES = authority_pb2.Autonomy(can_modify_policies=True)


class Link:
    """The links of the controller: up or down, and what goes over them."""

    def __init__(self) -> None:
        self.up: set[str] = set()
        self.sent: list[tuple[str, str, bytes, Caller]] = []
        self.failure: Exception | None = None

    def link_up(self, controller: str) -> bool:
        return controller in self.up

    def last_heard_ms(self, controller: str) -> int | None:
        return None

    async def forward(self, controller: str, method: str, request: bytes, caller: Caller) -> bytes:
        self.sent.append((controller, method, request, caller))
        if self.failure is not None:
            raise self.failure
        return b"their response"


class Bench:
    """The write path of region-a's controller; edge-a1 below it has a controller of its own, edge-a2 none."""

    def __init__(self, log: GatedLog) -> None:
        self.log = log
        self.link = Link()
        self.durability = Durability()
        root = root_controller()
        self.region = MemoryController("region-a-control", "region-a", root.root_signer)
        zone = MemoryController("edge-a1-control", "edge-a1", root.root_signer)
        root.declare("region-a", "global", self.region, autonomy=MAY_WRITE_POLICIES)
        self.region.receive_from(root)
        self.region.declare("edge-a1", "region-a", zone)
        root.declare("region-b", "global")
        self.region.receive_from(root)
        self.state = self.region.replayed()
        self.journal: Journal | None = None
        self.writer = Writer(self.state, self._journal, self.durability, self.link, "region-a")

    def _journal(self) -> Journal:
        if self.journal is None:
            raise JournalClosed("a standby")
        return self.journal

    async def start(self) -> None:
        lease = await self.log.campaign("r1", 5)
        head = await self.log.head()
        for commit in self.region.commits:
            head = await self.log.append(lease.mastership, head, commit.SerializeToString())
        self.journal = Journal(
            self.log,
            lease.mastership,
            head,
            self.state,
            self.region.identity,
            self.region.signer,
            "r1",
            lambda applied, commit, size: None,
        )

    def call(
        self,
        version: str = "v1",
        *,
        domain: str = "region-a",
        policy: str = "p1",
        decide: Callable[[Draft], None] | None = None,
        permission: Permission | None = Permission.POLICIES,
        principal: str = "user:alice",
        remaining_s: float | None = None,
        via: tuple[str, ...] = (),
        request_id: str = "",
        validate_only: bool = False,
        durable_at: str = "",
    ) -> WriteCall:
        subject = f"policies/{policy}"

        def put(draft: Draft) -> None:
            draft.write(domain, subject, "policy", policy_pb2.PolicySpec(version=version))

        return WriteCall(
            caller=Caller(principal, "ipv4:127.0.0.1:9", remaining_s, via),
            method=METHOD,
            request=policy_service_pb2.UpdatePolicyRequest(request_id=request_id),
            domain=domain,
            resource=f"domains/{domain}/{subject}",
            permission=permission,
            decide=decide or put,
            request_id=request_id,
            validate_only=validate_only,
            durable_at=durable_at,
        )

    async def receipt(self, call: WriteCall) -> receipt_pb2.WriteReceipt:
        executed = await self.writer.execute(call)
        assert isinstance(executed, Executed)
        return executed.receipt

    def versions(self, domain: str = "region-a", policy: str = "p1") -> list[str]:
        key = Key(domain, f"policies/{policy}", "policy")
        return [write.body().version for write in self.state.siblings(key)]

    def audited(self) -> list[audit_pb2.AuditRecord]:
        return [item.write.body() for item in self.state.audits]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    log = GatedLog(tmp_path / "log.sqlite")
    await log.open(bytes(16))
    made = Bench(log)
    await made.start()
    yield made
    log.gate.set()
    if made.journal is not None:
        await made.journal.close()
    await log.close()


# A write made here.


async def test_receipt_names_where_and_by_whom_the_write_was_made(bench: Bench) -> None:
    receipt = await bench.receipt(bench.call())
    assert (receipt.domain, receipt.controller, receipt.incarnation) == (
        "region-a",
        "region-a-control",
        1,
    )
    assert receipt.commit_offset == bench.state.next_offset - 1
    assert list(receipt.durable_at) == ["region-a"]
    assert not receipt.optimistic
    assert not receipt.repeated_request
    assert bench.versions() == ["v1"]


async def test_event_carries_the_callers_principal_and_request(bench: Bench) -> None:
    await bench.receipt(bench.call(request_id="r1"))
    write = bench.state.winner(Key("region-a", "policies/p1", "policy"))
    assert write is not None
    assert (write.principal, write.request_id) == ("user:alice", "r1")


async def test_write_and_its_audit_stand_in_one_commit(bench: Bench) -> None:
    receipt = await bench.receipt(bench.call(request_id="r1"))
    [record] = bench.audited()
    assert (record.principal, record.source) == ("user:alice", "ipv4:127.0.0.1:9")
    assert record.action == METHOD.lstrip("/")
    assert (record.resource, record.request_id) == ("domains/region-a/policies/p1", "r1")
    assert record.outcome == audit_pb2.AUDIT_OUTCOME_ALLOWED
    [item] = bench.state.audits
    assert bench.state.streams[item.stream].index.offset_of(1) == receipt.commit_offset


async def test_audit_of_the_subtree_goes_into_the_domain_it_concerns(bench: Bench) -> None:
    bench.link.up = set()
    await bench.receipt(bench.call(domain="edge-a1"))
    [item] = bench.state.audits
    assert item.stream.domain == "edge-a1"


async def test_each_write_has_its_audit_also_when_many_share_a_commit(bench: Bench) -> None:
    calls = [bench.call(policy=f"p{n}") for n in range(20)]
    await asyncio.gather(*(bench.writer.execute(call) for call in calls))
    assert sorted(record.resource for record in bench.audited()) == sorted(
        call.resource for call in calls
    )


async def test_refused_write_changes_nothing_and_is_not_audited_as_allowed(bench: Bench) -> None:
    def refuse(draft: Draft) -> None:
        draft.write("region-a", "policies/p1", "policy", policy_pb2.PolicySpec(version="no"))
        raise EtagMismatch("read again")

    before = bench.state.next_offset
    with pytest.raises(EtagMismatch):
        await bench.writer.execute(bench.call(decide=refuse))
    assert (bench.versions(), bench.audited(), bench.state.next_offset) == ([], [], before)


async def test_check_alone_writes_nothing(bench: Bench) -> None:
    before = bench.state.next_offset
    receipt = await bench.receipt(bench.call(validate_only=True, request_id="r1"))
    assert (bench.versions(), bench.audited(), bench.state.next_offset) == ([], [], before)
    assert (receipt.commit_offset, receipt.incarnation, list(receipt.durable_at)) == (0, 0, [])
    assert not (await bench.receipt(bench.call(request_id="r1"))).repeated_request


async def test_standby_makes_no_writes(bench: Bench) -> None:
    journal, bench.journal = bench.journal, None
    with pytest.raises(JournalClosed):
        await bench.writer.execute(bench.call())
    bench.journal = journal


async def test_failed_append_is_told_and_leaves_nothing(bench: Bench) -> None:
    bench.log.failures.append((LogUnavailable("away"), Stands.NOT_WRITTEN))
    with pytest.raises(LogUnavailable):
        await bench.writer.execute(bench.call(request_id="r1"))
    assert bench.versions() == []
    assert not (await bench.receipt(bench.call(request_id="r1"))).repeated_request


async def test_unknown_outcome_is_never_told_as_a_failure(bench: Bench) -> None:
    bench.log.failures.append((OutcomeUnknown("no answer"), Stands.WRITTEN))
    with pytest.raises(WriteOutcomeUnknown):
        await bench.writer.execute(bench.call(request_id="r1"))


async def test_overlong_request_id_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidWrite, match="request_id"):
        await bench.writer.execute(bench.call(request_id="x" * (MAX_REQUEST_ID_BYTES + 1)))


# Repeats.


async def test_repeated_request_is_made_once_and_gets_the_earlier_outcome(bench: Bench) -> None:
    first = await bench.receipt(bench.call("v1", request_id="r1"))
    again = await bench.receipt(bench.call("v2", request_id="r1"))
    assert again.repeated_request
    assert again.commit_offset == first.commit_offset
    assert list(again.durable_at) == ["region-a"]
    assert bench.versions() == ["v1"]
    assert len(bench.audited()) == 1


async def test_request_repeated_within_one_commit_is_made_once(bench: Bench) -> None:
    calls = [bench.call(f"v{n}", request_id="r1") for n in range(3)]
    receipts = await asyncio.gather(*(bench.receipt(call) for call in calls))
    assert [r.repeated_request for r in receipts] == [False, True, True]
    assert {r.commit_offset for r in receipts} == {bench.state.next_offset - 1}
    assert all(list(r.durable_at) == ["region-a"] for r in receipts)
    assert bench.versions() == ["v0"]


async def test_repeat_of_a_write_that_was_refused_is_a_new_one(bench: Bench) -> None:
    def refuse(_: Draft) -> None:
        raise EtagMismatch("read again")

    with pytest.raises(EtagMismatch):
        await bench.writer.execute(bench.call(decide=refuse, request_id="r1"))
    assert not (await bench.receipt(bench.call(request_id="r1"))).repeated_request


async def test_two_principals_may_use_one_request_id(bench: Bench) -> None:
    await bench.receipt(bench.call("v1", request_id="r1"))
    other = await bench.receipt(bench.call("v2", request_id="r1", principal="user:bob"))
    assert not other.repeated_request
    assert bench.versions() == ["v2"]


@pytest.mark.parametrize("policy", ["p2", "p", "p11"])
async def test_request_id_used_for_something_else_is_refused(bench: Bench, policy: str) -> None:
    await bench.receipt(bench.call(request_id="r1"))
    with pytest.raises(RequestIdReused) as refused:
        await bench.writer.execute(bench.call(policy=policy, request_id="r1"))
    assert refused.value.metadata == {"request_id": "r1", "subject": "policies/p1"}


async def test_writes_without_a_request_id_are_never_repeats(bench: Bench) -> None:
    await bench.receipt(bench.call("v1"))
    assert not (await bench.receipt(bench.call("v2"))).repeated_request
    assert bench.versions() == ["v2"]


async def test_repeat_is_durable_only_where_all_it_wrote_is(bench: Bench) -> None:
    def two_lanes(draft: Draft) -> None:
        draft.write("region-a", "policies/p1", "policy", policy_pb2.PolicySpec())
        draft.write("region-a", "nodes/n1", "node_spec", node_pb2.NodeSpec())

    await bench.receipt(bench.call(decide=two_lanes, request_id="r1"))
    control = StreamId("region-a", bench.region.identity.origin, Lane.CONTROL)
    state = control._replace(lane=Lane.STATE)
    await bench.durability.advance("global", {control: 1})
    again = await bench.receipt(bench.call(decide=two_lanes, request_id="r1"))
    assert list(again.durable_at) == ["region-a"]
    await bench.durability.advance("global", {state: 1})
    again = await bench.receipt(bench.call(decide=two_lanes, request_id="r1"))
    assert list(again.durable_at) == ["region-a", "global"]


# Durability.


async def test_caller_may_wait_for_a_higher_level(bench: Bench) -> None:
    stream = StreamId("region-a", bench.region.identity.origin, Lane.CONTROL)
    writing = asyncio.ensure_future(bench.receipt(bench.call(durable_at="global")))
    await asyncio.sleep(0)
    await bench.receipt(bench.call(policy="p2"))
    assert bench.versions() == ["v1"]
    assert not writing.done()
    await bench.durability.advance("global", {stream: 1})
    assert list((await asyncio.wait_for(writing, 10)).durable_at) == ["region-a", "global"]


async def test_level_that_is_not_reached_in_time_is_missing_from_the_receipt(
    bench: Bench,
) -> None:
    receipt = await bench.receipt(bench.call(durable_at="global", remaining_s=0.02))
    assert list(receipt.durable_at) == ["region-a"]
    assert bench.versions() == ["v1"]


async def test_level_that_is_not_on_the_path_is_refused_before_anything_is_written(
    bench: Bench,
) -> None:
    with pytest.raises(InvalidWrite, match="region-a, global"):
        await bench.writer.execute(bench.call(durable_at="edge-a1"))
    assert bench.versions() == []


# Authority.


async def test_write_of_anothers_domain_is_passed_on_while_the_link_is_up(bench: Bench) -> None:
    bench.link.up = {"edge-a1-control"}
    call = bench.call(domain="edge-a1", request_id="r1")
    forwarded = await bench.writer.execute(call)
    assert forwarded == Forwarded(b"their response")
    [(controller, method, request, caller)] = bench.link.sent
    assert (controller, method, caller) == ("edge-a1-control", METHOD, call.caller)
    assert policy_service_pb2.UpdatePolicyRequest.FromString(request).request_id == "r1"
    assert (bench.versions("edge-a1"), bench.audited()) == ([], [])


async def test_refusal_of_the_master_of_record_is_the_callers(bench: Bench) -> None:
    bench.link.up = {"edge-a1-control"}
    bench.link.failure = ForwardedStatus(grpc.StatusCode.ABORTED.value[0], "read again", b"")
    with pytest.raises(ForwardedStatus, match="read again"):
        await bench.writer.execute(bench.call(domain="edge-a1"))


async def test_write_under_autonomy_is_marked_optimistic_and_audited_as_such(
    bench: Bench,
) -> None:
    receipt = await bench.receipt(bench.call(domain="edge-a1"))
    assert receipt.optimistic
    [write] = bench.state.siblings(Key("edge-a1", "policies/p1", "policy"))
    assert write.optimistic
    assert [record.reason for record in bench.audited()] == ["OPTIMISTIC"]


async def test_what_autonomy_does_not_grant_is_refused_with_the_masters_name(
    bench: Bench,
) -> None:
    with pytest.raises(AuthorityError) as refused:
        await bench.writer.execute(bench.call(domain="edge-a1", permission=Permission.VERSIONS))
    assert refused.value.metadata["master"] == "edge-a1-control"
    with pytest.raises(OutOfReach):
        await bench.writer.execute(bench.call(domain="region-b"))
    assert bench.versions("edge-a1") == []


async def test_write_that_asks_for_no_authority_is_made_where_it_is_called(bench: Bench) -> None:
    receipt = await bench.receipt(bench.call(domain="edge-a1", permission=None))
    assert not receipt.optimistic


async def test_forwarders_word_counts_within_its_own_subtree_only(bench: Bench) -> None:
    with pytest.raises(OutOfReach, match="edge-a1-control forwarded"):
        await bench.writer.execute(bench.call(via=("edge-a1-control",)))
    with pytest.raises(OutOfReach, match="nobody forwarded"):
        await bench.writer.execute(bench.call(via=("nobody",)))
    assert await bench.receipt(bench.call(via=("global-control",)))


UNKNOWN = ServiceError(grpc.StatusCode.UNAVAILABLE, OUTCOME_UNKNOWN, "no answer came")
UNKNOWN_FURTHER_ON = ForwardedStatus(grpc.StatusCode.UNAVAILABLE.value[0], "no answer came", b"")
NOT_SENT = ServiceError(grpc.StatusCode.UNAVAILABLE, "LINK_DOWN", "not sent")
REFUSED = ForwardedStatus(grpc.StatusCode.ABORTED.value[0], "refused", b"")


@pytest.mark.parametrize("failure", [UNKNOWN, UNKNOWN_FURTHER_ON])
async def test_write_passed_on_with_unknown_outcome_is_never_made_here_instead(
    bench: Bench, failure: Exception
) -> None:
    bench.link.up, bench.link.failure = {"edge-a1-control"}, failure
    call = bench.call(domain="edge-a1", request_id="r1")
    with pytest.raises(type(failure)):
        await bench.writer.execute(call)
    bench.link.up, bench.link.failure = set(), None

    with pytest.raises(AuthorityError, match="passed on to edge-a1-control"):
        await bench.writer.execute(call)
    assert bench.versions("edge-a1") == []
    other = await bench.receipt(bench.call(domain="edge-a1", request_id="r2"))
    assert other.optimistic

    bench.link.up = {"edge-a1-control"}
    assert await bench.writer.execute(call) == Forwarded(b"their response")


@pytest.mark.parametrize("failure", [NOT_SENT, REFUSED])
async def test_write_that_surely_was_not_made_elsewhere_may_be_made_here(
    bench: Bench, failure: Exception
) -> None:
    bench.link.up, bench.link.failure = {"edge-a1-control"}, failure
    call = bench.call(domain="edge-a1", request_id="r1")
    with pytest.raises(type(failure)):
        await bench.writer.execute(call)
    bench.link.up = set()
    assert (await bench.receipt(call)).optimistic
