"""FederationService's calls that read and move authority. Owns the way of that write: to the master of the parent
domain, which writes into the governed domain; what the record says is the core's.
"""

from __future__ import annotations

from controller.replica import Replica
from controller.services.fleet_fields import check_id, check_text
from controller.services.fleet_rules import check_etag
from controller.services.node_past import authority_at
from controller.twin.facts import Facts
from controller.writes import Caller, Draft, Forwarded, WriteCall
from federation.authority import Permission
from federation.errors import AuthorityError, NotFound
from federation.identifiers import Key
from federation.merge import etag_of
from federation.state import State
from federation.transfers import authority_key, record_of, transfer, transferable
from souverix.federation.v1 import authority_pb2, federation_service_pb2

METHOD = "/souverix.federation.v1.FederationService/TransferAuthority"


def authority_etag(facts: Facts, domain: str) -> str:
    """Changes with each authority record of a domain; the root's is of its genesis."""
    for key in (authority_key(domain), Key(domain, f"domains/{domain}", "genesis")):
        winner = facts.winner(key)
        if winner is not None:
            return etag_of(facts.siblings(key), winner)
    return ""


def authority_of(state: State, domain: str) -> federation_service_pb2.GetAuthorityResponse:
    """The record in force. Raises `InvalidWrite`, `NotFound`."""
    record = record_of(state, check_id(domain, "domain"))
    return federation_service_pb2.GetAuthorityResponse(
        authority=record,
        term_path=state.authority.term_of(domain),
        etag=authority_etag(state, domain),
    )


async def authority_as_of(
    replica: Replica, domain: str, time_ms: int
) -> federation_service_pb2.GetAuthorityResponse:
    """The record that was known here at a time, without an etag. Raises `InvalidWrite`, `NotFound`, `ServiceError`."""
    record_of(replica.state, check_id(domain, "domain"))
    table = await authority_at(replica, domain, time_ms)
    record = table.records.get(domain)
    if record is None:
        raise NotFound(
            f"no authority over {domain} was known here at that time", subject=f"domains/{domain}"
        )
    return federation_service_pb2.GetAuthorityResponse(
        authority=record, term_path=table.term_of(domain)
    )


async def transfer_authority(
    replica: Replica,
    request: federation_service_pb2.TransferAuthorityRequest,
    caller: Caller,
) -> federation_service_pb2.TransferAuthorityResponse:
    """Executes the transfer where the parent's master is, and returns the record as it then is (or would be).

    Raises core errors, journal errors, `ServiceError`, `ForwardedStatus`.
    """
    state = replica.state
    domain = check_id(request.domain, "domain")
    check_id(request.to_controller, "to_controller")
    check_text(request.reason, "reason")
    parent = transferable(state, domain).parent
    decided: list[authority_pb2.AuthorityRecord] = []

    def decide(draft: Draft) -> None:
        proposal = draft.proposal
        me = proposal.identity.controller
        if draft.optimistic:
            raise AuthorityError(
                f"only the master-of-record of {parent}, the parent of {domain}, may move its authority, and {me} is "
                f"not; transfer {parent} first, or retry when its master can be reached",
                domain=parent,
                master=state.authority.records[parent].master_of_record,
            )
        check_etag(request.etag, authority_etag(proposal, domain), f"domains/{domain}")
        record = transfer(
            state, me, domain, request.to_controller, force=request.force, reason=request.reason
        )
        draft.write(*authority_key(domain), record)
        decided.append(record)

    done = await replica.writer.execute(
        WriteCall(
            caller=caller,
            method=METHOD,
            request=request,
            # The right to write is the parent's master's; the event itself goes into the governed domain.
            domain=parent,
            resource=f"domains/{domain}",
            permission=Permission.OPERATE,
            decide=decide,
            request_id=request.request_id,
            validate_only=request.validate_only,
            durable_at=request.durable_at,
        )
    )
    if isinstance(done, Forwarded):
        return federation_service_pb2.TransferAuthorityResponse.FromString(done.response)
    if done.receipt.domain:
        done.receipt.domain = domain
    return federation_service_pb2.TransferAuthorityResponse(
        authority=decided[0] if decided else record_of(state, domain), receipt=done.receipt
    )
