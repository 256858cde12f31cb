"""The supply chain of a node as one view: the hardware as registered, and the SBOMs its host had. Owns the composition;
judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.supply.certificates import chain_of
from controller.supply.gate import Gate
from federation.codec import Write
from souverix.fleet.v1 import node_pb2, supply_chain_pb2
from souverix.supply.v1 import sbom_pb2

#: Digits of a signature that are shown: enough to tell it from another, and not to be copied.
SIGNATURE_DIGITS = 32


def fill_supply_chain(node: node_pb2.Node, winners: Mapping[str, Write]) -> None:
    """Fills `supply_chain` and `trust.sbom_lineage` of a node whose declared and reported parts are there."""
    if node.spec.HasField("hardware"):
        node.supply_chain.hardware.CopyFrom(node.spec.hardware)
    written = winners.get("node_sbom")
    if written is None:
        return
    lineage: sbom_pb2.NodeSbom = written.body()
    for version in lineage.versions:
        node.trust.sbom_lineage.add(
            component=node.spec.component_type or node.id,
            version=version.software_version,
            sbom_hash=version.digest,
        )
    if lineage.versions:
        node.supply_chain.software.sbom_hash = lineage.versions[0].digest
        node.supply_chain.software.sbom_ref = f"cyclonedx:{lineage.versions[0].digest}"


def fill_artifacts(node: node_pb2.Node, gate: Gate) -> None:
    """Fills what is known of the artifacts that stand for the software and the firmware a node reports."""
    _fill_firmware(node, gate)
    _fill_software(node, gate)


def _fill_firmware(node: node_pb2.Node, gate: Gate) -> None:
    hardware, version = node.spec.hardware, node.inventory.firmware_version
    if not version and not hardware.firmware_baseline:
        return
    firmware = node.supply_chain.firmware
    firmware.version = version
    firmware.baseline_version = hardware.firmware_baseline
    held = gate.firmware(node.domain, version, hardware.model) if version else None
    if held is None:
        return
    name, spec, verdict = held
    signer = next((f.signer for f in verdict.findings if f.holds and f.signer), "")
    if spec.HasField("payload_signature"):
        firmware.signature = f"payload:{spec.payload_signature.signature.hex()[:SIGNATURE_DIGITS]}"
        firmware.signature_chain.extend(chain_of(spec.payload_signature.certificates))
    if signer:
        firmware.provenance = f"signed-by-{signer}"
        firmware.provenance_ref = name


def _fill_software(node: node_pb2.Node, gate: Gate) -> None:
    version = node.actual_state.reported_version
    if not version:
        return
    component = node.spec.component_type
    held = gate.artifact(node.domain, version, component)
    if held is None:
        return
    standing, spec, verdict = held
    software = node.supply_chain.software
    software.artifact = standing.artifact
    software.attestations.extend(
        f"{standing.artifact}/envelopes/{number}" for number in range(len(spec.envelopes))
    )
    signers = [f.signer for f in verdict.findings if f.holds and f.signer]
    if signers:
        software.signature = (
            f"{'payload' if spec.HasField('payload_signature') else 'dsse'}:{signers[0]}"
        )
    vouched = f"signed-by-{signers[0]}" if signers else ""
    if spec.kind == supply_chain_pb2.ARTIFACT_KIND_CONTAINER_IMAGE:
        software.container.digest = spec.digest
        software.container.image = spec.payload_uri
        software.container.sbom_hash = spec.sbom.digest
        software.container.signature = software.signature
        software.container.provenance = vouched
    elif spec.kind == supply_chain_pb2.ARTIFACT_KIND_OS_IMAGE:
        software.os_image.version = spec.version
        software.os_image.provenance = vouched
        if spec.sbom.digest:
            software.os_image.sbom_ref = f"cyclonedx:{spec.sbom.digest}"
    for entry in node.trust.sbom_lineage:
        if entry.version == version:
            entry.provenance = vouched
