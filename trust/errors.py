"""What is wrong with a name, a key, a certificate or a file of them, as a reason for programs and a text for people.

Owns the reasons. Never judges: the modules that read do.
"""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """Why something is not trusted. The values are part of the contract: they travel as reasons of errors."""

    MALFORMED = "CERTIFICATE_MALFORMED"
    TOO_LARGE = "CERTIFICATE_TOO_LARGE"
    NO_IDENTITY = "CERTIFICATE_NAMES_NOBODY"
    EXPIRED = "CERTIFICATE_EXPIRED"
    NOT_YET_VALID = "CERTIFICATE_NOT_YET_VALID"
    UNKNOWN_ISSUER = "CERTIFICATE_ISSUER_UNKNOWN"
    NOT_AN_AUTHORITY = "CERTIFICATE_ISSUER_IS_NO_AUTHORITY"
    NOT_A_LEAF = "CERTIFICATE_IS_NO_LEAF"
    OUT_OF_REACH = "CERTIFICATE_OUT_OF_REACH"
    KEY_UNFIT = "CERTIFICATE_KEY_UNFIT"
    REVOKED = "CERTIFICATE_REVOKED"


class TrustError(Exception):
    """Root of everything this package raises on purpose."""


class NameInvalid(TrustError):
    """A text is no identity, or a part of one is no name."""


class KeyUnreadable(TrustError):
    """A private key cannot be read: no key, another kind of key, or another passphrase."""


class CertificateRefused(TrustError):
    """A certificate, a request for one, or a chain is not trusted; `reason` says why for programs."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class FilesUnusable(TrustError):
    """Files of key, chain or roots are missing, contradict one another, or may be read by others."""
