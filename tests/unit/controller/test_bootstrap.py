"""What a controller writes by itself at its start: once, and no more after a restart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from controller.signing import Ed25519Signer
from federation.identifiers import Key, Lane
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2
from tests.unit.controller.sync.tree import Place, tree_in, until


def records(place: Place, action: str) -> list[Any]:
    every = [item.write.body() for item in place.replica.state.audits]
    return [record for record in every if record.action == action]


async def test_the_genesis_and_the_childrens_domains_are_written_once(tmp_path: Path) -> None:
    async with tree_in(tmp_path) as tree:
        top = tree.add("global")
        tree.add("zone", "global")
        await top.start()
        state = top.replica.state
        await until(lambda: "zone" in state.authority.records, "the child's domain")
        assert state.authority.path_of("global") == ("global",)
        record = state.authority.records["zone"]
        assert (record.parent, record.master_of_record) == ("global", "zone-control")
        assert record.level == authority_pb2.AUTHORITY_LEVEL_LOCAL
        assert record.autonomy.can_operate_isolated
        assert len(records(top, "domain.declared")) == 1
        control = {s: h.received for s, h in state.streams.items() if s.lane is Lane.CONTROL}

        await top.stop()
        await top.start()
        await top.write("global", "p")
        state = top.replica.state
        again = {s: h.received for s, h in state.streams.items() if s.lane is Lane.CONTROL}
        [written] = [s for s in again if s.domain == "global"]
        # A new policy is two facts: that it exists, and what it says.
        assert again == {**control, written: control[written] + 2}
        assert not records(top, "superseded.write")
        assert len(records(top, "domain.declared")) == 1


async def test_a_childs_new_key_is_granted_and_audited(tmp_path: Path) -> None:
    async with tree_in(tmp_path) as tree:
        top = tree.add("global")
        tree.add("zone", "global")
        await top.start()
        await until(lambda: "zone" in top.replica.state.authority.records, "the child's domain")
        await top.stop()

        fresh = Ed25519Signer.generate()
        [child] = top.config.children
        child = dataclasses.replace(child, public_key=fresh.public_key.hex())
        top.config = dataclasses.replace(top.config, children=(child,))
        await top.start()
        keys = top.replica.state.keys
        await until(lambda: keys.knows("zone-control", fresh.key_id), "the new key")
        [granted] = records(top, "key.granted")
        assert granted.details["key_id"] == fresh.key_id
        assert granted.source == "configuration"


async def test_a_child_is_declared_as_it_is_configured(tmp_path: Path) -> None:
    async with tree_in(tmp_path) as tree:
        top = tree.add("global")
        tree.add("zone", "global", master="global-control")
        [child] = top.config.children
        child = dataclasses.replace(
            child,
            kind="air-gap-island",
            level="autonomous",
            display_name="The island",
            sync=dataclasses.replace(child.sync, mode="periodic", frequency_s=1.5, batch_size=50),
        )
        top.config = dataclasses.replace(top.config, children=(child,))
        await top.start()
        state = top.replica.state
        await until(lambda: "zone" in state.authority.records, "the child's domain")
        record = state.authority.records["zone"]
        assert record.master_of_record == "global-control"
        assert record.level == authority_pb2.AUTHORITY_LEVEL_AUTONOMOUS
        assert record.sync.mode == authority_pb2.SYNC_MODE_PERIODIC
        assert record.sync.frequency.ToMilliseconds() == 1500
        assert record.sync.batch_size == 50
        spec = state.winner(Key("zone", "domains/zone", "domain_spec"))
        assert spec is not None
        assert spec.body().kind == domain_pb2.DOMAIN_KIND_AIR_GAP_ISLAND
        assert spec.body().display_name == "The island"
