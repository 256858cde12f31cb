"""Why a value of a node is what it is: the events behind one field. Owns which events bear on which field; what these
events superseded is found through `fleet_events`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from controller.query.fields import BY_NAME
from controller.replica import Replica
from controller.services.fleet_events import held_event
from controller.services.fleet_fields import id_in_name
from controller.services.fleet_reads import whole_node
from controller.services.fleet_rules import freshness_of, required_node
from controller.twin.effective import GOVERNED_FIELDS, EffectiveState, declares, effective_state
from controller.twin.node import NODE_ASPECTS, NodeAt
from federation.codec import Write
from federation.errors import InvalidWrite
from federation.identifiers import Key
from souverix.fleet.v1 import fleet_service_pb2, history_pb2, node_pb2

#: Aspects that say each part of a node as it is.
STATED: dict[str, tuple[str, ...]] = {
    "name": ("existence",),
    "id": ("existence",),
    "create_time": ("existence",),
    "domain": ("placement",),
    "placement_epoch": ("placement",),
    "spec": ("node_spec",),
    "supply_chain": ("node_spec",),
    "desired_state": ("desired_state",),
    "actual_state": ("actual_state",),
    "inventory": ("inventory",),
    "observations": ("inventory", "actual_state"),
    "drift_waivers": ("drift_waiver",),
    "optimistic": ("node_spec", "desired_state", "drift_waiver"),
    "conflicted_aspects": NODE_ASPECTS,
    "etag": NODE_ASPECTS,
    "update_time": NODE_ASPECTS,
}

#: Parts that are transitions, each with its aspect.
TRANSITION_PARTS = {
    "connectivity": "link_state",
    "lifecycle": "lifecycle",
    "trust": "attestation",
}

#: Short names that stand for no path of the node.
ELSEWHERE = {
    "governing_policy": "drift.policy_drift.policy_bundle",
    "conflicted": "conflicted_aspects",
    "unknown": "connectivity.unknown_since",
}

#: Longest path: that of a field of a configuration.
MAX_FIELD_BYTES = 1024

_ROLES = history_pb2.ExplanationRole


def explain_node(replica: Replica, request: Any) -> fleet_service_pb2.ExplainNodeResponse:
    """As `FleetService.ExplainNode`."""
    subject = f"nodes/{id_in_name(request.name, 'nodes')}"
    path = _path_of(request.field)
    at = required_node(replica.state, subject)
    freshness = freshness_of(replica)
    reply = fleet_service_pb2.ExplainNodeResponse(
        field=path, as_of_time=freshness.as_of(at.home.domain)
    )
    node = MessageToDict(
        whole_node(replica.state, subject, freshness), preserving_proto_field_name=True
    )
    value = _value_at(node, path)
    if value is not None:
        ParseDict(value, reply.value)
    reply.chain.extend(_Explainer(replica, at).chain(path))
    return reply


class _Explainer:
    """The events behind fields of one node."""

    def __init__(self, replica: Replica, at: NodeAt) -> None:
        self._replica = replica
        self._state = replica.state
        self._at = at

    def chain(self, path: str) -> Iterator[history_pb2.Explanation]:
        """The events behind a field, what counts first."""
        part, _, rest = path.partition(".")
        if part in STATED:
            for aspect in STATED[part]:
                yield from self._stated(aspect, _ROLES.EXPLANATION_ROLE_DECIDES)
        elif part in TRANSITION_PARTS:
            yield from self._transitions(TRANSITION_PARTS[part])
        elif part == "effective_desired_state":
            yield from self._levels(rest)
        elif part == "drift":
            yield from self._inputs()
        elif part == "authority":
            yield from self._authority()

    def _stated(self, aspect: str, role: history_pb2.ExplanationRole) -> Iterator[Any]:
        key = Key(self._at.home.domain, self._at.subject, aspect)
        yield from self._key(key, role, self._at.subject, "")

    def _key(
        self, key: Key, role: history_pb2.ExplanationRole, source: str, note: str
    ) -> Iterator[history_pb2.Explanation]:
        """The write that counts of a key, and those that lost to it."""
        winner = self._state.winner(key)
        if winner is None:
            return
        yield self._explanation(role, key, winner, source, note)
        for sibling in self._state.siblings(key):
            if sibling.dot != winner.dot:
                lost = _ROLES.EXPLANATION_ROLE_LOST
                told = "lower authority term, earlier, or of an origin that sorts before"
                yield self._explanation(lost, key, sibling, source, told)

    def _transitions(self, aspect: str) -> Iterator[history_pb2.Explanation]:
        """The present mode or phase, then what it was before, newest first."""
        key = Key(self._at.home.domain, self._at.subject, aspect)
        yield from self._key(
            key, _ROLES.EXPLANATION_ROLE_DECIDES, self._at.subject, self._evidence(key)
        )
        standing = {sibling.dot for sibling in self._state.siblings(key)}
        for write in reversed(self._replica.histories.of(self._at.subject, aspect)):
            if write.dot not in standing:
                earlier = _ROLES.EXPLANATION_ROLE_EARLIER
                yield self._explanation(earlier, key, write, self._at.subject, _told(write))

    def _evidence(self, key: Key) -> str:
        winner = self._state.winner(key)
        return _told(winner) if winner is not None else ""

    def _levels(self, rest: str) -> Iterator[history_pb2.Explanation]:
        """Every level that declares the field, the one that decides first, then from the nearest up."""
        effective = effective_state(self._state, self._at.home.domain, self._at.subject)
        names = [name for name in GOVERNED_FIELDS if not rest or name in rest.split(".")]
        for name in names or GOVERNED_FIELDS:
            yield from self._levels_of(name, effective)

    def _levels_of(self, name: str, effective: EffectiveState) -> Iterator[history_pb2.Explanation]:
        domain, subject = self._at.home.domain, self._at.subject
        decided_by = effective.decided_by.get(name, "")
        enforced = {p.name for p in effective.policies if p.spec.enforced}
        levels = [
            (at.name, Key(at.domain, f"policies/{at.policy}", "policy"), at.spec)
            for at in effective.policies
            if declares(at.spec, name)
        ]
        own = self._state.winner(Key(domain, subject, "desired_state"))
        if own is not None and declares(own.body(), name):
            levels.append((subject, Key(domain, subject, "desired_state"), own.body()))
        levels.sort(key=lambda level: level[0] != decided_by)
        how = "it is enforced" if decided_by in enforced else "it is nearer"
        deciding = [level for level in levels if level[0] == decided_by]
        for source, key, _ in deciding:
            note = f"{name}: {how}" if len(levels) > 1 else f"{name}: nothing else declares it"
            yield from self._key(key, _ROLES.EXPLANATION_ROLE_DECIDES, source, note)
        for source, key, _ in reversed(levels[len(deciding) :]):
            note = f"{name}: {decided_by} overrides it, since {how}"
            yield from self._key(key, _ROLES.EXPLANATION_ROLE_OVERRIDDEN, source, note)

    def _inputs(self) -> Iterator[history_pb2.Explanation]:
        """What drift is computed from: the report, what it is compared with, and what is accepted."""
        as_input = _ROLES.EXPLANATION_ROLE_INPUT
        yield from self._stated("actual_state", as_input)
        seen = set()
        for step in self._levels(""):
            event = (
                step.event.domain,
                step.event.subject,
                step.event.controller,
                step.event.sequence,
            )
            if step.role == _ROLES.EXPLANATION_ROLE_DECIDES and event not in seen:
                seen.add(event)
                step.role = as_input
                yield step
        yield from self._stated("drift_waiver", as_input)

    def _authority(self) -> Iterator[history_pb2.Explanation]:
        """The records of the domain and of those above it, the nearest first."""
        domain = self._at.home.domain
        for above in reversed(self._state.authority.path_of(domain) or (domain,)):
            role = (
                _ROLES.EXPLANATION_ROLE_DECIDES
                if above == domain
                else _ROLES.EXPLANATION_ROLE_INPUT
            )
            for aspect in ("authority", "genesis"):
                key = Key(above, f"domains/{above}", aspect)
                yield from self._key(key, role, f"domains/{above}", "")

    def _explanation(
        self,
        role: history_pb2.ExplanationRole,
        key: Key,
        write: Write,
        source: str,
        note: str,
    ) -> history_pb2.Explanation:
        event = held_event(self._replica, key, write)
        return history_pb2.Explanation(role=role, event=event, note=note, source=source)


def _told(write: Write) -> str:
    """What a transition says of itself: its reason, and the evidence where there is any."""
    body = write.body()
    evidence = getattr(body, "evidence", "")
    return ": ".join(part for part in (body.reason, evidence) if part)


def _path_of(field: str) -> str:
    """The path that a field is named by. Raises `InvalidWrite`."""
    if len(field.encode()) > MAX_FIELD_BYTES:
        raise InvalidWrite(f"field is longer than {MAX_FIELD_BYTES} bytes", field="field")
    known = BY_NAME.get(field)
    path = known.path if known is not None else field
    path = ELSEWHERE.get(path, path)
    at: Any = node_pb2.Node.DESCRIPTOR
    for name in path.split("."):
        if at is None or at.full_name.startswith("google.protobuf.") or at.GetOptions().map_entry:
            break
        found = at.fields_by_name.get(name)
        if found is None:
            legal = ", ".join(each.name for each in at.fields)
            raise InvalidWrite(
                f"field {field[:80]!r} is none of a node: {name[:80]!r} is not among {legal}",
                field="field",
            )
        at = found.message_type
    return path


def _value_at(node: dict[str, Any], path: str) -> Any:
    value: Any = node
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
