from __future__ import annotations

from controller.observed import MAX_FACTS, RUN_QUARANTINED, ObservedFacts
from federation.codec import Write
from federation.identifiers import Lane, Origin, StreamId
from federation.state import Applied, AuditItem
from souverix.audit.v1 import audit_pb2
from souverix.event.v1 import event_pb2
from tests.federation_fixture import root_controller


def stream_of(number: int) -> StreamId:
    return StreamId(f"d{number}", Origin("stranger", 1), Lane.STATE)


def audit_item(controller: str, record: audit_pb2.AuditRecord) -> AuditItem:
    origin = Origin(controller, 1)
    raw = event_pb2.Event(audit=record).SerializeToString()
    write = Write(origin, 1, 0, "audit/x", "audit", (), (), "", "", False, (), raw)
    return AuditItem(StreamId("global", origin, Lane.AUDIT), write.sequence, write.raw)


def test_facts_are_untold_until_this_controllers_own_audit_entry_is_applied() -> None:
    state = root_controller().state
    facts = ObservedFacts(state)
    facts.take_note(Applied(1, quarantined=[(stream_of(1), "SEAL_INVALID")] * 3))
    [record] = facts.records(10)
    assert (record.suppressed_count, record.action) == (3, RUN_QUARANTINED)

    facts.take_note(Applied(2, audits=[audit_item("someone-else", record)]))
    assert facts.records(10) == [record]
    late = Applied(3, quarantined=[(stream_of(1), "SEAL_INVALID")])
    late.audits.append(audit_item(state.controller, record))
    facts.take_note(late)
    assert [r.suppressed_count for r in facts.records(10)] == [1]


def test_invented_streams_are_counted_together_beyond_a_bound() -> None:
    facts = ObservedFacts(root_controller().state)
    for number in range(MAX_FACTS + 50):
        facts.take_note(Applied(number, quarantined=[(stream_of(number), "CHAIN_MISMATCH")]))
    assert len(facts.untold) == MAX_FACTS + 1
    rest = facts.records(MAX_FACTS + 1)[-1]
    assert (rest.reason, rest.suppressed_count) == ("MANY_STREAMS", 50)


def test_what_is_untold_outlasts_a_restart() -> None:
    facts = ObservedFacts(root_controller().state)
    facts.take_note(Applied(1, quarantined=[(stream_of(1), "SEAL_INVALID")] * 3))
    again = ObservedFacts(root_controller().state)
    again.restore(facts.stored())
    assert again.untold == facts.untold
    assert again.records(10) == facts.records(10)
