"""Writes of resources named DOMAIN/ID, and their responses: the receipt, and the resource as it is after the write or,
with validate_only, as it would be. Owns how a write's outcome becomes its response; what a write means is its service's
to say, and where it may be made the write path's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from controller.replica import Replica
from controller.services.fleet_rules import Permissions, check_autonomy
from controller.twin.facts import Facts
from controller.writes import Caller, Draft, Forwarded, WriteCall

R = TypeVar("R")

#: Domain and subject of a resource.
At = tuple[str, str]


class Shown(NamedTuple):
    """How one kind of resource is shown in the responses of its writes."""

    #: Field of the responses that holds it; a response without it, such as a deletion's, shows nothing.
    field: str
    #: Name of the resource at (domain, subject).
    name: Callable[[str, str], str]
    #: The resource at (domain, subject). Raises `NotFound`.
    read: Callable[[Facts, str, str], Message]


class ShownWrites:
    """The writes of one service's resources of one kind."""

    def __init__(self, replica: Replica, service: str, shown: Shown) -> None:
        self._replica = replica
        self._service = service
        self._shown = shown

    async def execute(
        self,
        method: str,
        request: Any,
        caller: Caller,
        at: At,
        permissions: Permissions,
        decide: Callable[[Draft], None],
        response: type[R],
        *,
        settle: Callable[[Any], Awaitable[None]] | None = None,
    ) -> R:
        """Executes a write of the resource at (domain, subject) and makes its response.

        Without `permissions` no authority is asked for. `settle` is what must be done before the resource is shown: it
        is given the preview, to complete it, or None after a write. Raises core errors, journal errors, `ServiceError`,
        `ForwardedStatus`.
        """
        kind: Any = response
        field, name, read = self._shown
        shows = field in kind.DESCRIPTOR.fields_by_name
        domain, subject = at
        previews: list[Message] = []

        def decide_and_preview(draft: Draft) -> None:
            check_autonomy(draft, permissions)
            decide(draft)
            if request.validate_only and shows:
                previews.append(read(draft.proposal, domain, subject))

        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller,
                method=f"{self._service}{method}",
                request=request,
                domain=domain,
                resource=name(domain, subject),
                permission=permissions[0] if permissions else None,
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
        if request.validate_only:
            reply.receipt.domain = ""
        if shows:
            preview = previews[0] if previews else None
            if settle is not None:
                await settle(preview)
            shown = read(self._replica.state, domain, subject) if preview is None else preview
            getattr(reply, field).CopyFrom(shown)
        written: R = reply
        return written
