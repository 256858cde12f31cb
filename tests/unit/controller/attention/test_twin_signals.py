"""What is read from a twin's facts: what a node is in, since when, and why; what is not there is not made up."""

from __future__ import annotations

from typing import Any

from controller.attention.conditions import Severity
from controller.attention.nodes import NodeSignals
from controller.attention.twin_signals import TwinSignals
from controller.connectivity.spectrum import Mode
from controller.lifecycle.stages import Stage
from controller.twin.facts import timestamp
from controller.twin.history import Histories
from souverix.fleet.v1 import (
    connectivity_pb2,
    domain_pb2,
    drift_pb2,
    lifecycle_pb2,
    node_pb2,
    return_pb2,
)
from tests.federation_fixture import ROOT, START_MS, MemoryController, root_controller

NODE = "nodes/n1"
HOUR_MS = 3_600_000
WINDOW_S = 1800.0


def put(controller: MemoryController, aspect: str, body: Any, domain: str = ROOT) -> None:
    controller.submit(lambda p: p.write(domain, NODE, aspect, body, principal="user:test"))


def a_node() -> MemoryController:
    root = root_controller()
    put(root, "existence", domain_pb2.Existence(exists=True))
    put(root, "placement", node_pb2.Placement(domain=ROOT, epoch=1))
    return root


def signals(root: MemoryController, histories: Histories | None = None) -> NodeSignals | None:
    histories = histories or Histories(root.state)
    return TwinSignals(root.state, histories, WINDOW_S, root.now_ms).signals(NODE, root.now_ms)


def known(root: MemoryController) -> NodeSignals:
    found = signals(root)
    assert found is not None
    return found


def test_a_node_that_is_deleted_or_unknown_has_no_signals() -> None:
    assert signals(root_controller()) is None
    root = a_node()
    put(root, "existence", domain_pb2.Existence(exists=False))
    assert signals(root) is None


def test_of_a_node_just_registered_nothing_is_made_up() -> None:
    assert known(a_node()) == NodeSignals(NODE, ROOT)


def test_connectivity_is_dated_by_the_transition_else_by_its_event() -> None:
    root = a_node()
    link = connectivity_pb2.LinkState(
        mode=connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS,
        reason="connection_lost",
        evidence="no link for 12 s",
        backlog_messages=7,
    )
    put(root, "link_state", link)
    found = known(root)
    assert (found.mode, found.mode_since_ms, found.backlog) == (Mode.AUTONOMOUS, START_MS, 7)
    assert found.mode_words == "connection_lost, no link for 12 s"
    link.since.CopyFrom(timestamp(START_MS - HOUR_MS))
    put(root, "link_state", link)
    assert known(root).mode_since_ms == START_MS - HOUR_MS


def test_changes_of_connectivity_are_looked_up_only_while_the_last_is_recent() -> None:
    root = a_node()
    histories = Histories(root.state)
    for mode in (1, 4, 1):
        put(root, "link_state", connectivity_pb2.LinkState(mode=mode))  # type: ignore[arg-type]
        assert root.last_applied is not None
        histories.take_note(root.last_applied)
    found = signals(root, histories)
    assert found is not None
    assert list(found.mode_changes_ms) == [START_MS] * 3
    root.now_ms += int(WINDOW_S * 1000) + 1
    later = signals(root, histories)
    assert later is not None
    assert list(later.mode_changes_ms) == []


def test_lifecycle_says_where_a_node_stands_and_what_ends_it() -> None:
    root = a_node()
    state = lifecycle_pb2.LifecycleState(
        phase=lifecycle_pb2.LIFECYCLE_PHASE_UPDATING,
        state="MAINTENANCE_SCHEDULED",
        reason="new fan",
        last_transition_time=timestamp(START_MS - 5),
        expire_time=timestamp(START_MS + 5),
    )
    put(root, "lifecycle", state)
    found = known(root)
    assert (found.stage, found.stage_since_ms) == (Stage.MAINTENANCE_SCHEDULED, START_MS - 5)
    assert (found.stage_reason, found.stage_end_ms) == ("new fan", START_MS + 5)


def test_drift_is_dated_by_the_declaration_however_often_the_node_reports() -> None:
    root = a_node()
    put(root, "desired_state", node_pb2.DesiredState(target_version="2.0.0"))
    report = node_pb2.ActualState(reported_version="1.0.0", report_time=timestamp(START_MS))
    report.runtime.health = node_pb2.RUNTIME_HEALTH_FAILED
    report.runtime.health_reason = "disk"
    root.now_ms += HOUR_MS
    put(root, "actual_state", report)
    found = known(root)
    assert found.drift is not None
    assert (found.drift.since_ms, found.drift.fields) == (START_MS, ("target_version",))
    assert (found.drift.severity, found.drift.objects) == (Severity.HIGH, 1)
    assert (found.failed, found.degraded, found.health_reason) == (True, False, "disk")
    assert (found.report_ms, found.node_clock_ms) == (START_MS + HOUR_MS, START_MS)
    # What the node applied later dates it, but never beyond the report: its clock may be wrong.
    report.last_applied_time.CopyFrom(timestamp(START_MS + HOUR_MS * 9))
    put(root, "actual_state", report)
    again = known(root)
    assert again.drift is not None
    assert again.drift.since_ms == START_MS + HOUR_MS


def test_of_waivers_the_one_that_ends_first_and_still_accepts_something_counts() -> None:
    root = a_node()
    put(root, "desired_state", node_pb2.DesiredState(target_version="2.0.0"))
    put(root, "actual_state", node_pb2.ActualState(reported_version="1.0.0"))
    waivers = [
        drift_pb2.DriftWaiver(
            field=field, reason="r", any_value=True, expire_time=timestamp(START_MS + after_ms)
        )
        for field, after_ms in (("target_version", HOUR_MS), ("configuration", 5))
    ]
    put(root, "drift_waiver", drift_pb2.DriftWaivers(waivers=waivers))
    found = known(root)
    assert found.drift is None
    assert found.waiver is not None
    assert (found.waiver.field, found.waiver.expire_ms) == ("target_version", START_MS + HOUR_MS)


def test_a_node_that_two_domains_claim_is_dated_by_the_later_claim() -> None:
    root = a_node()
    root.declare("edge-a1", ROOT)
    root.now_ms += 5
    put(root, "placement", node_pb2.Placement(domain="edge-a1", epoch=1), "edge-a1")
    put(root, "existence", domain_pb2.Existence(exists=True), "edge-a1")
    assert known(root).claimed_twice_ms == START_MS + 5


def test_an_agent_that_was_refused_is_told_of_until_it_is_put_right() -> None:
    root = a_node()
    incident = return_pb2.ReturnIncident(
        kind=return_pb2.INCIDENT_KIND_WRONG_KEY, evidence="key ab", time=timestamp(START_MS - 5)
    )
    put(root, "return_incident", incident)
    found = known(root)
    assert (found.refused_ms, found.refused_words) == (START_MS - 5, "WRONG_KEY, key ab")
    incident.resolve_time.CopyFrom(timestamp(START_MS))
    put(root, "return_incident", incident)
    assert known(root).refused_ms is None
