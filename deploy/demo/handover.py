"""Step: the region takes over the authority of zone a2, as planned. Owns that step."""

from __future__ import annotations

from deploy.demo.display import duration
from deploy.demo.questions import authority_of, policy_at
from deploy.demo.stage import REGION_A, ZONE_A2, Seen, Stage, expect, new_request_id
from souverix.federation.v1 import authority_pb2, federation_service_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2


async def hand_over(stage: Stage) -> str:
    """Transfers the authority, then writes at the zone: the write is the region's to make now."""
    region, zone = stage.client(REGION_A), stage.client(ZONE_A2)
    heir = stage.federation.plan(REGION_A).controller
    before = await authority_of(zone, ZONE_A2)
    await region.call(
        federation_service_pb2.TransferAuthorityRequest(
            domain=ZONE_A2,
            to_controller=heir,
            reason="the zone is to be rebuilt",
            etag=before.etag,
            request_id=new_request_id("transfer"),
        ),
        federation_service_pb2.TransferAuthorityResponse,
    )

    async def settled() -> Seen[authority_pb2.AuthorityRecord]:
        record = (await authority_of(zone, ZONE_A2)).authority
        done = record.master_of_record == heir and not record.next_master
        seen = f"master-of-record {record.master_of_record}"
        if record.next_master:
            seen += f", to be followed by {record.next_master}"
        return Seen(seen, record if done else None)

    record, took_s = await stage.until("the transfer as known at the zone", settled)
    old, new = before.authority.term, record.term
    expect(new == old + 1, f"the term went from {old} to {new}, not up by one")
    stage.display.happened(
        f"{before.authority.master_of_record} released, {heir} is master-of-record, term {new}",
        took_s,
    )
    name = f"domains/{ZONE_A2}/policies/rebuild"
    reply = await zone.call(
        policy_service_pb2.CreatePolicyRequest(
            domain=ZONE_A2,
            policy_id="rebuild",
            spec=policy_pb2.PolicySpec(display_name="To be rebuilt", version="1"),
            request_id=new_request_id("rebuild"),
        ),
        policy_service_pb2.CreatePolicyResponse,
    )
    expect(
        reply.receipt.controller == heir and not reply.receipt.optimistic,
        f"the zone's write was made by {reply.receipt.controller}, not forwarded to {heir}",
    )

    async def back() -> Seen[policy_pb2.Policy]:
        policy = await policy_at(zone, name)
        return Seen(policy.name, policy)

    _, back_s = await stage.until("the forwarded write at the zone", back)
    stage.display.happened(
        f"a write at {ZONE_A2} was forwarded to {heir}, and its event is back", back_s
    )
    return f"released and claimed in {duration(took_s)}"
