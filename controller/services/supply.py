"""SupplyService: where what runs on nodes comes from. Owns the writes of supply policies, and the way from each other
method to the module that does it.
"""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from controller.judge import Judge
from controller.replica import Replica
from controller.sboms.live import LiveSboms
from controller.services import supply_artifacts, supply_queries
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_id
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import POLICIES, check_autonomy, check_etag
from controller.services.supply_artifacts import SERVICE, ArtifactWrites, SbomUploads
from controller.services.supply_fields import artifact_in_name, check_supply_policy
from controller.supply.artifact import compose_policy, policy_etag, policy_name
from controller.values import ValueStore
from controller.writes import Draft, Forwarded, WriteCall
from federation.errors import InvalidWrite
from souverix.supply.v1 import artifact_pb2 as artifacts
from souverix.supply.v1 import supply_service_pb2 as supply
from souverix.supply.v1 import supply_service_pb2_grpc


class SupplyService(supply_service_pb2_grpc.SupplyServiceServicer):
    """The service of one replica. `values` holds SBOMs."""

    def __init__(
        self, replica: Replica, values: ValueStore, judge: Judge, sboms: LiveSboms
    ) -> None:
        self._replica = replica
        self._sboms = sboms
        self._artifacts = ArtifactWrites(replica, judge)
        self._uploads = SbomUploads(values)

    async def CreateArtifact(self, request: Any, context: Any) -> supply.CreateArtifactResponse:
        """Declares an artifact."""
        return await self._artifacts.create(request, context)

    async def AttachEnvelope(self, request: Any, context: Any) -> supply.AttachEnvelopeResponse:
        """Adds a signed envelope to an artifact."""
        return await self._artifacts.attach(request, context)

    async def DeleteArtifact(self, request: Any, context: Any) -> supply.DeleteArtifactResponse:
        """Deletes an artifact."""
        return await self._artifacts.delete(request, context)

    async def GetArtifact(self, request: Any, context: Any) -> supply.GetArtifactResponse:
        """Reads one artifact."""
        at = artifact_in_name(request.name)
        return supply.GetArtifactResponse(
            artifact=supply_artifacts.required_artifact(self._replica.state, *at)
        )

    async def ListArtifacts(self, request: Any, context: Any) -> supply.ListArtifactsResponse:
        """Lists artifacts, ordered by name."""
        return supply_artifacts.list_artifacts(self._replica, request)

    async def WatchArtifacts(
        self, request: Any, context: Any
    ) -> AsyncIterator[supply.WatchArtifactsResponse]:
        """Follows artifacts."""
        async for reply in supply_artifacts.watch_artifacts(self._replica, request):
            yield reply

    async def VerifyArtifact(self, request: Any, context: Any) -> supply.VerifyArtifactResponse:
        """Judges an artifact now."""
        return await self._artifacts.verify(request)

    async def UploadSbom(self, requests: Any, context: Any) -> supply.UploadSbomResponse:
        """Takes in an SBOM."""
        return await self._uploads.take(requests)

    async def FindAffectedNodes(
        self, request: Any, context: Any
    ) -> supply.FindAffectedNodesResponse:
        """Finds the nodes that run a component."""
        return await supply_queries.find_affected(self._replica, self._sboms, request)

    async def ListUnverifiedNodes(
        self, request: Any, context: Any
    ) -> supply.ListUnverifiedNodesResponse:
        """Lists the nodes that run what is not verified."""
        return await supply_queries.list_unverified(self._replica, self._sboms, request)

    async def GetSbomLineage(self, request: Any, context: Any) -> supply.GetSbomLineageResponse:
        """Returns the SBOMs a node had."""
        return await supply_queries.sbom_lineage(self._replica, self._sboms, request)

    async def FindHardware(self, request: Any, context: Any) -> supply.FindHardwareResponse:
        """Finds registered hardware."""
        return supply_queries.find_hardware(self._replica, request)

    async def SetSupplyPolicy(self, request: Any, context: Any) -> supply.SetSupplyPolicyResponse:
        """Replaces a domain's supply policy."""
        domain = check_id(request.domain, "domain")
        if not request.HasField("spec"):
            raise InvalidWrite("spec is required: it is the policy's whole value", field="spec")
        check_supply_policy(request.spec)
        subject = f"domains/{domain}"
        previews: list[artifacts.SupplyPolicy] = []

        def decide(draft: Draft) -> None:
            check_autonomy(draft, POLICIES)
            check_domain(draft.proposal, domain)
            check_etag(request.etag, policy_etag(draft.proposal, domain), policy_name(domain))
            draft.write(domain, subject, "supply_policy", request.spec)
            if request.validate_only:
                previews.append(compose_policy(draft.proposal, domain))

        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller_of(context),
                method=f"{SERVICE}SetSupplyPolicy",
                request=request,
                domain=domain,
                resource=policy_name(domain),
                permission=POLICIES[0],
                decide=decide,
                request_id=request.request_id,
                validate_only=request.validate_only,
                durable_at=request.durable_at,
                subject=subject,
            )
        )
        if isinstance(result, Forwarded):
            return supply.SetSupplyPolicyResponse.FromString(result.response)
        if previews:
            return supply.SetSupplyPolicyResponse(policy=previews[0])
        return supply.SetSupplyPolicyResponse(
            policy=compose_policy(self._replica.state, domain), receipt=result.receipt
        )

    async def GetSupplyPolicy(self, request: Any, context: Any) -> supply.GetSupplyPolicyResponse:
        """Reads a domain's supply policy."""
        domain = check_id(request.domain, "domain")
        check_domain(self._replica.state, domain)
        return supply.GetSupplyPolicyResponse(policy=compose_policy(self._replica.state, domain))
