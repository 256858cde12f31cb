"""When something is the matter with what a controller sees of others: links, clocks, streams, nodes that two agents
speak for. Owns these judgements; all of them belong to the domain of the controller that sees it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from controller.attention.conditions import Condition, Kind, Severity
from controller.attention.rules import Limits
from federation.state import State
from souverix.federation.v1 import authority_pb2

#: Intervals without a session after which one that comes at intervals is overdue: one may be missed.
OVERDUE_INTERVALS = 2.0

#: Interval of a periodic session unless the strategy says otherwise (`controller.sync.dialer`).
DEFAULT_PERIOD_S = 900.0

_MANUAL: Final = authority_pb2.SYNC_MODE_MANUAL
_CONTINUOUS: Final = (authority_pb2.SYNC_MODE_UNSPECIFIED, authority_pb2.SYNC_MODE_CONTINUOUS)


@dataclass(frozen=True, slots=True)
class PeerSignals:
    """What a controller sees of one it should be linked with. Times are milliseconds since the epoch."""

    controller: str
    #: Nodes that are reached by way of it.
    nodes: int
    is_parent: bool
    linked: bool
    #: When it was last heard; None: never by this process.
    last_seen_ms: int | None
    #: How it syncs, and every how many seconds; 0: by the mode's default.
    mode: int = authority_pb2.SYNC_MODE_CONTINUOUS
    frequency_s: float = 0.0
    behind_ms: int = 0
    events: int = 0
    skew_ms: int | None = None
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class BacklogSignal:
    """Reports that wait at a linked node."""

    node: str
    domain: str
    reports: int
    #: When nothing waited for the last time.
    level_ms: int


@dataclass(frozen=True, slots=True)
class DuplicateSignal:
    """A node's id with which two agents greet."""

    node: str
    domain: str
    first_ms: int
    #: Where the refused agent called from last.
    host: str


def judge_peer(peer: PeerSignals, domain: str, limits: Limits, now_ms: int) -> list[Condition]:
    """What is the matter with a link, as a controller of `domain` sees it."""
    subject = f"controllers/{peer.controller}"
    found = []
    away_ms = now_ms - (peer.last_seen_ms or 0)
    if not peer.linked and peer.last_seen_ms is not None and away_ms >= _patience_ms(peer, limits):
        what = "the parent's controller" if peer.is_parent else "the controller below"
        why = f": {peer.last_error}" if peer.last_error else ""
        found.append(
            Condition(
                Kind.CONTROLLER_CUT_OFF,
                domain,
                subject,
                Severity.HIGH,
                peer.last_seen_ms,
                f"{what} cannot be reached{why}",
                "souverixctl federation peers",
                nodes=peer.nodes,
            )
        )
    behind_s = peer.behind_ms / 1000
    if peer.linked and (
        peer.events >= limits.controller_backlog or behind_s >= limits.controller_behind_s
    ):
        found.append(
            Condition(
                Kind.CONTROLLER_SYNC_DEBT,
                domain,
                subject,
                Severity.MEDIUM,
                now_ms - peer.behind_ms,
                "it is linked, and far behind this controller by its acknowledgements",
                "souverixctl federation peers",
                extent=_rough(
                    max(
                        peer.events / max(1, limits.controller_backlog),
                        behind_s / max(1.0, limits.controller_behind_s),
                    )
                ),
                nodes=peer.nodes,
            )
        )
    if peer.skew_ms is not None and abs(peer.skew_ms) > limits.controller_clock_off_s * 1000:
        direction = "ahead of" if peer.skew_ms > 0 else "behind"
        found.append(
            Condition(
                Kind.CONTROLLER_CLOCK_OFF,
                domain,
                subject,
                Severity.MEDIUM,
                now_ms,
                f"its clock is {direction} this controller's by more than {limits.controller_clock_off_s:g} s",
                "souverixctl federation peers",
                nodes=0,
            )
        )
    return found


def judge_streams(state: State, domain: str, limits: Limits, now_ms: int) -> Iterator[Condition]:
    """Streams that are held in quarantine, of which runs were refused, or that wait for a key or a grant."""
    patience_ms = limits.stream_waits_after_s * 1000
    for stream in sorted(state.streams):
        held = state.streams[stream]
        lane = stream.lane.name.lower()
        writer = f"{stream.origin.controller}/{stream.origin.incarnation}"
        subject = f"streams/{stream.domain}/{writer}/{lane}"
        first_ms = held.index.time_ms_of(held.applied + 1)
        if held.quarantine_reason or held.quarantined_runs:
            last_ms = held.index.time_ms_of(held.received)
            why = held.quarantine_reason or "runs were refused and are kept as evidence"
            yield Condition(
                Kind.STREAM_QUARANTINED,
                domain,
                subject,
                Severity.CRITICAL if held.quarantine_reason else Severity.HIGH,
                first_ms or last_ms or now_ms,
                f"what {stream.origin.controller} wrote of {stream.domain} is in quarantine: {why}",
                f"souverixctl federation streams --domain {stream.domain}",
                extent=_rough(held.quarantined_runs),
                nodes=0,
            )
        elif held.waiting and first_ms is not None and now_ms - first_ms >= patience_ms:
            yield Condition(
                Kind.STREAM_WAITING,
                domain,
                subject,
                Severity.MEDIUM,
                first_ms,
                f"what {stream.origin.controller} wrote of {stream.domain} waits: {held.waiting_reason}",
                f"souverixctl federation streams --domain {stream.domain}",
                nodes=0,
            )


def judge_backlog(signal: BacklogSignal, limits: Limits) -> Condition:
    """A linked node at which much waits."""
    return Condition(
        Kind.NODE_SYNC_DEBT,
        signal.domain,
        f"nodes/{signal.node}",
        Severity.MEDIUM,
        signal.level_ms,
        f"linked, with at least {limits.node_backlog} reports that have not arrived",
        f"souverixctl describe node {signal.node}",
        extent=_rough(signal.reports / max(1, limits.node_backlog)),
    )


def judge_duplicate(signal: DuplicateSignal) -> Condition:
    """A node for which two agents speak: one of them is a copy, or an impostor."""
    return Condition(
        Kind.NODE_DUPLICATE_AGENT,
        signal.domain,
        f"nodes/{signal.node}",
        Severity.HIGH,
        signal.first_ms,
        f"a second agent greets with its id, last from {signal.host}; it is refused",
        f"souverixctl describe node {signal.node}",
    )


def _rough(extent: float) -> float:
    """The power of two below: what grows a little with every look is no news."""
    return 2.0 ** math.floor(math.log2(extent)) if extent > 1 else 1.0


def _patience_ms(peer: PeerSignals, limits: Limits) -> float:
    """How long a link may be down before that is news; a manual one for ever."""
    if peer.mode == _MANUAL:
        return float("inf")
    if peer.mode in _CONTINUOUS:
        return limits.controller_cut_off_after_s * 1000
    return OVERDUE_INTERVALS * (peer.frequency_s or DEFAULT_PERIOD_S) * 1000
