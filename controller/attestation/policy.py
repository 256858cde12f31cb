"""What is expected in a domain: the attestation policies along its path, joined. Owns the rule of joining; judges no
statement.

A nearer domain may expect more, never less: every rule of every level must hold, pins add up, the shortest times and
the gravest action count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from google.protobuf.duration_pb2 import Duration

from controller.twin.facts import Facts, digest_of, held_of, state_of
from federation.identifiers import Key
from souverix.event.v1 import event_pb2
from souverix.trust.v1 import attestation_pb2

ASPECT: Final = "attestation_policy"

#: How often a node is challenged where no domain says so: what changes is known within the hour, and a controller of a
#: hundred thousand nodes judges thirty a second.
DEFAULT_INTERVAL_MS: Final = 3_600_000

#: Intervals that a verification counts where no domain says so: one challenge may get lost, and a link be down a while.
DEFAULT_AGE_INTERVALS: Final = 3

#: Joined policies kept, by the events they are made of.
JOINED_KEPT: Final = 1024


@dataclass(frozen=True, slots=True)
class Expected:
    """What counts in a domain."""

    #: (register, the values it may hold): each must hold.
    rules: tuple[tuple[str, frozenset[str]], ...]
    pinned: frozenset[str]
    interval_ms: int
    max_age_ms: int
    on_failure: int

    @property
    def is_anything(self) -> bool:
        """Tells whether anything is expected, so that nodes must attest."""
        return bool(self.rules or self.pinned)


def policy_name(domain: str) -> str:
    """Resource name of a domain's policy."""
    return f"domains/{domain}/attestation-policy"


def policy_etag(facts: Facts, domain: str) -> str:
    """Changes with each write of the domain's own policy."""
    return digest_of(facts, held_of(facts, domain, f"domains/{domain}", (ASPECT,)))


def expected_in(facts: Facts, domain: str) -> Expected:
    """What is expected of the nodes of a domain."""
    path = state_of(facts).authority.path_of(domain) or (domain,)
    winners = (facts.winner(Key(at, f"domains/{at}", ASPECT)) for at in path)
    return _joined(tuple(winner.raw for winner in winners if winner is not None))


def effective_policy(facts: Facts, domain: str) -> attestation_pb2.AttestationPolicySpec:
    """As `expected_in`, as a message."""
    expected = expected_in(facts, domain)
    spec = attestation_pb2.AttestationPolicySpec(
        pinned_registers=sorted(expected.pinned),
        interval=_duration(expected.interval_ms),
        max_age=_duration(expected.max_age_ms),
        on_failure=expected.on_failure,  # type: ignore[arg-type]
    )
    for register, allowed in expected.rules:
        spec.rules.add(register=register, allowed=sorted(allowed))
    return spec


@lru_cache(JOINED_KEPT)
def _joined(events: tuple[bytes, ...]) -> Expected:
    rules: list[tuple[str, frozenset[str]]] = []
    pinned: set[str] = set()
    intervals, ages = [], []
    action: int = attestation_pb2.FAILURE_ACTION_UNSPECIFIED
    for event in events:
        spec = event_pb2.Event.FromString(event).attestation_policy
        rules += [(rule.register, frozenset(rule.allowed)) for rule in spec.rules]
        pinned.update(spec.pinned_registers)
        action = max(action, spec.on_failure)
        if spec.HasField("interval"):
            intervals.append(spec.interval.ToMilliseconds())
        if spec.HasField("max_age"):
            ages.append(spec.max_age.ToMilliseconds())
    interval_ms = min(intervals, default=DEFAULT_INTERVAL_MS)
    max_age_ms = min(ages, default=DEFAULT_AGE_INTERVALS * interval_ms)
    return Expected(
        tuple(rules),
        frozenset(pinned),
        # What is renewed less often than twice while it counts could run out between two challenges.
        min(interval_ms, max_age_ms // 2),
        max_age_ms,
        action or attestation_pb2.FAILURE_ACTION_ATTENTION,
    )


def _duration(milliseconds: int) -> Duration:
    span = Duration()
    span.FromMilliseconds(milliseconds)
    return span
