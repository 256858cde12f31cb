"""When something is the matter with a node. Owns the judgement; what is known of a node comes in by the port
`NodeSource`, from the twins' facts or from columns of a read model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from controller.attention.conditions import Condition, Judgement, Kind, Severity
from controller.attention.rules import Limits
from controller.connectivity.spectrum import Mode
from controller.lifecycle.stages import MAINTENANCE, Stage

_DECOMMISSIONING: Final = (Stage.DECOMMISSIONING_GRACEFUL, Stage.DECOMMISSIONING_EMERGENCY)

#: Stages in which somebody works on the node, or it has left: that it drifts or is away is no news.
NOT_IN_SERVICE: Final = frozenset({*MAINTENANCE, *_DECOMMISSIONING, Stage.UPDATE, Stage.RETIRED})

#: Fields named in words.
NAMED_FIELDS = 3


@dataclass(frozen=True, slots=True)
class DriftSignal:
    """That a node drifts."""

    severity: Severity
    #: Sum of the weights of what differs, and the weight of the worst.
    score: float
    worst_weight: float
    objects: int
    #: Some of the fields that differ, the worst first.
    fields: tuple[str, ...]
    #: When what governs the node was declared, or the node last applied something, whichever was later.
    since_ms: int


@dataclass(frozen=True, slots=True)
class WaiverSignal:
    """A waiver whose drift stands."""

    field: str
    expire_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class AttestationSignal:
    """That a node which must attest is not verified. `failed`: what it measures contradicts what is expected."""

    failed: bool
    since_ms: int
    words: str


@dataclass(frozen=True, slots=True)
class NodeSignals:
    """What is known of one node. Times are milliseconds since the epoch; a mode or stage comes with when it began."""

    subject: str
    domain: str
    mode: Mode = Mode.UNKNOWN
    mode_since_ms: int = 0
    #: Why it has this mode, in words.
    mode_words: str = ""
    #: Reports that waited at the node when it entered the mode.
    backlog: int = 0
    #: When its mode changed lately, in order.
    mode_changes_ms: Sequence[int] = ()
    stage: Stage = Stage.PROVISIONING
    stage_since_ms: int = 0
    stage_reason: str = ""
    exit_condition: str = ""
    #: When the maintenance ends.
    stage_end_ms: int | None = None
    #: By the node's own report: it says that it is degraded, or has failed.
    degraded: bool = False
    failed: bool = False
    health_reason: str = ""
    #: When the last report took effect, and when the node made it by its own clock; None: it never reported.
    report_ms: int | None = None
    node_clock_ms: int | None = None
    drift: DriftSignal | None = None
    waiver: WaiverSignal | None = None
    #: When a second domain claimed it; None: none does.
    claimed_twice_ms: int | None = None
    #: When an agent was refused that spoke for it, and why; None: none was, or it was put right.
    refused_ms: int | None = None
    refused_words: str = ""
    #: None: it is verified, or nothing is expected of it, or its domain has nothing follow.
    attestation: AttestationSignal | None = None
    #: What it runs, and what it is to run, that no verified artifact stands for; empty: nothing, or its gate is off.
    runs_unverified: str = ""
    wants_unverified: str = ""


class NodeSource(Protocol):
    """What is known of nodes."""

    def signals(self, subject: str, now_ms: int) -> NodeSignals | None:
        """What is known of a node now; None for one that does not exist."""


def judge_node(node: NodeSignals, limits: Limits, now_ms: int) -> Judgement:
    """What is the matter with a node."""
    found: list[Condition] = []
    later: list[int] = []
    _judge_lifecycle(node, limits, now_ms, found, later)
    if node.stage not in NOT_IN_SERVICE:
        _judge_connectivity(node, limits, now_ms, found, later)
        if node.stage is not Stage.QUARANTINED:
            _judge_health(node, found)
            _judge_drift(node, found)
        _judge_supply_chain(node, now_ms, found)
        _judge_waiver(node, limits, now_ms, found, later)
        _judge_clock(node, limits, found)
    if node.claimed_twice_ms is not None:
        found.append(
            _condition(
                node,
                Kind.NODE_CLAIMED_TWICE,
                Severity.HIGH,
                node.claimed_twice_ms,
                "two domains claim it: its id was given twice while controllers were cut off from each other",
                f"souverixctl describe {_named(node)}",
            )
        )
    _judge_attestation(node, found)
    if node.refused_ms is not None:
        found.append(
            _condition(
                node,
                Kind.NODE_AGENT_REFUSED,
                Severity.HIGH,
                node.refused_ms,
                f"an agent that spoke for it was refused: {node.refused_words}",
                f"souverixctl describe {_named(node)}",
            )
        )
    return Judgement(tuple(found), min((at for at in later if at > now_ms), default=None))


def _judge_lifecycle(
    node: NodeSignals, limits: Limits, now_ms: int, found: list[Condition], later: list[int]
) -> None:
    name = node.subject.partition("/")[2]
    match node.stage:
        case Stage.QUARANTINED:
            found.append(
                _condition(
                    node,
                    Kind.NODE_QUARANTINED,
                    Severity.HIGH,
                    node.stage_since_ms,
                    f"in quarantine: {node.stage_reason or 'no reason was given'}"
                    + (f"; to leave it: {node.exit_condition}" if node.exit_condition else ""),
                    f"souverixctl lifecycle {name} release-from-quarantine --reason TEXT",
                )
            )
        case Stage.MAINTENANCE_SCHEDULED | Stage.MAINTENANCE_UNSCHEDULED:
            if node.stage_end_ms is None:
                return
            later.append(node.stage_end_ms)
            if now_ms >= node.stage_end_ms:
                found.append(
                    _condition(
                        node,
                        Kind.MAINTENANCE_OVERDUE,
                        Severity.MEDIUM,
                        node.stage_end_ms,
                        "its maintenance is over by its time, and its controller has not ended it",
                        f"souverixctl lifecycle {name} leave-maintenance",
                    )
                )
        case Stage.UPDATE:
            stuck_ms = node.stage_since_ms + _ms(limits.update_stuck_after_s)
            later.append(stuck_ms)
            if now_ms >= stuck_ms:
                found.append(
                    _condition(
                        node,
                        Kind.UPDATE_STUCK,
                        Severity.MEDIUM,
                        node.stage_since_ms,
                        f"updating for longer than {_span(limits.update_stuck_after_s)}",
                        f"souverixctl describe {_named(node)}",
                    )
                )
        case stage if stage in _DECOMMISSIONING:
            stuck_ms = node.stage_since_ms + _ms(limits.decommission_stuck_after_s)
            later.append(stuck_ms)
            if now_ms >= stuck_ms:
                found.append(
                    _condition(
                        node,
                        Kind.DECOMMISSION_STUCK,
                        Severity.LOW,
                        node.stage_since_ms,
                        f"leaving service for longer than {_span(limits.decommission_stuck_after_s)}",
                        f"souverixctl history {name} --lifecycle",
                    )
                )


def _judge_connectivity(
    node: NodeSignals, limits: Limits, now_ms: int, found: list[Condition], later: list[int]
) -> None:
    name = node.subject.partition("/")[2]
    waiting = f"; {node.backlog} reports waited at it" if node.backlog else ""
    match node.mode:
        case Mode.AUTONOMOUS:
            found.append(
                _condition(
                    node,
                    Kind.NODE_AUTONOMOUS,
                    Severity.MEDIUM,
                    node.mode_since_ms,
                    f"cut off, working on by itself: {node.mode_words}{waiting}",
                    f"souverixctl history {name} --connectivity",
                )
            )
        case Mode.DISCONNECTED:
            found.append(
                _condition(
                    node,
                    Kind.NODE_DISCONNECTED,
                    Severity.HIGH,
                    node.mode_since_ms,
                    f"disconnected: {node.mode_words}{waiting}",
                    f"souverixctl history {name} --connectivity",
                )
            )
        case Mode.RETURNING | Mode.REPLAYING:
            stuck_ms = node.mode_since_ms + _ms(limits.return_stuck_after_s)
            later.append(stuck_ms)
            if now_ms >= stuck_ms:
                found.append(
                    _condition(
                        node,
                        Kind.NODE_RETURN_STUCK,
                        Severity.MEDIUM,
                        node.mode_since_ms,
                        f"{node.mode.name} for longer than {_span(limits.return_stuck_after_s)}"
                        f"{waiting}",
                        f"souverixctl describe {_named(node)}",
                        extent=float(max(1, node.backlog)),
                    )
                )
    window_ms = _ms(limits.flap_window_s)
    lately = [at for at in node.mode_changes_ms if now_ms - window_ms < at]
    if len(lately) >= limits.flaps:
        later.append(lately[-limits.flaps] + window_ms)
        found.append(
            _condition(
                node,
                Kind.NODE_FLAPPING,
                Severity.MEDIUM,
                lately[0],
                f"its connectivity has changed {limits.flaps} times or more within {_span(limits.flap_window_s)}",
                f"souverixctl history {name} --connectivity",
            )
        )


def _judge_health(node: NodeSignals, found: list[Condition]) -> None:
    by_lifecycle = node.stage is Stage.DEGRADED
    if not (node.degraded or node.failed or by_lifecycle):
        return
    told = node.health_reason if node.degraded or node.failed else node.stage_reason
    word = "FAILED" if node.failed else "DEGRADED"
    since_ms = node.report_ms if node.report_ms is not None else node.stage_since_ms
    found.append(
        _condition(
            node,
            Kind.NODE_UNHEALTHY,
            Severity.HIGH if node.failed else Severity.MEDIUM,
            min(since_ms, node.stage_since_ms) if by_lifecycle else since_ms,
            f"health {word}: {told or 'no reason was given'}",
            f"souverixctl describe {_named(node)}",
        )
    )


def _judge_drift(node: NodeSignals, found: list[Condition]) -> None:
    drift = node.drift
    if drift is None:
        return
    named = ", ".join(drift.fields[:NAMED_FIELDS])
    more = f" and {drift.objects - NAMED_FIELDS} more" if drift.objects > NAMED_FIELDS else ""
    found.append(
        _condition(
            node,
            Kind.NODE_DRIFT,
            drift.severity,
            drift.since_ms,
            f"differs from what is desired in {named}{more}; drift score {drift.score:g}",
            f"souverixctl drift {node.subject.partition('/')[2]}",
            extent=max(1.0, drift.score / drift.worst_weight) if drift.worst_weight else 1.0,
        )
    )


def _judge_waiver(
    node: NodeSignals, limits: Limits, now_ms: int, found: list[Condition], later: list[int]
) -> None:
    waiver = node.waiver
    if waiver is None:
        return
    notice_ms = waiver.expire_ms - _ms(limits.waiver_notice_s)
    later += [notice_ms, waiver.expire_ms]
    if notice_ms <= now_ms < waiver.expire_ms:
        name = node.subject.partition("/")[2]
        found.append(
            _condition(
                node,
                Kind.WAIVER_EXPIRING,
                Severity.LOW,
                notice_ms,
                f"the waiver of {waiver.field} ({waiver.reason}) ends within {_span(limits.waiver_notice_s)}, and the "
                "drift it accepts stands",
                f"souverixctl drift waive {name} {waiver.field} --reason TEXT --for 30d",
            )
        )


def _judge_supply_chain(node: NodeSignals, now_ms: int, found: list[Condition]) -> None:
    """What a node runs weighs more than what it is only told to run."""
    words = [
        f"{verb}: {told}"
        for verb, told in (("runs", node.runs_unverified), ("is to run", node.wants_unverified))
        if told
    ]
    if words:
        found.append(
            _condition(
                node,
                Kind.SUPPLY_CHAIN_VIOLATION,
                Severity.HIGH if node.runs_unverified else Severity.MEDIUM,
                now_ms,
                f"what it {'; '.join(words)}",
                "souverixctl artifact list",
            )
        )


def _judge_attestation(node: NodeSignals, found: list[Condition]) -> None:
    """Whoever works on a node may have changed it: a failure is told all the same, for nobody else would."""
    signal, name = node.attestation, node.subject.partition("/")[2]
    if signal is None or node.stage is Stage.RETIRED:
        return
    if signal.failed:
        found.append(
            _condition(
                node,
                Kind.ATTESTATION_FAILED,
                Severity.HIGH,
                signal.since_ms,
                f"its measurements contradict what is expected: {signal.words}",
                f"souverixctl attestation show {name}",
            )
        )
    elif node.stage not in NOT_IN_SERVICE:
        found.append(
            _condition(
                node,
                Kind.ATTESTATION_MISSING,
                Severity.MEDIUM,
                signal.since_ms,
                f"it must attest, and is not verified: {signal.words}",
                f"souverixctl attestation attest {name} --wait",
            )
        )


def _judge_clock(node: NodeSignals, limits: Limits, found: list[Condition]) -> None:
    if node.report_ms is None or node.node_clock_ms is None:
        return
    ahead_s = (node.node_clock_ms - node.report_ms) / 1000
    if -limits.node_clock_behind_s <= ahead_s <= limits.node_clock_ahead_s:
        return
    direction = "ahead of" if ahead_s > 0 else "behind"
    found.append(
        _condition(
            node,
            Kind.NODE_CLOCK_OFF,
            Severity.LOW,
            node.report_ms,
            f"its clock is far {direction} its controller's",
            f"souverixctl get observations {node.subject.partition('/')[2]}",
        )
    )


def _condition(
    node: NodeSignals,
    kind: Kind,
    severity: Severity,
    since_ms: int,
    words: str,
    next_step: str,
    extent: float = 1.0,
) -> Condition:
    return Condition(kind, node.domain, node.subject, severity, since_ms, words, next_step, extent)


def _named(node: NodeSignals) -> str:
    return f"node {node.subject.partition('/')[2]}"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _span(seconds: float) -> str:
    """A span in its largest whole unit: "15m", "7d"."""
    for unit, size_s in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size_s and seconds % size_s == 0:
            return f"{seconds / size_s:g}{unit}"
    return f"{seconds:g}s"
