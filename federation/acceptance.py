"""Whether a received run may take effect. Owns the verdicts; never drops anything, and holds nothing.

Acceptance is by log position, never by time of arrival (design §6): a run takes effect when the key that sealed it,
the grant of its writer and the terms it names are in effect here. Until then it is PENDING; what no fact that is on its
way to everyone can make right is QUARANTINED. Either is kept without effect, and judged again whenever control facts
change: the verdict follows from the facts, not from their order.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from federation.authority import AuthorityTable
from federation.chain import key_id_of
from federation.codec import Write
from federation.identifiers import Lane, StreamId
from federation.keys import KEY_NOT_VALID, KEY_UNKNOWN, KeyRing, ends_of
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2

#: Facts that only a controller above the governed domain may state.
GRANTING_ASPECTS = frozenset(
    {"authority", "key_grant", "certificate_authority", "stream_sealed", "run_decision"}
)

#: Of them, those that speak of a controller the writer must stand above.
RULING_ASPECTS = frozenset({"stream_sealed", "run_decision"})

_LANES = frozenset(int(lane) for lane in Lane)


class Outcome(enum.Enum):
    """What becomes of a run."""

    ACCEPTED = "ACCEPTED"
    PENDING = "PENDING"
    QUARANTINED = "QUARANTINED"


class Verdict(NamedTuple):
    """An outcome with its reason (UPPER_SNAKE; empty when accepted)."""

    outcome: Outcome
    reason: str = ""


ACCEPTED = Verdict(Outcome.ACCEPTED)


def adopt_genesis(
    write: Write | None, stream: StreamId, keys: KeyRing, table: AuthorityTable
) -> bool:
    """Puts the root's key and record in force when `write` is the good genesis of its stream; tells whether it was."""
    if write is None or write.aspect != "genesis" or write.sequence != 1:
        return False
    genesis: authority_pb2.Genesis = write.body()
    if genesis.domain != stream.domain or genesis.key.controller != stream.origin.controller:
        return False
    if not keys.genesis_is_good(genesis):
        return False
    keys.put(genesis.key)
    table.put(genesis.authority)
    return True


def judge_run(
    stream: StreamId,
    seal: event_pb2.Seal,
    first: Write | None,
    first_sequence: int,
    keys: KeyRing,
    table: AuthorityTable,
    *,
    verified: bool,
) -> Verdict:
    """Judges a run by its key and its writer's grant. `first` is its first event without effect yet, numbered
    `first_sequence`; `verified` says that the seal was checked before.
    """
    controller = stream.origin.controller
    if not keys.knows(controller, seal.key_id):
        adopt_genesis(first, stream, keys, table)
        if not keys.knows(controller, seal.key_id):
            return Verdict(Outcome.PENDING, KEY_UNKNOWN)
    if not verified and not keys.seal_is_good(stream, seal):
        return Verdict(Outcome.QUARANTINED, "SEAL_INVALID")
    domain = stream.domain
    if table.path_of(domain) is None:
        parent = _parent_of_new(stream, first)
        if not parent or not _is_within_any(
            table, parent, keys.domains_of_key(controller, seal.key_id)
        ):
            return Verdict(Outcome.PENDING, "DOMAIN_UNKNOWN")
        domain = parent
    reason = keys.standing(stream, domain, first_sequence, seal.sequence, seal.key_id, table)
    if not reason:
        return ACCEPTED
    return Verdict(
        Outcome.PENDING if reason == KEY_NOT_VALID else Outcome.QUARANTINED,
        reason,
    )


def _parent_of_new(stream: StreamId, first: Write | None) -> str:
    """The parent named by the record with which a domain's control stream begins; empty when it does not."""
    if stream.lane is not Lane.CONTROL or first is None or first.aspect != "authority":
        return ""
    record: authority_pb2.AuthorityRecord = first.body()
    return record.parent if record.domain == stream.domain else ""


def judge_event(
    stream: StreamId,
    write: Write,
    seal: event_pb2.Seal,
    keys: KeyRing,
    table: AuthorityTable,
) -> Verdict:
    """Judges one event of an accepted run by what it claims: its terms, and facts that only some may state. `seal` is
    its run's.
    """
    verdict = ACCEPTED
    if write.aspect in GRANTING_ASPECTS:
        verdict = judge_ruling(stream, write, keys, table)
    elif write.aspect == "admission":
        verdict = _judge_admission(stream, write.body(), keys, table)
    elif write.aspect == "key_succession":
        verdict = _judge_succession(stream, write, seal)
    if verdict.outcome is not Outcome.ACCEPTED:
        return verdict
    if write.term and write.term > table.term_of(stream.domain):
        return Verdict(Outcome.PENDING, "TERM_UNKNOWN")
    return ACCEPTED


def judge_ruling(stream: StreamId, write: Write, keys: KeyRing, table: AuthorityTable) -> Verdict:
    """Judges a fact of `GRANTING_ASPECTS` by who states it, and of whom."""
    author = stream.origin.controller
    if stream.domain in keys.domains_of(author):
        return Verdict(Outcome.QUARANTINED, "SELF_GRANT")
    body = write.body()
    if body.domain != stream.domain:
        return Verdict(Outcome.QUARANTINED, "WRONG_DOMAIN")
    if write.aspect == "authority":
        known = table.records.get(stream.domain)
        if known is not None and known.parent != body.parent:
            return Verdict(Outcome.QUARANTINED, "PARENT_CHANGED")
    elif write.aspect in RULING_ASPECTS:
        if not _rules_over(author, body.controller, stream.domain, keys, table):
            return Verdict(Outcome.QUARANTINED, "NOT_ABOVE_ORIGIN")
        if write.aspect == "run_decision" and not _is_decision(body):
            return Verdict(Outcome.QUARANTINED, "DECISION_INVALID")
    return ACCEPTED


def _rules_over(
    author: str, controller: str, domain: str, keys: KeyRing, table: AuthorityTable
) -> bool:
    """Tells whether one controller stands above another in a domain: no grant puts the other as high.

    What is granted to the controllers above a domain is known here before anything that is stated below them.
    """
    below = keys.domains_of(controller)
    return any(
        table.is_within(domain, above) and not any(table.is_within(above, d) for d in below)
        for above in keys.domains_of(author)
    )


def _is_decision(body: authority_pb2.RunDecision) -> bool:
    return (
        body.lane in _LANES
        and body.ruling in (authority_pb2.RULING_ACCEPT, authority_pb2.RULING_DISCARD)
        and 0 < body.first_sequence <= body.last_sequence
    )


def _judge_succession(stream: StreamId, write: Write, seal: event_pb2.Seal) -> Verdict:
    """Only a controller itself names the key it goes on under, with the last event that the old one seals."""
    body: authority_pb2.KeySuccession = write.body()
    end = ends_of(body.controller, body.ends).get(stream)
    honest = (
        StreamId(body.domain, stream.origin, stream.lane) == stream
        and (body.controller, body.incarnation) == stream.origin
        and body.old_key_id == seal.key_id != body.key_id
        and body.key_id == key_id_of(body.public_key)
        and end is not None
        and end.last_sequence == write.sequence == seal.sequence
    )
    return ACCEPTED if honest else Verdict(Outcome.QUARANTINED, "SUCCESSION_INVALID")


def _judge_admission(
    stream: StreamId, record: authority_pb2.Admission, keys: KeyRing, table: AuthorityTable
) -> Verdict:
    """Only a controller above an origin may cap its stamps: a peer of it would win every conflict so."""
    if record.lane not in _LANES:
        return Verdict(Outcome.QUARANTINED, "LANE_UNKNOWN")
    above = keys.domains_of(stream.origin.controller)
    below = keys.domains_of(record.controller)
    if not below:
        return Verdict(Outcome.PENDING, "KEY_UNKNOWN")
    if not any(_is_within_any(table, domain, above - {domain}) for domain in below):
        return Verdict(Outcome.QUARANTINED, "NOT_ABOVE_ORIGIN")
    return ACCEPTED


def _is_within_any(table: AuthorityTable, domain: str, ancestors: Iterable[str]) -> bool:
    return any(table.is_within(domain, ancestor) for ancestor in ancestors)
