"""FleetService: nodes and domains. Owns nothing but the way from each method to the module that does it."""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from controller.replica import Replica
from controller.services import (
    fleet_events,
    fleet_explanations,
    fleet_histories,
    fleet_observations,
    fleet_overviews,
    fleet_past,
    fleet_queries,
    fleet_reads,
    fleet_watches,
)
from controller.services.fleet_batches import NodeBatches
from controller.services.fleet_domains import DomainWrites
from controller.services.fleet_drift import WaiverWrites
from controller.services.fleet_lifecycle import LifecycleWrites
from controller.services.fleet_nodes import NodeWrites
from controller.values import ValueStore
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import fleet_service_pb2_grpc


class FleetService(fleet_service_pb2_grpc.FleetServiceServicer):
    """The service of one replica. `values` holds the large values that nodes reported."""

    def __init__(self, replica: Replica, values: ValueStore) -> None:
        self._replica = replica
        self._values = values
        self._nodes = NodeWrites(replica)
        self._waivers = WaiverWrites(replica, self._nodes)
        self._batches = NodeBatches(replica)
        self._lifecycle = LifecycleWrites(replica, self._nodes)
        self._domains = DomainWrites(replica)

    async def CreateNode(self, request: Any, context: Any) -> fleet.CreateNodeResponse:
        """Registers a node."""
        return await self._nodes.create(request, context)

    async def BatchCreateNodes(self, request: Any, context: Any) -> fleet.BatchCreateNodesResponse:
        """Registers many nodes."""
        return await self._batches.create(request, context)

    async def GetNode(self, request: Any, context: Any) -> fleet.GetNodeResponse:
        """Returns one node."""
        if request.HasField("as_of_time"):
            return await fleet_past.get_node_as_of(self._replica, request)
        return await fleet_reads.get_node(self._replica, request)

    async def ListNodes(self, request: Any, context: Any) -> fleet.ListNodesResponse:
        """Returns a page of nodes."""
        if request.HasField("as_of_time"):
            return await fleet_past.list_nodes_as_of(self._replica, request)
        return await fleet_queries.list_nodes(self._replica, request)

    async def UpdateNode(self, request: Any, context: Any) -> fleet.UpdateNodeResponse:
        """Changes a node's declared description."""
        return await self._nodes.update(request, context)

    async def DeleteNode(self, request: Any, context: Any) -> fleet.DeleteNodeResponse:
        """Deletes a node."""
        return await self._nodes.delete(request, context)

    async def MoveNode(self, request: Any, context: Any) -> fleet.MoveNodeResponse:
        """Moves a node to another domain."""
        return await self._nodes.move(request, context)

    async def SetDesiredState(self, request: Any, context: Any) -> fleet.SetDesiredStateResponse:
        """Declares what one node should be."""
        return await self._nodes.set_desired_state(request, context)

    async def BatchSetDesiredStates(
        self, request: Any, context: Any
    ) -> fleet.BatchSetDesiredStatesResponse:
        """Declares what many nodes should be."""
        return await self._batches.set_desired_states(request, context)

    async def WatchNodes(
        self, request: Any, context: Any
    ) -> AsyncIterator[fleet.WatchNodesResponse]:
        """Follows the nodes of a domain."""
        async for reply in fleet_watches.watch_nodes(self._replica, request):
            yield reply

    async def WaiveDrift(self, request: Any, context: Any) -> fleet.WaiveDriftResponse:
        """Accepts one drift of a node."""
        return await self._waivers.waive(request, context)

    async def RevokeDriftWaiver(
        self, request: Any, context: Any
    ) -> fleet.RevokeDriftWaiverResponse:
        """Takes a waiver back."""
        return await self._waivers.revoke(request, context)

    async def ListDomainDrifts(self, request: Any, context: Any) -> fleet.ListDomainDriftsResponse:
        """Returns a page of domains with their drift."""
        return await fleet_overviews.list_domain_drifts(self._replica, request)

    async def ListDomainOverviews(
        self, request: Any, context: Any
    ) -> fleet.ListDomainOverviewsResponse:
        """Returns a page of overviews."""
        if request.HasField("as_of_time"):
            return await fleet_overviews.list_overviews_as_of(self._replica, request)
        return await fleet_overviews.list_overviews(self._replica, request)

    async def WatchDomainOverviews(
        self, request: Any, context: Any
    ) -> AsyncIterator[fleet.WatchDomainOverviewsResponse]:
        """Follows overviews."""
        async for reply in fleet_overviews.watch_overviews(self._replica, request):
            yield reply

    async def TransitionNode(self, request: Any, context: Any) -> fleet.TransitionNodeResponse:
        """Moves a node on in its life."""
        return await self._lifecycle.transition(request, context)

    async def ResetAgentKey(self, request: Any, context: Any) -> fleet.ResetAgentKeyResponse:
        """Gives up the key of a node's agent."""
        return await self._lifecycle.reset_key(request, context)

    async def ListLifecycleHistory(
        self, request: Any, context: Any
    ) -> fleet.ListLifecycleHistoryResponse:
        """Returns a node's lifecycle timeline."""
        return fleet_histories.lifecycle_history(self._replica, request)

    async def ListConnectivityHistory(
        self, request: Any, context: Any
    ) -> fleet.ListConnectivityHistoryResponse:
        """Returns a node's connectivity ledger."""
        return fleet_histories.connectivity_history(self._replica, request)

    async def ListNodeEvents(self, request: Any, context: Any) -> fleet.ListNodeEventsResponse:
        """Returns a page of the events behind a node."""
        return await fleet_events.list_node_events(self._replica, request)

    async def ExplainNode(self, request: Any, context: Any) -> fleet.ExplainNodeResponse:
        """Returns the events behind one field of a node."""
        return fleet_explanations.explain_node(self._replica, request)

    async def ListObservations(self, request: Any, context: Any) -> fleet.ListObservationsResponse:
        """Returns a node's newest observations."""
        return fleet_observations.list_observations(self._replica, request)

    async def DownloadLargeValue(
        self, request: Any, context: Any
    ) -> AsyncIterator[fleet.DownloadLargeValueResponse]:
        """Returns a large value in pieces."""
        pieces = fleet_observations.download_large_value(self._replica, self._values, request)
        async for piece in pieces:
            yield piece

    async def CreateDomain(self, request: Any, context: Any) -> fleet.CreateDomainResponse:
        """Creates a domain."""
        return await self._domains.create(request, context)

    async def GetDomain(self, request: Any, context: Any) -> fleet.GetDomainResponse:
        """Returns one domain."""
        return await fleet_reads.get_domain(self._replica, request)

    async def ListDomains(self, request: Any, context: Any) -> fleet.ListDomainsResponse:
        """Returns a page of domains."""
        return await fleet_reads.list_domains(self._replica, request)

    async def UpdateDomain(self, request: Any, context: Any) -> fleet.UpdateDomainResponse:
        """Changes a domain's declared description."""
        return await self._domains.update(request, context)

    async def DeleteDomain(self, request: Any, context: Any) -> fleet.DeleteDomainResponse:
        """Deletes a domain."""
        return await self._domains.delete(request, context)

    async def WatchDomains(
        self, request: Any, context: Any
    ) -> AsyncIterator[fleet.WatchDomainsResponse]:
        """Follows domains."""
        async for reply in fleet_watches.watch_domains(self._replica, request):
            yield reply
