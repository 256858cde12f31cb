"""Which key may seal which part of which stream. Owns the public keys of controllers and the grounds they stand on;
never judges what events say.

A key stands by grants of a controller above, each of which reaches a domain and what is below it, and by successions,
in which a controller itself names the key it goes on under. It ends where a succession says so, and it seals nothing
of an incarnation that follows a sealed one, unless it was granted for that. All of this is by position in streams,
never by time, and the same in whatever order the facts come (design §6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from federation.authority import AuthorityTable
from federation.chain import GENESIS_TAG, Verifier, key_id_of, seal_message
from federation.identifiers import Lane, Origin, StreamId
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2

#: Grounds on which a seal does not count.
OUT_OF_REACH = "OUT_OF_REACH"
KEY_UNKNOWN = "KEY_UNKNOWN"
KEY_NOT_VALID = "KEY_NOT_VALID"
KEY_SUPERSEDED = "KEY_SUPERSEDED"

_LANES = {int(lane): lane for lane in Lane}

_Key = tuple[str, str]


class Title(NamedTuple):
    """What a key stands on: it may seal streams of this domain and below it."""

    domain: str
    #: From this incarnation of its controller on.
    first_incarnation: int
    #: Of streams of that very incarnation, the last event of the key before; None: there was none before.
    ends: Mapping[StreamId, int] | None = None


class _Succession(NamedTuple):
    domain: str
    incarnation: int
    old_key_id: str
    ends: Mapping[StreamId, int]


class KeyRing:
    """Public keys of controllers, and what each stands on, as control facts say.

    Grants only add: what a domain grants to a name or key of another one gives reach in its own subtree and takes
    nothing away elsewhere, in whatever order grants come.
    """

    __slots__ = (
        "_bounded",
        "_domains",
        "_ended",
        "_granted",
        "_keys",
        "_sealed",
        "_successions",
        "_titles",
        "root_key",
        "verifier",
    )

    def __init__(self, verifier: Verifier, root_key: bytes) -> None:
        self.verifier = verifier
        self.root_key = root_key
        self._keys: dict[_Key, bytes] = {}
        self._granted: dict[_Key, set[tuple[str, int]]] = {}
        self._domains: dict[str, frozenset[str]] = {}
        #: By the key that was gone on under.
        self._successions: dict[_Key, dict[bytes, authority_pb2.KeySuccession]] = {}
        #: By the key that ended.
        self._ended: dict[_Key, list[_Succession]] = {}
        #: controller -> (domain, highest incarnation that ended).
        self._sealed: dict[str, set[tuple[str, int]]] = {}
        #: Controllers of which more than grants without bounds is known.
        self._bounded: set[str] = set()
        self._titles: dict[_Key, tuple[Title, ...]] = {}

    # Taking facts in.

    def put(self, grant: authority_pb2.KeyGrant) -> None:
        """Takes in a granted key. A grant whose key_id is not that of its key is void."""
        if grant.key_id != key_id_of(grant.public_key):
            return
        controller = grant.controller
        key = (controller, grant.key_id)
        self._keys[key] = grant.public_key
        self._granted.setdefault(key, set()).add((grant.domain, grant.first_incarnation))
        self._domains[controller] = self.domains_of(controller) | {grant.domain}
        if grant.first_incarnation:
            self._bounded.add(controller)
        self._titles.clear()

    def succeed(self, succession: authority_pb2.KeySuccession) -> None:
        """Takes in that a controller goes on under another key; the end of the old one is `end`'s."""
        if succession.key_id != key_id_of(succession.public_key):
            return
        key = (succession.controller, succession.key_id)
        self._keys[key] = succession.public_key
        digest = succession.SerializeToString(deterministic=True)
        self._successions.setdefault(key, {})[digest] = succession
        self._bounded.add(succession.controller)
        self._titles.clear()

    def end(self, succession: authority_pb2.KeySuccession) -> None:
        """Takes in where a key ends."""
        key = (succession.controller, succession.old_key_id)
        entry = _succession(succession)
        ended = self._ended.setdefault(key, [])
        if entry not in ended:
            ended.append(entry)
        self._bounded.add(succession.controller)

    def seal(self, controller: str, domain: str, incarnation: int) -> None:
        """Takes in that the streams of a controller ended, in a domain and below it, up to an incarnation."""
        self._sealed.setdefault(controller, set()).add((domain, incarnation))
        self._bounded.add(controller)

    # Reading.

    def grants(self) -> Iterator[authority_pb2.KeyGrant]:
        """All granted keys, once for each domain and incarnation they were granted for."""
        for (controller, key_id), granted in self._granted.items():
            for domain, incarnation in sorted(granted):
                yield authority_pb2.KeyGrant(
                    controller=controller,
                    domain=domain,
                    key_id=key_id,
                    public_key=self._keys[controller, key_id],
                    first_incarnation=incarnation,
                )

    def successions(self) -> Iterator[authority_pb2.KeySuccession]:
        """All successions that are in effect."""
        for by_digest in self._successions.values():
            yield from by_digest.values()

    def domain_of(self, controller: str) -> str | None:
        """The domain a controller serves, the first by name of several; None when no grant is known."""
        return min(self.domains_of(controller), default=None)

    def domains_of(self, controller: str) -> frozenset[str]:
        """The domains in which a controller was granted keys."""
        return self._domains.get(controller, frozenset())

    def domains_of_key(self, controller: str, key_id: str) -> frozenset[str]:
        """The domains in which one key of a controller stands."""
        return frozenset(title.domain for title in self.titles(controller, key_id))

    def knows(self, controller: str, key_id: str) -> bool:
        """Tells whether the key of a seal is known."""
        return (controller, key_id) in self._keys

    def is_bounded(self, controller: str) -> bool:
        """Tells whether more is known of a controller's keys than grants without bounds."""
        return controller in self._bounded

    def public_key(self, controller: str, key_id: str) -> bytes | None:
        """A controller's key; None when it is not known."""
        return self._keys.get((controller, key_id))

    def titles(self, controller: str, key_id: str) -> tuple[Title, ...]:
        """All that a key stands on."""
        key = (controller, key_id)
        found = self._titles.get(key)
        if found is None:
            found = self._titles[key] = tuple(self._find_titles(key))
        return found

    def standing(
        self,
        stream: StreamId,
        domain: str,
        first: int,
        last: int,
        key_id: str,
        table: AuthorityTable,
    ) -> str:
        """Why a known key may not seal events `first` to `last` of a stream; empty when it may. `domain` is the
        stream's, or the nearest above it that has a place in the tree.
        """
        controller, incarnation = stream[1]
        titles = self.titles(controller, key_id)
        reaching = [t for t in titles if table.is_within(domain, t.domain)]
        if not reaching:
            return OUT_OF_REACH
        if controller not in self._bounded:
            return ""
        if self._is_ended(stream, domain, last, key_id, table):
            return KEY_SUPERSEDED
        sealed = self._sealed.get(controller, ())
        for title in reaching:
            begins = title.first_incarnation
            if begins > incarnation:
                continue
            before = title.ends.get(stream, 0) if title.ends is not None else 0
            if begins == incarnation and first <= before:
                continue
            if not any(
                begins <= at < incarnation and table.is_within(title.domain, within)
                for within, at in sealed
            ):
                return ""
        return KEY_NOT_VALID

    def _is_ended(
        self, stream: StreamId, domain: str, last: int, key_id: str, table: AuthorityTable
    ) -> bool:
        """Tells whether a key ended before an event of a stream."""
        controller, incarnation = stream[1]
        for ended in self._ended.get((controller, key_id), ()):
            if not table.is_within(domain, ended.domain):
                continue
            at = ended.incarnation
            if incarnation > at or (incarnation == at and last > ended.ends.get(stream, 0)):
                return True
        return False

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

    def _find_titles(self, key: _Key) -> Iterator[Title]:
        controller = key[0]
        for domain, incarnation in sorted(self._granted.get(key, ())):
            yield Title(domain, incarnation)
        for fact in self._successions.get(key, {}).values():
            if self._rests_on_a_grant(controller, fact):
                yield Title(fact.domain, fact.incarnation, _succession(fact).ends)

    def _rests_on_a_grant(self, controller: str, fact: authority_pb2.KeySuccession) -> bool:
        """Follows successions back to a key that was granted in their domain."""
        seen = {fact.old_key_id}
        waiting = [(fact.old_key_id, fact.incarnation)]
        while waiting:
            key_id, incarnation = waiting.pop()
            granted = self._granted.get((controller, key_id), ())
            if any(domain == fact.domain and first <= incarnation for domain, first in granted):
                return True
            for before in self._successions.get((controller, key_id), {}).values():
                if (
                    before.domain == fact.domain
                    and before.incarnation <= incarnation
                    and before.old_key_id not in seen
                ):
                    seen.add(before.old_key_id)
                    waiting.append((before.old_key_id, before.incarnation))
        return False


def genesis_message(genesis: authority_pb2.Genesis) -> bytes:
    """What the root key signs."""
    unsigned = authority_pb2.Genesis()
    unsigned.CopyFrom(genesis)
    unsigned.ClearField("signature")
    return GENESIS_TAG + unsigned.SerializeToString(deterministic=True)


def ends_of(
    controller: str, ends: Iterable[authority_pb2.StreamEnd]
) -> dict[StreamId, authority_pb2.StreamEnd]:
    """Positions by stream, of one named twice the lower; what names no stream is left out."""
    found: dict[StreamId, authority_pb2.StreamEnd] = {}
    for end in ends:
        lane = _LANES.get(end.lane)
        if lane is not None:
            stream = StreamId(end.domain, Origin(controller, end.incarnation), lane)
            known = found.get(stream)
            if known is None or end.last_sequence < known.last_sequence:
                found[stream] = end
    return found


def _succession(succession: authority_pb2.KeySuccession) -> _Succession:
    ends = ends_of(succession.controller, succession.ends)
    return _Succession(
        succession.domain,
        succession.incarnation,
        succession.old_key_id,
        {stream: end.last_sequence for stream, end in ends.items()},
    )
