"""Large values that travel beside the events that name them. Owns which chunks are asked of which peer, and which peer
still waits for one; never decides whether an event is taken.

A chunk is asked for when an event that names it arrives, and again when a session begins, for what the present
inventories name. Until it is here the event's acknowledgement waits (`federation.withheld`). A parent may ask before a
child has brought a chunk here; it is answered when it comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError

from controller.replica import Replica
from controller.sync.driver import SessionDriver
from controller.twin.marks import NAMES_VALUES, may_be
from controller.values import DIGEST_PATTERN, ValueStore, ValueStoreError
from federation.codec import stream_from_message
from federation.errors import InvalidWrite
from federation.identifiers import Key, Lane, StreamId
from federation.scan import Scan
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import observation_pb2
from souverix.sync.v1 import sync_pb2

_log = logging.getLogger(__name__)

#: Chunks one peer is asked for at a time: 16 MiB at most wait in its memory to be sent.
ASKED_AT_ONCE = 64

#: Chunks to be asked of one peer later; more than its store holds would come from a broken peer only.
MAX_TO_ASK = 65_536

#: Chunks that parents wait for: as many as children can be asked for.
MAX_OWED = 65_536

#: Nodes whose inventories are compared with the store at a time, so that other work goes on in between.
NODES_COMPARED_AT_ONCE = 500


@dataclass(slots=True)
class _Asked:
    """What one session's peer is asked for; dictionaries for their order."""

    under_way: set[str] = field(default_factory=set)
    to_ask: dict[str, None] = field(default_factory=dict)
    #: Whatever may come from this peer: looked up, to be asked, or under way.
    expected: set[str] = field(default_factory=set)
    #: True once all that was received before the session was looked up.
    compared: bool = False


class LargeValues:
    """The exchange of chunks over all sessions of one replica."""

    def __init__(self, replica: Replica, values: ValueStore) -> None:
        self._replica = replica
        self._values = values
        self._asked: dict[SessionDriver, _Asked] = {}
        self._owed: dict[str, set[SessionDriver]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def live(self, driver: SessionDriver, *, of_child: bool) -> None:
        """A session exchanges events: whatever was received before and lacks its values is asked for."""
        self._asked[driver] = _Asked()
        self._spawn(self._compare(driver, of_child=of_child))

    def ended(self, driver: SessionDriver) -> None:
        """A session is over. What its peer was to bring is asked for in the next one."""
        self._asked.pop(driver, None)
        for digest in list(self._owed):
            self._settle(driver, digest)

    def arriving(self, driver: SessionDriver, runs: Iterable[event_pb2.Run]) -> None:
        """Runs are about to be committed: what they name is withheld until it is known to be here."""
        named: dict[tuple[StreamId, int], list[str]] = {}
        for run in runs:
            if run.stream.lane == int(Lane.TELEMETRY):
                named.update(named_by(run))
        asked = self._asked.get(driver)
        if not named or asked is None:
            return
        for (stream, sequence), digests in named.items():
            driver.session.hold(stream, sequence, digests)
            asked.expected.update(digests)
        self._spawn(self._look_up(driver, asked, [d for each in named.values() for d in each]))

    def take_want(
        self, driver: SessionDriver, want: sync_pb2.WantChunks, *, of_child: bool
    ) -> None:
        """The peer asks for chunks."""
        self._spawn(self._answer(driver, list(want.digests[:ASKED_AT_ONCE]), of_child=of_child))

    def take_chunk(self, driver: SessionDriver, chunk: sync_pb2.Chunk) -> None:
        """A chunk came, or the word that the peer lost it."""
        asked = self._asked.get(driver)
        if asked is not None and chunk.digest in asked.under_way:
            self._spawn(self._keep(driver, asked, chunk))

    async def _compare(self, driver: SessionDriver, *, of_child: bool) -> None:
        state, asked = self._replica.state, self._asked[driver]
        domains = state.authority.subtree_of(driver.session.peer_domain) if of_child else ()
        for domain in domains:
            subjects = list(state.subjects_of(domain, "nodes"))
            for at in range(0, len(subjects), NODES_COMPARED_AT_ONCE):
                named = {}
                scan = Scan(state)
                for subject in subjects[at : at + NODES_COMPARED_AT_ONCE]:
                    if not may_be(state, domain, subject, NAMES_VALUES):
                        continue
                    for write in scan.siblings(Key(domain, subject, "inventory")):
                        stream = StreamId(domain, write.origin, Lane.TELEMETRY)
                        named[stream, write.sequence] = digests_of(write.body())
                missing = await self._values.missing(d for each in named.values() for d in each)
                lacking = set(missing)
                for (stream, sequence), digests in named.items():
                    driver.session.hold(stream, sequence, [d for d in digests if d in lacking])
                asked.expected.update(missing)
                self._ask(driver, asked, missing)
        asked.compared = True
        driver.values_compared()
        for digest in [d for d in self._owed if not self._may_still_come(d)]:
            self._pay(sync_pb2.Chunk(digest=digest, missing=True))

    async def _look_up(self, driver: SessionDriver, asked: _Asked, digests: Sequence[str]) -> None:
        missing = await self._values.missing(digests)
        for digest in set(digests).difference(missing):
            asked.expected.discard(digest)
            driver.value_settled(digest)
        self._ask(driver, asked, missing)

    def _ask(self, driver: SessionDriver, asked: _Asked, digests: Iterable[str] = ()) -> None:
        """Asks for these too, as far as the bound on what is under way allows."""
        for digest in digests:
            if digest not in asked.under_way and len(asked.to_ask) < MAX_TO_ASK:
                asked.to_ask[digest] = None
        fresh = list(islice(asked.to_ask, ASKED_AT_ONCE - len(asked.under_way)))
        for digest in fresh:
            del asked.to_ask[digest]
        asked.under_way.update(fresh)
        if fresh and driver in self._asked:
            driver.send(sync_pb2.Frame(want_chunks=sync_pb2.WantChunks(digests=fresh)))

    async def _keep(self, driver: SessionDriver, asked: _Asked, chunk: sync_pb2.Chunk) -> None:
        digest = chunk.digest
        stored = await self._store(driver, chunk)
        asked.under_way.discard(digest)
        self._ask(driver, asked)
        if not stored and not chunk.missing:
            return
        asked.expected.discard(digest)
        for waiting in list(self._asked):
            waiting.value_settled(digest)
        if stored or not self._may_still_come(digest):
            self._pay(chunk)

    async def _store(self, driver: SessionDriver, chunk: sync_pb2.Chunk) -> bool:
        """Keeps a chunk. One that cannot be kept is not settled: what names it stays unacknowledged."""
        facts = {"digest": chunk.digest, "peer": driver.session.peer}
        if chunk.missing:
            _log.warning("a peer has lost a large value", extra=facts)
            return False
        try:
            await self._values.put(chunk.digest, chunk.data)
        except (ValueStoreError, OSError) as error:
            _log.warning("a chunk was not stored", extra={**facts, "error": str(error)})
            return False
        return True

    async def _answer(
        self, driver: SessionDriver, digests: Sequence[str], *, of_child: bool
    ) -> None:
        for digest in digests:
            # Before the look into the store: a chunk that comes meanwhile is sent as one that was waited for.
            waits = not of_child and self._owe(driver, digest)
            try:
                chunk = sync_pb2.Chunk(digest=digest, data=await self._values.get(digest))
            except (ValueStoreError, OSError):
                if waits:
                    continue
                chunk = sync_pb2.Chunk(digest=digest, missing=True)
            if not waits or self._settle(driver, digest):
                driver.send(sync_pb2.Frame(chunk=chunk))

    def _owe(self, driver: SessionDriver, digest: str) -> bool:
        """Takes note that a parent waits for a chunk; False where it will not come, or is not to be waited for."""
        room = digest in self._owed or len(self._owed) < MAX_OWED
        if driver not in self._asked or not room or not self._may_still_come(digest):
            return False
        self._owed.setdefault(digest, set()).add(driver)
        return True

    def _settle(self, driver: SessionDriver, digest: str) -> bool:
        """Drops the note; False where it is gone already."""
        waiting = self._owed.get(digest, set())
        if driver not in waiting:
            return False
        waiting.discard(driver)
        if not waiting:
            del self._owed[digest]
        return True

    def _pay(self, chunk: sync_pb2.Chunk) -> None:
        for waiting in self._owed.pop(chunk.digest, ()):
            waiting.send(sync_pb2.Frame(chunk=chunk))

    def _may_still_come(self, digest: str) -> bool:
        """Tells whether a child is asked for a chunk, or might be once it is back."""
        if any(digest in asked.expected for asked in self._asked.values()):
            return True
        compared = {driver.session.peer for driver, asked in self._asked.items() if asked.compared}
        return any(child.controller not in compared for child in self._replica.config.children)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def named_by(run: event_pb2.Run) -> dict[tuple[StreamId, int], list[str]]:
    """Chunks that the events of a run name. What is malformed names none: acceptance deals with it."""
    named = {}
    try:
        stream = stream_from_message(run.stream)
        for sequence, raw in enumerate(run.events, run.first_sequence):
            event = event_pb2.Event.FromString(raw)
            if event.HasField("inventory") and event.inventory.large_values:
                named[stream, sequence] = digests_of(event.inventory)
    except (DecodeError, InvalidWrite):
        return {}
    return named


def digests_of(inventory: observation_pb2.Inventory) -> list[str]:
    """Digests of the chunks an inventory names; a value of one chunk is that chunk. What is no digest names none."""
    digests = []
    for value in inventory.large_values:
        digests += [chunk.digest for chunk in value.chunks] or [value.digest]
    return [digest for digest in digests if DIGEST_PATTERN.fullmatch(digest)]
