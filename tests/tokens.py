"""A provider of tokens for tests: real keys, real signatures, and a file of the public halves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER = "https://login.souverix.test/realms/fleet"
AUDIENCE = "souverix"
PROVIDER = "corp"

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_JWK: dict[str, Any] = {
    "ES": jwt.algorithms.ECAlgorithm,
    "Ed": jwt.algorithms.OKPAlgorithm,
    "RS": jwt.algorithms.RSAAlgorithm,
    "PS": jwt.algorithms.RSAAlgorithm,
}


class Provider:
    """An issuer with one key, "k1", unless more are added."""

    def __init__(self, key: Key | None = None, algorithm: str = "ES256") -> None:
        self.keys: dict[str, tuple[Key, str]] = {}
        self.add("k1", key or ec.generate_private_key(ec.SECP256R1()), algorithm)

    def add(self, key_id: str, key: Key, algorithm: str) -> None:
        self.keys[key_id] = (key, algorithm)

    def public(self, key_id: str) -> dict[str, Any]:
        """A public key as JWK."""
        key, algorithm = self.keys[key_id]
        public: dict[str, Any] = dict(json.loads(_JWK[algorithm[:2]].to_jwk(key.public_key())))
        public.pop("key_ops", None)
        return public | {"kid": key_id, "use": "sig", "alg": algorithm}

    def key_set(self) -> bytes:
        return json.dumps({"keys": [self.public(key_id) for key_id in self.keys]}).encode()

    def write(self, path: Path) -> Path:
        """Puts the file of keys in place, as a whole."""
        staged = path.with_suffix(".new")
        staged.write_bytes(self.key_set())
        os.replace(staged, path)
        return path

    def token(
        self,
        name: str = "alice",
        *,
        at: datetime | None = None,
        life: timedelta = timedelta(minutes=10),
        key_id: str = "k1",
        header: Mapping[str, Any] | None = None,
        without: str = "",
        **claims: Any,
    ) -> str:
        """A token of a person; `claims` are put in place of the usual ones, `without` leaves one out."""
        now = at or datetime.now(UTC)
        said = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": name,
            "iat": int(now.timestamp()),
            "exp": int((now + life).timestamp()),
            "groups": ["noc"],
        } | claims
        said.pop(without, None)
        key, algorithm = self.keys[key_id]
        headers = {"kid": key_id, **(header or {})}
        return jwt.encode(said, key, algorithm, headers=headers)
