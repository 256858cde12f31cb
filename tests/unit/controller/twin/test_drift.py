from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.twin.configuration_hash import configuration_hash
from controller.twin.drift import MAX_DETAILS, DriftAnalyzer, NodeDrift
from controller.twin.node import find_node
from federation.clock import wall_ms_of
from federation.identifiers import Key
from souverix.fleet.v1 import domain_pb2, drift_pb2, node_pb2
from souverix.policy.v1 import policy_pb2
from tests.federation_fixture import ROOT, MemoryController, root_controller

ZONE = "edge-a1"
NODE = "nodes/n1"
UNKNOWN = drift_pb2.DRIFT_STATE_UNKNOWN
IN_SPEC = drift_pb2.DRIFT_STATE_IN_SPEC
DRIFTING = drift_pb2.DRIFT_STATE_DRIFTING
MEDIUM = drift_pb2.DRIFT_SEVERITY_MEDIUM
HIGH = drift_pb2.DRIFT_SEVERITY_HIGH


@pytest.fixture
def tree() -> MemoryController:
    """The root with a region and a zone below it, and a node in the zone."""
    root = root_controller()
    root.declare("region-a", ROOT)
    root.declare(ZONE, "region-a")
    add_node(root, NODE)
    return root


def put(tree: MemoryController, aspect: str, body: Any, subject: str = NODE) -> None:
    tree.submit(lambda p: p.write(ZONE, subject, aspect, body, principal="user:a"))


def add_node(tree: MemoryController, subject: str, **spec: Any) -> None:
    put(tree, "existence", domain_pb2.Existence(exists=True), subject)
    put(tree, "placement", node_pb2.Placement(domain=ZONE, epoch=1), subject)
    put(tree, "node_spec", node_pb2.NodeSpec(**spec), subject)


def desire(tree: MemoryController, config: dict[str, Any] | None = None, **fields: Any) -> None:
    body = node_pb2.DesiredState(**fields)
    if config is not None:
        body.configuration.SetInParent()
        body.configuration.update(config)
        body.config_hash = configuration_hash(body.configuration)
    put(tree, "desired_state", body)


def report(
    tree: MemoryController,
    config: dict[str, Any] | None = None,
    subject: str = NODE,
    **fields: Any,
) -> None:
    body = node_pb2.ActualState(**fields)
    if config is not None:
        body.configuration.SetInParent()
        body.configuration.update(config)
        body.config_hash = configuration_hash(body.configuration)
    put(tree, "actual_state", body, subject)


def put_policy(
    tree: MemoryController,
    domain: str,
    policy: str = "base",
    config: dict[str, Any] | None = None,
    **spec: Any,
) -> None:
    body = policy_pb2.PolicySpec(**spec)
    if config is not None:
        body.configuration.update(config)

    def decide(p: Any) -> None:
        existence = domain_pb2.Existence(exists=True)
        p.write(domain, f"policies/{policy}", "existence", existence, principal="user:a")
        p.write(domain, f"policies/{policy}", "policy", body, principal="user:a")

    tree.submit(decide)


def waive(tree: MemoryController, *waivers: drift_pb2.DriftWaiver) -> None:
    put(tree, "drift_waiver", drift_pb2.DriftWaivers(waivers=waivers))


def waiver(tree: MemoryController, field: str, **fields: Any) -> drift_pb2.DriftWaiver:
    made = drift_pb2.DriftWaiver(field=field, reason="test", any_value=True, **fields)
    made.expire_time.FromMilliseconds(tree.now_ms + 60_000)
    return made


def drift(tree: MemoryController, later_ms: int = 0) -> NodeDrift:
    at = find_node(tree.state, NODE)
    assert at is not None
    return DriftAnalyzer(tree.state, tree.now_ms + later_ms).drift_of(at)


def shown(tree: MemoryController, later_ms: int = 0) -> drift_pb2.Drift:
    return drift(tree, later_ms).message(details=True)


def test_a_node_that_never_reported_is_unknown_not_in_spec(tree: MemoryController) -> None:
    found = shown(tree)
    assert found.state == UNKNOWN
    assert not found.HasField("stale_by")
    assert not found.HasField("last_sync_time")
    desire(tree, {"a": 1}, target_version="1.0.0")
    put_policy(tree, ROOT, version="policy-v1")
    found = shown(tree)
    assert (found.state, found.score, found.objects_out_of_spec) == (UNKNOWN, 0, 0)
    assert list(found.unknown_fields) == ["target_version", "configuration", "policy_version"]


def test_a_node_of_which_nothing_is_desired_is_in_spec_once_it_reports(
    tree: MemoryController,
) -> None:
    report(tree, {"any": "thing"}, reported_version="0.1")
    assert shown(tree).state == IN_SPEC


def test_a_version_that_is_not_reported_is_unknown(tree: MemoryController) -> None:
    desire(tree, target_version="1.0.0")
    report(tree)
    found = shown(tree)
    assert (found.state, list(found.unknown_fields)) == (UNKNOWN, ["target_version"])


def test_version_drift_names_component_severity_and_impact(tree: MemoryController) -> None:
    put(tree, "node_spec", node_pb2.NodeSpec(component_type="souverix-rempart"))
    desire(tree, target_version="1.4.7")
    report(tree, reported_version="1.4.6")
    found = shown(tree)
    assert list(found.version_drifts) == [
        drift_pb2.VersionDrift(
            component="souverix-rempart",
            desired="1.4.7",
            actual="1.4.6",
            severity=MEDIUM,
            impact="missing_security_patch",
        )
    ]
    assert (found.state, found.severity, found.objects_out_of_spec) == (DRIFTING, MEDIUM, 1)
    assert found.score == 2.0


def test_configuration_drift_is_told_field_by_field(tree: MemoryController) -> None:
    desire(tree, {"stir": {"enforcement_mode": "hard"}, "rate_limit": {"max_cps": 2000}, "x": 1})
    report(tree, {"stir": {"enforcement_mode": "soft"}, "rate_limit": {"max_cps": 1500}, "x": "1"})
    found = shown(tree, later_ms=15 * 60_000)
    assert found.config_drift.objects == 2
    assert [
        (d.field, d.desired.string_value or d.desired.number_value)
        for d in found.config_drift.details
    ] == [("rate_limit.max_cps", 2000.0), ("stir.enforcement_mode", "hard")]
    assert found.config_drift.stale_by.seconds == 15 * 60
    assert found.stale_by.seconds == 15 * 60
    assert found.score == 4.0


def test_a_configuration_never_applied_is_missing_field_by_field(tree: MemoryController) -> None:
    desire(tree, {"a": 1, "b": 2})
    report(tree)
    found = shown(tree)
    assert [d.field for d in found.config_drift.details] == ["a", "b"]
    assert not found.config_drift.details[0].HasField("actual")


def test_details_are_bounded_and_all_are_counted(tree: MemoryController) -> None:
    desire(tree, {f"f{number:04}": number for number in range(MAX_DETAILS + 20)})
    report(tree)
    found = shown(tree)
    assert found.config_drift.objects == found.objects_out_of_spec == MAX_DETAILS + 20
    assert len(found.config_drift.details) == MAX_DETAILS


def test_what_governs_is_the_effective_state_along_the_path(tree: MemoryController) -> None:
    put_policy(tree, ROOT, target_version="1.0.0")
    put_policy(tree, "region-a", target_version="2.0.0", config={"a": 1})
    report(tree, {"a": 1}, reported_version="2.0.0")
    assert shown(tree).state == IN_SPEC
    put_policy(tree, ROOT, target_version="3.0.0", enforced=True)
    found = shown(tree)
    assert found.version_drifts[0].desired == "3.0.0"
    assert found.severity == HIGH


def test_rules_of_policies_say_defaults_and_severities(tree: MemoryController) -> None:
    rules = drift_pb2.DriftRules(severities={"stir": drift_pb2.DRIFT_SEVERITY_CRITICAL})
    rules.defaults.update({"log": "info"})
    put_policy(tree, ROOT, config={"stir": {"mode": "hard"}, "log": "info"}, drift_rules=rules)
    report(tree, {"stir": {"mode": "hard"}})
    assert shown(tree).state == IN_SPEC
    report(tree, {"stir": {"mode": "soft"}})
    found = shown(tree)
    assert found.severity == drift_pb2.DRIFT_SEVERITY_CRITICAL
    assert found.score == 10.0


def test_policy_drift_tells_version_staleness_and_compliance(tree: MemoryController) -> None:
    config = {f"f{number}": number for number in range(19)}
    put_policy(tree, "region-a", config=config, target_version="1.4.7", version="policy-v2.1")
    report(
        tree,
        config | {"f3": "other"},
        reported_version="1.4.7",
        policy_bundle="base",
        policy_version="policy-v2.0",
    )
    found = shown(tree, later_ms=17 * 3_600_000).policy_drift
    assert (found.policy_version, found.actual_version) == ("policy-v2.1", "policy-v2.0")
    assert (found.policy_bundle, found.actual_policy_bundle) == ("base", "base")
    assert found.compliance_score == 0.95
    assert found.violations == 1
    assert found.stale_by.seconds == 17 * 3600
    assert found.severity == MEDIUM
    assert shown(tree).objects_out_of_spec == 2


def test_a_node_that_does_not_name_its_policy_is_judged_by_the_rules(
    tree: MemoryController,
) -> None:
    put_policy(tree, ROOT, version="v2", target_version="1.0.0")
    report(tree, reported_version="1.0.0")
    assert shown(tree).state == IN_SPEC
    assert not shown(tree).HasField("policy_drift")
    report(tree, reported_version="0.9.0")
    found = shown(tree)
    assert (found.policy_drift.violations, found.policy_drift.compliance_score) == (1, 0.0)
    assert found.objects_out_of_spec == 1


def test_what_a_node_declares_itself_is_no_rule_of_a_policy(tree: MemoryController) -> None:
    put_policy(tree, ROOT, version="v2", target_version="1.0.0")
    desire(tree, target_version="2.0.0")
    report(tree, reported_version="1.0.0")
    found = shown(tree)
    assert found.state == DRIFTING
    assert not found.HasField("policy_drift")


def test_another_bundle_in_force_is_grave_and_a_missing_one_unknown(
    tree: MemoryController,
) -> None:
    put_policy(tree, ROOT, policy="strict", version="v1")
    desire(tree, policy_bundle="strict")
    report(tree, policy_bundle="lax", policy_version="v1")
    assert shown(tree).severity == HIGH
    desire(tree, policy_bundle="gone")
    found = shown(tree)
    assert (found.state, list(found.unknown_fields)) == (UNKNOWN, ["policy_version"])


def test_a_waived_drift_stands_apart_and_counts_again_when_the_waiver_ends(
    tree: MemoryController,
) -> None:
    desire(tree, {"a": {"b": 1, "c": 1}}, target_version="1.0.0")
    report(tree, {"a": {"b": 2, "c": 2}}, reported_version="0.9.0")
    waive(tree, waiver(tree, "configuration.a"), waiver(tree, "target_version"))
    found = shown(tree)
    assert (found.state, found.score, found.objects_out_of_spec) == (IN_SPEC, 0, 0)
    assert found.waived_objects == 3
    assert [w.WhichOneof("difference") for w in found.waived] == [
        "version",
        "configuration",
        "configuration",
    ]
    assert found.waived[0].waiver.reason == "test"
    assert shown(tree, later_ms=60_000).objects_out_of_spec == 3


def test_a_waiver_of_one_value_does_not_accept_another(tree: MemoryController) -> None:
    desire(tree, {"a": 1})
    report(tree, {"a": 2})
    only = waiver(tree, "configuration.a")
    only.any_value = False
    only.accepted_value.number_value = 2
    waive(tree, only)
    assert shown(tree).state == IN_SPEC
    report(tree, {"a": 3})
    assert shown(tree).state == DRIFTING


def test_a_waived_violation_counts_as_fulfilled(tree: MemoryController) -> None:
    put_policy(tree, ROOT, version="v1", config={"a": 1, "b": 1, "c": 1, "d": 1})
    report(tree, {"a": 1, "b": 1, "c": 2, "d": 2})
    waive(tree, waiver(tree, "configuration.c"))
    assert shown(tree).policy_drift.compliance_score == 0.75


def test_lists_get_counts_without_details(tree: MemoryController) -> None:
    desire(tree, {"a": 1}, target_version="1.0.0")
    report(tree, {"a": 2}, reported_version="0.9.0")
    found = drift(tree).message(details=False)
    assert (found.state, found.score, found.objects_out_of_spec) == (DRIFTING, 7.0, 2)
    assert not found.version_drifts
    assert not found.HasField("config_drift")


def test_age_is_that_of_the_report(tree: MemoryController) -> None:
    report(tree)
    write = tree.state.winner(Key(ZONE, NODE, "actual_state"))
    assert write is not None
    assert drift(tree).report_ms == wall_ms_of(write.stamp)
    assert drift(tree, later_ms=-3_600_000).stale_ms == 0


documents = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
    st.integers(-5, 5)
    | st.booleans()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    max_size=4,
)


@given(documents, st.sampled_from(["", "1.2.3", "souverix-1.4.7", "nightly"]))
def test_a_node_that_reports_what_is_desired_never_drifts(
    config: dict[str, Any], version: str
) -> None:
    root = root_controller()
    root.declare("region-a", ROOT)
    root.declare(ZONE, "region-a")
    add_node(root, NODE)
    put_policy(root, "region-a", config=config, target_version=version, version="v1")
    report(root, config, reported_version=version, policy_bundle="base", policy_version="v1")
    assert shown(root).state == IN_SPEC
    assert shown(root).score == 0
