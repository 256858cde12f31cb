"""When something is the matter between controllers, or in what one sees of others: links, clocks, streams, backlogs
of nodes, callers with revoked certificates. Owns these judgements; an item belongs to the domain of the controller that
sees it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from controller.attention.conditions import Condition, Judgement, Kind, Severity
from controller.attention.rules import Limits
from controller.revocation.knocks import Knock
from controller.twin.hops import Hop, link_key, recorded_down_since_ms, speakers
from federation.bounds import STREAM_SEALED
from federation.state import State
from souverix.federation.v1 import authority_pb2, peer_link_pb2

#: Intervals without a session after which one that comes at intervals is overdue: one may be missed.
OVERDUE_INTERVALS = 2.0

#: Interval of a session that comes at intervals unless the strategy says otherwise (seed 4: 15m).
DEFAULT_PERIOD_MS = 900_000

#: Modes in which a session always stands.
CONTINUOUS: Final = (authority_pb2.SYNC_MODE_UNSPECIFIED, authority_pb2.SYNC_MODE_CONTINUOUS)


@dataclass(frozen=True, slots=True)
class PeerSignals:
    """What a controller sees of one it is linked with."""

    controller: str
    #: Age of the oldest event it has not acknowledged, and how many there are.
    behind_ms: int = 0
    events: int = 0
    skew_ms: int | None = None


@dataclass(frozen=True, slots=True)
class BacklogSignal:
    """Reports that wait at a linked node."""

    node: str
    domain: str
    reports: int
    #: When nothing waited for the last time.
    level_ms: int


def judge_hop(state: State, own_domain: str, domain: str, now_ms: int) -> Judgement:
    """Whether the link between a domain's controller and the one above is down, by the record of the end that is nearer
    to the controller of `own_domain`. The item belongs to the domain of that end.
    """
    chain = speakers(state.authority, domain)
    record = state.authority.records.get(domain)
    if len(chain) < 2 or chain[-1][0] != domain or record is None:
        return Judgement()
    (above, parent), (_, controller) = chain[-2:]
    upwards = state.authority.is_within(own_domain, domain)
    hop = Hop(controller, parent, domain) if upwards else Hop(parent, controller, domain)
    since_ms = recorded_down_since_ms(state, hop)
    if since_ms is None:
        return Judgement()
    due_ms = since_ms + _patience_ms(record)
    if now_ms < due_ms:
        return Judgement(look_again_ms=None if math.isinf(due_ms) else int(due_ms))
    link = state.winner(link_key(hop))
    told = link.body() if link is not None else peer_link_pb2.PeerLink()
    words = ", ".join(part for part in (told.reason, told.evidence) if part)
    nodes = 0
    if not upwards:
        subjects = state.table.subjects
        below = state.authority.subtree_of(domain)
        nodes = sum(len(subjects.get((at, "nodes"), ())) for at in below)
    condition = Condition(
        Kind.CONTROLLER_CUT_OFF,
        domain if upwards else above,
        f"controllers/{hop.far}",
        Severity.HIGH,
        since_ms,
        f"{hop.near} cannot reach {hop.far}: {words or 'no reason was recorded'}",
        "souverixctl federation status",
        nodes=nodes,
    )
    return Judgement((condition,))


def judge_peer(peer: PeerSignals, domain: str, limits: Limits, now_ms: int) -> list[Condition]:
    """What is the matter with a link, as a controller of `domain` sees it."""
    subject = f"controllers/{peer.controller}"
    found = []
    behind_s = peer.behind_ms / 1000
    if peer.events >= limits.controller_backlog or behind_s >= limits.controller_behind_s:
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
                nodes=0,
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
    for stream, held in state.streams.items():
        refused = state.refused_runs(stream) if state.evidence else 0
        quarantined = held.quarantine_reason not in ("", STREAM_SEALED) or refused > 0
        if not (held.waiting or quarantined):
            continue
        lane = stream.lane.name.lower()
        writer = f"{stream.origin.controller}/{stream.origin.incarnation}"
        subject = f"streams/{stream.domain}/{writer}/{lane}"
        first_ms = held.index.time_ms_of(held.applied + 1)
        if quarantined:
            last_ms = held.index.time_ms_of(held.received)
            why = held.quarantine_reason or "runs were refused and are kept as evidence"
            yield Condition(
                Kind.STREAM_QUARANTINED,
                domain,
                subject,
                Severity.CRITICAL if held.quarantine_reason else Severity.HIGH,
                first_ms or last_ms or now_ms,
                f"what {stream.origin.controller} wrote of {stream.domain} is in quarantine: {why}",
                f"souverixctl federation held --domain {stream.domain}",
                extent=_rough(refused + len(held.waiting)),
                nodes=0,
            )
        elif first_ms is not None and now_ms - first_ms >= patience_ms:
            yield Condition(
                Kind.STREAM_WAITING,
                domain,
                subject,
                Severity.MEDIUM,
                first_ms,
                f"what {stream.origin.controller} wrote of {stream.domain} waits: {held.waiting_reason}",
                f"souverixctl federation held --domain {stream.domain}",
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


def judge_knock(knock: Knock, domain: str) -> Condition:
    """Somebody who calls a controller of `domain` with a certificate that was revoked."""
    kind, _, name = knock.principal.partition(":")
    return Condition(
        Kind.REVOKED_CALLER,
        domain,
        f"{kind}s/{name}",
        Severity.HIGH,
        knock.first_ms,
        f"{knock.principal} goes on calling: {knock.words}",
        f"souverixctl certificate revocations --domain {knock.domain}",
        nodes=1 if kind == "node" else 0,
    )


def _rough(extent: float) -> float:
    """The power of two below: what grows a little with every look is no news."""
    return 2.0 ** math.floor(math.log2(extent)) if extent > 1 else 1.0


def _patience_ms(record: authority_pb2.AuthorityRecord) -> float:
    """How long a controller may be without its parent before that is news, in milliseconds; in manual mode for ever."""
    mode = record.sync.mode
    if mode == authority_pb2.SYNC_MODE_MANUAL:
        return math.inf
    if mode in CONTINUOUS:
        return 0.0
    period_ms = record.sync.frequency.ToMilliseconds() or DEFAULT_PERIOD_MS
    return OVERDUE_INTERVALS * period_ms
