"""The stage of the story: the processes, the link that can be cut, clients at every level, and waiting. Owns what it
starts and leaves none behind; the steps decide what happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from deploy.demo.client import Channels, Client
from deploy.demo.display import Display
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from deploy.tcp_proxy import TcpProxy
from souverixctl.errors import Refused

T = TypeVar("T")

#: The node that is this host; its agent reports what this machine is.
REAL_NODE = "this-host"

#: This host once more, as a node of zone a2 behind a link of its own.
FIELD_NODE = "field-unit"

#: And once more there: lent, and its certificate misused.
LENT_NODE = "lent-unit"

#: And again in zone a2, where strangers get at it.
SHED_NODE = "shed-unit"

#: And in zone a1, by a certificate that it comes by itself.
NEW_NODE = "new-unit"

#: And behind the air gap.
ISLAND_NODE = "well-pump"

GLOBAL = "global"
REGION_A = "region-a"
REGION_B = "region-b"
ZONE_A1 = "edge-zone-a1"
ZONE_A2 = "edge-zone-a2"
ZONE_B1 = "edge-zone-b1"
ISLAND = "island-b9"

#: Parents before children. Zone b1 syncs when it is asked to, or every quarter of an hour; the island by files alone.
TREE = (
    DomainPlan(GLOBAL),
    DomainPlan(REGION_A, parent=GLOBAL, kind="region", level="regional", replicas=2),
    DomainPlan(REGION_B, parent=GLOBAL, kind="region", level="regional"),
    DomainPlan(ZONE_A1, parent=REGION_A),
    DomainPlan(ZONE_A2, parent=REGION_A),
    DomainPlan(ZONE_B1, parent=REGION_B, level="autonomous", sync_mode="opportunistic"),
    DomainPlan(
        ISLAND,
        parent=REGION_B,
        kind="air-gap-island",
        level="autonomous",
        sync_mode="manual",
        log="sqlite",
        air_gapped=True,
    ),
)

#: Who is below a link.
LINKED = tuple(plan for plan in TREE if plan.parent and not plan.air_gapped)

#: Simulated agents of each zone.
SIMULATED = {ZONE_A1: 20, ZONE_A2: 20, ZONE_B1: 20}

#: All nodes: the simulated ones and this host.
NODES = sum(SIMULATED.values()) + 1

#: Longer than the integrity of the story needs: a busy machine may pause a process for a second.
LEASE_TTL_S = 3.0

#: How soon zone a2 says that a node is cut off, and which backlog is a replay: short, for the spectator waits.
FIELD_CONNECTIVITY = """
[connectivity]
autonomous_after_s = 1.0
replay_backlog = 2
"""

#: Longest wait for anything: a slow machine needs seconds for what takes milliseconds here.
WAIT_S = 60.0

#: Interval between looks at what is waited for.
POLL_S = 0.1


#: A line of a log that tells of trouble; etcds' are left out, they warn of slow disks.
TROUBLE = re.compile(r'"level": "(warning|error)"|\bError\b|Traceback')

#: Lines of one log shown when a step fails, and how much of each.
MAX_TROUBLES = 3
MAX_TROUBLE_CHARS = 400


class StepFailed(Exception):
    """The story does not go as it must; the message says what was expected and what was seen."""


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """What a look at something showed; `value` is there once it is what was waited for."""

    text: str
    value: T | None = None
    share: float | None = None


def expect(condition: bool, message: str) -> None:
    """Raises `StepFailed` unless the condition holds."""
    if not condition:
        raise StepFailed(message)


def administrator(domain: str) -> str:
    """Who administers a domain; that of global is fleet-admin by every controller's configuration."""
    return f"user:{domain}-admin"


def new_request_id(what: str) -> str:
    """An idempotency key that says what it is for."""
    return f"demo-{what}-{uuid.uuid4().hex[:12]}"


@dataclass(slots=True)
class Stage:
    """Everything a step works with."""

    display: Display
    federation: LocalFederation
    #: The links of zone a1 to the replicas of region a, each through a relay that can be cut.
    links: list[TcpProxy]
    #: The link of the nodes in the field to zone a2's controller, through another such relay.
    field_link: TcpProxy
    channels: Channels = field(default_factory=Channels)
    #: Ids of the processes started so far.
    pids: set[int] = field(default_factory=set)

    def client(self, domain: str, principal: str = "", *, of: str = "") -> Client:
        """Somebody of a domain, or of domain `of`, who asks its controller; by default who administers that one."""
        return self._client(domain, self.federation.addresses(domain), principal, of or domain)

    def replica(self, domain: str, number: int, *, of: str = "") -> Client:
        """Who administers a domain, or domain `of`, and asks one replica."""
        address = self.federation.address(domain, number)
        return self._client(domain, [address], "", of or domain)

    def _client(self, domain: str, addresses: list[str], principal: str, of: str) -> Client:
        principal = principal or administrator(of)
        user = principal.removeprefix("user:")
        tls = self.federation.certificates.client_tls(domain, user, of)
        return Client(self.channels, addresses, principal, tls)

    def cut(self) -> None:
        """Cuts zone a1 off."""
        for link in self.links:
            link.cut()

    def heal(self) -> None:
        """Ends the cut."""
        for link in self.links:
            link.heal()

    async def until(
        self, what: str, look: Callable[[], Awaitable[Seen[T]]], timeout_s: float = WAIT_S
    ) -> tuple[T, float]:
        """Looks until what is waited for is there; it, and the seconds that took. Raises `StepFailed`."""
        with self.display.waiting(what) as line:
            while True:
                try:
                    seen = await look()
                except Refused as error:
                    seen = Seen(f"{what}: {error.code.name}: {error.message}")
                if seen.value is not None:
                    return seen.value, line.elapsed_s
                line.show(seen.text, seen.share)
                self._check_processes()
                if line.elapsed_s > timeout_s:
                    raise StepFailed(f"{what}: not within {timeout_s:g} s; last seen: {seen.text}")
                await asyncio.sleep(POLL_S)

    def remember_processes(self) -> None:
        """Takes note of the processes that run, to know afterwards that none is left."""
        self.pids.update(running.pid for running in self.federation.processes.values())

    def left_behind(self) -> list[int]:
        """Processes of ours that still run."""
        return [pid for pid in sorted(self.pids) if _runs(pid)]

    def troubles(self) -> list[str]:
        """The last warnings and errors in the logs of controllers and agents, for whoever looks into a failure."""
        found = []
        for path in sorted(self.federation.directory.glob("*.log")):
            if path.name.endswith("-etcd.log"):
                continue
            lines = path.read_text(errors="replace").splitlines()
            grave = [line for line in lines if TROUBLE.search(line)]
            found += [f"{path.name}: {_both_ends(line)}" for line in grave[-MAX_TROUBLES:]]
        return found

    def _check_processes(self) -> None:
        for running in self.federation.processes.values():
            code = running.process.poll()
            if code is not None:
                lines = running.log_path.read_text(errors="replace").splitlines()[-8:]
                raise StepFailed(
                    "\n".join([f"{running.name} ended by itself (exit code {code})", *lines])
                )


@contextlib.asynccontextmanager
async def stage(directory: Path, display: Display) -> AsyncIterator[Stage]:
    """An empty stage: laid out, nothing started. Everything is stopped when the block ends."""
    federation = LocalFederation(
        directory,
        TREE,
        lease_ttl_s=LEASE_TTL_S,
        secured=True,
        # The island has nobody but its own before a first file comes.
        admins=[administrator(GLOBAL), administrator(ISLAND)],
        enrolling=[ZONE_A1],
    )
    async with contextlib.AsyncExitStack() as stack:
        links = []
        for address in federation.addresses(REGION_A):
            host, _, port = address.rpartition(":")
            links.append(await stack.enter_async_context(TcpProxy(host, int(port))))
        host, _, port = federation.address(ZONE_A2).rpartition(":")
        field_link = await stack.enter_async_context(TcpProxy(host, int(port)))
        zone = federation.plan(ZONE_A1).controller
        federation.parent_addresses[zone] = [link.endpoint for link in links]
        federation.lay_out()
        path = federation.config_path(ZONE_A2)
        path.write_text(path.read_text() + FIELD_CONNECTIVITY)
        stack.callback(federation.stop)
        set_up = Stage(display, federation, links, field_link)
        stack.push_async_callback(set_up.channels.close)
        yield set_up


def measured_file(stage: Stage) -> Path:
    """A file that the island's node measures of itself."""
    return stage.federation.directory / "pump.conf"


def _both_ends(line: str) -> str:
    """A long line without its middle: what failed stands at the beginning, why at the end."""
    half = MAX_TROUBLE_CHARS // 2
    return line if len(line) <= MAX_TROUBLE_CHARS else f"{line[:half]} … {line[-half:]}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
