"""What is recorded of a node once evidence came: the next value of its attestation, and the move of its lifecycle that
follows. Owns when something is worth an event; times come in as milliseconds since the epoch.

A change of state or of what is wrong is an event. While nothing changes there is one now and then, so that the age of
the evidence is known everywhere: it is renewed once half of the time that it counts is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from controller.attestation.policy import Expected
from controller.attestation.statement import Measurements
from controller.attestation.states import Evidence, Integrity, moved
from controller.attestation.verdict import KEY, Finding
from controller.lifecycle.stages import TRANSITIONS, Transition, stage_of
from controller.lifecycle.transitions import Asked
from souverix.fleet.v1 import lifecycle_pb2
from souverix.trust.v1 import attestation_pb2

#: Part of the time a verification counts after which it is recorded anew.
RENEWED_AFTER: Final = 0.5

#: Parts shown with all findings of a node together: a fact is no listing of a host, and has a bound.
MAX_PARTS_SHOWN: Final = 64

#: Findings named in a reason.
MAX_NAMED: Final = 3

#: What must hold before a node that was quarantined for its attestation is released.
EXIT_CONDITION: Final = "it is verified again, or somebody overrides that with a reason"

_STATES: Final[frozenset[int]] = frozenset(Integrity)


@dataclass(frozen=True, slots=True)
class Came:
    """Evidence that came for one node: `said` is what its statement says, None where there is none."""

    evidence: Evidence
    said: Measurements | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is to be written. `is_news`: the state is another, or something else is wrong."""

    attestation: attestation_pb2.NodeAttestation
    is_news: bool


def state_in(entry: attestation_pb2.NodeAttestation) -> Integrity:
    """The state that was recorded; one that this version does not know is UNKNOWN."""
    return Integrity(entry.state) if entry.state in _STATES else Integrity.UNKNOWN


def state_at(recorded: attestation_pb2.NodeAttestation | None, now_ms: int) -> Integrity:
    """Where a node stands: what was recorded, unless that has run out since."""
    if recorded is None:
        return Integrity.NEVER_ATTESTED
    state = state_in(recorded)
    if state is Integrity.VERIFIED and now_ms >= recorded.expire_time.ToMilliseconds():
        return moved(state, Evidence.AGED)
    return state


def verified_ms(recorded: attestation_pb2.NodeAttestation | None, now_ms: int) -> int | None:
    """When a node was last verified, if that still counts."""
    if recorded is None or state_at(recorded, now_ms) is not Integrity.VERIFIED:
        return None
    return recorded.last_verified_time.ToMilliseconds()


def next_record(
    recorded: attestation_pb2.NodeAttestation | None,
    came: Came,
    expected: Expected,
    now_ms: int,
    verifier: str,
    demand_ms: int | None,
) -> Recorded | None:
    """What is to be recorded; None where all that would be said is known. `demand_ms`: the demand that is answered."""
    before = state_at(recorded, now_ms)
    if came.evidence is Evidence.AGED and before is not Integrity.EXPIRED:
        return None
    after = moved(before, came.evidence)
    old = recorded if recorded is not None else attestation_pb2.NodeAttestation()
    entry = attestation_pb2.NodeAttestation()
    entry.CopyFrom(old)
    entry.verifier = verifier
    if came.said is not None:
        _fill_statement(entry, came, now_ms)
        if demand_ms is not None:
            entry.demand_time.CopyFrom(_timestamp(demand_ms))
    if came.evidence in _JUDGED:
        _fill_findings(entry, came)
    if came.evidence is Evidence.HOLDS:
        entry.last_verified_time.CopyFrom(_timestamp(now_ms))
        entry.expire_time.CopyFrom(_timestamp(now_ms + expected.max_age_ms))
        if not entry.HasField("initial_time"):
            entry.initial_time.CopyFrom(_timestamp(now_ms))
    # What ran out without being recorded so has moved all the same.
    has_moved = after is not before or after is not state_in(old)
    is_news = has_moved or _wrong(entry) != _wrong(old)
    entry.renewal = not is_news
    if is_news:
        if has_moved:
            entry.previous_state = int(before if after is not before else state_in(old))  # type: ignore[assignment]
            entry.since.CopyFrom(_timestamp(now_ms))
        entry.state = int(after)  # type: ignore[assignment]
        entry.reason = _reason(came)
    is_answer = came.said is not None and demand_ms is not None
    measured_anew = entry.measurements_digest != old.measurements_digest
    if is_news or is_answer or measured_anew or _is_old(old, came, expected, now_ms):
        return Recorded(entry, is_news)
    return None


def quarantine(
    entry: attestation_pb2.NodeAttestation,
    lifecycle: lifecycle_pb2.LifecycleState | None,
    expected: Expected,
    *,
    is_fresh: bool,
    principal: str,
) -> Asked | None:
    """The move that a failure asks for, where the domain has it so and the node is not isolated already.

    `is_fresh`: the failure is news, or was demanded. One that was known does not undo an operator's override.
    """
    if not is_fresh or state_in(entry) is not Integrity.FAILED:
        return None
    if expected.on_failure < attestation_pb2.FAILURE_ACTION_QUARANTINE:
        return None
    if (stage_of(lifecycle), Transition.QUARANTINE) not in TRANSITIONS:
        return None
    return Asked(
        Transition.QUARANTINE,
        f"attestation failed: {failure_words(entry)}",
        exit_condition=EXIT_CONDITION,
        decided_by=principal,
        requires_attestation=True,
    )


def failure_words(entry: attestation_pb2.NodeAttestation) -> str:
    """What is wrong, in a few words."""
    words = [Finding(each.register, each.reason).words for each in entry.findings[:MAX_NAMED]]
    more = len(entry.findings) - MAX_NAMED
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")


#: Evidence by which what is wrong is known anew.
_JUDGED: Final = frozenset({Evidence.HOLDS, Evidence.CONTRADICTS})


def _is_old(
    old: attestation_pb2.NodeAttestation, came: Came, expected: Expected, now_ms: int
) -> bool:
    """Tells whether a verification is to be recorded for its age alone, or since it counts for less long now."""
    if came.evidence is not Evidence.HOLDS:
        return False
    age_ms = now_ms - old.last_verified_time.ToMilliseconds()
    runs_out_ms = old.expire_time.ToMilliseconds()
    return age_ms >= expected.max_age_ms * RENEWED_AFTER or (
        runs_out_ms > now_ms + expected.max_age_ms
    )


def _reason(came: Came) -> str:
    match came.evidence:
        case Evidence.HOLDS:
            return "AS_EXPECTED"
        case Evidence.CONTRADICTS:
            only_key = [each.register for each in came.findings] == [KEY]
            return "OTHER_KEY" if only_key else "MEASUREMENTS_DIFFER"
        case Evidence.NOT_JUDGED:
            return "NOTHING_EXPECTED"
        case Evidence.SILENT:
            return "NO_ANSWER"
        case Evidence.AGED:
            return "TOO_OLD"


def _fill_statement(entry: attestation_pb2.NodeAttestation, came: Came, now_ms: int) -> None:
    said = came.said
    if said is None:
        return
    del entry.registers[:]
    for name, value in sorted(said.registers.items()):
        entry.registers.add(register=name, value=value)
    entry.measurements_digest = said.digest
    entry.statement_time.CopyFrom(_timestamp(now_ms))
    entry.ClearField("node_time")
    if said.node_ms is not None:
        entry.node_time.CopyFrom(_timestamp(said.node_ms))
    entry.scheme, entry.public_key, entry.run = said.scheme, said.public_key, said.run


def _fill_findings(entry: attestation_pb2.NodeAttestation, came: Came) -> None:
    del entry.findings[:]
    left = MAX_PARTS_SHOWN
    for finding in came.findings:
        message = entry.findings.add(
            register=finding.register,
            reason=finding.reason,
            measured=finding.measured,
            expected=finding.expected,
        )
        parts = came.said.parts_of(finding.register) if came.said is not None else []
        for name, digest in parts[:left]:
            message.parts.add(name=name, digest=digest)
        left -= len(message.parts)


def _wrong(entry: attestation_pb2.NodeAttestation) -> list[tuple[str, int, str]]:
    return [(each.register, each.reason, each.measured) for each in entry.findings]


def _timestamp(wall_ms: int) -> Timestamp:
    return Timestamp(seconds=wall_ms // 1000, nanos=wall_ms % 1000 * 1_000_000)
