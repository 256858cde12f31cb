"""One connection to an etcd cluster: which member is talked to, as whom, and what is tried again.

Owns channels, fail-over between members and the token. Never sends a write twice: that is the
business of who knows what the write means.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc.aio import AioRpcError

from controller.etcd.access import Access
from controller.etcd.errors import (
    AccessRefused,
    AnswerMissing,
    EtcdError,
    EtcdRefused,
    EtcdUnavailable,
    NotProposed,
    OutcomeUnknown,
    TokenStale,
    translate,
)
from controller.etcd.versions import refuse_lossy_versions
from etcdrpc import etcdrpc_pb2 as pb
from etcdrpc import etcdrpc_pb2_grpc as rpc

CONNECT_TIMEOUT_S = 1.0
"""For one member to prove alive; a dead or hung one must not cost the lease (commonly 5 s) before
the next is asked."""
TRY_TIMEOUT_S = 3.0
"""For one try of one call: well above the slowest healthy answer, an fsync on a busy disk."""
CALL_TIMEOUT_S = 10.0
"""For one call with all its tries: every member of a cluster of three gets its turn."""
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0
"""Pauses between tries double up to this, so that a cluster that comes back is found within about
a second."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message either way: etcd cuts what it sends unasked to 1.5 MiB or so, and takes no
more; a
range may have grown fourfold over the 4 MiB that its reader expected."""
RETIREMENT_S = 5.0
"""For calls in flight on a channel that is being replaced: longer than any single try."""

_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    # etcd closes connections that ping more often than every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # What is tried again is decided here alone.
    ("grpc.enable_retries", 0),
    # A new channel must really connect anew, with the certificates read for it.
    ("grpc.use_local_subchannel_pool", 1),
    # Endpoints are members of our own cluster, never to be reached through a proxy of the
    # environment.
    ("grpc.enable_http_proxy", 0),
]

Metadata = tuple[tuple[str, str], ...]
Method = Callable[["Member"], Any]
"""Picks the multi-callable of one method from a member's stubs."""


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """An open channel to one endpoint."""

    address: str
    channel: grpc.aio.Channel
    kv: Any
    watch: Any
    lease: Any
    maintenance: Any
    cluster: Any
    auth: Any


class Pauses:
    """Jittered exponential back-off: each call of `next_s` gives the next pause in seconds."""

    def __init__(self, first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S) -> None:
        self._first_s = self._pause_s = first_s
        self._longest_s = longest_s

    def next_s(self) -> float:
        """The next pause; the jitter keeps replicas that failed together from retrying together."""
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, self._longest_s)
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    def reset(self) -> None:
        """Begin again with the shortest pause, after a success."""
        self._pause_s = self._first_s


class Connection:
    """Talks to one healthy member at a time and moves on when it fails."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._addresses = access.addresses()
        self._next_address = 0
        self._member: Member | None = None
        self._connecting = asyncio.Lock()
        self._logging_in = asyncio.Lock()
        self._token: str | None = None
        self._cluster_id: int | None = None
        self._retirements: set[asyncio.Task[None]] = set()
        self._failures: dict[str, str] = {}

    @property
    def cluster_id(self) -> int:
        """The cluster's id, known once any member was reached."""
        if self._cluster_id is None:
            raise EtcdUnavailable("not connected to etcd yet")
        return self._cluster_id

    @property
    def metadata(self) -> Metadata:
        """Metadata for each call: our token, and the wish to be refused by a member without a
        leader.
        """
        if self._token is None:
            return (("hasleader", "true"),)
        return (("hasleader", "true"), ("token", self._token))

    async def open(self) -> None:
        """Connect, log in, and check every member that can be reached.

        Raises EtcdUnavailable, AccessRefused, LossyVersion, EtcdRefused.
        """
        end_s = time.monotonic() + CALL_TIMEOUT_S
        member = await self.member(end_s)
        others = [address for address in self._addresses if address != member.address]
        await asyncio.gather(*(self._check_in_passing(address) for address in others))
        if self._access.password is not None:
            await self._log_in(None, end_s)

    async def close(self) -> None:
        """Close all channels."""
        if self._member is not None:
            await self._member.channel.close()
            self._member = None
        for retirement in self._retirements:
            retirement.cancel()
        await asyncio.gather(*self._retirements, return_exceptions=True)

    async def call(
        self, method: Method, request: Any, *, write: bool, try_timeout_s: float = TRY_TIMEOUT_S
    ) -> Any:
        """Make one unary call; `try_timeout_s` for those that take their time.

        A read, and whatever was provably not proposed, is tried again until CALL_TIMEOUT_S, on
        another member if need be. Raises OutcomeUnknown if the answer to a write is missing,
        EtcdUnavailable if nothing was sent or a read got no answer, and what `translate` knows.
        """
        end_s = time.monotonic() + max(CALL_TIMEOUT_S, try_timeout_s)
        pauses = Pauses()
        logins = 0
        while True:
            member = await self.member(end_s)
            metadata, token = self.metadata, self._token
            try_s = max(0.0, min(try_timeout_s, end_s - time.monotonic()))
            try:
                return await method(member)(request, timeout=try_s, metadata=metadata)
            except AioRpcError as error:
                failure = translate(error)
                if isinstance(failure, TokenStale):
                    logins += 1
                    await self.renew_token(token, failure, logins, end_s)
                    continue
                if not isinstance(failure, NotProposed | AnswerMissing):
                    raise failure from error
                self.distrust(member)
                if write and isinstance(failure, AnswerMissing):
                    raise OutcomeUnknown(f"{member.address}: {failure}") from error
                pause_s = pauses.next_s()
                if time.monotonic() + pause_s >= end_s:
                    raise EtcdUnavailable(f"{member.address}: {failure}") from error
                await asyncio.sleep(pause_s)

    async def member(self, end_s: float) -> Member:
        """A member that is connected, waiting for one until `end_s` (time.monotonic).

        Raises EtcdUnavailable naming what each endpoint answered.
        """
        if self._member is not None and _is_ready(self._member):
            return self._member
        try:
            async with asyncio.timeout(max(0.0, end_s - time.monotonic())), self._connecting:
                if self._member is not None and not _is_ready(self._member):
                    self._retire(self._member)
                    self._member = None
                if self._member is None:
                    self._member = await self._connect()
                return self._member
        except TimeoutError as error:
            told = "; ".join(f"{address}: {said}" for address, said in self._failures.items())
            raise EtcdUnavailable(f"no etcd member answers ({told or 'none in time'})") from error

    def distrust(self, member: Member) -> None:
        """Ask another member from now on: this one failed to answer."""
        if member is self._member:
            self._retire(member)
            self._member = None

    async def renew_token(
        self, used: str | None, failure: EtcdError, logins: int, end_s: float
    ) -> None:
        """Log in again after `used` was not taken. Raises AccessRefused if that does not help."""
        if self._access.password is None:
            raise AccessRefused(f"{failure}; give an etcd user and password") from failure
        if logins > 1:
            raise AccessRefused(f"{failure}, with a token just issued") from failure
        await self._log_in(used, end_s)

    async def _connect(self) -> Member:
        """Try one endpoint after another until one is good; the caller sets the bound."""
        pauses = Pauses()
        while True:
            for _ in self._addresses:
                member = self._open_channel(self._addresses[self._next_address])
                # Whatever ends this attempt (the caller's patience, too), the next is another's.
                self._next_address = (self._next_address + 1) % len(self._addresses)
                try:
                    await self._check(member)
                except (NotProposed, AnswerMissing) as error:
                    self._failures[member.address] = str(error)
                    self._retire(member)
                except BaseException:
                    self._retire(member)
                    raise
                else:
                    self._failures.clear()
                    return member
            await asyncio.sleep(pauses.next_s())

    def _open_channel(self, address: str) -> Member:
        tls = self._access.tls
        channel = (
            grpc.aio.secure_channel(address, tls.read(), _CHANNEL_OPTIONS)
            if tls is not None
            else grpc.aio.insecure_channel(address, _CHANNEL_OPTIONS)
        )
        return Member(
            address,
            channel,
            kv=rpc.KVStub(channel),
            watch=rpc.WatchStub(channel),
            lease=rpc.LeaseStub(channel),
            maintenance=rpc.MaintenanceStub(channel),
            cluster=rpc.ClusterStub(channel),
            auth=rpc.AuthStub(channel),
        )

    async def _check(self, member: Member) -> None:
        """Prove that the member is alive, of our cluster, and of a version that keeps what it is
        given.
        """
        try:
            status = await member.maintenance.Status(
                pb.StatusRequest(), timeout=CONNECT_TIMEOUT_S, metadata=self.metadata
            )
        except AioRpcError as error:
            failure = translate(error)
            if isinstance(failure, TokenStale | AccessRefused):
                return
            raise failure from error
        if not self._access.accept_lossy_versions:
            refuse_lossy_versions([status.version])
        if self._cluster_id is None:
            self._cluster_id = status.header.cluster_id
        if self._cluster_id != status.header.cluster_id:
            raise EtcdRefused(
                f"{member.address} belongs to etcd cluster {status.header.cluster_id:x}, "
                f"not to {self._cluster_id:x}; correct the list of endpoints"
            )

    async def _check_in_passing(self, address: str) -> None:
        member = self._open_channel(address)
        try:
            await self._check(member)
        except (NotProposed, AnswerMissing):
            # Out of reach now; it is checked again before it is ever used.
            return
        finally:
            self._retire(member)

    def _retire(self, member: Member) -> None:
        # Closing at once would cancel calls still in flight, and with them the tasks that await
        # them.
        task = asyncio.ensure_future(member.channel.close(RETIREMENT_S))
        self._retirements.add(task)
        task.add_done_callback(self._retirements.discard)

    async def _log_in(self, used: str | None, end_s: float) -> None:
        password = self._access.password
        async with self._logging_in:
            if password is None or self._token != used:
                return
            request = pb.AuthenticateRequest(name=password.user, password=password.password)
            while True:
                member = await self.member(end_s)
                try:
                    reply = await member.auth.Authenticate(request, timeout=TRY_TIMEOUT_S)
                except AioRpcError as error:
                    failure = translate(error)
                    if not isinstance(failure, NotProposed | AnswerMissing):
                        raise AccessRefused(
                            f"etcd does not let user {password.user!r} in: {failure}"
                        ) from error
                    self.distrust(member)
                    if time.monotonic() >= end_s:
                        raise EtcdUnavailable(f"{member.address}: {failure}") from error
                else:
                    self._token = reply.token
                    return


def _is_ready(member: Member) -> bool:
    return member.channel.get_state() is grpc.ChannelConnectivity.READY
