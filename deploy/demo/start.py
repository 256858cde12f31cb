"""Step: everything starts, the tree becomes level, and every node is seen at global. Owns that step only."""

from __future__ import annotations

import asyncio

from deploy.demo.questions import peers_of, status_of, topology_of
from deploy.demo.roles import appoint
from deploy.demo.stage import (
    GLOBAL,
    ISLAND,
    LINKED,
    NODES,
    POLL_S,
    REAL_NODE,
    SIMULATED,
    TREE,
    ZONE_A1,
    ZONE_B1,
    Seen,
    Stage,
    administrator,
)
from deploy.demo.syncing import sync_now
from souverix.federation.v1 import authority_pb2, federation_service_pb2


async def start(stage: Stage) -> str:
    """Starts the processes and waits until all is seen at global."""
    federation = stage.federation
    federation.start_processes()
    stage.remember_processes()
    replicas = sum(plan.replicas for plan in TREE)
    etcds = sum(plan.log == "etcd" for plan in TREE)
    stage.display.say(f"{etcds} etcds, {replicas} controller replicas started")
    _, took_s = await stage.until("controllers serve", lambda: _masters(stage))
    stage.display.happened(f"{len(TREE)} controllers serve, each with a master", took_s)
    _, took_s = await stage.until("the tree is level", lambda: _level(stage))
    stage.display.happened(
        f"every link is level, every domain has its place; {ISLAND} has no link", took_s
    )
    for plan in LINKED:
        await appoint(stage, plan.domain)
    stage.display.happened(f"{administrator(GLOBAL)} gave each domain its administrator")

    federation.start_agent(ZONE_A1, REAL_NODE, "--display-name", "the host of this demonstration")
    for seed, (zone, count) in enumerate(SIMULATED.items()):
        federation.start_simulated_agents(zone, count, seed)
    stage.remember_processes()
    stage.display.say(f"agents started: this host in {ZONE_A1}, {NODES - 1} simulated ones")
    syncing = asyncio.create_task(_sync_when_enrolled(stage, ZONE_B1))
    try:
        _, took_s = await stage.until("nodes visible at global", lambda: _visible(stage, syncing))
    finally:
        syncing.cancel()
        await asyncio.gather(syncing, return_exceptions=True)
    stage.display.happened(f"{NODES} of {NODES} nodes visible at global", took_s)
    await _show_tree(stage)
    return f"{len(LINKED)} links level, {NODES} nodes visible at global"


async def _masters(stage: Stage) -> Seen[bool]:
    found = 0
    for plan in TREE:
        # Roles are given later: until then the controllers' own administrators ask.
        of = ISLAND if plan.air_gapped else GLOBAL
        answers = await asyncio.gather(
            *(status_of(stage.replica(plan.domain, n + 1, of=of)) for n in range(plan.replicas)),
            return_exceptions=True,
        )
        statuses = [a for a in answers if isinstance(a, federation_service_pb2.GetStatusResponse)]
        complete = len(statuses) == plan.replicas
        found += complete and any(status.master for status in statuses)
    done = True if found == len(TREE) else None
    return Seen(f"masters elected {found}/{len(TREE)}", done, found / len(TREE))


async def _level(stage: Stage) -> Seen[bool]:
    """Continuous links must be live; the parent of an opportunistic child must have heard of it."""
    known = {domain.domain for domain in await topology_of(stage.client(GLOBAL))}
    waiting = []
    for plan in LINKED:
        peer = (await peers_of(stage.client(plan.parent, of=GLOBAL))).get(plan.controller)
        if peer is None or plan.domain not in known:
            level = False
        elif plan.sync_mode == "continuous":
            level = peer.state == federation_service_pb2.PEER_STATE_LIVE
        else:
            level = peer.HasField("last_seen_time")
        if not level:
            waiting.append(plan.domain)
    links = len(LINKED)
    seen = f"links level {links - len(waiting)}/{links}"
    if waiting:
        seen += f", waiting for {', '.join(waiting)}"
    return Seen(seen, None if waiting else True, 1 - len(waiting) / links)


async def _sync_when_enrolled(stage: Stage, zone: str) -> None:
    """A zone that opens a session now and then only is asked for one when its nodes are there."""
    client = stage.client(zone)
    while True:
        counts = {d.domain: d.node_count for d in await topology_of(client)}
        if counts.get(zone) == SIMULATED[zone]:
            break
        await asyncio.sleep(POLL_S)
    await sync_now(stage, zone)


async def _visible(stage: Stage, syncing: asyncio.Task[None]) -> Seen[bool]:
    if syncing.done():
        syncing.result()
    counts = {d.domain: d.node_count for d in await topology_of(stage.client(GLOBAL))}
    total = sum(counts.values())
    parts = ", ".join(f"{zone} {counts.get(zone, 0)}" for zone in SIMULATED)
    seen = f"nodes visible at global {total}/{NODES} ({parts})"
    return Seen(seen, True if total == NODES else None, total / NODES)


async def _show_tree(stage: Stage) -> None:
    rows = []
    depth: dict[str, int] = {}
    for domain in await topology_of(stage.client(GLOBAL)):
        depth[domain.domain] = depth.get(domain.parent, -1) + 1
        level = authority_pb2.AuthorityLevel.Name(domain.authority.level)
        mode = authority_pb2.SyncMode.Name(domain.authority.sync.mode)
        rows.append(
            (
                "  " * depth[domain.domain] + domain.domain,
                level.removeprefix("AUTHORITY_LEVEL_").lower(),
                domain.authority.master_of_record,
                mode.removeprefix("SYNC_MODE_").lower() if domain.parent else "-",
                str(domain.node_count),
            )
        )
    stage.display.table(("DOMAIN", "LEVEL", "MASTER-OF-RECORD", "SYNC", "NODES"), rows)
