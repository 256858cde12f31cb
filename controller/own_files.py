"""What a replica reads once from the files that its configuration names, before it lives: certificates and keys. Owns
what is said when they cannot be used; what they are used for is others'.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm

from controller.config import ConfigError, ControllerConfig
from controller.people import People
from controller.signing_keys import SigningKeys
from trust.encryption_keys import EncryptionKey, read_encryption_key
from trust.errors import CertificateRefused, FilesUnusable, KeyUnreadable
from trust.files import ReloadedCredentials
from trust.identity import Kind
from trust.tokens import ReloadedTokenKeys


def read_credentials(config: ControllerConfig) -> ReloadedCredentials | None:
    """Certificates of this controller, if it has any; they must name it. Raises `ConfigError`."""
    if config.tls is None:
        return None
    try:
        held = ReloadedCredentials(config.tls.files)
        identity = held.current.identity
    except (FilesUnusable, CertificateRefused) as error:
        raise ConfigError(f"tls: {error}") from error
    who = config.controller
    if (identity.kind, identity.name, identity.domain) != (Kind.CONTROLLER, who.id, who.domain):
        raise ConfigError(
            f"tls: the certificate is of {identity}, and this is controller {who.id} of domain {who.domain}"
        )
    return held


def read_people(config: ControllerConfig) -> People | None:
    """Who judges tokens, if any are taken. Raises `ConfigError`."""
    oidc = config.access.oidc
    if oidc is None:
        return None
    try:
        keys = ReloadedTokenKeys(oidc.jwks)
    except FilesUnusable as error:
        raise ConfigError(f"access.oidc.jwks: {error}") from error
    return People(keys, oidc.rules, config.controller.domain)


def load_signer(path: Path) -> SigningKeys:
    """The signing keys of this controller. Raises `ConfigError`."""
    try:
        return SigningKeys.load(path)
    except OSError as error:
        raise ConfigError(f"trust.signing_key {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"trust.signing_key {path} is no Ed25519 key in PEM without a password: {error}"
        ) from error


def load_bundle_key(path: str) -> EncryptionKey | None:
    """The key that bundles are encrypted to, if there is one. Raises `ConfigError`."""
    if not path:
        return None
    try:
        return read_encryption_key(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"trust.bundle_key {path} cannot be read: {error.strerror}") from error
    except KeyUnreadable as error:
        raise ConfigError(f"trust.bundle_key {path}: {error}") from error
