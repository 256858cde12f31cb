"""How a node is connected, as a view: the last recorded transition, what is measured now, and its sync debt. Owns their
composition; measures nothing.

What is recorded is only shown as the present while whoever records it can be reached. Of a node whose controller is cut
off from here nothing is known but what it was last, and since when that may be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from controller.connectivity.measurements import Measured
from controller.twin.facts import Facts, body_of, timestamp
from controller.twin.freshness import Freshness
from federation.codec import Write
from federation.identifiers import Key
from souverix.fleet.v1 import connectivity_pb2, node_pb2

_LINKED = (
    connectivity_pb2.CONNECTIVITY_MODE_LIVE,
    connectivity_pb2.CONNECTIVITY_MODE_DELAYED,
)
_BEHIND = (
    connectivity_pb2.CONNECTIVITY_MODE_RETURNING,
    connectivity_pb2.CONNECTIVITY_MODE_REPLAYING,
)


def mode_now(
    facts: Facts, domain: str, subject: str, freshness: Freshness
) -> connectivity_pb2.ConnectivityMode:
    """The mode of a node as far as it is known now; unspecified where it is not."""
    if freshness.unknown_since_ms(domain) is not None:
        return connectivity_pb2.CONNECTIVITY_MODE_UNSPECIFIED
    link = body_of(facts, Key(domain, subject, "link_state"))
    mode: connectivity_pb2.ConnectivityMode = (
        link.mode if link is not None else connectivity_pb2.CONNECTIVITY_MODE_UNSPECIFIED
    )
    return mode


def controller_mode(domain: str, freshness: Freshness) -> connectivity_pb2.ConnectivityMode:
    """Connectivity of a domain's controller, seen from here: one that is cut off goes on by itself."""
    reachable = freshness.reachable(domain)
    if reachable is None:
        return connectivity_pb2.CONNECTIVITY_MODE_UNSPECIFIED
    if reachable:
        return connectivity_pb2.CONNECTIVITY_MODE_LIVE
    return connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS


def domain_debt(domain: str, freshness: Freshness) -> connectivity_pb2.SyncDebt | None:
    """How far a domain is behind here, in time; None for one that this controller serves, or of which nothing came."""
    reachable, as_of = freshness.reachable(domain), freshness.as_of(domain)
    if reachable is None or as_of is None:
        return None
    since_ms = freshness.unknown_since_ms(domain)
    synced_ms = freshness.now_ms if since_ms is None else since_ms
    debt = connectivity_pb2.SyncDebt(
        last_sync_time=timestamp(synced_ms),
        as_of_time=timestamp(freshness.now_ms),
        replay_required=not reachable,
    )
    debt.behind.FromMilliseconds(max(0, freshness.now_ms - synced_ms))
    return debt


def compose_connectivity(
    node_id: str, domain: str, winners: Mapping[str, Write], freshness: Freshness
) -> connectivity_pb2.Connectivity | None:
    """The view of one node, from its facts by aspect; None when nothing was ever heard of it."""
    write = winners.get("link_state")
    if write is None:
        return None
    link: connectivity_pb2.LinkState = write.body()
    view = connectivity_pb2.Connectivity()
    unknown_since_ms = freshness.unknown_since_ms(domain)
    if unknown_since_ms is not None:
        view.last_known.CopyFrom(link)
        view.unknown_since.CopyFrom(timestamp(unknown_since_ms))
        view.last_known_age.FromMilliseconds(max(0, freshness.now_ms - unknown_since_ms))
        _fill_debt(view, link, None, unknown_since_ms, freshness)
    else:
        view.link.CopyFrom(link)
        measured = freshness.measured(node_id)
        if measured is not None:
            _fill_measured(view, measured, freshness)
        _fill_debt(view, link, measured, freshness.as_of_ms(domain), freshness)
    _fill_updates(view.sync_debt.backlog, winners)
    return view


def _fill_measured(
    view: connectivity_pb2.Connectivity, measured: Measured, freshness: Freshness
) -> None:
    if measured.last_seen_s is not None:
        view.last_seen_time.CopyFrom(freshness.wall_time(measured.last_seen_s))
    if measured.rtt_s is not None:
        view.quality.rtt.FromMicroseconds(int(measured.rtt_s * 1_000_000))
    if measured.expected_s is not None:
        view.return_eta.CopyFrom(freshness.wall_time(measured.expected_s))


def _fill_debt(
    view: connectivity_pb2.Connectivity,
    link: connectivity_pb2.LinkState,
    measured: Measured | None,
    as_of_ms: int | None,
    freshness: Freshness,
) -> None:
    """The debt (seed 2): complete up to when, how far behind, what waits, and how long it takes."""
    debt = view.sync_debt
    now_ms = freshness.now_ms
    debt.as_of_time.CopyFrom(timestamp(now_ms))
    waiting = link.backlog_messages if measured is None else measured.backlog
    known = view.HasField("link")
    level = known and link.mode in _LINKED and not waiting
    synced = _last_sync(link, measured, as_of_ms, freshness, level=level)
    if synced is not None:
        view.last_sync_time.CopyFrom(synced)
        debt.last_sync_time.CopyFrom(synced)
        behind_ms = 0 if level else max(0, now_ms - synced.ToMilliseconds())
        debt.behind.FromMilliseconds(behind_ms)
    debt.backlog.messages = waiting
    debt.replay_required = known and link.mode in _BEHIND
    if measured is None or not measured.replay_total:
        return
    debt.replayed_messages = measured.replay_done
    if measured.replay_per_s:
        remaining = measured.replay_total - measured.replay_done
        duration_ms = int(remaining / measured.replay_per_s * 1000)
        debt.estimated_duration.CopyFrom(_span(duration_ms))
        debt.replay_eta.CopyFrom(timestamp(now_ms + duration_ms))


def _last_sync(
    link: connectivity_pb2.LinkState,
    measured: Measured | None,
    as_of_ms: int | None,
    freshness: Freshness,
    *,
    level: bool,
) -> Timestamp | None:
    """When what the node had to say was last complete here."""
    if measured is not None and measured.level_s is not None:
        return freshness.wall_time(measured.level_s)
    if level and as_of_ms is not None:
        return timestamp(as_of_ms)
    away = link.mode not in (*_LINKED, *_BEHIND)
    if link.HasField("last_seen_time") and away and not link.backlog_messages:
        return link.last_seen_time
    return None


def _fill_updates(backlog: connectivity_pb2.SyncBacklog, winners: Mapping[str, Write]) -> None:
    """What was declared for this one node and is not in force there yet, by its last report.

    A node that says nothing of the policy in force may follow the declared one: nothing of it is counted.
    """
    declared, reported = winners.get("desired_state"), winners.get("actual_state")
    desired: node_pb2.DesiredState = declared.body() if declared else node_pb2.DesiredState()
    actual: node_pb2.ActualState = reported.body() if reported else node_pb2.ActualState()
    backlog.config_updates = int(
        bool(desired.config_hash) and desired.config_hash != actual.config_hash
    )
    backlog.policy_updates = int(
        bool(desired.policy_bundle)
        and bool(actual.policy_bundle)
        and desired.policy_bundle != actual.policy_bundle
    )
    backlog.version_updates = int(
        bool(desired.target_version) and desired.target_version != actual.reported_version
    )


def _span(milliseconds: int) -> Duration:
    span = Duration()
    span.FromMilliseconds(milliseconds)
    return span
