"""Whom a domain believes, and what it demands: the supply policies along its path, joined. Owns the rule of joining and
the reading of anchors; judges no artifact.

From the root down: the strictest gate counts, demands add up, and so do signers, until a domain closes the list for
those below it. So a nearer domain may demand more, and only a domain that nobody above has closed out may believe
others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from controller.supply.certificates import BadChain, PublicKey, accepted_key
from controller.twin.facts import Facts, state_of
from federation.identifiers import Key
from souverix.event.v1 import event_pb2
from souverix.supply.v1 import artifact_pb2 as artifacts

#: Joined policies kept, by the events they are made of: every write of a desired version asks for one.
JOINED_KEPT: Final = 1024

#: What a domain demands that says nothing of it: anything less would make the gate mean nothing.
LEAST_DEMAND: Final = frozenset({artifacts.REQUIREMENT_SIGNATURE})


class BadAnchor(ValueError):
    """Whoever wrote the policy must change a key or certificate."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Somebody who is believed. One of `key` and `root` is set."""

    name: str
    key: PublicKey | None
    root: x509.Certificate | None
    uses: frozenset[int]
    components: tuple[str, ...]
    builder_ids: frozenset[str]
    slsa_build_level: int
    #: Not believed from then on; None: no end.
    expire_ms: int | None

    def speaks_for(self, component: str, now_ms: int) -> bool:
        """Tells whether it is believed about a component now."""
        if self.expire_ms is not None and now_ms >= self.expire_ms:
            return False
        return not self.components or any(fnmatchcase(component, p) for p in self.components)


@dataclass(frozen=True, slots=True)
class Trust:
    """What counts in a domain."""

    domain: str
    gate: int
    signers: tuple[Signer, ...]
    requirements: frozenset[int]
    min_slsa_build_level: int
    #: Names all of it but the gate, as "sha256:" and hexadecimal digits.
    digest: str


def effective_policy(facts: Facts, domain: str) -> artifacts.SupplyPolicySpec:
    """The policies along a domain's path, joined. Shared by whoever asks: not to be changed."""
    path = state_of(facts).authority.path_of(domain) or (domain,)
    winners = (facts.winner(Key(at, f"domains/{at}", "supply_policy")) for at in path)
    return _joined(tuple(winner.raw for winner in winners if winner is not None))


@lru_cache(JOINED_KEPT)
def _joined(events: tuple[bytes, ...]) -> artifacts.SupplyPolicySpec:
    """The policies in these events, from the root down, joined."""
    joined = artifacts.SupplyPolicySpec(gate=artifacts.GATE_MODE_OFF)
    demanded = set(LEAST_DEMAND)
    for event in events:
        spec = event_pb2.Event.FromString(event).supply_policy
        joined.gate = max(joined.gate, spec.gate)
        demanded.update(spec.requirements)
        joined.min_slsa_build_level = max(joined.min_slsa_build_level, spec.min_slsa_build_level)
        if not joined.closed:
            joined.signers.extend(spec.signers)
            joined.closed = spec.closed
    joined.requirements.extend(sorted(demanded))
    return joined


def trust_digest(policy: artifacts.SupplyPolicySpec) -> str:
    """Names an effective policy, but for its gate: changing that changes no verdict."""
    judged_by = artifacts.SupplyPolicySpec()
    judged_by.CopyFrom(policy)
    judged_by.gate = artifacts.GATE_MODE_UNSPECIFIED
    told = judged_by.SerializeToString(deterministic=True)
    return f"sha256:{hashlib.sha256(told).hexdigest()}"


def trust_of(facts: Facts, domain: str) -> Trust:
    """What counts in a domain, its anchors read; an anchor that cannot be read is nobody's."""
    policy = effective_policy(facts, domain)
    signers = []
    for declared in policy.signers:
        try:
            signers.append(read_signer(declared))
        except BadAnchor:
            continue
    return Trust(
        domain,
        policy.gate,
        tuple(signers),
        frozenset(policy.requirements),
        policy.min_slsa_build_level,
        trust_digest(policy),
    )


def read_signer(declared: artifacts.TrustedSigner) -> Signer:
    """A signer with its anchor. Raises `BadAnchor`."""
    key = root = None
    if declared.WhichOneof("anchor") == "public_key_pem":
        key = _read_key(declared.public_key_pem)
    elif declared.WhichOneof("anchor") == "root_certificate_pem":
        root = _read_root(declared.root_certificate_pem)
    else:
        raise BadAnchor("a signer needs a public key or a root certificate")
    expire = declared.expire_time.ToMilliseconds() if declared.HasField("expire_time") else None
    return Signer(
        declared.name,
        key,
        root,
        frozenset(declared.uses),
        tuple(declared.components),
        frozenset(declared.builder_ids),
        declared.slsa_build_level,
        expire,
    )


def _read_key(pem: str) -> PublicKey:
    try:
        return accepted_key(load_pem_public_key(pem.encode()))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        told = str(error) if isinstance(error, BadChain) else "it is no public key in PEM"
        raise BadAnchor(told) from error


def _read_root(pem: str) -> x509.Certificate:
    try:
        root = x509.load_pem_x509_certificate(pem.encode())
        accepted_key(root.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        told = str(error) if isinstance(error, BadChain) else "it is no certificate in PEM"
        raise BadAnchor(told) from error
    return root
