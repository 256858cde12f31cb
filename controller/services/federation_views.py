"""The federation as messages: topology, streams, peers. Owns how they are composed; changes nothing."""

from __future__ import annotations

from collections import Counter, defaultdict

from controller.archive.storage import LogStorage
from controller.replica import Replica
from controller.services.fleet_rules import freshness_of
from controller.services.fleet_sums import sums_of
from controller.sync.links import PeerView
from controller.twin.facts import timestamp
from federation.backlog import SyncDebt
from federation.session_phases import Phase
from federation.session_settings import PeerRole
from federation.state import State
from federation.streams import StreamState
from souverix.federation.v1 import federation_service_pb2 as service

_ROLES = {
    PeerRole.PARENT: service.PEER_ROLE_PARENT,
    PeerRole.CHILD: service.PEER_ROLE_CHILD,
}

_STATES = {
    Phase.GREETING: service.PEER_STATE_GREETING,
    Phase.COMPARING: service.PEER_STATE_GREETING,
    Phase.POSITIONING: service.PEER_STATE_GREETING,
    Phase.CLOSED: service.PEER_STATE_DISCONNECTED,
}


def log_storage(held: LogStorage) -> service.LogStorage:
    """What the log takes on disk."""
    return service.LogStorage(
        start_offset=held.start,
        archived_offset=held.archived_to,
        archive_segments=held.segments,
        archive_bytes=held.archive_bytes,
        archived_commit_bytes=held.archived_commit_bytes,
        store_bytes=held.store.file_bytes,
        store_free_bytes=held.store.free_bytes,
    )


def topology(replica: Replica) -> service.GetTopologyResponse:
    """The domains known here, parents before children."""
    state = replica.state
    own = replica.config.controller.domain
    conflicts = Counter(key.domain for key in state.conflicts.open_keys)
    received = _last_received_ms(state)
    freshness = freshness_of(replica)
    sums = sums_of(replica.nodes, freshness)
    response = service.GetTopologyResponse(controller=replica.config.controller.id)
    for domain in _domains(state):
        shown = response.domains.add(
            domain=domain,
            own=domain == own,
            node_count=sums.of([domain]).sums.nodes,
            open_conflicts=conflicts[domain],
        )
        record = state.authority.records.get(domain)
        if record is None:
            continue
        shown.parent = record.parent
        shown.authority.CopyFrom(record)
        shown.term_path.extend(state.authority.term_of(domain))
        if domain != own and record.controller in received:
            shown.last_received_time.CopyFrom(timestamp(received[record.controller]))
        since_ms = freshness.unknown_since_ms(domain)
        if since_ms is not None:
            shown.unknown_since.CopyFrom(timestamp(since_ms))
    return response


def streams(state: State, domain: str) -> service.ListStreamsResponse:
    """How far each stream is held, of one domain or (empty) of all."""
    response = service.ListStreamsResponse()
    for stream in sorted(state.streams):
        if domain and stream.domain != domain:
            continue
        held = state.streams[stream]
        response.streams.add(
            domain=stream.domain,
            controller=stream.origin.controller,
            incarnation=stream.origin.incarnation,
            lane=stream.lane.name.lower(),
            received=held.received,
            applied=held.applied,
            pending_reason=_why_it_waits(held),
            chain_hash=held.chain_hash.hex(),
            quarantined_runs=state.refused_runs(stream)
            + (len(held.waiting) if held.quarantine_reason else 0),
        )
    return response


def peer_state(view: PeerView) -> service.PeerState:
    """The state of a link: in step, or still catching up by the peer's acknowledgements."""
    if view.phase is not Phase.SYNCING:
        return _STATES[view.phase]
    behind = view.debt is not None and view.debt.events > 0
    return service.PEER_STATE_CATCHING_UP if behind else service.PEER_STATE_LIVE


def peer(view: PeerView, now_ms: int) -> service.Peer:
    """One link."""
    message = service.Peer(
        controller=view.controller,
        domain=view.domain,
        role=_ROLES[view.role],
        state=peer_state(view),
        address=view.address,
        last_error=view.last_error,
    )
    if view.last_seen_ms is not None:
        message.last_seen_time.CopyFrom(timestamp(view.last_seen_ms))
    debt = peer_debt(view, now_ms)
    if debt is not None:
        message.debt.CopyFrom(debt)
    if view.skew_ms is not None:
        message.clock_skew.FromMilliseconds(view.skew_ms)
    if view.next_attempt_ms is not None:
        message.next_attempt_time.CopyFrom(timestamp(view.next_attempt_ms))
    return message


def peer_debt(view: PeerView, now_ms: int) -> service.PeerSyncDebt | None:
    """How far a peer is behind; None when that is not known: it has not synced since this replica became master."""
    debt: SyncDebt | None = view.debt
    if debt is None:
        return None
    message = service.PeerSyncDebt(
        backlog_events=debt.events,
        backlog_messages=debt.by_kind.get("message", 0),
        backlog_config_updates=debt.by_kind.get("config", 0),
        backlog_policy_updates=debt.by_kind.get("policy", 0),
        backlog_version_updates=debt.by_kind.get("version", 0),
        rate_events_per_s=debt.rate_events_per_s,
    )
    message.behind.FromMilliseconds(debt.behind_ms)
    if debt.estimated_duration_ms is not None:
        message.estimated_duration.FromMilliseconds(debt.estimated_duration_ms)
        message.replay_eta.CopyFrom(timestamp(now_ms + debt.estimated_duration_ms))
    if view.last_level_ms is not None:
        message.last_sync_time.CopyFrom(timestamp(view.last_level_ms))
    return message


def _domains(state: State) -> list[str]:
    """Ids in tree order; then those of which events were received but no record yet."""
    records = state.authority.records
    children: dict[str, list[str]] = defaultdict(list)
    for domain in sorted(records):
        parent = records[domain].parent
        children[parent if parent in records else ""].append(domain)
    found = list(children[""])
    for at in found:
        found.extend(children.get(at, ()))
    return found + sorted({stream.domain for stream in state.streams} - records.keys())


def _last_received_ms(state: State) -> dict[str, int]:
    """Per controller, when the last event of any of its streams was committed here."""
    latest: dict[str, int] = {}
    for stream, held in state.streams.items():
        time_ms = held.index.time_ms_of(held.received)
        if time_ms is not None:
            controller = stream.origin.controller
            latest[controller] = max(latest.get(controller, 0), time_ms)
    return latest


def _why_it_waits(held: StreamState) -> str:
    if held.quarantine_reason:
        return held.quarantine_reason
    return held.waiting_reason if held.waiting else ""
