"""What nodes are compared by, so that those that are alike are compared once. Owns which facts a comparison rests on: a
node's own, as a digest, and those of its domain; the comparison itself is `controller.twin.drift`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from controller.supply.gate import Gate
from controller.twin.drift import NodeDrift
from controller.twin.drift_waivers import CONFIGURATION_FIELD, POLICY_FIELD, VERSION_FIELD
from controller.twin.facts import exists
from federation.identifiers import Key
from federation.state import State
from souverix.supply.v1 import artifact_pb2

#: What may be unknown of a drift, in the order of the bits of `Comparison.drift_unknown`.
UNKNOWN_FIELDS = (VERSION_FIELD, CONFIGURATION_FIELD, POLICY_FIELD)

#: Comparisons remembered: releases by declarations by policies, with room. Some 400 bytes each.
REMEMBERED = 32_768

#: Bytes of a digest. Arrays of bytes end at the last one that is not zero: hence the last is never zero.
DIGEST_BYTES = 16
_END = b"\1"

#: Inputs of a node that is compared by itself: what is accepted of its drift depends on the time.
ALONE = b""


class Comparison(NamedTuple):
    """What a comparison came to, of all nodes that have the same inputs."""

    #: Once joined with the policies along the path.
    effective_version: str = ""
    governing_policy: str = ""
    drift_state: int = 0
    drift_score: float = 0.0
    drift_severity: int = 0
    drift_objects: int = 0
    drift_waived: int = 0
    #: A bit for each of `UNKNOWN_FIELDS`.
    drift_unknown: int = 0


class Grounds(NamedTuple):
    """What the nodes of a domain have in common: digests, empty where there is nothing."""

    #: Of all policies along the path.
    policies: bytes = b""
    #: Of what caps the times of events.
    admissions: bytes = b""
    #: Verdicts on artifacts count, which depend on the time and on more facts than these: nothing is shared.
    is_gated: bool = False

    def differs_in_policies(self, other: Grounds) -> bool:
        """Tells whether a comparison makes up for the difference to other grounds."""
        return not self.is_gated and self._replace(policies=other.policies) == other


class Basis(NamedTuple):
    """What a row was made from, beside the node's own facts."""

    grounds: Grounds = Grounds()
    #: Digest of those of its own facts that a comparison reads; `ALONE` for a node that shares none.
    inputs: bytes = ALONE


def inputs_of(bodies: dict[str, Any]) -> bytes:
    """The digest of the facts of a node that its drift is computed from, by aspect; but for its tags, of which only
    those count that policies name.
    """
    if bodies.get("drift_waiver") is not None:
        return ALONE
    desired, actual = bodies.get("desired_state"), bodies.get("actual_state")
    parts = [b"\0" if desired is None else desired.SerializeToString(deterministic=True)]
    if actual is not None:
        reported = (
            actual.reported_version,
            actual.config_hash,
            actual.policy_bundle,
            actual.policy_version,
        )
        parts += [b"\0", *map(str.encode, reported)]
        parts.append(actual.configuration.SerializeToString(deterministic=True))
    return _digest(parts)


def comparison_of(drift: NodeDrift) -> Comparison:
    """What is kept of a comparison."""
    return Comparison(
        drift.target_version,
        drift.policy.policy_bundle,
        drift.state,
        drift.score,
        drift.severity,
        len(drift.objects),
        len(drift.waived),
        sum(1 << bit for bit, name in enumerate(UNKNOWN_FIELDS) if name in drift.unknown),
    )


class Alike(NamedTuple):
    """Nodes of which this is the same are compared alike."""

    policies: bytes
    inputs: bytes
    #: Those of a node's tags that one of the policies names.
    tags: tuple[str, ...]


class Comparisons:
    """Comparisons that were made, by what they rest on."""

    def __init__(self) -> None:
        self._made: dict[Alike, Comparison] = {}

    def get(self, alike: Alike) -> Comparison | None:
        """The comparison, if it was made and is remembered."""
        return self._made.get(alike)

    def put(self, alike: Alike, made: Comparison) -> None:
        """Remembers a comparison, unless it is that of one node alone."""
        if alike.inputs == ALONE:
            return
        if len(self._made) >= REMEMBERED:
            self._made.clear()
        self._made[alike] = made


class DomainGrounds:
    """The grounds of each domain, remembered until one of them changes."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._of: dict[str, Grounds] = {}
        #: By domain, the digest of its own policies, and the tags they name.
        self._policies: dict[str, tuple[bytes, frozenset[str]]] = {}
        #: By digest of policies along a path, the tags they name.
        self._tags: dict[bytes, frozenset[str]] = {b"": frozenset()}
        self._admissions: dict[str, bytes] | None = None

    def forget(self) -> None:
        """A policy, an admission or the tree has changed."""
        self._of.clear()
        self._policies.clear()
        self._tags = {b"": frozenset()}
        self._admissions = None

    def of(self, domain: str) -> Grounds:
        """The grounds of one domain."""
        found = self._of.get(domain)
        if found is None:
            path = self._state.authority.path_of(domain) or (domain,)
            levels = [level for level in map(self._policies_in, path) if level[0]]
            policies = _digest(digest for digest, _ in levels) if levels else b""
            self._tags[policies] = frozenset().union(*(tags for _, tags in levels))
            if self._admissions is None:
                self._admissions = self._read_admissions()
            is_gated = Gate(self._state, 0).mode(domain) == artifact_pb2.GATE_MODE_ENFORCE
            admissions = self._admissions.get(domain, b"")
            found = self._of[domain] = Grounds(policies, admissions, is_gated)
        return found

    def alike(self, grounds: Grounds, inputs: bytes, tags: Sequence[str]) -> Alike:
        """What a node is compared by; `grounds` are those that a domain has now, `tags` all of the node's in order."""
        named = self._tags[grounds.policies]
        counting = tuple(tag for tag in tags if tag in named) if named else ()
        return Alike(grounds.policies, inputs, counting)

    def _policies_in(self, domain: str) -> tuple[bytes, frozenset[str]]:
        found = self._policies.get(domain)
        if found is None:
            parts, tags = [domain.encode()], set[str]()
            for subject in sorted(self._state.subjects_of(domain, "policies")):
                winner = self._state.winner(Key(domain, subject, "policy"))
                if winner is not None and exists(self._state, domain, subject):
                    parts.append(winner.raw)
                    tags.update(winner.body().tags)
            digest = _digest(parts) if len(parts) > 1 else b""
            found = self._policies[domain] = (digest, frozenset(tags))
        return found

    def _read_admissions(self) -> dict[str, bytes]:
        by_domain: dict[str, list[bytes]] = {}
        for stream, ranges in self._state.admissions.ranges.items():
            said = repr((stream.origin, int(stream.lane), sorted(ranges))).encode()
            by_domain.setdefault(stream.domain, []).append(said)
        return {domain: _digest(sorted(said)) for domain, said in by_domain.items()}


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES - len(_END))
    for part in parts:
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest() + _END
