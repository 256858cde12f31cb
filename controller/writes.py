"""The one path of a client's write: rights, idempotency, authority, decision, audit, commit, durability, receipt. Owns
the order of these steps; what a write means is its service's, where it may be made is the core's.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import Message

from controller.durability import Durability, Position
from controller.errors import OUTCOME_UNKNOWN, ForwardedStatus, ServiceError
from controller.journal import Journal
from federation.authority import Permission, Placement, WriteDecision
from federation.codec import Write
from federation.errors import AuthorityError, InvalidWrite, OutOfReach, RequestIdReused
from federation.identifiers import StreamId
from federation.proposal import Proposal
from federation.state import State
from federation.streams import own_stream
from souverix.audit.v1 import audit_pb2
from souverix.receipt.v1 import receipt_pb2
from telemetry.spans import Kind, Span, Tracer

#: Longest request_id; UUIDs and hashes fit with room.
MAX_REQUEST_ID_BYTES = 128

#: Longest wait for a higher level of durability when the caller set no deadline.
DEFAULT_DURABILITY_WAIT_S = 30.0

#: Requests passed on whose outcome may still be unknown here: many more than can be under way when a link breaks.
MAX_PASSED_ON = 100_000


#: What a principal may look like; anything else is refused rather than written into the audit log.
PRINCIPAL_PATTERN = re.compile(r"[a-z]+:[A-Za-z0-9._@/-]{1,128}")


class Caller(NamedTuple):
    """Who calls, and from where."""

    principal: str
    source: str
    #: Seconds until the caller's deadline; None when it set none.
    remaining_s: float | None = None
    #: Controllers that passed the call on, first one first.
    via: tuple[str, ...] = ()
    #: Domain whose authority issued the caller's certificate, or whose controller accepted the caller's token: the
    #: widest scope the caller can have. Empty where neither was shown.
    issued_by: str = ""
    #: Groups the caller's token names, such as "group:noc@corp".
    groups: tuple[str, ...] = ()


class Forwarder(Protocol):
    """Takes writes to another controller over the sync links."""

    def link_up(self, controller: str) -> bool:
        """Tells whether the next hop towards a controller has a session now."""

    def last_heard_ms(self, controller: str) -> int | None:
        """When the next hop towards a controller was last heard, since the epoch; None: never by this process."""

    async def forward(self, controller: str, method: str, request: bytes, caller: Caller) -> bytes:
        """The serialised response of the other controller. Raises `ForwardedStatus`, `ServiceError`."""


class Rights(Protocol):
    """Knows who may write where."""

    def check_write(self, method: str, caller: Caller, domain: str) -> None:
        """Raises `AccessDenied`."""


class Draft(NamedTuple):
    """What a service's decision writes through: the proposal, with the call's principal and request filled in."""

    proposal: Proposal
    principal: str
    request_id: str
    optimistic: bool

    def write(self, domain: str, subject: str, aspect: str, body: Any) -> Write:
        """Drafts one event of this request."""
        return self.proposal.write(
            domain,
            subject,
            aspect,
            body,
            principal=self.principal,
            request_id=self.request_id,
            optimistic=self.optimistic,
        )


class WriteCall(NamedTuple):
    """One client's write."""

    caller: Caller
    #: Full method, "/souverix.policy.v1.PolicyService/UpdatePolicy": for audit, and for whom it is forwarded to.
    method: str
    request: Message
    domain: str
    #: What it is about, for audit: "domains/edge-zone-a1/policies/p1".
    resource: str
    #: Which autonomy allows it where this controller is not master-of-record; None: no authority is asked for.
    permission: Permission | None
    #: Drafts the events; raises a core error to refuse.
    decide: Callable[[Draft], None]
    request_id: str = ""
    validate_only: bool = False
    durable_at: str = ""
    #: Subject of the first event where it is not the end of `resource`: recognises a repeat of the request.
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Executed:
    """The write was made (or checked) here."""

    receipt: receipt_pb2.WriteReceipt


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The write was made by the master-of-record; its serialised response."""

    response: bytes


class _Decided(NamedTuple):
    forward_to: str = ""
    repeated: bool = False
    optimistic: bool = False
    positions: tuple[Position, ...] = ()


class Writer:
    """Executes writes on the master replica."""

    def __init__(
        self,
        state: State,
        journal: Callable[[], Journal],
        durability: Durability,
        forwarder: Forwarder,
        own_domain: str,
        tracer: Tracer | None = None,
        rights: Rights | None = None,
    ) -> None:
        self._rights = rights
        self._tracer = tracer or Tracer()
        self._state = state
        self._journal = journal
        self._durability = durability
        self._forwarder = forwarder
        self._own_domain = own_domain
        self._passed_on: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def execute(self, call: WriteCall) -> Executed | Forwarded:
        """Makes the write, or has it made by the master-of-record.

        Raises core errors, journal errors, `ServiceError`, `ForwardedStatus`.
        """
        if len(call.request_id.encode()) > MAX_REQUEST_ID_BYTES:
            raise InvalidWrite(f"request_id is longer than {MAX_REQUEST_ID_BYTES} bytes")
        if not call.request_id.isprintable():
            raise InvalidWrite("request_id holds control characters; letters and digits are enough")
        levels = self._levels()
        if call.durable_at and call.durable_at not in levels:
            raise InvalidWrite(
                f"durable_at {call.durable_at[:64]!r} is not on the path of this controller's domain; "
                f"one of {', '.join(levels)} may be named"
            )
        journal = self._journal()
        with self._tracer.span("write.commit") as span:
            committed = await journal.submit(
                lambda proposal: self._decide_in(span, call, journal, proposal), span.context
            )
        decided = committed.value
        if decided.forward_to:
            return Forwarded(await self._forward(call, decided.forward_to))
        offset = committed.offset
        if decided.repeated:
            decided, offset = self._earlier(call)
        await self._wait_durable(call, decided.positions)
        return Executed(self._receipt(call, journal, decided, offset, levels))

    def _decide_in(
        self, span: Span, call: WriteCall, journal: Journal, proposal: Proposal
    ) -> _Decided:
        """The decision, in its write's trace: the journal's task has none."""
        if span.context is None:
            return self._decide(call, journal, proposal)
        with self._tracer.span("write.decide", parent=span.context):
            return self._decide(call, journal, proposal)

    async def _forward(self, call: WriteCall, master: str) -> bytes:
        """Has the write made by the master-of-record. While it may have been made there, it is not made here."""
        request = (call.caller.principal, call.request_id)
        if call.request_id:
            self._passed_on[request] = master
            if len(self._passed_on) > MAX_PASSED_ON:
                self._passed_on.popitem(last=False)
        try:
            with self._tracer.span(
                "write.forward", kind=Kind.CLIENT, attributes={"souverix.master": master}
            ):
                return await self._forwarder.forward(
                    master, call.method, call.request.SerializeToString(), call.caller
                )
        except ServiceError as error:
            if error.reason != OUTCOME_UNKNOWN:
                self._passed_on.pop(request, None)
            raise
        except ForwardedStatus as error:
            if error.code != grpc.StatusCode.UNAVAILABLE.value[0]:
                self._passed_on.pop(request, None)
            raise

    def _check_forwarder(self, call: WriteCall) -> None:
        """A controller's word for its users counts within its own subtree only (design §6)."""
        if not call.caller.via:
            return
        taker = call.caller.via[0]
        domain = self._state.authority.domain_served_by(taker)
        if domain is None or not self._state.authority.is_within(call.domain, domain):
            raise OutOfReach(
                f"{taker} forwarded a write of domain {call.domain}, which is not in its subtree; ask "
                f"{self._own_domain}'s controller directly",
                domain=call.domain,
            )

    def _decide(self, call: WriteCall, journal: Journal, proposal: Proposal) -> _Decided:
        self._check_forwarder(call)
        if self._rights is not None:
            self._rights.check_write(call.method, call.caller, call.domain)
        earlier = proposal.subject_of_request(call.caller.principal, call.request_id)
        if earlier is not None:
            return self._repeat(call, earlier)
        optimistic = False
        if call.permission is not None:
            decision = self._place(call, call.permission, journal)
            if decision.place is Placement.FORWARD:
                return _Decided(forward_to=decision.master)
            optimistic = decision.place is Placement.LOCAL_OPTIMISTIC
            if optimistic:
                self._check_not_passed_on(call)
        mark = proposal.mark()
        draft = Draft(proposal, call.caller.principal, call.request_id, optimistic)
        call.decide(draft)
        # The last number of each stream stands for those before it.
        positions = tuple({s: write.sequence for s, write in proposal.drafts_since(mark)}.items())
        if call.validate_only:
            proposal.revert(mark)
            return _Decided(optimistic=optimistic)
        if positions:
            self._audit(call, proposal, optimistic)
        return _Decided(optimistic=optimistic, positions=positions)

    def _place(self, call: WriteCall, permission: Permission, journal: Journal) -> WriteDecision:
        table = self._state.authority
        record = table.records.get(call.domain)
        me = journal.identity.controller
        master = record.master_of_record if record is not None else ""
        link_up = bool(master) and master != me and self._forwarder.link_up(master)
        return table.decide_write(me, self._own_domain, call.domain, permission, link_up=link_up)

    def _check_not_passed_on(self, call: WriteCall) -> None:
        """A forwarded write of unknown outcome is never executed here in its place (design §5)."""
        master = self._passed_on.get((call.caller.principal, call.request_id))
        if master is not None:
            raise AuthorityError(
                f"request_id {call.request_id!r} was passed on to {master} before the link went down, and may have "
                "been executed there; repeat it when the link is up, or use a new request_id for a new write",
                domain=call.domain,
                master=master,
                request_id=call.request_id,
            )

    def _repeat(self, call: WriteCall, subject: str) -> _Decided:
        expected = call.subject or call.resource
        if expected != subject and not expected.endswith("/" + subject):
            raise RequestIdReused(
                f"request_id {call.request_id!r} was used for {subject}; use a new one for another request",
                request_id=call.request_id,
                subject=subject,
            )
        return _Decided(repeated=True)

    def _earlier(self, call: WriteCall) -> tuple[_Decided, int | None]:
        """What a repeated request did the first time, and in which commit; it may have been this one's own."""
        outcome = self._state.requests.get((call.caller.principal, call.request_id))
        if outcome is None:
            return _Decided(repeated=True), None
        positions = self._state.positions_at(outcome.stream, outcome.offset)
        return _Decided(repeated=True, positions=positions), outcome.offset

    def _audit(self, call: WriteCall, proposal: Proposal, optimistic: bool) -> None:
        write_audit(
            proposal,
            audit_pb2.AuditRecord(
                principal=call.caller.principal,
                action=call.method.lstrip("/"),
                resource=call.resource,
                source=call.caller.source,
                outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
                request_id=call.request_id,
                issued_by=call.caller.issued_by,
                reason="OPTIMISTIC" if optimistic else "",
            ),
            domain=call.domain,
        )

    async def _wait_durable(self, call: WriteCall, positions: Sequence[Position]) -> None:
        if not call.durable_at or call.durable_at == self._own_domain or not positions:
            return
        remaining = call.caller.remaining_s
        # A tenth of the caller's time is kept back, so that the receipt with the level reached still arrives.
        timeout_s = DEFAULT_DURABILITY_WAIT_S if remaining is None else max(0.0, remaining * 0.9)
        with self._tracer.span(
            "write.durability", attributes={"souverix.durable_at": call.durable_at}
        ):
            await self._durability.wait(call.durable_at, positions, timeout_s)

    def _receipt(
        self,
        call: WriteCall,
        journal: Journal,
        decided: _Decided,
        offset: int | None,
        levels: Sequence[str],
    ) -> receipt_pb2.WriteReceipt:
        receipt = receipt_pb2.WriteReceipt(optimistic=decided.optimistic)
        if call.validate_only and not decided.repeated:
            return receipt
        receipt.domain = call.domain
        receipt.controller = journal.identity.controller
        receipt.repeated_request = decided.repeated
        if decided.positions:
            receipt.incarnation = journal.identity.incarnation
            receipt.durable_at.append(self._own_domain)
            receipt.durable_at.extend(
                self._durability.domains_holding(decided.positions, levels[1:])
            )
        if offset is not None:
            receipt.commit_offset = offset
        return receipt

    def _levels(self) -> list[str]:
        """Own domain first, then its ancestors up to the root."""
        path = self._state.authority.path_of(self._own_domain)
        return list(reversed(path)) if path else [self._own_domain]


def write_audit(proposal: Proposal, record: audit_pb2.AuditRecord, *, domain: str) -> StreamId:
    """Drafts an audit event in a domain's audit stream; a domain beyond reach is audited in the controller's own."""
    identity = proposal.identity
    within = proposal.state.authority.is_within(domain, identity.domain)
    target = domain if within else identity.domain
    proposal.write(
        target, f"audit/{identity.controller}", "audit", record, principal=record.principal
    )
    return own_stream(target, identity.origin, "audit")
