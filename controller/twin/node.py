"""The twin of a node as clients see it. Owns the composition of `Node` from facts; computes no drift, judges nothing.

Everything is read through `Facts`, so that a write that is only validated can be shown as it would be.
"""

from __future__ import annotations

from typing import NamedTuple

from controller.twin.attestation import fill_attestation
from controller.twin.authority import fill_authority
from controller.twin.connectivity import compose_connectivity
from controller.twin.facts import (
    Facts,
    Home,
    conflicted,
    digest_of,
    exists,
    held_of,
    home_of,
    set_time,
    winners_of,
)
from controller.twin.freshness import Freshness
from controller.twin.supply_chain import fill_supply_chain
from federation.clock import wall_ms_of
from federation.codec import Write
from souverix.fleet.v1 import node_pb2

#: Aspects that clients write; the etag is made of them.
WRITABLE_ASPECTS = (
    "existence",
    "placement",
    "node_spec",
    "desired_state",
    "lifecycle",
    "drift_waiver",
)

#: Aspects a node's view is made of.
NODE_ASPECTS = (
    *WRITABLE_ASPECTS,
    "actual_state",
    "link_state",
    "inventory",
    "agent_key",
    "return_incident",
    "node_sbom",
    "attestation",
    "attestation_baseline",
    "attestation_demand",
)


class NodeAt(NamedTuple):
    """A node that exists, and where it lives."""

    subject: str
    home: Home

    @property
    def node_id(self) -> str:
        """The plain id."""
        return self.subject.partition("/")[2]


def find_node(facts: Facts, subject: str, also_in: str = "") -> NodeAt | None:
    """The node, where it is known here to exist; None for one that is deleted, unknown, or lives out of sight."""
    home = home_of(facts, subject, also_in)
    if home is None or not exists(facts, home.domain, subject):
        return None
    return NodeAt(subject, home)


def node_etag(facts: Facts, domain: str, subject: str) -> str:
    """Changes with each write of what clients may write of the node."""
    return digest_of(facts, held_of(facts, domain, subject, WRITABLE_ASPECTS))


def compose_node(facts: Facts, at: NodeAt, freshness: Freshness) -> node_pb2.Node:
    """The twin of a node, from the facts of the domain it lives in."""
    node = node_pb2.Node()
    fill_node(node, facts, at, freshness)
    return node


def fill_node(node: node_pb2.Node, facts: Facts, at: NodeAt, freshness: Freshness) -> None:
    """As `compose_node`, into an empty message."""
    domain, subject = at.home.domain, at.subject
    held = held_of(facts, domain, subject, NODE_ASPECTS)
    node.name = subject
    node.id = at.node_id
    node.domain = domain
    node.etag = digest_of(facts, held[: len(WRITABLE_ASPECTS)])
    node.placement_epoch = at.home.epoch
    disputed = conflicted(facts, held)
    if at.home.disputed and "placement" not in disputed:
        disputed.append("placement")
    node.conflicted_aspects.extend(disputed)
    as_of_ms = freshness.as_of_ms(domain)
    if as_of_ms is not None:
        set_time(node.as_of_time, as_of_ms)
    winners = winners_of(facts, held)
    _fill_declared(node, winners)
    _fill_reported(node, winners)
    fill_supply_chain(node, winners)
    fill_attestation(node, winners, freshness.now_ms)
    connectivity = compose_connectivity(at.node_id, domain, winners, freshness)
    if connectivity is not None:
        node.connectivity.CopyFrom(connectivity)
        if node.HasField("actual_state") and connectivity.HasField("last_seen_time"):
            node.actual_state.runtime.last_heartbeat_time.CopyFrom(connectivity.last_seen_time)
    _fill_times(node, winners)
    fill_authority(node.authority, facts, domain, winners.get("desired_state"))


def _fill_declared(node: node_pb2.Node, winners: dict[str, Write]) -> None:
    spec, declared = winners.get("node_spec"), winners.get("desired_state")
    if spec is not None:
        node.spec.CopyFrom(spec.body())
        node.optimistic |= spec.optimistic
    if declared is not None:
        desired = declared.body()
        # An empty desired state declares nothing; an empty spec is a description all the same.
        if desired.ByteSize():
            node.desired_state.CopyFrom(desired)
        node.optimistic |= declared.optimistic
    waived = winners.get("drift_waiver")
    if waived is not None:
        node.drift_waivers.extend(waived.body().waivers)
        node.optimistic |= waived.optimistic


def _fill_reported(node: node_pb2.Node, winners: dict[str, Write]) -> None:
    for aspect in ("actual_state", "inventory", "lifecycle", "agent_key", "return_incident"):
        winner = winners.get(aspect)
        if winner is not None:
            getattr(node, aspect).CopyFrom(winner.body())
    inventory, report = winners.get("inventory"), winners.get("actual_state")
    if inventory is not None:
        node.observations.last_snapshot_ref = observation_id(inventory)
    if report is not None:
        node.observations.last_event_ref = observation_id(report)


def _fill_times(node: node_pb2.Node, winners: dict[str, Write]) -> None:
    existence = winners.get("existence")
    if existence is not None:
        body = existence.body()
        if body.HasField("time"):
            node.create_time.CopyFrom(body.time)
    if winners:
        set_time(node.update_time, wall_ms_of(max(w.stamp for w in winners.values())))


def observation_id(write: Write) -> str:
    """The id of the observation a write stands for: the same at every controller."""
    return f"{write.origin.controller}.{write.origin.incarnation}.{write.aspect}.{write.sequence}"
