"""Whatever is sent to any method of a controller, a clean status comes back.

The methods are those that the controller tells of by reflection, so a new one is tried without a word here. Each
request follows from the seed, the method's name and its number; a failure shows its bytes and the command that repeats
the run.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from controller.services.calls import REFUSALS_BURST, REFUSALS_PER_S
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.audit.v1 import audit_pb2, audit_service_pb2
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.fleet.v1 import fleet_service_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of
from tests.e2e.fuzzed_requests import RequestMaker, Vocabulary

SEED = int(os.environ.get("SOUVERIX_FUZZ_SEED", "1"))
REQUESTS = int(os.environ.get("SOUVERIX_FUZZ_REQUESTS", "90"))

DOMAIN = "region-a"
CHILD = "edge-zone-a1"

#: A unary call that takes longer hangs: none waits for anything but the log, and for durability it may wait 2 s here.
HANG_S = 15.0

#: A stream that says nothing for so long was taken.
QUIET_S = 0.15

#: The caller's deadline of one call in ten: the controller must bear being left alone.
IMPATIENT_S = 0.01

MAX_FRAMES = 5

CLEAN = {
    grpc.StatusCode.UNIMPLEMENTED,  # gRPC's own health service has a method that is not built
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

#: A write that is another controller's to make cannot be passed on while it is away.
UNAVAILABLE_FOR = {"LINK_DOWN"}


@dataclass
class Tally:
    """What came back."""

    answered: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[LocalFederation]:
    plans = [
        DomainPlan(DOMAIN, kind="global", level="global", log="sqlite"),
        DomainPlan(CHILD, DOMAIN, log="sqlite"),
    ]
    with LocalFederation(tmp_path, plans) as started:
        started.start_controller(DOMAIN)
        started.wait_for_master(DOMAIN)
        yield started


def methods_of(address: str) -> list[MethodDescriptor]:
    """Every method the controller tells of."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        return [
            method
            for name in sorted(database.get_services())
            for method in pool.FindServiceByName(name).methods
        ]


def populate(clients: Clients) -> list[str]:
    """Gives the controller something to be asked about; the words that name it."""
    clients.create_policy(DOMAIN, "p1", "v1")
    for node in ("n1", "n2"):
        request = fleet_service_pb2.CreateNodeRequest(domain=DOMAIN, node_id=node)
        clients.fleet.CreateNode(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
    command = clients.commands.IssueCommand(
        command_service_pb2.IssueCommandRequest(
            targets=command_pb2.Targets(nodes=["n1"]),
            action=command_pb2.Action(ping=command_pb2.Ping()),
        ),
        timeout=DEADLINE_S,
        metadata=PRINCIPAL,
    ).command
    return [
        DOMAIN, CHILD, "n1", "n2", "p1", "nodes/n1", "nodes/n2", f"domains/{DOMAIN}", f"domains/{CHILD}",
        f"domains/{DOMAIN}/policies/p1", command.name, command.id, "v1", f"{DOMAIN}-control", f"{CHILD}-control",
        "nodes/unknown", "domains/unknown/policies/unknown", "unknown", "new-1", "new-2",
    ]  # fmt: skip


class Fuzz:
    """Sends requests made by chance, and judges what comes back."""

    def __init__(self, channel: Any, blocking: Any, vocabulary: Vocabulary, seed: int) -> None:
        self._channel = channel
        self._blocking = blocking
        self._seed = seed
        self._vocabulary = vocabulary
        self.tally = Tally()

    async def try_method(self, method: MethodDescriptor) -> None:
        """Sends all requests to one method, one after another."""
        for number in range(REQUESTS):
            chance = random.Random(f"{self._seed}/{method.full_name}/{number}")
            maker = RequestMaker(chance, self._vocabulary)
            count = chance.randint(1, MAX_FRAMES) if method.client_streaming else 1
            requests = [maker.request(method.input_type) for _ in range(count)]
            impatient = chance.random() < 0.1
            try:
                await self._send(method, requests, IMPATIENT_S if impatient else None)
            except grpc.RpcError as error:
                self._judge(method, number, requests, error, impatient=impatient)
            else:
                self.tally.answered += 1

    async def _send(
        self, method: MethodDescriptor, requests: list[bytes], timeout_s: float | None
    ) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        if not (method.client_streaming or method.server_streaming):
            call = self._channel.unary_unary(path)
            data = await call(requests[0], timeout=timeout_s or HANG_S, metadata=PRINCIPAL)
            reply = message_factory.GetMessageClass(method.output_type).FromString(data)
            self._vocabulary.learn(reply)
            return
        timeout_s = timeout_s or (QUIET_S if method.server_streaming else HANG_S)
        if method.client_streaming:
            # The asyncio client fails by itself where a stream ends while it writes.
            await asyncio.to_thread(self._talk, path, requests, timeout_s)
            return
        stream = self._channel.unary_stream(path)(
            requests[0], timeout=timeout_s, metadata=PRINCIPAL
        )
        async for data in stream:
            reply = message_factory.GetMessageClass(method.output_type).FromString(data)
            self._vocabulary.learn(reply)

    def _talk(self, path: str, requests: list[bytes], timeout_s: float) -> None:
        for _ in self._blocking.stream_stream(path)(iter(requests), timeout=timeout_s):
            pass

    def _judge(
        self,
        method: MethodDescriptor,
        number: int,
        requests: list[bytes],
        error: Any,
        *,
        impatient: bool,
    ) -> None:
        code = error.code()
        may_be_quiet = impatient or method.server_streaming
        clean = code in CLEAN or (may_be_quiet and code is grpc.StatusCode.DEADLINE_EXCEEDED)
        if code is grpc.StatusCode.UNAVAILABLE:
            clean = _reason(error) in UNAVAILABLE_FOR
        if clean:
            self.tally.refused += 1
            return
        self.tally.failures.append(
            f"{method.full_name} request {number}: {code.name} {error.details()}\n"
            + "\n".join(f"  {_shown(method, data)}" for data in requests)
        )


def _reason(error: Any) -> str:
    try:
        return reason_of(error)
    except AssertionError:
        return ""


def _shown(method: MethodDescriptor, data: bytes) -> str:
    try:
        message = message_factory.GetMessageClass(method.input_type).FromString(data)
        return f"{json_format.MessageToJson(message, indent=None)[:600]} ({data[:300].hex()})"
    except Exception as error:  # noqa: BLE001 what is shown may be no message at all
        return f"{type(error).__name__}: {data[:300].hex()}"


async def fuzz(address: str, words: list[str], methods: list[MethodDescriptor], seed: int) -> Tally:
    """Tries all methods beside one another."""
    async with grpc.aio.insecure_channel(address) as channel:
        with grpc.insecure_channel(address) as blocking:
            run = Fuzz(channel, blocking, Vocabulary(words), seed)
            await asyncio.gather(*(run.try_method(method) for method in methods))
            return run.tally


def refusals_audited(clients: Clients) -> int:
    """Audit entries of refused attempts."""
    count, token = 0, ""
    while True:
        page: audit_service_pb2.ListAuditEntriesResponse = clients.audit.ListAuditEntries(
            audit_service_pb2.ListAuditEntriesRequest(page_size=1000, page_token=token),
            timeout=DEADLINE_S,
            metadata=PRINCIPAL,
        )
        count += sum(e.record.outcome != audit_pb2.AUDIT_OUTCOME_ALLOWED for e in page.entries)
        token = page.next_page_token
        if not token:
            return count


@pytest.mark.timeout(90)
@pytest.mark.parametrize("seed", [SEED])
def test_every_method_bears_whatever_is_sent(federation: LocalFederation, seed: int) -> None:
    address = federation.address(DOMAIN)
    with Clients(address) as clients:
        words = populate(clients)
        methods = methods_of(address)
        began_s = time.monotonic()
        tally = asyncio.run(fuzz(address, words, methods, seed))
        lasted_s = time.monotonic() - began_s
        controller = federation.processes[f"{DOMAIN}/r1"]
        again = f"repeat with: SOUVERIX_FUZZ_SEED={seed} SOUVERIX_FUZZ_REQUESTS={REQUESTS} pytest {__file__}"
        assert not tally.failures, "\n".join([again, *tally.failures[:20]])
        assert controller.process.poll() is None, again
        log = controller.log_path.read_text()
        assert '"level": "error"' not in log, again + log[-4000:]
        assert refusals_audited(clients) <= REFUSALS_BURST + REFUSALS_PER_S * lasted_s + 1
        clients.create_policy(DOMAIN, "afterwards", "v1")
    # Both kinds must come back: what is always refused, or never, tries nothing.
    assert tally.answered > len(methods)
    assert tally.refused > len(methods)
