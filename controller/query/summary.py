"""What the read models keep of one node: everything to find, count and order it by. Owns the summary's making from the
facts; keeps nothing.

Nothing in it depends on when it was made, but for the drift: a waiver that ends changes it, and `valid_until_ms` says
when. How old a report is, and whether a mode still holds, is left to who reads it. A summary must say the same of the
same facts in every release of one `SUMMARY_VERSION`, since those that are stored are taken back at a start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from controller.attestation.record import state_in
from controller.query.likeness import (
    ALONE,
    Basis,
    Comparison,
    Comparisons,
    DomainGrounds,
    comparison_of,
    inputs_of,
)
from controller.twin.drift import DriftAnalyzer
from controller.twin.facts import Facts, conflicted, effective_ms, held_of, winners_of
from controller.twin.node import NODE_ASPECTS, NodeAt
from federation.clock import wall_ms_of
from federation.codec import Write
from federation.identifiers import Key
from federation.state import State

#: To be raised whenever a summary says something else of the same facts, by a rule of the drift's, say.
SUMMARY_VERSION = 1

#: Stands for a time that is not known.
NEVER = -(2**63)

#: Version, hash of the configuration, version of the policy: what a node runs.
Release = tuple[str, str, str]

NO_RELEASE: Release = ("", "", "")


class NodeSummary(NamedTuple):
    """One node. Times are milliseconds since the epoch, `NEVER` where there is none."""

    domain: str
    kind: int = 0
    region: str = ""
    zone: str = ""
    component_type: str = ""
    tags: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    mode: int = 0
    mode_since_ms: int = NEVER
    phase: int = 0
    lifecycle_state: str = ""
    health: int = 0
    #: What it reports to run.
    release: Release = NO_RELEASE
    #: Declared for this one node.
    policy_bundle: str = ""
    target_version: str = ""
    #: As in `Comparison`, with its fields' names.
    effective_version: str = ""
    governing_policy: str = ""
    drift_state: int = 0
    drift_score: float = 0.0
    drift_severity: int = 0
    drift_objects: int = 0
    drift_waived: int = 0
    drift_unknown: int = 0
    report_ms: int = NEVER
    #: When the newest report was made, by the node's own clock.
    node_clock_ms: int = NEVER
    create_ms: int = NEVER
    update_ms: int = NEVER
    optimistic: bool = False
    conflicted: bool = False
    #: A return was not in order, and none has put it right.
    incident: bool = False
    #: As it was recorded; whether it still holds at a time is `Moment`'s to say.
    integrity: int = 0
    attested_until_ms: int = NEVER
    #: When a waiver ends, so that the drift is another; `sys.maxsize`: never.
    valid_until_ms: int = sys.maxsize


def summarise(
    facts: Facts,
    analyzer: DriftAnalyzer,
    at: NodeAt,
    compare: Callable[[dict[str, Any]], Comparison] | None = None,
) -> NodeSummary:
    """The summary of a node that exists; `compare` may know its comparison by the values of its aspects."""
    domain, subject = at.home.domain, at.subject
    held = held_of(facts, domain, subject, NODE_ASPECTS)
    winners = winners_of(facts, held)
    bodies = {aspect: write.body() for aspect, write in winners.items() if aspect in _READ_ASPECTS}
    compared = compare(bodies) if compare is not None else comparison_of(analyzer.drift_of(at))
    fields = _declared(bodies) | _reported(bodies) | _times(facts, domain, subject, winners, bodies)
    waivers = bodies.get("drift_waiver")
    ends = (w.expire_time.ToMilliseconds() for w in waivers.waivers) if waivers is not None else ()
    return NodeSummary(
        domain=domain,
        optimistic=any(w.optimistic for a, w in winners.items() if a in _OPTIMISTIC_ASPECTS),
        conflicted=at.home.disputed or bool(conflicted(facts, held)),
        valid_until_ms=min((end for end in ends if end > analyzer.now_ms), default=sys.maxsize),
        **fields,
        **compared._asdict(),
    )


class Summariser:
    """Makes summaries of nodes as they are now, and compares those that are alike once."""

    def __init__(self, state: State) -> None:
        self.grounds = DomainGrounds(state)
        self.comparisons = Comparisons()

    def summarise(
        self, facts: Facts, analyzer: DriftAnalyzer, at: NodeAt
    ) -> tuple[NodeSummary, Basis]:
        """The summary of a node that exists, and what it was made from."""
        grounds = self.grounds.of(at.home.domain)
        inputs = ALONE

        def compare(bodies: dict[str, Any]) -> Comparison:
            nonlocal inputs
            inputs = ALONE if grounds.is_gated else inputs_of(bodies)
            spec = bodies.get("node_spec")
            alike = self.grounds.alike(
                grounds, inputs, sorted(set(spec.tags)) if spec is not None else ()
            )
            made = self.comparisons.get(alike)
            if made is None:
                made = comparison_of(analyzer.drift_of(at))
                self.comparisons.put(alike, made)
            return made

        summary = summarise(facts, analyzer, at, compare)
        return summary, Basis(grounds, inputs)


_READ_ASPECTS = frozenset(
    {
        "existence",
        "node_spec",
        "desired_state",
        "actual_state",
        "lifecycle",
        "link_state",
        "drift_waiver",
        "return_incident",
        "attestation",
    }
)
_OPTIMISTIC_ASPECTS = frozenset({"node_spec", "desired_state", "drift_waiver"})


def _declared(bodies: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    spec, desired = bodies.get("node_spec"), bodies.get("desired_state")
    if spec is not None:
        fields.update(
            kind=spec.kind,
            region=spec.region,
            zone=spec.zone,
            component_type=spec.component_type,
            tags=tuple(sorted(set(spec.tags))),
            labels=tuple(sorted(spec.labels.items())),
        )
    if desired is not None:
        fields.update(policy_bundle=desired.policy_bundle, target_version=desired.target_version)
    return fields


def _reported(bodies: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    actual, lifecycle, link = (
        bodies.get("actual_state"),
        bodies.get("lifecycle"),
        bodies.get("link_state"),
    )
    if actual is not None:
        release = (actual.reported_version, actual.config_hash, actual.policy_version)
        fields.update(release=release, health=actual.runtime.health)
        if actual.HasField("report_time"):
            fields["node_clock_ms"] = actual.report_time.ToMilliseconds()
    if lifecycle is not None:
        fields.update(phase=lifecycle.phase, lifecycle_state=lifecycle.state)
    if link is not None:
        fields.update(mode=link.mode)
    incident = bodies.get("return_incident")
    if incident is not None:
        fields.update(incident=not incident.HasField("resolve_time"))
    attested = bodies.get("attestation")
    if attested is not None:
        fields.update(integrity=int(state_in(attested)))
        if attested.HasField("expire_time"):
            fields["attested_until_ms"] = attested.expire_time.ToMilliseconds()
    return fields


def _times(
    facts: Facts, domain: str, subject: str, winners: dict[str, Write], bodies: dict[str, Any]
) -> dict[str, int]:
    times: dict[str, int] = {}
    link, existence = bodies.get("link_state"), bodies.get("existence")
    report = winners.get("actual_state")
    if report is not None:
        times["report_ms"] = effective_ms(facts, Key(domain, subject, "actual_state"), report)
    if link is not None:
        key = Key(domain, subject, "link_state")
        times["mode_since_ms"] = (
            link.since.ToMilliseconds()
            if link.HasField("since")
            else effective_ms(facts, key, winners["link_state"])
        )
    if existence is not None and existence.HasField("time"):
        times["create_ms"] = existence.time.ToMilliseconds()
    if winners:
        times["update_ms"] = wall_ms_of(max(write.stamp for write in winners.values()))
    return times
