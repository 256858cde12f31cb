"""Nodes as this controller knew them at a past time. Owns these answers and how many nodes one may be about; reading
the past is `node_past`'s.

The nodes of a list are summarised anew, as they were, into columns of their own: filters, orders, pages and counts mean
the same as now.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from controller.errors import ServiceError
from controller.query.columns import NodeColumns
from controller.query.moment import Moment
from controller.query.summary import summarise
from controller.replica import Replica
from controller.services.fleet_fields import id_in_name
from controller.services.fleet_masks import apply_read_mask, check_mask
from controller.services.fleet_queries import NodePage, NodeQuery, wants_drift
from controller.services.fleet_reads import whole_node
from controller.services.node_past import PastFacts, facts_at, past_time_ms
from controller.twin.authority import fill_authority
from controller.twin.drift import DriftAnalyzer
from controller.twin.freshness import Freshness
from controller.twin.node import find_node
from federation.errors import NotFound
from federation.identifiers import Key
from souverix.fleet.v1 import fleet_service_pb2, node_pb2

#: Nodes a list of the past may have to look at: a zone, and some tenths of a second beside reading the log.
MAX_PAST_NODES = 2_000


async def get_node_as_of(replica: Replica, request: Any) -> fleet_service_pb2.GetNodeResponse:
    """As `FleetService.GetNode`, of a past time."""
    subject = f"nodes/{id_in_name(request.name, 'nodes')}"
    check_mask(request.read_mask, node_pb2.Node, "read_mask")
    freshness = past(replica, request)
    facts = await facts_at(replica, [subject], freshness.now_ms)
    if find_node(facts, subject) is None:
        raise NotFound(
            f"{subject} was not known here at that time, or was deleted", subject=subject
        )
    node = whole_node(facts, subject, freshness, with_drift=wants_drift(request.read_mask))
    _make_past(node, facts)
    return fleet_service_pb2.GetNodeResponse(node=apply_read_mask(request.read_mask, node))


async def list_nodes_as_of(replica: Replica, request: Any) -> fleet_service_pb2.ListNodesResponse:
    """As `FleetService.ListNodes`, of a past time."""
    wanted = NodeQuery(replica, request)
    page = NodePage(wanted, request)
    freshness = past(replica, request)
    facts, columns = await columns_as_of(replica, wanted.domain, wanted.domains(), freshness)
    moment = Moment(columns, freshness.now_ms, {})
    reply = page.answer(facts, moment, freshness, lambda node: _make_past(node, facts))
    reply.read_model.next_offset = replica.state.next_offset
    return reply


async def columns_as_of(
    replica: Replica, asked: str, domains: Iterable[str], freshness: Freshness
) -> tuple[PastFacts, NodeColumns]:
    """Facts and columns of the nodes that may have lived in some domains; `asked` names them for people. Raises
    `ServiceError`, `LogError`.
    """
    subjects = _ever_in(replica, asked, domains)
    facts = await facts_at(replica, subjects, freshness.now_ms, ahead=True)
    columns = NodeColumns()
    analyzer = DriftAnalyzer(facts, freshness.now_ms)
    for subject in subjects:
        at = find_node(facts, subject)
        if at is not None:
            columns.put(at.node_id, summarise(facts, analyzer, at))
    return facts, columns


def past(replica: Replica, request: Any) -> Freshness:
    """The time that a request names. Raises `InvalidWrite` for one that has not come yet."""
    own_domain = replica.config.controller.domain
    return Freshness(replica.state, own_domain, past_time_ms(request), is_past=True)


def _ever_in(replica: Replica, asked: str, domains: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for domain in domains:
        found.update(dict.fromkeys(replica.state.subjects_of(domain, "nodes")))
        if len(found) > MAX_PAST_NODES:
            raise ServiceError(
                grpc.StatusCode.OUT_OF_RANGE,
                "PAST_TOO_WIDE",
                f"more than {MAX_PAST_NODES} nodes may have been in {asked} then; ask for a domain below it, or for "
                "single nodes by GetNode",
            )
    return list(found)


def _make_past(node: node_pb2.Node, facts: PastFacts) -> None:
    """Corrects who had authority: a node's composition takes that from now."""
    node.ClearField("authority")
    declared = facts.winner(Key(node.domain, node.name, "desired_state"))
    fill_authority(node.authority, facts, node.domain, declared, facts.authority)
