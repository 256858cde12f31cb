"""Controllers as they run, but for servers and sessions: a real replica each, on a real SQLite log. A test carries runs
from one to the other, and forwarded writes go straight to the other's services.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from controller.config import ControllerConfig, ControllerSection, ParentSection, TrustSection
from controller.duties import Duties
from controller.journal import JournalClosed
from controller.local_calls import ForwardedContext, LocalCalls
from controller.log.port import Log
from controller.log.sqlite_log import SqliteLog
from controller.replica import Replica
from controller.services.audit import AuditService
from controller.services.calls import RefusalAudit
from controller.services.federation import FederationService
from controller.signing import Ed25519Signer
from controller.sync.links import PeerView
from controller.writes import Caller
from federation.domains import DomainDeclaration, declare_domain
from federation.identifiers import Key
from federation.proposal import Proposal
from federation.receipt import Receipt
from souverix.federation.v1 import authority_pb2, federation_service_pb2
from souverix.fleet.v1 import domain_pb2
from tests.federation_fixture import ROOT, genesis_of

T = TypeVar("T")

#: Longest wait for a condition; reached only when a test fails.
DEADLINE_S = 10.0


async def until(condition: Callable[[], T], what: str = "the condition") -> T:
    """Waits until a condition holds, and returns what it gave."""
    end = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come about in {DEADLINE_S} s"
        await asyncio.sleep(0.005)
    return found


def as_caller(principal: str = "user:alice") -> Any:
    """The context of a call by someone."""
    return ForwardedContext(Caller(principal, "ipv4:127.0.0.1:50000"))


class Wires:
    """The links of one controller (`writes.Forwarder`, `federation.Links`): up to whoever is named in `up`."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self.up: set[str] = set()
        self.views: list[PeerView] = []

    def link_up(self, controller: str) -> bool:
        return controller in self.up

    def last_heard_ms(self, controller: str) -> int | None:
        return None

    async def forward(self, controller: str, method: str, request: bytes, caller: Caller) -> bytes:
        return await self._federation.controllers[controller].calls.execute(method, request, caller)

    def peers(self) -> Sequence[PeerView]:
        return self.views

    async def sync_now(self, timeout_s: float) -> AsyncGenerator[PeerView, None]:
        for view in self.views:
            yield view


class LiveController:
    """One replica with its duties and services."""

    def __init__(self, federation: Federation, name: str, domain: str, parent: str) -> None:
        self.name = name
        self.domain = domain
        self.directory = federation.directory / name
        self.signer = Ed25519Signer.generate()
        self.wires = Wires(federation)
        self.config = ControllerConfig(
            ControllerSection(name, domain, self.directory),
            TrustSection(self.directory / "key.pem", federation.root.public_key.hex()),
            parent=ParentSection(parent, ("127.0.0.1:1",)) if parent else None,
        )
        #: Makes its log; a test may put it on another store.
        self.open_log: Callable[[], Log] = lambda: SqliteLog(self.log_path, uuid.uuid4().hex)
        self._stack = contextlib.AsyncExitStack()

    @property
    def log_path(self) -> Path:
        return self.directory / "log.sqlite"

    async def start(self) -> None:
        """Starts it, and waits until it is master."""
        log = self.open_log()
        self._stack.push_async_callback(log.close)
        self.replica = Replica(self.config, log, self.signer, self.wires)
        self.state = self.replica.state
        self.federation = FederationService(self.replica, self.wires, lambda: 3)
        self.audit = AuditService(self.replica)
        self.calls = LocalCalls(RefusalAudit(self.replica), self.replica.gate)
        for service in federation_service_pb2.DESCRIPTOR.services_by_name.values():
            self.calls.add(service, self.federation)
        self.replica.add_duty(Duties(self.replica).run)
        life = asyncio.create_task(self.replica.run())

        async def end() -> None:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)

        self._stack.push_async_callback(end)
        await until(lambda: life.done() or self.replica.is_master, f"mastership of {self.name}")
        assert self.replica.is_master, life.exception()

    async def stop(self) -> None:
        """Stops it; it can be started again."""
        await self._stack.aclose()

    async def submit(self, decide: Callable[[Proposal], T]) -> T:
        """Commits what `decide` drafts."""
        return (await self.replica.journal().submit(decide)).value

    async def write(
        self, key: Key, body: Any, principal: str = "user:alice", **options: Any
    ) -> None:
        """Commits one event, as if a client's write had been decided."""
        await self.submit(lambda p: p.write(*key, body, principal=principal, **options))

    async def receive_from(self, other: LiveController) -> None:
        """Takes in every run of the other's log that is not held here, as a sync session would."""
        offset = 0
        while commits := await other.replica.read_commits(offset, 1 << 20):
            for commit in commits:
                for run in commit.runs:
                    receipt = await self.submit(lambda p, run=run: p.receive(other.name, run))  # type: ignore[misc]
                    assert receipt in (Receipt.TAKEN, Receipt.REPEATED), receipt
            offset += len(commits)

    async def declare(
        self,
        child: LiveController,
        parent: str,
        master: str = "",
        autonomy: authority_pb2.Autonomy | None = None,
    ) -> None:
        """Declares a child's domain, and grants its key."""
        declaration = DomainDeclaration(
            domain=child.domain,
            spec=domain_pb2.DomainSpec(parent=parent),
            master_of_record=master or child.name,
            level=authority_pb2.AUTHORITY_LEVEL_LOCAL,
            controller=child.name,
            public_key=child.signer.public_key,
            autonomy=autonomy,
        )

        def decide(proposal: Proposal) -> None:
            declare_domain(
                lambda d, s, a, body: proposal.write(d, s, a, body, principal="user:test"),
                declaration,
                self.state.authority.term_of(parent),
                proposal.wall_ms,
            )

        await self.submit(decide)

    def audited(self, action: str) -> list[Any]:
        """Audit records of one action known here."""
        records = [item.write.body() for item in self.state.audits]
        return [record for record in records if record.action == action]


class Federation:
    """Controllers below one root key."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = Ed25519Signer.generate()
        self.controllers: dict[str, LiveController] = {}

    async def start_root(self, open_log: Callable[[], Log] | None = None) -> LiveController:
        """The root's controller, its genesis committed."""
        root = await self._start("global-control", ROOT, "", open_log)
        genesis = genesis_of(self.root, root.name, root.signer)
        await root.write(Key(ROOT, f"domains/{ROOT}", "genesis"), genesis, "user:test")
        return root

    async def start_below(
        self,
        parent: LiveController,
        name: str,
        domain: str,
        master: str = "",
        autonomy: authority_pb2.Autonomy | None = None,
    ) -> LiveController:
        """A controller whose domain its parent declared, and who has received that."""
        child = await self._start(name, domain, parent.name)
        await parent.declare(child, parent.domain, master, autonomy)
        await child.receive_from(parent)
        return child

    async def _start(
        self, name: str, domain: str, parent: str, open_log: Callable[[], Log] | None = None
    ) -> LiveController:
        controller = LiveController(self, name, domain, parent)
        controller.open_log = open_log or controller.open_log
        self.controllers[name] = controller
        await controller.start()
        return controller

    async def stop(self) -> None:
        """Stops all."""
        for controller in self.controllers.values():
            with contextlib.suppress(JournalClosed):
                await controller.stop()


@contextlib.asynccontextmanager
async def federation_in(directory: Path) -> AsyncIterator[Federation]:
    """A federation that ends with the block."""
    federation = Federation(directory)
    try:
        yield federation
    finally:
        await federation.stop()
