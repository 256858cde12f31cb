"""Enrolments: what becomes of a machine that comes with a token, and of those that wait. Owns these decisions and how
an enrolment is shown; writes through a proposal, and issues nothing: the certificate comes in as an argument.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

from controller.enrolment import tokens
from controller.enrolment.errors import (
    EnrolmentLapsed,
    EnrolmentRejected,
    NameTaken,
    QueueFull,
    TokenUsed,
    WrongNode,
)
from controller.enrolment.stages import Stage, Step, after, stage_at
from controller.twin.facts import Facts, body_of, digest_of, held_of, home_of, timestamp
from federation.errors import NotFound, WrongState
from federation.identifiers import Key
from souverix.trust.v1 import enrolment_pb2
from trust.identity import Kind

ASPECT = "enrolment"

#: The kind of subject enrolments are, and their part of a resource name.
COLLECTION = "enrolments"

#: How long an enrolment may wait for people, and then for its machine: over a long weekend, and a week beside.
WAITS_MS = 14 * 86_400_000

#: Enrolments of one domain that wait at once. Each has used up a token, so this is no more than was asked for.
MAX_PENDING = 1_000

KINDS = {
    enrolment_pb2.ENROLMENT_KIND_NODE: Kind.NODE,
    enrolment_pb2.ENROLMENT_KIND_RELAY: Kind.RELAY,
}

Record = enrolment_pb2.EnrolmentRecord


class Newcomer(NamedTuple):
    """A machine that asks to be let in."""

    node: str
    token: tokens.Shown
    #: SHA-256 of its public key.
    key_hash: bytes
    source: str

    @property
    def subject(self) -> str:
        """What the facts of its enrolment are about."""
        return f"{COLLECTION}/{self.node}"


class Outcome(NamedTuple):
    """What a newcomer is to be told, once what it makes necessary is written."""

    stage: Stage
    #: The enrolment after this.
    record: Record
    #: The token after this; None: it was used before.
    token: tokens.Record | None


class Certificate(Protocol):
    """A certificate that would be issued to the newcomer, in DER. Called only where one is to be issued."""

    def __call__(self, kind: Kind) -> bytes:
        """The certificate for a kind of machine."""


def admit(
    facts: Facts,
    newcomer: Newcomer,
    own_domain: str,
    now_ms: int,
    pending: int,
    certificate: Certificate,
) -> Outcome:
    """Decides about a machine that shows a token. `pending` is how many wait already.

    Raises `EnrolmentRefused`, `QueueFull`.
    """
    shown = newcomer.token
    token = tokens.known(facts, shown, own_domain)
    if token.spec.node and token.spec.node != newcomer.node:
        raise WrongNode(
            f"the token is for node {token.spec.node}, and this calls itself {newcomer.node}",
            subject=f"nodes/{newcomer.node}",
        )
    earlier: Record | None = body_of(facts, Key(own_domain, newcomer.subject, ASPECT))
    if token.used_by:
        return _again(token, earlier, newcomer, now_ms, certificate)
    tokens.check_open(token, shown, now_ms)
    if not token.spec.node:
        _check_name_is_free(facts, newcomer, own_domain, earlier, now_ms)
    waits = token.spec.needs_approval
    if waits and pending >= MAX_PENDING:
        raise QueueFull(
            f"{pending} machines wait for approval in domain {own_domain} already; decide about them first",
            domain=own_domain,
        )
    used = tokens.Record()
    used.CopyFrom(token)
    used.used_by = newcomer.node
    used.use_time.CopyFrom(timestamp(now_ms))
    record = Record(
        kind=token.spec.kind,
        token=shown.id,
        key_hash=newcomer.key_hash,
        source=newcomer.source,
        request_time=timestamp(now_ms),
        expire_time=timestamp(now_ms + WAITS_MS),
        stage=Stage.PENDING if waits else Stage.ISSUED,  # type: ignore[arg-type]
    )
    if not waits:
        record.certificate = certificate(KINDS[token.spec.kind])
    return Outcome(Stage(record.stage), record, used)


def _again(
    token: tokens.Record,
    earlier: Record | None,
    newcomer: Newcomer,
    now_ms: int,
    certificate: Certificate,
) -> Outcome:
    """The token was used. By the same key for the same node it is the same machine, which asks again."""
    mine = (
        earlier is not None
        and token.used_by == newcomer.node
        and earlier.token == newcomer.token.id
        and earlier.key_hash == newcomer.key_hash
    )
    if not mine or earlier is None:
        raise TokenUsed(
            f"the token was used at {token.use_time.ToJsonString()} for node {token.used_by}; if that was not "
            "this machine, somebody else had the token",
            subject=tokens.token_name(newcomer.token.domain, newcomer.token.subject),
        )
    stage = stage_at(earlier, now_ms)
    subject = f"domains/{newcomer.token.domain}/{newcomer.subject}"
    if stage is Stage.REJECTED:
        raise EnrolmentRejected(
            f"{earlier.decided_by} rejected this machine: {earlier.reason}", subject=subject
        )
    if stage is Stage.LAPSED:
        raise EnrolmentLapsed(
            "nobody approved this machine in time; ask for a new token", subject=subject
        )
    if stage is Stage.APPROVED:
        issued = Record()
        issued.CopyFrom(earlier)
        issued.stage = after(stage, Step.FETCH) or stage  # type: ignore[assignment]
        issued.certificate = certificate(KINDS[earlier.kind])
        return Outcome(Stage.ISSUED, issued, None)
    return Outcome(stage, earlier, None)


def _check_name_is_free(
    facts: Facts, newcomer: Newcomer, own_domain: str, earlier: Record | None, now_ms: int
) -> None:
    """A token for any node admits new ones only: else its bearer could be any node there is, also of a domain below,
    where a certificate of this one counts, too. Raises `NameTaken`.
    """
    node = f"nodes/{newcomer.node}"
    waits = earlier is not None and stage_at(earlier, now_ms) not in (Stage.REJECTED, Stage.LAPSED)
    home = home_of(facts, node)
    domain = home.domain if home is not None else own_domain
    known = any(
        body_of(facts, Key(at, node, aspect)) is not None
        for at in (own_domain, domain)
        for aspect in ("actual_state", "agent_key")
    )
    if waits or known:
        raise NameTaken(
            f"there is a machine {newcomer.node} in domain {domain}; to enrol it anew, have a token made for it "
            f"(souverixctl enrolment token create --node {newcomer.node})",
            subject=node,
        )


def decided(
    record: Record | None, step: Step, now_ms: int, principal: str, reason: str, name: str
) -> Record:
    """The enrolment after an operator's decision. Raises `NotFound`, `WrongState`."""
    if record is None:
        raise NotFound(f"{name} is not known here", subject=name)
    stage = stage_at(record, now_ms)
    to = after(stage, step)
    if to is None:
        raise WrongState(
            f"{name} is {stage.name.lower()}, and cannot be {'approved' if step is Step.APPROVE else 'rejected'} any "
            "more; the machine can come again with a new token",
            subject=name,
        )
    changed = Record()
    changed.CopyFrom(record)
    changed.stage = to  # type: ignore[assignment]
    changed.decided_by, changed.reason = principal, reason
    return changed


def certificate_of(facts: Facts, domain: str, node: str) -> bytes:
    """The certificate that the last enrolment of a name was issued, in DER; empty: none was, or it waits."""
    record: Record | None = body_of(facts, Key(domain, f"{COLLECTION}/{node}", ASPECT))
    return record.certificate if record is not None else b""


def enrolment_name(domain: str, subject: str) -> str:
    """The resource name, "domains/{domain}/enrolments/{node}"."""
    return f"domains/{domain}/{subject}"


def compose(facts: Facts, domain: str, subject: str, now_ms: int) -> enrolment_pb2.Enrolment | None:
    """The enrolment as clients see it; None when there is none here."""
    record: Record | None = body_of(facts, Key(domain, subject, ASPECT))
    if record is None:
        return None
    issued = hashlib.sha256(record.certificate).hexdigest() if record.certificate else ""
    return enrolment_pb2.Enrolment(
        name=enrolment_name(domain, subject),
        node=subject.partition("/")[2],
        domain=domain,
        etag=etag(facts, domain, subject),
        kind=record.kind,
        token=record.token,
        key_fingerprint=record.key_hash.hex(),
        source=record.source,
        request_time=record.request_time,
        expire_time=record.expire_time,
        stage=stage_at(record, now_ms),  # type: ignore[arg-type]
        decided_by=record.decided_by,
        reason=record.reason,
        certificate_fingerprint=issued,
    )


def etag(facts: Facts, domain: str, subject: str) -> str:
    """Changes with each write of the enrolment."""
    return digest_of(facts, held_of(facts, domain, subject, (ASPECT,)))
