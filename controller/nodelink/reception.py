"""What the conversations with all nodes share: who is linked, who may come in, whose turn it is, what was staged. Owns
these for one replica; a conversation is one node's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Coroutine
from typing import Any

from controller.background import Turns
from controller.bearer import Bearers
from controller.journal import Journal
from controller.log.errors import LogError
from controller.nodelink.admission import Admission
from controller.nodelink.attesting import Attesting
from controller.nodelink.connectivity import ConnectivityRecorder
from controller.nodelink.dispatch import Dispatcher
from controller.nodelink.elsewhere import Elsewhere
from controller.nodelink.greeting import (
    ENROLMENTS_BURST,
    ENROLMENTS_PER_S,
    Enrolment,
    Identified,
    NotWelcome,
)
from controller.nodelink.incidents import Incident, Incidents
from controller.nodelink.link import Contest, End, Link
from controller.nodelink.links import Links
from controller.nodelink.rate import TokenBucket
from controller.nodelink.replays import Replays
from controller.nodelink.staging import Parked
from controller.replica import Replica
from controller.signing import Ed25519Verifier
from controller.values import ValueStore
from souverix.fleet.v1 import return_pb2
from souverix.nodelink.v1 import nodelink_pb2

_log = logging.getLogger(__name__)

#: How long the answer "who is master" is good for: agents that lost their master ask all at once.
MASTER_KNOWN_S = 1.0

#: When an agent should ask again where nothing is wrong with it.
BUSY_RETRY_S = 5.0


class Reception:
    """The shared part of one replica's links. `journal` is set while agents are served."""

    def __init__(
        self, replica: Replica, values: ValueStore, bearers: Bearers | None = None
    ) -> None:
        agents = replica.config.agents
        self.replica = replica
        self.values = values
        #: Judges certificates that vouch for agents' keys; None without TLS: then nobody's is asked for.
        self.bearers = bearers
        self.controller = replica.config.controller.id
        self.links = Links(agents.max_links, agents.heartbeat_interval_s)
        self.dispatcher = Dispatcher(replica, self.links)
        self.connectivity = ConnectivityRecorder(replica, self.links)
        self.enrolment = Enrolment(
            agents.enrolment == "open",
            TokenBucket(ENROLMENTS_PER_S, ENROLMENTS_BURST, time.monotonic()),
            replica.state,
        )
        self.admission = Admission(
            agents.returns_per_s, agents.arrivals_per_s, agents.max_links, random.random
        )
        #: Turns to replay, given in the order in which they are asked for.
        self.turns = Turns(agents.max_replays)
        self.parked = Parked()
        self.replays = Replays()
        self.incidents = Incidents(time.monotonic())
        self.elsewhere = Elsewhere()
        self.verifier = Ed25519Verifier()
        self.attesting = Attesting(replica, self.links, self.verifier)
        self.journal: Journal | None = None
        self._kept: set[asyncio.Task[None]] = set()
        self._master: tuple[float, str] = (float("-inf"), "")

    @property
    def is_serving(self) -> bool:
        """Tells whether agents are welcome: this replica is the master, and its duty runs."""
        return self.journal is not None and self.replica.is_master

    def forget(self) -> None:
        """Another mastership begins: what was measured and staged under an earlier one is void."""
        self.parked.clear()
        self.replays.clear()
        for task in self._kept:
            task.cancel()

    async def serving_journal(self) -> Journal:
        """The journal of the standing mastership. Raises `NotWelcome`, naming the master where it is known."""
        journal = self.journal
        if journal is not None and self.is_serving:
            return journal
        master = await self._master_address()
        raise NotWelcome(
            nodelink_pb2.LINK_END_NOT_MASTER,
            f"replica {self.replica.config.controller.replica} is not the master of {self.controller}"
            + (f"; {master} is" if master else ""),
        )

    def fence(self, placement_epoch: int) -> nodelink_pb2.Fence:
        """What frames to a node carry."""
        return nodelink_pb2.Fence(
            placement_epoch=placement_epoch,
            controller=self.controller,
            incarnation=self.replica.incarnation,
            fencing_token=self.journal.fencing_token if self.journal is not None else 0,
        )

    def make_room(self, agent: Identified, peer: str, relay: str, now_s: float) -> None:
        """Refuses a second agent of a node while the first lives, and any link when there are too many.

        The same run of the same agent, which proved to hold the key, takes over its own link: it keeps one stream at a
        time, and has left the other, be it of its own or through a relay.
        """
        hello, vouched = agent.hello, agent.vouched
        held = self.links.get(hello.node)
        if held is not None:
            same_run = (held.run, held.source) == (hello.run, hello.source)
            if self.links.is_alive(held, now_s) and not same_run:
                fingerprint = vouched.fingerprint if vouched is not None else ""
                held.contest = Contest(peer, relay, fingerprint, now_s)
                wait_s = self.links.silence_limit_s - (now_s - held.heard_s)
                raise NotWelcome(
                    nodelink_pb2.LINK_END_DUPLICATE,
                    f"an agent of {hello.node} is linked already (last heard {now_s - held.heard_s:.1f} s ago); stop "
                    "the other, or wait until it is silent",
                    max(1.0, wait_s),
                )
            if same_run:
                path = f"relay {relay}" if relay else "a stream of its own"
                held.end(
                    nodelink_pb2.LINK_END_HANDED_OVER,
                    f"{held.node} comes through {path} now",
                    End("handed_over", f"the node came through {path}", is_news=False),
                )
            else:
                held.end(
                    nodelink_pb2.LINK_END_DUPLICATE,
                    "another link of this node has taken over",
                    End("replaced", "silent when another link came", is_news=False),
                )
            self.links.remove(held)
            self.dispatcher.link_closed(held)
            self.attesting.link_closed(held)
        if self.links.is_full:
            raise NotWelcome(
                nodelink_pb2.LINK_END_UNSPECIFIED,
                f"{len(self.links)} nodes are linked, as many as this controller may hold (agents.max_links)",
                BUSY_RETRY_S,
            )

    async def heard_while_contested(self, link: Link, journal: Journal) -> None:
        """The agent that holds a link has spoken after another one with its key was refused: both are alive."""
        other, link.contest = link.contest, None
        if other is None:
            return
        evidence = (
            f"an agent that calls from {other.peer} was refused while the linked one, from {link.peer}, is alive: the "
            "state directory was copied, or one host runs the agent twice"
        )
        incident = Incident(
            link.domain,
            link.node,
            return_pb2.INCIDENT_KIND_TWO_AGENTS,
            evidence,
            other.peer,
            relay=other.relay,
            linked_source=link.peer,
            certificate=other.certificate,
        )
        await self.note(incident, journal)

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that goes on when the link that asked for it ends; with the mastership it ends."""
        task = asyncio.create_task(work)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        return task

    async def note(self, incident: Incident, journal: Journal) -> None:
        """Records an incident, within its rate."""
        if await self.incidents.record(journal, incident, time.monotonic()):
            _log.warning(
                "a return is not in order",
                extra={"node": incident.node, "cause": incident.evidence},
            )

    async def _master_address(self) -> str:
        """The master as "replica@address"; empty while it is not known."""
        known_s, master = self._master
        now_s = time.monotonic()
        if now_s - known_s > MASTER_KNOWN_S:
            with contextlib.suppress(LogError):
                master = await self.replica.log.current_master() or ""
            self._master = (now_s, master)
        return master
