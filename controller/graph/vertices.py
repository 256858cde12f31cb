"""Names of vertices and edges of the fleet graph. Owns their shape and order; holds no state.

Numbers are the wire's (`souverix.graph.v1`).
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from souverix.fleet.v1 import node_pb2


class VertexKind(enum.IntEnum):
    """What a vertex stands for."""

    DOMAIN = 1
    CONTROLLER = 2
    NODE = 3
    RELAY = 4
    TRUST_DOMAIN = 5


class EdgeType(enum.IntEnum):
    """What an edge means. But for CONTAINS, its start relies on its end."""

    CONTAINS = 1
    SIGNALING = 2
    MEDIA = 3
    CONTROL = 4
    BYPASS = 5
    MEMBER = 6
    TRUST = 7


class Direction(enum.IntEnum):
    """Which way edges are followed."""

    OUT = 1
    IN = 2
    BOTH = 3


class Edge(NamedTuple):
    """One edge; `relationship` names the declared fact, empty for a derived one."""

    start: str
    end: str
    type: EdgeType
    relationship: str = ""

    def other(self, vertex: str) -> str:
        """The end that is not this vertex."""
        return self.end if vertex == self.start else self.start


#: The type of edge each declared relationship is.
TYPE_OF_RELATIONSHIP = {
    node_pb2.RELATIONSHIP_TYPE_SIGNALING: EdgeType.SIGNALING,
    node_pb2.RELATIONSHIP_TYPE_MEDIA: EdgeType.MEDIA,
    node_pb2.RELATIONSHIP_TYPE_CONTROL: EdgeType.CONTROL,
    node_pb2.RELATIONSHIP_TYPE_BYPASS: EdgeType.BYPASS,
    node_pb2.RELATIONSHIP_TYPE_MEMBER: EdgeType.MEMBER,
}

DOMAINS, CONTROLLERS, NODES, TRUST_DOMAINS = "domains", "controllers", "nodes", "trust-domains"

#: Collections a vertex may be named in.
COLLECTIONS = (DOMAINS, CONTROLLERS, NODES, TRUST_DOMAINS)


def named(collection: str, plain: str) -> str:
    """The name of a vertex."""
    return f"{collection}/{plain}"


def id_of(vertex: str) -> str:
    """The plain id in a vertex' name."""
    return vertex.partition("/")[2]


def ends_of(spec: node_pb2.Relationship) -> tuple[str, str]:
    """The vertices a declared edge starts from and leads to."""
    start = named(NODES, spec.from_node) if spec.from_node else named(DOMAINS, spec.from_domain)
    end = named(NODES, spec.to_node) if spec.to_node else named(DOMAINS, spec.to_domain)
    return start, end
