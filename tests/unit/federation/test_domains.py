from __future__ import annotations

from federation.identifiers import Key
from souverix.federation.v1 import authority_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller


def test_facts_of_a_new_domain_stand_in_its_control_lane_in_the_order_of_their_rest() -> None:
    root = root_controller()
    child = MemoryController("region-a-control", "region-a", root.root_signer)

    root.declare("region-a", ROOT, child)

    run = root.commits[-1].runs[0]
    assert (run.stream.domain, run.stream.controller) == ("region-a", "global-control")
    stream = next(s for s in root.state.streams if s.domain == "region-a")
    aspects = [
        root.state.decoder.decode(stream, number, raw).aspect  # type: ignore[union-attr]
        for number, raw in enumerate(run.events, 1)
    ]
    assert aspects == ["authority", "key_grant", "domain_spec", "existence"]


def test_first_record_names_term_one_and_since_as_the_path_of_the_parent() -> None:
    root = root_controller()
    region = controller_below(root, "region-a-control", "region-a")
    region.declare("edge-a1", "region-a")

    record = region.state.authority.records["edge-a1"]

    assert (record.term, list(record.since)) == (1, [1, 1, 1])
    assert region.state.authority.term_of("edge-a1") == (1, 1, 1)
    assert (record.master_of_record, record.controller) == ("region-a-control", "")


def test_domain_declared_by_its_parent_takes_effect_at_child_and_ancestor() -> None:
    root = root_controller()
    region = controller_below(root, "region-a-control", "region-a")
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    root.receive_from(region)

    for controller in (root, zone):
        winner = controller.state.winner(Key("edge-a1", "domains/edge-a1", "existence"))
        assert winner is not None
        assert winner.body().exists
        assert controller.state.keys.knows("edge-a1-control", zone.signer.key_id)
        assert not any(s.quarantine_reason for s in controller.state.streams.values())


def test_declared_autonomy_is_in_the_record() -> None:
    root = root_controller()
    autonomy = authority_pb2.Autonomy(can_modify_policies=True)

    zone = controller_below(root, "edge-c-control", "edge-c", autonomy=autonomy)

    assert zone.state.authority.records["edge-c"].autonomy == autonomy
