"""The drift of a node: how what it reported differs from what governs it. Computed from the facts each time it is asked
for, never stored (seed 1: "store inputs"). Owns what is compared, what a difference weighs, and the composition of
`Drift`; the rules of normalising are `configuration_drift`'s, those of versions `versions`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from controller.supply.gate import Gate
from controller.twin.configuration_drift import (
    ComparisonRules,
    FieldDifference,
    Leaf,
    Path,
    compare_fields,
    fields_of,
    join_rules,
    value_of,
)
from controller.twin.drift_waivers import (
    CONFIGURATION_FIELD,
    POLICY_FIELD,
    VERSION_FIELD,
    Waivers,
)
from controller.twin.effective import (
    EffectiveState,
    PolicyAt,
    effective_state,
    policies_along,
    policy_to_follow,
)
from controller.twin.facts import Facts, body_of, effective_time, timestamp
from controller.twin.node import NodeAt
from controller.twin.versions import component_of, version_difference
from federation.identifiers import Key
from souverix.fleet.v1 import drift_pb2, node_pb2

#: What one object of a severity adds to the score: of two nodes, the one with the graver differences comes first, and
#: a node with one grave difference before one with two middling ones.
WEIGHTS: Mapping[int, float] = {
    drift_pb2.DRIFT_SEVERITY_UNSPECIFIED: 0.0,
    drift_pb2.DRIFT_SEVERITY_LOW: 1.0,
    drift_pb2.DRIFT_SEVERITY_MEDIUM: 2.0,
    drift_pb2.DRIFT_SEVERITY_HIGH: 5.0,
    drift_pb2.DRIFT_SEVERITY_CRITICAL: 10.0,
}

#: Fields shown one by one: more are counted only, so that a document without any likeness fits in a reply.
MAX_DETAILS = 100


@dataclass(frozen=True, slots=True)
class DriftObject:
    """One object that differs."""

    #: As waivers name it: "target_version", "configuration.stir.mode".
    field: str
    severity: drift_pb2.DriftSeverity
    actual: Leaf
    what: drift_pb2.VersionDrift | FieldDifference | drift_pb2.PolicyDrift


@dataclass(frozen=True, slots=True)
class Compliance:
    """How a node fulfils what policies decide for it."""

    rules: int = 0
    violations: int = 0
    severity: drift_pb2.DriftSeverity = drift_pb2.DRIFT_SEVERITY_UNSPECIFIED


@dataclass(frozen=True, slots=True)
class NodeDrift:
    """The drift of one node at one time. Times are milliseconds since the epoch."""

    now_ms: int
    #: When the report compared took effect; None: the node never reported.
    report_ms: int | None
    objects: tuple[DriftObject, ...]
    waived: tuple[tuple[DriftObject, drift_pb2.DriftWaiver], ...]
    unknown: tuple[str, ...]
    compliance: Compliance
    #: Policy that should be in force, and what is, for `PolicyDrift`.
    policy: drift_pb2.PolicyDrift
    #: Version that governs the node; empty where nothing declares one.
    target_version: str

    @property
    def state(self) -> drift_pb2.DriftState:
        """What the comparison came to."""
        if self.objects:
            return drift_pb2.DRIFT_STATE_DRIFTING
        if self.unknown or self.report_ms is None:
            return drift_pb2.DRIFT_STATE_UNKNOWN
        return drift_pb2.DRIFT_STATE_IN_SPEC

    @property
    def score(self) -> float:
        """Sum of the objects' weights."""
        return sum(WEIGHTS.get(each.severity, 0.0) for each in self.objects)

    @property
    def severity(self) -> drift_pb2.DriftSeverity:
        """The worst of the objects."""
        return _worst(each.severity for each in self.objects)

    @property
    def stale_ms(self) -> int | None:
        """Age of the report compared; None when there is none."""
        return max(0, self.now_ms - self.report_ms) if self.report_ms is not None else None

    def message(self, *, details: bool) -> drift_pb2.Drift:
        """As clients see it; without details only what is needed to sort and count."""
        drift = drift_pb2.Drift(
            state=self.state,
            score=self.score,
            objects_out_of_spec=len(self.objects),
            severity=self.severity,
            waived_objects=len(self.waived),
            unknown_fields=self.unknown,
            last_evaluated_time=timestamp(self.now_ms),
        )
        if self.report_ms is not None and self.stale_ms is not None:
            drift.last_sync_time.CopyFrom(timestamp(self.report_ms))
            drift.stale_by.CopyFrom(duration(self.stale_ms))
        if details:
            self._fill_details(drift)
        return drift

    def _fill_details(self, drift: drift_pb2.Drift) -> None:
        differences = []
        for each in self.objects:
            if isinstance(each.what, drift_pb2.VersionDrift):
                drift.version_drifts.append(each.what)
            elif isinstance(each.what, FieldDifference):
                differences.append(each.what)
        if differences:
            config = drift.config_drift
            config.objects = len(differences)
            config.severity = _worst(each.severity for each in differences)
            config.details.extend(map(_difference_message, differences[:MAX_DETAILS]))
            config.last_sync_time.CopyFrom(drift.last_sync_time)
            config.stale_by.CopyFrom(drift.stale_by)
        in_force = [e.what for e in self.objects if isinstance(e.what, drift_pb2.PolicyDrift)]
        if in_force or self.compliance.violations:
            policy = drift.policy_drift
            policy.CopyFrom(in_force[0] if in_force else self.policy)
            policy.severity = max(policy.severity, self.compliance.severity)
            policy.violations = self.compliance.violations
            if self.compliance.rules:
                fulfilled = self.compliance.rules - self.compliance.violations
                policy.compliance_score = fulfilled / self.compliance.rules
        for waived, waiver in self.waived[:MAX_DETAILS]:
            drift.waived.append(_waived_message(waived, waiver))


class DriftAnalyzer:
    """Compares nodes at one time. What nodes of one domain have in common is looked up once.

    `now_ms` is milliseconds since the epoch.
    """

    def __init__(self, facts: Facts, now_ms: int) -> None:
        self.now_ms = now_ms
        self._facts = facts
        self._along: dict[str, list[PolicyAt]] = {}
        self._gate = Gate(facts, now_ms)
        self._policy_fields: dict[str, dict[Path, Leaf]] = {}

    def policies_along(self, domain: str) -> list[PolicyAt]:
        """All policies along the path of a domain, from the root down."""
        found = self._along.get(domain)
        if found is None:
            found = self._along[domain] = policies_along(self._facts, domain)
        return found

    def drift_of(self, at: NodeAt) -> NodeDrift:
        """The drift of a node."""
        facts, domain, subject = self._facts, at.home.domain, at.subject
        along = self.policies_along(domain)
        effective = effective_state(facts, domain, subject, along, self._gate)
        policies = effective.policies
        key = Key(domain, subject, "actual_state")
        report = facts.winner(key)
        actual: node_pb2.ActualState | None = report.body() if report is not None else None
        report_ms = (
            effective_time(facts, key, report).ToMilliseconds() if report is not None else None
        )
        policy = self._policy_to_follow(effective, actual)
        unknown = []
        found = []
        if effective.desired.target_version:
            if actual is None or not actual.reported_version:
                unknown.append(VERSION_FIELD)
            else:
                found.extend(self._version(at, effective.desired.target_version, actual))
        differences: list[FieldDifference] = []
        if effective.desired.HasField("configuration"):
            if actual is None:
                unknown.append(CONFIGURATION_FIELD)
            else:
                differences = _differences(effective.desired, actual, policies)
                found.extend(map(_configuration_object, differences))
        bundle = effective.desired.policy_bundle
        if (policy.policy_bundle and actual is None) or (bundle and not policy.policy_bundle):
            unknown.append(POLICY_FIELD)
        elif actual is not None:
            found.extend(_policy_object(policy, actual))
        waivers = Waivers(body_of(facts, Key(domain, subject, "drift_waiver")), self.now_ms)
        objects, waived = [], []
        for each in found:
            waiver = waivers.accepting(each.field, each.actual)
            if waiver is None:
                objects.append(each)
            else:
                waived.append((each, waiver))
        return NodeDrift(
            self.now_ms,
            report_ms,
            tuple(objects),
            tuple(waived),
            tuple(unknown),
            self._compliance(effective, actual, objects),
            policy,
            effective.desired.target_version,
        )

    def _version(self, at: NodeAt, desired: str, actual: node_pb2.ActualState) -> list[DriftObject]:
        difference = version_difference(desired, actual.reported_version)
        if difference is None:
            return []
        spec = body_of(self._facts, Key(at.home.domain, at.subject, "node_spec"))
        component = spec.component_type if spec is not None else ""
        drift = drift_pb2.VersionDrift(
            component=component or component_of(desired, actual.reported_version),
            desired=desired,
            actual=actual.reported_version,
            severity=difference.severity,
            impact=difference.impact,
        )
        return [DriftObject(VERSION_FIELD, difference.severity, actual.reported_version, drift)]

    def _policy_to_follow(
        self, effective: EffectiveState, actual: node_pb2.ActualState | None
    ) -> drift_pb2.PolicyDrift:
        nearest = policy_to_follow(effective)
        drift = drift_pb2.PolicyDrift()
        if actual is not None:
            drift.actual_version = actual.policy_version
            drift.actual_policy_bundle = actual.policy_bundle
        if nearest is not None:
            drift.policy_bundle = nearest.policy
            drift.policy_version = nearest.spec.version
            key = Key(nearest.domain, f"policies/{nearest.policy}", "policy")
            written = self._facts.winner(key)
            if written is not None:
                since_ms = effective_time(self._facts, key, written).ToMilliseconds()
                drift.stale_by.CopyFrom(duration(max(0, self.now_ms - since_ms)))
        return drift

    def _compliance(
        self,
        effective: EffectiveState,
        actual: node_pb2.ActualState | None,
        objects: list[DriftObject],
    ) -> Compliance:
        """Counts the rules that policies, and not the node's own declaration, decide."""
        if actual is None:
            return Compliance()
        rules = 0
        violated = []
        decided_by = effective.decided_by
        if decided_by.get(VERSION_FIELD, "").startswith("domains/") and actual.reported_version:
            rules += 1
            violated += [each for each in objects if each.field == VERSION_FIELD]
        if decided_by.get(CONFIGURATION_FIELD, "").startswith("domains/"):
            digest = effective.desired.config_hash
            fields = self._policy_fields.get(digest)
            if fields is None:
                fields = self._policy_fields[digest] = fields_of(effective.desired.configuration)
            rules += len(fields)
            violated += [
                each
                for each in objects
                if isinstance(each.what, FieldDifference) and each.what.path in fields
            ]
        return Compliance(rules, len(violated), _worst(each.severity for each in violated))


def duration(milliseconds: int) -> Duration:
    """Milliseconds as a message."""
    span = Duration()
    span.FromMilliseconds(milliseconds)
    return span


def _worst(severities: Iterable[drift_pb2.DriftSeverity]) -> drift_pb2.DriftSeverity:
    return max(severities, default=drift_pb2.DRIFT_SEVERITY_UNSPECIFIED)


def _differences(
    desired: node_pb2.DesiredState, actual: node_pb2.ActualState, policies: Sequence[PolicyAt]
) -> list[FieldDifference]:
    if desired.config_hash and desired.config_hash == actual.config_hash:
        return []
    return compare_fields(
        fields_of(desired.configuration), fields_of(actual.configuration), _rules(policies)
    )


def _rules(policies: Sequence[PolicyAt]) -> ComparisonRules:
    return join_rules(
        (at.spec.drift_rules, at.spec.enforced)
        for at in policies
        if at.spec.HasField("drift_rules")
    )


def _configuration_object(difference: FieldDifference) -> DriftObject:
    field = f"{CONFIGURATION_FIELD}.{difference.field}"
    return DriftObject(field, difference.severity, difference.actual, difference)


def _policy_object(
    policy: drift_pb2.PolicyDrift, actual: node_pb2.ActualState
) -> list[DriftObject]:
    """A node that says nothing of the policy in force is judged by its rules alone."""
    other_bundle = bool(actual.policy_bundle) and actual.policy_bundle != policy.policy_bundle
    other_version = (
        bool(actual.policy_version)
        and bool(policy.policy_version)
        and actual.policy_version != policy.policy_version
    )
    if not policy.policy_bundle or not (other_bundle or other_version):
        return []
    severity = drift_pb2.DRIFT_SEVERITY_HIGH if other_bundle else drift_pb2.DRIFT_SEVERITY_MEDIUM
    drift = drift_pb2.PolicyDrift()
    drift.CopyFrom(policy)
    drift.severity = severity
    present = f"{actual.policy_bundle}/{actual.policy_version}"
    return [DriftObject(POLICY_FIELD, severity, present, drift)]


def _difference_message(difference: FieldDifference) -> drift_pb2.ConfigDifference:
    return drift_pb2.ConfigDifference(
        field=difference.field,
        desired=value_of(difference.desired),
        actual=value_of(difference.actual),
        severity=difference.severity,
    )


def _waived_message(each: DriftObject, waiver: drift_pb2.DriftWaiver) -> drift_pb2.WaivedDrift:
    if isinstance(each.what, drift_pb2.VersionDrift):
        return drift_pb2.WaivedDrift(waiver=waiver, version=each.what)
    if isinstance(each.what, drift_pb2.PolicyDrift):
        return drift_pb2.WaivedDrift(waiver=waiver, policy=each.what)
    return drift_pb2.WaivedDrift(waiver=waiver, configuration=_difference_message(each.what))
