"""Runs under attack: handed to the core as a session hands over what its peer sent. Owns the genuine ones and the
forgeries; `benchmarks.hostile` mutates and counts.

The core stands where a region's stood, by the log of a real one, when it had nothing yet of what its zone wrote.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from airgap.reader import BundleReader
from benchmarks.cut_off_zone import REGION, ZONE, plans, region_from_before
from benchmarks.hostile_zone import exported, key_of
from benchmarks.mutations import mutated
from benchmarks.resident import resident_mib
from controller.etcd.access import Access
from controller.log.etcd_log import EtcdLog
from controller.signing import Ed25519Signer, Ed25519Verifier
from deploy.local_federation import LocalFederation
from federation.chain import chain_start, extend, seal
from federation.clock import HybridClock
from federation.codec import stream_from_message
from federation.errors import InvalidWrite
from federation.proposal import Identity, Proposal
from federation.receipt import Head, Receipt, judge
from federation.state import State
from souverix.event.v1 import event_pb2

#: Runs of which one field is spoiled: faults in the whole mostly leave no message.
FIELDS_SPOILED = 600

#: Bytes of the log read at once.
READ_BYTES = 1024 * 1024


@contextmanager
def runs(directory: Path) -> Iterator[Runs]:
    """What a region's log holds, and runs of its zone that follow."""
    with LocalFederation(directory / "federation", plans("manual")) as federation:
        genuine = exported(federation)
        with region_from_before(federation):
            commits = asyncio.run(_log_of(federation))
        yield Runs(federation, commits, genuine)


class Runs:
    """Runs that a zone hands to its region in a session."""

    def __init__(self, federation: LocalFederation, commits: list[bytes], genuine: bytes) -> None:
        region, zone = federation.plan(REGION), federation.plan(ZONE)
        self._identity = Identity(region.controller, REGION, 1)
        self._peer = zone.controller
        self._signer = key_of(federation, REGION)
        self._zone_key = key_of(federation, ZONE)
        self._root_key = _root_of(federation)
        self._commits = commits
        self._state = self._replayed()
        self.originals = [run.SerializeToString() for run in self._following(genuine)]

    def crafted(self) -> Iterator[bytes]:
        """Runs under other names, numbers and seals than their events were sealed for."""
        stranger = Ed25519Signer.generate()
        for original in self.originals:
            run = event_pb2.Run.FromString(original)
            for spoil in (_renamed, _other_lane, _renumbered, _without_last, _event_twice):
                wrong = event_pb2.Run()
                wrong.CopyFrom(run)
                spoil(wrong)
                yield wrong.SerializeToString()
                yield _resealed(wrong, stranger, wrong.seal.key_id)
                yield _resealed(wrong, stranger, stranger.key_id)
            yield _resealed(run, stranger, run.seal.key_id)
            own = event_pb2.Run()
            own.CopyFrom(run)
            own.stream.controller = self._identity.controller
            yield _resealed(own, self._zone_key, self._signer.key_id)
            yield _resealed(own, self._zone_key, self._zone_key.key_id)
        chance = random.Random(len(self.originals))
        for number in range(FIELDS_SPOILED):
            run = event_pb2.Run.FromString(self.originals[number % len(self.originals)])
            _spoil_field(chance, run)
            yield run.SerializeToString()
        yield b""

    def is_same(self, data: bytes, original: bytes) -> bool:
        """The stream, the numbers, the events and the seal: unknown fields say nothing."""
        try:
            return _said(event_pb2.Run.FromString(data)) == _said(
                event_pb2.Run.FromString(original)
            )
        except DecodeError:
            return False

    def take(self, data: bytes) -> str:
        """What became of it; ACCEPTED where an event came into effect."""
        try:
            run = event_pb2.Run.FromString(data)
        except DecodeError:
            return "NO_MESSAGE"
        wall_ms = time.time_ns() // 1_000_000
        clock = HybridClock(self._state.clock)
        proposal = Proposal(self._state, self._identity, clock, self._signer, wall_ms)
        try:
            receipt = proposal.receive(self._peer, run)
        except InvalidWrite:
            return "MALFORMED"
        reason = self._why_refused(run) if receipt is Receipt.QUARANTINED else receipt.value
        before = self.state()
        if not proposal.empty:
            built = proposal.build(os.urandom(16), "r1", 1)
            self._state.apply(built.commit.offset, built.commit, built.prepared)
        if self.state() != before:
            return "ACCEPTED"
        if receipt is Receipt.TAKEN:
            # It waits for a key or a record that nobody will send: the next case is to find the stream as it was.
            waits = self._state.streams[stream_from_message(run.stream)].waiting_reason
            self._state = self._replayed()
            return f"HELD_{waits}"
        return reason

    def _why_refused(self, run: event_pb2.Run) -> str:
        state, stream = self._state, stream_from_message(run.stream)
        head = Head(state.received(stream), state.chain_hash(stream))
        return judge(self._peer, self._identity.origin, stream, run, head, state, None).reason

    def is_genuine(self, original: bytes) -> bool:
        """Takes it, and goes back."""
        outcome = self.take(original)
        self._state = self._replayed()
        return outcome == "ACCEPTED"

    def state(self) -> object:
        """What is in effect."""
        state = self._state
        own = self._identity.controller
        return (
            {
                stream: held.applied
                for stream, held in state.streams.items()
                if held.applied and stream.origin.controller != own
            },
            {name: record.SerializeToString() for name, record in state.authority.records.items()},
            sorted(grant.SerializeToString() for grant in state.keys.grants()),
        )

    def resident_mib(self) -> int:
        """Of this process."""
        return resident_mib()

    def _replayed(self) -> State:
        state = State(self._identity.controller, Ed25519Verifier(), self._root_key)
        for data in self._commits:
            commit = event_pb2.Commit.FromString(data)
            state.apply(commit.offset, commit)
        return state

    def _following(self, genuine: bytes) -> Iterator[event_pb2.Run]:
        """The first run of each stream of the zone that the region lacks."""
        seen = set()
        for content in BundleReader(BytesIO(genuine), _Believed()).contents():
            for run in content.runs:
                stream = stream_from_message(run.stream)
                if stream not in seen and run.first_sequence == self._state.received(stream) + 1:
                    yield run
                seen.add(stream)


class _Believed:
    """The file was made here."""

    def signature_is_good(self, *_: Any) -> bool:
        return True


async def _log_of(federation: LocalFederation) -> list[bytes]:
    log = EtcdLog(Access([federation.etcd_endpoint(REGION)]), federation.log_prefix(REGION))
    await log.open(os.urandom(16))
    commits: list[bytes] = []
    while page := await log.read(len(commits), READ_BYTES):
        commits += [data for _, data in page]
    await log.close()
    return commits


def _root_of(federation: LocalFederation) -> bytes:
    lines = federation.config_path(REGION).read_text().splitlines()
    return bytes.fromhex(next(x.split('"')[1] for x in lines if x.startswith("root_public_key")))


def _said(run: event_pb2.Run) -> object:
    return (
        run.stream.domain,
        run.stream.controller,
        run.stream.incarnation,
        run.stream.lane,
        run.first_sequence,
        list(run.events),
        run.seal.sequence,
        run.seal.chain_hash,
        run.seal.key_id,
        run.seal.signature,
    )


def _spoil_field(chance: random.Random, run: event_pb2.Run) -> None:
    events = list(run.events)
    match chance.randrange(5):
        case 0:
            at = chance.randrange(len(events))
            run.events[at] = mutated(chance, events[at], events)
        case 1:
            run.seal.signature = mutated(chance, run.seal.signature, events)
        case 2:
            run.seal.chain_hash = mutated(chance, run.seal.chain_hash, events)
        case 3:
            run.seal.key_id = _spoiled_text(chance, run.seal.key_id)
        case _:
            run.stream.controller = _spoiled_text(chance, run.stream.controller)


def _spoiled_text(chance: random.Random, text: str) -> str:
    data = text.encode()
    return mutated(chance, data, [data]).decode(errors="replace")


def _renamed(run: event_pb2.Run) -> None:
    run.stream.domain = REGION


def _other_lane(run: event_pb2.Run) -> None:
    is_audit = run.stream.lane == event_pb2.LANE_AUDIT
    run.stream.lane = event_pb2.LANE_CONTROL if is_audit else event_pb2.LANE_AUDIT


def _renumbered(run: event_pb2.Run) -> None:
    run.first_sequence += 1
    run.seal.sequence += 1


def _without_last(run: event_pb2.Run) -> None:
    del run.events[-1]
    run.seal.sequence -= 1


def _event_twice(run: event_pb2.Run) -> None:
    run.events.append(run.events[-1])
    run.seal.sequence += 1


def _resealed(run: event_pb2.Run, signer: Ed25519Signer, key_id: str) -> bytes:
    """The run with a chain and a seal that fit its events, under a key id of choice."""
    stream = stream_from_message(run.stream)
    wrong = event_pb2.Run()
    wrong.CopyFrom(run)
    wrong.seal.CopyFrom(
        seal(signer, stream, run.seal.sequence, extend(chain_start(stream), run.events))
    )
    wrong.seal.key_id = key_id
    return wrong.SerializeToString()
