"""Batches of node writes: each item stands for itself. Owns how items are grouped, and how each one's outcome is told.

Items of one domain that need the same permissions are decided in one submission, so that a batch of 500 costs one
commit, one seal a stream and one audit event. Items of a domain another controller is master of are forwarded together.
Each item has its own idempotency key, made of the batch's request_id and the node's id: it holds however a repeated
batch is grouped or led.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message
from google.rpc import error_details_pb2

from controller.errors import ForwardedStatus, ServiceError, status_of
from controller.replica import Replica
from controller.services.calls import caller_of
from controller.services.fleet_fields import (
    accept_desired_state,
    check_id,
    check_node_spec,
    id_in_name,
)
from controller.services.fleet_nodes import SERVICE, check_domain, new_node_id
from controller.services.fleet_rules import (
    Permissions,
    check_autonomy,
    check_etag,
    declare_desired,
    draft_node,
    node_in,
    permissions_to_declare,
    required_node,
)
from controller.twin.node import node_etag
from controller.writes import Caller, Draft, Executed, Forwarded, WriteCall
from federation.authority import Permission
from federation.errors import FederationError, InvalidWrite
from federation.identifiers import Key
from souverix.fleet.v1 import fleet_service_pb2, item_status_pb2
from souverix.receipt.v1 import receipt_pb2

R = TypeVar("R")

#: Most items in one batch (design §10).
MAX_ITEMS = 500

#: Bytes of items in one submission: with what is added to each event they stay below one largest event's share of a
#: commit, so that other writes find room beside them.
MAX_SUBMISSION_BYTES = 128 * 1024


class Item(NamedTuple):
    """One item, checked as far as it can be without the proposal."""

    number: int
    #: What it writes, "nodes/{id}".
    subject: str
    domain: str
    permissions: Permissions
    message: Message
    decide: Callable[[Draft], None]
    #: The message is the one that was sent, nothing filled in.
    as_sent: bool = False

    @property
    def node_id(self) -> str:
        """The plain id."""
        return self.subject.partition("/")[2]


@dataclass(slots=True)
class Outcomes:
    """How the items of one submission ended, but for those that were written."""

    refused: dict[int, Exception] = field(default_factory=dict)
    repeated: set[int] = field(default_factory=set)


class NodeBatches:
    """The batch writes of nodes."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._own_domain = replica.config.controller.domain

    async def create(
        self, request: Any, context: Any
    ) -> fleet_service_pb2.BatchCreateNodesResponse:
        """As `FleetService.BatchCreateNodes`."""
        caller = caller_of(context)
        return await self._run(
            "BatchCreateNodes",
            request,
            caller,
            lambda number, item: self._creation(number, item, request.request_id, caller),
            fleet_service_pb2.BatchCreateNodesResponse,
        )

    async def set_desired_states(
        self, request: Any, context: Any
    ) -> fleet_service_pb2.BatchSetDesiredStatesResponse:
        """As `FleetService.BatchSetDesiredStates`."""
        return await self._run(
            "BatchSetDesiredStates",
            request,
            caller_of(context),
            self._declaration,
            fleet_service_pb2.BatchSetDesiredStatesResponse,
        )

    def _creation(self, number: int, item: Any, request_id: str, caller: Caller) -> Item:
        domain = check_id(item.domain or self._own_domain, f"items[{number}].domain")
        node_id = item.node_id or new_node_id(caller, request_id, number)
        check_id(node_id, f"items[{number}].node_id")
        check_node_spec(item.spec, f"items[{number}].spec")
        permissions: Permissions = (Permission.OPERATE,)
        desired = None
        if item.HasField("desired_state"):
            desired = accept_desired_state(item.desired_state, f"items[{number}].desired_state")
            permissions = (*permissions, *permissions_to_declare(desired))
        full = fleet_service_pb2.NodeCreation(
            domain=domain, node_id=node_id, spec=item.spec, desired_state=desired
        )

        subject = f"nodes/{node_id}"

        def decide(draft: Draft) -> None:
            check_domain(draft.proposal, domain)
            draft_node(draft, domain, subject, item.spec, desired)

        return Item(number, subject, domain, permissions, full, decide)

    def _declaration(self, number: int, item: Any) -> Item:
        subject: str = item.name
        id_in_name(subject, "nodes", f"items[{number}].name")
        desired = accept_desired_state(item.desired_state, f"items[{number}].desired_state")
        state = self._replica.state
        domain = required_node(state, subject).home.domain
        existence, placement = Key(domain, subject, "existence"), Key(domain, subject, "placement")
        seen = state.siblings(existence), state.siblings(placement)

        def decide(draft: Draft) -> None:
            proposal = draft.proposal
            # The node was looked at above; only when it was written to since must it be looked at again.
            if (
                proposal.siblings(existence) is not seen[0]
                or proposal.siblings(placement) is not seen[1]
            ):
                node_in(proposal, subject, domain)
            if item.etag:
                check_etag(item.etag, node_etag(proposal, domain, subject), subject)
            declare_desired(draft, domain, subject, desired)

        return Item(number, subject, domain, permissions_to_declare(desired), item, decide, True)

    async def _run(
        self,
        method: str,
        request: Any,
        caller: Caller,
        read: Callable[[int, Any], Item],
        response: type[R],
    ) -> R:
        if not 1 <= len(request.items) <= MAX_ITEMS:
            raise InvalidWrite(
                f"items holds {len(request.items)} items; a batch has 1 to {MAX_ITEMS}",
                field="items",
            )
        reply: Any = response()
        results = [reply.results.add() for _ in request.items]
        groups: dict[tuple[str, Permissions], list[Item]] = {}
        first_of: dict[str, int] = {}
        for number, message in enumerate(request.items):
            try:
                item = read(number, message)
            except FederationError as error:
                results[number].status.CopyFrom(status_of_item(error))
                continue
            first = first_of.setdefault(item.subject, number)
            if first != number:
                raise InvalidWrite(
                    f"items[{first}] and items[{number}] both name {item.subject}; a node may be named once in a batch",
                    field=f"items[{number}]",
                )
            groups.setdefault((item.domain, item.permissions), []).append(item)
        submissions = [part for group in groups.values() for part in _parts(group)]
        await asyncio.gather(
            *(self._submit(method, request, caller, part, reply) for part in submissions)
        )
        answered: R = reply
        return answered

    async def _submit(
        self, method: str, request: Any, caller: Caller, items: list[Item], reply: Any
    ) -> None:
        """Has the items of one domain written, and fills the result of each in the reply."""
        outcomes = Outcomes()
        domain, permissions = items[0].domain, items[0].permissions
        whole = len(items) == len(request.items)
        call = WriteCall(
            caller=caller,
            method=f"{SERVICE}{method}",
            request=_request_of(request, items),
            domain=domain,
            resource=f"domains/{domain}/nodes ({len(items)} items)"
            if not whole or len(items) > 1
            else items[0].subject,
            permission=permissions[0],
            decide=lambda draft: _decide(draft, request.request_id, items, outcomes),
            request_id=request.request_id,
            validate_only=request.validate_only,
            durable_at=request.durable_at,
        )
        results = reply.results
        try:
            executed = await self._replica.writer.execute(call)
        except (FederationError, ServiceError, ForwardedStatus) as error:
            status = status_of_item(error)
            for item in items:
                results[item.number].status.CopyFrom(status)
                results[item.number].name = item.subject
            return
        if isinstance(executed, Forwarded):
            theirs = type(reply).FromString(executed.response).results
            for item, result in zip(items, theirs, strict=True):
                results[item.number].CopyFrom(result)
            return
        for item in items:
            self._fill(results[item.number], request, caller, item, outcomes, executed)

    def _fill(
        self,
        result: fleet_service_pb2.NodeWriteResult,
        request: Any,
        caller: Caller,
        item: Item,
        outcomes: Outcomes,
        executed: Executed,
    ) -> None:
        """The result of one item that was decided here."""
        result.name = item.subject
        refusal = outcomes.refused.get(item.number)
        if refusal is not None:
            result.status.CopyFrom(status_of_item(refusal))
            return
        result.status.SetInParent()
        if request.validate_only:
            return
        receipt = executed.receipt
        if item.number in outcomes.repeated:
            receipt = self._earlier(caller, _item_request(request.request_id, item))
        result.etag = node_etag(self._replica.state, item.domain, item.subject)
        result.receipt.CopyFrom(receipt)

    def _earlier(self, caller: Caller, item_request: str) -> receipt_pb2.WriteReceipt:
        """The receipt of an item that an earlier batch of the same request_id had written."""
        outcome = self._replica.state.requests.get((caller.principal, item_request))
        receipt = receipt_pb2.WriteReceipt(repeated_request=True)
        if outcome is not None:
            receipt.domain = outcome.stream.domain
            receipt.controller = outcome.stream.origin.controller
            receipt.incarnation = outcome.stream.origin.incarnation
            receipt.commit_offset = outcome.offset
            receipt.durable_at.append(self._own_domain)
        return receipt


def status_of_item(error: BaseException) -> item_status_pb2.ItemStatus:
    """What a call for the item alone would have ended with."""
    status = status_of(error)
    item = item_status_pb2.ItemStatus(code=status.code, message=status.message)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            item.reason = info.reason
            item.metadata.update(info.metadata)
    return item


def _decide(draft: Draft, request_id: str, items: list[Item], outcomes: Outcomes) -> None:
    proposal = draft.proposal
    # It may run again, on another proposal.
    outcomes.refused.clear()
    outcomes.repeated.clear()
    for item in items:
        item_request = _item_request(request_id, item)
        if item_request and proposal.subject_of_request(draft.principal, item_request) is not None:
            outcomes.repeated.add(item.number)
            continue
        mark = proposal.mark()
        try:
            check_autonomy(draft, item.permissions)
            item.decide(Draft(proposal, draft.principal, item_request, draft.optimistic))
        except FederationError as error:
            proposal.revert(mark)
            outcomes.refused[item.number] = error


def _item_request(request_id: str, item: Item) -> str:
    return f"{request_id}/{item.node_id}" if request_id else ""


def _parts(group: list[Item]) -> list[list[Item]]:
    """Cuts a group where one submission would grow too large; nearly always it is one."""
    parts: list[list[Item]] = [[]]
    size = 0
    for item in group:
        item_size = item.message.ByteSize()
        if parts[-1] and size + item_size > MAX_SUBMISSION_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += item_size
    return parts


def _request_of(request: Any, items: list[Item]) -> Message:
    """The request for some of the items alone, in the form in which it can be forwarded."""
    if len(items) == len(request.items) and items[0].as_sent:
        whole: Message = request
        return whole
    part: Message = type(request)(
        items=[item.message for item in items],
        request_id=request.request_id,
        validate_only=request.validate_only,
        durable_at=request.durable_at,
    )
    return part
