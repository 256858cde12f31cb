"""Commands, conflicts, audit, federation, authority and watches: what is sent, shown and returned."""

from __future__ import annotations

import json

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from souverix.audit.v1 import audit_pb2 as audit
from souverix.audit.v1 import audit_service_pb2 as audits
from souverix.command.v1 import command_pb2 as command
from souverix.command.v1 import command_service_pb2 as commands
from souverix.federation.v1 import authority_pb2 as authority
from souverix.federation.v1 import conflict_pb2 as conflict
from souverix.federation.v1 import federation_service_pb2 as federation
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import node_pb2 as node
from souverix.policy.v1 import policy_pb2 as policy
from souverix.policy.v1 import policy_service_pb2 as policies
from souverix.receipt.v1.receipt_pb2 import WriteReceipt
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import Fail, ScriptedController, Silence, ctl

RECEIPT = WriteReceipt(domain="a1", controller="a1-control")
NOT_FOUND = Fail(grpc.StatusCode.NOT_FOUND, "gone")


def issued(*states: int, total: int = 2, done: bool = False) -> command.Command:
    deliveries = [
        command.Delivery(command_id="c1", node=f"n{number}", state=state)  # type: ignore[arg-type]
        for number, state in enumerate(states, 1)
    ]
    return command.Command(
        name="commands/c1",
        id="c1",
        deliveries=deliveries,
        total_targets=total,
        finished_targets=sum(state >= 3 for state in states),
        done=done,
    )


def step(*states: int, done: bool = False) -> commands.WatchCommandResponse:
    return commands.WatchCommandResponse(command=issued(*states, done=done))


def script_issue(controller: ScriptedController) -> None:
    reply = commands.IssueCommandResponse(command=issued(), receipt=RECEIPT)
    controller.on(commands.IssueCommandRequest, reply)


async def test_a_command_carries_targets_semantics_and_ttl(
    serve: Serve, controller: ScriptedController
) -> None:
    script_issue(controller)
    address = await serve(controller)
    by_name = await ctl("command", "ping", "n1", "nodes/n2", "--payload", "hi", "--server", address)
    by_domain = await ctl(
        "command", "apply-config", "--domain", "a", "--subtree", "--at-most-once", "--ttl", "3.75h",
        "--config", "log.level=debug", "--name", "log", "--server", address,
    )  # fmt: skip
    assert by_name.exit_code == by_domain.exit_code == ExitCode.OK
    assert "command c1 issued to 2 nodes" in by_name.out
    first, second = controller.requests(commands.IssueCommandRequest)
    assert list(first.targets.nodes) == ["n1", "n2"]
    assert first.action.ping.payload == "hi"
    assert first.semantics == command.DELIVERY_SEMANTICS_AT_LEAST_ONCE
    assert first.expiry.ttl.seconds == 300
    assert (second.targets.domain, second.targets.include_subtree) == ("a", True)
    assert second.semantics == command.DELIVERY_SEMANTICS_AT_MOST_ONCE
    assert second.expiry.ttl.seconds == 13500
    assert second.action.apply_config.document["log"]["level"] == "debug"


@pytest.mark.parametrize(
    "arguments",
    [
        ("ping",),
        ("ping", "n1", "--domain", "a"),
        ("ping", "n1", "--subtree"),
        ("ping", "n1", "--ttl", "soon"),
        ("ping", "n1", "--wait", "--wait-timeout", "5"),
        ("apply-config", "n1"),
    ],
)
async def test_commands_that_make_no_sense_are_not_sent(
    serve: Serve, controller: ScriptedController, arguments: tuple[str, ...]
) -> None:
    script_issue(controller)
    ran = await ctl("command", *arguments, "--server", await serve(controller))
    assert ran.exit_code == ExitCode.USAGE
    assert controller.calls == []


async def test_wait_shows_progress_and_each_answer(
    serve: Serve, controller: ScriptedController
) -> None:
    script_issue(controller)
    controller.on(commands.WatchCommandRequest, [step(1, 1), step(3, 2), step(3, 3, done=True)])
    ran = await ctl("command", "ping", "n1", "n2", "--wait", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.OK, ran.err
    assert "1/2: 1 SUCCEEDED, 1 DISPATCHED" in ran.err
    assert ran.out.count("SUCCEEDED") == 2


async def test_wait_goes_on_across_a_broken_stream(
    serve: Serve, controller: ScriptedController
) -> None:
    script_issue(controller)
    controller.on(
        commands.WatchCommandRequest,
        [step(1, 1), Fail(grpc.StatusCode.UNAVAILABLE, "restart")],
        [step(3, 3, done=True)],
    )
    ran = await ctl(
        "command", "ping", "n1", "n2", "--wait", "-o", "json", "--server", await serve(controller)
    )
    assert ran.exit_code == ExitCode.OK, ran.err
    assert json.loads(ran.out)["command"]["done"] is True
    assert len(controller.requests(commands.IssueCommandRequest)) == 1


async def test_a_target_that_did_not_succeed_fails_the_run(
    serve: Serve, controller: ScriptedController
) -> None:
    script_issue(controller)
    controller.on(commands.WatchCommandRequest, [step(3, 5, done=True)])
    ran = await ctl("command", "ping", "n1", "n2", "--wait", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.FAILED
    assert "EXPIRED" in ran.out


async def test_a_wait_ends_in_time(serve: Serve, controller: ScriptedController) -> None:
    script_issue(controller)
    controller.on(commands.WatchCommandRequest, [step(1, 2), Silence()])
    ran = await ctl(
        "command", "ping", "n1", "n2", "--wait", "--wait-timeout", "300ms",
        "--server", await serve(controller),
    )  # fmt: skip
    assert ran.exit_code == ExitCode.TIMEOUT
    assert "DISPATCHED" in ran.out
    assert "watch command c1" in ran.err


async def test_a_command_is_cancelled(serve: Serve, controller: ScriptedController) -> None:
    reply = commands.CancelCommandResponse(command=issued(6, 2), receipt=RECEIPT)
    controller.on(commands.CancelCommandRequest, reply)
    ran = await ctl(
        "command", "cancel", "c1", "--reason", "oops", "--server", await serve(controller)
    )
    assert ran.exit_code == ExitCode.OK
    assert "1 CANCELLED, 1 DISPATCHED" in ran.out
    (sent,) = controller.requests(commands.CancelCommandRequest)
    assert (sent.name, sent.reason) == ("commands/c1", "oops")


async def test_a_cancelled_command_says_why_by_whom_and_when(
    serve: Serve, controller: ScriptedController
) -> None:
    stopped = issued(6, 6, done=True)
    stopped.cancel_requested = True
    stopped.cancel_reason = "wrong zone"
    stopped.cancel_principal = "user:bob"
    stopped.cancel_time.FromJsonString("2026-02-27T03:45:00Z")
    controller.on(commands.GetCommandRequest, commands.GetCommandResponse(command=stopped))
    address = await serve(controller)
    table = await ctl("get", "command", "c1", "--server", address)
    assert "(2026-02-27T03:45:00Z) by user:bob: wrong zone" in table.out
    long = await ctl("describe", "command", "c1", "--server", address)
    assert "cancel reason: wrong zone" in long.out
    assert "cancel principal: user:bob" in long.out
    program = await ctl("get", "command", "c1", "-o", "json", "--server", address)
    told = json.loads(program.out)["command"]
    assert (told["cancelReason"], told["cancelTime"]) == ("wrong zone", "2026-02-27T03:45:00Z")
    people = await ctl("get", "command", "c1", "-o", "yaml", "--server", address)
    assert "cancelPrincipal: user:bob" in people.out


async def test_a_command_nobody_cancelled_says_nothing_of_a_cancel(
    serve: Serve, controller: ScriptedController
) -> None:
    reply = commands.GetCommandResponse(command=issued(3, 3, done=True))
    controller.on(commands.GetCommandRequest, reply)
    address = await serve(controller)
    for shown in (("get", "command", "c1"), ("describe", "command", "c1")):
        assert "cancel" not in (await ctl(*shown, "--server", address)).out


async def test_watch_command_ends_when_it_is_done(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(commands.WatchCommandRequest, [step(1, 3), step(3, 3, done=True)])
    ran = await ctl("watch", "command", "c1", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.OK
    assert [line.split()[:2] for line in ran.out.splitlines()] == [
        ["n1", "PENDING"],
        ["n2", "SUCCEEDED"],
        ["n1", "SUCCEEDED"],
    ]


async def test_a_watch_resumes_by_its_token(serve: Serve, controller: ScriptedController) -> None:
    def bookmark(token: str) -> fleet.WatchNodesResponse:
        mark = fleet.WatchBookmark(resume_token=token, initial_state_complete=True)
        return fleet.WatchNodesResponse(bookmark=mark)

    controller.on(
        fleet.WatchNodesRequest,
        [
            fleet.WatchNodesResponse(existing=node.Node(id="n1")),
            bookmark("t1"),
            Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "too slow"),
        ],
        Fail(grpc.StatusCode.OUT_OF_RANGE, "compacted"),
        [fleet.WatchNodesResponse(changed=node.Node(id="n2"))],
        NOT_FOUND,
    )
    ran = await ctl("watch", "nodes", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.NOT_FOUND
    tokens = [each.resume_token for each in controller.requests(fleet.WatchNodesRequest)]
    assert tokens == ["", "t1", "", ""]
    assert "beginning anew" in ran.err
    assert [line.split()[:2] for line in ran.out.splitlines()] == [
        ["existing", "n1"],
        ["changed", "n2"],
    ]


async def test_a_watch_prints_one_json_object_a_line(
    serve: Serve, controller: ScriptedController
) -> None:
    first = policies.WatchPoliciesResponse(changed=policy.Policy(id="p1"), resume_token="t1")
    second = policies.WatchPoliciesResponse(deleted="domains/a/policies/p1", resume_token="t2")
    controller.on(policies.WatchPoliciesRequest, [first, second], NOT_FOUND)
    ran = await ctl("watch", "policies", "-o", "json", "--server", await serve(controller))
    steps = [json.loads(line) for line in ran.out.splitlines()]
    assert [each["resumeToken"] for each in steps] == ["t1", "t2"]
    assert controller.requests(policies.WatchPoliciesRequest)[1].resume_token == "t2"


async def test_a_watch_that_only_ends_is_given_up(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(audits.WatchAuditEntriesRequest, [])
    ran = await ctl("watch", "audit", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.UNAVAILABLE
    assert 1 < len(controller.calls) < 10


def two_siblings() -> federation.Conflict:
    stamp = 1772163900005 << 16
    siblings = [
        conflict.ConflictSibling(controller="region-a-control", sequence=4, winner=True),
        conflict.ConflictSibling(
            controller="a1-control", sequence=9, optimistic=True, effective_stamp=stamp
        ),
    ]
    record = conflict.ConflictRecord(
        conflict_id="k1", domain="a1", subject="policies/p1", aspect="policy", siblings=siblings
    )
    return federation.Conflict(name="conflicts/k1", record=record, open=True)


async def test_conflicts_show_siblings_and_a_loser_is_restored(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(
        federation.ListConflictsRequest,
        federation.ListConflictsResponse(conflicts=[two_siblings()]),
    )
    controller.on(
        federation.GetConflictRequest, federation.GetConflictResponse(conflict=two_siblings())
    )
    controller.on(
        federation.RestoreConflictValueRequest,
        federation.RestoreConflictValueResponse(conflict=two_siblings(), receipt=RECEIPT),
    )
    address = await serve(controller)
    listed = await ctl("conflicts", "list", "--open", "--server", address)
    same = await ctl("get", "conflicts", "--open", "--server", address)
    shown = await ctl("conflicts", "show", "k1", "--server", address)
    restored = await ctl(
        "conflicts", "restore", "k1", "--controller", "a1-control", "--sequence", "9",
        "--server", address,
    )  # fmt: skip
    assert listed.out == same.out
    assert "region-a-control:4" in listed.out
    assert "2026-02-27T03:45:00.005Z" in shown.out
    assert "optimistic" in shown.out
    assert restored.exit_code == ExitCode.OK
    (sent,) = controller.requests(federation.RestoreConflictValueRequest)
    assert (sent.name, sent.controller, sent.sequence) == ("conflicts/k1", "a1-control", 9)


def verdict(**facts: object) -> audits.VerifyAuditResponse:
    stream = audits.StreamVerdict(domain="a1", controller="a1-control", incarnation=1, lane="audit")
    for name, value in facts.items():
        setattr(stream, name, value)
    return audits.VerifyAuditResponse(stream=stream)


def summary(**facts: int) -> audits.VerifyAuditResponse:
    return audits.VerifyAuditResponse(summary=audits.VerifySummary(**facts))  # type: ignore[arg-type]


READING = audits.VerifyAuditResponse(
    progress=audits.VerifyProgress(commits_read=5, commits_total=10)
)


@pytest.mark.parametrize(
    ("steps", "exit_code", "said"),
    [
        ([READING, verdict(intact=True), summary(streams=1, events=7)], 0, "0 faulty"),
        ([verdict(fault="hash at 3"), summary(streams=1, faulty_streams=1)], 8, "hash at 3"),
        ([verdict(fault="hash at 3"), summary(streams=1)], 8, "hash at 3"),
        ([READING, verdict(intact=True)], 8, "without a summary"),
        ([summary()], 1, "nothing was verified"),
    ],
)
async def test_the_exit_code_of_verify_says_intact_or_not(
    serve: Serve,
    controller: ScriptedController,
    steps: list[audits.VerifyAuditResponse],
    exit_code: int,
    said: str,
) -> None:
    controller.on(audits.VerifyAuditRequest, steps)
    address = await serve(controller)
    ran = await ctl("audit", "verify", "--all-lanes", "--server", address)
    assert ran.exit_code == exit_code
    assert said in ran.out + ran.err
    as_json = await ctl("audit", "verify", "-o", "json", "--server", address)
    assert as_json.exit_code == exit_code
    assert set(json.loads(as_json.out)) <= {"streams", "summary"}
    assert controller.calls[0].request.all_lanes


async def test_audit_entries_are_listed_with_their_outcome(
    serve: Serve, controller: ScriptedController
) -> None:
    record = audit.AuditRecord(
        principal="user:eve",
        action="souverix.policy.v1.PolicyService/UpdatePolicy",
        resource="domains/a1/policies/p1",
        outcome=audit.AUDIT_OUTCOME_DENIED,
        reason="NOT_MASTER_OF_RECORD",
        suppressed_count=12,
    )
    entry = audits.AuditEntry(controller="a1-control", sequence=3, record=record)
    controller.on(audits.ListAuditEntriesRequest, audits.ListAuditEntriesResponse(entries=[entry]))
    address = await serve(controller)
    ran = await ctl("audit", "list", "--outcome", "denied", "--by", "user:eve", "--server", address)
    for part in ("PolicyService/UpdatePolicy", "DENIED", "NOT_MASTER_OF_RECORD (x12)"):
        assert part in ran.out
    (sent,) = controller.requests(audits.ListAuditEntriesRequest)
    assert (sent.outcome, sent.principal) == (audit.AUDIT_OUTCOME_DENIED, "user:eve")


def script_federation(controller: ScriptedController) -> None:
    record = authority.AuthorityRecord(
        domain="a1",
        level=authority.AUTHORITY_LEVEL_LOCAL,
        master_of_record="a1-control",
        term=2,
        next_master="region-a-control",
    )
    domains = [
        federation.TopologyDomain(domain="region-a", own=True, node_count=1),
        federation.TopologyDomain(
            domain="a1", parent="region-a", authority=record, term_path=[1, 3, 2], open_conflicts=1
        ),
        federation.TopologyDomain(domain="lost", parent="unknown"),
    ]
    debt = federation.PeerSyncDebt(
        behind=Duration(seconds=13500), backlog_events=120, backlog_config_updates=7
    )
    peer = federation.Peer(
        controller="a1-control",
        domain="a1",
        role=federation.PEER_ROLE_CHILD,
        state=federation.PEER_STATE_DISCONNECTED,
        debt=debt,
        last_error="UNAVAILABLE",
    )
    controller.on(
        federation.GetStatusRequest,
        federation.GetStatusResponse(
            controller="region-a-control",
            domain="region-a",
            master=True,
            log_storage=federation.LogStorage(
                start_offset=90_000,
                archived_offset=120_000,
                archive_segments=31,
                archive_bytes=30 << 20,
                store_bytes=200 << 20,
                store_free_bytes=150 << 20,
            ),
        ),
    )
    controller.on(
        federation.GetTopologyRequest,
        federation.GetTopologyResponse(domains=domains, controller="region-a-control"),
    )
    controller.on(federation.ListPeersRequest, federation.ListPeersResponse(peers=[peer]))


async def test_federation_status_draws_the_tree_with_authority_and_debt(
    serve: Serve, controller: ScriptedController
) -> None:
    script_federation(controller)
    address = await serve(controller)
    ran = await ctl("federation", "status", "--server", address)
    assert ran.exit_code == ExitCode.OK, ran.err
    for part in (
        "└── a1  LOCAL  master a1-control  term 1.3.2",
        "in transfer to region-a-control",
        "1 open conflicts",
        "child link DISCONNECTED; 3.75h behind, 120 events (7 config)",
        "authority not known here",
        "answers now",
        "store 50.0 MiB used of 200.0 MiB from commit 90000",
        "archive 30.0 MiB in 31 files before commit 120000",
    ):
        assert part in ran.out
    as_json = await ctl("federation", "status", "-o", "json", "--server", address)
    assert set(json.loads(as_json.out)) == {"status", "topology", "peers"}


async def test_peers_streams_and_authority_are_listed(
    serve: Serve, controller: ScriptedController
) -> None:
    script_federation(controller)
    waiting = federation.StreamStatus(
        domain="a1", controller="a1-control", incarnation=1, lane="state", received=9, applied=4,
        pending_reason="KEY_UNKNOWN",
    )  # fmt: skip
    controller.on(federation.ListStreamsRequest, federation.ListStreamsResponse(streams=[waiting]))
    address = await serve(controller)
    peers = await ctl("get", "peers", "--server", address)
    streams = await ctl("federation", "streams", "--server", address)
    records = await ctl("get", "authority", "--server", address)
    assert "3.75h" in peers.out
    assert "UNAVAILABLE" in peers.out
    assert "KEY_UNKNOWN" in streams.out
    assert "in transfer to region-a-control" in records.out


async def test_sync_now_ends_well_only_when_level(
    serve: Serve, controller: ScriptedController
) -> None:
    behind = federation.SyncNowResponse(
        state=federation.PEER_STATE_CATCHING_UP, debt=federation.PeerSyncDebt(backlog_events=5)
    )
    level = federation.SyncNowResponse(state=federation.PEER_STATE_LIVE, level=True)
    controller.on(federation.SyncNowRequest, [behind, level], [behind])
    address = await serve(controller)
    good = await ctl("federation", "sync-now", "--wait", "17h", "--server", address)
    bad = await ctl("federation", "sync-now", "--server", address)
    assert good.exit_code == ExitCode.OK
    assert good.out.split() == ["LIVE", "level"]
    assert bad.exit_code == ExitCode.FAILED
    assert controller.requests(federation.SyncNowRequest)[0].timeout.seconds == 61200


async def test_a_transfer_can_be_waited_for(serve: Serve, controller: ScriptedController) -> None:
    asked = authority.AuthorityRecord(domain="a1", master_of_record="m1", next_master="m2", term=2)
    settled = authority.AuthorityRecord(domain="a1", master_of_record="m2", term=3)
    controller.on(
        federation.TransferAuthorityRequest,
        federation.TransferAuthorityResponse(authority=asked, receipt=RECEIPT),
    )
    controller.on(
        federation.GetAuthorityRequest,
        federation.GetAuthorityResponse(authority=asked),
        federation.GetAuthorityResponse(authority=settled),
    )
    address = await serve(controller)
    arguments = ("authority", "transfer", "a1", "--to", "m2", "--server", address)
    at_once = await ctl(*arguments)
    waited = await ctl(*arguments, "--wait", "10s")
    assert "m1 is asked to release to m2" in at_once.out
    assert "master-of-record is m2, term 3" in waited.out


async def test_a_forced_transfer_needs_a_reason(
    serve: Serve, controller: ScriptedController
) -> None:
    forced = authority.AuthorityRecord(domain="a1", master_of_record="m2", forced=True)
    controller.on(
        federation.TransferAuthorityRequest,
        federation.TransferAuthorityResponse(authority=forced, receipt=RECEIPT),
    )
    address = await serve(controller)
    arguments = ("authority", "transfer", "a1", "--to", "m2", "--force", "--server", address)
    refused = await ctl(*arguments)
    assert refused.exit_code == ExitCode.USAGE
    assert controller.calls == []
    assert (await ctl(*arguments, "--reason", "site lost")).exit_code == ExitCode.OK
    (sent,) = controller.requests(federation.TransferAuthorityRequest)
    assert (sent.force, sent.reason) == (True, "site lost")
