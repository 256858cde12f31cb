"""Overviews of domains, and their drift as a heat map. Owns these answers; the counts are the columns', and say how
fresh they are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from heapq import nsmallest
from typing import Any

from controller.query.sums import DomainSums, OldestReports, ScopeSums
from controller.replica import Replica
from controller.services.fleet_past import columns_as_of, past
from controller.services.fleet_queries import fill_freshness
from controller.services.fleet_reads import domains_at, path_key
from controller.services.fleet_rules import freshness_of
from controller.services.fleet_sums import sums_of
from controller.services.paging import MAX_PAGE_SIZE, cut, page_of
from controller.twin.connectivity import controller_mode, domain_debt
from controller.twin.facts import set_time
from controller.twin.freshness import Freshness
from souverix.fleet.v1 import fleet_service_pb2, overview_pb2

#: Values shown of a distribution: what an operator reads, and what a reply of a thousand domains can hold.
MAX_VALUES = 32

#: Between two looks of a watch: an operator's eye, and one pass over the counts a second a watcher.
WATCH_INTERVAL_S = 1.0

#: Age at which a watch ends, as of other watches.
MAX_WATCH_AGE_S = 3600.0


async def list_overviews(
    replica: Replica, request: Any
) -> fleet_service_pb2.ListDomainOverviewsResponse:
    """As `FleetService.ListDomainOverviews`, now."""
    page = page_of(request)
    asked = domains_at(replica, request.domain, request.include_subtree)
    found, token = cut(asked, page, lambda domain: path_key(replica.state, domain))
    fresh = await replica.nodes.caught_up()
    freshness = freshness_of(replica)
    reply = fleet_service_pb2.ListDomainOverviewsResponse(
        overviews=_overviews(replica, found, freshness),
        next_page_token=token,
        as_of_time=freshness.oldest(asked),
    )
    fill_freshness(reply.read_model, fresh)
    return reply


async def list_overviews_as_of(
    replica: Replica, request: Any
) -> fleet_service_pb2.ListDomainOverviewsResponse:
    """As `FleetService.ListDomainOverviews`, of a past time: what nodes came to, by the tree of now."""
    page = page_of(request)
    asked = domains_at(replica, request.domain, request.include_subtree)
    found, token = cut(asked, page, lambda domain: path_key(replica.state, domain))
    freshness = past(replica, request)
    below = {domain: replica.nodes.tree.subtree(domain) for domain in found}
    within = dict.fromkeys(each for domains in below.values() for each in domains)
    _, columns = await columns_as_of(replica, asked[0], within, freshness)
    sums = DomainSums(columns, OldestReports(columns), freshness)
    reply = fleet_service_pb2.ListDomainOverviewsResponse(
        next_page_token=token, as_of_time=freshness.oldest(asked)
    )
    for domain in found:
        overview = reply.overviews.add(
            domain=domain,
            parent=_parent_of(replica, domain),
            node_count=sums.of([domain]).sums.nodes,
            as_of_time=freshness.as_of(domain),
        )
        _fill_counts(overview, sums.of(below[domain]), freshness)
    reply.read_model.next_offset = replica.state.next_offset
    return reply


async def watch_overviews(
    replica: Replica, request: Any
) -> AsyncIterator[fleet_service_pb2.WatchDomainOverviewsResponse]:
    """As `FleetService.WatchDomainOverviews`. Times and ages make no step by themselves."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + MAX_WATCH_AGE_S
    shown = b""
    while loop.time() < end_s:
        asked = domains_at(replica, request.domain, request.include_subtree)[:MAX_PAGE_SIZE]
        fresh = await replica.nodes.caught_up()
        freshness = freshness_of(replica)
        overviews = _overviews(replica, asked, freshness)
        present = b"".join(map(_without_ages, overviews))
        if present != shown or not shown:
            shown = present
            reply = fleet_service_pb2.WatchDomainOverviewsResponse(
                overviews=overviews, as_of_time=freshness.oldest(asked)
            )
            fill_freshness(reply.read_model, fresh)
            yield reply
        await asyncio.sleep(WATCH_INTERVAL_S)


async def list_domain_drifts(
    replica: Replica, request: Any
) -> fleet_service_pb2.ListDomainDriftsResponse:
    """As `FleetService.ListDomainDrifts`: parents before children."""
    page = page_of(request)
    asked = domains_at(replica, request.domain, request.include_subtree)
    found, token = cut(asked, page, lambda domain: path_key(replica.state, domain))
    await replica.nodes.caught_up()
    freshness = freshness_of(replica)
    sums = sums_of(replica.nodes, freshness)
    response = fleet_service_pb2.ListDomainDriftsResponse(
        next_page_token=token, as_of_time=freshness.oldest(asked)
    )
    for domain in found:
        response.domains.add(
            domain=domain,
            parent=_parent_of(replica, domain),
            own=sums.of([domain]).drift().message(freshness.now_ms),
            subtree=sums.of(replica.nodes.tree.subtree(domain)).drift().message(freshness.now_ms),
            as_of_time=freshness.as_of(domain),
        )
    return response


def _overviews(
    replica: Replica, domains: Sequence[str], freshness: Freshness
) -> list[overview_pb2.DomainOverview]:
    sums = sums_of(replica.nodes, freshness)
    conflicts = Counter(key.domain for key in replica.state.conflicts.open_keys)
    waiting = replica.connectivity.waiting()
    found = []
    for domain in domains:
        below = replica.nodes.tree.subtree(domain)
        overview = overview_pb2.DomainOverview(
            domain=domain,
            parent=_parent_of(replica, domain),
            node_count=sums.of([domain]).sums.nodes,
            open_conflict_count=sum(conflicts[each] for each in below) if conflicts else 0,
            backlog_message_count=sum(waiting.get(each, 0) for each in below) if waiting else 0,
            mode=controller_mode(domain, freshness),
            sync_debt=domain_debt(domain, freshness),
            as_of_time=freshness.as_of(domain),
        )
        _fill_counts(overview, sums.of(below), freshness)
        found.append(overview)
    return found


def _fill_counts(
    overview: overview_pb2.DomainOverview, scope: ScopeSums, freshness: Freshness
) -> None:
    sums = scope.sums
    overview.subtree_node_count = sums.nodes
    for counts, field, numbers in (
        (overview.modes, "mode", scope.modes),
        (overview.phases, "phase", sums.by("phase")),
        (overview.healths, "health", sums.by("health")),
        (overview.drift_states, "state", sums.by("drift_state")),
        (overview.drift_severities, "severity", sums.by("drift_severity")),
    ):
        for value, count in enumerate(numbers):
            if count:
                counts.add(node_count=count, **{field: value})
    versions: Counter[str] = Counter()
    for (version, _, _), count in sums.distributions["release"].items():
        versions[version] += count
    for distribution, values in (
        (overview.lifecycle_states, sums.distributions["lifecycle_state"]),
        (overview.versions, versions),
        (overview.target_versions, sums.distributions["effective_version"]),
        (overview.policy_bundles, sums.distributions["governing_policy"]),
    ):
        _fill_distribution(distribution, values)
    overview.drift.CopyFrom(scope.drift().message(freshness.now_ms))
    if scope.oldest_report_ms is not None:
        set_time(overview.oldest_report_time, scope.oldest_report_ms)
    overview.unknown_node_count = scope.unknown_nodes
    if scope.unknown_since_ms is not None:
        set_time(overview.unknown_since, scope.unknown_since_ms)
    overview.optimistic_node_count = int(sums.total("optimistic"))
    overview.conflicted_node_count = int(sums.total("conflicted"))


def _fill_distribution(distribution: overview_pb2.Distribution, counts: Mapping[Any, int]) -> None:
    """The most frequent values; the empty one is none."""
    valued = {str(value): count for value, count in counts.items() if value and count > 0}
    shown = nsmallest(MAX_VALUES, valued.items(), key=lambda each: (-each[1], each[0]))
    for value, count in shown:
        distribution.values.add(value=value, node_count=count)
    distribution.other_node_count = sum(valued.values()) - sum(count for _, count in shown)
    distribution.value_count = len(valued)


def _without_ages(overview: overview_pb2.DomainOverview) -> bytes:
    """What makes a step of a watch when it changes."""
    told = overview_pb2.DomainOverview()
    told.CopyFrom(overview)
    for field in ("as_of_time", "sync_debt", "oldest_report_time"):
        told.ClearField(field)
    told.drift.ClearField("stale_by")
    return told.SerializeToString(deterministic=True)


def _parent_of(replica: Replica, domain: str) -> str:
    record = replica.state.authority.records.get(domain)
    return record.parent if record is not None else ""
