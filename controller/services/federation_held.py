"""FederationService's calls on what is held without effect: the list, and decisions on it. Owns how held runs are named
and shown, and which ruling fits which ground; what a decision brings about is the core's.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.replica import Replica
from controller.services.federation_trust import SERVICE, only_the_parents_master, parent_of
from controller.services.fleet_fields import check_domain_filter, check_text
from controller.services.paging import cut, page_of
from controller.twin.facts import timestamp
from controller.writes import Caller, Draft, Forwarded, WriteCall
from federation.authority import Permission
from federation.bounds import CHAIN_CONTRADICTED, STREAM_SEALED
from federation.errors import InvalidWrite, NotFound, WrongState
from federation.identifiers import Lane, StreamId
from federation.keys import KEY_NOT_VALID, KEY_SUPERSEDED, KEY_UNKNOWN
from federation.state import State
from federation.streams import StreamState
from souverix.federation.v1 import authority_pb2
from souverix.federation.v1 import federation_service_pb2 as service

#: Grounds that somebody may stand in for: who sealed the events is what is in doubt, not what they say.
VOUCHABLE = frozenset({KEY_UNKNOWN, KEY_NOT_VALID, KEY_SUPERSEDED})

#: Grounds that are a decision already.
DECIDED = frozenset({STREAM_SEALED, CHAIN_CONTRADICTED})

#: Hexadecimal digits of the chain hash in a name: no two runs of one stream and end are alike by chance.
NAME_DIGITS = 16


def list_held(state: State, request: service.ListHeldRunsRequest) -> service.ListHeldRunsResponse:
    """A page of what is held, of one domain or (empty) of all. Raises `InvalidWrite`."""
    check_domain_filter(request.domain)
    page = page_of(request)
    found = (run for run in held_runs(state) if request.domain in ("", run.domain))
    runs, token = cut(found, page, lambda run: run.name)
    return service.ListHeldRunsResponse(runs=runs, next_page_token=token)


def held_runs(state: State) -> Iterator[service.HeldRun]:
    """All that is held. What waits in one stream is one entry: a decision is on all of it."""
    for stream, held in state.streams.items():
        if held.applied < held.received:
            yield _waiting(stream, held)
    for stream, refused in state.evidence.items():
        for chain_hash, run in refused.items():
            if not run.discarded:
                yield _shown(
                    stream,
                    run.first_sequence,
                    run.last_sequence,
                    chain_hash,
                    outcome=service.HELD_OUTCOME_REFUSED,
                    reason=run.reason,
                    size_bytes=run.size_bytes,
                    peer=run.peer,
                    receive_time=timestamp(run.time_ms),
                    offset=run.offset,
                )


async def decide_held_run(
    replica: Replica, request: service.DecideHeldRunRequest, caller: Caller
) -> service.DecideHeldRunResponse:
    """Writes a decision where the parent's master is.

    Raises core errors, journal errors, `ServiceError`, `ForwardedStatus`.
    """
    state = replica.state
    check_text(request.reason, "reason")
    if not request.reason:
        raise InvalidWrite("reason is required: it is what the audit log will say", field="reason")
    domain = _domain_named(request.name)
    parent = parent_of(state, domain)
    decided: list[authority_pb2.RunDecision] = []

    def decide(draft: Draft) -> None:
        only_the_parents_master(replica, draft, parent)
        held = _named(state, request.name)
        _check_ruling(held, request.ruling)
        decision = authority_pb2.RunDecision(
            controller=held.controller,
            domain=held.domain,
            incarnation=held.incarnation,
            lane=int(Lane[held.lane.upper()]),
            first_sequence=held.first_sequence,
            last_sequence=held.last_sequence,
            chain_hash=bytes.fromhex(held.chain_hash),
            ruling=request.ruling,
            reason=request.reason,
        )
        draft.write(held.domain, _subject(held), "run_decision", decision)
        decided.append(decision)

    done = await replica.writer.execute(
        WriteCall(
            caller=caller,
            method=f"{SERVICE}/DecideHeldRun",
            request=request,
            domain=parent,
            resource=f"domains/{domain}/{request.name}",
            permission=Permission.OPERATE,
            decide=decide,
            request_id=request.request_id,
            validate_only=request.validate_only,
            durable_at=request.durable_at,
            subject=request.name.replace("held/", "runs/", 1),
        )
    )
    if isinstance(done, Forwarded):
        return service.DecideHeldRunResponse.FromString(done.response)
    response = service.DecideHeldRunResponse(receipt=done.receipt)
    if decided:
        response.decision.CopyFrom(decided[0])
    return response


def _check_ruling(held: service.HeldRun, ruling: int) -> None:
    if ruling not in (authority_pb2.RULING_ACCEPT, authority_pb2.RULING_DISCARD):
        raise InvalidWrite("ruling is required: accept or discard", field="ruling")
    if held.reason in DECIDED:
        raise WrongState(
            f"{held.name} is void by a seal ({held.reason}); there is nothing left to decide",
            name=held.name,
        )
    if ruling == authority_pb2.RULING_ACCEPT and (
        held.outcome == service.HELD_OUTCOME_REFUSED or held.reason not in VOUCHABLE
    ):
        raise WrongState(
            f"{held.name} is held for what it is or says ({held.reason}), which nobody can vouch for; it takes effect "
            "by itself once what it lacks arrives, or it can be discarded",
            name=held.name,
        )


def _waiting(stream: StreamId, held: StreamState) -> service.HeldRun:
    void = not held.waiting
    if void:
        outcome = service.HELD_OUTCOME_VOID
    elif held.quarantine_reason:
        outcome = service.HELD_OUTCOME_QUARANTINED
    else:
        outcome = service.HELD_OUTCOME_PENDING
    first = held.applied + 1
    time_ms = held.index.time_ms_of(first)
    return _shown(
        stream,
        first,
        held.received,
        held.chain_hash,
        outcome=outcome,
        reason=held.quarantine_reason or held.waiting_reason,
        size_bytes=held.waiting_bytes,
        receive_time=timestamp(time_ms) if time_ms is not None else None,
        offset=held.index.offset_of(first) or 0,
    )


def _shown(
    stream: StreamId, first: int, last: int, chain_hash: bytes, **told: object
) -> service.HeldRun:
    lane = stream.lane.name.lower()
    origin = stream.origin
    return service.HeldRun(
        name=(
            f"held/{stream.domain}/{origin.controller}/{origin.incarnation}/{lane}/{last}/"
            f"{chain_hash.hex()[:NAME_DIGITS]}"
        ),
        domain=stream.domain,
        controller=origin.controller,
        incarnation=origin.incarnation,
        lane=lane,
        first_sequence=first,
        last_sequence=last,
        chain_hash=chain_hash.hex(),
        **told,  # type: ignore[arg-type]
    )


def _named(state: State, name: str) -> service.HeldRun:
    for run in held_runs(state):
        if run.name == name:
            return run
    raise NotFound(
        f"nothing is held here by the name {name[:200]!r}; it took effect, or more came since: list again",
        field="name",
    )


def _domain_named(name: str) -> str:
    parts = name.split("/")
    if len(parts) != 7 or parts[0] != "held":
        raise InvalidWrite(
            "name must be one that ListHeldRuns gave: held/DOMAIN/CONTROLLER/INCARNATION/LANE/LAST/HASH",
            field="name",
        )
    return parts[1]


def _subject(held: service.HeldRun) -> str:
    return held.name.replace("held/", "runs/", 1)
