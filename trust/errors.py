"""What is wrong with a name, a key, a certificate, a token or a file of them, as a reason for programs and a text for
people.

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


class TokenReason(enum.StrEnum):
    """Why a token of a person is not accepted. The values travel as reasons of errors."""

    MALFORMED = "TOKEN_MALFORMED"
    TOO_LARGE = "TOKEN_TOO_LARGE"
    ALGORITHM = "TOKEN_ALGORITHM_REFUSED"
    UNKNOWN_KEY = "TOKEN_KEY_UNKNOWN"
    SIGNATURE = "TOKEN_SIGNATURE_INVALID"
    ISSUER = "TOKEN_ISSUER_UNKNOWN"
    AUDIENCE = "TOKEN_FOR_ANOTHER_AUDIENCE"
    CLAIM_MISSING = "TOKEN_CLAIM_MISSING"
    NAMES_NOBODY = "TOKEN_NAMES_NOBODY"
    TOO_MANY_GROUPS = "TOKEN_TOO_MANY_GROUPS"
    EXPIRED = "TOKEN_EXPIRED"
    NOT_YET_VALID = "TOKEN_NOT_YET_VALID"
    LIFE_TOO_LONG = "TOKEN_LIFE_TOO_LONG"


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


class TokenRefused(TrustError):
    """A token of a person is not accepted; `reason` says why for programs."""

    def __init__(self, reason: TokenReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class FilesUnusable(TrustError):
    """Files of keys, chain or roots are missing, contradict one another, or are open to others."""
