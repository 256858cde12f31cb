"""Summaries as the store keeps them. Owns their form and its name; decides nothing of when they are stored."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

from controller.query.likeness import Basis, Grounds
from controller.query.summary import NEVER, SUMMARY_VERSION, NodeSummary
from souverix.checkpoint.v1 import checkpoint_pb2

#: Fields that are alike in the summary and in its stored form.
_ALIKE = (
    "kind",
    "region",
    "zone",
    "component_type",
    "tags",
    "mode",
    "phase",
    "lifecycle_state",
    "health",
    "policy_bundle",
    "target_version",
    "effective_version",
    "governing_policy",
    "drift_state",
    "drift_score",
    "drift_severity",
    "drift_objects",
    "drift_waived",
    "drift_unknown",
    "optimistic",
    "conflicted",
    "incident",
    "integrity",
)

_TIMES = (
    "mode_since_ms",
    "report_ms",
    "node_clock_ms",
    "create_ms",
    "update_ms",
    "attested_until_ms",
)


def _form() -> str:
    """Changes with whatever makes what is stored say something else."""
    fields = [(f.name, f.number) for f in checkpoint_pb2.StoredSummary.DESCRIPTOR.fields]
    rules = repr((SUMMARY_VERSION, NodeSummary._fields, fields))
    return hashlib.sha256(rules.encode()).hexdigest()[:16]


#: Names the form; summaries of another are not understood.
FORM = _form()


def pack(summary: NodeSummary | None, basis: Basis) -> bytes:
    """A summary as it is stored; empty for a node that does not exist."""
    if summary is None:
        return b""
    fields: dict[str, Any] = {name: getattr(summary, name) for name in _ALIKE}
    for name in _TIMES:
        if getattr(summary, name) != NEVER:
            fields[name] = getattr(summary, name)
    if summary.valid_until_ms != sys.maxsize:
        fields["valid_until_ms"] = summary.valid_until_ms
    version, config_hash, policy_version = summary.release
    return checkpoint_pb2.StoredSummary(
        labels=[text for label in summary.labels for text in label],
        reported_version=version,
        config_hash=config_hash,
        policy_version=policy_version,
        inputs=basis.inputs,
        policies=basis.grounds.policies,
        admissions=basis.grounds.admissions,
        gated=basis.grounds.is_gated,
        **fields,
    ).SerializeToString()


def unpack(domain: str, data: bytes) -> tuple[NodeSummary, Basis]:
    """A summary of a node of a domain, as it was packed. Raises `DecodeError`."""
    m = checkpoint_pb2.StoredSummary.FromString(data)
    labels = m.labels
    summary = NodeSummary(
        domain,
        m.kind,
        m.region,
        m.zone,
        m.component_type,
        tuple(m.tags),
        tuple(zip(labels[::2], labels[1::2], strict=True)) if labels else (),
        m.mode,
        m.mode_since_ms if m.HasField("mode_since_ms") else NEVER,
        m.phase,
        m.lifecycle_state,
        m.health,
        (m.reported_version, m.config_hash, m.policy_version),
        m.policy_bundle,
        m.target_version,
        m.effective_version,
        m.governing_policy,
        m.drift_state,
        m.drift_score,
        m.drift_severity,
        m.drift_objects,
        m.drift_waived,
        m.drift_unknown,
        m.report_ms if m.HasField("report_ms") else NEVER,
        m.node_clock_ms if m.HasField("node_clock_ms") else NEVER,
        m.create_ms if m.HasField("create_ms") else NEVER,
        m.update_ms if m.HasField("update_ms") else NEVER,
        m.optimistic,
        m.conflicted,
        m.incident,
        m.integrity,
        m.attested_until_ms if m.HasField("attested_until_ms") else NEVER,
        m.valid_until_ms if m.HasField("valid_until_ms") else sys.maxsize,
    )
    return summary, Basis(Grounds(m.policies, m.admissions, m.gated), m.inputs)
