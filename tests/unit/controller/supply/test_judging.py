from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer._crypto_signer import CryptoSigner

from controller.signing import Ed25519Signer
from controller.supply.judging import Judgement, judge
from controller.supply.summaries import SummaryKey, sign_summary
from controller.supply.trust import LEAST_DEMAND, Trust, read_signer
from controller.twin.facts import timestamp
from souverix.fleet.v1 import observation_pb2
from souverix.supply.v1 import artifact_pb2 as artifacts
from tests.unit.controller.supply.signers import (
    BUILDER,
    DAY_MS,
    DIGEST,
    NOW_MS,
    PAYLOAD,
    Authority,
    der,
    enveloped,
    pem_of,
    provenance,
    spec,
    statement,
    trusted,
)

PROVENANCE = artifacts.SIGNER_USE_PROVENANCE
SBOM = artifacts.SIGNER_USE_SBOM
PAYLOAD_USE = artifacts.SIGNER_USE_PAYLOAD
SUMMARY = artifacts.SIGNER_USE_SUMMARY
ALL_USES = (PROVENANCE, SBOM, PAYLOAD_USE, SUMMARY)

VERIFIED = artifacts.VERIFICATION_STATE_VERIFIED
UNSIGNED = artifacts.VERIFICATION_STATE_UNSIGNED
UNVERIFIABLE = artifacts.VERIFICATION_STATE_UNVERIFIABLE
FAILED = artifacts.VERIFICATION_STATE_FAILED

BOM = json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": []}).encode()
BOM_DIGEST = hashlib.sha256(BOM).hexdigest()
BOM_REFERENCE = observation_pb2.LargeValueRef(digest=f"sha256:{BOM_DIGEST}", size_bytes=len(BOM))


@pytest.fixture
def builder() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


def trust(*signers: artifacts.TrustedSigner, **fields: Any) -> Trust:
    read = tuple(map(read_signer, signers))
    plain = Trust("zone", artifacts.GATE_MODE_ENFORCE, read, LEAST_DEMAND, 0, "sha256:t")
    return replace(plain, **fields)


def reasons(judgement: Judgement) -> list[str]:
    return [finding.reason for finding in judgement.findings]


@pytest.mark.parametrize(
    "signer",
    [
        CryptoSigner.generate_ed25519(),
        CryptoSigner.generate_ecdsa(),
        CryptoSigner.generate_rsa(),
        CryptoSigner.generate_rsa(scheme="rsa-pkcs1v15-sha256"),
    ],
    ids=lambda signer: signer.public_key.scheme,
)
def test_provenance_by_a_believed_builder_verifies(signer: CryptoSigner) -> None:
    believed = trust(trusted(signer, PROVENANCE, slsa_build_level=3))

    found = judge(spec(enveloped(signer, provenance())), believed, None, NOW_MS)

    assert (found.state, found.slsa_build_level, found.expire_ms) == (VERIFIED, 3, None)
    assert found.fulfilled == {
        artifacts.REQUIREMENT_SIGNATURE,
        artifacts.REQUIREMENT_PROVENANCE,
    }
    assert found.findings[0].signer == "build-system"


def test_nothing_signed_is_unsigned(builder: CryptoSigner) -> None:
    found = judge(spec(), trust(trusted(builder, *ALL_USES)), None, NOW_MS)
    assert (found.state, reasons(found)) == (UNSIGNED, ["REQUIREMENT_MISSING"])


def test_strangers_signature_proves_nothing(builder: CryptoSigner) -> None:
    envelope = enveloped(CryptoSigner.generate_ed25519(), provenance())
    found = judge(spec(envelope), trust(trusted(builder, *ALL_USES)), None, NOW_MS)
    assert (found.state, reasons(found)[0]) == (UNVERIFIABLE, "SIGNER_UNKNOWN")


def test_key_id_of_a_believed_key_proves_nothing(builder: CryptoSigner) -> None:
    envelope = json.loads(enveloped(CryptoSigner.generate_ed25519(), provenance()).document)
    envelope["signatures"][0]["keyid"] = builder.public_key.keyid
    forged = artifacts.SignedEnvelope(document=json.dumps(envelope).encode())
    found = judge(spec(forged), trust(trusted(builder, *ALL_USES)), None, NOW_MS)
    assert reasons(found)[0] == "SIGNER_UNKNOWN"


def test_changed_payload_and_changed_type_break_the_signature(builder: CryptoSigner) -> None:
    good = json.loads(enveloped(builder, provenance()).document)
    other = json.loads(enveloped(builder, provenance(builder="https://evil")).document)
    for changes in ({"payload": other["payload"]}, {"payloadType": "text/plain"}):
        forged = artifacts.SignedEnvelope(document=json.dumps(good | changes).encode())
        found = judge(spec(forged), trust(trusted(builder, *ALL_USES)), None, NOW_MS)
        assert (found.state, reasons(found)[0]) == (UNVERIFIABLE, "SIGNER_UNKNOWN")


def test_statement_about_another_payload_contradicts(builder: CryptoSigner) -> None:
    good, other = enveloped(builder, provenance()), enveloped(builder, provenance("0" * 64))
    found = judge(spec(good, other), trust(trusted(builder, PROVENANCE)), None, NOW_MS)
    assert (found.state, reasons(found)) == (FAILED, ["HOLDS", "SUBJECT_MISMATCH"])


def test_signer_is_believed_only_about_what_it_is_named_for(builder: CryptoSigner) -> None:
    artifact = spec(enveloped(builder, provenance()))
    for entry, reason in (
        (trusted(builder, SBOM), "USE_NOT_ALLOWED"),
        (trusted(builder, PROVENANCE, components=["souverix-coeur"]), "SIGNER_UNKNOWN"),
        (trusted(builder, PROVENANCE, builder_ids=["https://other"]), "BUILDER_UNKNOWN"),
        (trusted(builder, PROVENANCE, expire_time=timestamp(NOW_MS)), "SIGNER_UNKNOWN"),
    ):
        found = judge(artifact, trust(entry), None, NOW_MS)
        assert (found.state, reasons(found)[0]) == (UNVERIFIABLE, reason)
    allowed = trusted(builder, PROVENANCE, components=["souverix-*"], builder_ids=[BUILDER])
    assert judge(artifact, trust(allowed), None, NOW_MS).state == VERIFIED


def test_verdict_ends_with_the_signer_it_rests_on(builder: CryptoSigner) -> None:
    entry = trusted(builder, PROVENANCE, expire_time=timestamp(NOW_MS + DAY_MS))
    found = judge(spec(enveloped(builder, provenance())), trust(entry), None, NOW_MS)
    assert (found.state, found.expire_ms) == (VERIFIED, NOW_MS + DAY_MS)


def test_demands_beyond_a_signature_must_be_met(builder: CryptoSigner) -> None:
    entry = trusted(builder, *ALL_USES, slsa_build_level=2)
    demanded = LEAST_DEMAND | {artifacts.REQUIREMENT_PROVENANCE, artifacts.REQUIREMENT_SBOM}
    strict = trust(entry, requirements=demanded, min_slsa_build_level=3)

    found = judge(spec(enveloped(builder, provenance())), strict, None, NOW_MS)

    assert found.state == UNVERIFIABLE
    assert reasons(found) == ["HOLDS", "REQUIREMENT_MISSING", "LEVEL_TOO_LOW"]
    assert "SBOM" in found.findings[1].message


@pytest.mark.parametrize("way", ["reference", "bom", "subject"])
def test_sbom_is_proved_by_a_statement_that_names_it(builder: CryptoSigner, way: str) -> None:
    payload = {
        "reference": statement(
            "https://in-toto.io/attestation/reference/v0.1",
            {"references": [{"digest": {"sha256": BOM_DIGEST}}]},
            DIGEST,
        ),
        "bom": statement("https://cyclonedx.org/bom", json.loads(BOM), DIGEST),
        "subject": provenance(DIGEST, BOM_DIGEST),
    }[way]
    artifact = spec(enveloped(builder, payload), sbom=BOM_REFERENCE)
    believed = trust(trusted(builder, *ALL_USES))

    found = judge(artifact, believed, BOM, NOW_MS)

    assert artifacts.REQUIREMENT_SBOM in found.fulfilled
    not_held = judge(artifact, believed, None, NOW_MS)
    assert artifacts.REQUIREMENT_SBOM not in not_held.fulfilled
    assert "SBOM_NOT_HELD" in reasons(not_held)


def test_sbom_that_is_not_the_one_named_contradicts(builder: CryptoSigner) -> None:
    believed = trust(trusted(builder, *ALL_USES))
    other = statement("https://cyclonedx.org/bom", {"bomFormat": "CycloneDX"}, DIGEST)
    held = judge(spec(enveloped(builder, other), sbom=BOM_REFERENCE), believed, BOM, NOW_MS)
    assert (held.state, reasons(held)) == (
        FAILED,
        ["HOLDS", "SBOM_MISMATCH", "REQUIREMENT_MISSING"],
    )
    changed = judge(spec(sbom=BOM_REFERENCE), believed, BOM + b" ", NOW_MS)
    assert (changed.state, reasons(changed)[0]) == (FAILED, "SBOM_MISMATCH")


def test_invalid_sbom_is_no_sbom(builder: CryptoSigner) -> None:
    data = b'{"bomFormat": "CycloneDX", "specVersion": "1.6", "surprise": 1}'
    digest = hashlib.sha256(data).hexdigest()
    reference = observation_pb2.LargeValueRef(digest=f"sha256:{digest}", size_bytes=len(data))
    envelope = enveloped(builder, provenance(DIGEST, digest))
    found = judge(spec(envelope, sbom=reference), trust(trusted(builder, *ALL_USES)), data, NOW_MS)
    assert reasons(found)[0] == "SBOM_INVALID"
    assert artifacts.REQUIREMENT_SBOM not in found.fulfilled


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[" * 500,
        b'{"payload": "e30=", "payloadType": "t", "signatures": []}',
        b'{"payload": "e30=", "payloadType": "t", "signatures": [{"sig": "*"}]}',
        b'{"payload": 1, "payloadType": "t", "signatures": [{"sig": "AA=="}]}',
        b'{"payload": "e30=", "payloadType": ["t"], "signatures": [{"sig": "AA=="}]}',
        b'{"payload": "e30=", "payload": "e30=", "payloadType": "t", "signatures": [{"sig": "AA=="}]}',
        b'{"payload": "e30=", "payloadType": "t", "signatures": [7]}',
        b'{"payload": "e30=", "payloadType": "t", "signatures": [{"sig": "AA=="}]}',
    ],
)
def test_hostile_envelopes_prove_nothing(builder: CryptoSigner, document: bytes) -> None:
    envelope = artifacts.SignedEnvelope(document=document, certificates=[b"\x30", b""])
    found = judge(spec(envelope), trust(trusted(builder, *ALL_USES)), None, NOW_MS)
    assert found.state == UNVERIFIABLE


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b"[1]",
        b'{"_type": "https://in-toto.io/Statement/v1", "predicateType": "x", "subject": []}',
        b'{"_type": "https://in-toto.io/Statement/v1", "predicateType": 1, "subject": [{}]}',
        b'{"_type": "https://in-toto.io/Statement/v1", "predicateType": "x", "subject": ["a"]}',
        b'{"_type": "https://in-toto.io/Statement/v1", "predicateType": "x", "subject": [{"digest": 1}]}',
        statement("https://slsa.dev/provenance/v1", {"runDetails": 7}, DIGEST),
        statement("https://slsa.dev/provenance/v1", {"runDetails": {"builder": []}}, DIGEST),
        statement("https://slsa.dev/verification_summary/v1", {"verifiedLevels": 1}, DIGEST),
        statement("https://cyclonedx.org/bom", {}, DIGEST),
    ],
)
def test_odd_statements_of_a_believed_signer_prove_nothing(
    builder: CryptoSigner, payload: bytes
) -> None:
    found = judge(
        spec(enveloped(builder, payload)), trust(trusted(builder, *ALL_USES)), None, NOW_MS
    )
    assert found.state == UNVERIFIABLE


# Certificates.


def factory(name: str = "factory-ca") -> tuple[Authority, Authority, artifacts.TrustedSigner]:
    root = Authority(name)
    line = Authority("line-1", above=root, path_length=0)
    entry = artifacts.TrustedSigner(name=name, root_certificate_pem=root.pem, uses=[PAYLOAD_USE])
    return root, line, entry


def signed_by_factory(
    line: Authority, key: Any, data: bytes = PAYLOAD, **more: Any
) -> artifacts.PayloadSignature:
    leaf = line.issue("signing-station", key.public_key(), **more)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(hashlib.sha256(data).digest())
    elif isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = key.sign(data, ec.ECDSA(hashes.SHA256()))
    return artifacts.PayloadSignature(signature=signature, certificates=der(leaf, line.certificate))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=lambda key: type(key).__name__,
)
def test_firmware_signature_is_followed_to_the_factorys_root(key: Any) -> None:
    _, line, entry = factory()
    artifact = spec(payload_signature=signed_by_factory(line, key))

    found = judge(artifact, trust(entry), None, NOW_MS)

    assert (found.state, found.findings[0].signer) == (VERIFIED, "factory-ca")
    assert found.expire_ms == NOW_MS + 30 * DAY_MS


def test_broken_chains_prove_nothing_and_broken_signatures_contradict() -> None:
    root, line, entry = factory()
    key = ec.generate_private_key(ec.SECP256R1())
    good = signed_by_factory(line, key)
    leaf = root.issue("not-an-authority", key.public_key())
    below_leaf = Authority("deep", above=line, path_length=0)
    cases: dict[str, list[list[bytes]]] = {
        "CHAIN_BROKEN": [
            [good.certificates[0]],
            [*good.certificates[::-1]],
            [good.certificates[0], *der(leaf)],
            [
                *der(below_leaf.issue("x", key.public_key()), below_leaf.certificate),
                good.certificates[1],
            ],
            [*der(Authority("stranger").issue("x", key.public_key()))],
            [b"nonsense"],
            [good.certificates[0]] * 9,
        ],
        "SIGNER_UNKNOWN": [[]],
    }
    for reason, chains in cases.items():
        for chain in chains:
            signature = artifacts.PayloadSignature(signature=good.signature, certificates=chain)
            found = judge(spec(payload_signature=signature), trust(entry), None, NOW_MS)
            assert (found.state, reasons(found)[0]) == (UNVERIFIABLE, reason), len(chain)
    broken = signed_by_factory(line, key, b"other firmware")
    found = judge(spec(payload_signature=broken), trust(entry), None, NOW_MS)
    assert (found.state, reasons(found)[0]) == (FAILED, "SIGNATURE_BROKEN")


def test_certificates_count_only_while_they_are_valid() -> None:
    _, line, entry = factory()
    key = ec.generate_private_key(ec.SECP256R1())
    artifact = spec(payload_signature=signed_by_factory(line, key))
    for now_ms in (NOW_MS - 60 * DAY_MS, NOW_MS + 31 * DAY_MS):
        found = judge(artifact, trust(entry), None, now_ms)
        assert (found.state, reasons(found)[0]) == (UNVERIFIABLE, "CHAIN_BROKEN")


def test_envelope_may_come_with_its_signers_certificates() -> None:
    _, line, entry = factory()
    entry.uses[:] = [PROVENANCE]
    signer = CryptoSigner.generate_ecdsa()
    envelope = enveloped(signer, provenance())
    leaf = line.issue("builder", signer._private_key.public_key())
    envelope.certificates.extend(der(leaf, line.certificate))
    assert judge(spec(envelope), trust(entry), None, NOW_MS).state == VERIFIED

    other = enveloped(CryptoSigner.generate_ecdsa(), provenance())
    other.certificates.extend(envelope.certificates)
    found = judge(spec(other), trust(entry), None, NOW_MS)
    assert (found.state, reasons(found)[0]) == (FAILED, "SIGNATURE_BROKEN")


# Verification summaries.

URI = "souverix:domains/region-a/supply-policy"


def summarised(
    artifact: artifacts.ArtifactSpec, signer: Any, level: int = 2, end_ms: int | None = None
) -> artifacts.SignedEnvelope:
    verdict = artifacts.ArtifactVerdict(
        state=VERIFIED,
        fulfilled=[artifacts.REQUIREMENT_SIGNATURE, artifacts.REQUIREMENT_SBOM],
        slsa_build_level=level,
        trust_digest="sha256:" + "a" * 64,
        verifier="region-a-control",
        verify_time=timestamp(NOW_MS),
    )
    if end_ms is not None:
        verdict.expire_time.CopyFrom(timestamp(end_ms))
    return artifacts.SignedEnvelope(document=sign_summary(artifact, verdict, URI, signer))


def test_summary_by_a_controller_above_is_enough() -> None:
    region = Ed25519Signer.generate()
    keys = [SummaryKey("region-a-control", Ed25519PublicKey.from_public_bytes(region.public_key))]
    demanded = LEAST_DEMAND | {artifacts.REQUIREMENT_SBOM, artifacts.REQUIREMENT_PROVENANCE}
    believed = trust(requirements=demanded, min_slsa_build_level=2)
    artifact = spec(summarised(spec(), region))

    found = judge(artifact, believed, None, NOW_MS, keys, {URI: "sha256:" + "a" * 64})

    assert (found.state, found.slsa_build_level) == (VERIFIED, 2)
    assert found.findings[0].signer == "region-a-control"
    assert judge(artifact, believed, None, NOW_MS).state == UNVERIFIABLE


def test_summary_by_an_outdated_trust_or_past_its_end_counts_no_more() -> None:
    region = Ed25519Signer.generate()
    keys = [SummaryKey("region-a-control", Ed25519PublicKey.from_public_bytes(region.public_key))]
    artifact = spec(summarised(spec(), region))
    found = judge(artifact, trust(), None, NOW_MS, keys, {URI: "sha256:" + "b" * 64})
    assert (found.state, reasons(found)[0]) == (UNVERIFIABLE, "SUMMARY_OUTDATED")
    ended = spec(summarised(spec(), region, end_ms=NOW_MS))
    found = judge(ended, trust(), None, NOW_MS, keys)
    assert (found.state, reasons(found)[0]) == (UNVERIFIABLE, "SUMMARY_OUTDATED")


def test_summary_by_a_named_verifier_counts_and_one_that_failed_contradicts(
    builder: CryptoSigner,
) -> None:
    def told(result: str, resource: str = "souverix:souverix-rempart@1.4.7") -> Any:
        predicate = {
            "verifier": {"id": "https://verifier.example"},
            "resourceUri": resource,
            "verificationResult": result,
            "verifiedLevels": ["SLSA_BUILD_LEVEL_3", "SLSA_BUILD_LEVEL_99", 7],
        }
        payload = statement("https://slsa.dev/verification_summary/v1", predicate, DIGEST)
        return spec(enveloped(builder, payload))

    believed = trust(trusted(builder, SUMMARY))
    passed = judge(told("PASSED"), believed, None, NOW_MS)
    assert (passed.state, passed.slsa_build_level) == (VERIFIED, 3)
    assert judge(told("FAILED"), believed, None, NOW_MS).state == FAILED
    elsewhere = judge(told("PASSED", "pkg:oci/other"), believed, None, NOW_MS)
    assert (elsewhere.state, reasons(elsewhere)[0]) == (UNVERIFIABLE, "RESOURCE_MISMATCH")
    unnamed = judge(told("PASSED"), trust(trusted(builder, PROVENANCE)), None, NOW_MS)
    assert reasons(unnamed)[0] == "USE_NOT_ALLOWED"


def test_policy_names_keys_that_are_strong_enough() -> None:
    weak = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505 it is to be refused
    with pytest.raises(ValueError, match="2048"):
        read_signer(artifacts.TrustedSigner(public_key_pem=pem_of(weak)))
    for entry in (
        artifacts.TrustedSigner(),
        artifacts.TrustedSigner(public_key_pem="x"),
        artifacts.TrustedSigner(root_certificate_pem="x"),
    ):
        with pytest.raises(ValueError, match=r"PEM|needs"):
            read_signer(entry)
