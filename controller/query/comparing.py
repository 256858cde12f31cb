"""What nodes are compared by, so that those that are alike are compared once. Owns which facts a comparison rests on: a
node's own, as a digest, and those of its domain; the comparison itself is `controller.twin.drift`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from controller.twin.drift import NodeDrift
from controller.twin.drift_waivers import CONFIGURATION_FIELD, POLICY_FIELD, VERSION_FIELD
from controller.twin.facts import exists
from federation.identifiers import Key
from federation.state import State

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


class Basis(NamedTuple):
    """What a row was made from, beside the node's own facts."""

    grounds: Grounds = Grounds()
    #: Digest of those of its own facts that a comparison reads; `ALONE` for a node that shares none.
    inputs: bytes = ALONE


def inputs_of(bodies: dict[str, Any]) -> bytes:
    """The digest of the facts of a node that its drift is computed from, by aspect."""
    if bodies.get("drift_waiver") is not None:
        return ALONE
    spec, desired, actual = (
        bodies.get("node_spec"),
        bodies.get("desired_state"),
        bodies.get("actual_state"),
    )
    parts: list[bytes] = []
    if spec is not None:
        parts += [spec.component_type.encode(), "\0".join(sorted(set(spec.tags))).encode()]
    else:
        parts += [b"", b""]
    parts.append(b"\0" if desired is None else desired.SerializeToString(deterministic=True))
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


class Comparisons:
    """Comparisons that were made, by what they rest on."""

    def __init__(self) -> None:
        self._made: dict[tuple[bytes, bytes], Comparison] = {}

    def get(self, policies: bytes, inputs: bytes) -> Comparison | None:
        """The comparison, if it was made and is remembered."""
        return self._made.get((policies, inputs))

    def put(self, policies: bytes, inputs: bytes, made: Comparison) -> None:
        """Remembers a comparison, unless it is that of one node alone."""
        if inputs == ALONE:
            return
        if len(self._made) >= REMEMBERED:
            self._made.clear()
        self._made[policies, inputs] = made


class DomainGrounds:
    """The grounds of each domain, remembered until one of them changes."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._of: dict[str, Grounds] = {}
        self._policies: dict[str, bytes] = {}
        self._admissions: dict[str, bytes] | None = None

    def forget(self) -> None:
        """A policy, an admission or the tree has changed."""
        self._of.clear()
        self._policies.clear()
        self._admissions = None

    def of(self, domain: str) -> Grounds:
        """The grounds of one domain."""
        found = self._of.get(domain)
        if found is None:
            path = self._state.authority.path_of(domain) or (domain,)
            levels = [digest for digest in map(self._policies_in, path) if digest]
            if self._admissions is None:
                self._admissions = self._read_admissions()
            policies = _digest(levels) if levels else b""
            found = self._of[domain] = Grounds(policies, self._admissions.get(domain, b""))
        return found

    def _policies_in(self, domain: str) -> bytes:
        found = self._policies.get(domain)
        if found is None:
            parts = [domain.encode()]
            for subject in sorted(self._state.subjects_of(domain, "policies")):
                winner = self._state.winner(Key(domain, subject, "policy"))
                if winner is not None and exists(self._state, domain, subject):
                    parts.append(winner.raw)
            found = self._policies[domain] = _digest(parts) if len(parts) > 1 else b""
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
