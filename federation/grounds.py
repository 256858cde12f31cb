"""Whether what is in effect still rests on something. Owns the bounds a fold judges by, what it found of them in its
log, and how far a stream may go on; brings nothing into effect itself.

A fact that voids events holds for them whenever they came. When one is found after its events took effect, the fold is
`outdated`, and the log is to be folded anew with what is known now *foreknown*; it stands once what it foreknew is what
it found (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from federation.acceptance import ACCEPTED, Outcome, Verdict
from federation.authority import AuthorityTable
from federation.bounds import CHAIN_CONTRADICTED, STREAM_SEALED, Bounds, Decision, Foreknown, Limit
from federation.identifiers import StreamId
from federation.keys import KeyRing
from federation.streams import ReceivedRun, StreamState

#: Facts that take effect from what others state: each holds for all events, also for those that came before it.
BOUNDING_ASPECTS = frozenset({"key_succession", "stream_sealed", "run_decision"})

#: Grounds that no further fact takes away: what follows in such a stream is not kept in memory.
FINAL_REASONS = frozenset({STREAM_SEALED, CHAIN_CONTRADICTED})


class Part(NamedTuple):
    """How a run goes on: what becomes of its events up to one of them."""

    verdict: Verdict
    last: int = 0
    #: They are passed over.
    skipped: bool = False
    #: Somebody above stands for who wrote them.
    vouched: bool = False


class Grounds:
    """What the effects of one fold rest on, beside keys and authority."""

    def __init__(
        self,
        controller: str,
        keys: KeyRing,
        authority: AuthorityTable,
        streams: Mapping[StreamId, StreamState],
    ) -> None:
        self.bounds = Bounds()
        #: What was told before its events were reached.
        self.foreknown = Foreknown()
        #: What was found in the log.
        self.knows = Foreknown()
        #: Something is in effect that a fact found since makes void.
        self.outdated = False
        self._controller = controller
        self._keys = keys
        self._authority = authority
        self._streams = streams

    # What is known.

    def foreknow(self, foreknown: Foreknown) -> None:
        """Is told facts before their events are reached; to be called before anything is applied."""
        self.foreknown = foreknown
        self.knows.contradicted.update(foreknown.contradicted)
        self._put_all(foreknown)

    def restore(self, knows: Foreknown, *, outdated: bool) -> None:
        """Takes back what was found when the state was stored."""
        self.knows = knows
        self.outdated = outdated
        self._put_all(knows)

    def take(self, aspect: str, body: Any) -> None:
        """A fact of `BOUNDING_ASPECTS` came into effect."""
        raw = body.SerializeToString(deterministic=True)
        self.knows.add(aspect, raw)
        if aspect == "key_succession":
            self._keys.succeed(body)
        if raw not in self.foreknown.facts.get(aspect, ()):
            self._put(aspect, body)
            self.outdated = self.outdated or self._voids(body.controller)

    @property
    def stand(self) -> bool:
        """Tells whether the fold, at the end of the log, rests on nothing but what is in the log."""
        return not self.outdated and self.knows.covers(self.foreknown)

    def to_foreknow(self) -> Foreknown:
        """What the log is to be folded anew with, where the fold does not stand. What contradicts a seal is looked for
        again when the seals changed.
        """
        same = self.knows.facts == self.foreknown.facts
        return Foreknown(self.knows.facts, self.knows.contradicted if same else set())

    # How far a stream goes.

    def limit(self, stream: StreamId) -> Limit | None:
        """How far a stream counts; None: it does not end."""
        bounds, is_within = self.bounds, self._authority.is_within
        if not bounds.concern(stream) or self._authority.path_of(stream.domain) is not None:
            return bounds.limit(stream, is_within)
        # A domain that has no place in the tree yet is below those that its writer serves; one's own word is written
        # before any of this is known.
        own = stream.origin.controller == self._controller
        served = self._keys.domains_of(stream.origin.controller)
        return bounds.limit(
            stream,
            lambda _, above: own or (bool(served) and all(is_within(d, above) for d in served)),
        )

    def next_part(self, stream: StreamId, held: StreamState, run: ReceivedRun) -> Part:
        """How the first waiting run of a stream that is bounded goes on."""
        at, end = held.applied + 1, run.seal.sequence
        limit, vouched = self.limit(stream), False
        if limit is not None:
            verdict = self._judge_limit(stream, held, run, limit)
            if verdict is not ACCEPTED:
                return Part(verdict)
            end = min(end, limit.last)
            # The chain up to the seal is the one that the controller above holds: it stands for the keys in it.
            vouched = held.chain_hash_at(limit.last) == limit.chain_hash
        decision = self._decision_on(stream, held, at)
        if decision is not None and decision.discards:
            if held.chain_hash_at(decision.last) is None:
                return Part(Verdict(Outcome.PENDING, "DECISION_AHEAD"))
            return Part(ACCEPTED, min(end, decision.last), skipped=True)
        if decision is not None:
            return Part(ACCEPTED, min(end, decision.last), vouched=True)
        starts = [d.first - 1 for d in self.bounds.decisions(stream) if d.first > at]
        return Part(ACCEPTED, min([end, *starts]), vouched=vouched)

    def _judge_limit(
        self, stream: StreamId, held: StreamState, run: ReceivedRun, limit: Limit
    ) -> Verdict:
        """Whether a stream goes on, and is the one that the controller above speaks of."""
        if held.applied >= limit.last:
            return Verdict(Outcome.QUARANTINED, limit.reason)
        if limit.chain_hash and run.seal.sequence >= limit.last:
            found = held.chain_hash_at(limit.last)
            if found is not None and found != limit.chain_hash:
                self.bounds.contradict(stream)
                self.knows.contradicted.add(stream)
                self.outdated = self.outdated or held.applied > 0
                return Verdict(Outcome.QUARANTINED, CHAIN_CONTRADICTED)
        return ACCEPTED

    def _decision_on(self, stream: StreamId, held: StreamState, sequence: int) -> Decision | None:
        """What was decided on an event, as far as it is known to be this one; a discard also where it is not yet."""
        for decision in self.bounds.decisions(stream):
            if decision.first <= sequence <= decision.last:
                found = held.chain_hash_at(decision.last)
                if found == decision.chain_hash or (found is None and decision.discards):
                    return decision
        return None

    # What falls.

    def _put_all(self, known: Foreknown) -> None:
        for sealed in known.sealed():
            self._put("stream_sealed", sealed)
        for decision in known.decisions():
            self._put("run_decision", decision)
        for succession in known.successions():
            self._put("key_succession", succession)
        for stream in known.contradicted:
            self.bounds.contradict(stream)

    def _put(self, aspect: str, body: Any) -> None:
        if aspect == "key_succession":
            self._keys.end(body)
        elif aspect == "stream_sealed":
            self.bounds.seal(body)
            self._keys.seal(body.controller, body.domain, body.incarnation)
        else:
            self.bounds.decide(body)

    def _voids(self, controller: str) -> bool:
        """Tells whether something of a controller is in effect that would not come into effect now."""
        return any(
            self._falls(stream, held)
            for stream, held in self._streams.items()
            if stream.origin.controller == controller and held.applied
        )

    def _falls(self, stream: StreamId, held: StreamState) -> bool:
        limit = self.limit(stream)
        if limit is not None and (
            held.applied > limit.last
            or (limit.chain_hash and not held.is_at(limit.last, limit.chain_hash))
        ):
            return True
        if any(
            d.discards and d.first <= held.applied and not held.has_skipped(d.first)
            for d in self.bounds.decisions(stream)
        ):
            return True
        return stream.origin.controller != self._controller and any(
            self._keys.standing(stream, stream.domain, first, last, key_id, self._authority)
            for first, last, key_id in held.key_ranges()
        )
