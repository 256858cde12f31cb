"""What an artifact's evidence is worth to a domain. Owns the verdict and its reasons; fetches and writes nothing.

Evidence counts when somebody whom the domain believes for this purpose signed it, and when it is about this very
payload, by its SHA-256. One piece that contradicts the artifact spoils the rest: somebody erred or cheated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from controller.supply.certificates import BadChain, PublicKey, verify_chain
from controller.supply.documents import BadDocument, read_json
from controller.supply.envelopes import (
    Envelope,
    Statement,
    read_envelope,
    read_statement,
    sha256_of,
    signed_by,
)
from controller.supply.sbom import MAX_SBOM_BYTES, read_sbom
from controller.supply.sbom import MAX_VALUES as MAX_SBOM_VALUES
from controller.supply.summaries import SUMMARY_TYPE, SummaryKey, read_summary
from controller.supply.trust import Signer, Trust
from souverix.supply.v1 import artifact_pb2 as artifacts

PROVENANCE_TYPES: Final = ("https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2")
REFERENCE_TYPE: Final = "https://in-toto.io/attestation/reference/v0.1"
BOM_TYPE: Final = "https://cyclonedx.org/bom"

#: Reasons by which evidence contradicts the artifact, rather than proving nothing.
CONTRADICTIONS: Final = frozenset(
    {"SIGNATURE_BROKEN", "SUBJECT_MISMATCH", "SUMMARY_FAILED", "SBOM_MISMATCH"}
)

_SIGNATURE: Final = artifacts.REQUIREMENT_SIGNATURE
_PROVENANCE: Final = artifacts.REQUIREMENT_PROVENANCE
_SBOM: Final = artifacts.REQUIREMENT_SBOM


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome, with what it rests on."""

    state: int
    findings: tuple[artifacts.Finding, ...]
    fulfilled: frozenset[int]
    slsa_build_level: int
    #: When the first of what it rests on ends; None: nothing of it ends.
    expire_ms: int | None


@dataclass(slots=True)
class _Signed:
    """A key that signed an envelope, and who vouches for it."""

    signer: Signer
    expire_ms: int | None


@dataclass(slots=True)
class _Proved:
    requirements: frozenset[int] = frozenset()
    level: int = 0


@dataclass(slots=True)
class _Case:
    """One judgement in the making."""

    spec: artifacts.ArtifactSpec
    trust: Trust
    #: The SBOM's bytes; None: it has none, or they are not held here.
    sbom: bytes | None
    now_ms: int
    summary_keys: Sequence[SummaryKey]
    policies: Mapping[str, str]
    sbom_is_valid: bool = False
    findings: list[artifacts.Finding] = field(default_factory=list)
    fulfilled: set[int] = field(default_factory=set)
    level: int = 0
    ends: list[int] = field(default_factory=list)

    def reject(self, evidence: str, reason: str, message: str, signer: str = "") -> None:
        self.findings.append(
            artifacts.Finding(evidence=evidence, reason=reason, message=message, signer=signer)
        )

    def accept(
        self, evidence: str, signed: str, proved: _Proved, ends: Sequence[int | None]
    ) -> None:
        self.findings.append(
            artifacts.Finding(
                evidence=evidence,
                holds=True,
                reason="HOLDS",
                message=f"signed by {signed}" if signed else "valid",
                signer=signed,
                proves=sorted(proved.requirements),  # type: ignore[arg-type]
            )
        )
        self.fulfilled |= proved.requirements
        self.level = max(self.level, proved.level)
        self.ends.extend(end for end in ends if end is not None)

    @property
    def digest(self) -> str:
        """SHA-256 of the payload, in hexadecimal digits."""
        return self.spec.digest.partition(":")[2]


def judge(
    spec: artifacts.ArtifactSpec,
    trust: Trust,
    sbom: bytes | None,
    now_ms: int,
    summary_keys: Sequence[SummaryKey] = (),
    policies: Mapping[str, str] = MappingProxyType({}),
) -> Judgement:
    """Judges an artifact. `sbom` is the document its spec names, if it is held; `summary_keys` are those of controllers
    of the domain and of those above it, whose verification summaries count as their own verdicts; `policies` are the
    trust digests of these domains' policies by URI, as far as they are known: a summary by another trust is outdated.
    """
    case = _Case(spec, trust, sbom, now_ms, summary_keys, policies)
    _judge_sbom(case)
    for number, signed in enumerate(spec.envelopes):
        _judge_envelope(case, f"envelopes[{number}]", signed)
    if spec.HasField("payload_signature"):
        _judge_payload_signature(case, spec.payload_signature)
    return _conclude(case)


def _conclude(case: _Case) -> Judgement:
    trust, spec = case.trust, case.spec
    missing = sorted(trust.requirements - case.fulfilled)
    if missing:
        words = ", ".join(
            artifacts.Requirement.Name(m).removeprefix("REQUIREMENT_") for m in missing
        )
        case.reject("policy", "REQUIREMENT_MISSING", f"domain {trust.domain} demands {words}")
    if case.level < trust.min_slsa_build_level:
        case.reject(
            "policy",
            "LEVEL_TOO_LOW",
            f"SLSA build level {case.level} is proved, {trust.min_slsa_build_level} is demanded",
        )
    if any(finding.reason in CONTRADICTIONS for finding in case.findings):
        state = artifacts.VERIFICATION_STATE_FAILED
    elif not missing and case.level >= trust.min_slsa_build_level:
        state = artifacts.VERIFICATION_STATE_VERIFIED
    elif not spec.envelopes and not spec.HasField("payload_signature"):
        state = artifacts.VERIFICATION_STATE_UNSIGNED
    else:
        state = artifacts.VERIFICATION_STATE_UNVERIFIABLE
    return Judgement(
        state,
        tuple(case.findings),
        frozenset(case.fulfilled),
        case.level,
        min(case.ends, default=None),
    )


def _judge_sbom(case: _Case) -> None:
    """Whether the document is what its digest says and valid; who vouches for it is told by the envelopes."""
    if not case.spec.HasField("sbom"):
        return
    if case.sbom is None:
        case.reject("sbom", "SBOM_NOT_HELD", "the document is not held by this controller")
    elif sha256_of(case.sbom) != case.spec.sbom.digest:
        case.reject("sbom", "SBOM_MISMATCH", "the document has another digest")
    else:
        try:
            read_sbom(case.sbom)
        except BadDocument as error:
            case.reject("sbom", error.reason, str(error))
            return
        case.sbom_is_valid = True
        case.accept("sbom", "", _Proved(), ())


def _judge_envelope(case: _Case, evidence: str, signed: artifacts.SignedEnvelope) -> None:
    try:
        envelope = read_envelope(signed.document)
        signers = _signers_of(case, envelope, signed.certificates)
        controllers = [key for key in case.summary_keys if signed_by(envelope, key.key)]
        if not signers and not controllers:
            message = f"signed by nobody whom domain {case.trust.domain} believes"
            case.reject(evidence, "SIGNER_UNKNOWN", message)
            return
        statement = read_statement(envelope)
    except BadDocument as error:
        case.reject(evidence, error.reason, str(error))
        return
    except BadChain as error:
        case.reject(evidence, "CHAIN_BROKEN", str(error))
        return
    except InvalidSignature:
        message = (
            "its certificates lead to a root that is believed, and its signature is not their key's"
        )
        case.reject(evidence, "SIGNATURE_BROKEN", message)
        return
    name = signers[0].signer.name if signers else controllers[0].controller
    if case.digest not in statement.subjects:
        case.reject(evidence, "SUBJECT_MISMATCH", "it is about another payload", name)
    elif statement.predicate_type == SUMMARY_TYPE:
        _judge_summary(case, evidence, statement, signers, controllers)
    else:
        _judge_statement(case, evidence, statement, signers, name)


def _signers_of(case: _Case, envelope: Envelope, certificates: Sequence[bytes]) -> list[_Signed]:
    """Everybody believed about the component who signed an envelope.

    Raises `BadChain` when certificates lead to none of the roots that are believed, `InvalidSignature` when they do and
    their key has not signed.
    """
    usable = [s for s in case.trust.signers if s.speaks_for(case.spec.component, case.now_ms)]
    found = [
        _Signed(s, s.expire_ms) for s in usable if s.key is not None and signed_by(envelope, s.key)
    ]
    if not certificates:
        return found
    led, key = _led_to(case, usable, certificates)
    if led and not signed_by(envelope, key):
        raise InvalidSignature
    return found + led


def _led_to(
    case: _Case, usable: Sequence[Signer], certificates: Sequence[bytes]
) -> tuple[list[_Signed], Any]:
    """The signers below whose roots the certificates stand, and the key they vouch for. Raises `BadChain`."""
    found: list[_Signed] = []
    key: PublicKey | None = None
    broken: BadChain | None = None
    for signer in usable:
        if signer.root is None:
            continue
        try:
            chain = verify_chain(certificates, signer.root, case.now_ms)
        except BadChain as error:
            broken = error
            continue
        key = chain.key
        ends = [end for end in (chain.expire_ms, signer.expire_ms) if end is not None]
        found.append(_Signed(signer, min(ends)))
    if not found and broken is not None:
        raise broken
    return found, key


def _judge_statement(
    case: _Case, evidence: str, statement: Statement, signers: Sequence[_Signed], name: str
) -> None:
    told: list[tuple[str, str]] = []
    for use, prove in _readings(statement):
        for signed in signers:
            if use not in signed.signer.uses:
                told.append(("USE_NOT_ALLOWED", f"{signed.signer.name} is not believed about that"))
                continue
            try:
                proved = prove(case, statement, signed.signer)
            except _NotProvedError as error:
                told.append((error.reason, str(error)))
                continue
            case.accept(evidence, signed.signer.name, proved, (signed.expire_ms,))
            return
    reason, message = told[0] if told else ("SIGNER_UNKNOWN", "a controller signs summaries only")
    case.reject(evidence, reason, message, name)


class _NotProvedError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


_Proof = Callable[[_Case, Statement, Signer], _Proved]


def _readings(statement: Statement) -> list[tuple[int, _Proof]]:
    """As what a statement may count, by what its signer is believed about."""
    if statement.predicate_type in PROVENANCE_TYPES:
        return [(artifacts.SIGNER_USE_PROVENANCE, _provenance)]
    if statement.predicate_type in (REFERENCE_TYPE, BOM_TYPE):
        return [(artifacts.SIGNER_USE_SBOM, _bom)]
    return [(artifacts.SIGNER_USE_PAYLOAD, _other)]


def _provenance(case: _Case, statement: Statement, signer: Signer) -> _Proved:
    predicate = statement.predicate
    run = predicate.get("runDetails")
    builder = (run if isinstance(run, dict) else predicate).get("builder")
    builder_id = builder.get("id") if isinstance(builder, dict) else None
    if not isinstance(builder_id, str) or not builder_id:
        raise _NotProvedError("STATEMENT_MALFORMED", "the provenance names no builder")
    if signer.builder_ids and builder_id not in signer.builder_ids:
        told = f"{signer.name} may not speak for builder {builder_id[:120]}"
        raise _NotProvedError("BUILDER_UNKNOWN", told)
    proved = {_SIGNATURE, _PROVENANCE}
    sbom = case.spec.sbom.digest.partition(":")[2]
    if case.sbom_is_valid and sbom in statement.subjects:
        proved.add(_SBOM)
    return _Proved(frozenset(proved), signer.slsa_build_level)


def _bom(case: _Case, statement: Statement, signer: Signer) -> _Proved:
    if not case.sbom_is_valid or case.sbom is None:
        raise _NotProvedError(
            "SBOM_NOT_HELD", "it is about an SBOM that the artifact does not have"
        )
    if statement.predicate_type == BOM_TYPE:
        document = read_json(case.sbom, max_bytes=MAX_SBOM_BYTES, max_values=MAX_SBOM_VALUES)
        if statement.predicate != document:
            raise _NotProvedError("SBOM_MISMATCH", "it holds another SBOM than the artifact has")
        return _Proved(frozenset({_SBOM}))
    references = statement.predicate.get("references")
    for reference in references if isinstance(references, list) else ():
        digest = reference.get("digest") if isinstance(reference, dict) else None
        told = digest.get("sha256") if isinstance(digest, dict) else None
        if told == case.spec.sbom.digest.partition(":")[2]:
            return _Proved(frozenset({_SBOM}))
    raise _NotProvedError("SBOM_MISMATCH", "it refers to another SBOM than the artifact has")


def _other(case: _Case, statement: Statement, signer: Signer) -> _Proved:
    return _Proved(frozenset({_SIGNATURE}))


def _judge_summary(
    case: _Case,
    evidence: str,
    statement: Statement,
    signers: Sequence[_Signed],
    controllers: Sequence[SummaryKey],
) -> None:
    believed = [s for s in signers if artifacts.SIGNER_USE_SUMMARY in s.signer.uses]
    if controllers:
        name, end = controllers[0].controller, None
    elif believed:
        name, end = believed[0].signer.name, believed[0].expire_ms
    else:
        told = f"{signers[0].signer.name} is not believed about that"
        case.reject(evidence, "USE_NOT_ALLOWED", told, signers[0].signer.name)
        return
    try:
        summary = read_summary(statement, case.spec)
    except BadDocument as error:
        case.reject(evidence, error.reason, str(error), name)
        return
    if not summary.passed:
        case.reject(evidence, "SUMMARY_FAILED", f"{name} has verified it, and it failed", name)
        return
    known = case.policies.get(summary.policy_uri)
    if controllers and known is not None and known != f"sha256:{summary.policy_digest}":
        told = f"{name} believed and demanded other things when it verified it"
        case.reject(evidence, "SUMMARY_OUTDATED", told, name)
        return
    if summary.expire_ms is not None and case.now_ms >= summary.expire_ms:
        case.reject(evidence, "SUMMARY_OUTDATED", "it has ended", name)
        return
    proved = _Proved(summary.fulfilled, summary.slsa_build_level)
    case.accept(evidence, name, proved, (end, summary.expire_ms))


def _judge_payload_signature(case: _Case, signature: artifacts.PayloadSignature) -> None:
    evidence = "payload_signature"
    usable = [
        s
        for s in case.trust.signers
        if artifacts.SIGNER_USE_PAYLOAD in s.uses and s.speaks_for(case.spec.component, case.now_ms)
    ]
    digest = bytes.fromhex(case.digest)
    for signer in usable:
        if signer.key is not None and _signs(signer.key, signature.signature, digest):
            case.accept(
                evidence, signer.name, _Proved(frozenset({_SIGNATURE})), (signer.expire_ms,)
            )
            return
    try:
        led, key = (
            _led_to(case, usable, signature.certificates) if signature.certificates else ([], None)
        )
    except BadChain as error:
        case.reject(evidence, "CHAIN_BROKEN", str(error))
        return
    if not led or key is None:
        message = f"signed by nobody whom domain {case.trust.domain} believes"
        case.reject(evidence, "SIGNER_UNKNOWN", message)
    elif not _signs(key, signature.signature, digest):
        message = (
            "its certificates lead to a root that is believed, and its signature is not their key's"
        )
        case.reject(evidence, "SIGNATURE_BROKEN", message, led[0].signer.name)
    else:
        proved = _Proved(frozenset({_SIGNATURE}))
        case.accept(evidence, led[0].signer.name, proved, (led[0].expire_ms,))


def _signs(key: PublicKey, signature: bytes, digest: bytes) -> bool:
    """Tells whether a signature of the payload is a key's, by the payload's SHA-256 alone."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, digest)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        else:
            key.verify(signature, digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
