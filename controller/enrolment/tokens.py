"""One-time tokens: how they are written, what is kept of them, and what can be done with one. Owns these; draws no
secret.

A token is written DOMAIN.ID.SECRET. The secret has 256 bits of chance, so a plain hash of it gives nothing away.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import NamedTuple

from controller.enrolment.errors import (
    TokenExpired,
    TokenForeign,
    TokenRevoked,
    TokenUnknown,
)
from controller.twin.facts import Facts, body_of, digest_of, held_of
from federation.identifiers import Key
from souverix.trust.v1 import enrolment_pb2

ASPECT = "enrolment_token"

#: The kind of subject tokens are, and their part of a resource name.
COLLECTION = "enrolment-tokens"

#: Bytes of a secret, and of an id that is drawn.
SECRET_BYTES = 32
ID_BYTES = 5

#: Longest life of a token, and the one it has unless something else is asked for: it lies around in mails and notes.
MAX_LIFE_MS = 30 * 86_400_000
DEFAULT_LIFE_MS = 86_400_000

#: Tokens of one domain that are open at once: a site's worth of machines. More are made once these are used.
MAX_OPEN = 10_000

_WRITTEN = re.compile(r"([a-z0-9-]{1,63})\.([a-z0-9-]{1,63})\.([0-9a-f]{64})")

Record = enrolment_pb2.EnrolmentTokenRecord


class Shown(NamedTuple):
    """A token as a machine shows it."""

    domain: str
    id: str
    secret_hash: bytes

    @property
    def subject(self) -> str:
        """What the facts of it are about."""
        return f"{COLLECTION}/{self.id}"


def written(domain: str, token_id: str, secret: bytes) -> str:
    """The text a machine is given."""
    return f"{domain}.{token_id}.{secret.hex()}"


def hash_of(secret: bytes) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret).digest()


def read(text: str) -> Shown:
    """A token that is shown. Raises `TokenUnknown` when it is not written as one."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise TokenUnknown("the token is not of the form DOMAIN.ID.SECRET; was all of it copied?")
    domain, token_id, secret = found.groups()
    return Shown(domain, token_id, hash_of(bytes.fromhex(secret)))


def token_name(domain: str, subject: str) -> str:
    """The resource name, "domains/{domain}/enrolment-tokens/{id}"."""
    return f"domains/{domain}/{subject}"


def state_at(record: Record, now_ms: int) -> enrolment_pb2.EnrolmentTokenState:
    """What can be done with a token at a time."""
    if record.revoked:
        return enrolment_pb2.ENROLMENT_TOKEN_STATE_REVOKED
    if record.used_by:
        return enrolment_pb2.ENROLMENT_TOKEN_STATE_USED
    if now_ms >= record.spec.expire_time.ToMilliseconds():
        return enrolment_pb2.ENROLMENT_TOKEN_STATE_EXPIRED
    return enrolment_pb2.ENROLMENT_TOKEN_STATE_OPEN


def known(facts: Facts, shown: Shown, own_domain: str) -> Record:
    """The record of the token that is shown, used or not. Raises `TokenForeign`, `TokenUnknown`."""
    if shown.domain != own_domain:
        raise TokenForeign(
            f"the token is of domain {shown.domain}, and this is the controller of {own_domain}; ask that domain's",
            domain=own_domain,
        )
    record: Record | None = body_of(facts, Key(own_domain, shown.subject, ASPECT))
    if record is None or not hmac.compare_digest(record.secret_hash, shown.secret_hash):
        raise TokenUnknown(
            "there is no such token; was all of it copied, and is this the right federation?",
            domain=own_domain,
        )
    return record


def check_open(record: Record, shown: Shown, now_ms: int) -> None:
    """Raises `TokenRevoked`, `TokenExpired` where the token admits nobody for want of use."""
    subject = token_name(shown.domain, shown.subject)
    match state_at(record, now_ms):
        case enrolment_pb2.ENROLMENT_TOKEN_STATE_REVOKED:
            raise TokenRevoked("the token was taken back; ask for another", subject=subject)
        case enrolment_pb2.ENROLMENT_TOKEN_STATE_EXPIRED:
            raise TokenExpired(
                f"the token was good until {record.spec.expire_time.ToJsonString()}; ask for another",
                subject=subject,
            )


def compose(
    facts: Facts, domain: str, subject: str, now_ms: int
) -> enrolment_pb2.EnrolmentToken | None:
    """The token as clients see it; None when there is none here."""
    record: Record | None = body_of(facts, Key(domain, subject, ASPECT))
    if record is None:
        return None
    token = enrolment_pb2.EnrolmentToken(
        name=token_name(domain, subject),
        id=subject.partition("/")[2],
        domain=domain,
        etag=etag(facts, domain, subject),
        spec=record.spec,
        state=state_at(record, now_ms),
        creator=record.creator,
        create_time=record.create_time,
        used_by=record.used_by,
    )
    if record.HasField("use_time"):
        token.use_time.CopyFrom(record.use_time)
    return token


def etag(facts: Facts, domain: str, subject: str) -> str:
    """Changes with each write of the token."""
    return digest_of(facts, held_of(facts, domain, subject, (ASPECT,)))
