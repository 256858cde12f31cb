"""A declared edge as clients see it, and where it is held. Owns the composition of `Relationship` from facts."""

from __future__ import annotations

import hashlib

from controller.graph.declared import relationship_name
from controller.graph.health import Condition
from controller.graph.vertices import ends_of
from controller.twin.facts import (
    Facts,
    body_of,
    conflicted,
    digest_of,
    effective_time,
    exists,
    held_of,
    timestamp,
)
from federation.identifiers import Key
from souverix.fleet.v1 import node_pb2
from souverix.graph.v1 import graph_pb2

RELATIONSHIP_ASPECTS = ("existence", "relationship")

#: Hexadecimal digits of an id made of ends and type: 64 bits, so that no two edges of a domain share one.
MADE_ID_DIGITS = 16


def made_id(spec: node_pb2.Relationship) -> str:
    """The id of an edge that came without one: the same for the same ends and type."""
    start, end = ends_of(spec)
    told = f"{start}\0{end}\0{spec.type}".encode()
    return f"r-{hashlib.sha256(told).hexdigest()[:MADE_ID_DIGITS]}"


def relationship_etag(facts: Facts, domain: str, subject: str) -> str:
    """Changes with each write of the edge."""
    return digest_of(facts, held_of(facts, domain, subject, RELATIONSHIP_ASPECTS))


def compose_relationship(facts: Facts, domain: str, subject: str) -> graph_pb2.Relationship | None:
    """The edge without its health; None when it does not exist here."""
    key = Key(domain, subject, "relationship")
    winner = facts.winner(key)
    if winner is None or not exists(facts, domain, subject):
        return None
    held = held_of(facts, domain, subject, RELATIONSHIP_ASPECTS)
    shown = graph_pb2.Relationship(
        name=relationship_name(domain, subject),
        id=subject.partition("/")[2],
        domain=domain,
        etag=digest_of(facts, held),
        spec=winner.body(),
        update_time=effective_time(facts, key, winner),
        optimistic=winner.optimistic,
        conflicted_aspects=conflicted(facts, held),
    )
    existence = body_of(facts, Key(domain, subject, "existence"))
    if existence.HasField("time"):
        shown.create_time.CopyFrom(existence.time)
    return shown


def fill_health(message: graph_pb2.EdgeHealth, condition: Condition) -> None:
    """The condition of an edge as a message."""
    message.state = graph_pb2.EdgeHealthState.Name(condition.health)  # type: ignore[assignment]
    message.reason = condition.reason
    if condition.since_ms is not None:
        message.unknown_since.CopyFrom(timestamp(condition.since_ms))
