from __future__ import annotations

import pytest

from federation.authority import AuthorityTable
from federation.identifiers import Lane, Origin, StreamId
from federation.link_scope import LinkScope
from federation.session_settings import PeerRole
from souverix.federation.v1 import authority_pb2

PARENTS = {
    "global": "",
    "region-a": "global",
    "edge-a1": "region-a",
    "cell-1": "edge-a1",
    "edge-a2": "region-a",
    "region-b": "global",
}


def scope_of(own: str, peer_role: PeerRole, peer: str, *subscriptions: str) -> LinkScope:
    table = AuthorityTable()
    for domain, parent in PARENTS.items():
        table.put(authority_pb2.AuthorityRecord(domain=domain, parent=parent, term=1))
    scope = LinkScope(table, own, peer_role, frozenset(subscriptions))
    scope.peer_domain = peer
    return scope


def stream(domain: str, lane: Lane = Lane.STATE) -> StreamId:
    return StreamId(domain, Origin("anyone", 1), lane)


def sent(scope: LinkScope, lane: Lane = Lane.STATE) -> set[str]:
    return {domain for domain in (*PARENTS, "unknown") if scope.is_sent(stream(domain, lane))}


@pytest.mark.parametrize("lane", list(Lane))
def test_up_goes_the_subtree_in_every_lane(lane: Lane) -> None:
    assert sent(scope_of("edge-a1", PeerRole.PARENT, "region-a"), lane) == {"edge-a1", "cell-1"}


@pytest.mark.parametrize("lane", [Lane.CONTROL, Lane.STATE, Lane.TELEMETRY])
def test_down_go_path_own_domain_and_subtree(lane: Lane) -> None:
    scope = scope_of("region-a", PeerRole.CHILD, "edge-a1")
    assert sent(scope, lane) == {"global", "region-a", "edge-a1", "cell-1"}


def test_audit_never_goes_down() -> None:
    assert sent(scope_of("region-a", PeerRole.CHILD, "edge-a1"), Lane.AUDIT) == set()


def test_down_goes_what_was_subscribed_to() -> None:
    scope = scope_of("region-a", PeerRole.CHILD, "edge-a1", "edge-a2")
    assert "edge-a2" in sent(scope)


@pytest.mark.parametrize("domain", [*PARENTS, "unknown"])
def test_both_sides_agree_on_what_they_share(domain: str) -> None:
    below = scope_of("edge-a1", PeerRole.PARENT, "region-a")
    above = scope_of("region-a", PeerRole.CHILD, "edge-a1")
    assert below.is_shared(domain) == above.is_shared(domain)


def test_child_brings_its_subtree_and_what_nobody_knows_yet() -> None:
    scope = scope_of("region-a", PeerRole.CHILD, "edge-a1")
    brings = {d for d in (*PARENTS, "unknown") if scope.may_bring(stream(d))}
    assert brings == {"edge-a1", "cell-1", "unknown"}


def test_parent_may_bring_anything() -> None:
    scope = scope_of("edge-a1", PeerRole.PARENT, "region-a")
    assert all(scope.may_bring(stream(d)) for d in (*PARENTS, "unknown"))


def test_child_that_knows_no_tree_yet_sends_its_own_domain() -> None:
    scope = LinkScope(AuthorityTable(), "edge-a1", PeerRole.PARENT, frozenset())
    assert scope.is_sent(stream("edge-a1"))
    assert scope.is_shared("edge-a1")
    assert not scope.is_sent(stream("cell-1"))
