"""The log of a zone that was cut off. Owns how it is made: real proposals, seals and state, put into the zone's etcd
by the log's own layout; never runs while the zone's controller does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import islice

from benchmarks.workload import Fact, facts
from controller.etcd.access import Access
from controller.etcd.client import Etcd, put
from controller.log.etcd_layout import Layout
from controller.log.etcd_log import EtcdLog
from controller.log.port import Head
from controller.log.stored import encode_commit, encode_head
from controller.signing import Ed25519Signer, Ed25519Verifier
from etcdrpc import etcdrpc_pb2 as pb
from federation.clock import HybridClock
from federation.proposal import Identity, Proposal
from federation.state import State
from souverix.event.v1 import event_pb2

#: Events that are committed one by one before as many come in large commits, and so on.
SECTION_EVENTS = 5_000

#: Events in a large commit, unless the proposal is full before: what group commit gathers at most.
LARGE_COMMIT_EVENTS = 1_000

#: Puts in one etcd transaction (its own limit is 128), and bytes, well below its limit of 1.5 MiB.
PUTS_A_TRANSACTION = 100
TRANSACTION_BYTES = 1024 * 1024


class ZoneLogWriter:
    """Appends facts to a log nobody else writes now."""

    def __init__(self, state: State, head: Head, identity: Identity, signer: Ed25519Signer) -> None:
        self.state = state
        self.head = head
        self.events = 0
        self.event_bytes = 0
        self._identity = identity
        self._signer = signer
        self._clock = HybridClock(state.clock)

    def commits(self, made: Iterator[Fact]) -> Iterator[tuple[int, bytes]]:
        """Commits of the facts, by sections one by one and in large commits: (offset, stored form)."""
        while single := list(islice(made, SECTION_EVENTS)):
            for fact in single:
                yield self._commit([fact])
            large = list(islice(made, SECTION_EVENTS))
            for at in range(0, len(large), LARGE_COMMIT_EVENTS):
                yield self._commit(large[at : at + LARGE_COMMIT_EVENTS])

    def _commit(self, batch: list[Fact]) -> tuple[int, bytes]:
        proposal = Proposal(
            self.state, self._identity, self._clock, self._signer, time.time_ns() // 1_000_000
        )
        for fact in batch:
            write = proposal.write(
                self._identity.domain,
                fact.subject,
                fact.aspect,
                fact.body,
                principal=fact.principal,
                request_id=fact.request_id,
            )
            self.event_bytes += len(write.raw)
        built = proposal.build(os.urandom(16), "r1", 1)
        self.state.apply(built.commit.offset, built.commit, built.prepared)
        stored = encode_commit(self.head.hash, built.data)
        offset = self.head.next_offset
        self.head = self.head.after(built.data)
        self.events += len(batch)
        return offset, stored


async def write_zone_log(
    access: Access,
    prefix: str,
    identity: Identity,
    signer: Ed25519Signer,
    root_key: bytes,
    count: int,
) -> ZoneLogWriter:
    """Appends `count` facts to a zone's log in etcd; its controller must be stopped."""
    log = EtcdLog(access, prefix)
    head = await log.open(os.urandom(16))
    state = State(identity.controller, Ed25519Verifier(), root_key)
    while commits := await log.read(state.next_offset, TRANSACTION_BYTES):
        for offset, data in commits:
            state.apply(offset, event_pb2.Commit.FromString(data))
    await log.close()
    layout = Layout(prefix)
    writer = ZoneLogWriter(state, head, identity, signer)
    async with Etcd(access) as etcd:
        puts: list[pb.RequestOp] = []
        size = 0
        for offset, stored in writer.commits(facts(count)):
            if puts and (len(puts) >= PUTS_A_TRANSACTION or size + len(stored) > TRANSACTION_BYTES):
                await etcd.txn([], puts)
                puts, size = [], 0
            puts.append(put(layout.commit(offset), stored))
            size += len(stored)
        await etcd.txn([], puts)
        await etcd.put(layout.head, encode_head(writer.head))
    return writer
