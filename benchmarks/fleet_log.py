"""The log of a controller that knows a large fleet. Owns how it is made: real proposals, seals and commits, appended
through the log's own port; never runs while the controller does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from benchmarks.fleet import NodeFacts, policies, region_of
from controller.log.port import Head, Log, MastershipLease
from controller.log.sqlite_log import SqliteLog
from controller.signing import Ed25519Signer, Ed25519Verifier
from federation.clock import HybridClock
from federation.domains import DomainDeclaration, declare_domain
from federation.errors import CorruptStore
from federation.proposal import Identity, Proposal
from federation.state import State
from federation.table import Aspects
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2

#: Nodes in one commit: some 1,100 events, below what a proposal takes.
NODES_A_COMMIT = 150

READ_BYTES = 4 * 1024 * 1024

_OPERATOR = "user:operator"


class _Forgotten:
    """Each node is written once: what was committed of it is not looked at again."""

    def load(self, domain: str, subject: str) -> Aspects:
        raise CorruptStore(f"{subject} of {domain} is written twice")

    glance = load


class FleetLogWriter:
    """Appends a fleet to the log of a stopped controller. Use `opened`."""

    def __init__(self, state: State, identity: Identity, signer: Ed25519Signer, log: Log) -> None:
        self.events = 0
        self._state = state
        self._identity = identity
        self._signer = signer
        self._log = log
        self._clock = HybridClock(state.clock)
        self._head: Head | None = None
        self._lease: MastershipLease | None = None
        state.table.attach(_Forgotten())

    async def take(self) -> None:
        """Reads the log, and takes the mastership."""
        self._head = await self._log.open(os.urandom(16))
        while commits := await self._log.read(self._state.next_offset, READ_BYTES):
            for offset, data in commits:
                self._state.apply(offset, event_pb2.Commit.FromString(data))
        self._lease = await self._log.campaign("fleet-log", 10.0)

    async def declare(self, domain: str, parent: str) -> None:
        """Declares a domain below another, without a controller of its own."""
        proposal = self._proposal()
        declaration = DomainDeclaration(
            domain,
            domain_pb2.DomainSpec(parent=parent),
            self._identity.controller,
            authority_pb2.AUTHORITY_LEVEL_LOCAL,
        )
        declare_domain(
            lambda d, s, a, body: proposal.write(d, s, a, body, principal=_OPERATOR),
            declaration,
            self._state.authority.term_of(parent),
            proposal.wall_ms,
        )
        await self._append(proposal)

    async def declare_policies(self) -> None:
        """Declares the fleet's policies in the controller's domain."""
        proposal = self._proposal()
        domain = self._identity.domain
        for policy, spec in policies():
            there = domain_pb2.Existence(exists=True)
            subject = f"policies/{policy}"
            proposal.write(domain, subject, "existence", there, principal=_OPERATOR)
            proposal.write(domain, subject, "policy", spec, principal=_OPERATOR)
        await self._append(proposal)

    async def write(self, nodes: Sequence[NodeFacts]) -> None:
        """Appends all of these nodes in one commit."""
        proposal = self._proposal()
        for node, zone, bodies in nodes:
            reporter = f"node:{node}"
            for aspect, body in bodies.items():
                principal = reporter if aspect == "actual_state" else _OPERATOR
                proposal.write(zone, f"nodes/{node}", aspect, body, principal=principal)
        await self._append(proposal)
        for node, zone, bodies in nodes:
            self._state.table.cool(zone, f"nodes/{node}")
            self.events += len(bodies)

    async def close(self) -> None:
        """Lets go of the log."""
        if self._lease is not None:
            await self._lease.release()
        await self._log.close()

    def _proposal(self) -> Proposal:
        wall_ms = time.time_ns() // 1_000_000
        return Proposal(self._state, self._identity, self._clock, self._signer, wall_ms)

    async def _append(self, proposal: Proposal) -> None:
        assert self._lease is not None
        assert self._head is not None
        built = proposal.build(os.urandom(16), "r1", self._lease.mastership.token)
        self._head = await self._log.append(self._lease.mastership, self._head, built.data)
        self._state.apply(built.commit.offset, built.commit, built.prepared)


async def write_fleet_log(
    path: Path,
    identity: Identity,
    signer: Ed25519Signer,
    root_key: bytes,
    nodes: Iterator[NodeFacts],
) -> int:
    """Appends a fleet to the SQLite log at `path`; returns the number of events."""
    state = State(identity.controller, Ed25519Verifier(), root_key)
    writer = FleetLogWriter(state, identity, signer, SqliteLog(path, "fleet-log"))
    await writer.take()
    try:
        await writer.declare_policies()
        declared = set[str]()
        while batch := list(islice(nodes, NODES_A_COMMIT)):
            for zone in dict.fromkeys(each.zone for each in batch):
                region = region_of(zone)
                for domain, parent in ((region, identity.domain), (zone, region)):
                    if domain not in declared:
                        declared.add(domain)
                        await writer.declare(domain, parent)
            await writer.write(batch)
    finally:
        await writer.close()
    return writer.events
