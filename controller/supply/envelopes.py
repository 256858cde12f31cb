"""DSSE envelopes and the in-toto statements in them. Owns how they are read and whose signature counts; what a
statement means for an artifact is `judging`'s.

The signature is checked over the payload's own bytes (DSSE's pre-authentication encoding), before anything of the
payload is read. Key ids are hints and prove nothing: each key that is believed is tried.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from controller.supply.certificates import PublicKey
from controller.supply.documents import BadDocument, read_json

#: An envelope that stands in the log with its artifact: provenance of a build with some hundred materials is 20 KiB.
MAX_ENVELOPE_BYTES: Final = 32 * 1024

#: Values in one envelope or statement.
MAX_VALUES: Final = 5_000

#: Signatures in one envelope that are tried.
MAX_SIGNATURES: Final = 8

#: Subjects of one statement.
MAX_SUBJECTS: Final = 256

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPES: Final = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope whose signatures were not checked."""

    payload_type: str
    payload: bytes
    signatures: tuple[bytes, ...]


class Statement(NamedTuple):
    """An in-toto statement: what is said, of which digests."""

    predicate_type: str
    predicate: dict[str, Any]
    #: SHA-256 of what it is about, in hexadecimal digits.
    subjects: frozenset[str]


def read_envelope(document: bytes) -> Envelope:
    """Reads an envelope in its JSON form (DSSE v1). Raises `BadDocument`."""
    found = read_json(document, max_bytes=MAX_ENVELOPE_BYTES, max_values=MAX_VALUES)
    if not isinstance(found, dict):
        raise BadDocument("ENVELOPE_MALFORMED", "an envelope is a JSON object")
    payload_type, signatures = found.get("payloadType"), found.get("signatures")
    if not isinstance(payload_type, str) or not isinstance(signatures, list):
        raise BadDocument("ENVELOPE_MALFORMED", "an envelope has a payloadType and signatures")
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise BadDocument("ENVELOPE_MALFORMED", f"an envelope has 1 to {MAX_SIGNATURES} signatures")
    signed = [each.get("sig") if isinstance(each, dict) else None for each in signatures]
    return Envelope(
        payload_type, _decoded(found.get("payload")), tuple(_decoded(each) for each in signed)
    )


def signed_by(envelope: Envelope, key: PublicKey) -> bool:
    """Tells whether one of the signatures is this key's."""
    # The library is loaded when the first envelope comes: no start waits for it.
    from securesystemslib.dsse import Envelope as DsseEnvelope
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.signer._key import SSlibKey
    from securesystemslib.signer._signature import Signature

    message = DsseEnvelope(envelope.payload, envelope.payload_type, {}).pae()
    for verifier in _schemes(SSlibKey.from_crypto(key, keyid="key")):
        for signature in envelope.signatures:
            try:
                verifier.verify_signature(Signature("key", signature.hex()), message)
            except UnverifiedSignatureError:
                continue
            return True
    return False


def read_statement(envelope: Envelope) -> Statement:
    """The statement in an envelope whose signature was checked. Raises `BadDocument`."""
    if envelope.payload_type != PAYLOAD_TYPE:
        raise BadDocument(
            "STATEMENT_UNKNOWN",
            f"payload type {envelope.payload_type[:80]!r} is not {PAYLOAD_TYPE}",
        )
    found = read_json(envelope.payload, max_bytes=MAX_ENVELOPE_BYTES, max_values=MAX_VALUES)
    if not isinstance(found, dict) or found.get("_type") not in STATEMENT_TYPES:
        raise BadDocument("STATEMENT_UNKNOWN", "the payload is no in-toto statement, v1 or v0.1")
    predicate_type, predicate = found.get("predicateType"), found.get("predicate", {})
    subjects = found.get("subject")
    if not isinstance(predicate_type, str) or not isinstance(predicate, dict):
        raise BadDocument("STATEMENT_MALFORMED", "a statement has a predicateType and a predicate")
    if not isinstance(subjects, list) or not 1 <= len(subjects) <= MAX_SUBJECTS:
        raise BadDocument("STATEMENT_MALFORMED", f"a statement has 1 to {MAX_SUBJECTS} subjects")
    return Statement(predicate_type, predicate, frozenset(_digests(subjects)))


def sha256_of(data: bytes) -> str:
    """The digest of bytes as the model writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _digests(subjects: Iterable[Any]) -> Iterable[str]:
    for subject in subjects:
        digest = subject.get("digest") if isinstance(subject, dict) else None
        if not isinstance(digest, dict):
            raise BadDocument("STATEMENT_MALFORMED", "a subject has a digest")
        sha256 = digest.get("sha256")
        if isinstance(sha256, str):
            yield sha256.lower()


def _schemes(key: Any) -> Iterable[Any]:
    """The key in each of the schemes its kind signs with."""
    yield key
    if key.keytype == "rsa":
        from securesystemslib.signer._key import SSlibKey

        yield SSlibKey(key.keyid, key.keytype, "rsa-pkcs1v15-sha256", key.keyval)


def _decoded(text: Any) -> bytes:
    """Base64, standard or URL-safe (DSSE allows both). Raises `BadDocument`."""
    if not isinstance(text, str):
        raise BadDocument("ENVELOPE_MALFORMED", "payload and signatures are base64 texts")
    try:
        plain = text.replace("-", "+").replace("_", "/")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadDocument("ENVELOPE_MALFORMED", "payload or signature is no base64") from error
