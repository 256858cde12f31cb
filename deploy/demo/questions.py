"""What the steps ask controllers, in the words of the story. Owns no state; asks through the public API only."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from deploy.demo.client import Client
from deploy.demo.stage import StepFailed
from souverix.attention.v1 import attention_pb2, attention_service_pb2
from souverix.audit.v1 import audit_pb2, audit_service_pb2
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import fleet_service_pb2, node_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2

#: A page of audit entries: a step's worth.
AUDIT_PAGE = 1000


def document_of(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A document as Python has it."""
    document: dict[str, Any] = MessageToDict(struct)
    return document


async def status_of(client: Client) -> federation_service_pb2.GetStatusResponse:
    """What a replica says of itself; asked once."""
    return await client.call(
        federation_service_pb2.GetStatusRequest(),
        federation_service_pb2.GetStatusResponse,
        timeout_s=0,
    )


async def topology_of(client: Client) -> list[federation_service_pb2.TopologyDomain]:
    """The tree of domains as a controller knows it."""
    reply = await client.call(
        federation_service_pb2.GetTopologyRequest(), federation_service_pb2.GetTopologyResponse
    )
    return list(reply.domains)


async def peers_of(client: Client) -> dict[str, federation_service_pb2.Peer]:
    """A controller's links, by the other's id."""
    reply = await client.call(
        federation_service_pb2.ListPeersRequest(), federation_service_pb2.ListPeersResponse
    )
    return {peer.controller: peer for peer in reply.peers}


async def received_of(client: Client, domain: str) -> dict[tuple[str, str], int]:
    """Events of a domain's streams that a controller holds, by (writer, lane)."""
    reply = await client.call(
        federation_service_pb2.ListStreamsRequest(domain=domain),
        federation_service_pb2.ListStreamsResponse,
    )
    return {(each.controller, each.lane): each.received for each in reply.streams}


async def authority_of(client: Client, domain: str) -> federation_service_pb2.GetAuthorityResponse:
    """Who is master-of-record of a domain, as a controller knows it."""
    return await client.call(
        federation_service_pb2.GetAuthorityRequest(domain=domain),
        federation_service_pb2.GetAuthorityResponse,
    )


async def node_at(client: Client, node: str) -> node_pb2.Node:
    """A node as a controller knows it."""
    reply = await client.call(
        fleet_service_pb2.GetNodeRequest(name=f"nodes/{node}"), fleet_service_pb2.GetNodeResponse
    )
    return reply.node


async def as_of(client: Client, domain: str) -> Timestamp:
    """Up to when the events of a domain are known at a controller."""
    reply = await client.call(
        fleet_service_pb2.ListNodesRequest(domain=domain, page_size=1),
        fleet_service_pb2.ListNodesResponse,
    )
    return reply.as_of_time


async def download(client: Client, digest: str) -> bytes:
    """A large value, checked against its digest. Raises `Refused`, `StepFailed`."""
    content = bytearray()
    async for piece in client.stream(
        fleet_service_pb2.DownloadLargeValueRequest(digest=digest),
        fleet_service_pb2.DownloadLargeValueResponse,
    ):
        content += piece.data
    found = "sha256:" + hashlib.sha256(content).hexdigest()
    if found != digest:
        raise StepFailed(f"the value downloaded as {digest} has the digest {found}")
    return bytes(content)


async def policy_at(client: Client, name: str) -> policy_pb2.Policy:
    """A policy as a controller knows it."""
    reply = await client.call(
        policy_service_pb2.GetPolicyRequest(name=name), policy_service_pb2.GetPolicyResponse
    )
    return reply.policy


async def issue(
    client: Client, targets: command_pb2.Targets, action: command_pb2.Action, request_id: str
) -> command_pb2.Command:
    """Issues a command; the command as issued."""
    reply = await client.call(
        command_service_pb2.IssueCommandRequest(
            targets=targets, action=action, request_id=request_id
        ),
        command_service_pb2.IssueCommandResponse,
    )
    return reply.command


async def follow(client: Client, name: str) -> AsyncIterator[command_pb2.Command]:
    """A command after each change, until it is done."""
    async for step in client.stream(
        command_service_pb2.WatchCommandRequest(name=name),
        command_service_pb2.WatchCommandResponse,
    ):
        yield step.command


async def attention_of(client: Client, domain: str) -> list[attention_pb2.AttentionItem]:
    """What needs attention in a domain and below it, the highest score first."""
    reply = await client.call(
        attention_service_pb2.ListItemsRequest(domain=domain, include_subtree=True),
        attention_service_pb2.ListItemsResponse,
    )
    return list(reply.items)


async def conflicts_at(
    client: Client, domain: str, *, only_open: bool
) -> list[federation_service_pb2.Conflict]:
    """Recorded conflicts of a domain, newest first."""
    reply = await client.call(
        federation_service_pb2.ListConflictsRequest(domain=domain, only_open=only_open),
        federation_service_pb2.ListConflictsResponse,
    )
    return list(reply.conflicts)


async def refusals_at(client: Client, domain: str) -> list[audit_pb2.AuditRecord]:
    """The newest refusals that a domain's audit holds, newest first."""
    reply = await client.call(
        audit_service_pb2.ListAuditEntriesRequest(
            domain=domain, outcome=audit_pb2.AUDIT_OUTCOME_DENIED
        ),
        audit_service_pb2.ListAuditEntriesResponse,
    )
    return [entry.record for entry in reply.entries]


async def audit_of(client: Client, domain: str, resource: str) -> list[audit_pb2.AuditRecord]:
    """Every audit record of a resource that a controller holds, newest first."""
    found: list[audit_pb2.AuditRecord] = []
    token = ""
    while True:
        reply = await client.call(
            audit_service_pb2.ListAuditEntriesRequest(
                domain=domain, resource=resource, page_size=AUDIT_PAGE, page_token=token
            ),
            audit_service_pb2.ListAuditEntriesResponse,
        )
        found += [entry.record for entry in reply.entries]
        token = reply.next_page_token
        if not token:
            return found
