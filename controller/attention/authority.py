"""When masters contradict each other: open conflicts, rival authority, late writes of superseded masters, transfers
that do not end. Owns these judgements over the state of one log.
"""

from __future__ import annotations

from typing import Final

from controller.attention.conditions import Condition, Judgement, Kind, Severity
from controller.attention.rules import Limits
from controller.twin.facts import effective_ms
from federation.clock import wall_ms_of
from federation.codec import Write
from federation.identifiers import Key
from federation.state import State
from souverix.audit.v1 import audit_pb2

#: Aspects whose rivals decide more than a value: where a node lives, what governs many. Others are of low severity.
CONFLICT_SEVERITIES: Final = {
    "placement": Severity.HIGH,
    "existence": Severity.HIGH,
    "policy": Severity.MEDIUM,
    "desired_state": Severity.MEDIUM,
    "lifecycle": Severity.MEDIUM,
}

#: Audit action that tells of a late write of a superseded master (`controller.observed`).
SUPERSEDED_WRITE = "superseded.write"


def judge_conflict(state: State, key: Key) -> Judgement:
    """Whether rivals stand in a key, and are recorded: before, nobody could name them."""
    conflict_id = state.conflicts.open_keys.get(key)
    recorded = state.conflicts.recorded.get(conflict_id) if conflict_id is not None else None
    if conflict_id is None or recorded is None:
        return Judgement()
    writers = sorted({write.origin.controller for write in state.siblings(key)})
    kind, severity = Kind.CONFLICT_OPEN, CONFLICT_SEVERITIES.get(key.aspect, Severity.LOW)
    step = f"souverixctl conflicts show {conflict_id}"
    words = (
        f"{' and '.join(writers)} wrote {key.aspect} of {key.subject} without seeing each other; "
        "one value is in force"
    )
    if key.aspect == "authority":
        kind, severity = Kind.AUTHORITY_MISMATCH, Severity.CRITICAL
        masters = sorted({write.body().master_of_record for write in state.siblings(key)})
        winner = state.winner(key)
        ruling = winner.body().master_of_record if winner is not None else ""
        words = f"{' and '.join(masters)} were each declared master-of-record; {ruling} rules"
        step = f"souverixctl describe authority {key.domain}"
    since_ms = wall_ms_of(recorded[1].stamp)
    return Judgement(
        (
            Condition(
                kind,
                key.domain,
                f"conflicts/{conflict_id}",
                severity,
                since_ms,
                words,
                step,
                nodes=int(key.subject.startswith("nodes/")),
            ),
        )
    )


def judge_transfer(state: State, domain: str, limits: Limits, now_ms: int) -> Judgement:
    """Whether a planned transfer of a domain's authority hangs."""
    record = state.authority.records.get(domain)
    key = Key(domain, f"domains/{domain}", "authority")
    write = state.winner(key)
    if record is None or write is None or not record.next_master:
        return Judgement()
    since_ms = effective_ms(state, key, write)
    due_ms = since_ms + int(limits.transfer_pending_after_s * 1000)
    if now_ms < due_ms:
        return Judgement(look_again_ms=due_ms)
    condition = Condition(
        Kind.AUTHORITY_TRANSFER_PENDING,
        domain,
        key.subject,
        Severity.MEDIUM,
        since_ms,
        f"{record.master_of_record} has not handed over to {record.next_master}; meanwhile nobody writes",
        f"souverixctl authority transfer {domain} --to {record.next_master} --force --reason TEXT",
        nodes=0,
    )
    return Judgement((condition,))


def judge_late_write(domain: str, write: Write, limits: Limits, now_ms: int) -> Judgement:
    """What an audit entry tells of a superseded master that wrote on; for a time, since nothing else ends it."""
    record: audit_pb2.AuditRecord = write.body()
    since_ms = wall_ms_of(write.stamp)
    end_ms = since_ms + int(limits.outcome_shown_for_s * 1000)
    controller = record.details["controller"]
    if record.action != SUPERSEDED_WRITE or not controller or now_ms >= end_ms:
        return Judgement()
    at = record.details["domain"] or domain
    condition = Condition(
        Kind.AUTHORITY_MISMATCH,
        at,
        f"controllers/{controller}",
        Severity.MEDIUM,
        since_ms,
        f"{controller} wrote under a term that was over, last {record.details['last']}: it took itself for the master",
        f"souverixctl describe authority {at}",
        nodes=0,
    )
    return Judgement((condition,), end_ms)
