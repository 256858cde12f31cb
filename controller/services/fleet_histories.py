"""Histories of one node: its connectivity ledger and its lifecycle timeline. Owns the answers; the transitions are the
log's, as far back as they are kept at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controller.replica import Replica
from controller.services.fleet_fields import id_in_name
from controller.services.fleet_rules import freshness_of, required_node
from controller.twin.facts import effective_time
from controller.twin.freshness import Freshness
from federation.codec import Write
from federation.errors import InvalidWrite
from federation.identifiers import Key
from souverix.fleet.v1 import fleet_service_pb2 as fleet


def connectivity_history(replica: Replica, request: Any) -> fleet.ListConnectivityHistoryResponse:
    """As `FleetService.ListConnectivityHistory`."""
    node, freshness, domain = _subject(replica, request)
    reply = fleet.ListConnectivityHistoryResponse(as_of_time=freshness.as_of(domain))
    reply.ledger.node = node
    for write in transitions_within(replica, request, domain, f"nodes/{node}", "link_state"):
        link = reply.ledger.history.add()
        link.CopyFrom(write.body())
        if not link.HasField("since"):
            key = Key(domain, f"nodes/{node}", "link_state")
            link.since.CopyFrom(effective_time(replica.state, key, write))
    return reply


def lifecycle_history(replica: Replica, request: Any) -> fleet.ListLifecycleHistoryResponse:
    """As `FleetService.ListLifecycleHistory`."""
    node, freshness, domain = _subject(replica, request)
    reply = fleet.ListLifecycleHistoryResponse(as_of_time=freshness.as_of(domain))
    reply.timeline.node = node
    for write in transitions_within(replica, request, domain, f"nodes/{node}", "lifecycle"):
        entered = reply.timeline.transitions.add()
        entered.CopyFrom(write.body())
        entered.decided_by = entered.decided_by or write.principal
    return reply


def _subject(replica: Replica, request: Any) -> tuple[str, Freshness, str]:
    node = id_in_name(request.name, "nodes")
    at = required_node(replica.state, f"nodes/{node}")
    return node, freshness_of(replica), at.home.domain


def transitions_within(
    replica: Replica, request: Any, domain: str, subject: str, aspect: str
) -> Iterator[Write]:
    """What is held of the time asked for. Raises `InvalidWrite` for a time that ends before it begins."""
    start_ns = request.start_time.ToNanoseconds() if request.HasField("start_time") else None
    end_ns = request.end_time.ToNanoseconds() if request.HasField("end_time") else None
    if start_ns is not None and end_ns is not None and end_ns < start_ns:
        raise InvalidWrite("end_time is before start_time", field="end_time")
    key = Key(domain, subject, aspect)
    for write in replica.histories.of(subject, aspect):
        at_ns = effective_time(replica.state, key, write).ToNanoseconds()
        if (start_ns is None or at_ns >= start_ns) and (end_ns is None or at_ns < end_ns):
            yield write
