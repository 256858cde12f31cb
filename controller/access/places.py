"""Where a call acts: the domains a request is about. Owns how they are found in requests; knows no role.

What cannot be found here counts as of the controller's own domain: who has a right there is told by the service that
there is no such thing.
"""

from __future__ import annotations

import enum
from typing import Any

from controller.twin.facts import home_of
from federation.state import State


class Place(enum.Enum):
    """How the domains of a request are found."""

    #: Wherever the caller has the role; what it is shown is not of one domain.
    ANYWHERE = enum.auto()
    #: The domain of the controller that is asked.
    OWN = enum.auto()
    #: `domain`; empty: the controller's own.
    DOMAIN = enum.auto()
    #: `domain` of a list or a watch; empty: all, and narrowed to where the caller has the role.
    LISTED = enum.auto()
    #: As `LISTED`, of a list that is of the controller's own domain when `domain` is empty.
    LISTED_HERE = enum.auto()
    #: What `name` names.
    NAME = enum.auto()
    #: The node that `node` names.
    NODE = enum.auto()
    #: What `name` names, and `domain`: both ends of a move.
    NAME_AND_DOMAIN = enum.auto()
    #: The domain above `domain`.
    PARENT_OF_DOMAIN = enum.auto()
    #: The domain above the one that `name` names.
    PARENT_OF_NAME = enum.auto()
    #: The domain that the declared one is to be below.
    PARENT_IN_SPEC = enum.auto()
    #: All that the items of a batch are about.
    ITEMS = enum.auto()
    #: The targets of a command.
    TARGETS = enum.auto()


def domains_of(place: Place, request: Any, state: State, own_domain: str) -> set[str]:
    """The domains in which a request acts; empty for `ANYWHERE`, and for a list of all."""
    match place:
        case Place.ANYWHERE:
            return set()
        case Place.OWN:
            return {own_domain}
        case Place.DOMAIN:
            return {request.domain or own_domain}
        case Place.LISTED | Place.LISTED_HERE:
            return {request.domain} if request.domain else set()
        case Place.NAME:
            return _domains_named(request.name, state, own_domain)
        case Place.NODE:
            return _domains_named(_node_name(request.node), state, own_domain)
        case Place.NAME_AND_DOMAIN:
            return {*_domains_named(request.name, state, own_domain), request.domain or own_domain}
        case Place.PARENT_OF_DOMAIN:
            return {_parent_of(request.domain, state) or own_domain}
        case Place.PARENT_OF_NAME:
            return {_parent_of(request.name.removeprefix("domains/"), state) or own_domain}
        case Place.PARENT_IN_SPEC:
            return {request.spec.parent or own_domain}
        case Place.ITEMS:
            return _domains_of_items(request.items, state, own_domain)
        case Place.TARGETS:
            return _domains_of_targets(request.targets, state, own_domain)


def root_of(state: State, own_domain: str) -> str:
    """The domain above all, as far as the way up is known here."""
    path = state.authority.path_of(own_domain)
    return path[0] if path else own_domain


def _domains_named(name: str, state: State, own_domain: str) -> set[str]:
    kind, _, rest = name.partition("/")
    if kind == "domains":
        return {rest.partition("/")[0] or own_domain}
    if kind == "nodes":
        home = home_of(state, name)
        return {home.domain if home is not None else own_domain}
    return set(state.domains_of_subject.get(name, ())) or {own_domain}


def _node_name(node: str) -> str:
    return node if node.startswith("nodes/") else f"nodes/{node}"


def _parent_of(domain: str, state: State) -> str:
    record = state.authority.records.get(domain)
    return (record.parent or domain) if record is not None else ""


def _domains_of_items(items: Any, state: State, own_domain: str) -> set[str]:
    found: set[str] = set()
    for item in items:
        if "name" in item.DESCRIPTOR.fields_by_name:
            found |= _domains_named(item.name, state, own_domain)
        else:
            found.add(item.domain or own_domain)
    return found or {own_domain}


def _domains_of_targets(targets: Any, state: State, own_domain: str) -> set[str]:
    found = {targets.domain} if targets.domain else set()
    for node in targets.nodes:
        found |= _domains_named(_node_name(node), state, own_domain)
    return found or {own_domain}
