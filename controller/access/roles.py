"""The roles there are. Owns their order; knows no method."""

from __future__ import annotations

import enum

from souverix.trust.v1 import role_binding_pb2


class Role(enum.IntEnum):
    """What people may do, each role more than the one before. `ANYBODY` needs no binding."""

    ANYBODY = 0
    #: Reads.
    VIEWER = role_binding_pb2.ROLE_VIEWER
    #: Runs nodes: declares, commands, moves, marks.
    OPERATOR = role_binding_pb2.ROLE_OPERATOR
    #: Decides how a domain is run: policies, domains below, whom its members are.
    DOMAIN_ADMIN = role_binding_pb2.ROLE_DOMAIN_ADMIN
    #: Decides for the whole federation.
    FLEET_ADMIN = role_binding_pb2.ROLE_FLEET_ADMIN

    @property
    def label(self) -> str:
        """As people write it: "domain-admin"."""
        return self.name.lower().replace("_", "-")


class Machine(enum.Enum):
    """Roles of machines. They come with the kind of the certificate, and no binding gives them."""

    CONTROLLER = "controller"
    NODE = "node"
    RELAY = "relay"


#: Roles that bindings give.
BINDABLE = tuple(role for role in Role if role is not Role.ANYBODY)
