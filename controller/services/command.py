"""CommandService: issues commands, cancels them, and tells what became of them. Owns what the methods mean; whom a
command is for, what may be asked and how far it got are `command`'s, its delivery is `nodelink`'s.
"""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from controller.command.issuing import check_repeat, command_id_of, facts_of
from controller.command.messages import subject_of_command
from controller.command.targets import resolve
from controller.command.view import (
    command_facts,
    listed_commands,
    open_domains,
    preview_of,
    view_of,
)
from controller.errors import ServiceError
from controller.replica import Replica
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_domain_filter, check_text
from controller.services.paging import page_of
from controller.services.watching import MAX_WATCH_AGE_S
from controller.telemetry.calls import trace_of
from controller.writes import Draft, Executed, WriteCall
from federation.errors import (
    EtagMismatch,
    InvalidWrite,
    NotFound,
    OutOfReach,
    RequestIdReused,
    WrongState,
)
from federation.identifiers import Key
from federation.state import Applied
from souverix.command.v1 import command_pb2, command_service_pb2, command_service_pb2_grpc

SERVICE = "/souverix.command.v1.CommandService/"

#: A page ends before this, so that it fits into one message however many targets its commands have.
MAX_PAGE_BYTES = 2 * 1024 * 1024

#: Watches at a time: each looks at every commit.
MAX_WATCHES = 1024

#: Pause after a view that is sent, for each target in it: a view of ten thousand targets is not made a hundred times a
#: second.
WATCH_PAUSE_A_TARGET_S = 0.0001

#: Highest stamp there is: subtracted from, it makes the newest come first.
MAX_STAMP = 2**64 - 1


class CommandService(command_service_pb2_grpc.CommandServiceServicer):
    """The service of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._state = replica.state
        self._own_domain = replica.config.controller.domain
        self._watches = 0

    async def IssueCommand(
        self, request: Any, context: Any
    ) -> command_service_pb2.IssueCommandResponse:
        """Issues a command."""
        self._replica.journal()
        caller = caller_of(context)
        command_id = command_id_of(caller.principal, request.request_id or secrets.token_hex(16))
        subject = subject_of_command(command_id)
        earlier = view_of(self._state, command_id)
        if earlier is not None:
            check_repeat(request, earlier)
            placed = {d: tuple(w.body().nodes) for d, w in command_facts(self._state, command_id)}
        else:
            placed = resolve(self._state, self._own_domain, request.targets)
        facts = facts_of(
            request,
            command_id,
            placed,
            self._replica.config.controller.id,
            _wall_ms(),
            str(trace_of(context) or ""),
        )

        def decide(draft: Draft) -> None:
            if draft.proposal.winner(Key(next(iter(facts)), subject, "command")) is not None:
                return
            for domain, fact in facts.items():
                draft.write(domain, subject, "command", fact)

        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller,
                method=f"{SERVICE}IssueCommand",
                request=request,
                domain=next(iter(facts)),
                resource=subject,
                permission=None,
                decide=decide,
                request_id=request.request_id,
                validate_only=request.validate_only,
                durable_at=request.durable_at,
            )
        )
        assert isinstance(result, Executed)  # noqa: S101 without a permission nothing is forwarded
        if request.validate_only:
            preview = earlier or preview_of(facts, caller.principal)
            return command_service_pb2.IssueCommandResponse(command=preview)
        return command_service_pb2.IssueCommandResponse(
            command=self._required(command_id), receipt=result.receipt
        )

    async def CancelCommand(
        self, request: Any, context: Any
    ) -> command_service_pb2.CancelCommandResponse:
        """Asks to stop a command."""
        self._replica.journal()
        caller = caller_of(context)
        command_id = _id_in(request.name)
        check_text(request.reason, "reason")
        subject = subject_of_command(command_id)
        self._required(command_id)
        self._check_not_of_issue(caller.principal, request.request_id)

        def decide(draft: Draft) -> None:
            present = view_of(draft.proposal, command_id)
            if present is None:
                raise _not_found(command_id)
            if request.etag and request.etag != present.etag:
                raise EtagMismatch(
                    f"{subject} has changed since it was read; read it again, then decide",
                    subject=subject,
                    etag=present.etag,
                )
            if present.done:
                raise WrongState(f"{subject} is done; there is nothing to stop", subject=subject)
            asked = command_pb2.CancelRequest(command_id=command_id, reason=request.reason)
            for domain in self._cancellable(draft, command_id):
                if draft.proposal.winner(Key(domain, subject, "command_cancel")) is None:
                    draft.write(domain, subject, "command_cancel", asked)

        first_domain = next(domain for domain, _ in command_facts(self._state, command_id))
        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller,
                method=f"{SERVICE}CancelCommand",
                request=request,
                domain=first_domain,
                resource=subject,
                permission=None,
                decide=decide,
                request_id=request.request_id,
                validate_only=request.validate_only,
                durable_at=request.durable_at,
            )
        )
        assert isinstance(result, Executed)  # noqa: S101 without a permission nothing is forwarded
        return command_service_pb2.CancelCommandResponse(
            command=self._required(command_id),
            receipt=None if request.validate_only else result.receipt,
        )

    async def GetCommand(
        self, request: Any, context: Any
    ) -> command_service_pb2.GetCommandResponse:
        """Reads one command."""
        return command_service_pb2.GetCommandResponse(command=self._required(_id_in(request.name)))

    async def ListCommands(
        self, request: Any, context: Any
    ) -> command_service_pb2.ListCommandsResponse:
        """Lists commands, newest first."""
        check_domain_filter(request.domain)
        page = page_of(request)
        response = command_service_pb2.ListCommandsResponse()
        size = 0
        last = ""
        for stamp, command_id in listed_commands(self._state, request.domain):
            place = f"{MAX_STAMP - stamp:020d}/{command_id}"
            if place <= page.after:
                continue
            view = self._listed(request, command_id)
            if view is None:
                continue
            size += view.ByteSize()
            full = len(response.commands) >= page.size or size > MAX_PAGE_BYTES
            if full and response.commands:
                response.next_page_token = page.token(last)
                break
            response.commands.append(view)
            last = place
        return response

    async def WatchCommand(
        self, request: Any, context: Any
    ) -> AsyncIterator[command_service_pb2.WatchCommandResponse]:
        """Sends the command as it is and after each change, until it is done or the stream's age ends it."""
        command_id = _id_in(request.name)
        if self._watches >= MAX_WATCHES:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_WATCHES",
                f"{MAX_WATCHES} watches of commands run already; retry later, or read with GetCommand",
            )
        subject = subject_of_command(command_id)
        changed = asyncio.Event()

        def note(applied: Applied) -> None:
            if any(
                k.subject == subject or k.subject.startswith(f"{subject}/") for k in applied.keys
            ):
                changed.set()

        self._watches += 1
        try:
            with self._replica.changes.listen(note):
                async for response in self._views(command_id, changed):
                    yield response
        finally:
            self._watches -= 1

    async def _views(
        self, command_id: str, changed: asyncio.Event
    ) -> AsyncIterator[command_service_pb2.WatchCommandResponse]:
        etag = ""
        end_s = time.monotonic() + MAX_WATCH_AGE_S
        while True:
            changed.clear()
            view = self._required(command_id)
            if view.etag != etag:
                etag = view.etag
                yield command_service_pb2.WatchCommandResponse(command=view)
            if view.done:
                return
            await asyncio.sleep(len(view.deliveries) * WATCH_PAUSE_A_TARGET_S)
            try:
                async with asyncio.timeout(end_s - time.monotonic()):
                    await changed.wait()
            except TimeoutError:
                return

    def _required(self, command_id: str) -> command_pb2.Command:
        view = view_of(self._state, command_id)
        if view is None:
            raise _not_found(command_id)
        return view

    def _listed(self, request: Any, command_id: str) -> command_pb2.Command | None:
        """The command, if the list asks for it."""
        facts = command_facts(self._state, command_id)
        if request.node and not any(request.node in w.body().nodes for _, w in facts):
            return None
        view = view_of(self._state, command_id)
        if view is None or (request.only_open and view.done):
            return None
        return view

    def _cancellable(self, draft: Draft, command_id: str) -> list[str]:
        """Domains with unfinished targets, all within this controller's subtree. Raises `OutOfReach`."""
        table = self._state.authority
        found = open_domains(draft.proposal, command_id)
        within = [domain for domain in found if table.is_within(domain, self._own_domain)]
        if not within:
            raise OutOfReach(
                f"commands/{command_id} waits in {', '.join(found)}, not in the subtree of {self._own_domain}; cancel "
                "it at a controller above",
                domain=found[0],
            )
        return within

    def _check_not_of_issue(self, principal: str, request_id: str) -> None:
        """A cancel is another request than the command's own, though both are about one subject."""
        earlier = self._state.requests.get((principal, request_id)) if request_id else None
        if earlier is not None and earlier.aspect == "command":
            raise RequestIdReused(
                f"request_id {request_id!r} was used to issue {earlier.subject}; use a new one to cancel",
                request_id=request_id,
                subject=earlier.subject,
            )


def _id_in(name: str) -> str:
    kind, _, command_id = name.partition("/")
    if kind != "commands" or not command_id or "/" in command_id:
        raise InvalidWrite(f"name {name[:80]!r} is not of the form commands/ID", field="name")
    return command_id


def _not_found(command_id: str) -> NotFound:
    return NotFound(
        f"commands/{command_id} is not known here; it arrives with the next sync, or was issued elsewhere",
        subject=subject_of_command(command_id),
    )


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
