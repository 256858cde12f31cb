"""Evidence with seeded faults: nothing but `BadDocument` is raised, and nothing changed is ever verified."""

from __future__ import annotations

import json
import random

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer._crypto_signer import CryptoSigner

from controller.supply.documents import BadDocument
from controller.supply.judging import judge
from controller.supply.sbom import read_sbom
from controller.supply.trust import LEAST_DEMAND, Trust, read_signer
from souverix.supply.v1 import artifact_pb2 as artifacts
from tests.unit.controller.supply.signers import (
    NOW_MS,
    PAYLOAD,
    Authority,
    der,
    enveloped,
    provenance,
    spec,
    trusted,
)

ROUNDS = 400
PIECES = (b"{", b"[", b'"', b"\\", b"\x00", b"\xff", b"null", b"1e999", b"-", b":", b",", b'{"a":')
VERIFIED = artifacts.VERIFICATION_STATE_VERIFIED


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one to three faults."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(changed) + 1) if changed else 0
        match chance.randrange(5):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + chance.randint(1, 20)]
            case 2:
                changed[at:at] = chance.choice(PIECES) * chance.choice((1, 2, 500))
            case 3:
                changed[at:at] = changed[: chance.randint(0, 50)]
            case _:
                del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize("seed", range(2))
def test_mutated_sboms_are_read_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    components = [
        {"type": "library", "name": f"c{n}", "version": "1", "purl": f"pkg:deb/debian/c{n}@1"}
        for n in range(5)
    ]
    good = json.dumps(
        {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}
    ).encode()
    refused = 0
    for _ in range(ROUNDS):
        try:
            read_sbom(mutated(good, chance))
        except BadDocument:
            refused += 1
    assert refused > ROUNDS // 2


def test_mutated_envelopes_are_never_verified() -> None:
    chance = random.Random(3)
    signer = CryptoSigner.generate_ed25519()
    believed = (read_signer(trusted(signer, artifacts.SIGNER_USE_PROVENANCE)),)
    trust = Trust("zone", artifacts.GATE_MODE_ENFORCE, believed, LEAST_DEMAND, 0, "sha256:t")
    good = enveloped(signer, provenance())
    meaning = json.loads(good.document)
    assert judge(spec(good), trust, None, NOW_MS).state == VERIFIED
    for _ in range(ROUNDS):
        document = mutated(good.document, chance)
        found = judge(spec(artifacts.SignedEnvelope(document=document)), trust, None, NOW_MS)
        if found.state == VERIFIED:
            same = json.loads(document)
            assert same["payload"] == meaning["payload"]
            assert same["payloadType"] == meaning["payloadType"]


def test_mutated_certificates_and_signatures_are_never_verified() -> None:
    chance = random.Random(4)
    factory = Authority()
    key = ec.generate_private_key(ec.SECP256R1())
    chain = der(factory.issue("line", key.public_key()))
    signature = key.sign(PAYLOAD, ec.ECDSA(hashes.SHA256()))
    entry = artifacts.TrustedSigner(
        name="factory", root_certificate_pem=factory.pem, uses=[artifacts.SIGNER_USE_PAYLOAD]
    )
    trust = Trust(
        "zone", artifacts.GATE_MODE_ENFORCE, (read_signer(entry),), LEAST_DEMAND, 0, "sha256:t"
    )
    for number in range(ROUNDS):
        of_chain = number % 2 == 0
        evidence = artifacts.PayloadSignature(
            signature=signature if of_chain else mutated(signature, chance),
            certificates=[mutated(chain[0], chance)] if of_chain else chain,
        )
        found = judge(spec(payload_signature=evidence), trust, None, NOW_MS)
        unchanged = evidence.signature == signature and list(evidence.certificates) == chain
        assert unchanged or found.state != VERIFIED
