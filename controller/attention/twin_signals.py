"""What is known of nodes, read from the twins' facts. Owns the reading of them as signals; judges nothing.

Made for one slice of work and then dropped: policies along a domain's path are looked up once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from controller.attention.conditions import Severity
from controller.attention.nodes import AttestationSignal, DriftSignal, NodeSignals, WaiverSignal
from controller.attestation.policy import expected_in
from controller.attestation.record import failure_words, state_at, state_in
from controller.attestation.states import Integrity
from controller.connectivity.spectrum import Mode
from controller.lifecycle.stages import stage_of
from controller.supply.gate import Gate
from controller.twin.drift import WEIGHTS, DriftAnalyzer, NodeDrift
from controller.twin.effective import effective_state, policies_of_node
from controller.twin.facts import Facts, body_of, effective_ms
from controller.twin.node import NodeAt, find_node
from federation.codec import Write
from federation.identifiers import Key
from federation.scan import Scan
from federation.state import State
from souverix.fleet.v1 import lifecycle_pb2, node_pb2, return_pb2
from souverix.supply.v1 import artifact_pb2
from souverix.trust.v1 import attestation_pb2

#: Changes of connectivity looked at: more than any window asks for makes no difference.
RECENT_CHANGES = 32

_MODES = frozenset(Mode)


class NodeHistories(Protocol):
    """What nodes went through."""

    def of(self, subject: str, aspect: str) -> list[Write]:
        """The transitions of a subject's aspect, in order."""


class TwinSignals:
    """Signals from the state of one log (`NodeSource`). Changes of connectivity are looked up where the last one is not
    older than `flap_window_s`: they may have to be read from a disk.
    """

    def __init__(
        self, state: State, histories: NodeHistories, flap_window_s: float, now_ms: int
    ) -> None:
        self._state = state
        #: In passing: that a node is looked at is no reason to keep it in memory.
        self._facts: Facts = Scan(state)
        self._histories = histories
        self._flaps_from_ms = now_ms - int(flap_window_s * 1000)
        self._analyzer = DriftAnalyzer(self._facts, now_ms)
        self._gate = Gate(self._facts, now_ms)

    def signals(self, subject: str, now_ms: int) -> NodeSignals | None:
        """What is known of a node; None for one that does not exist."""
        at = find_node(self._facts, subject)
        if at is None:
            return None
        domain = at.home.domain
        mode, mode_since_ms, mode_words, backlog = self._connectivity(domain, subject)
        lifecycle_key = Key(domain, subject, "lifecycle")
        lived = self._facts.winner(lifecycle_key)
        lifecycle: lifecycle_pb2.LifecycleState = (
            lived.body() if lived is not None else lifecycle_pb2.LifecycleState()
        )
        stage_since_ms = lifecycle.last_transition_time.ToMilliseconds()
        if lived is not None and not lifecycle.HasField("last_transition_time"):
            stage_since_ms = effective_ms(self._facts, lifecycle_key, lived)
        report_key = Key(domain, subject, "actual_state")
        reported = self._facts.winner(report_key)
        report: node_pb2.ActualState = (
            reported.body() if reported is not None else node_pb2.ActualState()
        )
        drift = self._analyzer.drift_of(at)
        health = report.runtime.health
        has_end = lifecycle.HasField("expire_time")
        refused_ms, refused_words = self._refused(domain, subject)
        runs, wants = self._unverified(domain, subject, report.reported_version)
        return NodeSignals(
            subject=subject,
            domain=domain,
            mode=mode,
            mode_since_ms=mode_since_ms,
            mode_words=mode_words,
            backlog=backlog,
            mode_changes_ms=(
                self._mode_changes(domain, subject) if mode_since_ms > self._flaps_from_ms else ()
            ),
            stage=stage_of(lifecycle),
            stage_since_ms=stage_since_ms,
            stage_reason=lifecycle.reason,
            exit_condition=lifecycle.exit_condition,
            stage_end_ms=lifecycle.expire_time.ToMilliseconds() if has_end else None,
            degraded=health == node_pb2.RUNTIME_HEALTH_DEGRADED,
            failed=health == node_pb2.RUNTIME_HEALTH_FAILED,
            health_reason=report.runtime.health_reason,
            report_ms=drift.report_ms,
            node_clock_ms=(
                report.report_time.ToMilliseconds() if report.HasField("report_time") else None
            ),
            drift=self._drift(at, drift, report),
            waiver=_next_to_end(drift),
            refused_ms=refused_ms,
            refused_words=refused_words,
            claimed_twice_ms=self._claimed_twice_ms(subject) if at.home.disputed else None,
            attestation=self._attestation(domain, subject, now_ms),
            runs_unverified=runs,
            wants_unverified=wants,
        )

    def _unverified(self, domain: str, subject: str, reported: str) -> tuple[str, str]:
        """What the node runs and what it is to run that no verified artifact stands for, in words."""
        gate = self._gate
        if gate.mode(domain) <= artifact_pb2.GATE_MODE_OFF:
            return "", ""
        spec = body_of(self._facts, Key(domain, subject, "node_spec"))
        component = spec.component_type if spec is not None else ""
        along = self._analyzer.policies_along(domain)
        effective = effective_state(self._facts, domain, subject, along, gate)
        wanted = [*sorted(effective.held_back.values()), effective.desired.target_version]
        told = []
        for version in (reported, next((v for v in wanted if v), "")):
            standing = gate.standing(domain, version, component) if version else None
            told.append(standing.words if standing is not None and not standing.is_verified else "")
        return told[0], told[1]

    def _attestation(self, domain: str, subject: str, now_ms: int) -> AttestationSignal | None:
        recorded = body_of(self._facts, Key(domain, subject, "attestation"))
        expected = expected_in(self._facts, domain)
        if (
            recorded is None
            or not expected.is_anything
            or expected.on_failure < attestation_pb2.FAILURE_ACTION_ATTENTION
        ):
            return None
        state = state_at(recorded, now_ms)
        if state is Integrity.VERIFIED:
            return None
        since = recorded.since if state is state_in(recorded) else recorded.expire_time
        words = failure_words(recorded) if state is Integrity.FAILED else state.name
        return AttestationSignal(state is Integrity.FAILED, since.ToMilliseconds(), words)

    def _refused(self, domain: str, subject: str) -> tuple[int | None, str]:
        key = Key(domain, subject, "return_incident")
        write = self._facts.winner(key)
        if write is None:
            return None, ""
        incident: return_pb2.ReturnIncident = write.body()
        if incident.HasField("resolve_time"):
            return None, ""
        kind = return_pb2.IncidentKind.Name(incident.kind).removeprefix("INCIDENT_KIND_")
        since_ms = (
            incident.time.ToMilliseconds()
            if incident.HasField("time")
            else effective_ms(self._facts, key, write)
        )
        return since_ms, f"{kind}, {incident.evidence}"

    def _connectivity(self, domain: str, subject: str) -> tuple[Mode, int, str, int]:
        key = Key(domain, subject, "link_state")
        write = self._facts.winner(key)
        if write is None:
            return Mode.UNKNOWN, 0, "", 0
        link = write.body()
        since_ms = (
            link.since.ToMilliseconds()
            if link.HasField("since")
            else effective_ms(self._facts, key, write)
        )
        mode = Mode(link.mode) if link.mode in _MODES else Mode.UNKNOWN
        told = ", ".join(part for part in (link.reason, link.evidence) if part)
        return mode, since_ms, told or "no reason was recorded", link.backlog_messages

    def _mode_changes(self, domain: str, subject: str) -> Sequence[int]:
        key = Key(domain, subject, "link_state")
        return [
            effective_ms(self._facts, key, write)
            for write in self._histories.of(subject, "link_state")[-RECENT_CHANGES:]
        ]

    def _drift(
        self, at: NodeAt, drift: NodeDrift, report: node_pb2.ActualState
    ) -> DriftSignal | None:
        if not drift.objects:
            return None
        worst_first = sorted(drift.objects, key=lambda each: (-each.severity, each.field))
        severity = worst_first[0].severity
        return DriftSignal(
            # An unspecified severity weighs nothing as drift, and is to be known all the same.
            Severity(max(severity, Severity.LOW)),
            drift.score,
            WEIGHTS.get(severity, 0.0),
            len(drift.objects),
            tuple(each.field for each in worst_first),
            self._drift_since_ms(at, drift, report),
        )

    def _drift_since_ms(self, at: NodeAt, drift: NodeDrift, report: node_pb2.ActualState) -> int:
        """Since when the drift can stand, by facts that do not move with every report: what governs the node was
        declared, and the node last applied something.
        """
        facts, domain, subject = self._facts, at.home.domain, at.subject
        keys = [Key(domain, subject, "desired_state")]
        along = self._analyzer.policies_along(domain)
        keys += [
            Key(each.domain, f"policies/{each.policy}", "policy")
            for each in policies_of_node(facts, domain, subject, along)
        ]
        times = [
            effective_ms(facts, key, write)
            for key in keys
            if (write := facts.winner(key)) is not None
        ]
        reported_ms = drift.report_ms or 0
        if report.HasField("last_applied_time"):
            # By the node's own clock, which may be wrong: never after its report took effect.
            times.append(min(reported_ms, report.last_applied_time.ToMilliseconds()))
        return max(times, default=reported_ms)

    def _claimed_twice_ms(self, subject: str) -> int:
        placements = [
            effective_ms(self._facts, key, write)
            for domain in self._state.domains_of_subject.get(subject, ())
            if (write := self._facts.winner(key := Key(domain, subject, "placement"))) is not None
        ]
        return max(placements, default=0)


def _next_to_end(drift: NodeDrift) -> WaiverSignal | None:
    """The waiver that ends first, of those whose drift stands."""
    ends = [
        (waiver.expire_time.ToMilliseconds(), waiver.field, waiver.reason)
        for _, waiver in drift.waived
    ]
    if not ends:
        return None
    expire_ms, field, reason = min(ends)
    return WaiverSignal(field, expire_ms, reason)
