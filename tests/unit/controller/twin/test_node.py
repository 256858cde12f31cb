from __future__ import annotations

from controller.twin.facts import home_of
from controller.twin.freshness import Freshness
from controller.twin.node import compose_node, find_node, node_etag
from federation.identifiers import Key
from federation.placement import move_node
from federation.proposal import Proposal
from souverix.fleet.v1 import connectivity_pb2, domain_pb2, node_pb2
from tests.federation_fixture import START_MS, MemoryController, controller_below, root_controller

NODE = "nodes/n1"


def create(controller: MemoryController, domain: str) -> None:
    def decide(p: Proposal) -> None:
        for aspect, body in (
            ("existence", domain_pb2.Existence(exists=True)),
            ("placement", node_pb2.Placement(domain=domain, epoch=1)),
            ("node_spec", node_pb2.NodeSpec(region="north")),
        ):
            p.write(domain, NODE, aspect, body, principal="user:a")

    controller.submit(decide)


def compose(controller: MemoryController, now_ms: int = START_MS) -> node_pb2.Node:
    at = find_node(controller.state, NODE)
    assert at is not None
    freshness = Freshness(controller.state, controller.identity.domain, now_ms)
    return compose_node(controller.state, at, freshness)


def test_what_nobody_wrote_is_unset() -> None:
    root = root_controller()
    create(root, "global")

    node = compose(root)

    for field in ("desired_state", "actual_state", "inventory", "connectivity", "drift", "trust"):
        assert not node.HasField(field)
    assert not node.conflicted_aspects


def test_connectivity_is_the_last_transition() -> None:
    root = root_controller()
    create(root, "global")
    link = connectivity_pb2.LinkState(mode=connectivity_pb2.CONNECTIVITY_MODE_DELAYED)
    root.submit(lambda p: p.write("global", NODE, "link_state", link, principal="controller:x"))

    assert compose(root).connectivity.link == link


def test_etag_follows_what_clients_write_and_not_what_nodes_report() -> None:
    root = root_controller()
    create(root, "global")
    first = node_etag(root.state, "global", NODE)

    report = node_pb2.ActualState(reported_version="v1")
    root.submit(lambda p: p.write("global", NODE, "actual_state", report, principal="node:n1"))
    assert node_etag(root.state, "global", NODE) == first

    spec = node_pb2.NodeSpec(region="south")
    root.submit(lambda p: p.write("global", NODE, "node_spec", spec, principal="user:a"))
    assert node_etag(root.state, "global", NODE) != first


def test_overlay_of_a_proposal_is_read_like_committed_facts() -> None:
    root = root_controller()

    def decide(p: Proposal) -> None:
        p.write("global", NODE, "existence", domain_pb2.Existence(exists=True), principal="u:a")
        placement = node_pb2.Placement(domain="global", epoch=1)
        p.write("global", NODE, "placement", placement, principal="u:a")
        assert find_node(p, NODE) is None
        assert find_node(p, NODE, also_in="global") is not None

    root.submit(decide)


def test_as_of_time_is_when_the_domains_controller_was_last_heard() -> None:
    root = root_controller()
    zone = controller_below(root, "edge-a1-control", "edge-a1")
    create(zone, "edge-a1")
    root.now_ms = START_MS + 5_000
    root.receive_from(zone)
    root.now_ms = START_MS + 9_000
    root.declare("edge-a2", "global")

    node = compose(root, START_MS + 60_000)
    own = compose(zone, START_MS + 60_000)

    assert node.as_of_time.ToMilliseconds() == START_MS + 5_000
    assert own.as_of_time.ToMilliseconds() == START_MS + 60_000


def test_authority_names_the_controllers_from_the_domain_up() -> None:
    root = root_controller()
    zone = controller_below(root, "edge-a1-control", "edge-a1")
    create(zone, "edge-a1")

    authority = compose(zone).authority

    assert authority.master_of_record == "edge-a1-control"
    assert list(authority.controller_ids) == ["edge-a1-control", "global-control"]
    assert list(authority.term) == [1, 1]


def test_node_is_out_of_sight_where_it_moved_away_from() -> None:
    root = root_controller()
    zone = controller_below(root, "edge-a1-control", "edge-a1")
    controller_below(root, "edge-a2-control", "edge-a2")
    create(zone, "edge-a1")
    root.receive_from(zone)
    root.submit(lambda p: move_node(p, NODE, "edge-a1", "edge-a2", principal="user:a"))
    moves = [
        run for commit in root.commits for run in commit.runs if run.stream.domain == "edge-a1"
    ]
    for run in moves:
        if run.stream.controller != zone.name:
            zone.receive(root.name, run)

    assert find_node(zone.state, NODE) is None
    home = home_of(zone.state, NODE)
    assert home is not None
    assert (home.domain, home.epoch) == ("edge-a2", 2)


def test_id_given_twice_while_cut_off_is_one_node_everywhere_and_marked() -> None:
    root = root_controller()
    zones = [controller_below(root, f"edge-a{i}-control", f"edge-a{i}") for i in (1, 2)]
    for number, zone in enumerate(zones):
        zone.now_ms += number * 1000
        create(zone, zone.identity.domain)
    for zone in zones:
        root.receive_from(zone)

    node = compose(root)

    assert node.domain == "edge-a1"
    assert list(node.conflicted_aspects) == ["placement"]
    assert root.state.winner(Key("edge-a2", NODE, "node_spec")) is not None
