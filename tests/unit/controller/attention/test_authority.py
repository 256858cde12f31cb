"""Contradictions of masters: open conflicts, rival authority, hanging transfers, late writes."""

from __future__ import annotations

from controller.attention.authority import judge_conflict, judge_late_write, judge_transfer
from controller.attention.conditions import Judgement, Kind, Severity
from controller.attention.rules import Limits
from federation.authority import next_record
from federation.conflicts import conflict_record
from federation.identifiers import Key
from souverix.audit.v1 import audit_pb2
from tests.federation_fixture import (
    ROOT,
    MemoryController,
    controller_below,
    root_controller,
)

LIMITS = Limits()
ZONE = "edge-a1"


def tree() -> tuple[MemoryController, MemoryController]:
    root = root_controller()
    return root, controller_below(root, f"{ZONE}-control", ZONE)


def record_conflicts(controller: MemoryController) -> None:
    for due in controller.state.conflicts.records_due():
        record = conflict_record(due, controller.state.rank, resolved=False)
        controller.submit(
            lambda p, record=record: p.write(  # type: ignore[misc]
                record.domain,
                f"conflicts/{record.conflict_id}",
                "conflict",
                record,
                principal="controller:x",
            )
        )


def move_authority(by: MemoryController, domain: str, master: str) -> None:
    key = Key(domain, f"domains/{domain}", "authority")
    current = by.state.authority.records[domain]
    parent_term = by.state.authority.term_of(current.parent)
    record = next_record(current, master, force=True, reason="lost", parent_term=parent_term)
    by.submit(lambda p: p.write(*key, record, principal="user:x"))


def test_a_conflict_is_one_once_it_is_recorded_and_until_it_is_over() -> None:
    root, zone = tree()
    key = Key(ZONE, "policies/p1", "policy")
    root.write_policy(ZONE, "v1")
    zone.write_policy(ZONE, "v2")
    zone.receive_from(root)
    assert judge_conflict(zone.state, key) == Judgement()
    record_conflicts(zone)
    (found,) = judge_conflict(zone.state, key).conditions
    assert (found.kind, found.severity, found.domain) == (
        Kind.CONFLICT_OPEN,
        Severity.MEDIUM,
        ZONE,
    )
    assert "edge-a1-control and global-control wrote policy of policies/p1" in found.words
    conflict_id = found.subject.partition("/")[2]
    assert found.next_step == f"souverixctl conflicts show {conflict_id}"
    zone.write_policy(ZONE, "v3")
    assert judge_conflict(zone.state, key) == Judgement()


def test_rival_records_of_authority_are_who_thinks_they_are_master() -> None:
    """The zone's authority was moved while it was cut off, and both masters moved that of the cell below it."""
    root, zone = tree()
    cell = "cell-1"
    zone.declare(cell, ZONE)
    root.receive_from(zone)
    move_authority(root, ZONE, root.name)
    move_authority(root, cell, "one-control")
    move_authority(zone, cell, "two-control")
    zone.receive_from(root)
    record_conflicts(zone)
    (found,) = judge_conflict(zone.state, Key(cell, f"domains/{cell}", "authority")).conditions
    assert (found.kind, found.severity) == (Kind.AUTHORITY_MISMATCH, Severity.CRITICAL)
    assert "one-control and two-control were each declared master-of-record" in found.words
    assert found.words.endswith("one-control rules")


def test_a_planned_transfer_hangs_after_a_while() -> None:
    root, _ = tree()
    key = Key(ZONE, f"domains/{ZONE}", "authority")
    winner = root.state.winner(key)
    assert winner is not None
    assert judge_transfer(root.state, ZONE, LIMITS, root.now_ms) == Judgement()
    record = winner.body()
    record.next_master = root.name
    root.submit(lambda p: p.write(*key, record, principal="user:x"))
    due_ms = root.now_ms + int(LIMITS.transfer_pending_after_s * 1000)
    assert judge_transfer(root.state, ZONE, LIMITS, due_ms - 1) == Judgement((), due_ms)
    (found,) = judge_transfer(root.state, ZONE, LIMITS, due_ms).conditions
    assert (found.kind, found.since_ms) == (Kind.AUTHORITY_TRANSFER_PENDING, root.now_ms)
    assert "edge-a1-control has not handed over to global-control" in found.words


def test_late_writes_of_a_superseded_master_are_shown_for_a_time() -> None:
    root, _ = tree()
    told = audit_pb2.AuditRecord(
        action="superseded.write",
        details={"domain": ZONE, "controller": "old-control", "last": "policies/p1 policy 7"},
    )
    write = root.submit(lambda p: p.write(ROOT, "audit/x", "audit", told, principal="controller:x"))
    judged = judge_late_write(ROOT, write, LIMITS, root.now_ms)
    (found,) = judged.conditions
    assert (found.kind, found.domain, found.subject) == (
        Kind.AUTHORITY_MISMATCH,
        ZONE,
        "controllers/old-control",
    )
    assert "policies/p1 policy 7" in found.words
    assert judged.look_again_ms is not None
    assert judge_late_write(ROOT, write, LIMITS, judged.look_again_ms) == Judgement()
    other = audit_pb2.AuditRecord(action="about superseded.write", details=told.details)
    note = root.submit(lambda p: p.write(ROOT, "audit/x", "audit", other, principal="controller:x"))
    assert judge_late_write(ROOT, note, LIMITS, root.now_ms) == Judgement()
