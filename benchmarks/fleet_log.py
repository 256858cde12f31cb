"""The log of a controller that knows a large fleet. Owns how it is made: real proposals, seals and commits, appended
through the log's own port; never runs while the controller does.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.workload import actual_state, declared_state
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
from souverix.fleet.v1 import connectivity_pb2, domain_pb2, lifecycle_pb2, node_pb2

NODES_A_ZONE = 1_000

#: Different reports and declarations: a fleet's nodes run some hundred releases and configurations, not a million.
VARIANTS = 2_000

#: Nodes in one commit: some 1,100 events, below what a proposal takes.
NODES_A_COMMIT = 150

READ_BYTES = 4 * 1024 * 1024

_OPERATOR = "user:operator"


class NodeFacts(NamedTuple):
    """What is written of one node, by aspect."""

    node: str
    zone: str
    bodies: dict[str, Any]


def fleet(count: int, seed: int = 1) -> Iterator[NodeFacts]:
    """So many nodes in zones of `NODES_A_ZONE`, the same for the same seed. All are away: none is waited for."""
    chance = random.Random(seed)
    reports = [actual_state(chance, number) for number in range(VARIANTS)]
    declarations = [declared_state(chance) for _ in range(VARIANTS)]
    since = {"seconds": 1_700_000_000}
    for number in range(count):
        zone = f"zone-{number // NODES_A_ZONE:04}"
        node = f"{zone}-n{number % NODES_A_ZONE:04}"
        spec = node_pb2.NodeSpec(
            display_name=f"Access edge {number}",
            kind=node_pb2.NODE_KIND_EDGE,
            tags=["access", f"rack-{number % 40}", f"site-{number % 700}"],
        )
        bodies = {
            "placement": node_pb2.Placement(domain=zone, epoch=1),
            "existence": domain_pb2.Existence(exists=True, time=since),
            "node_spec": spec,
            "desired_state": chance.choice(declarations),
            "actual_state": chance.choice(reports),
            "lifecycle": lifecycle_pb2.LifecycleState(
                phase=lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE, last_transition_time=since
            ),
            "link_state": connectivity_pb2.LinkState(
                mode=connectivity_pb2.CONNECTIVITY_MODE_DISCONNECTED,
                previous_mode=connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS,
                reason="silent_too_long",
                evidence="nothing heard for 86400 s, limit 86400 s",
                since=since,
            ),
        }
        yield NodeFacts(node, zone, bodies)


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

    async def declare(self, zone: str) -> None:
        """Declares a zone below the controller's domain, without a controller of its own."""
        parent = self._identity.domain
        proposal = self._proposal()
        declaration = DomainDeclaration(
            zone,
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
        zone = ""
        while batch := list(islice(nodes, NODES_A_COMMIT)):
            for each in batch:
                if each.zone != zone:
                    zone = each.zone
                    await writer.declare(zone)
            await writer.write(batch)
    finally:
        await writer.close()
    return writer.events
