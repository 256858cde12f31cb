"""The effective desired state of a node: what governs it once its own declaration is joined with the policies along its
domain's path. Owns the rule of precedence; judges nothing of what is declared.

Per field (version, configuration, constraints), from the root down: the nearer level overrides, unless a level above
it is `enforced` (design §6). The node's own declaration is the nearest level. Among policies of one domain the id
decides, the last one in alphabetical order being the nearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from controller.supply.gate import Gate
from controller.twin.configuration_hash import configuration_hash
from controller.twin.facts import Facts, body_of, exists, state_of
from federation.identifiers import Key
from souverix.fleet.v1 import node_pb2
from souverix.policy.v1 import policy_pb2
from souverix.supply.v1 import artifact_pb2

#: What levels decide, one by one.
GOVERNED_FIELDS = ("target_version", "configuration", "constraints")


class PolicyAt(NamedTuple):
    """A policy that applies to a node, and the domain it stands in."""

    domain: str
    policy: str
    spec: policy_pb2.PolicySpec
    #: Hash of its configuration; empty when it has none.
    config_hash: str

    @property
    def name(self) -> str:
        """The resource name, "domains/{domain}/policies/{id}"."""
        return f"domains/{self.domain}/policies/{self.policy}"


@dataclass(frozen=True, slots=True)
class EffectiveState:
    """What governs a node, and for each governed field the resource that decided it."""

    desired: node_pb2.DesiredState
    decided_by: dict[str, str] = field(default_factory=dict)
    #: The policies that apply, from the root down.
    policies: tuple[PolicyAt, ...] = ()
    #: Versions that are declared and do not govern, since no verified artifact stands for them, by who declares them.
    held_back: dict[str, str] = field(default_factory=dict)


def policies_along(facts: Facts, domain: str) -> list[PolicyAt]:
    """All policies along the path of a domain, from the root down."""
    return list(_policies_along(facts, domain))


def policies_of_node(
    facts: Facts, domain: str, subject: str, along: Iterable[PolicyAt] | None = None
) -> list[PolicyAt]:
    """The policies that apply to a node of a domain, from the root down.

    A node that names a bundle is governed by the nearest policy of that id and by what is enforced above; another one
    by all policies whose tags it has. `along` are the `policies_along` its domain, for who has them already.
    """
    spec = body_of(facts, Key(domain, subject, "node_spec"))
    tags = set(spec.tags) if spec is not None else set()
    desired = body_of(facts, Key(domain, subject, "desired_state"))
    bundle = desired.policy_bundle if desired is not None else ""
    found = list(along) if along is not None else policies_along(facts, domain)
    if bundle:
        named = [at for at in found if at.policy == bundle][-1:]
        return [
            at for at in found if at in named or (at.spec.enforced and tags >= set(at.spec.tags))
        ]
    return [at for at in found if tags >= set(at.spec.tags)]


def effective_state(
    facts: Facts,
    domain: str,
    subject: str,
    along: Iterable[PolicyAt] | None = None,
    gate: Gate | None = None,
) -> EffectiveState:
    """Joins the policies of a node with its own declaration. A version that the gate does not admit governs nothing:
    the level that declares it is passed over. `along` as for `policies_of_node`; `gate` for who has one already, else
    verdicts count until they are judged anew.
    """
    own: node_pb2.DesiredState = (
        body_of(facts, Key(domain, subject, "desired_state")) or node_pb2.DesiredState()
    )
    policies = policies_of_node(facts, domain, subject, along)
    held_back: dict[str, str] = {}
    if own.target_version or any(at.spec.target_version for at in policies):
        gate = gate or Gate(facts, 0)
        if gate.mode(domain) == artifact_pb2.GATE_MODE_ENFORCE:
            component = _component_of(facts, domain, subject)
            declared = {at.name: at.spec.target_version for at in policies} | {
                subject: own.target_version
            }
            held_back = {
                name: version
                for name, version in declared.items()
                if not gate.admits(domain, version, component)
            }
    return _join(policies, own, subject, held_back)


def policy_to_follow(effective: EffectiveState) -> PolicyAt | None:
    """The policy that should be in force: the one the node names, else the nearest that applies."""
    bundle = effective.desired.policy_bundle
    fitting = [at for at in effective.policies if not bundle or at.policy == bundle]
    return fitting[-1] if fitting else None


def effective_state_of_all(along: Iterable[PolicyAt]) -> EffectiveState:
    """What the policies along a domain's path ask of every node of it, whatever its tags."""
    return _join([at for at in along if not at.spec.tags], node_pb2.DesiredState(), "")


def _component_of(facts: Facts, domain: str, subject: str) -> str:
    spec = body_of(facts, Key(domain, subject, "node_spec"))
    return spec.component_type if spec is not None else ""


def _join(
    policies: Sequence[PolicyAt],
    own: node_pb2.DesiredState,
    subject: str,
    held_back: Mapping[str, str] = MappingProxyType({}),
) -> EffectiveState:
    desired = node_pb2.DesiredState()
    desired.CopyFrom(own)
    if subject in held_back:
        desired.ClearField("target_version")
    decided_by = {name: subject for name in GOVERNED_FIELDS if declares(desired, name)}
    enforced: set[str] = set()
    for at in policies:
        for name in GOVERNED_FIELDS:
            if name in enforced or not declares(at.spec, name):
                continue
            if name == "target_version" and at.name in held_back:
                continue
            if at.spec.enforced:
                enforced.add(name)
            elif subject and decided_by.get(name) == subject:
                continue
            _take(desired, at, name)
            decided_by[name] = at.name
    return EffectiveState(desired, decided_by, tuple(policies), dict(held_back))


def _policies_along(facts: Facts, domain: str) -> Iterator[PolicyAt]:
    state = state_of(facts)
    for at in state.authority.path_of(domain) or (domain,):
        for subject in sorted(state.subjects_of(at, "policies")):
            spec = body_of(facts, Key(at, subject, "policy"))
            if spec is not None and exists(facts, at, subject):
                digest = (
                    configuration_hash(spec.configuration) if spec.HasField("configuration") else ""
                )
                yield PolicyAt(at, subject.partition("/")[2], spec, digest)


def declares(level: node_pb2.DesiredState | policy_pb2.PolicySpec, name: str) -> bool:
    """Tells whether a level says anything of one of `GOVERNED_FIELDS`."""
    if name == "target_version":
        return bool(level.target_version)
    return level.HasField("configuration" if name == "configuration" else "constraints")


def _take(desired: node_pb2.DesiredState, at: PolicyAt, name: str) -> None:
    spec = at.spec
    if name == "target_version":
        desired.target_version = spec.target_version
    elif name == "constraints":
        desired.constraints.CopyFrom(spec.constraints)
    else:
        desired.configuration.CopyFrom(spec.configuration)
        desired.config_name = spec.version
        desired.config_hash = at.config_hash
