"""NodeLinkService: the agents' streams. Owns the life of all links together under one mastership; one node's is its
conversation's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from controller.bearer import Bearer, Bearers
from controller.command.targets import delivering_controller
from controller.journal import Journal
from controller.nodelink.conversation import Conversation
from controller.nodelink.incidents import is_isolated
from controller.nodelink.link import NOT_MASTER_MESSAGE, End, Link
from controller.nodelink.reception import Reception
from controller.nodelink.relay_call import RelayedCall
from controller.nodelink.session import SessionState, Step
from controller.replica import Replica
from controller.twin.facts import exists, home_of
from controller.values import ValueStore
from federation.state import Applied
from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc

Request = nodelink_pb2.ConnectRequest
Response = nodelink_pb2.ConnectResponse


class NodeLinkService(nodelink_pb2_grpc.NodeLinkServiceServicer):
    """Serves `Connect`. `duty` is registered with the replica: links stand only while it runs."""

    def __init__(
        self, replica: Replica, values: ValueStore, bearers: Bearers | None = None
    ) -> None:
        """With `bearers` an agent's key must be vouched for by the node's certificate."""
        self._replica = replica
        self.desk = Reception(replica, values, bearers)
        self.links = self.desk.links
        if bearers is not None:
            bearers.on_recheck.append(lambda: self._end_unvouched(bearers.why_refused))
        replica.add_duty(self.duty)

    async def duty(self, journal: Journal) -> None:
        """Serves agents until the mastership ends, which ends all links."""
        desk = self.desk
        desk.forget()
        desk.journal = journal
        try:
            with self._replica.changes.listen(self._note):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(desk.dispatcher.run(journal))
                    tasks.create_task(desk.connectivity.run(journal))
                    tasks.create_task(desk.attesting.run(journal))
                    tasks.create_task(self._sweep(journal))
        finally:
            desk.journal = None
            self.links.end_all(nodelink_pb2.LINK_END_NOT_MASTER, NOT_MASTER_MESSAGE, "master_lost")

    @property
    def is_serving(self) -> bool:
        """Tells whether agents are welcome: this replica is the master, and its duty runs."""
        return self.desk.is_serving

    async def serving_journal(self) -> Journal:
        """The journal, while this replica is master and serves. Raises `NotWelcome`."""
        return await self.desk.serving_journal()

    def fence(self, placement_epoch: int) -> nodelink_pb2.Fence:
        """The fence of this mastership."""
        return self.desk.fence(placement_epoch)

    def stop(self) -> None:
        """The process stops: takes leave of all agents."""
        self.desk.journal = None
        self.links.end_all(
            nodelink_pb2.LINK_END_SHUTDOWN, "the controller's process stops", "controller_stopped"
        )

    async def Connect(  # noqa: N802 the method's name in the contract
        self, request_iterator: AsyncIterator[Request], context: Any
    ) -> AsyncGenerator[Response, None]:
        """One agent's stream."""
        relay = context if isinstance(context, RelayedCall) else None
        conversation = Conversation(self.desk, request_iterator, context.peer(), relay)
        context.add_done_callback(lambda _: conversation.close())
        async for frame in conversation.frames():
            yield frame

    # All links.

    async def _sweep(self, journal: Journal) -> None:
        while True:
            self.links.sweep(time.monotonic())
            self._end_expired()
            for link in self.links:
                if link.contest is not None and link.heard_s > link.contest.at_s:
                    await self.desk.heard_while_contested(link, journal)
            await asyncio.sleep(self._replica.config.agents.heartbeat_interval_s)

    def _end_expired(self) -> None:
        """Ends the links of nodes whose certificate has ended, where their stream does not end with it by itself."""
        bearers = self.desk.bearers
        if bearers is not None:
            self._end_unvouched(lambda b: "it has ended" if bearers.has_ended(b) else "")

    def _end_unvouched(self, why: Callable[[Bearer], str]) -> None:
        for link in self.links:
            cause = why(link.watched) if link.watched is not None else ""
            if cause:
                message = (
                    f"the certificate that vouched for {link.node}'s key holds no more: {cause}"
                )
                _end(link, nodelink_pb2.LINK_END_IDENTITY, "certificate_ended", message)

    def _note(self, applied: Applied) -> None:
        """Ends the links of nodes that a commit moved, deleted, or gave to another controller."""
        table = self._replica.state.authority
        if applied.authority_changed:
            self.links.end_all(
                nodelink_pb2.LINK_END_MOVED,
                "another controller delivers to the node's domain now",
                "moved",
                lambda link: delivering_controller(table, link.domain) != self.desk.controller,
            )
        for key in applied.keys:
            if key.aspect not in ("placement", "existence", "lifecycle"):
                continue
            link = self.links.get(key.subject.removeprefix("nodes/"))
            if link is None or not key.subject.startswith("nodes/"):
                continue
            if key.aspect == "lifecycle":
                self._note_lifecycle(link)
                continue
            home = home_of(self._replica.state, key.subject)
            if (
                home is None
                or home.domain != link.domain
                or home.epoch != link.fence.placement_epoch
            ):
                where = home.domain if home else "nowhere"
                _end(
                    link, nodelink_pb2.LINK_END_MOVED, "moved", f"{link.node} lives in {where} now"
                )
            elif not exists(self._replica.state, home.domain, key.subject):
                message = f"{link.node} was deleted"
                _end(link, nodelink_pb2.LINK_END_UNKNOWN_NODE, "deleted", message)

    def _note_lifecycle(self, link: Link) -> None:
        """Has a node return anew that was isolated for its backlog and is not any more."""
        session = link.session
        if session.state is not SessionState.QUARANTINED:
            return
        if not is_isolated(self._replica.state, link.domain, link.node):
            session.move(Step.RELEASED)
            message = f"{link.node} was released: return anew"
            link.end(
                nodelink_pb2.LINK_END_RELEASED, message, End("released", message, is_news=False)
            )


def _end(link: Link, reason: nodelink_pb2.LinkEnd, why: str, message: str) -> None:
    link.end(reason, message, End(why, message))
