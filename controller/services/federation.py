"""FederationService: the federation as this controller sees it. Owns the calls; composes nothing itself."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from controller.log.errors import LogError
from controller.replica import Replica
from controller.services import federation_conflicts as conflicts
from controller.services import federation_held as held
from controller.services import federation_transfers as transfers
from controller.services import federation_trust as trust
from controller.services import federation_views as views
from controller.services.authority_claims import claims_on
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_domain_filter
from controller.services.node_past import past_time_ms
from controller.sync.dialer import strategy_of
from controller.sync.links import PeerView
from controller.twin.facts import timestamp
from federation.clock import wall_ms_of
from federation.errors import InvalidWrite, WrongState
from souverix.federation.v1 import authority_pb2, federation_service_pb2_grpc
from souverix.federation.v1 import federation_service_pb2 as service

#: Name of the distribution whose version is told.
DISTRIBUTION = "souverix-control-plane"

#: Wait for a sync unless the caller says otherwise, and at most.
DEFAULT_SYNC_TIMEOUT_S = 60.0
MAX_SYNC_TIMEOUT_S = 3600.0


class Links(Protocol):
    """The sync sessions of this controller."""

    def peers(self) -> Sequence[PeerView]:
        """The parent, then the children by id."""

    def sync_now(self, timeout_s: float) -> AsyncGenerator[PeerView, None]:
        """Opens a session with the parent and tells how it goes; ends before the timeout only when both are level."""


class FederationService(federation_service_pb2_grpc.FederationServiceServicer):
    """The service of one replica. `connected_nodes` tells how many nodes' streams stand now."""

    def __init__(self, replica: Replica, links: Links, connected_nodes: Callable[[], int]) -> None:
        self._replica = replica
        self._links = links
        self._connected_nodes = connected_nodes
        self._version = importlib.metadata.version(DISTRIBUTION)

    async def GetTopology(  # noqa: N802 named by the contract
        self, request: service.GetTopologyRequest, context: Any
    ) -> service.GetTopologyResponse:
        """The tree of domains."""
        await self._replica.nodes.caught_up()
        return views.topology(self._replica)

    async def GetAuthority(  # noqa: N802
        self, request: service.GetAuthorityRequest, context: Any
    ) -> service.GetAuthorityResponse:
        """One domain's authority record."""
        if request.HasField("as_of_time"):
            time_ms = past_time_ms(request)
            return await transfers.authority_as_of(self._replica, request.domain, time_ms)
        reply = transfers.authority_of(self._replica.state, request.domain)
        level = {
            view.controller
            for view in self._links.peers()
            if views.peer_state(view) == service.PEER_STATE_LIVE
        }
        reply.claims.extend(await claims_on(self._replica, request.domain, level))
        return reply

    async def TransferAuthority(  # noqa: N802
        self, request: service.TransferAuthorityRequest, context: Any
    ) -> service.TransferAuthorityResponse:
        """Moves the mastership-of-record of a domain."""
        return await transfers.transfer_authority(self._replica, request, caller_of(context))

    async def ListPeers(  # noqa: N802
        self, request: service.ListPeersRequest, context: Any
    ) -> service.ListPeersResponse:
        """Links to the parent and the children. Only the master has any: a standby must not say that all are down."""
        self._replica.journal()
        now_ms = _now_ms()
        peers = [views.peer(view, now_ms) for view in self._links.peers()]
        return service.ListPeersResponse(peers=peers)

    async def GetStatus(  # noqa: N802
        self, request: service.GetStatusRequest, context: Any
    ) -> service.GetStatusResponse:
        """This controller. What the log does not tell now is left out rather than guessed."""
        replica = self._replica
        config = replica.config
        status = service.GetStatusResponse(
            controller=config.controller.id,
            replica=config.controller.replica,
            domain=config.controller.domain,
            incarnation=replica.incarnation,
            master=replica.is_master,
            next_offset=replica.state.next_offset,
            applied_offset=replica.state.next_offset,
            log_kind=config.log.kind,
            clock=timestamp(max(_now_ms(), wall_ms_of(replica.state.clock))),
            version=self._version,
            connected_nodes=self._connected_nodes(),
        )
        if replica.is_master:
            status.fencing_token = replica.journal().fencing_token
        try:
            head = await replica.log.head()
            status.next_offset = head.next_offset
            status.head_hash = head.hash.hex()
            status.current_master = await replica.log.current_master() or ""
        except LogError:
            status.current_master = ""
        if replica.log_storage is not None:
            status.log_storage.CopyFrom(views.log_storage(replica.log_storage))
        if config.parent is not None:
            strategy = strategy_of(replica)
            status.sync.CopyFrom(
                authority_pb2.SyncStrategy(
                    mode=strategy.mode,  # type: ignore[arg-type]
                    batch_size=strategy.batch_events,
                )
            )
            status.sync.frequency.FromMilliseconds(int(strategy.frequency_s * 1000))
        return status

    async def SyncNow(  # noqa: N802
        self, request: service.SyncNowRequest, context: Any
    ) -> AsyncIterator[service.SyncNowResponse]:
        """Opens a session with the parent now, and tells how it goes."""
        timeout_s = _sync_timeout_s(request)
        self._replica.journal()
        if self._replica.config.parent is None:
            raise WrongState(
                "this is the root's controller: it has no parent to sync with; children dial it",
                domain=self._replica.config.controller.domain,
            )
        now = asyncio.get_running_loop().time
        end = now() + timeout_s
        last = service.SyncNowResponse(state=service.PEER_STATE_DISCONNECTED)
        async with aclosing(self._links.sync_now(timeout_s)) as steps:
            async for view in steps:
                last = _sync_step(view)
                yield last
        level = now() < end
        if level:
            last = _sync_step(self._links.peers()[0])
        last.level = level
        yield last

    async def ListStreams(  # noqa: N802
        self, request: service.ListStreamsRequest, context: Any
    ) -> service.ListStreamsResponse:
        """How far each stream is held here."""
        check_domain_filter(request.domain)
        return views.streams(self._replica.state, request.domain)

    async def ListConflicts(  # noqa: N802
        self, request: service.ListConflictsRequest, context: Any
    ) -> service.ListConflictsResponse:
        """Recorded conflicts, newest first."""
        return conflicts.list_conflicts(self._replica.state, request)

    async def GetConflict(  # noqa: N802
        self, request: service.GetConflictRequest, context: Any
    ) -> service.GetConflictResponse:
        """One conflict."""
        conflict = conflicts.get_conflict(self._replica.state, request.name)
        return service.GetConflictResponse(conflict=conflict)

    async def WatchConflicts(  # noqa: N802
        self, request: service.WatchConflictsRequest, context: Any
    ) -> AsyncIterator[service.WatchConflictsResponse]:
        """Open conflicts, then new and resolved ones."""
        async for conflict in conflicts.watch_conflicts(self._replica, request):
            yield service.WatchConflictsResponse(conflict=conflict)

    async def RestoreConflictValue(  # noqa: N802
        self, request: service.RestoreConflictValueRequest, context: Any
    ) -> service.RestoreConflictValueResponse:
        """Writes a losing value again."""
        return await conflicts.restore_value(self._replica, request, caller_of(context))

    async def RotateSigningKey(  # noqa: N802
        self, request: service.RotateSigningKeyRequest, context: Any
    ) -> service.RotateSigningKeyResponse:
        """Goes on under another signing key."""
        return await trust.rotate_signing_key(self._replica, request, caller_of(context))

    async def SealStreams(  # noqa: N802
        self, request: service.SealStreamsRequest, context: Any
    ) -> service.SealStreamsResponse:
        """Ends the streams of a controller below."""
        return await trust.seal_streams(self._replica, request, caller_of(context))

    async def GrantKey(  # noqa: N802
        self, request: service.GrantKeyRequest, context: Any
    ) -> service.GrantKeyResponse:
        """Grants a controller below a signing key."""
        return await trust.grant_key(self._replica, request, caller_of(context))

    async def ListHeldRuns(  # noqa: N802
        self, request: service.ListHeldRunsRequest, context: Any
    ) -> service.ListHeldRunsResponse:
        """What is held here without effect."""
        return held.list_held(self._replica.state, request)

    async def DecideHeldRun(  # noqa: N802
        self, request: service.DecideHeldRunRequest, context: Any
    ) -> service.DecideHeldRunResponse:
        """Decides what becomes of events that are held."""
        return await held.decide_held_run(self._replica, request, caller_of(context))


def _sync_timeout_s(request: service.SyncNowRequest) -> float:
    if not request.HasField("timeout"):
        return DEFAULT_SYNC_TIMEOUT_S
    timeout_s = request.timeout.seconds + request.timeout.nanos / 1e9
    if timeout_s <= 0:
        raise InvalidWrite(
            "timeout must be longer than nothing; leave it out for 60 s", field="timeout"
        )
    return min(timeout_s, MAX_SYNC_TIMEOUT_S)


def _sync_step(view: PeerView) -> service.SyncNowResponse:
    return service.SyncNowResponse(
        state=views.peer_state(view), debt=views.peer_debt(view, _now_ms())
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
