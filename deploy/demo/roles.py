"""Step: who may do what. Owns that step, and how people of the story get their roles."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from deploy.demo.client import Client
from deploy.demo.questions import node_at, refusals_at
from deploy.demo.stage import (
    GLOBAL,
    NODES,
    REAL_NODE,
    SIMULATED,
    ZONE_A1,
    Seen,
    Stage,
    StepFailed,
    administrator,
    expect,
    new_request_id,
)
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import fleet_service_pb2, node_pb2
from souverix.trust.v1 import access_service_pb2, role_binding_pb2
from souverixctl.errors import Refused

#: Somebody of zone a1 who looks on.
WATCHER = "user:night-watch"

#: Nodes of its zone: the simulated ones and this host.
OF_ZONE = SIMULATED[ZONE_A1] + 1

VIEWER = role_binding_pb2.ROLE_VIEWER
DOMAIN_ADMIN = role_binding_pb2.ROLE_DOMAIN_ADMIN

DENIED = "ACCESS_DENIED"


async def give_role(
    client: Client, domain: str, role: role_binding_pb2.Role, members: Sequence[str], reason: str
) -> str:
    """Gives a role over a domain and all below it; the binding as it is named. Raises `Refused`."""
    reply = await client.call(
        access_service_pb2.CreateRoleBindingRequest(
            domain=domain,
            binding_id=new_request_id("role"),
            spec=role_binding_pb2.RoleBindingSpec(role=role, members=members, reason=reason),
            request_id=new_request_id("role"),
        ),
        access_service_pb2.CreateRoleBindingResponse,
    )
    return reply.binding.name


async def appoint(stage: Stage, domain: str) -> None:
    """Gives a domain's administrator its role, by the federation's own. Raises `Refused`."""
    chief = stage.client(domain, of=GLOBAL)
    await give_role(chief, domain, DOMAIN_ADMIN, [administrator(domain)], "administers the domain")


async def hold_to_roles(stage: Stage) -> str:
    """Somebody without a role, then a viewer, asks and writes; the denial is in the audit at global."""
    at_zone = stage.client(ZONE_A1, WATCHER)
    await _denial_of(_nodes(at_zone))
    rows = [("no role", ZONE_A1, "get nodes", "denied")]
    await give_role(stage.client(ZONE_A1), ZONE_A1, VIEWER, [WATCHER], "night shift")
    stage.display.happened(f"{administrator(ZONE_A1)} gave {WATCHER} the role viewer")

    seen = await _nodes(at_zone)
    expect(seen == OF_ZONE, f"the viewer sees {seen} nodes at {ZONE_A1}, not {OF_ZONE}")
    rows.append(("viewer", ZONE_A1, "get nodes", f"{seen} nodes"))
    at_global = stage.client(GLOBAL, WATCHER, of=ZONE_A1)
    seen, _ = await stage.until(f"the role at {GLOBAL}", lambda: _narrowed(at_global))
    expect(seen == OF_ZONE, f"the viewer sees {seen} nodes at {GLOBAL}, not {OF_ZONE}")
    rows.append(("viewer", GLOBAL, "get nodes", f"{seen} nodes of {NODES}: those of its zone"))

    before = (await node_at(at_zone, REAL_NODE)).etag
    denial = await _denial_of(_write(at_zone))
    rows.append(("viewer", ZONE_A1, "set desired-state", "denied"))
    stage.display.table((WATCHER, "AT", "ASKS FOR", "ANSWER"), rows)
    stage.display.say(f"{denial.code.name}: {denial.message}", style="yellow")
    after = (await node_at(at_zone, REAL_NODE)).etag
    expect(before == after, f"{REAL_NODE} has changed, though the write was denied")
    await _show_audit(stage)
    return "a viewer reads its zone, its write is denied and audited"


async def _denial_of(call: Awaitable[object]) -> Refused:
    try:
        await call
    except Refused as error:
        expect(error.reason == DENIED, f"refused for {error.reason}, not {DENIED}")
        return error
    raise StepFailed(f"{WATCHER} was let in without the role for it")


async def _nodes(client: Client) -> int:
    reply = await client.call(
        fleet_service_pb2.ListNodesRequest(page_size=1000), fleet_service_pb2.ListNodesResponse
    )
    return len(reply.nodes)


async def _narrowed(client: Client) -> Seen[int]:
    """Raises `Refused` until the role has arrived."""
    nodes = await _nodes(client)
    return Seen(f"{nodes} nodes", nodes)


async def _write(client: Client) -> None:
    await client.call(
        fleet_service_pb2.SetDesiredStateRequest(
            name=f"nodes/{REAL_NODE}",
            desired_state=node_pb2.DesiredState(target_version="6.6.6"),
            request_id=new_request_id("desired"),
        ),
        fleet_service_pb2.SetDesiredStateResponse,
    )


async def _show_audit(stage: Stage) -> None:
    top = stage.client(GLOBAL)

    async def arrived() -> Seen[list[audit_pb2.AuditRecord]]:
        found = [r for r in await refusals_at(top, ZONE_A1) if r.principal == WATCHER]
        return Seen(f"{len(found)} denials known at {GLOBAL}", found if len(found) == 2 else None)

    records, took_s = await stage.until(f"the denials in the audit at {GLOBAL}", arrived)
    stage.display.happened(f"both denials are in the audit, known at {GLOBAL}", took_s)
    rows = [
        (record.action.rpartition("/")[2], record.principal, record.reason)
        for record in reversed(records)
    ]
    stage.display.table(("DENIED", "WHO", "REASON"), rows)
