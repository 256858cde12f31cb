"""What came into effect, or was refused, without anyone asking here, and must be found in the audit log: late writes
of superseded masters, and runs in quarantine. Owns the count of what is not audited yet; writes nothing.

It is a fold of the log as the state is: facts are counted when their commit is applied, and taken off when the audit
entry that tells of them is. So a master that takes over knows what its predecessor left unsaid.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from federation.state import Applied, State
from souverix.audit.v1 import audit_pb2
from souverix.checkpoint.v1 import checkpoint_pb2

SUPERSEDED_WRITE = "superseded.write"
RUN_QUARANTINED = "run.quarantined"

#: Kinds of facts told apart; beyond it they are counted together. A healthy federation has none, and a hostile peer
#: that invents streams must not fill memory or log.
MAX_FACTS = 256


class Fact(NamedTuple):
    """What is counted together, and told by one audit entry."""

    action: str
    domain: str
    #: Controller whose write or run it was.
    controller: str
    #: Why, UPPER_SNAKE.
    reason: str


@dataclass(slots=True)
class Tally:
    """How often, and the last of them as an example."""

    count: int
    example: str


class ObservedFacts:
    """Facts that no audit entry tells of yet, by kind."""

    def __init__(self, state: State) -> None:
        self.untold: dict[Fact, Tally] = {}
        self._state = state

    def take_note(self, applied: Applied) -> None:
        """Follows one commit. Of late writes only those count whose domain this controller is master-of-record of:
        the others' masters tell of theirs.
        """
        for item in applied.audits:
            if item.stream.origin.controller == self._state.controller:
                self._take_off(item.write.body())
        for key, write in applied.superseded:
            record = self._state.authority.records.get(key.domain)
            if record is not None and record.master_of_record == self._state.controller:
                controller = write.origin.controller
                fact = Fact(SUPERSEDED_WRITE, key.domain, controller, "TERM_SUPERSEDED")
                self._count(fact, f"{key.subject} {key.aspect} {write.sequence}")
        for stream, reason in applied.quarantined:
            fact = Fact(RUN_QUARANTINED, stream.domain, stream.origin.controller, reason)
            self._count(fact, f"{stream.lane.name.lower()} lane")

    def records(self, most: int) -> list[audit_pb2.AuditRecord]:
        """Audit records for what is not told yet, at most so many; each stands for all facts of its kind."""
        return [
            audit_pb2.AuditRecord(
                principal=f"controller:{self._state.controller}",
                action=fact.action,
                resource=f"domains/{fact.domain}",
                source=f"controller:{fact.controller}" if fact.controller else "",
                outcome=audit_pb2.AUDIT_OUTCOME_OBSERVED,
                reason=fact.reason,
                suppressed_count=tally.count,
                details={
                    "domain": fact.domain,
                    "controller": fact.controller,
                    "last": tally.example,
                },
            )
            for fact, tally in islice(self.untold.items(), most)
        ]

    def stored(self) -> bytes:
        """As `Fold.stored`."""
        facts = [
            checkpoint_pb2.UntoldFact(**fact._asdict(), count=tally.count, example=tally.example)
            for fact, tally in self.untold.items()
        ]
        return checkpoint_pb2.UntoldFacts(facts=facts).SerializeToString()

    def restore(self, data: bytes) -> None:
        """As `Fold.restore`."""
        for each in checkpoint_pb2.UntoldFacts.FromString(data).facts:
            fact = Fact(each.action, each.domain, each.controller, each.reason)
            self.untold[fact] = Tally(each.count, each.example)

    def _count(self, fact: Fact, example: str) -> None:
        if fact not in self.untold and len(self.untold) >= MAX_FACTS:
            fact = Fact(fact.action, "", "", "MANY_STREAMS")
        tally = self.untold.setdefault(fact, Tally(0, example))
        tally.count += 1
        tally.example = example

    def _take_off(self, record: audit_pb2.AuditRecord) -> None:
        if record.action not in (SUPERSEDED_WRITE, RUN_QUARANTINED):
            return
        details = record.details
        fact = Fact(record.action, details["domain"], details["controller"], record.reason)
        tally = self.untold.get(fact)
        if tally is not None:
            tally.count -= record.suppressed_count
            if tally.count <= 0:
                del self.untold[fact]
