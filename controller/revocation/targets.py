"""What a revocation is of, and the subject that is named for it. Owns this one naming: the subject says what is
revoked, so that what is stated of the same is one fact, and none turns into another's.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from federation.errors import InvalidWrite
from souverix.trust.v1 import revocation_pb2
from trust.errors import NameInvalid
from trust.identity import Kind, check_bearer_name

ASPECT: Final = "revocation"
COLLECTION: Final = "revocations"

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

#: A serial number has at most 20 bytes (RFC 5280 §4.1.2.2).
_SERIAL = re.compile(r"[1-9a-f][0-9a-f]{0,39}")

#: Whose certificates are revoked by name. An authority's are not: they are withdrawn, or revoked one by one.
KINDS: Final = tuple(kind for kind in Kind if kind is not Kind.AUTHORITY)


class Issued(NamedTuple):
    """One certificate, by all that a revocation may name it by."""

    #: Of the authority that issued it.
    domain: str
    fingerprint: str
    #: In lower-case hexadecimal digits.
    serial: str

    @property
    def keys(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Domain and subject of the revocations that would be of it."""
        return (
            (self.domain, f"{COLLECTION}/sha256-{self.fingerprint}"),
            (self.domain, f"{COLLECTION}/serial-{self.serial}"),
        )


def subject_of(certificates: revocation_pb2.RevokedCertificates) -> str:
    """The subject of a revocation, "revocations/{id}". Raises `InvalidWrite`."""
    match certificates.WhichOneof("kind"):
        case "fingerprint":
            if not _FINGERPRINT.fullmatch(certificates.fingerprint):
                raise InvalidWrite(
                    "fingerprint is not the SHA-256 of a certificate: 64 hexadecimal digits, as "
                    "'souverixctl pki inspect' prints it",
                    field="fingerprint",
                )
            return f"{COLLECTION}/sha256-{certificates.fingerprint}"
        case "serial_number":
            if not _SERIAL.fullmatch(certificates.serial_number):
                raise InvalidWrite(
                    "serial_number is none: at most 40 hexadecimal digits, as 'souverixctl pki inspect' prints it",
                    field="serial_number",
                )
            return f"{COLLECTION}/serial-{certificates.serial_number}"
        case "identity":
            return subject_of_identity(certificates.identity.principal)
        case _:
            raise InvalidWrite(
                "nothing is named that is to be revoked: give a certificate, a fingerprint, a serial_number or an "
                "identity"
            )


def subject_of_identity(principal: str) -> str:
    """The subject of what revokes all certificates of an identity. Raises `InvalidWrite`."""
    kind, _, name = principal.partition(":")
    try:
        check_bearer_name(name)
    except NameInvalid as error:
        raise InvalidWrite(f"identity.principal: {error}", field="identity.principal") from error
    if kind not in KINDS:
        raise InvalidWrite(
            f"identity.principal is of no kind that is revoked by name: {', '.join(KINDS)}, as in node:edge-7; an "
            "authority's certificate is revoked by itself",
            field="identity.principal",
        )
    return f"{COLLECTION}/identity-{kind}-{name}"


def is_subject(text: str) -> bool:
    """Tells whether a text is the subject of a revocation."""
    collection, _, id_ = text.partition("/")
    if collection != COLLECTION:
        return False
    form, _, value = id_.partition("-")
    if form == "identity":
        kind, _, name = value.partition("-")
        try:
            return subject_of_identity(f"{kind}:{name}") == text
        except InvalidWrite:
            return False
    pattern = {"sha256": _FINGERPRINT, "serial": _SERIAL}.get(form)
    return pattern is not None and pattern.fullmatch(value) is not None
