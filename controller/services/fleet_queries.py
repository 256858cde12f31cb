"""Which nodes a list or a watch asks for, and lists of them, answered from the columns. Owns the meaning of these
requests; filters and orders are `controller/query`'s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from controller.query.conditions import (
    Filter,
    Mask,
    all_of,
    at_least,
    one_of,
    with_tags,
    with_text,
    within,
)
from controller.query.filter import compile_filter
from controller.query.likeness import UNKNOWN_FIELDS
from controller.query.live import ViewFreshness
from controller.query.moment import ALL_ROWS, Moment
from controller.query.ordering import next_rows, parse_order, place_of, read_place
from controller.query.summary import NEVER, NodeSummary
from controller.replica import Replica
from controller.services.fleet_fields import check_id, check_time
from controller.services.fleet_masks import apply_read_mask, check_mask
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import freshness_of
from controller.services.paging import page_of
from controller.twin.drift import duration
from controller.twin.facts import Facts, set_time
from controller.twin.freshness import Freshness
from controller.twin.node import fill_node, find_node
from federation.errors import InvalidWrite
from souverix.fleet.v1 import drift_pb2, fleet_service_pb2, node_pb2

#: Words, modes or phases in one filter.
MAX_FILTER_VALUES = 64


class NodeQuery:
    """Which nodes a list or a watch asks for. Raises `InvalidWrite`, `NotFound` for what no query may be."""

    def __init__(self, replica: Replica, request: Any) -> None:
        self.domain: str = check_id(request.domain or replica.config.controller.domain, "domain")
        self._replica = replica
        self._include_subtree = request.include_subtree
        check_domain(replica.state, self.domain)
        check_mask(request.read_mask, node_pb2.Node, "read_mask")
        self.shows_drift = wants_drift(request.read_mask)
        self._fits = all_of(_conditions(request))

    def domains(self) -> list[str]:
        """The domains asked for."""
        if self._include_subtree:
            return self._replica.nodes.tree.subtree(self.domain)
        return [self.domain]

    def holds(self, domain: str) -> bool:
        """Tells whether a node of this domain is asked for."""
        if domain == self.domain:
            return True
        return self._include_subtree and self._replica.state.authority.is_within(
            domain, self.domain
        )

    def matching(self, at: Moment) -> Mask:
        """The rows of the nodes asked for."""
        within_scope = at.columns.in_domains(set(self.domains()))
        found: Mask = within_scope & self._fits(at, ALL_ROWS)
        return found

    def fits(self, at: Moment, row: int) -> bool:
        """Tells whether the node of a row fits, wherever it lives."""
        return bool(self._fits(at, np.array([row]))[0])


class NodePage:
    """The page of nodes that a request asks for. Raises `InvalidWrite` for an order or a token that is none."""

    def __init__(self, wanted: NodeQuery, request: Any) -> None:
        self._wanted = wanted
        self._read_mask = request.read_mask
        self._order = parse_order(request.order_by)
        self._page = page_of(request)
        self._after = read_place(self._page.after, self._order) if self._page.after else None

    def answer(
        self,
        facts: Facts,
        at: Moment,
        freshness: Freshness,
        finish: Callable[[node_pb2.Node], None] = lambda node: None,
    ) -> fleet_service_pb2.ListNodesResponse:
        """The page, by columns that were made of these facts; `finish` is given each node before it is masked."""
        fitting = self._wanted.matching(at)
        rows = next_rows(at, fitting, self._order, self._after, self._page.size + 1).tolist()
        reply = fleet_service_pb2.ListNodesResponse(
            total_size=int(np.count_nonzero(fitting)),
            as_of_time=freshness.oldest(self._wanted.domains()),
        )
        if len(rows) > self._page.size:
            rows.pop()
            place = place_of(at, rows[-1], self._order)
            reply.next_page_token = self._page.token(json.dumps(place))
        for row in rows:
            node = _compose(facts, at, row, freshness, shows_drift=self._wanted.shows_drift)
            if node is not None:
                finish(node)
                reply.nodes.append(apply_read_mask(self._read_mask, node))
        return reply


async def list_nodes(replica: Replica, request: Any) -> fleet_service_pb2.ListNodesResponse:
    """As `FleetService.ListNodes`, now."""
    wanted = NodeQuery(replica, request)
    page = NodePage(wanted, request)
    fresh = await replica.nodes.caught_up()
    freshness = freshness_of(replica)
    at = moment_of(replica, freshness, wanted.domains())
    reply = page.answer(replica.state, at, freshness)
    fill_freshness(reply.read_model, fresh)
    return reply


def moment_of(replica: Replica, freshness: Freshness, domains: list[str]) -> Moment:
    """The columns as they read now, for answers about some domains."""
    since = {domain: freshness.unknown_since_ms(domain) for domain in domains}
    return Moment(
        replica.nodes.columns,
        freshness.now_ms,
        {domain: since_ms for domain, since_ms in since.items() if since_ms is not None},
    )


def drift_message(summary: NodeSummary, now_ms: int) -> drift_pb2.Drift:
    """A node's drift without details."""
    drift = drift_pb2.Drift(
        state=summary.drift_state,  # type: ignore[arg-type]
        score=summary.drift_score,
        objects_out_of_spec=summary.drift_objects,
        severity=summary.drift_severity,  # type: ignore[arg-type]
        waived_objects=summary.drift_waived,
        unknown_fields=[
            name for bit, name in enumerate(UNKNOWN_FIELDS) if summary.drift_unknown >> bit & 1
        ],
    )
    set_time(drift.last_evaluated_time, now_ms)
    if summary.report_ms != NEVER:
        set_time(drift.last_sync_time, summary.report_ms)
        drift.stale_by.CopyFrom(duration(max(0, now_ms - summary.report_ms)))
    return drift


def fill_freshness(field: fleet_service_pb2.ReadModelFreshness, fresh: ViewFreshness) -> None:
    """How far the columns were behind, as clients see it."""
    field.next_offset = fresh.next_offset
    field.pending_node_count = fresh.pending


def wants_drift(mask: Any) -> bool:
    """Tells whether a read of nodes needs their drift."""
    return not mask.paths or any(path.partition(".")[0] in ("*", "drift") for path in mask.paths)


def _compose(
    facts: Facts, at: Moment, row: int, freshness: Freshness, *, shows_drift: bool
) -> node_pb2.Node | None:
    """The twin of a row; None where it has gone since the row was read."""
    node_at = find_node(facts, f"nodes/{at.columns.ids.id_of(row)}")
    summary = at.columns.summary(row)
    if node_at is None or summary is None:
        return None
    node = node_pb2.Node()
    fill_node(node, facts, node_at, freshness)
    if shows_drift:
        node.drift.CopyFrom(drift_message(summary, freshness.now_ms))
    return node


def _conditions(request: Any) -> list[Filter]:
    """What a request asks of a node, beside its domain. Raises `InvalidWrite`."""
    for name in ("tags", "modes", "phases", "drift_states"):
        if len(getattr(request, name)) > MAX_FILTER_VALUES:
            raise InvalidWrite(f"{name} holds more than {MAX_FILTER_VALUES} values", field=name)
    if not 0 <= request.min_drift_score < math.inf:
        raise InvalidWrite(
            "min_drift_score is negative or no number; leave it out for any",
            field="min_drift_score",
        )
    found = []
    if request.tags:
        found.append(with_tags(frozenset(request.tags)))
    for name, column in (("modes", "mode"), ("phases", "phase"), ("drift_states", "drift_state")):
        if getattr(request, name):
            found.append(one_of(column, getattr(request, name)))
    if request.policy_bundle:
        found.append(with_text("policy_bundle", request.policy_bundle))
    if request.min_drift_score:
        found.append(at_least("drift_score", request.min_drift_score))
    if "update_time_start" in request.DESCRIPTOR.fields_by_name:
        start, end = (
            check_time(request, "update_time_start"),
            check_time(request, "update_time_end"),
        )
        if start is not None or end is not None:
            found.append(within("update_ms", start, end))
    if request.filter:
        found.append(compile_filter(request.filter))
    return found
