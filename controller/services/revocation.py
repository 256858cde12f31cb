"""RevocationService: what is revoked, stated and listed. Owns the way of its writes; what a revocation means is
`controller.revocation`'s to say.
"""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

import time
from typing import Any

import grpc

from controller.errors import ServiceError
from controller.replica import Replica
from controller.revocation.asked import read_request, spec_of
from controller.revocation.entries import read_entry
from controller.revocation.targets import ASPECT, COLLECTION, is_subject, subject_of_identity
from controller.revocation.view import compose_revocation, revocation_etag, revocation_name
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_id, check_text
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import check_etag
from controller.services.paging import cut, page_of
from controller.twin.domain import live_subtree
from controller.twin.facts import Facts
from controller.writes import Draft, Executed, WriteCall
from federation.errors import InvalidWrite, NotFound, OutOfReach
from federation.identifiers import is_valid_id
from souverix.trust.v1 import revocation_pb2, revocation_service_pb2_grpc
from souverix.trust.v1 import revocation_service_pb2 as service

SERVICE = "/souverix.trust.v1.RevocationService/"

#: Longest reason.
MAX_REASON_BYTES = 1024

#: Revocations of one domain in force at once. Where so many are lost, its authority is: it is replaced, which ends all.
MAX_IN_FORCE = 10_000


class RevocationService(revocation_service_pb2_grpc.RevocationServiceServicer):
    """The service of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._state = replica.state
        self._revocations = replica.revocations
        self._own_domain = replica.config.controller.domain

    async def RevokeCertificate(
        self, request: Any, context: Any
    ) -> service.RevokeCertificateResponse:
        """Revokes a certificate, or all that an identity had."""
        domain = check_id(request.domain or self._own_domain, "domain")
        check_text(request.reason, "reason", MAX_REASON_BYTES)
        if not request.reason.strip():
            raise InvalidWrite(
                "reason is required: others read it when they wonder why they are refused",
                field="reason",
            )
        self._check_reach(domain)
        asked = read_request(request, domain, self._parent_of)
        previews: list[revocation_pb2.Revocation] = []

        def decide(draft: Draft) -> None:
            proposal = draft.proposal
            check_domain(proposal, domain)
            name = revocation_name(domain, asked.subject)
            check_etag(request.etag, revocation_etag(proposal, domain, asked.subject), name)
            self._check_room(domain, asked.subject)
            earlier = read_entry(proposal, domain, asked.subject)
            earlier_s = (earlier.issued_before_s or 0) if earlier is not None else 0
            spec = spec_of(asked, request.reason, earlier_s, proposal.wall_ms)
            draft.write(domain, asked.subject, ASPECT, spec)
            if request.validate_only:
                previews.append(_required(proposal, domain, asked.subject))

        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller_of(context),
                method=f"{SERVICE}RevokeCertificate",
                request=request,
                domain=domain,
                resource=revocation_name(domain, asked.subject),
                # Whoever reaches the domain states it, and is not held up by who its master is, or can be reached.
                permission=None,
                decide=decide,
                request_id=request.request_id,
                validate_only=request.validate_only,
                durable_at=request.durable_at,
            )
        )
        assert isinstance(result, Executed)  # noqa: S101 without a permission nothing is forwarded
        shown = previews[0] if previews else _required(self._state, domain, asked.subject)
        return service.RevokeCertificateResponse(revocation=shown, receipt=result.receipt)

    async def GetRevocation(self, request: Any, context: Any) -> service.GetRevocationResponse:
        """Reads one revocation."""
        domain, subject = _named(request.name)
        return service.GetRevocationResponse(revocation=_required(self._state, domain, subject))

    async def ListRevocations(self, request: Any, context: Any) -> service.ListRevocationsResponse:
        """Lists revocations, ordered by name."""
        page = page_of(request)
        only = subject_of_identity(request.principal) if request.principal else ""
        now_ms = _wall_ms()
        found = {
            revocation.name: revocation
            for domain in self._domains(request)
            for subject in self._state.subjects_of(domain, COLLECTION)
            if not only or subject == only
            if (revocation := compose_revocation(self._state, domain, subject, now_ms)) is not None
            and (request.show_expired or not revocation.expired)
        }
        names, token = cut(found, page, str)
        return service.ListRevocationsResponse(
            revocations=[found[name] for name in names], next_page_token=token
        )

    def _check_reach(self, domain: str) -> None:
        authority = self._state.authority
        if not authority.is_within(domain, self._own_domain):
            record = authority.records.get(domain)
            raise OutOfReach(
                f"domain {domain} is neither {self._own_domain} nor below it: ask "
                f"{record.controller if record is not None else 'its controller'}, or one above that",
                domain=domain,
            )

    def _check_room(self, domain: str, subject: str) -> None:
        if (
            self._revocations.count(domain) >= MAX_IN_FORCE
            and self._revocations.held(domain, subject) is None
        ):
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "REVOCATIONS_FULL",
                f"{MAX_IN_FORCE} revocations of domain {domain} are in force, as many as may be; replace its "
                "authority, which ends every certificate that it issued",
                {"domain": domain},
            )

    def _parent_of(self, domain: str) -> str:
        record = self._state.authority.records.get(domain)
        return record.parent or domain if record is not None else ""

    def _domains(self, request: Any) -> list[str]:
        if not request.domain:
            return list(self._state.authority.records)
        check_domain(self._state, check_id(request.domain, "domain"))
        if request.include_subtree:
            return live_subtree(self._state, request.domain)
        return [request.domain]


def _named(name: str) -> tuple[str, str]:
    """Domain and subject of a resource name."""
    parts = name.split("/", 2)
    if (
        len(parts) != 3
        or parts[0] != "domains"
        or not is_valid_id(parts[1])
        or not is_subject(parts[2])
    ):
        raise InvalidWrite(
            f'name {name[:160]!r} is not of the form "domains/{{domain}}/revocations/{{id}}"',
            field="name",
        )
    return parts[1], parts[2]


def _required(facts: Facts, domain: str, subject: str) -> revocation_pb2.Revocation:
    revocation = compose_revocation(facts, domain, subject, _wall_ms())
    if revocation is None:
        name = revocation_name(domain, subject)
        raise NotFound(f"{name} is not known here", subject=name, domain=domain)
    return revocation


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
