"""EnrolmentService: tokens that admit machines to the own domain, and the queue of those that wait. Owns what each
write means; machines themselves come to `controller.services.join`.
"""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from controller.enrolment import enrolments, tokens
from controller.enrolment.errors import AuthorityNotHeld, QueueFull
from controller.enrolment.queue import Waiting
from controller.enrolment.stages import Stage, Step
from controller.issuing import Issuer
from controller.replica import Replica
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_id, check_text, id_in_domain
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import POLICIES, check_etag
from controller.services.paging import cut, page_of
from controller.twin.domain import live_subtree
from controller.twin.facts import Facts, body_of, timestamp
from controller.writes import Draft, Forwarded, WriteCall
from federation.errors import InvalidWrite, NotFound, WrongState
from federation.identifiers import Key
from souverix.trust.v1 import enrolment_pb2, enrolment_service_pb2_grpc
from souverix.trust.v1 import enrolment_service_pb2 as service

R = TypeVar("R")

SERVICE = "/souverix.trust.v1.EnrolmentService/"

#: Longest reason.
MAX_REASON_BYTES = 1024

Compose = Callable[[Facts, str, str, int], Any]


class EnrolmentService(enrolment_service_pb2_grpc.EnrolmentServiceServicer):
    """The service of one replica. Without an issuer it shows what it knows, and passes writes on."""

    def __init__(
        self, replica: Replica, issuer: Issuer | None, waiting: Callable[[], Waiting]
    ) -> None:
        self._replica = replica
        self._state = replica.state
        self._issuer = issuer
        self._waiting = waiting
        self._own_domain = replica.config.controller.domain

    async def CreateEnrolmentToken(
        self, request: Any, context: Any
    ) -> service.CreateEnrolmentTokenResponse:
        """Makes a token; the secret is drawn here and kept nowhere."""
        domain = check_id(request.domain or self._own_domain, "domain")
        _check_spec(request.spec)
        caller = caller_of(context)
        secret = os.urandom(tokens.SECRET_BYTES)
        token_id = _token_id(caller.principal, request.request_id)
        subject = f"{tokens.COLLECTION}/{token_id}"
        made = []

        def decide(draft: Draft) -> None:
            now_ms = draft.proposal.wall_ms
            self._check_room(domain, now_ms)
            record = tokens.Record(
                spec=request.spec,
                secret_hash=tokens.hash_of(secret),
                creator=caller.principal,
                create_time=timestamp(now_ms),
            )
            record.spec.expire_time.CopyFrom(timestamp(_expiry_ms(request.spec, now_ms)))
            draft.write(domain, subject, tokens.ASPECT, record)
            if not request.validate_only:
                made.append(tokens.written(domain, token_id, secret))

        reply = await self._write(
            "CreateEnrolmentToken",
            request,
            context,
            (domain, subject),
            decide,
            service.CreateEnrolmentTokenResponse,
        )
        if made and self._issuer is not None:
            reply.secret, reply.root_fingerprint = made[-1], self._issuer.root_fingerprint()
        return reply

    async def RevokeEnrolmentToken(
        self, request: Any, context: Any
    ) -> service.RevokeEnrolmentTokenResponse:
        """Takes a token back."""
        domain, token_id = id_in_domain(request.name, tokens.COLLECTION)
        subject = f"{tokens.COLLECTION}/{token_id}"

        def decide(draft: Draft) -> None:
            held = body_of(draft.proposal, Key(domain, subject, tokens.ASPECT))
            if held is None:
                raise NotFound(f"{request.name} is not known here", subject=request.name)
            check_etag(request.etag, tokens.etag(draft.proposal, domain, subject), request.name)
            state = tokens.state_at(held, draft.proposal.wall_ms)
            if state != enrolment_pb2.ENROLMENT_TOKEN_STATE_OPEN:
                raise WrongState(
                    f"{request.name} cannot be used any more, so there is nothing to take back",
                    subject=request.name,
                )
            record = tokens.Record()
            record.CopyFrom(held)
            record.revoked = True
            draft.write(domain, subject, tokens.ASPECT, record)

        return await self._write(
            "RevokeEnrolmentToken",
            request,
            context,
            (domain, subject),
            decide,
            service.RevokeEnrolmentTokenResponse,
        )

    async def ListEnrolmentTokens(
        self, request: Any, context: Any
    ) -> service.ListEnrolmentTokensResponse:
        """Lists tokens, ordered by name."""
        found, token = self._listed(
            request,
            tokens.COLLECTION,
            tokens.compose,
            lambda each: (
                not request.open_only or each.state == enrolment_pb2.ENROLMENT_TOKEN_STATE_OPEN
            ),
        )
        return service.ListEnrolmentTokensResponse(tokens=found, next_page_token=token)

    async def GetEnrolment(self, request: Any, context: Any) -> service.GetEnrolmentResponse:
        """Reads one enrolment."""
        domain, node = id_in_domain(request.name, enrolments.COLLECTION)
        subject = f"{enrolments.COLLECTION}/{node}"
        found = enrolments.compose(self._state, domain, subject, _wall_ms())
        if found is None:
            raise NotFound(f"{request.name} is not known here", subject=request.name, domain=domain)
        return service.GetEnrolmentResponse(enrolment=found)

    async def ListEnrolments(self, request: Any, context: Any) -> service.ListEnrolmentsResponse:
        """Lists enrolments, ordered by name."""
        found, token = self._listed(
            request,
            enrolments.COLLECTION,
            enrolments.compose,
            lambda each: not request.pending_only or each.stage == Stage.PENDING,
        )
        return service.ListEnrolmentsResponse(enrolments=found, next_page_token=token)

    async def ApproveEnrolment(
        self, request: Any, context: Any
    ) -> service.ApproveEnrolmentResponse:
        """Lets a waiting machine have its certificate."""
        return await self._decide(
            "ApproveEnrolment", request, context, Step.APPROVE, service.ApproveEnrolmentResponse
        )

    async def RejectEnrolment(self, request: Any, context: Any) -> service.RejectEnrolmentResponse:
        """Refuses a machine."""
        if not request.reason:
            raise InvalidWrite(
                "reason is required: whoever stands before the machine is told it", field="reason"
            )
        return await self._decide(
            "RejectEnrolment", request, context, Step.REJECT, service.RejectEnrolmentResponse
        )

    async def _decide(
        self, method: str, request: Any, context: Any, step: Step, response: type[R]
    ) -> R:
        domain, node = id_in_domain(request.name, enrolments.COLLECTION)
        subject = f"{enrolments.COLLECTION}/{node}"
        check_text(request.reason, "reason", MAX_REASON_BYTES)

        def decide(draft: Draft) -> None:
            held = body_of(draft.proposal, Key(domain, subject, enrolments.ASPECT))
            if held is not None:
                present = enrolments.etag(draft.proposal, domain, subject)
                check_etag(request.etag, present, request.name)
            now_ms = draft.proposal.wall_ms
            record = enrolments.decided(
                held, step, now_ms, draft.principal, request.reason, request.name
            )
            draft.write(domain, subject, enrolments.ASPECT, record)

        return await self._write(method, request, context, (domain, subject), decide, response)

    def _listed(
        self,
        request: Any,
        collection: str,
        compose: Compose,
        wanted: Callable[[Any], bool],
    ) -> tuple[list[Any], str]:
        page, now_ms = page_of(request), _wall_ms()
        found = {
            each.name: each
            for domain in self._domains(request)
            for subject in self._state.subjects_of(domain, collection)
            if (each := compose(self._state, domain, subject, now_ms)) is not None and wanted(each)
        }
        names, token = cut(found, page, str)
        return [found[name] for name in names], token

    def _domains(self, request: Any) -> list[str]:
        if not request.domain:
            return list(self._state.authority.records)
        check_domain(self._state, check_id(request.domain, "domain"))
        if request.include_subtree:
            return live_subtree(self._state, request.domain)
        return [request.domain]

    def _check_room(self, domain: str, now_ms: int) -> None:
        held = self._waiting().open_tokens(domain, now_ms)
        if held >= tokens.MAX_OPEN:
            raise QueueFull(
                f"{held} tokens of domain {domain} are open; revoke some, or wait until they are used",
                domain=domain,
            )

    def _check_holds(self, domain: str) -> None:
        """Only who issues decides who is let in: there alone a token can be used once. Raises `AuthorityNotHeld`."""
        if self._issuer is None or domain != self._own_domain:
            raise AuthorityNotHeld(
                f"machines of {domain} are enrolled by the controller that holds its certificate authority "
                f"([authority] in its configuration), and this one, of {self._own_domain}, does not",
                domain=domain,
            )
        self._issuer.authority()

    async def _write(
        self,
        method: str,
        request: Any,
        context: Any,
        at: tuple[str, str],
        decide: Callable[[Draft], None],
        response: type[R],
    ) -> R:
        """Executes a write of a token or an enrolment, (domain, subject), and makes its response."""
        kind: Any = response
        domain, subject = at
        compose: Compose = tokens.compose
        shown = "token"
        if subject.startswith(f"{enrolments.COLLECTION}/"):
            compose, shown = enrolments.compose, "enrolment"
        previews: list[Message] = []

        def decide_and_preview(draft: Draft) -> None:
            self._check_holds(domain)
            decide(draft)
            if request.validate_only:
                previews.append(compose(draft.proposal, domain, subject, draft.proposal.wall_ms))

        own = self._issuer is not None and domain == self._own_domain
        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller_of(context),
                method=f"{SERVICE}{method}",
                request=request,
                domain=domain,
                resource=f"domains/{domain}/{subject}",
                permission=None if own else POLICIES[0],
                decide=decide_and_preview,
                request_id=request.request_id,
                validate_only=request.validate_only,
                durable_at=request.durable_at,
            )
        )
        if isinstance(result, Forwarded):
            forwarded: R = kind.FromString(result.response)
            return forwarded
        reply: Any = kind(receipt=result.receipt)
        found = previews[0] if previews else compose(self._state, domain, subject, _wall_ms())
        getattr(reply, shown).CopyFrom(found)
        if request.validate_only:
            reply.receipt.domain = ""
        written: R = reply
        return written


def _token_id(principal: str, request_id: str) -> str:
    """An id by chance; the same for a repeat of a request, so that it is known for one."""
    if not request_id:
        return os.urandom(tokens.ID_BYTES).hex()
    told = f"{principal}\0{request_id}".encode()
    return hashlib.sha256(told).hexdigest()[: 2 * tokens.ID_BYTES]


def _check_spec(spec: enrolment_pb2.EnrolmentTokenSpec) -> None:
    if spec.kind not in enrolments.KINDS:
        raise InvalidWrite("spec.kind is required: node or relay", field="spec.kind")
    if spec.node:
        check_id(spec.node, "spec.node")
    check_text(spec.reason, "spec.reason", MAX_REASON_BYTES)


def _expiry_ms(spec: enrolment_pb2.EnrolmentTokenSpec, now_ms: int) -> int:
    if not spec.HasField("expire_time"):
        return now_ms + tokens.DEFAULT_LIFE_MS
    expiry_ms: int = spec.expire_time.ToMilliseconds()
    if not now_ms < expiry_ms <= now_ms + tokens.MAX_LIFE_MS:
        raise InvalidWrite(
            "spec.expire_time is past, or more than 30 days away", field="spec.expire_time"
        )
    return expiry_ms


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
