"""A tree of controllers in one process, as they run: real replicas on SQLite logs, real servers and sync links on
loopback sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from controller.app import Application
from controller.config import (
    AutonomySection,
    ChildSection,
    ControllerConfig,
    ControllerSection,
    ListenSection,
    LogSection,
    ParentSection,
    SyncSection,
    TrustSection,
)
from controller.genesis import make_genesis
from controller.log.sqlite_log import SqliteLog
from controller.replica import Replica
from controller.signing import Ed25519Signer
from controller.sync.links import Links
from controller.tasks import end
from souverix.policy.v1 import policy_pb2, policy_service_pb2, policy_service_pb2_grpc
from souverix.sync.v1 import sync_pb2, sync_pb2_grpc
from tests.processes import free_port

T = TypeVar("T")

#: Longest wait for a condition; reached only when a test fails.
DEADLINE_S = 20.0

PRINCIPAL = (("souverix-principal", "user:tester"),)


async def until(condition: Callable[[], T], what: str) -> T:
    """Waits until a condition holds, and returns what it gave."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.01)
    return found


@dataclass
class Place:
    """One controller of the tree."""

    domain: str
    parent: str
    config: ControllerConfig
    signer: Ed25519Signer
    replica: Replica = field(init=False)
    links: Links = field(init=False)
    policies: Any = field(init=False)
    channel: grpc.aio.Channel = field(init=False)
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def controller(self) -> str:
        return self.config.controller.id

    @property
    def address(self) -> str:
        return self.config.listen.address

    async def start(self) -> None:
        """Starts it, and waits until it is master and serves."""
        self.config.controller.data_dir.mkdir(parents=True, exist_ok=True)
        log = SqliteLog(self.config.controller.data_dir / "log.sqlite", uuid.uuid4().hex)
        self._stack.push_async_callback(log.close)
        self.links = Links()
        self.replica = Replica(self.config, log, self.signer, self.links)
        application = Application(self.config, self.replica, self.links)
        life = asyncio.create_task(self.replica.run())
        serving = asyncio.create_task(application.serve_when_replayed())

        async def stop() -> None:
            await application.stop()
            await end(serving, life)

        self._stack.push_async_callback(stop)
        self.channel = grpc.aio.insecure_channel(self.address)
        self._stack.push_async_callback(self.channel.close)
        self.policies = policy_service_pb2_grpc.PolicyServiceStub(self.channel)
        await until(lambda: life.done() or self.replica.is_master, f"mastership of {self.domain}")
        await until(lambda: serving.done(), f"service of {self.domain}")
        serving.result()

    async def stop(self) -> None:
        """Stops it; it can be started again."""
        await self._stack.aclose()

    async def write(self, domain: str, policy: str, **fields: Any) -> Any:
        """Creates a policy by a client's call."""
        request = policy_service_pb2.CreatePolicyRequest(
            domain=domain, policy_id=policy, spec=policy_pb2.PolicySpec(version="v1"), **fields
        )
        return await self.policies.CreatePolicy(request, timeout=DEADLINE_S, metadata=PRINCIPAL)

    def knows(self, domain: str, policy: str) -> bool:
        """Tells whether a policy has arrived here."""
        subjects = self.replica.state.subjects_of(domain, "policies")
        return f"policies/{policy}" in set(subjects)

    def session_up(self) -> bool:
        """Tells whether the session with the parent exchanges events."""
        parent = self.links.parent
        return parent is not None and parent.session.phase.value == "syncing"

    def connect(self) -> Any:
        """A sync call to this controller, for a test that plays the child."""
        return sync_pb2_grpc.SyncServiceStub(self.channel).Connect()


class Tree:
    """Controllers by domain, each `<domain>-control`; the root is "global"."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = Ed25519Signer.generate()
        self.places: dict[str, Place] = {}

    def __getitem__(self, domain: str) -> Place:
        return self.places[domain]

    def add(
        self,
        domain: str,
        parent: str = "",
        *,
        master: str = "",
        sync: SyncSection | None = None,
        dial: str = "",
    ) -> Place:
        """Plans a controller. `dial`: address it dials instead of its parent's."""
        directory = self.directory / domain
        directory.mkdir(parents=True)
        signer = Ed25519Signer.generate()
        signer.save(directory / "key.pem")
        genesis = directory / "genesis.bin"
        if not parent:
            signed = make_genesis(self.root, signer, f"{domain}-control", domain)
            genesis.write_bytes(signed.SerializeToString())
        config = ControllerConfig(
            ControllerSection(f"{domain}-control", domain, directory),
            TrustSection(
                directory / "key.pem", self.root.public_key.hex(), "" if parent else str(genesis)
            ),
            ListenSection(f"127.0.0.1:{free_port()}"),
            LogSection(kind="sqlite", lease_ttl_s=2.0),
            parent=ParentSection(
                self.places[parent].controller, (dial or self.places[parent].address,)
            )
            if parent
            else None,
        )
        if parent:
            above = self.places[parent]
            child = ChildSection(
                f"{domain}-control",
                domain,
                signer.public_key.hex(),
                master_of_record=master,
                autonomy=AutonomySection(can_modify_policies=not master),
                sync=sync or SyncSection(),
            )
            above.config = dataclasses.replace(
                above.config, children=(*above.config.children, child)
            )
        place = Place(domain, parent, config, signer)
        self.places[domain] = place
        return place

    async def start(self) -> None:
        """Starts all, parents first, and waits until each knows its own place."""
        for place in self.places.values():
            await place.start()
        for place in self.places.values():
            await until(
                lambda place=place: place.replica.state.authority.path_of(place.domain),  # type: ignore[misc]
                f"the authority of {place.domain}",
            )

    async def stop(self) -> None:
        """Stops all, children first."""
        for place in reversed(self.places.values()):
            await place.stop()


@contextlib.asynccontextmanager
async def tree_in(directory: Path) -> AsyncIterator[Tree]:
    """A tree that ends with the block."""
    tree = Tree(directory)
    try:
        yield tree
    finally:
        await tree.stop()


class PlayedChild:
    """A child played by the test, frame by frame."""

    def __init__(self, place: Place, controller: str, domain: str) -> None:
        self.place = place
        self.call = place.connect()
        self.controller = controller
        self.domain = domain

    async def send(self, **frame: Any) -> None:
        await self.call.write(sync_pb2.ConnectRequest(frame=sync_pb2.Frame(**frame)))

    async def greet(self, *, credit_bytes: int = 1 << 20, **fields: Any) -> None:
        """Sends the greeting."""
        fields = {
            "versions": [1],
            "controller": self.controller,
            "domain": self.domain,
            "credit_bytes": credit_bytes,
            **fields,
        }
        await self.send(hello=sync_pb2.Hello(**fields))

    async def compare(self, **fields: Any) -> None:
        """Greets, and holds nothing: all that comes before the exchange of events."""
        await self.greet(**fields)
        await self.receive("hello")
        await self.send(have_digests=sync_pb2.HaveDigests(last=True))
        await self.receive("have_digests")
        await self.send(have_positions=sync_pb2.HavePositions(last=True))
        await self.receive("have_positions")

    async def begin(self, **fields: Any) -> None:
        """Compares, and waits until the other side exchanges events too."""
        earlier = self.place.links.children.get(self.controller)
        await self.compare(**fields)

        def is_live() -> bool:
            held = self.place.links.children.get(self.controller)
            return held is not None and held is not earlier

        await until(is_live, "the session on the other side")

    async def receive(self, kind: str) -> Any:
        """The next frame of a kind; others are passed over."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                response = await self.call.read()
                assert response is not grpc.aio.EOF, f"the call ended before a {kind} came"
                if response.frame.WhichOneof("kind") == kind:
                    return getattr(response.frame, kind)

    async def ended(self) -> bool:
        """Waits until the other side has ended the call."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.call.read() is not grpc.aio.EOF:
                pass
        return True
