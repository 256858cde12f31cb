from __future__ import annotations

from federation.codec import stream_from_message
from federation.comparison import POSITIONS_A_FRAME, Comparison
from federation.identifiers import Lane, StreamId
from federation.proposal import Proposal
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import node_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller


def everything(_: str) -> bool:
    return True


def compared(one: MemoryController, other: MemoryController) -> Comparison:
    """The comparison of the first, with the second's digests taken in."""
    mine, theirs = Comparison(one.state, everything), Comparison(other.state, everything)
    mine.digests()
    for page in theirs.digests():
        mine.take_digests(page)
    return mine


def positions(comparison: Comparison) -> dict[StreamId, int]:
    return {
        stream_from_message(p.stream): p.sequence
        for page in comparison.positions()
        for p in page.positions
    }


def test_domains_held_alike_are_known_without_positions() -> None:
    root = root_controller()
    region = controller_below(root, "region-a-control", "region-a")
    comparison = compared(root, region)
    assert positions(comparison) == {}
    assert comparison.equal_positions() == {s: h.received for s, h in root.state.streams.items()}


def test_domains_that_differ_are_told_stream_by_stream() -> None:
    root = root_controller()
    region = controller_below(root, "region-a-control", "region-a")
    region.write_policy("region-a", "v1")
    comparison = compared(region, root)
    declaration = StreamId("region-a", root.identity.origin, Lane.CONTROL)
    own = StreamId("region-a", region.identity.origin, Lane.CONTROL)
    assert positions(comparison) == {declaration: 4, own: 1}
    assert {s.domain for s in comparison.equal_positions()} == {ROOT}


def test_same_numbers_of_another_history_are_no_equality() -> None:
    root = root_controller()
    one = controller_below(root, "region-a-control", "region-a")
    other = MemoryController("region-a-control", "region-a", root.root_signer)
    other.signer = one.signer
    other.receive_from(root)
    one.write_policy("region-a", "v1")
    other.write_policy("region-a", "v2")
    assert "region-a" not in {s.domain for s in compared(one, other).equal_positions()}


def test_audit_stands_in_positions_always_and_in_digests_never() -> None:
    root = root_controller()
    region = controller_below(root, "region-a-control", "region-a")
    root.submit(lambda p: p.write(ROOT, "audit/x", "audit", audit_pb2.AuditRecord(), principal="a"))
    assert {s.lane for s in positions(compared(root, region))} == {Lane.AUDIT}


def test_domains_not_shared_are_not_told() -> None:
    root = root_controller()
    controller_below(root, "region-a-control", "region-a")
    comparison = Comparison(root.state, lambda domain: domain == ROOT)
    [page] = comparison.digests()
    assert [d.domain for d in page.digests] == [ROOT]
    assert {s.domain for s in positions(comparison)} == {ROOT}


def test_equality_holds_for_what_the_digests_said_though_the_log_grew_since() -> None:
    root = root_controller()
    region = controller_below(root, "region-a-control", "region-a")
    mine = Comparison(root.state, everything)
    mine.digests()
    root.write_policy(ROOT, "newer")
    for page in Comparison(region.state, everything).digests():
        mine.take_digests(page)
    assert mine.equal_positions()[StreamId(ROOT, root.identity.origin, Lane.CONTROL)] == 1


def test_many_domains_come_in_pages_the_last_of_which_says_so() -> None:
    root = root_controller()
    count = POSITIONS_A_FRAME + 5

    def decide(proposal: Proposal) -> None:
        for number in range(count - 1):
            proposal.write(
                f"domain-{number}", "nodes/n1", "node_spec", node_pb2.NodeSpec(), principal="a"
            )

    root.submit(decide)
    pages = Comparison(root.state, everything).digests()
    assert [(len(page.digests), page.last) for page in pages] == [
        (POSITIONS_A_FRAME, False),
        (5, True),
    ]
    told = Comparison(root.state, everything).positions()
    assert [(len(page.positions), page.last) for page in told] == [
        (POSITIONS_A_FRAME, False),
        (5, True),
    ]


def test_controller_that_holds_nothing_still_says_so() -> None:
    stranger = MemoryController("new-control", "new", root_controller().root_signer)
    comparison = Comparison(stranger.state, everything)
    assert [page.last for page in comparison.digests()] == [True]
    assert [page.last for page in comparison.positions()] == [True]
