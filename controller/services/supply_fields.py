"""What fields of supply-chain requests may hold. Owns the limits and the wording of refusals; looks at one request
only, never at state.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message

from controller.services.fleet_fields import MAX_WORD_BYTES, check_text, id_in_domain
from controller.supply.certificates import MAX_CERTIFICATE_BYTES, MAX_CHAIN
from controller.supply.documents import BadDocument
from controller.supply.envelopes import MAX_ENVELOPE_BYTES, read_envelope
from controller.supply.purls import MAX_PURL_BYTES, read_purl
from controller.supply.sbom import MAX_SBOM_BYTES, MEDIA_TYPE
from controller.supply.trust import BadAnchor, read_signer
from controller.values import DIGEST_PATTERN
from federation.errors import InvalidWrite
from souverix.fleet.v1 import supply_chain_pb2
from souverix.supply.v1 import artifact_pb2 as artifacts

#: Envelopes of one artifact: build, SBOM, tests and reviews of one version, with room for summaries.
MAX_ENVELOPES: Final = 16

#: All that is signed about an artifact stands in the log with it, within what a value there may have (64 KiB).
MAX_EVIDENCE_BYTES: Final = 48 * 1024

#: Largest signature of the keys that are believed: RSA of 8192 bits.
MAX_SIGNATURE_BYTES: Final = 1024

#: Signers of one policy.
MAX_SIGNERS: Final = 64
MAX_WORDS_OF_SIGNER: Final = 64

#: SLSA v1.0 has build levels up to 3.
MAX_BUILD_LEVEL: Final = 3

MAX_POLICY_BYTES: Final = 64 * 1024


def artifact_in_name(name: str) -> tuple[str, str]:
    """Domain and subject of "domains/{domain}/artifacts/{id}". Raises `InvalidWrite`."""
    domain, id_ = id_in_domain(name, "artifacts")
    return domain, f"artifacts/{id_}"


def check_artifact_spec(spec: artifacts.ArtifactSpec) -> None:
    """Raises `InvalidWrite` naming the field."""
    kinds = supply_chain_pb2.ArtifactKind
    if not spec.kind or spec.kind not in kinds.values():
        known = ", ".join(name for name in kinds.keys()[1:])
        raise InvalidWrite(f"spec.kind is required: one of {known}", field="spec.kind")
    for field in ("component", "version"):
        if not getattr(spec, field).strip():
            raise InvalidWrite(f"spec.{field} is required", field=f"spec.{field}")
        check_text(getattr(spec, field), f"spec.{field}", MAX_WORD_BYTES)
    _check_digest(spec.digest, "spec.digest")
    check_text(spec.payload_uri, "spec.payload_uri")
    check_text(spec.purl, "spec.purl", MAX_PURL_BYTES)
    if spec.purl and read_purl(spec.purl) is None:
        raise InvalidWrite(
            f"spec.purl {spec.purl[:80]!r} is no package URL, such as pkg:deb/debian/openssl@3.0.11-1",
            field="spec.purl",
        )
    if spec.HasField("sbom"):
        _check_sbom(spec)
    if spec.HasField("payload_signature"):
        signature = spec.payload_signature
        if not 1 <= len(signature.signature) <= MAX_SIGNATURE_BYTES:
            raise InvalidWrite(
                f"spec.payload_signature.signature is 1 to {MAX_SIGNATURE_BYTES} bytes",
                field="spec.payload_signature.signature",
            )
        _check_chain(signature, "spec.payload_signature")
    check_envelopes(spec)


def check_envelopes(spec: artifacts.ArtifactSpec) -> None:
    """Raises `InvalidWrite` naming the field."""
    if len(spec.envelopes) > MAX_ENVELOPES:
        raise InvalidWrite(
            f"spec.envelopes holds more than {MAX_ENVELOPES} envelopes", field="spec.envelopes"
        )
    size = sum(each.ByteSize() for each in spec.envelopes) + spec.payload_signature.ByteSize()
    if size > MAX_EVIDENCE_BYTES:
        raise InvalidWrite(
            f"envelopes and signature are {size} bytes; at most {MAX_EVIDENCE_BYTES} are kept with an artifact: leave "
            "out what no policy asks for",
            field="spec.envelopes",
        )
    for number, envelope in enumerate(spec.envelopes):
        check_envelope(envelope, f"spec.envelopes[{number}]")


def check_envelope(envelope: artifacts.SignedEnvelope, field: str) -> None:
    """Raises `InvalidWrite` naming the field."""
    if len(envelope.document) > MAX_ENVELOPE_BYTES:
        raise InvalidWrite(
            f"{field}.document is {len(envelope.document)} bytes; at most {MAX_ENVELOPE_BYTES} are allowed",
            field=f"{field}.document",
        )
    try:
        read_envelope(envelope.document)
    except BadDocument as error:
        raise InvalidWrite(
            f"{field}.document is no DSSE envelope in JSON: {error}",
            field=f"{field}.document",
            document_reason=error.reason,
        ) from error
    _check_chain(envelope, field)


def check_supply_policy(spec: artifacts.SupplyPolicySpec) -> None:
    """Raises `InvalidWrite` naming the field."""
    _check_size(spec)
    if spec.gate not in artifacts.GateMode.values():
        raise InvalidWrite("spec.gate is none that this version knows", field="spec.gate")
    known = artifacts.Requirement.values()[1:]
    for number, requirement in enumerate(spec.requirements):
        if requirement not in known:
            field = f"spec.requirements[{number}]"
            raise InvalidWrite(f"{field} is none that this version knows", field=field)
    if spec.min_slsa_build_level > MAX_BUILD_LEVEL:
        raise InvalidWrite(
            f"spec.min_slsa_build_level is 0 to {MAX_BUILD_LEVEL}",
            field="spec.min_slsa_build_level",
        )
    if len(spec.signers) > MAX_SIGNERS:
        raise InvalidWrite(
            f"spec.signers holds more than {MAX_SIGNERS} signers", field="spec.signers"
        )
    names = [signer.name for signer in spec.signers]
    for number, signer in enumerate(spec.signers):
        field = f"spec.signers[{number}]"
        if not signer.name or names.index(signer.name) != number:
            raise InvalidWrite(
                f"{field}.name is empty, or another signer's too", field=f"{field}.name"
            )
        _check_signer(signer, field)


def _check_signer(signer: artifacts.TrustedSigner, field: str) -> None:
    check_text(signer.name, f"{field}.name", MAX_WORD_BYTES)
    uses = artifacts.SignerUse.values()[1:]
    if not signer.uses or any(use not in uses for use in signer.uses):
        names = ", ".join(name for name in artifacts.SignerUse.keys()[1:])
        raise InvalidWrite(
            f"{field}.uses says what it is believed about: some of {names}", field=f"{field}.uses"
        )
    for words in ("components", "builder_ids"):
        given = getattr(signer, words)
        if len(given) > MAX_WORDS_OF_SIGNER:
            raise InvalidWrite(
                f"{field}.{words} holds more than {MAX_WORDS_OF_SIGNER}", field=f"{field}.{words}"
            )
        for number, word in enumerate(given):
            check_text(word, f"{field}.{words}[{number}]")
    if signer.slsa_build_level > MAX_BUILD_LEVEL:
        raise InvalidWrite(
            f"{field}.slsa_build_level is 0 to {MAX_BUILD_LEVEL}", field=f"{field}.slsa_build_level"
        )
    try:
        read_signer(signer)
    except BadAnchor as error:
        raise InvalidWrite(f"{field} cannot be believed: {error}", field=field) from error


def _check_sbom(spec: artifacts.ArtifactSpec) -> None:
    sbom = spec.sbom
    _check_digest(sbom.digest, "spec.sbom.digest")
    if not 0 < sbom.size_bytes <= MAX_SBOM_BYTES:
        raise InvalidWrite(
            f"spec.sbom.size_bytes is {sbom.size_bytes}; an SBOM has 1 to {MAX_SBOM_BYTES} bytes",
            field="spec.sbom.size_bytes",
        )
    if sbom.media_type != MEDIA_TYPE:
        raise InvalidWrite(
            f"spec.sbom.media_type is not {MEDIA_TYPE}", field="spec.sbom.media_type"
        )
    for number, chunk in enumerate(sbom.chunks):
        _check_digest(chunk.digest, f"spec.sbom.chunks[{number}].digest")


def _check_digest(digest: str, field: str) -> None:
    if not DIGEST_PATTERN.fullmatch(digest):
        raise InvalidWrite(
            f"{field} {digest[:80]!r} is not of the form sha256: and 64 hexadecimal digits",
            field=field,
        )


def _check_chain(signed: artifacts.SignedEnvelope | artifacts.PayloadSignature, field: str) -> None:
    if len(signed.certificates) > MAX_CHAIN or any(
        len(each) > MAX_CERTIFICATE_BYTES for each in signed.certificates
    ):
        raise InvalidWrite(
            f"{field}.certificates holds more than {MAX_CHAIN}, or one larger than {MAX_CERTIFICATE_BYTES} bytes",
            field=f"{field}.certificates",
        )


def _check_size(spec: Message) -> None:
    if spec.ByteSize() > MAX_POLICY_BYTES:
        raise InvalidWrite(
            f"spec is {spec.ByteSize()} bytes; at most {MAX_POLICY_BYTES} are allowed", field="spec"
        )
