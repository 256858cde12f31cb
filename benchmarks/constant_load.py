"""Writes at a constant rate at several controllers of a secured federation, whatever becomes of those before. Owns the
calls and what became of them; judges nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import grpc

from deploy.local_federation import LocalFederation
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from souverix.policy.v1.policy_service_pb2_grpc import PolicyServiceStub
from trust.channels import open_channel

#: At each controller: together a few percent of what one core does.
WRITES_PER_S = 20

#: A write that was not answered by then is refused.
DEADLINE_S = 20.0


class Load:
    """Creates policies `<name>-<number>` in the domain of each controller."""

    def __init__(
        self, federation: LocalFederation, domains: Sequence[str], operator: str, name: str
    ) -> None:
        self.latencies_ms: list[float] = []
        self.refusals: list[str] = []
        #: Ids of the policies that were acknowledged.
        self.written: dict[str, set[str]] = {domain: set() for domain in domains}
        self.lasted_s = 0.0
        self._federation = federation
        self._operator = operator
        self._name = name
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._left: list[grpc.aio.Channel] = []
        self._calls: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Writes while the block runs; after it every write has been answered."""
        await self.renew()
        began_s = time.perf_counter()
        writers = [asyncio.create_task(self._write_at(domain)) for domain in self.written]
        try:
            yield
        finally:
            self.lasted_s = time.perf_counter() - began_s
            for writer in writers:
                writer.cancel()
            for result in await asyncio.gather(*writers, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result
            await asyncio.gather(*self._calls)
            for channel in (*self._left, *self._channels.values()):
                await channel.close()

    async def renew(self) -> None:
        """Goes on by the certificates of the moment, on connections that stand before they are used."""
        for domain in self.written:
            tls = self._federation.certificates.client_tls(domain, self._operator)
            own = [("grpc.use_local_subchannel_pool", 1)]
            channel = open_channel(self._federation.address(domain), own, tls)
            await channel.channel_ready()
            if domain in self._channels:
                self._left.append(self._channels[domain])
            self._channels[domain] = channel

    async def _write_at(self, domain: str) -> None:
        loop = asyncio.get_running_loop()
        first_s, number = loop.time(), 0
        while True:
            await asyncio.sleep(max(0.0, first_s + number / WRITES_PER_S - loop.time()))
            call = asyncio.create_task(self._write(domain, f"{self._name}-{number}"))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            number += 1

    async def _write(self, domain: str, policy: str) -> None:
        request = policy_service_pb2.CreatePolicyRequest(
            domain=domain, policy_id=policy, spec=policy_pb2.PolicySpec(version="1")
        )
        began_s = time.perf_counter()
        try:
            stub = PolicyServiceStub(self._channels[domain])
            await stub.CreatePolicy(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            self.refusals.append(f"{domain}/{policy}: {error.code().name} {error.details()}")
            return
        self.latencies_ms.append((time.perf_counter() - began_s) * 1000)
        self.written[domain].add(policy)
