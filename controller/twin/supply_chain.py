"""The supply chain of a node as one view: the hardware as registered, and the SBOMs its host had. Owns the composition;
judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from federation.codec import Write
from souverix.fleet.v1 import node_pb2
from souverix.supply.v1 import sbom_pb2


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
