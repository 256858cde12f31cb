"""Sums from the columns are those added up from the twins one by one."""

from __future__ import annotations

from collections import Counter

import pytest

from controller.changes import Changes
from controller.query.live import LiveColumns
from controller.query.sums import UNHEALTHY, DomainSums
from controller.twin.drift_sums import cluster_state
from controller.twin.effective import policies_along
from souverix.fleet.v1 import drift_pb2
from tests.unit.controller.query.fleets import DOMAINS, CutOff, RandomFleet, twins


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cut_off", [(), ("edge-a1",), ("region-a", "edge-a1", "edge-a2")])
def test_sums_are_those_of_the_twins(seed: int, cut_off: tuple[str, ...]) -> None:
    fleet = RandomFleet(seed, nodes=30)
    for _ in range(300):
        fleet.step()
    now_ms = fleet.controller.now_ms + 5000
    unknown = {domain: now_ms - 1000 * number for number, domain in enumerate(cut_off, 1)}
    live = LiveColumns(fleet.state, Changes(), lambda: now_ms)
    live.begin()
    while live.work(1000):
        pass
    sums = DomainSums(live.columns, live.oldest_reports, CutOff(fleet.state, now_ms, unknown))
    everyone = twins(fleet.state, now_ms, unknown)

    for domains in ([DOMAINS[0]], list(DOMAINS[1:]), list(DOMAINS), ["edge-a2"]):
        nodes = [node for node in everyone.values() if node.domain in domains]
        found = sums.of(domains)
        assert found.sums.nodes == len(nodes)
        modes = Counter(node.connectivity.link.mode for node in nodes)
        assert {mode: n for mode, n in enumerate(found.modes) if n} == modes
        unknowns = [n for n in nodes if n.connectivity.HasField("unknown_since")]
        assert found.unknown_nodes == len(unknowns)
        assert found.unhealthy_nodes == sum(
            node.actual_state.runtime.health in UNHEALTHY for node in nodes
        )
        drift = found.drift().message(now_ms)
        states = Counter(node.drift.state for node in nodes)
        assert drift.node_count == len(nodes)
        assert drift.drifting_node_count == states[drift_pb2.DRIFT_STATE_DRIFTING]
        assert drift.unknown_node_count == states[drift_pb2.DRIFT_STATE_UNKNOWN]
        assert drift.objects_out_of_spec == sum(n.drift.objects_out_of_spec for n in nodes)
        assert drift.waived_objects == sum(n.drift.waived_objects for n in nodes)
        assert drift.score == sum(n.drift.score for n in nodes)
        assert drift.highest_score == max((n.drift.score for n in nodes), default=0)
        assert drift.severity == max((n.drift.severity for n in nodes), default=0)
        oldest = [
            n.drift.last_sync_time.ToMilliseconds() for n in nodes if n.HasField("actual_state")
        ]
        assert found.oldest_report_ms == min(oldest, default=None)
        versions = Counter(
            n.actual_state.reported_version for n in nodes if n.actual_state.reported_version
        )
        held: Counter[str] = Counter()
        for (version, _, _), count in found.releases.items():
            held[version] += count
        assert +held - Counter({"": held[""]}) == versions


def test_a_domain_as_one_release_is_what_most_report_beside_what_all_should_run() -> None:
    fleet = RandomFleet(seed=1, nodes=30)
    for _ in range(300):
        fleet.step()
    now_ms = fleet.controller.now_ms
    live = LiveColumns(fleet.state, Changes(), lambda: now_ms)
    live.begin()
    while live.work(1000):
        pass
    found = DomainSums(live.columns, live.oldest_reports, CutOff(fleet.state, now_ms, {})).of(
        DOMAINS
    )
    along = policies_along(fleet.state, "region-a")

    state = cluster_state(found.drift(), found.releases, along, now_ms)

    release = (state.actual.version, state.actual.config_hash, state.actual.policy_version)
    assert found.releases[release] == max(found.releases.values())
    assert state.drift.objects_out_of_spec == found.drift().objects
    for_all = [at.spec for at in along if not at.spec.tags]
    assert state.desired.policy_version == (for_all[-1].version if for_all else "")
