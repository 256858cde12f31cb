"""FederationService's calls on signing keys and seals: rotation of this controller's key, and what the master of a
parent domain does about a controller below. Owns the way of these writes; what the facts say is the core's.
"""

from __future__ import annotations

import asyncio

from controller.key_rotation import rotate
from controller.log.errors import LogError
from controller.replica import Replica
from controller.services.fleet_fields import check_id, check_text
from controller.writes import Caller, Draft, Forwarded, WriteCall
from federation.authority import Permission
from federation.errors import AuthorityError, InvalidWrite, WrongState
from federation.expulsion import (
    Position,
    domain_below,
    new_key,
    position_now,
    seal_of,
    streams_below,
)
from federation.identifiers import StreamId
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.federation.v1 import federation_service_pb2 as service

SERVICE = "/souverix.federation.v1.FederationService"


async def rotate_signing_key(
    replica: Replica, request: service.RotateSigningKeyRequest, caller: Caller
) -> service.RotateSigningKeyResponse:
    """Has this controller go on under its next key, made now where none lies ready.

    Raises core errors, journal errors, `LogError`.
    """
    journal = replica.journal()
    keys = replica.signer
    me = replica.config.controller.id
    old = keys.key_id
    response = service.RotateSigningKeyResponse(controller=me, old_key_id=old)
    if replica.barred:
        raise WrongState(
            f"{me} may seal nothing with the key it has ({replica.barred}), so it cannot name another; its parent "
            "grants it one (souverixctl federation grant-key)",
            why=replica.barred,
        )
    try:
        if request.validate_only:
            await asyncio.to_thread(keys.look)
            if keys.next is not None:
                response.key_id, response.public_key = keys.next.key_id, keys.next.public_key
            return response
        await asyncio.to_thread(keys.prepare)
    except (OSError, ValueError) as error:
        raise WrongState(f"the file of the next signing key cannot be used: {error}") from error
    await rotate(replica, journal, caller.principal, caller.source)
    response.key_id, response.public_key = keys.key_id, keys.public_key
    return response


def only_the_parents_master(replica: Replica, draft: Draft, parent: str) -> None:
    """Refuses a write under autonomy: it is the parent's master's alone. Raises `AuthorityError`."""
    if draft.optimistic:
        master = replica.state.authority.records[parent].master_of_record
        raise AuthorityError(
            f"only {master}, the master-of-record of {parent}, may do this; retry when it can be reached",
            domain=parent,
            master=master,
        )


def parent_of(state: State, domain: str) -> str:
    """The parent of a domain. Raises `WrongState` for the root."""
    record = state.authority.records.get(domain)
    if record is None or not record.parent:
        raise WrongState(
            f"no domain above {domain} is known here; ask the controller of the root", domain=domain
        )
    return record.parent


async def seal_streams(
    replica: Replica, request: service.SealStreamsRequest, caller: Caller
) -> service.SealStreamsResponse:
    """Seals the streams of a controller below, and grants it another key where one is given.

    Raises core errors, journal errors, `LogError`, `ServiceError`, `ForwardedStatus`.
    """
    state = replica.state
    controller = check_id(request.controller, "controller")
    check_text(request.reason, "reason")
    domain = domain_below(state, _served_above(state, controller), controller)
    parent = parent_of(state, domain)
    subject = f"controllers/{controller}"
    positions = await _positions(replica, controller, domain, request)
    decided: list[authority_pb2.StreamSealed] = []

    def decide(draft: Draft) -> None:
        only_the_parents_master(replica, draft, parent)
        sealed = seal_of(state, controller, domain, positions, request.reason)
        grant = None
        if request.public_key:
            first = sealed.incarnation + 1
            grant = new_key(state, controller, domain, request.public_key, first)
        draft.write(domain, subject, "stream_sealed", sealed)
        if grant is not None:
            draft.write(domain, subject, "key_grant", grant)
        decided.append(sealed)

    voided = sum(
        max(0, held.received - positions.get(stream, (0, b""))[0])
        for stream, held in state.streams.items()
        if stream.origin.controller == controller
        and state.authority.is_within(stream.domain, domain)
    )
    done = await replica.writer.execute(
        WriteCall(
            caller=caller,
            method=f"{SERVICE}/SealStreams",
            request=request,
            domain=parent,
            resource=f"domains/{domain}/{subject}",
            permission=Permission.OPERATE,
            decide=decide,
            request_id=request.request_id,
            validate_only=request.validate_only,
            durable_at=request.durable_at,
        )
    )
    if isinstance(done, Forwarded):
        return service.SealStreamsResponse.FromString(done.response)
    response = service.SealStreamsResponse(voided_events=voided, receipt=done.receipt)
    if decided:
        response.sealed.CopyFrom(decided[0])
    return response


async def grant_key(
    replica: Replica, request: service.GrantKeyRequest, caller: Caller
) -> service.GrantKeyResponse:
    """Grants a controller below a key. Raises core errors, journal errors, `ServiceError`, `ForwardedStatus`."""
    state = replica.state
    controller = check_id(request.controller, "controller")
    check_text(request.reason, "reason")
    domain = domain_below(state, _served_above(state, controller), controller)
    parent = parent_of(state, domain)
    subject = f"controllers/{controller}"
    decided: list[authority_pb2.KeyGrant] = []

    def decide(draft: Draft) -> None:
        only_the_parents_master(replica, draft, parent)
        grant = new_key(state, controller, domain, request.public_key)
        draft.write(domain, subject, "key_grant", grant)
        decided.append(grant)

    done = await replica.writer.execute(
        WriteCall(
            caller=caller,
            method=f"{SERVICE}/GrantKey",
            request=request,
            domain=parent,
            resource=f"domains/{domain}/{subject}",
            permission=Permission.OPERATE,
            decide=decide,
            request_id=request.request_id,
            validate_only=request.validate_only,
            durable_at=request.durable_at,
        )
    )
    if isinstance(done, Forwarded):
        return service.GrantKeyResponse.FromString(done.response)
    response = service.GrantKeyResponse(receipt=done.receipt)
    if decided:
        response.grant.CopyFrom(decided[0])
    return response


def _served_above(state: State, controller: str) -> str:
    """The root, below which every other controller is: who may write is the write path's to say."""
    for record in state.authority.records.values():
        if not record.parent:
            return record.domain
    raise WrongState(f"the tree of domains is not known here yet, nor where {controller} stands")


async def _positions(
    replica: Replica, controller: str, domain: str, request: service.SealStreamsRequest
) -> dict[StreamId, Position]:
    """How far each stream is to count: all that is good here, or what came before a time."""
    state = replica.state
    since_ms = request.void_since.ToMilliseconds() if request.HasField("void_since") else None
    if since_ms is not None and since_ms <= 0:
        raise InvalidWrite(
            "void_since is before 1970; leave it out to void nothing that is in effect"
        )
    positions: dict[StreamId, Position] = {}
    for stream in streams_below(state, controller, domain):
        held = state.streams[stream]
        last, chain_hash = position_now(held)
        if since_ms is not None:
            before = held.index.last_before(since_ms)
            if before < last:
                last, chain_hash = before, await _chain_hash(replica, stream, before)
        positions[stream] = (last, chain_hash)
    return positions


async def _chain_hash(replica: Replica, stream: StreamId, last: int) -> bytes:
    """Chain hash after the last event of a run, from the log. Raises `LogError`."""
    if last == 0:
        return b""
    offset = replica.state.streams[stream].index.offset_of(last)
    commits = await replica.read_commits(offset, 1) if offset is not None else []
    for run in commits[0].runs if commits else ():
        if run.seal.sequence == last and _names(run.stream, stream):
            return run.seal.chain_hash
    raise LogError(f"event {last} of {stream} is not where the index says")


def _names(message: event_pb2.StreamId, stream: StreamId) -> bool:
    return (message.domain, message.controller, message.incarnation, message.lane) == (
        stream.domain,
        *stream.origin,
        int(stream.lane),
    )
