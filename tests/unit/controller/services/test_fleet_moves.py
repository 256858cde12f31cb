from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from controller.signing import Ed25519Signer, Ed25519Verifier
from federation.domains import DomainDeclaration, declare_domain
from federation.identifiers import Key
from federation.placement import move_node
from federation.state import State
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2, node_pb2
from tests.federation_fixture import ROOT, MemoryController
from tests.unit.controller.services.served import Served, hand_over, root_served

DEADLINE_S = 20.0
NODE = "nodes/n1"


async def declare_zone(root: Served) -> MemoryController:
    """A zone below the root, its controller in memory."""
    zone = MemoryController("edge-a1-control", "edge-a1", Ed25519Signer.generate())
    zone.state = State(zone.name, Ed25519Verifier(), root.root_key)
    declaration = DomainDeclaration(
        domain="edge-a1",
        spec=domain_pb2.DomainSpec(parent=ROOT),
        master_of_record=zone.name,
        level=authority_pb2.AUTHORITY_LEVEL_LOCAL,
        controller=zone.name,
        public_key=zone.signer.public_key,
    )
    await root.replica.journal().submit(
        lambda p: declare_domain(
            partial(p.write, principal="user:test"),
            declaration,
            p.state.authority.term_of(ROOT),
            p.wall_ms,
        )
    )
    for commit in await root.replica.read_commits(0, 1 << 20):
        for run in commit.runs:
            zone.receive("global-control", run)
    return zone


async def test_late_write_of_a_cut_off_zone_is_carried_over_once_and_audited(
    tmp_path: Path,
) -> None:
    async with root_served(tmp_path / "root") as root:
        zone = await declare_zone(root)
        zone.submit(
            lambda p: [
                p.write("edge-a1", NODE, aspect, body, principal="user:alice")
                for aspect, body in (
                    ("existence", domain_pb2.Existence(exists=True)),
                    ("placement", node_pb2.Placement(domain="edge-a1", epoch=1)),
                    ("node_spec", node_pb2.NodeSpec(region="north")),
                )
            ]
        )
        await hand_over(zone, root)
        await root.replica.journal().submit(
            lambda p: move_node(p, NODE, "edge-a1", ROOT, principal="user:alice")
        )
        zone.submit(
            lambda p: p.write(
                "edge-a1", NODE, "node_spec", node_pb2.NodeSpec(region="late"), principal="user:bob"
            )
        )

        with root.replica.changes.subscribe() as changes:
            await hand_over(zone, root)
            async with asyncio.timeout(DEADLINE_S):
                async for applied in changes.commits():
                    if any(key == Key(ROOT, NODE, "node_spec") for key in applied.keys):
                        break

        [carried] = root.replica.state.siblings(Key(ROOT, NODE, "node_spec"))
        assert carried.body().region == "late"
        assert carried.principal == "user:bob"
        actions = [item.write.body().action for item in root.replica.state.audits]
        assert actions.count("node.late_writes_carried") == 1
