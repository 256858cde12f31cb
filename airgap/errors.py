"""Why a bundle is refused, as a reason for programs and a text for people. Owns the reasons; judges nothing."""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """Why a file, or what is in it, is not taken. The values are part of the contract."""

    NOT_A_BUNDLE = "NOT_A_BUNDLE"
    VERSION_UNKNOWN = "BUNDLE_VERSION_UNKNOWN"
    TRUNCATED = "BUNDLE_TRUNCATED"
    TRAILING_BYTES = "BUNDLE_TRAILING_BYTES"
    TOO_LARGE = "BUNDLE_TOO_LARGE"
    MALFORMED = "BUNDLE_MALFORMED"
    KEY_UNKNOWN = "BUNDLE_KEY_UNKNOWN"
    SIGNATURE_INVALID = "BUNDLE_SIGNATURE_INVALID"
    HASH_MISMATCH = "BUNDLE_HASH_MISMATCH"
    NOT_AS_DECLARED = "BUNDLE_NOT_AS_DECLARED"
    CHAIN_BROKEN = "BUNDLE_CHAIN_BROKEN"
    NOT_DECRYPTABLE = "BUNDLE_NOT_DECRYPTABLE"
    NOT_AN_AUDIT = "BUNDLE_NOT_AN_AUDIT_EXPORT"
    ROOT_UNKNOWN = "BUNDLE_ROOT_UNKNOWN"


class BundleRefused(Exception):
    """A file is no bundle that may be read on; whoever brought it must fetch another one."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
