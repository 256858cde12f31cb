"""Which tokens of people are good, and whom they name: by every algorithm that is accepted, and each way to be bad."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.tokens import AUDIENCE, ISSUER, PROVIDER, Key, Provider
from trust.errors import FilesUnusable, TokenReason, TokenRefused
from trust.tokens import (
    MAX_GROUPS,
    MAX_KEYS,
    MAX_KEYS_BYTES,
    MAX_TOKEN_BYTES,
    ReloadedTokenKeys,
    TokenKeys,
    TokenRules,
    judge_token,
    parse_keys,
    read_keys,
)

NOW = datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def rules(**changed: Any) -> TokenRules:
    usual = {
        "provider": PROVIDER,
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "name_claim": "sub",
        "groups_claim": "groups",
        "clock_skew": MINUTE,
        "max_life": 60 * MINUTE,
    }
    return TokenRules(**{**usual, **changed})


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@pytest.fixture(scope="module")
def provider() -> Provider:
    return Provider()


def keys_of(provider: Provider) -> TokenKeys:
    return parse_keys(provider.key_set())


def refusal(provider: Provider, token: str, now: datetime = NOW, **changed: Any) -> TokenReason:
    with pytest.raises(TokenRefused) as refused:
        judge_token(token, keys_of(provider), rules(**changed), now)
    return refused.value.reason


KEYS: dict[str, Any] = {
    "RS256": rsa_key,
    "PS384": rsa_key,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_good_token_names_a_person_and_groups(algorithm: str) -> None:
    key: Key = KEYS[algorithm]()
    provider = Provider(key, algorithm)
    token = provider.token(at=NOW, groups=["noc", "ops/night", "Domain Users", 7])
    person = judge_token(token, keys_of(provider), rules(), NOW)
    assert person.principal == "oidc:alice@corp"
    assert person.groups == ("group:noc@corp", "group:ops/night@corp")
    assert person.not_after == NOW + 11 * MINUTE, "its end, and what clocks may differ by"
    assert person.issuer == ISSUER


def test_one_of_several_audiences_may_be_meant(provider: Provider) -> None:
    token = provider.token(at=NOW, aud=["other", AUDIENCE])
    assert judge_token(token, keys_of(provider), rules(), NOW)


def test_other_claims_may_name_person_and_groups(provider: Provider) -> None:
    token = provider.token("u-17", at=NOW, preferred_username="bob", roles=["sre"])
    said = rules(name_claim="preferred_username", groups_claim="roles")
    person = judge_token(token, keys_of(provider), said, NOW)
    assert (person.principal, person.groups) == ("oidc:bob@corp", ("group:sre@corp",))
    without_groups = judge_token(token, keys_of(provider), rules(groups_claim=""), NOW)
    assert without_groups.groups == ()


def test_an_address_counts_only_when_the_provider_has_verified_it(provider: Provider) -> None:
    address = "alice@example.com"
    for verified in (False, None, "true"):
        token = provider.token(at=NOW, email=address, email_verified=verified)
        assert refusal(provider, token, name_claim="email") is TokenReason.NAMES_NOBODY
    token = provider.token(at=NOW, email=address, email_verified=True)
    person = judge_token(token, keys_of(provider), rules(name_claim="email"), NOW)
    assert person.principal == "oidc:alice@example.com@corp"


# How it is signed.


def unsigned(provider: Provider, header: dict[str, Any], signature: bytes = b"") -> str:
    """A token with a header of choice, the claims of a good one, and whatever for a signature."""
    claims = provider.token(at=NOW).split(".")[1]
    return f"{encoded(json.dumps(header).encode())}.{claims}.{encoded(signature)}"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, 7, "HS256", "ES256K"])
def test_no_signature_and_shared_secrets_are_refused(provider: Provider, algorithm: Any) -> None:
    token = unsigned(provider, {"alg": algorithm, "kid": "k1"}, b"anything")
    assert refusal(provider, token) in (TokenReason.ALGORITHM, TokenReason.MALFORMED)


@pytest.mark.parametrize("algorithm", ["HS256", "HS512"])
def test_a_public_key_is_no_secret_to_sign_with(algorithm: str) -> None:
    """Algorithm confusion: what everybody may know, used as the key of an HMAC."""
    provider = Provider(rsa_key(), "RS256")
    public = rsa_key().public_key()
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(provider.public("k1")).encode(),
    ):
        head, claims, _ = unsigned(provider, {"alg": algorithm, "kid": "k1"}).split(".")
        digest = hashlib.sha256 if algorithm == "HS256" else hashlib.sha512
        signature = hmac.new(secret, f"{head}.{claims}".encode(), digest).digest()
        token = f"{head}.{claims}.{encoded(signature)}"
        assert refusal(provider, token) is TokenReason.ALGORITHM


def test_a_key_is_good_for_its_own_algorithm_only() -> None:
    provider = Provider(rsa_key(), "RS256")
    other = Provider(rsa_key(), "PS256")
    assert refusal(provider, other.token(at=NOW)) is TokenReason.ALGORITHM
    elliptic = Provider(algorithm="ES256")
    assert refusal(provider, elliptic.token(at=NOW)) is TokenReason.ALGORITHM


def test_another_key_of_the_same_id_signs_nothing(provider: Provider) -> None:
    assert refusal(provider, Provider().token(at=NOW)) is TokenReason.SIGNATURE


def test_a_key_in_the_token_itself_counts_for_nothing(provider: Provider) -> None:
    stranger = Provider()
    token = stranger.token(at=NOW, header={"jwk": stranger.public("k1"), "jku": "https://evil"})
    assert refusal(provider, token) is TokenReason.SIGNATURE


@pytest.mark.parametrize("key_id", ["k2", "", "../k1", None, "x" * 5000])
def test_a_key_that_is_not_in_the_file_is_unknown(provider: Provider, key_id: str | None) -> None:
    header = {"alg": "ES256"} | ({} if key_id is None else {"kid": key_id})
    assert refusal(provider, unsigned(provider, header)) is TokenReason.UNKNOWN_KEY


@pytest.mark.parametrize("part", [0, 1, 2])
def test_any_changed_part_is_refused(provider: Provider, part: int) -> None:
    parts = provider.token(at=NOW).split(".")
    for place in (0, len(parts[part]) // 2, len(parts[part]) - 3):
        changed = parts.copy()
        old = changed[part][place]
        changed[part] = (
            changed[part][:place] + ("A" if old != "A" else "B") + parts[part][place + 1 :]
        )
        assert refusal(provider, ".".join(changed))


def test_a_header_that_must_be_understood_and_is_not_is_refused(provider: Provider) -> None:
    token = provider.token(at=NOW, header={"crit": ["exp"], "exp": 1})
    assert refusal(provider, token) is TokenReason.MALFORMED


# What it says.


def test_a_token_of_another_issuer_or_for_others_is_refused(provider: Provider) -> None:
    for issuer in (ISSUER + "/", ISSUER.upper(), "https://evil", [ISSUER], 7):
        reason = refusal(provider, signed(provider, iss=issuer))
        assert reason is TokenReason.ISSUER, issuer
    for audience in ("souveri", "souverix ", ["a", "b"], [], {"souverix": 1}, 7):
        reason = refusal(provider, signed(provider, aud=audience))
        assert reason in (TokenReason.AUDIENCE, TokenReason.CLAIM_MISSING), audience


def signed(provider: Provider, **claims: Any) -> str:
    """With claims that a careful library would not write."""
    key, algorithm = provider.keys["k1"]
    good = jwt.decode(provider.token(at=NOW), options={"verify_signature": False})
    payload = json.dumps({**good, **claims}).encode()
    return jwt.PyJWS().encode(payload, key, algorithm, headers={"kid": "k1"})


@pytest.mark.parametrize("claim", ["iss", "aud", "exp", "iat", "sub"])
def test_each_claim_is_demanded(provider: Provider, claim: str) -> None:
    token = provider.token(at=NOW, without=claim)
    assert refusal(provider, token) is TokenReason.CLAIM_MISSING


@pytest.mark.parametrize("name", ["", "a b", "al\nice", "ünal", "x" * 124, 7, ["alice"], {}, None])
def test_a_name_that_no_binding_could_hold_names_nobody(provider: Provider, name: Any) -> None:
    reason = refusal(provider, signed(provider, sub=name))
    assert reason in (TokenReason.NAMES_NOBODY, TokenReason.MALFORMED, TokenReason.CLAIM_MISSING)


def test_groups_are_a_bounded_list(provider: Provider) -> None:
    assert refusal(provider, signed(provider, groups="noc")) is TokenReason.MALFORMED
    many = [f"g{number}" for number in range(MAX_GROUPS + 1)]
    assert refusal(provider, signed(provider, groups=many)) is TokenReason.TOO_MANY_GROUPS


# When.


def test_a_token_ends_when_it_says_and_clocks_may_differ_a_little(provider: Provider) -> None:
    token = provider.token(at=NOW)
    good = keys_of(provider)
    assert judge_token(token, good, rules(), NOW + 11 * MINUTE)
    assert judge_token(token, good, rules(), NOW - MINUTE)
    late = NOW + 11 * MINUTE + timedelta(seconds=1)
    assert refusal(provider, token, late) is TokenReason.EXPIRED
    early = NOW - MINUTE - timedelta(seconds=1)
    assert refusal(provider, token, early) is TokenReason.NOT_YET_VALID


def test_a_token_is_not_good_before_it_says(provider: Provider) -> None:
    token = provider.token(at=NOW, nbf=int((NOW + 2 * MINUTE).timestamp()))
    assert refusal(provider, token) is TokenReason.NOT_YET_VALID
    assert judge_token(token, keys_of(provider), rules(), NOW + MINUTE)


def test_a_token_that_lasts_too_long_or_not_at_all_is_refused(provider: Provider) -> None:
    for life in (61 * MINUTE, 20000 * 60 * MINUTE, timedelta(), -5 * MINUTE):
        token = provider.token(at=NOW, life=life)
        assert refusal(provider, token) is TokenReason.LIFE_TOO_LONG


@pytest.mark.parametrize("value", ["soon", True, None, [], -1, 1e400, 10**30, float("nan")])
def test_a_time_that_is_none_is_refused(provider: Provider, value: Any) -> None:
    for claim in ("exp", "iat", "nbf"):
        reason = refusal(provider, signed(provider, **{claim: value}))
        assert reason in (TokenReason.MALFORMED, TokenReason.CLAIM_MISSING), claim


# Garbage.

DEEP = encoded(b"[" * 5000)
LONG_NUMBER = encoded(b'{"alg":' + b"9" * 4900 + b"}")


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b.c", "....", "Bearer", "\0.\0.\0", "e30.e30.", f"{DEEP}.e30.e30",
     f"{LONG_NUMBER}.e30.e30", "%%%.%%%.%%%", f"{encoded(b'[]')}.e30.e30"],
)  # fmt: skip
def test_garbage_is_refused(provider: Provider, token: str) -> None:
    assert refusal(provider, token) in (TokenReason.MALFORMED, TokenReason.ALGORITHM)


def test_a_huge_token_is_refused_unread(provider: Provider) -> None:
    token = provider.token(at=NOW, filling="x" * MAX_TOKEN_BYTES)
    assert refusal(provider, token) is TokenReason.TOO_LARGE


def test_every_cut_of_a_good_token_is_refused(provider: Provider) -> None:
    token = provider.token(at=NOW)
    for length in range(0, len(token), 7):
        assert refusal(provider, token[:length])


# Files of keys.


def problem(document: Any) -> str:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(FilesUnusable) as unusable:
        parse_keys(data)
    return str(unusable.value)


def test_what_is_no_set_of_keys_is_refused(provider: Provider) -> None:
    documents: list[Any] = [b"", b"torn {", b"[" * 100_000, [], {}, {"keys": {}}, {"keys": ["k1"]}]
    for document in documents:
        assert "JSON" in problem(document)
    assert "no key can be used" in problem({"keys": []})
    many = [provider.public("k1") | {"kid": f"k{n}"} for n in range(MAX_KEYS + 1)]
    assert "at most" in problem({"keys": many})
    assert "two keys" in problem({"keys": [provider.public("k1"), provider.public("k1")]})


def test_secrets_have_no_place_in_the_file(provider: Provider) -> None:
    good = provider.public("k1")
    shared = {"kty": "oct", "kid": "k2", "k": encoded(b"secret" * 8), "alg": "HS256"}
    assert "secret" in problem({"keys": [good, shared]})
    assert "private" in problem({"keys": [good, good | {"kid": "k2", "d": encoded(b"1" * 32)}]})


def test_keys_for_other_ends_are_passed_over_and_said(provider: Provider) -> None:
    good = provider.public("k1")
    weak = Provider(rsa_key(1024), "RS256").public("k1")
    others = [
        {k: v for k, v in good.items() if k != "kid"},
        good | {"kid": "k2", "use": "enc"},
        good | {"kid": "k3", "key_ops": ["encrypt"]},
        good | {"kid": "k4", "crv": "P-999"},
        good | {"kid": "k5", "x": "AAAA"},
        good | {"kid": "k6", "alg": "HS256"},
        weak | {"kid": "k7"},
        {"kty": "new", "kid": "k8"},
    ]
    keys = parse_keys(json.dumps({"keys": [good, *others]}).encode())
    assert len(keys.passed_over) == len(others)
    assert keys.of({"alg": "ES256", "kid": "k1"})
    for number in range(2, 9):
        with pytest.raises(TokenRefused):
            keys.of({"alg": "ES256", "kid": f"k{number}"})
    assert "1024 bits" in problem({"keys": [weak]})


def test_a_replaced_file_is_read_again_and_a_torn_one_is_not_used(
    provider: Provider, tmp_path: Path
) -> None:
    path = provider.write(tmp_path / "jwks.json")
    held = ReloadedTokenKeys(path)
    assert not held.reload()
    next_one = Provider()
    next_one.write(path)
    assert held.reload()
    with pytest.raises(TokenRefused, match="signature"):
        judge_token(provider.token(at=NOW), held.current, rules(), NOW)
    path.write_bytes(b"torn")
    with pytest.raises(FilesUnusable, match=r"jwks\.json: no JSON"):
        held.reload()
    assert judge_token(next_one.token(at=NOW), held.current, rules(), NOW)
    next_one.write(path)
    assert not held.reload(), "the same keys as before"


def test_a_file_that_everybody_may_write_is_refused(provider: Provider, tmp_path: Path) -> None:
    path = provider.write(tmp_path / "jwks.json")
    path.chmod(0o666)
    with pytest.raises(FilesUnusable, match="chmod 644"):
        read_keys(path)


def test_a_file_that_is_absent_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FilesUnusable, match="cannot be read"):
        read_keys(tmp_path / "none.json")
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), MAX_KEYS_BYTES + 1)
    with pytest.raises(FilesUnusable, match="longer than"):
        read_keys(path)
