"""Tokens of people: JSON Web Tokens (RFC 7519) that an OpenID provider signed, judged by the provider's public keys in
a local file (RFC 7517). Owns which tokens are good, until when, and whom they name; has no clock, asks no network, and
never says what a person may do.

A key is good for one algorithm, its own: what the token's header says must be that, so that no token chooses how it is
checked. Secrets shared with the provider (HMAC) and unsigned tokens are refused, for whoever could check the former
could make them.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from trust.errors import FilesUnusable, TokenReason, TokenRefused
from trust.files import read_bounded, stamp_of

#: Kind of the principals that tokens name. Certificates name none of this kind, so that no two are confused.
KIND: Final = "oidc"

#: Signatures that are accepted: those by a private key that the provider alone holds.
ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
)

#: Longest token. gRPC refuses metadata of more than 8 KiB in all, at chance; this leaves a rest for other entries.
MAX_TOKEN_BYTES: Final = 7 * 1024

#: Largest file of keys, and most keys in it: a provider has a handful, of about 1 KiB each.
MAX_KEYS_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 64

#: Longest id of a key.
MAX_KEY_ID: Final = 256

#: Shortest RSA key: what NIST SP 800-131A still allows.
MIN_RSA_BITS: Final = 2048

#: Most groups a token may name: those of a person, not of a company.
MAX_GROUPS: Final = 256

#: Longest name of a person or a group, its provider included, as bindings take it.
MAX_NAME: Final = 128

#: Last time that can be shown; claims beyond are none.
_LAST_S: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

_NAME = re.compile(r"[A-Za-z0-9._@/-]+")

#: A claim of this name says whether the provider has seen that the address is the person's.
_EMAIL, _EMAIL_VERIFIED = "email", "email_verified"


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which tokens are accepted, and how they are read."""

    #: What the provider is called in the names of its people and groups: "corp" in "oidc:alice@corp".
    provider: str
    #: Claim `iss`, exactly.
    issuer: str
    #: What claim `aud` must name.
    audience: str
    #: Claim that names the person, and the one that lists the person's groups; empty: groups are not read.
    name_claim: str
    groups_claim: str
    #: How far the provider's clock and this one's may differ.
    clock_skew: timedelta
    #: Longest time between `iat` and `exp`: a token cannot be taken back.
    max_life: timedelta


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a token names, and until when."""

    #: "oidc:alice@corp".
    principal: str
    #: "group:noc@corp", in order.
    groups: tuple[str, ...]
    issuer: str
    #: The token's end, with the time that clocks may differ.
    not_after: datetime


class TokenKeys:
    """A provider's public keys, by id."""

    def __init__(self, keys: Mapping[str, jwt.PyJWK], passed_over: tuple[str, ...] = ()) -> None:
        self._keys = dict(keys)
        #: What is in the file and is not used, in words.
        self.passed_over = passed_over

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenKeys) and self._numbers() == other._numbers()

    __hash__ = None  # type: ignore[assignment]

    def of(self, header: Mapping[str, Any]) -> jwt.PyJWK:
        """The key that a token's header names. Raises `TokenRefused`."""
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise TokenRefused(
                TokenReason.ALGORITHM,
                f"a token signed by {_quoted(algorithm)} is not accepted; accepted are {', '.join(sorted(ALGORITHMS))}",
            )
        key = self._keys.get(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise TokenRefused(
                TokenReason.UNKNOWN_KEY,
                f"the token is signed by key {_quoted(key_id)}, which is not in the controller's file of keys; was the "
                "provider's key replaced, and the file not yet?",
            )
        if algorithm != key.algorithm_name:
            raise TokenRefused(
                TokenReason.ALGORITHM,
                f"the token says {algorithm}, and its key {_quoted(key_id)} is for {key.algorithm_name}",
            )
        return key

    def _numbers(self) -> dict[str, tuple[str, Any]]:
        return {name: (key.algorithm_name, key.key) for name, key in self._keys.items()}


class ReloadedTokenKeys:
    """Keys that follow their file. Raises `FilesUnusable` when it cannot be read at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = stamp_of(path)
        self.current = read_keys(path)

    def reload(self) -> bool:
        """Reads the file again if it changed, and tells whether `current` is another now.

        Raises `FilesUnusable` when it cannot be used; then what was read before stays, and the next call tries again.
        """
        stamp = stamp_of(self.path)
        if stamp == self._stamp:
            return False
        found = read_keys(self.path)
        self._stamp = stamp
        if found == self.current:
            return False
        self.current = found
        return True


def read_keys(path: Path) -> TokenKeys:
    """The keys of a file. Raises `FilesUnusable` naming the file and what is wrong."""
    data = read_bounded(path, MAX_KEYS_BYTES)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise FilesUnusable(f"{path} cannot be read: {error.strerror}") from error
    if mode & stat.S_IWOTH:
        raise FilesUnusable(
            f"{path} may be written by everybody, who could name anybody: chmod 644 it"
        )
    try:
        return parse_keys(data)
    except FilesUnusable as error:
        raise FilesUnusable(f"{path}: {error}") from error


def parse_keys(data: bytes) -> TokenKeys:
    """The usable keys of a JSON Web Key Set. Raises `FilesUnusable` for what is none, or holds secrets."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FilesUnusable(f"no JSON: {error}") from error
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise FilesUnusable('no JSON Web Key Set, which is {"keys": [{…}, …]}')
    if len(listed) > MAX_KEYS:
        raise FilesUnusable(f"{len(listed)} keys; at most {MAX_KEYS} are taken")
    keys: dict[str, jwt.PyJWK] = {}
    passed_over = []
    for number, each in enumerate(listed):
        key_id, where = each.get("kid"), f"keys[{number}]"
        _check_public(each, where)
        if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID:
            passed_over.append(f"{where} has no kid of at most {MAX_KEY_ID} characters")
            continue
        if key_id in keys:
            raise FilesUnusable(f"two keys have the kid {key_id!r}")
        found = _usable(each)
        if isinstance(found, str):
            passed_over.append(f"{where}, kid {key_id!r}, {found}")
        else:
            keys[key_id] = found
    if not keys:
        raise FilesUnusable("; ".join(["no key can be used", *passed_over]))
    return TokenKeys(keys, tuple(passed_over))


def judge_token(token: str, keys: TokenKeys, rules: TokenRules, now: datetime) -> Person:
    """Whom a token names. Raises `TokenRefused`."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenRefused(
            TokenReason.TOO_LARGE,
            f"the token has {len(token)} characters; at most {MAX_TOKEN_BYTES} are taken",
        )
    try:
        key = keys.of(jwt.get_unverified_header(token))
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=rules.issuer,
            audience=rules.audience,
            # Times are judged below, at the time that is given.
            options={
                "require": ["exp", "iat", "iss", "aud", rules.name_claim],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except jwt.PyJWTError as error:
        raise _refused(error, rules) from error
    except (ValueError, RecursionError) as error:
        # JSON that is too deep, or has numbers that are too long.
        raise TokenRefused(TokenReason.MALFORMED, "the token is no JSON Web Token") from error
    principal = f"{KIND}:{_named(claims, rules)}"
    return Person(
        principal, _groups(claims, rules), rules.issuer, _end(claims, rules, principal, now)
    )


def _check_public(key: Mapping[str, Any], where: str) -> None:
    if key.get("kty") == "oct":
        raise FilesUnusable(
            f"{where} is a secret that is shared with the provider (kty oct): whoever can read it could make tokens"
        )
    if "d" in key:
        raise FilesUnusable(f"{where} is a private key; the file takes the public halves only")


def _usable(key: dict[str, Any]) -> jwt.PyJWK | str:
    """The key, or in words why it is passed over: files also hold keys for other ends."""
    if key.get("use") not in (None, "sig"):
        return f"is for use {_quoted(key['use'])}"
    operations = key.get("key_ops")
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        return "is not for verifying"
    try:
        found = jwt.PyJWK(key)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        return f"cannot be read ({type(error).__name__})"
    if found.algorithm_name not in ALGORITHMS:
        return f"is for {found.algorithm_name}, which is not accepted"
    if isinstance(found.key, rsa.RSAPublicKey) and found.key.key_size < MIN_RSA_BITS:
        return f"is an RSA key of {found.key.key_size} bits; at least {MIN_RSA_BITS} are needed"
    return found


def _refused(error: jwt.PyJWTError, rules: TokenRules) -> TokenRefused:
    match error:
        case jwt.InvalidSignatureError():
            return TokenRefused(
                TokenReason.SIGNATURE, "the token's signature is not of the key that it names"
            )
        case jwt.InvalidIssuerError():
            return TokenRefused(
                TokenReason.ISSUER, f"the token is not of {rules.issuer}, whose tokens are accepted"
            )
        case jwt.InvalidAudienceError():
            return TokenRefused(
                TokenReason.AUDIENCE,
                f"the token is for others than {rules.audience!r}; ask the provider for one with that audience",
            )
        case jwt.MissingRequiredClaimError():
            return TokenRefused(
                TokenReason.CLAIM_MISSING, f"the token has no claim {error.claim!r}"
            )
        case jwt.InvalidAlgorithmError():
            return TokenRefused(TokenReason.ALGORITHM, "the token's algorithm is not its key's")
    return TokenRefused(TokenReason.MALFORMED, f"no token that can be judged: {error}"[:256])


def _named(claims: Mapping[str, Any], rules: TokenRules) -> str:
    name = _at_provider(claims[rules.name_claim], rules)
    if name is None:
        raise TokenRefused(
            TokenReason.NAMES_NOBODY,
            f"claim {rules.name_claim!r} is no name of letters, digits and ._@/-, at most {MAX_NAME} with the "
            "provider's; configure another name_claim",
        )
    if rules.name_claim == _EMAIL and claims.get(_EMAIL_VERIFIED) is not True:
        raise TokenRefused(
            TokenReason.NAMES_NOBODY,
            f"the provider has not verified the address (claim {_EMAIL_VERIFIED}): anybody could claim it",
        )
    return name


def _groups(claims: Mapping[str, Any], rules: TokenRules) -> tuple[str, ...]:
    """The person's groups; those that no binding can name are left out, for they give nothing."""
    listed = claims.get(rules.groups_claim, []) if rules.groups_claim else []
    if not isinstance(listed, list):
        raise TokenRefused(TokenReason.MALFORMED, f"claim {rules.groups_claim!r} is no list")
    if len(listed) > MAX_GROUPS:
        raise TokenRefused(
            TokenReason.TOO_MANY_GROUPS,
            f"the token names {len(listed)} groups; at most {MAX_GROUPS} are taken",
        )
    named = {name for each in listed if (name := _at_provider(each, rules)) is not None}
    return tuple(sorted(f"group:{name}" for name in named))


def _at_provider(value: object, rules: TokenRules) -> str | None:
    """ "alice@corp" of "alice"; None: no such name can be."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        return None
    name = f"{value}@{rules.provider}"
    return name if len(name) <= MAX_NAME else None


def _end(claims: Mapping[str, Any], rules: TokenRules, principal: str, now: datetime) -> datetime:
    """Until when the token is good, if it is now."""
    issued, end = _time(claims, "iat"), _time(claims, "exp")
    begin = max(issued, _time(claims, "nbf")) if "nbf" in claims else issued
    if begin > now + rules.clock_skew:
        raise TokenRefused(
            TokenReason.NOT_YET_VALID,
            f"the token of {principal} is good from {begin:%Y-%m-%dT%H:%M:%SZ}; is a clock wrong?",
        )
    if not timedelta() < end - issued <= rules.max_life:
        raise TokenRefused(
            TokenReason.LIFE_TOO_LONG,
            f"the token of {principal} lasts {end - issued}; at most {rules.max_life} is accepted",
        )
    if now > end + rules.clock_skew:
        raise TokenRefused(
            TokenReason.EXPIRED,
            f"the token of {principal} ended at {end:%Y-%m-%dT%H:%M:%SZ}; get a new one",
        )
    return end + rules.clock_skew


def _time(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims[name]
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 <= value < _LAST_S
    ):
        raise TokenRefused(TokenReason.MALFORMED, f"claim {name!r} is no time")
    return datetime.fromtimestamp(value, UTC)


def _quoted(value: object) -> str:
    return repr(value)[:80]
