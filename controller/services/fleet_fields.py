"""What fields of fleet and policy requests may hold. Owns the limits and the wording of refusals; looks at one request
only, never at state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from controller.twin.configuration_hash import configuration_hash
from federation.errors import InvalidWrite
from federation.identifiers import is_valid_id
from souverix.fleet.v1 import domain_pb2, drift_pb2, node_pb2
from souverix.policy.v1 import policy_pb2

#: Values over this stand outside the log (design §4).
MAX_VALUE_BYTES = 64 * 1024

#: Words and named values to find something by: enough for every dimension an operator sorts by, few enough to read.
MAX_TAGS = 64
MAX_LABELS = 64
MAX_WORD_BYTES = 128
MAX_LABEL_VALUE_BYTES = 512

#: Names and reasons for people: a line, not a document.
MAX_TEXT_BYTES = 1024

ID_RULE = "1 to 63 lower-case letters, digits and '-', not beginning or ending with '-'"


def check_id(value: str, field: str) -> str:
    """A plain id. Raises `InvalidWrite`."""
    if not is_valid_id(value):
        shown = f"{value[:80]!r} is no id" if value else "is required"
        raise InvalidWrite(f"{field} {shown}: {ID_RULE}", field=field)
    return value


def check_domain_filter(domain: str) -> None:
    """The domain a list or a watch is narrowed to; empty: not narrowed. One that is not known here matches nothing, for
    it may be heard of later. Raises `InvalidWrite`.
    """
    if domain:
        check_id(domain, "domain")


def id_in_name(name: str, collection: str, field: str = "name") -> str:
    """The id in a resource name such as "nodes/{id}". Raises `InvalidWrite`."""
    kind, _, plain = name.partition("/")
    if kind != collection or not is_valid_id(plain):
        raise InvalidWrite(
            f'{field} {name[:160]!r} is not of the form "{collection}/{{id}}"', field=field
        )
    return plain


def policy_in_name(name: str) -> tuple[str, str]:
    """Domain and policy id of "domains/{domain}/policies/{id}". Raises `InvalidWrite`."""
    return id_in_domain(name, "policies")


def id_in_domain(name: str, collection: str) -> tuple[str, str]:
    """Domain and id of "domains/{domain}/{collection}/{id}". Raises `InvalidWrite`."""
    parts = name.split("/")
    if (
        len(parts) != 4
        or parts[0] != "domains"
        or parts[2] != collection
        or not (is_valid_id(parts[1]) and is_valid_id(parts[3]))
    ):
        raise InvalidWrite(
            f'name {name[:160]!r} is not of the form "domains/{{domain}}/{collection}/{{id}}"',
            field="name",
        )
    return parts[1], parts[3]


def check_text(value: str, field: str, limit: int = MAX_TEXT_BYTES) -> None:
    """A line for people. Raises `InvalidWrite`."""
    if len(value) * 4 > limit and len(value.encode()) > limit:
        raise InvalidWrite(f"{field} is longer than {limit} bytes", field=field)


def check_time(request: Any, field: str) -> int | None:
    """Nanoseconds since the epoch in a field of the request; None when it is absent. Raises `InvalidWrite`."""
    if not request.HasField(field):
        return None
    try:
        nanoseconds: int = getattr(request, field).ToNanoseconds()
    except ValueError as error:
        raise InvalidWrite(
            f"{field} is no time between the years 1 and 9999", field=field
        ) from error
    return nanoseconds


def check_node_spec(spec: node_pb2.NodeSpec, field: str = "spec") -> None:
    """Raises `InvalidWrite` naming the field."""
    _check_size(spec, field)
    check_text(spec.display_name, f"{field}.display_name")
    check_text(spec.component_type, f"{field}.component_type", MAX_WORD_BYTES)
    check_text(spec.region, f"{field}.region", MAX_WORD_BYTES)
    check_text(spec.zone, f"{field}.zone", MAX_WORD_BYTES)
    _check_tags(spec.tags, field)
    _check_labels(spec.labels, field)


def check_domain_spec(spec: domain_pb2.DomainSpec) -> None:
    """Raises `InvalidWrite` naming the field."""
    _check_size(spec, "spec")
    check_text(spec.display_name, "spec.display_name")
    _check_tags(spec.tags, "spec")
    _check_labels(spec.labels, "spec")


def accept_desired_state(
    desired: node_pb2.DesiredState, field: str = "desired_state"
) -> node_pb2.DesiredState:
    """The desired state as it is written: checked, and with the hash of its configuration. Raises `InvalidWrite`."""
    _check_size(desired, field)
    if desired.policy_bundle:
        check_id(desired.policy_bundle, f"{field}.policy_bundle")
    check_text(desired.target_version, f"{field}.target_version", MAX_WORD_BYTES)
    check_text(desired.config_name, f"{field}.config_name", MAX_WORD_BYTES)
    if desired.HasField("constraints"):
        _check_constraints(desired.constraints, field)
    if not desired.HasField("configuration"):
        if desired.config_hash:
            raise InvalidWrite(
                f"{field}.config_hash is set without a configuration; leave it out",
                field=f"{field}.config_hash",
            )
        return desired
    digest = configuration_hash(desired.configuration)
    if desired.config_hash == digest:
        return desired
    if desired.config_hash:
        raise InvalidWrite(
            f"{field}.config_hash is not the hash of the configuration, which is {digest}; leave it out",
            field=f"{field}.config_hash",
        )
    accepted = node_pb2.DesiredState()
    accepted.CopyFrom(desired)
    accepted.config_hash = digest
    return accepted


def check_policy_spec(spec: policy_pb2.PolicySpec) -> None:
    """Raises `InvalidWrite` naming the field."""
    _check_size(spec, "spec")
    check_text(spec.display_name, "spec.display_name")
    check_text(spec.version, "spec.version", MAX_WORD_BYTES)
    check_text(spec.target_version, "spec.target_version", MAX_WORD_BYTES)
    _check_tags(spec.tags, "spec")
    if spec.HasField("constraints"):
        _check_constraints(spec.constraints, "spec")
    if spec.HasField("configuration"):
        configuration_hash(spec.configuration)
    if spec.HasField("drift_rules"):
        _check_drift_rules(spec.drift_rules)


def _check_drift_rules(rules: drift_pb2.DriftRules) -> None:
    configuration_hash(rules.defaults)
    known = drift_pb2.DriftSeverity.values()
    for field, severity in rules.severities.items():
        if severity == drift_pb2.DRIFT_SEVERITY_UNSPECIFIED or severity not in known:
            raise InvalidWrite(
                f"spec.drift_rules.severities[{field[:80]}] is no severity; leave the field out for the usual one",
                field="spec.drift_rules.severities",
            )


def _check_constraints(constraints: node_pb2.Constraints, field: str) -> None:
    check_text(constraints.maintenance_window, f"{field}.constraints.maintenance_window")
    if constraints.min_battery_pct > 100:
        raise InvalidWrite(
            f"{field}.constraints.min_battery_pct is {constraints.min_battery_pct}; it is a percentage, 0 to 100",
            field=f"{field}.constraints.min_battery_pct",
        )


def _check_size(value: Message, field: str) -> None:
    size = value.ByteSize()
    if size > MAX_VALUE_BYTES:
        raise InvalidWrite(
            f"{field} is {size} bytes; at most {MAX_VALUE_BYTES} are allowed: keep large values elsewhere and name "
            "them by digest",
            field=field,
        )


def check_relationship(spec: node_pb2.Relationship) -> None:
    """What can be said of a declared edge without looking at the fleet. Raises `InvalidWrite` naming the field."""
    _check_size(spec, "spec")
    for end in ("from", "to"):
        given = [f for f in (f"{end}_node", f"{end}_domain") if getattr(spec, f)]
        if len(given) != 1:
            raise InvalidWrite(
                f"exactly one of spec.{end}_node and spec.{end}_domain is to be given",
                field=f"spec.{end}_node",
            )
        check_id(getattr(spec, given[0]), f"spec.{given[0]}")
    if (spec.from_node, spec.from_domain) == (spec.to_node, spec.to_domain):
        raise InvalidWrite("an edge leads from one end to another, not to itself", field="spec")
    if not spec.type or spec.type not in node_pb2.RelationshipType.values():
        known = ", ".join(name for name in node_pb2.RelationshipType.keys()[1:])
        raise InvalidWrite(f"spec.type is required: one of {known}", field="spec.type")
    if spec.type == node_pb2.RELATIONSHIP_TYPE_MEMBER and not spec.to_domain:
        raise InvalidWrite("a membership leads to a domain", field="spec.to_domain")
    check_text(spec.description, "spec.description")
    _check_tags(spec.tags, "spec")


def _check_tags(tags: Sequence[str], field: str) -> None:
    if len(tags) > MAX_TAGS:
        raise InvalidWrite(f"{field}.tags holds more than {MAX_TAGS} tags", field=f"{field}.tags")
    for number, tag in enumerate(tags):
        if not tag or len(tag.encode()) > MAX_WORD_BYTES:
            raise InvalidWrite(
                f"{field}.tags[{number}] is empty or longer than {MAX_WORD_BYTES} bytes",
                field=f"{field}.tags[{number}]",
            )


def _check_labels(labels: Mapping[str, str], field: str) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidWrite(
            f"{field}.labels holds more than {MAX_LABELS} labels", field=f"{field}.labels"
        )
    for name, value in labels.items():
        if not name or len(name.encode()) > MAX_WORD_BYTES:
            raise InvalidWrite(
                f"{field}.labels has a name that is empty or longer than {MAX_WORD_BYTES} bytes",
                field=f"{field}.labels",
            )
        if len(value.encode()) > MAX_LABEL_VALUE_BYTES:
            raise InvalidWrite(
                f"{field}.labels[{name}] is longer than {MAX_LABEL_VALUE_BYTES} bytes",
                field=f"{field}.labels",
            )
