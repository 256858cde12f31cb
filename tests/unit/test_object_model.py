"""docs/object-model.md tells the truth: what it names exists, and no field of a seed is missing."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FileDescriptor

from souverix.event.v1.event_pb2 import Event

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "object-model.md"

# Every field of the models in the five seeds: message, then its fields. Of the JSON and YAML models
# these are the leaves; of the prose, figures and code sketches, the names they give.
SEED_FIELDS: dict[int, dict[str, str]] = {
    0: {
        "DigitalTwin": """
            identity.immutable_id identity.trust_chain identity.supply_chain_metadata
            connectivity.state connectivity.last_sync connectivity.sync_debt
            connectivity.message_backlog lifecycle.hardware.serial
            lifecycle.hardware.manufacturing_origin lifecycle.hardware.firmware_signature
            lifecycle.hardware.firmware_version lifecycle.software.desired_version
            lifecycle.software.actual_version lifecycle.software.drift_score
            lifecycle.software.sbom_hash policy.desired_state policy.actual_state policy.drift
            policy.stale_by
        """,
        "ClusterState": """
            desired.version desired.config_hash desired.policy_version actual.version
            actual.config_hash actual.policy_version drift.objects drift.severity
            drift.last_sync drift.stale_by
        """,
        "NodeLifecycle": """
            hardware.serial hardware.manufacturing_origin hardware.batch_id
            hardware.firmware.version hardware.firmware.signature hardware.firmware.provenance
            software.os_image.provenance software.os_image.sbom software.container.image
            software.container.sbom_hash software.container.signature runtime.integrity_state
            runtime.trust_chain runtime.last_attestation
        """,
        "Abstractions": """
            Identity State ConnectivitySpectrum DesiredVsActual Drift TrustChain LifecyclePhase
            SyncDebt RegionAuthority ReplayState
        """,
    },
    1: {
        "Node": """
            id name kind tags domain_id authority.master_of_record authority.controller_ids
            authority.last_authoritative_update_ts connectivity.mode connectivity.last_seen_ts
            connectivity.link_quality.rtt_ms connectivity.link_quality.loss_pct
            connectivity.link_quality.bandwidth_kbps connectivity.sync_debt.seconds_behind
            connectivity.sync_debt.backlog_messages connectivity.sync_debt.replay_required
            desired_state.policy_bundle_id desired_state.target_version
            desired_state.constraints.maintenance_window
            desired_state.constraints.requires_online desired_state.constraints.min_battery_pct
            actual_state.reported_version actual_state.runtime.health
            actual_state.runtime.last_heartbeat_ts actual_state.runtime.uptime_s
            actual_state.inventory.cpu actual_state.inventory.ram_gb
            actual_state.inventory.storage_gb actual_state.inventory.gpus drift.score
            drift.objects_out_of_spec drift.details_ref drift.last_evaluated_ts
            supply_chain.hardware.serial supply_chain.hardware.manufacturer
            supply_chain.hardware.model supply_chain.hardware.bom_ref
            supply_chain.firmware.version supply_chain.firmware.signature
            supply_chain.firmware.provenance_ref supply_chain.software.artifact_id
            supply_chain.software.sbom_ref supply_chain.software.attestations
            supply_chain.software.signature lifecycle.phase lifecycle.state
            lifecycle.last_transition_ts lifecycle.reason observations.last_snapshot_ref
            observations.last_event_ref
        """,
        "Objects": """
            Node Relay Domain PolicyBundle.config PolicyBundle.version PolicyBundle.constraints
            Observation Command.intent Command.delivery_semantics Command.idempotency_key
            Artifact.payload Artifact.sbom Artifact.provenance Timeline
        """,
        "Relations": """
            Domain_contains_Node Domain_contains_Relay PolicyBundle_applies_desired_Node
            Artifact_installs_Node Node_emits_Observation Node_SupplyChain Node_Drift
            Relay_transports_Observation Relay_transports_Command Controller_issues_Command
            Command_applies_Node
        """,
        "Query": """
            domain_id tags policy_bundle_id time_window
        """,
        "Attention": """
            drift_score sync_debt authority_mismatch health_degradation supply_chain_violation
        """,
    },
    2: {
        "HardwareLifecycle": """
            serial manufacturing.origin manufacturing.batch_id manufacturing.date
            manufacturing.qc_signature firmware.baseline firmware.current
            firmware.signature_chain firmware.update_history attestation.initial
            attestation.last_verified attestation.trust_chain
        """,
        "SoftwareLifecycle": """
            os_image.version os_image.provenance os_image.sbom container.image container.digest
            container.signature container.sbom_hash configuration.desired configuration.actual
            configuration.drift configuration.last_applied
        """,
        "DriftAnalysis": """
            node version_drift.component version_drift.desired version_drift.actual
            version_drift.severity config_drift.objects config_drift.last_sync
            config_drift.stale_by policy_drift.policy_version policy_drift.actual_version
            policy_drift.compliance_score
        """,
        "SyncDebt": """
            node last_sync current_time debt_hours backlog.messages backlog.config_updates
            backlog.policy_updates backlog.version_updates replay_eta estimated_duration
        """,
        "FederationSync": """
            region master upstream sync_status.last_sync sync_status.sync_frequency
            sync_status.sync_debt authority.local_autonomy authority.can_operate_isolated
            authority.syncs_opportunistically
        """,
    },
    3: {
        "DigitalTwin": """
            identity.immutable_id identity.component_type identity.region identity.zone
            identity.trust_chain connectivity.state connectivity.last_sync
            connectivity.sync_debt connectivity.message_backlog connectivity.latency_ms
            lifecycle.phase lifecycle.hardware.serial lifecycle.hardware.manufacturing_origin
            lifecycle.hardware.batch_id lifecycle.hardware.firmware_version
            lifecycle.hardware.firmware_signature lifecycle.software.desired_version
            lifecycle.software.actual_version lifecycle.software.drift_score
            lifecycle.software.sbom_hash lifecycle.software.image_provenance state.desired
            state.actual state.drift state.last_applied policy.desired_policy
            policy.actual_policy policy.compliance_score policy.stale_by trust.certificate_chain
            trust.attestation_state trust.last_attestation trust.sbom_lineage
            supply_chain.hardware_metadata supply_chain.software_provenance
            supply_chain.manufacturing_batch supply_chain.trust_chain
        """,
        "Event": """
            id timestamp node_id event_type payload.from payload.to payload.reason
        """,
        "EventTypes": """
            connectivity_state_change lifecycle_phase_change operational_state_change
            version_drift_detected configuration_drift_detected policy_drift_detected
            provisioning update maintenance decommissioning connection_established
            connection_lost sync_completed replay attestation_performed certificate_rotated
            sbom_updated trust_chain_validated
        """,
        "Graph": """
            Nodes Edges.from Edges.to Edges.type Clusters Zones TrustDomains
        """,
        "DriftAnalysis": """
            node timestamp version_drift.component version_drift.desired version_drift.actual
            version_drift.severity version_drift.impact config_drift.objects
            config_drift.last_sync config_drift.stale_by config_drift.details.field
            config_drift.details.desired config_drift.details.actual policy_drift.policy_version
            policy_drift.actual_version policy_drift.compliance_score policy_drift.violations
        """,
        "ConnectivityLedger": """
            node history.timestamp history.state history.latency_ms history.sync_interval
            history.reason history.backlog
        """,
        "TrustIndex": """
            node certificate_chain.issuer certificate_chain.subject
            certificate_chain.valid_until certificate_chain.signature sbom_lineage.component
            sbom_lineage.version sbom_lineage.sbom_hash sbom_lineage.provenance
            sbom_lineage.dependencies attestation.last_verified attestation.integrity_state
            attestation.trust_score
        """,
        "Projection": """
            name state lastEventID updateFunc
        """,
        "EventStore": """
            Append GetEvents GetLatestState
        """,
        "ProjectionEngine": """
            Subscribe
        """,
    },
    4: {
        "Authority": """
            level region master autonomy.can_operate_isolated autonomy.can_modify_policies
            autonomy.can_deploy_versions sync.upstream sync.frequency sync.mode sync.last_sync
        """,
        "SyncStrategy": """
            region upstream.target upstream.frequency upstream.mode upstream.batch_size
            downstream.targets downstream.frequency downstream.mode downstream.retry_policy
            conflict_resolution.strategy conflict_resolution.versioning
            conflict_resolution.audit_log
        """,
        "FederationModel": """
            Domain Master Authority Autonomy Sync
        """,
        "View": """
            Nodes Status Drift SyncDebt Authority
        """,
        "FederationManager": """
            globalMaster regions edgeZones syncCoord conflictRes
        """,
    },
}

ROW = re.compile(r"^\| `(?P<field>[^`]+)` \| (?P<targets>.*?) \| ?(?P<note>.*?) ?\|$")
REFERENCE = re.compile(r"`((?:\w+)\.v1\.[\w.]+)`")
ENUM_VALUE = re.compile(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`")


def files() -> list[FileDescriptor]:
    """Every file of the contract, as generated."""
    sources = sorted((ROOT / "proto" / "souverix").rglob("*.proto"))
    modules = [path.relative_to(ROOT / "proto").with_suffix("") for path in sources]
    return [import_module(".".join(module.parts) + "_pb2").DESCRIPTOR for module in modules]


def enum_values() -> set[str]:
    return {
        value.name
        for file in files()
        for enum in file.enum_types_by_name.values()
        for value in enum.values
    }


def exists(reference: str) -> bool:
    """Whether `fleet.v1.Node`, `fleet.v1.Node.spec.tags` or `fleet.v1.FleetService.GetNode` exists."""
    package, version, name, *path = reference.split(".")
    file = next(
        (
            file
            for file in files()
            if file.package == f"souverix.{package}.{version}"
            and (name in file.message_types_by_name or name in file.services_by_name)
        ),
        None,
    )
    if file is None:
        return False
    if name in file.services_by_name:
        methods = file.services_by_name[name].methods_by_name
        return len(path) == 1 and path[0] in methods
    message: Descriptor | None = file.message_types_by_name[name]
    for step in path:
        if message is None:
            return False
        if step in message.oneofs_by_name:
            message = None
        elif step in message.fields_by_name:
            message = message.fields_by_name[step].message_type
        else:
            return False
    return True


def rows(document: str, seed: int) -> list[re.Match[str]]:
    """The rows of the tables of one seed."""
    section = re.split(r"^## ", document, flags=re.MULTILINE)
    text = next(part for part in section if part.startswith(f"Seed {seed}: "))
    candidates = [line for line in text.splitlines() if line.startswith("| `")]
    matches = [ROW.match(line) for line in candidates]
    assert None not in matches, f"malformed row in seed {seed}"
    return [match for match in matches if match is not None]


@pytest.fixture(scope="module")
def document() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("seed", sorted(SEED_FIELDS))
def test_every_field_of_a_seed_has_exactly_one_row(document: str, seed: int) -> None:
    expected = [
        f"{model}.{field}"
        for model, fields in SEED_FIELDS[seed].items()
        for field in fields.split()
    ]
    assert sorted(row["field"] for row in rows(document, seed)) == sorted(expected)


@pytest.mark.parametrize("seed", sorted(SEED_FIELDS))
def test_a_row_names_a_field_or_says_why_there_is_none(document: str, seed: int) -> None:
    for row in rows(document, seed):
        assert REFERENCE.search(row["targets"]) or (row["targets"] == "—" and row["note"]), row[0]


def test_every_message_field_and_method_named_exists(document: str) -> None:
    references = set(REFERENCE.findall(document))
    assert references
    assert {reference for reference in references if not exists(reference)} == set()


def test_every_enum_value_named_exists(document: str) -> None:
    named = set(ENUM_VALUE.findall(document))
    assert named
    assert named - enum_values() == set()


def test_a_name_that_does_not_exist_is_noticed() -> None:
    assert exists("fleet.v1.Node.connectivity.link.mode")
    for invented in ("fleet.v1.Node.colour", "fleet.v1.Nodule", "fleet.v1.Node.id.length"):
        assert not exists(invented)
    assert not exists("fleet.v1.FleetService.PaintNode")
    assert not exists("weather.v1.Forecast")


def test_facts_of_the_first_table_are_event_bodies(document: str) -> None:
    event = Event.DESCRIPTOR.oneofs_by_name["body"]
    bodies = {field.message_type.full_name for field in event.fields if field.message_type}
    facts = re.findall(r"^\| `(fleet\.v1\.\w+)` \| a ", document, flags=re.MULTILINE)
    assert facts
    assert {f"souverix.{fact}" for fact in facts} <= bodies
