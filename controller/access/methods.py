"""The one table of what may be called: from each method to the least role and to where the role must be held. Owns the
table; what the places mean is `controller.access.places`'s. What is not in it is denied.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from controller.access.places import Place
from controller.access.roles import Machine, Role


class Rule(NamedTuple):
    """What a method asks of its caller."""

    role: Role
    place: Place


_ATTENTION = "/souverix.attention.v1.AttentionService/"
_AUDIT = "/souverix.audit.v1.AuditService/"
_BUNDLE = "/souverix.bundle.v1.BundleService/"
_COMMAND = "/souverix.command.v1.CommandService/"
_FEDERATION = "/souverix.federation.v1.FederationService/"
_FLEET = "/souverix.fleet.v1.FleetService/"
_GRAPH = "/souverix.graph.v1.GraphService/"
_POLICY = "/souverix.policy.v1.PolicyService/"
_REPLAY = "/souverix.nodelink.v1.ReplayService/"
_SUPPLY = "/souverix.supply.v1.SupplyService/"
_ACCESS = "/souverix.trust.v1.AccessService/"
_ATTESTATION = "/souverix.trust.v1.AttestationService/"
_ENROLMENT = "/souverix.trust.v1.EnrolmentService/"
_REVOCATION = "/souverix.trust.v1.RevocationService/"

METHODS: Final[dict[str, Rule]] = {
    _ATTENTION + "ListItems": Rule(Role.VIEWER, Place.LISTED),
    _ATTENTION + "WatchItems": Rule(Role.VIEWER, Place.LISTED),
    # What an item is about is known when it is found: the queue is the controller's.
    _ATTENTION + "GetItem": Rule(Role.VIEWER, Place.OWN),
    # A mark is a write, and held to the domain of its item where it is made.
    _ATTENTION + "AcknowledgeItem": Rule(Role.OPERATOR, Place.ANYWHERE),
    _ATTENTION + "SnoozeItem": Rule(Role.OPERATOR, Place.ANYWHERE),
    _ATTENTION + "ReopenItem": Rule(Role.OPERATOR, Place.ANYWHERE),
    _AUDIT + "ListAuditEntries": Rule(Role.OPERATOR, Place.LISTED),
    _AUDIT + "WatchAuditEntries": Rule(Role.OPERATOR, Place.LISTED),
    _AUDIT + "VerifyAudit": Rule(Role.OPERATOR, Place.LISTED),
    # A bundle is a session of the controller with another, by file.
    _BUNDLE + "ExportBundle": Rule(Role.OPERATOR, Place.OWN),
    _BUNDLE + "ImportBundle": Rule(Role.OPERATOR, Place.OWN),
    _BUNDLE + "ListBundlePeers": Rule(Role.VIEWER, Place.OWN),
    _COMMAND + "IssueCommand": Rule(Role.OPERATOR, Place.TARGETS),
    _COMMAND + "CancelCommand": Rule(Role.OPERATOR, Place.NAME),
    _COMMAND + "GetCommand": Rule(Role.VIEWER, Place.NAME),
    _COMMAND + "ListCommands": Rule(Role.VIEWER, Place.LISTED),
    _COMMAND + "WatchCommand": Rule(Role.VIEWER, Place.NAME),
    _FEDERATION + "GetTopology": Rule(Role.VIEWER, Place.ANYWHERE),
    _FEDERATION + "GetAuthority": Rule(Role.VIEWER, Place.DOMAIN),
    _FEDERATION + "TransferAuthority": Rule(Role.DOMAIN_ADMIN, Place.PARENT_OF_DOMAIN),
    _FEDERATION + "ListPeers": Rule(Role.VIEWER, Place.OWN),
    _FEDERATION + "GetStatus": Rule(Role.VIEWER, Place.ANYWHERE),
    _FEDERATION + "SyncNow": Rule(Role.OPERATOR, Place.OWN),
    _FEDERATION + "ListStreams": Rule(Role.VIEWER, Place.LISTED),
    # Whom a key is of is known when it is looked up: these writes are held to the domain above where they are made.
    _FEDERATION + "SealStreams": Rule(Role.DOMAIN_ADMIN, Place.ANYWHERE),
    _FEDERATION + "GrantKey": Rule(Role.DOMAIN_ADMIN, Place.ANYWHERE),
    _FEDERATION + "DecideHeldRun": Rule(Role.DOMAIN_ADMIN, Place.ANYWHERE),
    _FEDERATION + "RotateSigningKey": Rule(Role.DOMAIN_ADMIN, Place.OWN),
    _FEDERATION + "ListHeldRuns": Rule(Role.VIEWER, Place.LISTED),
    _FEDERATION + "ListConflicts": Rule(Role.VIEWER, Place.LISTED),
    _FEDERATION + "GetConflict": Rule(Role.VIEWER, Place.NAME),
    _FEDERATION + "WatchConflicts": Rule(Role.VIEWER, Place.LISTED),
    _FEDERATION + "RestoreConflictValue": Rule(Role.OPERATOR, Place.NAME),
    _FLEET + "CreateNode": Rule(Role.OPERATOR, Place.DOMAIN),
    _FLEET + "BatchCreateNodes": Rule(Role.OPERATOR, Place.ITEMS),
    _FLEET + "GetNode": Rule(Role.VIEWER, Place.NAME),
    _FLEET + "ListNodes": Rule(Role.VIEWER, Place.LISTED_HERE),
    _FLEET + "UpdateNode": Rule(Role.OPERATOR, Place.NAME),
    _FLEET + "DeleteNode": Rule(Role.OPERATOR, Place.NAME),
    _FLEET + "MoveNode": Rule(Role.OPERATOR, Place.NAME_AND_DOMAIN),
    _FLEET + "SetDesiredState": Rule(Role.OPERATOR, Place.NAME),
    _FLEET + "BatchSetDesiredStates": Rule(Role.OPERATOR, Place.ITEMS),
    _FLEET + "WatchNodes": Rule(Role.VIEWER, Place.LISTED_HERE),
    _FLEET + "WaiveDrift": Rule(Role.OPERATOR, Place.NAME),
    _FLEET + "RevokeDriftWaiver": Rule(Role.OPERATOR, Place.NAME),
    _FLEET + "ListDomainDrifts": Rule(Role.VIEWER, Place.LISTED),
    _FLEET + "ListDomainOverviews": Rule(Role.VIEWER, Place.LISTED),
    _FLEET + "WatchDomainOverviews": Rule(Role.VIEWER, Place.LISTED),
    _FLEET + "TransitionNode": Rule(Role.OPERATOR, Place.NAME),
    _FLEET + "ResetAgentKey": Rule(Role.DOMAIN_ADMIN, Place.NAME),
    _FLEET + "ListLifecycleHistory": Rule(Role.VIEWER, Place.NAME),
    _FLEET + "ListConnectivityHistory": Rule(Role.VIEWER, Place.NAME),
    _FLEET + "ListNodeEvents": Rule(Role.VIEWER, Place.NAME),
    _FLEET + "ExplainNode": Rule(Role.VIEWER, Place.NAME),
    _FLEET + "ListObservations": Rule(Role.VIEWER, Place.NODE),
    # A value is asked for by the digest of its bytes, which only who may read its node learns.
    _FLEET + "DownloadLargeValue": Rule(Role.VIEWER, Place.ANYWHERE),
    _FLEET + "CreateDomain": Rule(Role.DOMAIN_ADMIN, Place.PARENT_IN_SPEC),
    _FLEET + "GetDomain": Rule(Role.VIEWER, Place.NAME),
    _FLEET + "ListDomains": Rule(Role.VIEWER, Place.LISTED),
    _FLEET + "UpdateDomain": Rule(Role.DOMAIN_ADMIN, Place.NAME),
    _FLEET + "DeleteDomain": Rule(Role.DOMAIN_ADMIN, Place.PARENT_OF_NAME),
    _FLEET + "WatchDomains": Rule(Role.VIEWER, Place.LISTED),
    _GRAPH + "CreateRelationship": Rule(Role.OPERATOR, Place.DOMAIN),
    _GRAPH + "UpdateRelationship": Rule(Role.OPERATOR, Place.NAME),
    _GRAPH + "DeleteRelationship": Rule(Role.OPERATOR, Place.NAME),
    _GRAPH + "GetRelationship": Rule(Role.VIEWER, Place.NAME),
    _GRAPH + "ListRelationships": Rule(Role.VIEWER, Place.LISTED),
    _GRAPH + "WatchRelationships": Rule(Role.VIEWER, Place.LISTED),
    # Edges lead from domain to domain: the graph is shown whole, as its controller knows it, or not at all.
    _GRAPH + "GetGraph": Rule(Role.VIEWER, Place.OWN),
    _GRAPH + "WatchGraph": Rule(Role.VIEWER, Place.OWN),
    _GRAPH + "GetImpact": Rule(Role.VIEWER, Place.OWN),
    _GRAPH + "FindPaths": Rule(Role.VIEWER, Place.OWN),
    _POLICY + "CreatePolicy": Rule(Role.DOMAIN_ADMIN, Place.DOMAIN),
    _POLICY + "UpdatePolicy": Rule(Role.DOMAIN_ADMIN, Place.NAME),
    _POLICY + "DeletePolicy": Rule(Role.DOMAIN_ADMIN, Place.NAME),
    _POLICY + "GetPolicy": Rule(Role.VIEWER, Place.NAME),
    _POLICY + "ListPolicies": Rule(Role.VIEWER, Place.LISTED),
    _POLICY + "WatchPolicies": Rule(Role.VIEWER, Place.LISTED),
    _REPLAY + "ListReplays": Rule(Role.VIEWER, Place.LISTED),
    _REPLAY + "WatchReplays": Rule(Role.VIEWER, Place.LISTED),
    _SUPPLY + "CreateArtifact": Rule(Role.OPERATOR, Place.DOMAIN),
    _SUPPLY + "AttachEnvelope": Rule(Role.OPERATOR, Place.NAME),
    _SUPPLY + "DeleteArtifact": Rule(Role.OPERATOR, Place.NAME),
    _SUPPLY + "GetArtifact": Rule(Role.VIEWER, Place.NAME),
    _SUPPLY + "ListArtifacts": Rule(Role.VIEWER, Place.LISTED),
    _SUPPLY + "WatchArtifacts": Rule(Role.VIEWER, Place.LISTED),
    _SUPPLY + "VerifyArtifact": Rule(Role.VIEWER, Place.NAME),
    # A document is kept by its digest; an artifact that names it is another write.
    _SUPPLY + "UploadSbom": Rule(Role.OPERATOR, Place.ANYWHERE),
    _SUPPLY + "SetSupplyPolicy": Rule(Role.DOMAIN_ADMIN, Place.DOMAIN),
    _SUPPLY + "GetSupplyPolicy": Rule(Role.VIEWER, Place.DOMAIN),
    _SUPPLY + "FindAffectedNodes": Rule(Role.VIEWER, Place.LISTED_HERE),
    _SUPPLY + "ListUnverifiedNodes": Rule(Role.VIEWER, Place.LISTED_HERE),
    _SUPPLY + "GetSbomLineage": Rule(Role.VIEWER, Place.NODE),
    _SUPPLY + "FindHardware": Rule(Role.VIEWER, Place.LISTED),
    # Nobody gives a role above its own there: AccessService sees to it.
    _ACCESS + "CreateRoleBinding": Rule(Role.DOMAIN_ADMIN, Place.DOMAIN),
    _ACCESS + "DeleteRoleBinding": Rule(Role.DOMAIN_ADMIN, Place.NAME),
    _ACCESS + "GetRoleBinding": Rule(Role.VIEWER, Place.NAME),
    _ACCESS + "ListRoleBindings": Rule(Role.VIEWER, Place.LISTED),
    # Who could change a node and accept the change would be attested by nobody but himself.
    _ATTESTATION + "SetAttestationPolicy": Rule(Role.DOMAIN_ADMIN, Place.DOMAIN),
    _ATTESTATION + "AcceptMeasurements": Rule(Role.DOMAIN_ADMIN, Place.NAME),
    _ATTESTATION + "AttestNode": Rule(Role.OPERATOR, Place.NAME),
    _ATTESTATION + "GetAttestationPolicy": Rule(Role.VIEWER, Place.DOMAIN),
    _ATTESTATION + "GetAttestation": Rule(Role.VIEWER, Place.NAME),
    _ATTESTATION + "ListAttestationHistory": Rule(Role.VIEWER, Place.NAME),
    # Both tell of the caller alone, unless AccessService finds that it may ask about others.
    _ACCESS + "CheckAccess": Rule(Role.ANYBODY, Place.ANYWHERE),
    _ACCESS + "WhoAmI": Rule(Role.ANYBODY, Place.ANYWHERE),
    # Who lets machines in decides who the domain's members are, as with keys of agents.
    _ENROLMENT + "CreateEnrolmentToken": Rule(Role.DOMAIN_ADMIN, Place.DOMAIN),
    _ENROLMENT + "RevokeEnrolmentToken": Rule(Role.DOMAIN_ADMIN, Place.NAME),
    _ENROLMENT + "ListEnrolmentTokens": Rule(Role.OPERATOR, Place.LISTED),
    _ENROLMENT + "GetEnrolment": Rule(Role.VIEWER, Place.NAME),
    _ENROLMENT + "ListEnrolments": Rule(Role.VIEWER, Place.LISTED),
    _ENROLMENT + "ApproveEnrolment": Rule(Role.DOMAIN_ADMIN, Place.NAME),
    _ENROLMENT + "RejectEnrolment": Rule(Role.DOMAIN_ADMIN, Place.NAME),
    _REVOCATION + "RevokeCertificate": Rule(Role.DOMAIN_ADMIN, Place.DOMAIN),
    _REVOCATION + "GetRevocation": Rule(Role.VIEWER, Place.NAME),
    _REVOCATION + "ListRevocations": Rule(Role.VIEWER, Place.LISTED),
}

#: Streams of machines, by the kinds of certificates that may open them. Who exactly it is, is the service's to check.
MACHINE_METHODS: Final[dict[str, frozenset[Machine]]] = {
    "/souverix.sync.v1.SyncService/Connect": frozenset({Machine.CONTROLLER}),
    "/souverix.nodelink.v1.NodeLinkService/Connect": frozenset({Machine.NODE, Machine.RELAY}),
    "/souverix.nodelink.v1.RelayLinkService/Connect": frozenset({Machine.RELAY}),
    "/souverix.trust.v1.RenewalService/RenewCertificate": frozenset({Machine.NODE, Machine.RELAY}),
}

_JOIN = "/souverix.trust.v1.JoinService/"

#: Of newcomers, who have no certificate: served on the enrolment listener, and nowhere else.
NEWCOMER_METHODS: Final = frozenset(
    _JOIN + name for name in ("GetTrustAnchors", "Enrol", "BeginRecovery", "RecoverCertificate")
)

#: Services of gRPC itself that tell nothing of the federation.
OPEN_SERVICES: Final = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)
