"""The gate before desired versions: a version governs nodes only if a verified artifact stands for it. Owns the rule;
who asks it, and when, is the writes' and the effective desired state's.

It is a question to facts: an artifact along the domain's path, its verdict, and the trust that the verdict names. So
it is answered within a decision, at every level, and without any link.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from controller.supply.artifact import is_stale, spec_digest
from controller.supply.trust import effective_policy, trust_digest
from controller.twin.facts import Facts, body_of, exists, state_of
from federation.codec import Write
from federation.identifiers import Key
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import supply_chain_pb2
from souverix.supply.v1 import artifact_pb2 as artifacts

#: Artifacts kept decoded, by the event's bytes, which never change. About 300 bytes each.
REMEMBERED_ARTIFACTS: Final = 65_536


class Standing(NamedTuple):
    """What is known of one version of a component in a domain."""

    #: Resource name of the artifact that stands for it; empty: none does.
    artifact: str
    #: As `VerificationState`; unspecified where no artifact stands for it, or its verdict does not count.
    state: int
    #: A sentence for people.
    words: str

    @property
    def is_verified(self) -> bool:
        """Tells whether nodes may run it where the gate is closed."""
        return self.state == artifacts.VERIFICATION_STATE_VERIFIED


class _Named(NamedTuple):
    kind: int
    component: str
    version: str


class Gate:
    """The gate by the facts as they are. For one decision or one pass: what it has read it remembers."""

    def __init__(self, facts: Facts, now_ms: int) -> None:
        self._facts = facts
        self._now_ms = now_ms
        self._policies: dict[str, artifacts.SupplyPolicySpec] = {}
        self._standings: dict[tuple[str, str, str], Standing] = {}

    def mode(self, domain: str) -> int:
        """The gate of a domain, as `GateMode`."""
        return self._policy(domain).gate

    def admits(self, domain: str, version: str, component: str = "") -> bool:
        """Tells whether a version may govern nodes of a domain; `component` is the node's type, where it is known."""
        if not version or self.mode(domain) != artifacts.GATE_MODE_ENFORCE:
            return True
        return self.standing(domain, version, component).is_verified

    def standing(self, domain: str, version: str, component: str = "") -> Standing:
        """What is known of a version in a domain, whatever its gate; of several artifacts the best."""
        key = (domain, version, component)
        held = self._standings.get(key)
        if held is None:
            found = [
                self._judged(domain, at, subject, spec)
                for at, subject, spec in self._artifacts(domain, version, component)
            ]
            found.sort(key=lambda each: (not each.is_verified, each.artifact))
            none = Standing("", 0, f"no artifact stands for version {version}")
            held = self._standings[key] = found[0] if found else none
        return held

    def artifact(
        self, domain: str, version: str, component: str = ""
    ) -> tuple[Standing, artifacts.ArtifactSpec, artifacts.ArtifactVerdict] | None:
        """The artifact that stands for a version in a domain, with its verdict; None when none does."""
        standing = self.standing(domain, version, component)
        for at, subject, spec in self._artifacts(domain, version, component):
            if standing.artifact == f"domains/{at}/{subject}":
                verdict = body_of(self._facts, Key(at, subject, "artifact_verdict"))
                return standing, spec, verdict or artifacts.ArtifactVerdict()
        return None

    def firmware(
        self, domain: str, version: str, model: str
    ) -> tuple[str, artifacts.ArtifactSpec, artifacts.ArtifactVerdict] | None:
        """The firmware that stands for a version on a model of hardware: its name, and its verdict if that counts."""
        for at, subject, spec in self._artifacts(domain, version, model, firmware=True):
            verdict = body_of(self._facts, Key(at, subject, "artifact_verdict"))
            counts = self._judged(domain, at, subject, spec).is_verified
            return (
                f"domains/{at}/{subject}",
                spec,
                verdict if counts else artifacts.ArtifactVerdict(),
            )
        return None

    def _policy(self, domain: str) -> artifacts.SupplyPolicySpec:
        held = self._policies.get(domain)
        if held is None:
            held = self._policies[domain] = effective_policy(self._facts, domain)
        return held

    def _artifacts(
        self, domain: str, version: str, component: str, *, firmware: bool = False
    ) -> Iterator[tuple[str, str, artifacts.ArtifactSpec]]:
        state = state_of(self._facts)
        for at in state.authority.path_of(domain) or (domain,):
            for subject in state.subjects_of(at, "artifacts"):
                winner = self._facts.winner(Key(at, subject, "artifact"))
                if (
                    winner is not None
                    and _stands_for(winner, version, component, firmware=firmware)
                    and exists(self._facts, at, subject)
                ):
                    yield at, subject, winner.body()

    def _judged(self, domain: str, at: str, subject: str, spec: artifacts.ArtifactSpec) -> Standing:
        """What an artifact of the domain or of one above is worth in the domain."""
        name = f"domains/{at}/{subject}"
        verdict = body_of(self._facts, Key(at, subject, "artifact_verdict"))
        if verdict is None or verdict.spec_digest != spec_digest(spec):
            return Standing(name, 0, f"{name} was not judged yet")
        if is_stale(self._facts, at, verdict, self._now_ms, trust_digest(self._policy(at))):
            return Standing(name, 0, f"{name} is to be judged anew: its domain's trust has changed")
        word = artifacts.VerificationState.Name(verdict.state)
        word = word.removeprefix("VERIFICATION_STATE_")
        if verdict.state != artifacts.VERIFICATION_STATE_VERIFIED:
            return Standing(name, verdict.state, f"{name} is {word}")
        own = self._policy(domain)
        missing = set(own.requirements) - set(verdict.fulfilled)
        if missing or verdict.slsa_build_level < own.min_slsa_build_level:
            unverifiable = artifacts.VERIFICATION_STATE_UNVERIFIABLE
            return Standing(name, unverifiable, f"{name} lacks what domain {domain} demands")
        return Standing(name, verdict.state, f"{name} is {word}")


def _stands_for(write: Write, version: str, component: str, *, firmware: bool) -> bool:
    """Tells whether an artifact is a version of a component: "1.4.7", or "souverix-rempart-1.4.7"."""
    named = _named_in(write.raw)
    if (named.kind == supply_chain_pb2.ARTIFACT_KIND_FIRMWARE) is not firmware:
        return False
    if firmware:
        return (version, component) == (named.version, named.component)
    if version == f"{named.component}-{named.version}":
        return True
    return version == named.version and component in ("", named.component)


@lru_cache(REMEMBERED_ARTIFACTS)
def _named_in(raw: bytes) -> _Named:
    """What an artifact event names."""
    spec = event_pb2.Event.FromString(raw).artifact
    return _Named(spec.kind, spec.component, spec.version)
