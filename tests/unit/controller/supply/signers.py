"""Signers of a made-up supply chain: keys and certificates made here, envelopes by the ecosystem's own signer."""

from __future__ import annotations

import datetime
import hashlib
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from securesystemslib.dsse import Envelope
from securesystemslib.signer._crypto_signer import CryptoSigner

from souverix.fleet.v1 import supply_chain_pb2
from souverix.supply.v1 import artifact_pb2 as artifacts

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
PAYLOAD = b"souverix-rempart 1.4.7"
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILDER = "https://build.example/v1"


def pem_of(key: Any) -> str:
    """A public key as a policy names it."""
    pem: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def public_pem(signer: CryptoSigner) -> str:
    """The public key of an ecosystem signer."""
    return pem_of(signer._private_key.public_key())


def statement(predicate_type: str, predicate: dict[str, Any], *subjects: str) -> bytes:
    """An in-toto statement about SHA-256 digests."""
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "s", "digest": {"sha256": each}} for each in subjects],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    ).encode()


def provenance(*subjects: str, builder: str = BUILDER) -> bytes:
    """SLSA provenance v1 as a builder states it."""
    predicate = {
        "buildDefinition": {"buildType": "https://build.example/type", "externalParameters": {}},
        "runDetails": {"builder": {"id": builder}},
    }
    return statement(PROVENANCE, predicate, *(subjects or (DIGEST,)))


def enveloped(signer: CryptoSigner, payload: bytes) -> artifacts.SignedEnvelope:
    """A payload in an envelope, signed by the ecosystem's own library."""
    envelope = Envelope(payload, "application/vnd.in-toto+json", {})
    envelope.sign(signer)
    return artifacts.SignedEnvelope(document=json.dumps(envelope.to_dict()).encode())


def spec(*envelopes: artifacts.SignedEnvelope, **fields: Any) -> artifacts.ArtifactSpec:
    """A container image with envelopes."""
    return artifacts.ArtifactSpec(
        kind=supply_chain_pb2.ARTIFACT_KIND_CONTAINER_IMAGE,
        component="souverix-rempart",
        version="1.4.7",
        digest=f"sha256:{DIGEST}",
        envelopes=envelopes,
        **fields,
    )


def trusted(
    signer: CryptoSigner, *uses: Any, name: str = "build-system", **fields: Any
) -> artifacts.TrustedSigner:
    """An entry of a policy for a signer's key."""
    return artifacts.TrustedSigner(
        name=name, public_key_pem=public_pem(signer), uses=uses, **fields
    )


class Authority:
    """A certificate authority of a factory."""

    def __init__(
        self,
        name: str = "factory-ca",
        above: Authority | None = None,
        path_length: int | None = 1,
        now_ms: int = NOW_MS,
    ) -> None:
        self.now_ms = now_ms
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _certificate(
            name, self.key.public_key(), above or self, name, ca=True, path_length=path_length
        )

    def issue(
        self, name: str, key: Any, *, until_ms: int = NOW_MS + 30 * DAY_MS
    ) -> x509.Certificate:
        """A certificate for a signer."""
        issuer = self.certificate.subject.rfc4514_string().removeprefix("CN=")
        return _certificate(name, key, self, issuer, ca=False, until_ms=until_ms)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()


def der(*certificates: x509.Certificate) -> list[bytes]:
    """A chain as evidence carries it."""
    return [each.public_bytes(Encoding.DER) for each in certificates]


def _certificate(
    subject: str,
    key: Any,
    authority: Authority,
    own: str,
    *,
    ca: bool,
    path_length: int | None = None,
    until_ms: int = 0,
) -> x509.Certificate:
    held = getattr(authority, "certificate", None)
    issuer = held.subject if held is not None else _name(own)
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(authority.now_ms - 30 * DAY_MS))
        .not_valid_after(_time(until_ms or authority.now_ms + 365 * DAY_MS))
        .add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .sign(authority.key, hashes.SHA256())
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _time(ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
