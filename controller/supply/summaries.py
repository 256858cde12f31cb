"""Verification summaries: that somebody judged a payload, in a form others can check (SLSA VSA v1). Owns how a
controller's verdict is spelled and read; signs nothing itself (a port does).

A zone that believes its region needs neither the SBOM nor the build's attestations: the summary, signed with the
region's key, is enough.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controller.supply.documents import BadDocument
from controller.supply.envelopes import PAYLOAD_TYPE, STATEMENT_TYPES, Statement
from souverix.supply.v1 import artifact_pb2 as artifacts

SUMMARY_TYPE: Final = "https://slsa.dev/verification_summary/v1"

#: SLSA's own words for levels, and ours for what SLSA has none for.
_LEVEL: Final = "SLSA_BUILD_LEVEL_"
_OURS: Final = {
    artifacts.REQUIREMENT_SIGNATURE: "SOUVERIX_SIGNATURE",
    artifacts.REQUIREMENT_PROVENANCE: "SOUVERIX_PROVENANCE",
    artifacts.REQUIREMENT_SBOM: "SOUVERIX_SBOM",
}

#: Levels of one summary that are read.
MAX_LEVELS: Final = 64


class SummarySigner(Protocol):
    """A controller's private key."""

    @property
    def key_id(self) -> str:
        """Names the key."""

    def sign(self, message: bytes) -> bytes:
        """Signs a message, Ed25519."""


class SummaryKey(NamedTuple):
    """A controller's public key."""

    controller: str
    key: Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Summary:
    """What a summary says."""

    passed: bool
    fulfilled: frozenset[int]
    slsa_build_level: int
    #: When it ends; None: no end is named.
    expire_ms: int | None
    #: The policy it was judged by, and that policy's trust digest, without "sha256:".
    policy_uri: str
    policy_digest: str


def resource_uri(spec: artifacts.ArtifactSpec) -> str:
    """What a summary is about, where the artifact has no package URL."""
    return spec.purl or f"souverix:{spec.component}@{spec.version}"


def sign_summary(
    spec: artifacts.ArtifactSpec,
    verdict: artifacts.ArtifactVerdict,
    policy_uri: str,
    signer: SummarySigner,
) -> bytes:
    """The verdict on a verified artifact as a summary in a DSSE envelope, in JSON."""
    levels = [_OURS[each] for each in verdict.fulfilled]
    levels.append(f"{_LEVEL}{verdict.slsa_build_level}")
    predicate: dict[str, Any] = {
        "verifier": {"id": f"souverix:controllers/{verdict.verifier}"},
        "timeVerified": verdict.verify_time.ToJsonString(),
        "resourceUri": resource_uri(spec),
        "policy": {"uri": policy_uri, "digest": {"sha256": verdict.trust_digest.partition(":")[2]}},
        "verificationResult": "PASSED",
        "verifiedLevels": levels,
        "slsaVersion": "1.0",
    }
    if verdict.HasField("expire_time"):
        predicate["souverixExpireTime"] = verdict.expire_time.ToJsonString()
    statement = {
        "_type": STATEMENT_TYPES[0],
        "subject": [{"name": spec.component, "digest": {"sha256": spec.digest.partition(":")[2]}}],
        "predicateType": SUMMARY_TYPE,
        "predicate": predicate,
    }
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    kind = PAYLOAD_TYPE.encode()
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {"keyid": signer.key_id, "sig": base64.b64encode(signer.sign(message)).decode()}
        ],
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


def read_summary(statement: Statement, spec: artifacts.ArtifactSpec) -> Summary:
    """What a summary says of an artifact. Raises `BadDocument` for one that is malformed or about another resource."""
    predicate = statement.predicate
    levels = predicate.get("verifiedLevels", [])
    if not isinstance(levels, list) or len(levels) > MAX_LEVELS:
        raise BadDocument(
            "STATEMENT_MALFORMED", f"verifiedLevels are a list of {MAX_LEVELS} at most"
        )
    if predicate.get("resourceUri") not in (resource_uri(spec), spec.purl or None):
        raise BadDocument("RESOURCE_MISMATCH", f"it is not about {resource_uri(spec)}")
    level = max(_levels(levels), default=0)
    fulfilled = {each for each, word in _OURS.items() if word in levels}
    fulfilled.add(artifacts.REQUIREMENT_SIGNATURE)
    if level > 0:
        fulfilled.add(artifacts.REQUIREMENT_PROVENANCE)
    return Summary(
        predicate.get("verificationResult") == "PASSED",
        frozenset(fulfilled),
        level,
        _end(predicate.get("souverixExpireTime")),
        *_policy(predicate.get("policy")),
    )


def _policy(told: Any) -> tuple[str, str]:
    policy = told if isinstance(told, dict) else {}
    digest = policy.get("digest")
    sha256 = digest.get("sha256") if isinstance(digest, dict) else None
    return str(policy.get("uri", "")), str(sha256 or "")


def _levels(words: Iterable[Any]) -> Iterable[int]:
    for word in words:
        if isinstance(word, str) and word.startswith(_LEVEL):
            number = word[len(_LEVEL) :]
            if number in ("0", "1", "2", "3", "4"):
                yield int(number)


def _end(text: Any) -> int | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise BadDocument("STATEMENT_MALFORMED", "souverixExpireTime is no time of RFC 3339")
    return int(found.astimezone(UTC).timestamp() * 1000)
