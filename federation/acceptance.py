"""Whether a received run may take effect. Owns the verdicts and the keys they rest on; never drops anything.

Acceptance is by log position, never by time of arrival (design §6): a run takes effect when the key that sealed it,
the grant of its writer and the terms it names are in effect here. Until then it is PENDING, kept and judged again
whenever control facts change. What can never become right is QUARANTINED: kept, without effect, for people to see.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from federation.authority import AuthorityTable
from federation.chain import GENESIS_TAG, Verifier, key_id_of, seal_message
from federation.codec import Write
from federation.identifiers import Lane, StreamId
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2

#: Facts that only a controller above the governed domain may state.
GRANTING_ASPECTS = frozenset({"authority", "key_grant", "certificate_authority"})

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


class KeyRing:
    """Public keys of controllers, and the domains each serves, as granted by control facts.

    Grants only add: what a domain grants to a name or key of another one gives reach in its own subtree and takes
    nothing away elsewhere, in whatever order grants come.
    """

    __slots__ = ("_domains", "_domains_of_key", "_keys", "root_key", "verifier")

    def __init__(self, verifier: Verifier, root_key: bytes) -> None:
        self.verifier = verifier
        self.root_key = root_key
        self._keys: dict[tuple[str, str], bytes] = {}
        self._domains_of_key: dict[tuple[str, str], frozenset[str]] = {}
        self._domains: dict[str, frozenset[str]] = {}

    def put(self, grant: authority_pb2.KeyGrant) -> None:
        """Takes in a granted key. A grant whose key_id is not that of its key is void."""
        if grant.key_id != key_id_of(grant.public_key):
            return
        key = (grant.controller, grant.key_id)
        self._keys[key] = grant.public_key
        self._domains_of_key[key] = self._domains_of_key.get(key, frozenset()) | {grant.domain}
        self._domains[grant.controller] = self.domains_of(grant.controller) | {grant.domain}

    def grants(self) -> Iterator[authority_pb2.KeyGrant]:
        """All keys, once for each domain they were granted in."""
        for (controller, key_id), public_key in self._keys.items():
            for domain in sorted(self._domains_of_key[controller, key_id]):
                yield authority_pb2.KeyGrant(
                    controller=controller, domain=domain, key_id=key_id, public_key=public_key
                )

    def domain_of(self, controller: str) -> str | None:
        """The domain a controller serves, the first by name of several; None when no grant is known."""
        return min(self.domains_of(controller), default=None)

    def domains_of(self, controller: str) -> frozenset[str]:
        """The domains in which a controller was granted keys."""
        return self._domains.get(controller, frozenset())

    def domains_of_key(self, controller: str, key_id: str) -> frozenset[str]:
        """The domains in which one key of a controller was granted."""
        return self._domains_of_key.get((controller, key_id), frozenset())

    def knows(self, controller: str, key_id: str) -> bool:
        """Tells whether the key of a seal is known."""
        return (controller, key_id) in self._keys

    def public_key(self, controller: str, key_id: str) -> bytes | None:
        """A controller's key; None when it is not known."""
        return self._keys.get((controller, key_id))

    def seal_is_good(self, stream: StreamId, seal: event_pb2.Seal) -> bool:
        """Tells whether a known key made the seal."""
        key = self._keys.get((stream.origin.controller, seal.key_id))
        if key is None:
            return False
        message = seal_message(stream, seal.sequence, seal.chain_hash)
        return self.verifier.verify(key, message, seal.signature)

    def genesis_is_good(self, genesis: authority_pb2.Genesis) -> bool:
        """Tells whether the root key this controller was given signed the genesis."""
        return self.verifier.verify(self.root_key, genesis_message(genesis), genesis.signature)


def genesis_message(genesis: authority_pb2.Genesis) -> bytes:
    """What the root key signs."""
    unsigned = authority_pb2.Genesis()
    unsigned.CopyFrom(genesis)
    unsigned.ClearField("signature")
    return GENESIS_TAG + unsigned.SerializeToString(deterministic=True)


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
    keys: KeyRing,
    table: AuthorityTable,
    *,
    verified: bool,
) -> Verdict:
    """Judges a run by its key and its writer's grant. `first` is its first event without effect yet; `verified`
    says that the seal was checked at receipt.
    """
    controller = stream.origin.controller
    if not keys.knows(controller, seal.key_id):
        adopt_genesis(first, stream, keys, table)
        if not keys.knows(controller, seal.key_id):
            return Verdict(Outcome.PENDING, "KEY_UNKNOWN")
    if not verified and not keys.seal_is_good(stream, seal):
        return Verdict(Outcome.QUARANTINED, "SEAL_INVALID")
    served = keys.domains_of_key(controller, seal.key_id)
    if table.path_of(stream.domain) is None:
        if stream.lane is Lane.CONTROL and first is not None and first.aspect == "authority":
            record: authority_pb2.AuthorityRecord = first.body()
            if record.domain == stream.domain and _is_within_any(table, record.parent, served):
                return ACCEPTED
        return Verdict(Outcome.PENDING, "DOMAIN_UNKNOWN")
    if not _is_within_any(table, stream.domain, served):
        return Verdict(Outcome.QUARANTINED, "OUT_OF_REACH")
    return ACCEPTED


def judge_event(stream: StreamId, write: Write, keys: KeyRing, table: AuthorityTable) -> Verdict:
    """Judges one event of an accepted run by what it claims: its terms, and grants only a domain above may make."""
    if write.aspect in GRANTING_ASPECTS:
        if stream.domain in keys.domains_of(stream.origin.controller):
            return Verdict(Outcome.QUARANTINED, "SELF_GRANT")
        body = write.body()
        if body.domain != stream.domain:
            return Verdict(Outcome.QUARANTINED, "WRONG_DOMAIN")
        if write.aspect == "authority":
            known = table.records.get(stream.domain)
            if known is not None and known.parent != body.parent:
                return Verdict(Outcome.QUARANTINED, "PARENT_CHANGED")
    if write.aspect == "admission":
        verdict = _judge_admission(stream, write.body(), keys, table)
        if verdict.outcome is not Outcome.ACCEPTED:
            return verdict
    if write.term and write.term > table.term_of(stream.domain):
        return Verdict(Outcome.PENDING, "TERM_UNKNOWN")
    return ACCEPTED


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
