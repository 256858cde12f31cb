"""The fields that nodes are filtered and ordered by. Owns their names, their kinds, and from which column each is read.

A field is named by its path in `souverix.fleet.v1.Node`, or by a short name.
"""

from __future__ import annotations

import enum
from typing import Any, Final, NamedTuple

from souverix.fleet.v1 import connectivity_pb2, drift_pb2, lifecycle_pb2, node_pb2, supply_chain_pb2


class Kind(enum.Enum):
    """What a field's values are, and so how they are compared."""

    ID = "an id"
    TEXT = "a text"
    VERSION = "a version"
    ENUM = "a value of an enum"
    NUMBER = "a number"
    FLAG = "true or false"
    TIME = "a time"
    DURATION = "a duration"
    TAGS = "a set of words"
    LABELS = "a set of named values"


class Field(NamedTuple):
    """One field."""

    path: str
    names: tuple[str, ...]
    kind: Kind
    #: Column it is read from; empty for those that `Moment` computes.
    column: str
    #: Of an enum: its descriptor.
    enum_type: Any = None
    #: Of a column of tuples: which part is meant.
    part: int | None = None


_MODE = connectivity_pb2.ConnectivityMode.DESCRIPTOR
_K = Kind

FIELDS: Final = (
    Field("id", (), _K.ID, "id"),
    Field("domain", (), _K.TEXT, "domain"),
    Field("spec.kind", ("kind",), _K.ENUM, "kind", node_pb2.NodeKind.DESCRIPTOR),
    Field("spec.component_type", ("component_type",), _K.TEXT, "component_type"),
    Field("spec.region", ("region",), _K.TEXT, "region"),
    Field("spec.zone", ("zone",), _K.TEXT, "zone"),
    Field("spec.tags", ("tags",), _K.TAGS, "tags"),
    Field("spec.labels", ("labels",), _K.LABELS, "labels"),
    Field("connectivity.link.mode", ("mode",), _K.ENUM, "mode", _MODE),
    Field("connectivity.link.since", ("mode_since",), _K.TIME, "mode_since_ms"),
    Field("connectivity.last_known.mode", ("last_known_mode",), _K.ENUM, "last_known_mode", _MODE),
    Field("connectivity.unknown_since", ("unknown_since",), _K.TIME, "unknown_since_ms"),
    Field("lifecycle.phase", ("phase",), _K.ENUM, "phase", lifecycle_pb2.LifecyclePhase.DESCRIPTOR),
    Field("lifecycle.state", ("state",), _K.TEXT, "lifecycle_state"),
    Field("actual_state.reported_version", ("version",), _K.VERSION, "release", None, 0),
    Field("actual_state.config_hash", ("config_hash",), _K.TEXT, "release", None, 1),
    Field("actual_state.policy_version", ("policy_version",), _K.VERSION, "release", None, 2),
    Field("actual_state.runtime.health", ("health",), _K.ENUM, "health",
          node_pb2.RuntimeHealth.DESCRIPTOR),
    Field("desired_state.policy_bundle", ("policy_bundle",), _K.TEXT, "policy_bundle"),
    Field("desired_state.target_version", ("declared_version",), _K.VERSION, "target_version"),
    Field("effective_desired_state.desired_state.target_version", ("target_version",), _K.VERSION,
          "effective_version"),
    Field("governing_policy", ("policy",), _K.TEXT, "governing_policy"),
    Field("drift.state", (), _K.ENUM, "drift_state", drift_pb2.DriftState.DESCRIPTOR),
    Field("drift.score", ("score",), _K.NUMBER, "drift_score"),
    Field("drift.severity", ("severity",), _K.ENUM, "drift_severity",
          drift_pb2.DriftSeverity.DESCRIPTOR),
    Field("drift.objects_out_of_spec", ("drift_objects",), _K.NUMBER, "drift_objects"),
    Field("drift.waived_objects", (), _K.NUMBER, "drift_waived"),
    Field("drift.last_sync_time", ("report_time",), _K.TIME, "report_ms"),
    Field("drift.stale_by", ("stale_by",), _K.DURATION, "stale_ms"),
    Field("trust.runtime_attestation.integrity_state", ("attestation", "integrity"), _K.ENUM,
          "integrity", supply_chain_pb2.IntegrityState.DESCRIPTOR),
    Field("trust.runtime_attestation.expire_time", ("attested_until",), _K.TIME,
          "attested_until_ms"),
    Field("create_time", (), _K.TIME, "create_ms"),
    Field("update_time", (), _K.TIME, "update_ms"),
    Field("optimistic", (), _K.FLAG, "optimistic"),
    Field("conflicted", (), _K.FLAG, "conflicted"),
    Field("unknown", (), _K.FLAG, "unknown"),
)  # fmt: skip

#: Fields by path and by short name.
BY_NAME: Final = {name: field for field in FIELDS for name in (field.path, *field.names)}

#: The names people are told of: the short ones where there are any.
KNOWN: Final = ", ".join(sorted(field.names[0] if field.names else field.path for field in FIELDS))


def field_of(path: tuple[str, ...]) -> tuple[Field, str] | None:
    """The field a path names, and the key within it (for labels); None when there is none."""
    name = ".".join(path)
    found = BY_NAME.get(name)
    if found is not None:
        return found, ""
    for size in (1, 2):
        found = BY_NAME.get(".".join(path[:size]))
        if found is not None and found.kind is Kind.LABELS and len(path) > size:
            return found, ".".join(path[size:])
    return None
