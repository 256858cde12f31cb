"""Judges artifacts: reads what they name, has it judged in a worker thread, and writes the verdict. Owns when that is
done; what evidence is worth is `controller.supply.judging`'s.

The master-of-record of a domain judges the domain's artifacts: when one is written, when what the domain believes has
changed, and when a verdict ends. Its verdicts travel with the log, so that a zone that is cut off has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controller.journal import Journal, JournalError
from controller.replica import Replica
from controller.supply.artifact import policy_name, spec_digest, standing_verdict
from controller.supply.judging import Judgement, judge
from controller.supply.sbom import MAX_SBOM_BYTES
from controller.supply.summaries import SummaryKey, sign_summary
from controller.supply.trust import effective_policy, trust_digest, trust_of
from controller.twin.facts import Facts, body_of, exists, timestamp
from controller.values import ValueStore, ValueStoreError
from federation.errors import FederationError
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.fleet.v1 import observation_pb2
from souverix.supply.v1 import artifact_pb2 as artifacts

_log = logging.getLogger(__name__)

#: Between two looks for verdicts that have ended.
TICK_S = 5.0

#: Artifacts judged a second when all are to be judged anew: each takes a millisecond or so beside the log's work.
JUDGED_AT_ONCE = 16


class Judge:
    """The judge of one replica. `run` is a duty of the master."""

    def __init__(self, replica: Replica, values: ValueStore) -> None:
        self._replica = replica
        self._values = values
        self._dirty: dict[tuple[str, str], None] = {}
        self._all = True
        #: One judgement at a time, so that none is written twice.
        self._judging = asyncio.Lock()

    async def run(self, journal: Journal) -> None:
        """Judges what is to be judged, until cancelled."""
        self._all = True
        with self._replica.changes.subscribe() as subscription:
            while True:
                if self._all:
                    self._all = False
                    self._dirty.update((at, None) for at in self._outdated())
                await self._judge_some(journal)
                applied = await subscription.next(0.0 if self._dirty else TICK_S)
                if applied is None:
                    self._all = self._all or not self._dirty
                    continue
                for key in applied.keys:
                    if key.aspect == "artifact":
                        self._dirty[key.domain, key.subject] = None
                    elif key.aspect in ("supply_policy", "authority"):
                        self._all = True

    async def judged(
        self, domain: str, spec: artifacts.ArtifactSpec, now_ms: int, of_domain: str = ""
    ) -> artifacts.ArtifactVerdict:
        """The verdict on a value of an artifact, by the trust of its domain or of one below it; not signed."""
        facts = self._replica.state
        believer = of_domain or domain
        trust = trust_of(facts, believer)
        sbom = await self._document(spec.sbom) if spec.HasField("sbom") else None
        keys, policies = self._above(believer)
        found = await asyncio.to_thread(judge, spec, trust, sbom, now_ms, keys, policies)
        return self._verdict(found, spec, trust.digest, now_ms)

    async def judge_now(self, domain: str, subject: str) -> None:
        """Judges an artifact of a domain whose master this is, and writes the verdict if it is another.

        Raises as the journal does.
        """
        with contextlib.suppress(KeyError):
            del self._dirty[domain, subject]
        async with self._judging:
            await self._judge(self._replica.journal(), domain, subject)

    def signed(
        self, domain: str, spec: artifacts.ArtifactSpec, verdict: artifacts.ArtifactVerdict
    ) -> None:
        """Adds the summary to a verdict that is good."""
        if verdict.state == artifacts.VERIFICATION_STATE_VERIFIED:
            uri = f"souverix:{policy_name(domain)}"
            verdict.summary = sign_summary(spec, verdict, uri, self._replica.signer)

    async def _judge_some(self, journal: Journal) -> None:
        for _ in range(min(JUDGED_AT_ONCE, len(self._dirty))):
            domain, subject = next(iter(self._dirty))
            del self._dirty[domain, subject]
            try:
                async with self._judging:
                    await self._judge(journal, domain, subject)
            except (JournalError, FederationError) as error:
                facts = {"artifact": f"domains/{domain}/{subject}", "error": str(error)}
                _log.warning("an artifact was not judged", extra=facts)

    async def _judge(self, journal: Journal, domain: str, subject: str) -> None:
        state = self._replica.state
        spec = _artifact(state, domain, subject)
        if spec is None or not self._is_judge_of(domain):
            return
        verdict = await self.judged(domain, spec, _wall_ms())
        standing = standing_verdict(state, domain, subject, spec)
        if standing is not None and _same(standing, verdict):
            return
        self.signed(domain, spec, verdict)
        principal = f"controller:{self._replica.config.controller.id}"

        def write(proposal: Proposal) -> None:
            present = _artifact(proposal, domain, subject)
            if present is not None and spec_digest(present) == verdict.spec_digest:
                proposal.write(domain, subject, "artifact_verdict", verdict, principal=principal)

        await journal.submit(write)

    def _outdated(self) -> Iterator[tuple[str, str]]:
        """Artifacts of the domains judged here without a verdict that counts."""
        state, now_ms = self._replica.state, _wall_ms()
        for domain in list(state.authority.records):
            if not self._is_judge_of(domain):
                continue
            subjects = list(state.subjects_of(domain, "artifacts"))
            digest = trust_digest(effective_policy(state, domain)) if subjects else ""
            for subject in subjects:
                spec = _artifact(state, domain, subject)
                if spec is None:
                    continue
                verdict = standing_verdict(state, domain, subject, spec)
                ends = verdict is not None and verdict.HasField("expire_time")
                if (
                    verdict is None
                    or verdict.trust_digest != digest
                    or (ends and now_ms >= verdict.expire_time.ToMilliseconds())
                ):
                    yield domain, subject

    def _is_judge_of(self, domain: str) -> bool:
        record = self._replica.state.authority.records.get(domain)
        return record is not None and record.master_of_record == self._replica.config.controller.id

    def _above(self, domain: str) -> tuple[list[SummaryKey], dict[str, str]]:
        """Keys of the controllers of a domain and of those above it, and the trust digests of their policies."""
        state = self._replica.state
        path = state.authority.path_of(domain) or (domain,)
        policies = {
            f"souverix:{policy_name(at)}": trust_digest(effective_policy(state, at)) for at in path
        }
        keys = []
        for grant in state.keys.grants():
            if grant.domain in path:
                with contextlib.suppress(ValueError):
                    key = Ed25519PublicKey.from_public_bytes(grant.public_key)
                    keys.append(SummaryKey(grant.controller, key))
        return keys, policies

    async def _document(self, reference: observation_pb2.LargeValueRef) -> bytes | None:
        """The SBOM that a reference names; None when it is not held here."""
        chunks = [chunk.digest for chunk in reference.chunks] or [reference.digest]
        with contextlib.suppress(ValueStoreError):
            return await self._values.whole(chunks, MAX_SBOM_BYTES)
        return None

    def _verdict(
        self, found: Judgement, spec: artifacts.ArtifactSpec, digest: str, now_ms: int
    ) -> artifacts.ArtifactVerdict:
        verdict = artifacts.ArtifactVerdict(
            state=found.state,  # type: ignore[arg-type]
            findings=found.findings,
            fulfilled=sorted(found.fulfilled),  # type: ignore[arg-type]
            slsa_build_level=found.slsa_build_level,
            spec_digest=spec_digest(spec),
            trust_digest=digest,
            verifier=self._replica.config.controller.id,
            verify_time=timestamp(now_ms),
        )
        if found.expire_ms is not None:
            verdict.expire_time.CopyFrom(timestamp(found.expire_ms))
        return verdict


def _artifact(facts: Facts, domain: str, subject: str) -> artifacts.ArtifactSpec | None:
    if not exists(facts, domain, subject):
        return None
    spec: artifacts.ArtifactSpec | None = body_of(facts, Key(domain, subject, "artifact"))
    return spec


def _same(one: artifacts.ArtifactVerdict, other: artifacts.ArtifactVerdict) -> bool:
    """Tells whether two verdicts say the same, but for when they were made and by whose hand they are signed."""
    first, second = artifacts.ArtifactVerdict(), artifacts.ArtifactVerdict()
    for told, into in ((one, first), (other, second)):
        into.CopyFrom(told)
        into.ClearField("verify_time")
        into.ClearField("summary")
        into.ClearField("verifier")
    return first == second


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
