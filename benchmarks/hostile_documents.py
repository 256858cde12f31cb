"""Documents and certificates under attack: what reads them is called in this process, as the controller calls it. Owns
the genuine pieces and the forgeries; `benchmarks.hostile` mutates them and counts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.signer._crypto_signer import CryptoSigner

from benchmarks.resident import resident_mib
from controller.supply.documents import BadDocument
from controller.supply.envelopes import sha256_of
from controller.supply.judging import Judgement, judge
from controller.supply.sbom import read_sbom
from controller.supply.trust import Trust, read_signer
from souverix.fleet.v1 import observation_pb2, supply_chain_pb2
from souverix.supply.v1 import artifact_pb2 as artifacts
from trust.authority import Authority, new_request, new_root, requested_key
from trust.certificates import parse_der, parse_pem, to_der, to_pem, verify_chain
from trust.errors import CertificateRefused
from trust.identity import Kind
from trust.keys import new_tls_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)

#: When the authorities were founded: what has expired by now was issued since.
FOUNDED = NOW - timedelta(days=100)

PAYLOAD_DIGEST = hashlib.sha256(b"souverix-rempart 1.4.7").hexdigest()

#: Levels of nesting that no reader follows by recursion.
DEEP = 100_000


class _InProcess:
    """A target without any state of its own: that something counts is all the effect there may be."""

    def state(self) -> object:
        return None

    def resident_mib(self) -> int:
        return resident_mib()


class _Evidence(_InProcess):
    """An artifact whose verdict rests on a document that is exchanged."""

    def __init__(self) -> None:
        self._signer = CryptoSigner.generate_ed25519()
        uses = [artifacts.SIGNER_USE_PROVENANCE, artifacts.SIGNER_USE_SBOM]
        key = self._signer._private_key.public_key()
        entry = artifacts.TrustedSigner(
            name="build-system",
            public_key_pem=key.public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            ).decode(),
            uses=uses,
        )
        demands = frozenset({artifacts.REQUIREMENT_SIGNATURE, artifacts.REQUIREMENT_SBOM})
        self._trust = Trust(
            "zone", artifacts.GATE_MODE_ENFORCE, (read_signer(entry),), demands, 0, "sha256:trust"
        )
        self._sbom = _document(_components(4))
        self._envelopes = [
            self._enveloped("https://slsa.dev/provenance/v1", _PROVENANCE),
            self._enveloped("https://cyclonedx.org/bom", json.loads(self._sbom)),
        ]

    def _enveloped(self, kind: str, predicate: Any, signer: CryptoSigner | None = None) -> bytes:
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "image", "digest": {"sha256": PAYLOAD_DIGEST}}],
            "predicateType": kind,
            "predicate": predicate,
        }
        envelope = Envelope(json.dumps(statement).encode(), "application/vnd.in-toto+json", {})
        envelope.sign(signer or self._signer)
        return json.dumps(envelope.to_dict()).encode()

    def _judged(self, envelopes: Sequence[bytes], sbom: bytes) -> Judgement:
        digest = sha256_of(self._sbom)
        spec = artifacts.ArtifactSpec(
            kind=supply_chain_pb2.ARTIFACT_KIND_CONTAINER_IMAGE,
            component="souverix-rempart",
            version="1.4.7",
            digest=f"sha256:{PAYLOAD_DIGEST}",
            envelopes=[artifacts.SignedEnvelope(document=each) for each in envelopes],
            sbom=observation_pb2.LargeValueRef(digest=digest, size_bytes=len(self._sbom)),
        )
        return judge(spec, self._trust, sbom, NOW_MS)

    def _outcome(self, found: Judgement) -> str:
        if found.state == artifacts.VERIFICATION_STATE_VERIFIED:
            return "ACCEPTED"
        bad = [f.reason for f in found.findings if not f.holds and f.evidence != "policy"]
        return bad[0] if bad else artifacts.VerificationState.Name(found.state)


_PROVENANCE = {
    "buildDefinition": {"buildType": "https://build.example/type", "externalParameters": {}},
    "runDetails": {"builder": {"id": "https://build.example/v1"}},
}


class _Envelopes(_Evidence):
    """DSSE envelopes in the place of the one that proves the build."""

    def __init__(self) -> None:
        super().__init__()
        self.originals = [self._envelopes[0]]

    def crafted(self) -> Iterator[bytes]:
        stranger = CryptoSigner.generate_ed25519()
        yield self._enveloped("https://slsa.dev/provenance/v1", _PROVENANCE, stranger)
        genuine = json.loads(self.originals[0])
        other = json.loads(self._envelopes[1])
        yield json.dumps({**genuine, "payload": other["payload"]}).encode()
        yield json.dumps({**genuine, "payloadType": "application/json"}).encode()
        yield json.dumps({**genuine, "signatures": []}).encode()
        yield json.dumps({**genuine, "signatures": genuine["signatures"] * 1000}).encode()
        yield json.dumps({**genuine, "signatures": [{"sig": ""}]}).encode()
        yield b"[" * DEEP
        yield b'{"payload":' * DEEP
        yield b'"' + b"a" * 10_000_000 + b'"'
        yield b""

    def is_same(self, data: bytes, original: bytes) -> bool:
        return _meaning(data) == _meaning(original)

    def take(self, data: bytes) -> str:
        return self._outcome(self._judged([data, self._envelopes[1]], self._sbom))

    def is_genuine(self, original: bytes) -> bool:
        return self.take(original) == "ACCEPTED"


def _meaning(envelope: bytes) -> object:
    """What an envelope says and who signed it, whatever else stands in it."""
    try:
        found = json.loads(envelope)
        return (
            found["payloadType"],
            _unpadded(found["payload"]),
            {_unpadded(each["sig"]) for each in found["signatures"]},
        )
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        return envelope


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text)


class _Sboms(_Evidence):
    """CycloneDX documents in the place of the one that the artifact names."""

    def __init__(self) -> None:
        super().__init__()
        self.originals = [self._sbom]

    def crafted(self) -> Iterator[bytes]:
        yield _document(_components(5))
        yield _document([])
        yield _document(_components(1) * 2)
        yield _document([_nested(200)])
        yield self._sbom.replace(b'"1.6"', b'"1.99"')
        yield self._sbom.replace(b"CycloneDX", b"SPDX")
        yield b"[" * DEEP
        yield b'{"components":[' * DEEP
        yield b"\x00" * 1_000_000
        yield b""

    def is_same(self, data: bytes, original: bytes) -> bool:
        return data == original

    def take(self, data: bytes) -> str:
        """A document that is valid in itself is refused for another digest; one that is not, by its own reason."""
        outcome = self._outcome(self._judged(self._envelopes, data))
        try:
            read_sbom(data)
        except BadDocument as error:
            return outcome if outcome == "ACCEPTED" else error.reason
        return outcome

    def is_genuine(self, original: bytes) -> bool:
        return self.take(original) == "ACCEPTED"


def _document(components: Sequence[Any]) -> bytes:
    return json.dumps(
        {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}
    ).encode()


def _components(count: int) -> list[dict[str, Any]]:
    return [
        {"type": "library", "name": f"c{n}", "version": "1", "purl": f"pkg:deb/debian/c{n}@1"}
        for n in range(count)
    ]


def _nested(levels: int) -> dict[str, Any]:
    component: dict[str, Any] = {"type": "library", "name": "deep"}
    for _ in range(levels):
        component = {"type": "library", "name": "deep", "components": [component]}
    return component


class _Issued(_InProcess):
    """A fleet's authorities, and the certificate of a zone's controller."""

    def __init__(self) -> None:
        self._root = _founded()
        self._zone = _below(self._root, "edge-zone-a1")
        self._key = new_tls_key()

    def _leaf(
        self, authority: Authority, at: datetime = NOW, life: timedelta | None = None
    ) -> x509.Certificate:
        name = f"{authority.identity.domain}-control"
        return authority.issue(self._key.public_key(), Kind.CONTROLLER, name, at, life=life)

    def _chain(self, authority: Authority) -> bytes:
        return to_pem([self._leaf(authority), *authority.intermediates])

    def _verified(self, certificates: Sequence[x509.Certificate]) -> str:
        verify_chain(certificates, [self._root.certificate], NOW)
        return "ACCEPTED"


class _Certificates(_Issued):
    """The zone's certificate in DER, as it is enrolled and shown."""

    def __init__(self) -> None:
        super().__init__()
        self.originals = [to_der(self._leaf(self._zone))]

    def crafted(self) -> Iterator[bytes]:
        yield to_der(self._leaf(self._zone, NOW - timedelta(days=90), timedelta(days=30)))
        yield to_der(self._leaf(self._zone, NOW + timedelta(days=30)))
        yield to_der(self._leaf(_below(_founded(), "edge-zone-a1")))
        yield to_der(self._leaf(_below(self._root, "edge-zone-a2")))
        yield to_der(self._leaf(self._root))
        yield to_der(self._zone.certificate)
        yield to_der(self._root.certificate)
        yield self.originals[0] * 2
        yield b"\x30\x80" * DEEP
        yield b""

    def is_same(self, data: bytes, original: bytes) -> bool:
        return data == original

    def take(self, data: bytes) -> str:
        try:
            return self._verified([parse_der(data), *self._zone.intermediates])
        except CertificateRefused as error:
            return error.reason.value

    def is_genuine(self, original: bytes) -> bool:
        return self.take(original) == "ACCEPTED"


class _Chains(_Issued):
    """The zone's chain in PEM, as files hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.originals = [self._chain(self._zone)]

    def crafted(self) -> Iterator[bytes]:
        yield self._chain(_below(_founded(), "edge-zone-a1"))
        yield self._chain(_founded())
        genuine = parse_pem(self.originals[0])
        yield to_pem(genuine[:1])
        yield to_pem(genuine[1:])
        yield to_pem(genuine * 20)
        yield to_pem([genuine[0], genuine[0]])
        yield b"-----BEGIN CERTIFICATE-----\n" * 10_000
        yield b""

    def is_same(self, data: bytes, original: bytes) -> bool:
        return _ders(data) == _ders(original)

    def take(self, data: bytes) -> str:
        try:
            return self._verified(parse_pem(data))
        except CertificateRefused as error:
            return error.reason.value

    def is_genuine(self, original: bytes) -> bool:
        return self.take(original) == "ACCEPTED"


def _founded() -> Authority:
    return new_root(new_tls_key(), "fleet.example", "global", FOUNDED)


def _below(authority: Authority, domain: str) -> Authority:
    key = new_tls_key()
    certificate = authority.issue_authority(key.public_key(), domain, FOUNDED)
    return Authority(key, (certificate, *authority.certificates))


def _ders(pem: bytes) -> object:
    """The certificates' own bytes, whatever stands around them."""
    blocks = pem.split(b"-----BEGIN CERTIFICATE-----")[1:]
    try:
        ders = [
            base64.b64decode(each.partition(b"-----END CERTIFICATE-----")[0]) for each in blocks
        ]
    except binascii.Error:
        return pem
    return ders or pem


class _Requests(_InProcess):
    """Requests for certificates: whose key gets one."""

    def __init__(self) -> None:
        self._key = new_tls_key()
        self.originals = [new_request(self._key)]

    def crafted(self) -> Iterator[bytes]:
        yield new_request(generate_private_key(SECP384R1()))
        stranger = new_tls_key().public_key()
        encoded = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        own = self._key.public_key().public_bytes(*encoded)
        yield self.originals[0].replace(own, stranger.public_bytes(*encoded))
        yield self.originals[0] * 2
        yield b"-----BEGIN CERTIFICATE REQUEST-----\n" * 10_000
        yield b"\x30\x80" * DEEP
        yield b""

    def is_same(self, data: bytes, original: bytes) -> bool:
        return data == original

    def take(self, data: bytes) -> str:
        try:
            requested_key(data)
        except CertificateRefused as error:
            return error.reason.value
        return "ACCEPTED"

    def is_genuine(self, original: bytes) -> bool:
        return requested_key(original) == self._key.public_key()


def _made(target: Callable[[], Any]) -> Callable[[Path], Any]:
    """A target that needs no directory."""

    @contextmanager
    def made(_: Path) -> Iterator[Any]:
        yield target()

    return made


envelopes, sboms, certificates, chains, requests = map(
    _made, (_Envelopes, _Sboms, _Certificates, _Chains, _Requests)
)
