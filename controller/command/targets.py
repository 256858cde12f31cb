"""Whom a command is for, and which controller delivers to them. Owns resolution and its bounds; writes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from controller.twin.facts import exists, home_of
from controller.twin.marks import LIVES_HERE
from federation.authority import AuthorityTable
from federation.errors import InvalidWrite, NotFound, OutOfReach
from federation.scan import Scan
from federation.state import State
from souverix.command.v1 import command_pb2

#: Most nodes of one command: a whole zone of the largest size; a wider command is issued a domain at a time.
MAX_TARGETS = 10_000

#: Ids named in an error text; the rest is counted.
MAX_IDS_NAMED = 10


def delivering_controller(table: AuthorityTable, domain: str) -> str | None:
    """The controller of the nearest domain on the way up that has one; None when none is known."""
    for at in reversed(table.path_of(domain) or (domain,)):
        record = table.records.get(at)
        if record is not None and record.controller:
            return record.controller
    return None


def delivered_domains(table: AuthorityTable, controller: str) -> frozenset[str]:
    """Domains to whose nodes a controller delivers."""
    return frozenset(d for d in table.records if delivering_controller(table, d) == controller)


def resolve(
    state: State, own_domain: str, targets: command_pb2.Targets
) -> dict[str, tuple[str, ...]]:
    """Ids of the target nodes by domain, both sorted.

    Raises `InvalidWrite` for no target, two kinds of targets, or too many; `NotFound` for what is not known here;
    `OutOfReach` for what is not in the subtree of `own_domain`.
    """
    if bool(targets.nodes) == bool(targets.domain):
        raise InvalidWrite("targets: exactly one of nodes and domain is to be given")
    placed = (
        _nodes_of_list(state, own_domain, targets.nodes)
        if targets.nodes
        else _nodes_of_domain(state, own_domain, targets.domain, targets.include_subtree)
    )
    total = sum(map(len, placed.values()))
    if total > MAX_TARGETS:
        raise InvalidWrite(
            f"the command has {total} targets; at most {MAX_TARGETS} are allowed: issue it a domain at a time"
        )
    for domain in placed:
        if delivering_controller(state.authority, domain) is None:
            raise OutOfReach(
                f"domain {domain} has no controller that could deliver to its nodes", domain=domain
            )
    return placed


def _nodes_of_list(state: State, own_domain: str, ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    placed: dict[str, list[str]] = {}
    unknown: list[str] = []
    beyond: list[str] = []
    for node in sorted(set(ids)):
        subject = f"nodes/{node}"
        home = home_of(state, subject)
        if home is None or not exists(state, home.domain, subject):
            unknown.append(node)
        elif not state.authority.is_within(home.domain, own_domain):
            controller = delivering_controller(state.authority, home.domain)
            beyond.append(f"{node} (domain {home.domain}, controller {controller or 'unknown'})")
        else:
            placed.setdefault(home.domain, []).append(node)
    if unknown:
        raise NotFound(
            f"unknown here: {_named(unknown)}; create them, or ask a controller above that knows them",
            nodes=",".join(unknown[:MAX_IDS_NAMED]),
        )
    if beyond:
        raise OutOfReach(
            f"not in the subtree of {own_domain}: {_named(beyond)}; issue the command there, or at a controller above "
            "both",
            nodes=",".join(beyond[:MAX_IDS_NAMED]),
        )
    return {domain: tuple(nodes) for domain, nodes in sorted(placed.items())}


def _nodes_of_domain(
    state: State, own_domain: str, domain: str, include_subtree: bool
) -> dict[str, tuple[str, ...]]:
    if domain not in state.authority.records:
        raise NotFound(
            f"domain {domain} is not known here; create it, or ask a controller above",
            domain=domain,
        )
    if not state.authority.is_within(domain, own_domain):
        controller = delivering_controller(state.authority, domain)
        raise OutOfReach(
            f"domain {domain} is not in the subtree of {own_domain}; issue the command at {controller}, or at a "
            "controller above both",
            domain=domain,
        )
    placed = {}
    scan = Scan(state)
    for at in state.authority.subtree_of(domain) if include_subtree else [domain]:
        nodes = sorted(
            subject.partition("/")[2]
            for subject in state.subjects_of(at, "nodes")
            if _lives_in(scan, at, subject)
        )
        if nodes:
            placed[at] = tuple(nodes)
    if not placed:
        raise NotFound(f"domain {domain} has no nodes as known here", domain=domain)
    return placed


def _lives_in(scan: Scan, domain: str, subject: str) -> bool:
    mark = scan.state.table.mark(domain, subject)
    if mark is not None:
        if not mark & LIVES_HERE:
            return False
        if len(scan.state.domains_of_subject[subject]) == 1:
            return True
    home = home_of(scan, subject)
    return home is not None and home.domain == domain and exists(scan, domain, subject)


def _named(ids: list[str]) -> str:
    named = ", ".join(ids[:MAX_IDS_NAMED])
    more = len(ids) - MAX_IDS_NAMED
    return f"{named} and {more} more" if more > 0 else named
