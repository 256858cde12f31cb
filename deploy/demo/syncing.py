"""Step: a zone that syncs now and then only is asked to sync. Owns that step, and the asking."""

from __future__ import annotations

import time

from deploy.demo.display import duration
from deploy.demo.questions import peers_of, policy_at
from deploy.demo.stage import (
    GLOBAL,
    WAIT_S,
    ZONE_B1,
    Seen,
    Stage,
    StepFailed,
    expect,
    new_request_id,
)
from souverix.federation.v1 import federation_service_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from souverixctl.errors import Refused

#: The controller ends the wait first, and says how far it got.
CALL_MARGIN_S = 5.0


async def sync_now(stage: Stage, zone: str) -> float:
    """Has a zone sync with its parent; the seconds until both sides are level. Raises `StepFailed`, `Refused`."""
    request = federation_service_pb2.SyncNowRequest()
    request.timeout.FromSeconds(int(WAIT_S))
    began_s = time.monotonic()
    level = False
    async for step in stage.client(zone).stream(
        request, federation_service_pb2.SyncNowResponse, WAIT_S + CALL_MARGIN_S
    ):
        level = step.level
    took_s = time.monotonic() - began_s
    expect(level, f"{zone} is not level with its parent after {duration(took_s)}")
    return took_s


async def sync_opportunistically(stage: Stage) -> str:
    """A write at zone b1 is not known above, until the zone is asked to sync."""
    zone, above = stage.client(ZONE_B1), stage.client(GLOBAL)
    name = f"domains/{ZONE_B1}/policies/night-shift"
    await zone.call(
        policy_service_pb2.CreatePolicyRequest(
            domain=ZONE_B1,
            policy_id="night-shift",
            spec=policy_pb2.PolicySpec(
                display_name="Update at night", target_version="2.4.1", version="1"
            ),
            request_id=new_request_id("night-shift"),
        ),
        policy_service_pb2.CreatePolicyResponse,
    )
    stage.display.happened(f"{ZONE_B1} wrote its policy night-shift, link closed")
    peers = await peers_of(zone)
    state = peers[stage.federation.plan("region-b").controller].state
    expect(
        state == federation_service_pb2.PEER_STATE_DISCONNECTED,
        f"{ZONE_B1} is opportunistic and level; its link should be closed",
    )
    try:
        await policy_at(above, name)
    except Refused as error:
        stage.display.happened(f"global does not know it yet: {error.code.name}")
    else:
        raise StepFailed(f"{name} is known at global though {ZONE_B1} has not synced")
    with stage.display.waiting(f"{ZONE_B1} syncs"):
        took_s = await sync_now(stage, ZONE_B1)
    stage.display.happened("sync-now: both sides level, link closed again", took_s)

    async def known() -> Seen[bool]:
        policy = await policy_at(above, name)
        return Seen(f"{name} at global", policy.spec.target_version == "2.4.1" or None)

    _, up_s = await stage.until(f"{name} at global", known)
    stage.display.happened(f"global knows the policy, written by {zone.principal}", up_s)
    return f"level {duration(took_s)} after sync-now"
